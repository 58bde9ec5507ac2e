"""What a cluster offers to one person: what their groups let them see, what the scheduler has for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from gateway.discovery import Discovery, Downtime, Room
from gateway.model import User
from gateway.siteconfig import DIRECTIVE_WORD, Application, Partition, SiteConfig

_WORD = re.compile(DIRECTIVE_WORD, re.ASCII)


@dataclass(frozen=True, slots=True)
class Offer:
    """What one person may choose from. ``open`` says that accounts and the like are not known, so any goes.

    That is so on an administrator's command line, where nobody has logged in and nothing is discovered.
    """

    site: SiteConfig
    partitions: tuple[Partition, ...]
    applications: tuple[Application, ...]
    accounts: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    reservations: tuple[Downtime, ...] = ()
    features: tuple[str, ...] = ()
    rooms: Mapping[str, Room] = field(default_factory=dict)
    open: bool = False

    @property
    def usable(self) -> bool:
        """Whether there is anything that this person can start."""
        return bool(self.partitions and self.applications)

    @property
    def start(self) -> Partition:
        """The partition that the form begins with."""
        fixed = self.site.form.fix.get("partition")
        for partition in self.partitions:
            if partition.name == fixed or (fixed is None and partition.default):
                return partition
        return self.partitions[0]

    def gpus(self) -> dict[str, int]:
        """Return the most GPUs of each type that one job may have somewhere; "" is an untold type."""
        most: dict[str, int] = {}
        for partition in self.partitions:
            for kind, number in partition.gpus.items():
                most[kind] = max(number, most.get(kind, 0))
        return most


def offer(site: SiteConfig, user: User | None, discovery: Discovery | None = None) -> Offer:
    """Return what a cluster offers to somebody.

    Args:
        site: The cluster.
        user: Who will choose; None for an administrator at the command line, who sees everything.
        discovery: What its scheduler said last.
    """
    found = discovery or Discovery()
    owner = site.login.owner(user.name) if user else ""
    accounts = _accounts(site, owner, found)
    return Offer(
        site,
        tuple(p for p in site.partitions if _sees(user, p.groups)),
        tuple(a for a in site.applications if _sees(user, a.groups)),
        accounts,
        _words((found.qos or {}).get(owner, ())),
        tuple(each for each in found.downtimes if _may_use(each, owner, found)),
        _words(found.features),
        {room.name: room for room in found.rooms},
        open=user is None,
    )


def _sees(user: User | None, groups: Collection[str]) -> bool:
    """Return whether one of the person's groups is named, in whatever case: directories have none."""
    if user is None or not groups:
        return True
    return not {name.casefold() for name in groups}.isdisjoint(name.casefold() for name in user.groups)


def _accounts(site: SiteConfig, owner: str, found: Discovery) -> tuple[str, ...]:
    """Return the scheduler's accounts of this person, of those that the site names if it names any."""
    if found.accounts is None or not owner:
        return site.accounts
    own = _words(found.accounts.get(owner, ()))
    return tuple(name for name in site.accounts if name in own) if site.accounts else own


def _may_use(reservation: Downtime, owner: str, found: Discovery) -> bool:
    if reservation.maintenance or not _WORD.fullmatch(reservation.name):
        return False
    own = set((found.accounts or {}).get(owner, ()))
    return owner in reservation.users or not own.isdisjoint(reservation.accounts)


def _words(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that may stand on a directive line, each once."""
    return tuple(dict.fromkeys(name for name in names if _WORD.fullmatch(name)))
