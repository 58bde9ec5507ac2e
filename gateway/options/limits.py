"""The rules of a form: what each partition and account allows, and what the site says beside that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.options.fields import Field, Kind
from gateway.options.offer import Offer
from gateway.options.words import format_memory, format_walltime, type_memory, type_walltime
from gateway.rules import Rule
from gateway.siteconfig import Partition


def all_rules(offered: Offer, fields: Sequence[Field]) -> tuple[Rule, ...]:
    """Return every rule about a field of the form, the site's own last."""
    there = {field.name for field in fields}
    own = [
        Rule(r.field, r.message, r.when, r.unless, r.at_least, r.at_most, r.one_of)
        for r in offered.site.form.rules
    ]
    no_gpus = Rule("gpu_type", "Say how many GPUs of this type you need.", {"gpus": ("0",)}, one_of=("",))
    found = [*_of_fields(fields), no_gpus, *_of_partitions(offered), *_of_reservations(offered), *own]
    return tuple(rule for rule in found if rule.field in there)


def _of_fields(fields: Sequence[Field]) -> Iterator[Rule]:
    for field in fields:
        if field.kind is Kind.NUMBER and field.minimum is not None and field.required and not field.added:
            yield Rule(field.name, field.fault, at_least=str(field.minimum))
        elif field.added and field.minimum is not None:
            least = f"{field.label} is at least {field.minimum}."
            # What may be left empty is not too little.
            unless = {} if field.required else {field.name: ("",)}
            yield Rule(field.name, least, unless=unless, at_least=str(field.minimum))
        if field.added and field.maximum is not None:
            yield Rule(field.name, f"{field.label} is at most {field.maximum}.", at_most=str(field.maximum))


def _of_partitions(offered: Offer) -> Iterator[Rule]:
    for partition in offered.partitions:
        yield from _amounts(partition)
        yield from _gpus(partition)
        yield from _who_pays(offered, partition)


def _amounts(partition: Partition) -> Iterator[Rule]:
    here, name = {"partition": (partition.name,)}, partition.name
    if (minutes := partition.max_walltime) is not None:
        longest = f"The longest walltime on {name} is {format_walltime(minutes)}."
        yield Rule("walltime", longest, here, at_most=type_walltime(minutes))
    if partition.max_cores is not None:
        yield Rule(
            "cores",
            f"The most cores on {name} is {partition.max_cores}.",
            here,
            at_most=str(partition.max_cores),
        )
    if (megabytes := partition.max_memory) is not None:
        most = f"The most memory on {name} is {format_memory(megabytes)}."
        yield Rule("memory", most, here, at_most=type_memory(megabytes))


def _gpus(partition: Partition) -> Iterator[Rule]:
    here, name = {"partition": (partition.name,)}, partition.name
    if not partition.gpus:
        yield Rule("gpus", f"{name} has no GPUs.", here, at_most="0")
        yield Rule("gpu_type", f"{name} has no GPUs.", here, one_of=("",))
        return
    most = max(partition.gpus.values())
    yield Rule("gpus", f"The most GPUs on {name} is {most}.", here, at_most=str(most))
    kinds = tuple(kind for kind in partition.gpus if kind)
    known = f"It has: {', '.join(kinds)}." if kinds else "It does not tell them apart."
    yield Rule("gpu_type", f"{name} has no GPUs of this type. {known}", here, one_of=("", *kinds))
    for kind in kinds:
        number = partition.gpus[kind]
        if number < most:
            words = f"The most GPUs of type {kind} on {name} is {number}."
            yield Rule("gpus", words, {**here, "gpu_type": (kind,)}, at_most=str(number))


def _who_pays(offered: Offer, partition: Partition) -> Iterator[Rule]:
    """Yield what the scheduler says of a partition's accounts and QOS; what a site fixes needs no leave."""
    room = offered.rooms.get(partition.name)
    here, fixed = {"partition": (partition.name,)}, offered.site.form.fix
    if room and room.accounts is not None and offered.accounts and "account" not in fixed:
        theirs = tuple(name for name in offered.accounts if name in room.accounts)
        words = f"This account may not use {partition.name}. "
        words += f"Of yours there may: {', '.join(theirs)}." if theirs else "Choose another partition."
        yield Rule("account", words, here, one_of=theirs)
    if room and room.qos is not None and offered.qos and "qos" not in fixed:
        theirs = ("", *(name for name in offered.qos if name in room.qos))
        yield Rule("qos", f"{partition.name} does not take this quality of service.", here, one_of=theirs)


def _of_reservations(offered: Offer) -> Iterator[Rule]:
    for name, partitions in offered.reservations.items():
        if partitions:
            where = ", ".join(sorted(partitions))
            words = f"The reservation {name} is of another partition: {where}."
            yield Rule("partition", words, {"reservation": (name,)}, one_of=tuple(sorted(partitions)))
