"""Points in time and how far they are, in words. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def ago(then: datetime, now: datetime) -> str:
    """Return how long something was before now: ``40 seconds ago``."""
    seconds = max(int((now - then).total_seconds()), 0)
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s ago"
    return "just now"


def until(then: datetime, now: datetime) -> str:
    """Return how far something is ahead of now: ``in 2 h 5 min``."""
    minutes = int((then - now).total_seconds() // 60)
    if minutes < 1:
        return "any moment now"
    days, rest = divmod(minutes, 24 * 60)
    hours, left = divmod(rest, 60)
    parts = [f"{days} d"] * bool(days) + [f"{hours} h"] * bool(hours) + [f"{left} min"] * bool(left)
    return f"in {' '.join(parts)}"


def clock_time(then: datetime, now: datetime) -> str:
    """Return the time of day in UTC, with the date where it is not today's: ``Tue 24 Nov, 14:32 UTC``."""
    then, now = then.astimezone(UTC), now.astimezone(UTC)
    day = "" if then.date() == now.date() else f"{then:%a} {then.day} {then:%b}, "
    return f"{day}{then:%H:%M} UTC"
