"""A server's timeline: the steps of its life and what happened on the way. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, tzinfo
from enum import StrEnum
from typing import Any

from gateway.lifecycle import Phase
from gateway.masking import masked
from gateway.model import Server

#: The most characters that are kept of a text.
LONGEST = 2000
#: The most that is looked through for secrets. More than is kept: one that begins outside of what is kept,
#: such as a private key of three thousand characters, is still seen whole.
_LOOKED_THROUGH = 16_000
#: The most rows that a server's timeline has; beyond it the middle ones are dropped, down to these two.
MOST, FIRST, LAST = 200, 60, 120

_CONTROL = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]")


class Happening(StrEnum):
    """What is written of a server beside the events of its life."""

    CREATED = "created"  # somebody asked for it
    FOUND = "found"  # a hub was started and found it
    WISH = "wish"  # somebody asked for its end
    SUBMISSION = "submission"  # the submit command
    CANCEL = "cancel"  # the cancel command
    SCHEDULER = "scheduler"  # the scheduler's own words on the job have changed
    LISTING = "listing"  # the scheduler is silent, or speaks again
    ENDING = "ending"  # the accounting and the job were asked how it ended
    ENDPOINT = "endpoint"  # the job said itself where it listens, not by its scheduler
    FORWARD = "forward"  # its forward was made, or is lost
    PROBE = "probe"  # what comes back through the forward has changed
    ROUTE = "route"  # the proxy leads to it, or no longer
    CLEANING = "cleaning"  # its files on the cluster are removed
    TROUBLE = "trouble"  # a step failed and is tried again
    LEFT_OUT = "left-out"  # older rows stood here


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened to a server, in the phase that it then had.

    Attributes:
        at: When; of what took time, when it was over.
        event: A :class:`~gateway.lifecycle.Event` or a :class:`Happening`.
        phase: After it.
        text: A sentence that the server's owner may read.
        detail: More, for administrators.
        seconds: How long it took, where that was measured.
        times: How often it happened in a row; ``until`` is when for the last time.
    """

    at: datetime
    event: str
    phase: Phase
    text: str
    detail: str = ""
    seconds: float | None = None
    times: int = 1
    until: datetime | None = None

    def same(self, other: Entry) -> bool:
        """Return whether the two tell the same, at different times."""
        told = (self.event, self.phase, self.text, self.detail)
        return told == (other.event, other.phase, other.text, other.detail)

    def again(self, other: Entry) -> Entry:
        """Return the entry for this one and a later one that tells the same."""
        times = self.times + other.times
        return replace(self, times=times, until=other.until or other.at, seconds=other.seconds)


def kept(text: str) -> str:
    """Return a text as it may be kept: without secrets and control characters, and not too long."""
    text = _CONTROL.sub("", masked(_shortened(text, _LOOKED_THROUGH))).strip()
    return _shortened(text, LONGEST)


def _shortened(text: str, longest: int) -> str:
    """Return a text without its middle, if it is too long."""
    if len(text) <= longest:
        return text
    half = longest // 2 - 2
    return f"{text[:half]}\n…\n{text[-half:]}"


def chosen(server: Server) -> str:
    """Return what somebody asked for, in words."""
    choices = server.choices
    gpus = f", {choices.gpus} GPUs {choices.gpu_type or ''}".rstrip() if choices.gpus else ""
    account = f", account {choices.account}" if choices.account else ""
    return (
        f"{choices.application} on {choices.cluster}: partition {choices.partition}, "
        f"{choices.walltime} min, cores {choices.cores}, {choices.memory} MB{gpus}{account}"
    )


# --- for people -------------------------------------------------------------------------------------


def name_of(server: Server) -> str:
    """Return what a sysadmin calls a server: ``alice/`` or ``alice/exp1``."""
    return f"{server.user}/{server.name}"


def rendered(server: Server, entries: Sequence[Entry], zone: tzinfo | None = None) -> str:
    """Return a server's timeline as text: local time, time since the start, phase, what happened.

    Args:
        server: As it is now.
        entries: In order.
        zone: The times are told in; None for the machine's own.
    """
    began = server.created.astimezone(zone)
    lines = [f"{name_of(server)} on {server.cluster}: {_now(server)}", *_facts(server), ""]
    lines.append(f"{began:%Y-%m-%d, times are %Z}")
    lines += _lines(entries, server.created, began.date(), zone)
    return "\n".join(lines) + "\n"


def _now(server: Server) -> str:
    message = server.message.strip().partition("\n")[0]
    reason = f", {server.reason}" if server.reason else ""
    wish = "" if server.wanted or server.phase is Phase.ENDED else ", to be stopped"
    return f"{server.phase}{reason}{wish}" + (f": {message}" if message else "")


def _facts(server: Server) -> Iterator[str]:
    where = f"{server.host}:{server.port}" if server.host and server.port else server.host
    facts = {
        "id": server.id,
        "job": server.job_id,
        "at": where,
        "submits": server.attempts if server.attempts > 1 else None,
        "requeued": server.restarts or None,
        "scheduler's reason": server.native_reason,
    }
    yield "  " + ", ".join(f"{name} {value}" for name, value in facts.items() if value)


def _lines(entries: Iterable[Entry], began: datetime, day: date, zone: tzinfo | None) -> Iterator[str]:
    for entry in entries:
        at = entry.at.astimezone(zone)
        if at.date() != day:
            day = at.date()
            yield f"{day}"
        head = f"  {at:%H:%M:%S}  {_since((entry.at - began).total_seconds()):>9}  {entry.phase:<11}  "
        head += f"{entry.event:<10}  "
        first, *more = _words(entry, zone).split("\n")
        yield (head + first).rstrip()
        yield from (" " * len(head) + line for line in more)


def _words(entry: Entry, zone: tzinfo | None) -> str:
    words = entry.text
    if entry.detail and entry.detail != entry.text:
        words = f"{words}\n{entry.detail}" if words else entry.detail
    notes = []
    if entry.seconds is not None:
        notes.append(f"{entry.seconds:.2f} s")
    if entry.times > 1 and entry.until:
        notes.append(f"{entry.times} times, until {entry.until.astimezone(zone):%H:%M:%S}")
    first, newline, rest = words.partition("\n")
    if notes:
        first = f"{first} ({', '.join(notes)})".lstrip()
    return first + newline + rest


def _since(seconds: float) -> str:
    """Return a time since the start: ``+1.3s``, ``+2m05s``, ``+3h07m``, ``+4d02h``."""
    sign, whole = ("-", -seconds) if seconds < 0 else ("+", seconds)
    if whole < 60:
        return f"{sign}{whole:.1f}s"
    minutes, left = divmod(int(whole), 60)
    if minutes < 60:
        return f"{sign}{minutes}m{left:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{sign}{hours}h{minutes:02d}m"
    return f"{sign}{hours // 24}d{hours % 24:02d}h"


# --- for programs -----------------------------------------------------------------------------------


def as_data(server: Server, entries: Iterable[Entry]) -> dict[str, Any]:
    """Return a server and its timeline as JSON takes them; times are ISO 8601, in UTC."""
    fields = {key: _plain(value) for key, value in asdict(server).items() if key != "run"}
    return {**fields, "timeline": [_entry_data(entry, server.created) for entry in entries]}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _entry_data(entry: Entry, began: datetime) -> dict[str, Any]:
    return {
        "at": entry.at.isoformat(),
        "since_start": round((entry.at - began).total_seconds(), 3),
        "event": entry.event,
        "phase": entry.phase.value,
        "text": entry.text,
        "detail": entry.detail,
        "seconds": None if entry.seconds is None else round(entry.seconds, 3),
        "times": entry.times,
        "until": entry.until.isoformat() if entry.until else None,
    }
