"""A server's state in words and numbers, for pages and for the REST API. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.decide import ENDS
from gateway.lifecycle import ROUTED, Phase
from gateway.model import EndReason, Server
from gateway.timeline import Entry

#: How many of the last things that happened to a server its owner is shown.
STORY_LINES = 15

_PHASES: dict[Phase, tuple[int, str, str]] = {
    Phase.INTENT: (5, "Preparing", "Your job is being prepared."),
    Phase.SUBMITTING: (15, "Submitting", "Your job is being handed to the scheduler."),
    Phase.QUEUED: (
        35,
        "Waiting in the queue",
        "The scheduler has your job. It starts when there is room for it.",
    ),
    Phase.STARTING: (70, "Starting", "Your job runs. The application is starting."),
    Phase.READY: (100, "Ready", "Your server is ready."),
    Phase.UNREACHABLE: (
        100,
        "Not answering",
        "Your server does not answer at the moment. Your job goes on: wait until the gateway has it again.",
    ),
    Phase.STOPPING: (100, "Stopping", "Your server is being stopped."),
    Phase.ENDED: (100, "Ended", "Your server has ended."),
}

_ENDS: dict[EndReason, str] = {
    EndReason.STOPPED: "Stopped",
    EndReason.FINISHED: "Finished",
    EndReason.WALLTIME: "Time is up",
    EndReason.CANCELLED: "Cancelled",
    EndReason.OUT_OF_MEMORY: "Out of memory",
    EndReason.NODE_FAILED: "Node failed",
    EndReason.FAILED: "Failed",
    EndReason.REFUSED: "Not started",
    EndReason.PREEMPTED: "Preempted",
    EndReason.LOST: "Lost",
    EndReason.IDLE: "Idle",
}


@dataclass(frozen=True, slots=True)
class Words:
    """What is said of a server: a title of a few words, one to three sentences, and its log's last lines."""

    percent: int
    title: str
    sentence: str
    detail: str = ""


def is_open(server: Server | None) -> bool:
    """Return whether a browser may be let through to it."""
    return server is not None and server.wanted and server.phase in ROUTED


def is_over(server: Server | None) -> bool:
    """Return whether there is nothing to wait for or to stop."""
    return server is None or server.phase is Phase.ENDED


def seconds_left(server: Server, now: datetime) -> int | None:
    """Return how much of the walltime of a running job is left; None if it does not run, or nobody says."""
    if server.ends is None or is_over(server):
        return None
    return max(0, int((server.ends - now).total_seconds()))


def describe(server: Server) -> Words:
    """Return what to say of a server now."""
    phase = server.phase
    if not server.wanted and phase is not Phase.ENDED:
        phase = Phase.STOPPING
    percent, title, sentence = _PHASES[phase]
    if phase is Phase.ENDED and server.reason:
        title, sentence = _ENDS[server.reason], ENDS[server.reason]
    said, _, detail = server.message.strip().partition("\n")
    if said and phase is not Phase.STOPPING and server.reason is not EndReason.STOPPED:
        sentence = said
    return Words(percent, title, sentence, detail.strip("\n"))


def story(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Return the last things that happened to a server: the time in UTC, and a sentence."""
    told: list[tuple[str, str]] = []
    for entry in entries:
        sentence = entry.text.partition("\n")[0]
        if sentence and (not told or told[-1][1] != sentence):
            told.append((f"{entry.at:%H:%M:%S}", sentence))
    return told[-STORY_LINES:]


def label(server_name: str) -> str:
    """Return what a server is called on pages."""
    return server_name or "Default server"


def progress_event(server: Server, open_url: str) -> dict[str, Any]:
    """Return one event of the progress stream, in JupyterHub's format (REST API, ``…/server/progress``).

    Args:
        server: As it is now.
        open_url: Where a browser goes when it is ready.
    """
    words = describe(server)
    event: dict[str, Any] = {
        "progress": words.percent if is_open(server) else min(words.percent, 95),
        "message": words.sentence,
        "phase": server.phase.value,
        "title": words.title,
        "native_reason": server.native_reason,
        "starts": server.starts.isoformat() if server.starts else None,
        "ends": server.ends.isoformat() if server.ends else None,
    }
    if server.phase is Phase.READY and server.wanted:
        event |= {"ready": True, "url": open_url}
    elif server.phase is Phase.ENDED:
        event |= {"failed": True}
    return event
