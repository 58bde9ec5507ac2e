"""A cluster's site config from all who say something of it: the gateway, its login node, its scheduler."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import reduce

import yaml

from gateway import schedulers
from gateway.discovery import Discovery, Room
from gateway.errors import ConfigError
from gateway.siteconfig import DIRECTIVE_WORD, DropIn, Partition, SiteConfig
from gateway.siteconfig.crosschecks import cross_faults
from gateway.siteconfig.fault import Fault
from gateway.siteconfig.merging import joined
from gateway.siteconfig.reading import check_drop_in, document, validated

#: Text and the name of the file that it is from.
Source = tuple[str, str]

#: Why nothing ever starts in a partition: it is switched off, and not only down for a time.
_SWITCHED_OFF = re.compile(r"inactive|disabled|enabled=False", re.IGNORECASE)


def merge(trusted: Source, drop_ins: Sequence[Source] = ()) -> SiteConfig:
    """Return what the gateway's own file and the drop-ins say together, in this order.

    Where two say the same key the later one counts. Partitions, applications, added fields and presets are
    joined by their names, and these key by key; so are ``form``, ``script`` and ``messages``, and
    ``form.rename``, ``form.fix``, ``form.help`` and ``script.resources``. Everything else is replaced as a
    whole, and an empty list takes all away. A drop-in says nothing of ``name``, ``scheduler``, ``login`` and
    ``tunnel``.

    Args:
        trusted: The text of the file in the gateway's site directory, and its name.
        drop_ins: The same of the files on the login node.

    Raises:
        ConfigError: One line for each fault, ``file:line: where: what``.
    """
    documents = [document(*trusted), *_documents(drop_ins)]
    return validated(SiteConfig, reduce(joined, documents), cross_faults, _scheduler_faults)


def merge_drop_ins(drop_ins: Sequence[Source]) -> DropIn:
    """Return what drop-ins say together, where the gateway's own file is not at hand.

    Args:
        drop_ins: As for `merge`.

    Raises:
        ConfigError: One line for each fault; what they say of things in the other file is not looked at.
    """
    documents = _documents(drop_ins)
    if not documents:
        return DropIn(version=1)
    return validated(DropIn, reduce(joined, documents), cross_faults)


def _documents(drop_ins: Sequence[Source]) -> list[yaml.MappingNode]:
    """Return the documents of all files, or raise the faults of all that are bad in themselves."""
    documents, faults = [], []
    for text, source in drop_ins:
        try:
            found = document(text, source)
            check_drop_in(found)
        except ConfigError as error:
            faults.append(str(error))
        else:
            documents.append(found)
    if faults:
        raise ConfigError("\n".join(faults))
    return documents


def _scheduler_faults(site: SiteConfig) -> Iterator[Fault]:
    if site.scheduler not in schedulers.known():
        known = ", ".join(sorted(schedulers.known()))
        yield Fault(("scheduler",), f"there is no scheduler {site.scheduler}: there is {known}")
        return
    try:
        scheduler = schedulers.get(site.scheduler)
    except ConfigError as error:
        yield Fault(("scheduler",), str(error).removeprefix("scheduler: "))
        return
    for name in site.script.resources:
        if name not in scheduler.resources:
            known = ", ".join(scheduler.resources) or "none at all"
            what = f"there is no such name with {scheduler.name}: there is {known}"
            yield Fault(("script", "resources", name), what)
    for what in scheduler.header_faults(site.script.header):
        yield Fault(("script", "header"), what)


def complete(site: SiteConfig, discovery: Discovery | None) -> SiteConfig:
    """Return a site config with what its scheduler says where nobody else says anything.

    Without partitions of its own it has all that the scheduler shows, but for those that are switched off.
    What is said stays as it is, also where the scheduler allows less.

    Args:
        site: What the files say.
        discovery: What the scheduler says; None if it has said nothing yet.
    """
    if discovery is None or not discovery.rooms:
        return site
    if site.partitions:
        rooms = {room.name: room for room in discovery.rooms}
        partitions = [_filled(p, rooms[p.name]) if p.name in rooms else p for p in site.partitions]
    else:
        shown = [room for room in discovery.rooms if _offered(room)]
        first = next((room.name for room in shown if room.default), None)
        partitions = [_filled(Partition(name=room.name, default=room.name == first), room) for room in shown]
    return site.model_copy(update={"partitions": tuple(partitions)})


def _offered(room: Room) -> bool:
    name = re.fullmatch(DIRECTIVE_WORD, room.name, re.ASCII)
    return bool(name) and not _SWITCHED_OFF.search(room.closed)


def _filled(partition: Partition, room: Room) -> Partition:
    """Return a partition with the scheduler's limits where it has none."""
    longest = partition.max_walltime or room.max_walltime
    usual = partition.default_walltime or room.default_walltime
    update = {
        "max_walltime": longest,
        "default_walltime": min(usual, longest) if usual and longest else usual,
        "max_cores": partition.max_cores or room.max_cores,
        "max_memory": partition.max_memory or room.max_memory,
        "gpus": partition.gpus or _gpus(room),
    }
    return partition.model_copy(update=update)


def _gpus(room: Room) -> dict[str, int]:
    named = re.compile(rf"(?:{DIRECTIVE_WORD})?", re.ASCII)
    return {kind: count for kind, count in room.gpus.items() if count > 0 and named.fullmatch(kind)}
