"""What to do next with a server that has a job, from what the scheduler says of it. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from gateway.endpoint import parse
from gateway.lifecycle import Event, Phase
from gateway.model import Endpoint, EndReason, JobState, JobStatus, Server
from gateway.script import Exit, ExitWord

#: Successive good listings that must lack a job, or show it preempted, before it counts as gone.
LISTINGS_TO_BELIEVE = 2
#: Seconds that an application may take from its job's start until it says where it listens. One that has said
#: so and does not answer by then is not ended, for that may be the network's fault: its owner is told.
START_PATIENCE = 600.0


class Act(Enum):
    """What kind of thing comes next."""

    WAIT = auto()
    """Nothing, until there is news; ``changes`` may say something new about the waiting."""
    MOVE = auto()
    """One step along the lifecycle's table: ``event``, with ``changes``."""
    REACH = auto()
    """Write ``changes``, then open the way to host and port and ask for an answer."""
    ENDING = auto()
    """The job has ended: find out how, then move by ``Event.GONE``."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What comes next, and which fields of the server change with it."""

    act: Act
    event: Event | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the latest good listing says of a server's job.

    ``job`` is None when the job is not there; ``repeated`` counts the successive good listings that said the
    same (not there, or ended); ``why`` is a sentence on why a pending job waits.
    """

    job: JobStatus | None
    repeated: int = 1
    why: str = ""


def decide(server: Server, sighting: Sighting, *, ports: tuple[int, int], age: float) -> Decision:
    """Return what comes next for a server that has a job.

    Args:
        server: As the database holds it; its phase is one of ``lifecycle.WITH_JOB``.
        sighting: What the latest good listing says.
        ports: The site's range, first and last, in which applications listen.
        age: Seconds since the server's phase last changed.
    """
    job = sighting.job
    if job is None or job.state is JobState.PREEMPTED:
        return Decision(Act.ENDING if sighting.repeated >= LISTINGS_TO_BELIEVE else Act.WAIT)
    if job.state.ended:
        return Decision(Act.ENDING)
    if job.state in (JobState.UNKNOWN, JobState.STOPPING) or server.phase is Phase.STOPPING:
        return Decision(Act.WAIT)
    if job.state is JobState.CANNOT_START:
        changes: dict[str, Any] = {
            "reason": EndReason.REFUSED,
            "message": sighting.why,
            "native_reason": job.reason,
        }
        return Decision(Act.MOVE, Event.STOP, changes)
    if server.phase is Phase.QUEUED:
        return _while_queued(server, job, sighting.why)
    if not job.state.on_node or job.restarts != server.restarts:
        changes = {
            "restarts": job.restarts,
            "host": None,
            "port": None,
            "generation": server.generation + 1,  # the present forward leads to where the job was
            "message": sighting.why,
        }
        return Decision(Act.MOVE, Event.REQUEUED, changes)
    found = parse(job.comment, run=server.run, restarts=job.restarts, host=job.host, ports=ports)
    if found is not None:
        return Decision(Act.REACH, changes=_where(server, found))
    if server.phase is Phase.STARTING:
        return _not_listening(age)
    return Decision(Act.REACH)


def _while_queued(server: Server, job: JobStatus, why: str) -> Decision:
    if job.state.on_node:
        changes = {
            "host": job.host,
            "restarts": job.restarts,
            "message": f"Starting on {job.host}.",
            "starts": None,
            "native_reason": "",
        }
        return Decision(Act.MOVE, Event.STARTED, changes)
    news = {"message": why, "native_reason": job.reason, "starts": job.starts, "restarts": job.restarts}
    return Decision(Act.WAIT, changes={key: new for key, new in news.items() if getattr(server, key) != new})


def _where(server: Server, found: Endpoint) -> dict[str, Any]:
    if (server.host, server.port) == (found.host, found.port):
        return {}
    changes = {"host": found.host, "port": found.port}
    if server.port is not None:  # the present forward leads to where the application was, or never got
        changes["generation"] = server.generation + 1
    return changes


def _not_listening(age: float) -> Decision:
    if age > START_PATIENCE:
        minutes = f"{START_PATIENCE / 60:.0f} minutes"
        text = f"The application was not ready after {minutes}, so the gateway ended its job. {_LOG}"
        return Decision(Act.MOVE, Event.STOP, {"reason": EndReason.FAILED, "message": text})
    return Decision(Act.WAIT)


_LOG = "Its log says more: if that does not help you, show it to the cluster's administrators."

#: What is said of servers that have ended: what happened, what it means, what to do next.
ENDS: Mapping[EndReason, str] = {
    EndReason.STOPPED: "It was stopped on request. Your files are untouched: start it when you need it.",
    EndReason.FINISHED: "The application ended by itself, and its job with it. Start it when you need it.",
    EndReason.WALLTIME: "The walltime that you chose is over, so the scheduler ended the job. "
    "Start it again, with a longer walltime if you need more.",
    EndReason.CANCELLED: "The job was cancelled on the cluster, so the application has ended. "
    "If it was not you, ask the cluster's administrators why.",
    EndReason.FAILED: f"The job failed, and the application with it. {_LOG}",
    EndReason.REFUSED: "The cluster did not take the job, so nothing was started. "
    "Start again with other choices.",
    EndReason.PREEMPTED: "The scheduler took the node for a job of higher priority, so yours has ended. "
    "Start it again: it waits until there is room.",
    EndReason.LOST: "The job is no longer there, and the scheduler does not say why. Start it again; if that "
    "happens again, tell the cluster's administrators the job's number.",
}

_HOW = {
    JobState.COMPLETED: EndReason.FINISHED,
    JobState.CANCELLED: EndReason.CANCELLED,
    JobState.WALLTIME: EndReason.WALLTIME,
    JobState.PREEMPTED: EndReason.PREEMPTED,
    JobState.FAILED: EndReason.FAILED,
}

_WORDS = {
    ExitWord.FINISHED: (EndReason.FINISHED, ENDS[EndReason.FINISHED]),
    ExitWord.FAILED: (EndReason.FAILED, f"The application failed, so its job has ended. {_LOG}"),
    ExitWord.WALLTIME: (EndReason.WALLTIME, ENDS[EndReason.WALLTIME]),
    ExitWord.NO_PORT: (
        EndReason.FAILED,
        (
            "The compute node had no free port for the application, so it did not start. Start it again: "
            "it may get another node."
        ),
    ),
    ExitWord.SILENT: (EndReason.FAILED, f"The application did not get ready, so its job has ended. {_LOG}"),
    ExitWord.UNPUBLISHED: (
        EndReason.FAILED,
        (
            "The scheduler did not let the job say where it runs, so the gateway cannot reach it. "
            "Tell the gateway's administrators."
        ),
    ),
    ExitWord.NO_STATE: (
        EndReason.FAILED,
        (
            "The compute node does not see the gateway's files in your home, so nothing could be started. "
            "Tell the cluster's administrators the job's number."
        ),
    ),
}


def how_it_ended(
    server: Server, state: JobState | None, left: Exit | None, log_tail: str
) -> tuple[EndReason, str]:
    """Return why a server whose job is gone has ended, and a sentence on it.

    Args:
        server: As the database holds it; a reason that it already has is kept.
        state: The accounting's or the last listing's word on the job, None if neither knows.
        left: The job's own word, None if it left none.
        log_tail: The last lines of the job's log, shown where the job failed.
    """
    if server.reason is not None:
        return server.reason, _with_log(server.message, log_tail, server.reason)
    if not server.wanted:
        return EndReason.STOPPED, "Stopped."
    # A job that ended by itself knows best how: to the scheduler it has completed, or failed, all the same.
    by_itself = state in (None, JobState.COMPLETED, JobState.FAILED)
    if by_itself and left is not None and left.word in _WORDS:
        reason, text = _WORDS[left.word]
    elif state in _HOW:
        reason, text = _HOW[state], ENDS[_HOW[state]]
    else:
        reason, text = EndReason.LOST, ENDS[EndReason.LOST]
    if left is not None and left.word is ExitWord.FAILED and reason is EndReason.FAILED:
        text = f"The application failed with exit status {left.status}, so its job has ended. {_LOG}"
    return reason, _with_log(text, log_tail, reason)


def _with_log(text: str, log_tail: str, reason: EndReason) -> str:
    if reason is not EndReason.FAILED or not log_tail.strip():
        return text
    return f"{text}\n{log_tail.strip()}"
