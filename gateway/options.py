"""The form on which a job is chosen: its fields from the site config, and the check of what came back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.errors import InvalidChoice
from gateway.model import Choices, User
from gateway.siteconfig import Partition, SiteConfig, parse_memory, parse_walltime

#: What a field is filled with where the site names no default: minutes and megabytes.
_WALLTIME, _MEMORY = 60, 2048


class Kind(StrEnum):
    """How a field is shown."""

    HIDDEN = "hidden"
    CHOICE = "choice"
    NUMBER = "number"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Option:
    """One of the values of a field of the kind ``choice``; ``""`` stands for none of them."""

    value: str
    label: str


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form.

    ``minimum`` and ``maximum`` are of the site's largest partition: what a partition really allows is
    checked by :func:`check`. ``default`` is what the field holds at first, in words that it reads.
    """

    name: str
    label: str
    kind: Kind
    default: str
    choices: tuple[Option, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    help: str = ""


def fields(site: SiteConfig, user: User) -> tuple[Field, ...]:
    """Return the form's fields for a cluster, in their order. A field with nothing to choose is hidden.

    Args:
        site: The cluster.
        user: Who will choose. So far a site offers everybody the same.
    """
    start = _default_partition(site)
    most_memory = format_memory(max(p.max_memory for p in site.partitions))
    applications = tuple(Option(a.name, a.title) for a in site.applications)
    partitions = tuple(Option(p.name, _describe(p)) for p in site.partitions)
    found = [
        Field("cluster", "Cluster", Kind.HIDDEN, site.name, (Option(site.name, site.title),)),
        _choice("application", "Application", applications, applications[0].value),
        _choice("partition", "Partition", partitions, start.name),
        Field(
            "walltime",
            "Walltime",
            Kind.TEXT,
            _walltime_words(_default_walltime(start)),
            help=f"How long it may run: 30m, 4h, 2d or HH:MM:SS. At most {_longest(site)}.",
        ),
        Field("cores", "Cores", Kind.NUMBER, "1", (), 1, max(p.max_cores for p in site.partitions)),
        Field(
            "memory",
            "Memory",
            Kind.TEXT,
            _memory_words(_default_memory(start)),
            help=f"With a unit: 512M, 4G. At most {most_memory}.",
        ),
    ]
    if gpus := _gpu_types(site):
        found.append(Field("gpus", "GPUs", Kind.NUMBER, "0", (), 0, max(gpus.values())))
        kinds = (Option("", "any"), *(Option(kind, kind) for kind in gpus))
        found.append(_choice("gpu_type", "GPU type", kinds, ""))
    if site.accounts:
        accounts = tuple(Option(name, name) for name in site.accounts)
        found.append(_choice("account", "Account", accounts, accounts[0].value))
    return tuple(found)


def check(sites: Mapping[str, SiteConfig], submitted: Mapping[str, Sequence[str]]) -> Choices:
    """Return what was chosen, once it is certain that the site offers it.

    A field that is missing or empty gets its default, for the partition that was chosen.

    Args:
        sites: The clusters by name.
        submitted: The form's values by field; a field must not be there twice.

    Raises:
        InvalidChoice: A value that the site does not offer, or a field that the form does not have.
    """
    form = {name: _single(name, values) for name, values in submitted.items()}
    site = _site(sites, form.get("cluster", ""))
    declared = {field.name for field in fields(site, User(""))}
    if unknown := sorted(form.keys() - declared):
        raise InvalidChoice(unknown[0], f"{site.title} has no such field: {_shown(unknown[0])}.")
    partition = _partition(site, form.get("partition", ""))
    gpus, gpu_type = _gpus(partition, form.get("gpus", ""), form.get("gpu_type", ""))
    return Choices(
        cluster=site.name,
        application=_one_of("application", [a.name for a in site.applications], form.get("application", "")),
        partition=partition.name,
        walltime=_walltime(partition, form.get("walltime", "")),
        cores=_count("cores", form.get("cores", "") or "1", 1, partition.max_cores, f"on {partition.name}"),
        memory=_memory(partition, form.get("memory", "")),
        gpus=gpus,
        gpu_type=gpu_type,
        account=_one_of("account", site.accounts, form.get("account", "")) if site.accounts else None,
    )


def from_strings(cluster: str, words: Iterable[str]) -> dict[str, list[str]]:
    """Return a form filled in on a command line, for :func:`check`.

    Args:
        cluster: The cluster's name.
        words: ``key=value`` each.

    Raises:
        InvalidChoice: A word without an equals sign.
    """
    form: dict[str, list[str]] = {"cluster": [cluster]}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InvalidChoice(key, f"Write an option as key=value, not as {_shown(word)}.")
        form.setdefault(key, []).append(value)
    return form


def typed(choices: Choices) -> dict[str, str]:
    """Return choices as one types them: what :func:`check` reads back as the same choices."""
    return {
        "cluster": choices.cluster,
        "application": choices.application,
        "partition": choices.partition,
        "walltime": _walltime_words(choices.walltime),
        "cores": str(choices.cores),
        "memory": _memory_words(choices.memory),
        **({"gpus": str(choices.gpus)} if choices.gpus else {}),
        **({"gpu_type": choices.gpu_type} if choices.gpu_type else {}),
        **({"account": choices.account} if choices.account else {}),
    }


def format_walltime(minutes: int) -> str:
    """Return a walltime in words: ``90`` minutes are ``1 hour 30 minutes``."""
    days, rest = divmod(minutes, 24 * 60)
    hours, left = divmod(rest, 60)
    parts = [(days, "day"), (hours, "hour"), (left, "minute")]
    return " ".join(f"{n} {unit}{'' if n == 1 else 's'}" for n, unit in parts if n) or "0 minutes"


def format_memory(megabytes: int) -> str:
    """Return an amount of memory in words: ``1536`` megabytes are ``1.5 GB``."""
    for size, unit in ((1024 * 1024, "TB"), (1024, "GB")):
        if megabytes >= size and megabytes * 10 % size == 0:
            return f"{megabytes / size:g} {unit}"
    return f"{megabytes} MB"


# --- one value after the other ------------------------------------------------------------------------


def _single(name: str, values: Sequence[str]) -> str:
    if len(values) > 1:
        raise InvalidChoice(name, f"{_shown(name)} is there more than once.")
    return values[0].strip() if values else ""


def _site(sites: Mapping[str, SiteConfig], name: str) -> SiteConfig:
    return sites[_one_of("cluster", list(sites), name if name or len(sites) != 1 else next(iter(sites)))]


def _one_of(field: str, offered: Sequence[str], value: str) -> str:
    """Return the value, which must be one of those offered; the first of them for none (but no cluster)."""
    if not value and offered and field != "cluster":
        return offered[0]
    if value not in offered:
        known = ", ".join(offered) or "none"
        raise InvalidChoice(field, f"There is no {field} {_shown(value)}. There is: {known}.")
    return value


def _partition(site: SiteConfig, name: str) -> Partition:
    if not name:
        return _default_partition(site)
    _one_of("partition", [p.name for p in site.partitions], name)
    return next(p for p in site.partitions if p.name == name)


def _walltime(partition: Partition, text: str) -> int:
    try:
        minutes = parse_walltime(text) if text else _default_walltime(partition)
    except ValueError as error:
        raise InvalidChoice("walltime", _sentence(error)) from None
    if minutes > partition.max_walltime:
        longest = format_walltime(partition.max_walltime)
        raise InvalidChoice("walltime", f"The longest walltime on {partition.name} is {longest}.")
    return minutes


def _memory(partition: Partition, text: str) -> int:
    try:
        megabytes = parse_memory(text) if text else _default_memory(partition)
    except ValueError as error:
        raise InvalidChoice("memory", _sentence(error)) from None
    if megabytes > partition.max_memory:
        most = format_memory(partition.max_memory)
        raise InvalidChoice("memory", f"The most memory on {partition.name} is {most}.")
    return megabytes


def _gpus(partition: Partition, count: str, kind: str) -> tuple[int, str | None]:
    if kind and kind not in partition.gpus:
        known = ", ".join(partition.gpus) or "none"
        raise InvalidChoice(
            "gpu_type", f"{partition.name} has no GPUs of type {_shown(kind)}. It has: {known}."
        )
    if count not in ("", "0") and not partition.gpus:
        raise InvalidChoice("gpus", f"{partition.name} has no GPUs.")
    most = partition.gpus[kind] if kind else max(partition.gpus.values(), default=0)
    number = _count(
        "gpus",
        count or "0",
        0,
        most,
        f"of type {kind} on {partition.name}" if kind else f"on {partition.name}",
    )
    if not number:
        return 0, None
    return number, kind or (next(iter(partition.gpus)) if len(partition.gpus) == 1 else None)


def _count(field: str, text: str, least: int, most: int, where: str) -> int:
    what = {"cores": "cores", "gpus": "GPUs"}[field]
    if not (text.isascii() and text.isdigit() and len(text) <= 7) or int(text) < least:
        raise InvalidChoice(field, f"Write the number of {what} as a whole number, at least {least}.")
    if int(text) > most:
        raise InvalidChoice(field, f"The most {what} {where} is {most}.")
    return int(text)


# --- defaults and words -------------------------------------------------------------------------------


def _choice(name: str, label: str, choices: tuple[Option, ...], default: str) -> Field:
    return Field(name, label, Kind.CHOICE if len(choices) > 1 else Kind.HIDDEN, default, choices)


def _default_partition(site: SiteConfig) -> Partition:
    return next((p for p in site.partitions if p.default), site.partitions[0])


def _default_walltime(partition: Partition) -> int:
    return min(partition.default_walltime or _WALLTIME, partition.max_walltime)


def _default_memory(partition: Partition) -> int:
    return min(_MEMORY, partition.max_memory)


def _gpu_types(site: SiteConfig) -> dict[str, int]:
    """Return the most GPUs of each type that one job may have somewhere on the site."""
    most: dict[str, int] = {}
    for partition in site.partitions:
        for kind, count in partition.gpus.items():
            most[kind] = max(count, most.get(kind, 0))
    return most


def _longest(site: SiteConfig) -> str:
    return format_walltime(max(p.max_walltime for p in site.partitions))


def _describe(partition: Partition) -> str:
    cores = f"{partition.max_cores} core{'' if partition.max_cores == 1 else 's'}"
    gpus = [f"{count} {kind} GPU{'' if count == 1 else 's'}" for kind, count in partition.gpus.items()]
    limits = [format_walltime(partition.max_walltime), cores, format_memory(partition.max_memory), *gpus]
    return f"{partition.title or partition.name} (up to {', '.join(limits)})"


def _walltime_words(minutes: int) -> str:
    for size, unit in ((24 * 60, "d"), (60, "h")):
        if minutes % size == 0:
            return f"{minutes // size}{unit}"
    return f"{minutes}m"


def _memory_words(megabytes: int) -> str:
    return f"{megabytes // 1024}G" if megabytes % 1024 == 0 else f"{megabytes}M"


def _sentence(error: ValueError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def _shown(text: str) -> str:
    """Return text from outside as one short line within a sentence."""
    return repr(text[:60])
