"""The check of what came back from a form: nothing that the site does not offer gets through."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway import rules
from gateway.discovery import Discovery
from gateway.errors import InvalidChoice
from gateway.model import Choices, User
from gateway.options.fields import Field, Kind, all_fields
from gateway.options.limits import all_rules
from gateway.options.offer import Offer, offer
from gateway.options.words import sentence, shown, type_memory, type_walltime, within
from gateway.rules import CLEAR, TICKED, Measure, amount, is_ticked
from gateway.siteconfig import BLANKS, SiteConfig, parse_memory, parse_walltime

_LINE = re.compile(r"[^\x00-\x1f\x7f]{0,200}")
#: Fields whose values stand in ``Choices`` under their own names; all others are the site's own.
_WORDS = ("gpu_type", "account", "qos", "reservation", "constraint")


def check(
    sites: Mapping[str, SiteConfig],
    submitted: Mapping[str, Sequence[str]],
    user: User | None = None,
    discoveries: Mapping[str, Discovery] | None = None,
) -> Choices:
    """Return what was chosen, once it is certain that the site offers it to this person.

    A field that is missing gets its default, for the partition that was chosen; so does an empty one that has
    to hold something.

    Args:
        sites: The clusters by name.
        submitted: The form's values by field. Only a checkbox may be there twice: its last value counts.
        user: Who chooses; None for an administrator at the command line, who sees everything.
        discoveries: What the clusters' schedulers said last, by cluster.

    Raises:
        InvalidChoice: A value that the site does not offer, or a field that the form does not have.
    """
    site = _site(sites, _single("cluster", submitted.get("cluster", ())))
    form = _Form.of(offer(site, user, (discoveries or {}).get(site.name)))
    if not form.fields:
        raise InvalidChoice("partition", f"Nothing on {site.title} is open to you.")
    if unknown := sorted(submitted.keys() - {field.name for field in form.fields}):
        raise InvalidChoice(unknown[0], f"{site.title} has no such field: {shown(unknown[0])}.")
    values, faults = form.read(submitted)
    for name, words in faults.items():
        raise InvalidChoice(name, words)
    return _choices(form.offered, form.fields, values)


def faults(
    site: SiteConfig,
    submitted: Mapping[str, Sequence[str]],
    user: User | None = None,
    discovery: Discovery | None = None,
) -> dict[str, str]:
    """Return everything that `check` would refuse of the form's own fields: a sentence for each."""
    return _Form.of(offer(site, user, discovery)).read(submitted)[1]


@dataclass(frozen=True, slots=True)
class _Form:
    offered: Offer
    fields: tuple[Field, ...]
    rules: tuple[rules.Rule, ...]

    @classmethod
    def of(cls, offered: Offer) -> _Form:
        fields = all_fields(offered)
        return cls(offered, fields, all_rules(offered, fields))

    def read(self, submitted: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the values of all fields, and the first fault of each."""
        found: dict[str, str] = {}
        values: dict[str, str] = {}
        for field in self.fields:
            try:
                given = _given(field, submitted.get(field.name))
                values[field.name] = _value(field, given, values.get("partition", ""))
            except InvalidChoice as error:
                found[field.name] = error.public
        measures = {field.name: field.measure for field in self.fields}
        for rule in rules.broken(self.rules, measures, values):
            found.setdefault(rule.field, rule.message)
        return values, found


def _site(sites: Mapping[str, SiteConfig], name: str) -> SiteConfig:
    name = name or (next(iter(sites)) if len(sites) == 1 else "")
    if name not in sites:
        known = ", ".join(sites) or "none"
        raise InvalidChoice("cluster", f"There is no cluster {shown(name)}. There is: {known}.")
    return sites[name]


def _given(field: Field, values: Sequence[str] | None) -> str | None:
    """Return what was submitted for a field, None for nothing at all."""
    if field.kind is Kind.CHECKBOX and values and list(values[:-1]) in ([], [CLEAR]):
        return values[-1].strip(BLANKS)
    return None if values is None else _single(field.name, values)


def _single(name: str, values: Sequence[str]) -> str:
    if len(values) > 1:
        raise InvalidChoice(name, f"{shown(name)} is there more than once.")
    return values[0].strip(BLANKS) if values else ""


def _value(field: Field, given: str | None, partition: str) -> str:
    """Return what a field holds.

    Args:
        field: The field.
        given: What was submitted for it, None for nothing at all.
        partition: The one that was chosen.

    Raises:
        InvalidChoice: It may not hold that, whatever the others do.
    """
    default = field.default_on(partition)
    if given is None or (given == "" and not _may_be_empty(field)):
        given = default
    if field.kind in (Kind.FIXED, Kind.HIDDEN) and not rules.same(field.measure, given, default):
        _check_choice(field, given)
        raise InvalidChoice(field.name, f"{field.label} cannot be chosen here: it is {shown(default)}.")
    if field.measure is Measure.FLAG:
        return TICKED if is_ticked(given) else CLEAR
    if field.required and given == "":
        raise InvalidChoice(field.name, f"Fill in {field.label}.")
    _check_choice(field, given)
    _check_text(field, given)
    return given


def _may_be_empty(field: Field) -> bool:
    if field.choices:
        return any(option.value == "" for option in field.choices)
    return field.added or not field.required


def _check_choice(field: Field, value: str) -> None:
    if field.choices and value not in (offered := [option.value for option in field.choices]):
        known = ", ".join(each for each in offered if each) or "none"
        raise InvalidChoice(
            field.name, f"There is no {within(field.label)} {shown(value)}. There is: {known}."
        )


def _check_text(field: Field, value: str) -> None:
    if not _LINE.fullmatch(value):
        raise InvalidChoice(field.name, f"{field.label} is one line of at most 200 characters.")
    if value == "" or field.choices:
        return
    if field.measure in _PARSED:
        try:
            _PARSED[field.measure](value)
        except ValueError as error:
            raise InvalidChoice(field.name, sentence(error)) from None
    elif field.measure is Measure.NUMBER and amount(field.measure, value) is None:
        raise InvalidChoice(field.name, field.fault)
    if field.pattern and not re.fullmatch(field.pattern, value, re.ASCII):
        raise InvalidChoice(field.name, field.fault)


_PARSED = {Measure.WALLTIME: parse_walltime, Measure.MEMORY: parse_memory}


def _choices(offered: Offer, fields: Iterable[Field], values: Mapping[str, str]) -> Choices:
    partition = next(p for p in offered.partitions if p.name == values["partition"])
    gpus = int(values.get("gpus", "0"))
    words = {name: values.get(name) or None for name in _WORDS}
    if not gpus:
        words["gpu_type"] = None
    elif words["gpu_type"] is None and len(partition.gpus) == 1:
        words["gpu_type"] = next(iter(partition.gpus)) or None
    return Choices(
        cluster=values["cluster"],
        application=values["application"],
        partition=partition.name,
        walltime=parse_walltime(values["walltime"]),
        cores=int(values["cores"]),
        memory=parse_memory(values["memory"]),
        gpus=gpus,
        exclusive=is_ticked(values.get("exclusive", "")),
        extra={field.name: values[field.name] for field in fields if field.added},
        **words,
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
            raise InvalidChoice(key, f"Write an option as key=value, not as {shown(word)}.")
        form.setdefault(key, []).append(value)
    return form


def typed(choices: Choices) -> dict[str, str]:
    """Return choices as one types them: what :func:`check` reads back as the same choices."""
    words = {name: value for name in _WORDS if (value := getattr(choices, name)) is not None}
    return {
        "cluster": choices.cluster,
        "application": choices.application,
        "partition": choices.partition,
        "walltime": type_walltime(choices.walltime),
        "cores": str(choices.cores),
        "memory": type_memory(choices.memory),
        **({"gpus": str(choices.gpus)} if choices.gpus else {}),
        **words,
        **({"exclusive": TICKED} if choices.exclusive else {}),
        **choices.extra,
    }
