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
    """What one person may choose from. What the site's form fixes is all that there is of its kind.

    ``reservations`` have the partitions in which they are; none are named where that is in any.
    ``features`` are all that the scheduler knows, ``constraints`` those that the form has. ``open`` says that
    accounts and the like are not known, so any goes: on an administrator's command line without a hub, where
    nobody has logged in and nothing is discovered.
    """

    site: SiteConfig
    partitions: tuple[Partition, ...]
    applications: tuple[Application, ...]
    accounts: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    reservations: Mapping[str, frozenset[str]] = field(default_factory=dict)
    constraints: tuple[str, ...] = ()
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
    groups = sorted(user.groups) if user and owner == user.name else ()
    qos = None if found.qos is None else found.qos.get(owner, ())
    features = _words(found.features)
    return Offer(
        site,
        tuple(p for p in site.partitions if _sees(user, p.groups)),
        tuple(a for a in site.applications if _sees(user, a.groups)),
        _fixed(site, "account", _of_person(site.accounts, found.accounts_of(owner, groups), owner)),
        _fixed(site, "qos", _of_person(site.qos, qos, owner)),
        _reservations(site, owner, found),
        _fixed(site, "constraint", site.constraints or features),
        features,
        {room.name: room for room in found.rooms},
        open=user is None,
    )


def _sees(user: User | None, groups: Collection[str]) -> bool:
    """Return whether one of the person's groups is named, in whatever case: directories have none."""
    if user is None or not groups:
        return True
    return not {name.casefold() for name in groups}.isdisjoint(name.casefold() for name in user.groups)


def _fixed(site: SiteConfig, name: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """Return the one word that the site fixes for a field, whatever the scheduler says; none for ``""``."""
    if name not in site.form.fix:
        return otherwise
    value = site.form.fix[name]
    return (value,) if value else ()


def _of_person(named: tuple[str, ...], theirs: tuple[str, ...] | None, owner: str) -> tuple[str, ...]:
    """Return what the scheduler has for this person, of what the site names if it names any."""
    if theirs is None or not owner:
        return named
    own = _words(theirs)
    return tuple(name for name in named if name in own) if named else own


def _reservations(site: SiteConfig, owner: str, found: Discovery) -> dict[str, frozenset[str]]:
    """Return the person's reservations. One that the scheduler does not tell of is the site's to name."""
    known = {each.name: each for each in found.downtimes if not each.maintenance}
    own = {name: each.partitions for name, each in known.items() if _may_use(each, owner, found)}
    named = tuple(name for name in site.reservations if name in own or name not in known)
    names = _fixed(site, "reservation", named if site.reservations else tuple(own))
    return {name: known[name].partitions if name in known else frozenset() for name in names}


def _may_use(reservation: Downtime, owner: str, found: Discovery) -> bool:
    if reservation.maintenance or not _WORD.fullmatch(reservation.name):
        return False
    own = set(found.accounts_of(owner) or ())
    return owner in reservation.users or not own.isdisjoint(reservation.accounts)


def _words(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that may stand on a directive line, each once."""
    return tuple(dict.fromkeys(name for name in names if _WORD.fullmatch(name)))
