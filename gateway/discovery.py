"""What a scheduler says of its cluster: partitions and what is free, accounts, downtimes, our jobs. Nouns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from gateway.model import JobId, JobStatus

#: The most partitions of a cluster that are looked at: a form with more of them helps nobody.
MOST_ROOMS = 1_000
#: Stands in `Discovery.accounts` for all whom it does not name.
EVERYBODY = ""


@dataclass(frozen=True, slots=True)
class Room:
    """A partition (a queue) as its scheduler has it.

    None stands for "not limited, or not said". ``max_walltime`` and ``default_walltime`` are minutes;
    ``max_cores``, ``max_memory`` (megabytes) and ``gpus`` (by type, "" where types are not told apart) are
    the most that one node has; the counts ``nodes``, ``cores`` and those free are of the whole partition.
    ``groups``, ``accounts`` and ``qos`` are those that may use it, None for all. ``closed`` says in the
    scheduler's word why nothing starts there.
    """

    name: str
    default: bool = False
    max_walltime: int | None = None
    default_walltime: int | None = None
    max_cores: int | None = None
    max_memory: int | None = None
    gpus: Mapping[str, int] = field(default_factory=dict)
    nodes: int | None = None
    free_nodes: int | None = None
    cores: int | None = None
    free_cores: int | None = None
    free_gpus: Mapping[str, int] | None = None
    waiting: int | None = None
    groups: frozenset[str] | None = None
    accounts: frozenset[str] | None = None
    qos: frozenset[str] | None = None
    closed: str = ""


@dataclass(frozen=True, slots=True)
class Downtime:
    """A time in which nothing runs in some partitions (none given: in none at all), or a reservation.

    ``maintenance`` tells the two apart; ``users`` and ``accounts`` may use a reservation.
    """

    name: str
    start: datetime
    end: datetime
    partitions: frozenset[str] = frozenset()
    maintenance: bool = True
    users: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Discovery:
    """What one look at a cluster brought. None stands for "nobody says".

    ``accounts`` and ``qos`` are by user; ``accounts`` may name `EVERYBODY` and ``@group`` too: see
    `accounts_of`. ``positions`` counts from 1 the place of each of our waiting jobs
    among those waiting for the same partition. ``ours`` are all jobs whose names this instance gives, also
    those that the database does not know. ``hidden`` says that the account that asks does not see other
    users' jobs, unless it is one of the ``operators``; ``features`` are what a constraint may name. ``at`` is
    when it was: whoever keeps it sets that.
    """

    rooms: tuple[Room, ...] = ()
    accounts: Mapping[str, tuple[str, ...]] | None = None
    qos: Mapping[str, tuple[str, ...]] | None = None
    downtimes: tuple[Downtime, ...] = ()
    positions: Mapping[JobId, int] = field(default_factory=dict)
    ours: tuple[JobStatus, ...] | None = None
    hidden: bool | None = None
    operators: frozenset[str] = frozenset()
    features: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    at: datetime | None = None

    def room(self, name: str) -> Room | None:
        """Return the partition of this name, if the scheduler has one."""
        return next((room for room in self.rooms if room.name == name), None)

    def accounts_of(self, owner: str, groups: Iterable[str] = ()) -> tuple[str, ...] | None:
        """Return the accounts that somebody may use, None if nobody says.

        Args:
            owner: Whose jobs.
            groups: Their Unix groups, as far as they are known.
        """
        if self.accounts is None:
            return None
        own = self.accounts.get(owner, self.accounts.get(EVERYBODY, ()))
        by_group = (name for group in groups for name in self.accounts.get(f"@{group}", ()))
        return tuple(dict.fromkeys((*own, *by_group)))
