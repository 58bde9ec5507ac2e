"""The form's fields: those of every cluster, and those that a site adds, hides, renames or fixes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gateway.options.offer import Offer
from gateway.options.words import (
    count,
    count_gpus,
    format_memory,
    format_walltime,
    type_memory,
    type_walltime,
)
from gateway.rules import CLEAR, TICKED, Measure, is_ticked
from gateway.siteconfig import DIRECTIVE_WORD, AddedField, Partition

#: What a field is filled with where the site names no default: minutes and megabytes.
_WALLTIME, _MEMORY = 60, 2048
#: The schedulers that give a whole node on demand, and what others have for it where a site made it.
_EXCLUSIVE = frozenset({"slurm", "pbs"})
#: The schedulers that take a job without an account where the site names none: Grid Engine's projects.
_WITHOUT_ACCOUNT = frozenset({"sge"})
#: What a site may fix whether or not the scheduler has it for a person.
_THE_SITES_WORD = frozenset({"account", "qos", "reservation", "constraint"})
_WALLTIME_FAULT = "Write a walltime as 30m, 4h, 2d, HH:MM:SS or D-HH:MM:SS."
_MEMORY_FAULT = "Write memory as a whole number and a unit: 512M, 4G, 1T."


class Kind(StrEnum):
    """How a field is shown."""

    HIDDEN = "hidden"
    FIXED = "fixed"
    CHOICE = "choice"
    NUMBER = "number"
    TEXT = "text"
    CHECKBOX = "checkbox"


@dataclass(frozen=True, slots=True)
class Option:
    """One of the values of a field of the kind ``choice``; ``""`` stands for none of them."""

    value: str
    label: str


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form.

    ``default`` is what it holds at first, in words that it reads; ``defaults`` the same by partition, where
    they differ. ``minimum`` and ``maximum`` are of the site's largest partition: what may really be asked for
    is the rules' to say. ``fault`` is the sentence about what cannot be read; ``pattern`` a regular
    expression for the whole value. ``more`` sets the field apart, among those that few need; ``added`` says
    that the site added it.
    """

    name: str
    label: str
    kind: Kind
    default: str = ""
    choices: tuple[Option, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    help: str = ""
    measure: Measure = Measure.WORD
    defaults: Mapping[str, str] = field(default_factory=dict)
    required: bool = False
    pattern: str = ""
    fault: str = ""
    more: bool = False
    added: bool = False

    def default_on(self, partition: str) -> str:
        """Return what the field holds at first where this partition is chosen."""
        return self.defaults.get(partition, self.default)


def all_fields(offered: Offer) -> tuple[Field, ...]:
    """Return the form's fields, in their order. One with nothing to choose is hidden."""
    if not offered.usable:
        return ()
    found = [
        *_what_and_where(offered),
        *_amounts(offered),
        *_gpus(offered),
        *_account(offered),
        *(_added(each) for each in offered.site.form.fields),
        *_seldom(offered),
    ]
    return tuple(_as_the_site_wants(each, offered) for each in found)


def default_walltime(partition: Partition) -> int:
    """Return the minutes that the form begins with."""
    return _least(partition.default_walltime or _WALLTIME, partition.max_walltime)


def default_memory(partition: Partition) -> int:
    """Return the megabytes that the form begins with."""
    return _least(_MEMORY, partition.max_memory)


def describe(partition: Partition) -> str:
    """Return a partition's title and the most that it gives."""
    limits = [
        *([format_walltime(partition.max_walltime)] if partition.max_walltime is not None else []),
        *([count(partition.max_cores, "core")] if partition.max_cores is not None else []),
        *([format_memory(partition.max_memory)] if partition.max_memory is not None else []),
        *(count_gpus(number, kind) for kind, number in partition.gpus.items()),
    ]
    title = partition.title or partition.name
    return f"{title} (up to {', '.join(limits)})" if limits else title


def _least(wanted: int, most: int | None) -> int:
    return wanted if most is None else min(wanted, most)


def _what_and_where(offered: Offer) -> Iterator[Field]:
    site = offered.site
    yield Field("cluster", "Cluster", Kind.HIDDEN, site.name, (Option(site.name, site.title),))
    applications = tuple(Option(a.name, a.title) for a in offered.applications)
    yield _choice("application", "Application", applications, applications[0].value)
    partitions = tuple(Option(p.name, describe(p) + _closed(offered, p)) for p in offered.partitions)
    yield _choice("partition", "Partition", partitions, offered.start.name)


def _closed(offered: Offer, partition: Partition) -> str:
    room = offered.rooms.get(partition.name)
    return f" – closed: {room.closed}" if room and room.closed else ""


def _amounts(offered: Offer) -> Iterator[Field]:
    partitions, start = offered.partitions, offered.start
    walltimes = {p.name: type_walltime(default_walltime(p)) for p in partitions}
    memories = {p.name: type_memory(default_memory(p)) for p in partitions}
    yield Field(
        "walltime",
        "Walltime",
        Kind.TEXT,
        walltimes[start.name],
        help="How long it may run: 30m, 4h, 2d or HH:MM:SS.",
        measure=Measure.WALLTIME,
        defaults=walltimes,
        required=True,
        fault=_WALLTIME_FAULT,
    )
    cores = Field("cores", "Cores", Kind.NUMBER, "1", (), 1, _most(p.max_cores for p in partitions))
    yield replace(cores, measure=Measure.NUMBER, required=True, fault=_number_fault("cores", 1))
    yield Field(
        "memory",
        "Memory",
        Kind.TEXT,
        memories[start.name],
        help="With a unit: 512M, 4G.",
        measure=Measure.MEMORY,
        defaults=memories,
        required=True,
        fault=_MEMORY_FAULT,
    )


def _gpus(offered: Offer) -> Iterator[Field]:
    if gpus := offered.gpus():
        number = Field("gpus", "GPUs", Kind.NUMBER, "0", (), 0, max(gpus.values()))
        yield replace(number, measure=Measure.NUMBER, required=True, fault=_number_fault("GPUs", 0))
        if kinds := [kind for kind in gpus if kind]:
            options = (Option("", "any"), *(Option(kind, kind) for kind in kinds))
            yield _choice("gpu_type", "GPU type", options, "")


def _account(offered: Offer) -> Iterator[Field]:
    if offered.accounts:
        options = tuple(Option(name, name) for name in offered.accounts)
        if offered.site.scheduler in _WITHOUT_ACCOUNT and not offered.site.accounts:
            options = (Option("", "the usual one"), *options)
        yield _choice("account", "Account", options, options[0].value)
    elif offered.open:
        yield _any_word("account", "Account")


def _seldom(offered: Offer) -> Iterator[Field]:
    """Yield the fields that few need: each only where there is something to choose."""
    whole = offered.site.scheduler in _EXCLUSIVE
    feature = offered.site.script.resources.get("exclusive", "exclusive")
    fixed = is_ticked(offered.site.form.fix.get("exclusive", CLEAR))
    whole_if_made = not whole and (offered.open or fixed or feature in offered.features)
    own = offered.constraints != offered.features
    kinds = tuple(name for name in offered.constraints if whole or own or name != feature)
    words = (
        ("qos", "Quality of service", offered.qos, "the usual one"),
        ("reservation", "Reservation", tuple(offered.reservations), "none"),
        ("constraint", "Kind of node", kinds, "any"),
    )
    for name, label, values, nothing in words:
        if values:
            options = (Option("", nothing), *(Option(value, value) for value in values))
            yield replace(_choice(name, label, options, ""), more=True)
        elif offered.open:
            yield _any_word(name, label)
    if whole or whole_if_made:
        about = "Nobody else's job runs beside yours. You may have to wait longer, and you use up more."
        yield Field(
            "exclusive",
            "A whole node",
            Kind.CHECKBOX,
            CLEAR,
            help=about,
            measure=Measure.FLAG,
            more=True,
        )


def _any_word(name: str, label: str) -> Field:
    fault = f"Write one word of letters, digits and . + @ - for the {label.lower()}."
    return Field(name, label, Kind.TEXT, pattern=DIRECTIVE_WORD, fault=fault, more=True)


def _added(each: AddedField) -> Field:
    found = Field(
        each.name,
        each.label,
        Kind(each.kind),
        each.default,
        minimum=each.minimum,
        maximum=each.maximum,
        help=each.help or "",
        required=each.required,
        pattern=each.pattern,
        fault=f"This is not what {each.label} may be.",
        added=True,
    )
    match found.kind:
        case Kind.NUMBER:
            return replace(found, measure=Measure.NUMBER, fault=f"Write {each.label} as a whole number.")
        case Kind.CHECKBOX:
            return replace(found, measure=Measure.FLAG, default=TICKED if each.default == TICKED else CLEAR)
        case Kind.CHOICE:
            options = tuple(Option(value, label) for value, label in each.choices.items())
            if not each.required and not each.default and "" not in each.choices:
                options = (Option("", "–"), *options)
            return replace(
                found, choices=options, default=each.default or (options[0].value if options else "")
            )
        case _:
            return found


def _as_the_site_wants(each: Field, offered: Offer) -> Field:
    """Return the field hidden, renamed, fixed or explained, as the site's form says."""
    form = offered.site.form
    if (label := form.rename.get(each.name)) is not None:
        each = replace(each, label=label)
    if (about := form.help.get(each.name)) is not None:
        each = replace(each, help=about)
    if (fixed := form.fix.get(each.name)) is not None:
        kind = Kind.HIDDEN if each.kind is Kind.HIDDEN and each.name not in _THE_SITES_WORD else Kind.FIXED
        each = replace(each, kind=kind, default=fixed, defaults={})
        if each.name in _THE_SITES_WORD:
            each = replace(each, choices=())
    if each.name in form.hide:
        each = replace(each, kind=Kind.HIDDEN)
    return each


def _choice(name: str, label: str, choices: tuple[Option, ...], default: str) -> Field:
    return Field(name, label, Kind.CHOICE if len(choices) > 1 else Kind.HIDDEN, default, choices)


def _number_fault(what: str, least: int) -> str:
    return f"Write the number of {what} as a whole number, at least {least}."


def _most(limits: Iterable[int | None]) -> int | None:
    """Return the largest limit; None if one of them is not known."""
    known: list[int] = []
    for limit in limits:
        if limit is None:
            return None
        known.append(limit)
    return max(known)
