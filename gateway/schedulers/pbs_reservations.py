"""PBS's reservations, as ``pbs_rstat -f`` prints them: display_single_reservation() in OpenPBS's pbs_rstat.c.

A line break in somebody's value stands there as it is, so anybody could write a reservation into one of their
own: one counts only if the server has its queue, and if it is there once. Whoever copies a real one hides it,
and can make nobody believe in a downtime that there is not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from gateway.discovery import Downtime
from gateway.model import Completed
from gateway.schedulers.pbs_rows import time
from gateway.schedulers.text import one_line

_ID = re.compile(r"([RSM][0-9]{1,12})\.[A-Za-z0-9.-]{1,255}", re.ASCII)
#: convert_resv_state(): those in which the time is theirs.
_GRANTED = frozenset(
    {"RESV_CONFIRMED", "RESV_WAIT", "RESV_TIME_TO_RUN", "RESV_RUNNING", "RESV_DEGRADED", "RESV_BEING_ALTERED"}
)
_NODE = re.compile(r"[(+]([^:()+]+)[:)]")
_MOST = 1_000


@dataclass(frozen=True, slots=True)
class Reservation:
    """A stretch of time on some nodes; ``queue`` is the one that jobs in it ask for."""

    queue: str
    start: datetime
    end: datetime
    nodes: frozenset[str]
    users: frozenset[str]

    @property
    def maintenance(self) -> bool:
        """Whether it is one of ``pbs_rsub --hosts``, which only operators may make."""
        return self.queue.startswith("M")

    def downtime(self, partitions: frozenset[str]) -> Downtime:
        """Return it as what is in the way of jobs in these partitions."""
        users = frozenset[str]() if self.maintenance else self.users
        return Downtime(self.queue, self.start, self.end, partitions, self.maintenance, users)


def read(completed: Sequence[Completed], queues: Collection[str], faults: list[str]) -> Iterator[Reservation]:
    """Yield the reservations that are granted, and whose queues there are.

    Args:
        completed: What ``pbs_rstat -f`` did; nothing where it was not asked.
        queues: All of the server's.
        faults: Is told if it did not answer: its exit status is 0 all the same.
    """
    for answer in completed:
        if answer.status != 0 or answer.stderr.strip():
            words = one_line(answer.stderr or answer.stdout)
            faults.append(f"pbs_rstat: exit status {answer.status}: {words}")
            return
        by_id: dict[str, list[Mapping[str, str]]] = {}
        for number, values in islice(_blocks(answer.stdout), _MOST):
            by_id.setdefault(number, []).append(values)
        for number, (values, *again) in by_id.items():
            if again:
                faults.append(f"pbs_rstat: {one_line(number)} is there twice")
            elif reservation := _granted(number, values, queues):
                yield reservation


def _blocks(text: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    for block in re.split(r"^(?=Resv ID: )", text, flags=re.M)[1:]:
        head, *lines = block.split("\n")
        values: dict[str, str] = {}
        for key, equals, value in (line.partition(" = ") for line in lines):
            if equals:
                values.setdefault(key, value)
        yield head.removeprefix("Resv ID: "), values


def _granted(number: str, values: Mapping[str, str], queues: Collection[str]) -> Reservation | None:
    named = _ID.fullmatch(number)
    start, end = (time(values.get(key, "")) for key in ("reserve_start", "reserve_end"))
    if not named or named[1] not in queues or start is None or end is None:
        return None
    if values.get("reserve_state") not in _GRANTED:
        return None
    nodes = frozenset(_NODE.findall(values.get("resv_nodes", "")))
    allowed = (name for name in values.get("Authorized_Users", "").split(",") if not name.startswith("-"))
    users = frozenset(name.removeprefix("+").partition("@")[0] for name in allowed) - {""}
    return Reservation(named[1], start, end, nodes, users)
