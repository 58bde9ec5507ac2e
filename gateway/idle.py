"""When a server that nobody uses is stopped: what counts as use, how long it is idle, what follows. Pure.

Jupyter says itself what runs: a kernel that is busy, and the last activity of kernels and terminals. Its own
count of requests is no measure, for an open tab that nobody looks at asks all the time. Of other applications
only the traffic is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any

#: A look that comes later than this many times the usual pause says nothing about the time between.
_LATE = 3


class Use(Enum):
    """What a look at a server has shown."""

    ACTIVE = auto()
    IDLE = auto()
    UNKNOWN = auto()
    """It did not answer, or nobody can tell: that never counts as idle."""


class Verdict(Enum):
    """What follows."""

    NOTHING = auto()
    WARN = auto()
    """Its owner is to be told when it will be stopped."""
    STOP = auto()


@dataclass(frozen=True, slots=True)
class Policy:
    """For how long a server may be idle, and how long before its end its owner is told."""

    after: timedelta
    warn: timedelta


@dataclass(frozen=True, slots=True)
class Watch:
    """What has been seen of a server.

    Attributes:
        since: From when on its idle time is counted; moved on by all the time in which nobody looked.
        looked: When somebody last did.
        warned: When its owner was told, None if not yet, or not since it was last in use.
    """

    since: datetime
    looked: datetime
    warned: datetime | None = None


def look(watch: Watch | None, use: Use, now: datetime, pause: timedelta) -> Watch:
    """Return what is known of a server after one more look at it.

    Args:
        watch: What was known before; None for the first look, or the first of this hub.
        use: What the look has shown.
        now: When it was.
        pause: The usual time between two looks.
    """
    if watch is None or use is Use.ACTIVE:
        return Watch(now, now)
    gap = now - watch.looked
    unseen = gap if use is Use.UNKNOWN or gap > _LATE * pause else timedelta(0)
    return replace(watch, since=watch.since + unseen, looked=now)


def stops_at(watch: Watch, policy: Policy) -> datetime:
    """Return when a server will be stopped if it stays idle: never without having been announced."""
    announced = watch.warned or watch.looked
    return max(watch.since + policy.after, announced + policy.warn)


def verdict(watch: Watch, policy: Policy) -> Verdict:
    """Return what follows from the last look at a server."""
    if watch.warned is not None:
        return Verdict.STOP if watch.looked >= stops_at(watch, policy) else Verdict.NOTHING
    soon = watch.looked > watch.since and watch.looked >= watch.since + policy.after - policy.warn
    return Verdict.WARN if soon else Verdict.NOTHING


def of_jupyter(kernels: Any, terminals: Any, before: str | None) -> tuple[Use, str]:
    """Return whether Jupyter is in use, and by what that will be seen at the next look.

    The times are compared with those of the look before only: a node's clock may be wrong.

    Args:
        kernels: The answer to ``GET api/kernels``.
        terminals: The answer to ``GET api/terminals``; None where there are none.
        before: What this returned at the look before, None at the first.

    Raises:
        ValueError: These are not Jupyter's answers.
    """
    rows = [*_rows(kernels), *_rows(terminals if terminals is not None else [])]
    marker = "\n".join(sorted(f"{row.get('id') or row.get('name')} {row['last_activity']}" for row in rows))
    busy = any(row.get("execution_state") in ("busy", "starting") for row in rows)
    return (Use.IDLE if marker == before and not busy else Use.ACTIVE), marker


def _rows(answer: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(answer, list):
        raise ValueError("not a list of kernels or terminals")  # noqa: TRY004  an answer, not an argument
    for row in answer:
        if not (isinstance(row, dict) and isinstance(row.get("last_activity"), str)):
            raise ValueError("a kernel or terminal without last_activity")  # noqa: TRY004  the same
        yield row


def of_traffic(total: int | None, before: int | None, seconds: float, least: int) -> Use:
    """Return whether an application is in use, by the bytes that went through its route.

    Args:
        total: All bytes so far; None if nobody says.
        before: The same at the look before.
        seconds: Between the two.
        least: Bytes per second that count as use.
    """
    if total is None or before is None or total < before or seconds <= 0:  # less: HAProxy was reloaded
        return Use.UNKNOWN
    return Use.ACTIVE if (total - before) / seconds >= least else Use.IDLE
