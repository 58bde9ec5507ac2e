"""Why a job waits, how long it may, what can be done: at most three sentences. No I/O, no clock."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from gateway.discovery import Discovery, Downtime
from gateway.model import Choices, JobState, JobStatus

#: In which a job waits for its turn: one on hold has none.
_IN_LINE = frozenset({JobState.QUEUED})
_MINUTE = timedelta(minutes=1)
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])")


def why_it_waits(job: JobStatus, said: str, choices: Choices, discovery: Discovery, now: datetime) -> str:
    """Return what to say to the owner of a job that waits.

    Args:
        job: As a listing shows it.
        said: The scheduler's reason in words (``Scheduler.why``).
        choices: What the job asked for.
        discovery: What the scheduler says of its cluster.
        now: The time.

    Returns:
        A maintenance that is in the job's way, why it waits, its place in the queue and when it is expected
        to start: as far as they are known.
    """
    if job.state not in _IN_LINE:
        return said
    why = _SENTENCE_ENDS.split(said.strip()) if said.strip() else []
    place = _place(discovery.positions.get(job.job_id), job.starts, now)
    downtime = _in_the_way(job, choices, discovery, now)
    if downtime is not None:
        why = [_because_of(downtime, choices.walltime, now), *why]
    return " ".join([*why[:2], *([place] if place else [])])


def _place(position: int | None, starts: datetime | None, now: datetime) -> str:
    """Return a sentence on the job's place among those that wait, and on when it is expected to start."""
    wait = _soon(starts - now) if starts is not None and starts > now else ""
    if position is None or position < 1:
        return f"The scheduler expects it to start {wait}." if wait else ""
    before = position - 1
    first = {0: "No job is before yours", 1: "One job is before yours"}.get(
        before, f"{before} jobs are before yours"
    )
    return f"{first}, and it is expected to start {wait}." if wait else f"{first}."


def _soon(wait: timedelta) -> str:
    """Return about how long that is, coarsely: it is an estimate, and not to change with every look."""
    minutes = wait / _MINUTE
    if minutes <= 2:
        return "in a minute or two"
    if minutes < 55:
        return f"in about {5 * max(1, round(minutes / 5))} minutes"
    if minutes < 90:
        return "in about an hour"
    if minutes < 36 * 60:
        return f"in about {round(minutes / 60)} hours"
    return f"in about {round(minutes / 60 / 24)} days"


def _in_the_way(job: JobStatus, choices: Choices, discovery: Discovery, now: datetime) -> Downtime | None:
    """Return the next downtime before which the job is not over if it starts now, or as is expected."""
    begin = max(now, job.starts) if job.starts else now
    end = begin + timedelta(minutes=choices.walltime)
    coming = [
        downtime
        for downtime in discovery.downtimes
        if downtime.maintenance
        and downtime.end > now
        and (not downtime.partitions or choices.partition in downtime.partitions)
        and downtime.start < end
    ]
    return min(coming, key=lambda downtime: downtime.start, default=None)


def _because_of(downtime: Downtime, walltime: int, now: datetime) -> str:
    when = _span(downtime.start, downtime.end)
    if downtime.start <= now:
        return f"Nothing starts during the downtime ({when})."
    whose = f"{downtime.start:%A}'s" if downtime.start - now < timedelta(days=7) else "the next"
    whose = "today's" if downtime.start.date() == now.date() else whose
    fits = _round(int((downtime.start - now) / _MINUTE * 0.95) - 5)
    can = f"; {_length(fits)} can" if fits and fits < walltime else ""
    return f"{_length(walltime)} cannot start before {whose} downtime ({when}){can}."


def _round(minutes: int) -> int:
    """Return a walltime that a person would type, not longer than this; 0 if it is not worth a start."""
    if minutes < 10:
        return 0
    step = 60 if minutes >= 180 else 30 if minutes >= 60 else 10
    return minutes // step * step


def _length(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"{rest} min"
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def _span(start: datetime, end: datetime) -> str:
    """Return ``Tue 3 Feb, 08:00 to 18:00 UTC``; both are in UTC."""
    last = f"{end:%H:%M}" if start.date() == end.date() else f"{_day(end)}, {end:%H:%M}"
    return f"{_day(start)}, {start:%H:%M} to {last} UTC"


def _day(moment: datetime) -> str:
    return f"{moment:%a} {moment.day} {moment:%b}"
