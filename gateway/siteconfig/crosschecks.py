"""What must hold between the parts of a site config, once each for itself is good."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from gateway.siteconfig.dropin import AddedField, DropIn, Rule
from gateway.siteconfig.fault import Fault, Location
from gateway.siteconfig.pattern import pattern_fault
from gateway.siteconfig.site import SiteConfig
from gateway.siteconfig.words import DIRECTIVE_WORD, parse_memory, parse_walltime

#: The fields that the form has by itself.
FIELDS = (
    "application",
    "partition",
    "walltime",
    "cores",
    "memory",
    "gpus",
    "gpu_type",
    "account",
    "qos",
    "reservation",
    "constraint",
    "exclusive",
)
#: Words that the pages' forms and links use for something else.
_TAKEN = ("cluster", "name", "next", "preset", "server")
#: Fields whose values stand on a scheduler's directive line as they are.
_WORDS = ("account", "qos", "reservation", "constraint")
_WORD = re.compile(DIRECTIVE_WORD, re.ASCII)
#: Fields whose values have an order.
_ORDERED = ("walltime", "cores", "memory", "gpus")
#: Names that a fault lists.
_LISTED = 40


def cross_faults(config: DropIn) -> Iterator[Fault]:
    """Return what is wrong between the parts.

    Names of fields that do not exist, values that a field cannot have, and rules that say nothing.
    """
    known = _Known.of(config)
    yield from _added_faults(config)
    yield from _name_faults(config, {*FIELDS, *known.added})
    yield from _relay_faults(config)
    seen: set[str] = set()
    for index, preset in enumerate(config.form.presets):
        if preset.name in seen:
            yield Fault(("form", "presets", index, "name"), f"{preset.name} is there twice")
        seen.add(preset.name)
        yield from _value_faults(known, ("form", "presets", index, "values"), preset.values)
    yield from _value_faults(known, ("form", "fix"), config.form.fix)
    for index, rule in enumerate(config.form.rules):
        yield from _rule_faults(known, ("form", "rules", index), rule)


@dataclass(frozen=True, slots=True)
class _Known:
    """What values may refer to: the fields that the site adds, and the names that other fields may have."""

    added: Mapping[str, AddedField]
    names: Mapping[str, Collection[str]]

    @classmethod
    def of(cls, config: DropIn) -> _Known:
        """Return what a site config knows. A drop-in alone does not know all partitions and applications."""
        added = {field.name: field for field in config.form.fields}
        if not isinstance(config, SiteConfig):
            return cls(added, {})
        partitions = dict.fromkeys(partition.name for partition in config.partitions)
        applications = dict.fromkeys(application.name for application in config.applications)
        return cls(added, {"partition": partitions, "application": applications})


def _listed(names: Collection[str]) -> str:
    """Return names as a fault lists them: of very many the first."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(islice(names, _LISTED)) + more


def _added_faults(config: DropIn) -> Iterator[Fault]:
    seen: set[str] = set()
    hidden = {name: index for index, name in enumerate(config.form.hide) if name not in config.form.fix}
    for index, field in enumerate(config.form.fields):
        here = ("form", "fields", index)
        if field.name in (*FIELDS, *_TAKEN):
            yield Fault((*here, "name"), f"{field.name} is a field of the gateway's own: choose another name")
        if field.name in seen:
            yield Fault((*here, "name"), f"{field.name} is there twice")
        seen.add(field.name)
        yield from _kind_faults(here, field)
        if field.default and (what := _added_value_fault(field, field.default)):
            yield Fault((*here, "default"), what)
        if field.required and not field.default and field.name in hidden:
            what = f"{field.name} must be filled in, but is hidden: give it a default, or a value by form.fix"
            yield Fault(("form", "hide", hidden[field.name]), what)


def _kind_faults(here: Location, field: AddedField) -> Iterator[Fault]:
    """Return what does not go with the kind of the field."""
    if field.kind == "choice" and not field.choices:
        yield Fault((*here, "choices"), "a choice needs choices")
    for key, kind in (
        ("choices", "choice"),
        ("minimum", "number"),
        ("maximum", "number"),
        ("pattern", "text"),
    ):
        if getattr(field, key) not in ({}, None, "") and field.kind != kind:
            yield Fault((*here, key), f"only a field of kind: {kind} has this")
    if what := pattern_fault(field.pattern):
        yield Fault((*here, "pattern"), what)
    if field.minimum is not None and field.maximum is not None and field.minimum > field.maximum:
        yield Fault((*here, "minimum"), "it is larger than maximum")


def _name_faults(config: DropIn, names: set[str]) -> Iterator[Fault]:
    form = config.form
    said: list[tuple[Location, str]] = [(("hide", index), name) for index, name in enumerate(form.hide)]
    for key, mapping in (("rename", form.rename), ("fix", form.fix), ("help", form.help)):
        said += [((key, name), name) for name in mapping]
    for index, preset in enumerate(form.presets):
        said += [(("presets", index, "values", name), name) for name in preset.values]
    for index, rule in enumerate(form.rules):
        said.append((("rules", index, "field"), rule.field))
        said += [(("rules", index, "when", name), name) for name in rule.when]
        said += [(("rules", index, "unless", name), name) for name in rule.unless]
    listed = _listed(sorted(names))
    for where, name in said:
        if name not in names:
            yield Fault(("form", *where), f"the form has no field {name}: it has {listed}")


def _relay_faults(config: DropIn) -> Iterator[Fault]:
    """Return where a relay could not know the application, or would let everybody in."""
    plain = isinstance(config, SiteConfig) and config.tunnel.node_security == "plain"
    for index, application in enumerate(config.applications):
        if application.tls != "relay":
            continue
        named = [word for word in ("{socket}", "{port}") if any(word in each for each in application.command)]
        if len(named) != 1:
            what = "tls: relay needs one of {socket} and {port} in it: where the application is to listen"
            yield Fault(("applications", index, "command"), what)
        if plain:
            what = (
                "relay needs tunnel.node_security: tls or ssh, or all the network could use the application"
            )
            yield Fault(("applications", index, "tls"), what)


def _value_faults(known: _Known, here: Location, values: Mapping[str, str]) -> Iterator[Fault]:
    for name, value in values.items():
        if what := _value_fault(known, name, value):
            yield Fault((*here, name), what)


def _rule_faults(known: _Known, here: Location, rule: Rule) -> Iterator[Fault]:
    if rule.at_least is None and rule.at_most is None and rule.one_of is None:
        yield Fault(here, "a rule needs at_least, at_most or one_of")
    added = known.added.get(rule.field)
    ordered = rule.field in _ORDERED or (added is not None and added.kind == "number")
    for key, value in (("at_least", rule.at_least), ("at_most", rule.at_most)):
        if value is None:
            continue
        fits = ordered or (rule.field not in FIELDS and added is None)
        what = _value_fault(known, rule.field, value) if fits else f"{rule.field} has no order"
        if what:
            yield Fault((*here, key), what)
    listed: list[tuple[Location, str, str]] = [
        ((*here, key, name, index), name, value)
        for key, mapping in (("when", rule.when), ("unless", rule.unless))
        for name, values in mapping.items()
        for index, value in enumerate(values)
    ]
    listed += [((*here, "one_of", index), rule.field, value) for index, value in enumerate(rule.one_of or ())]
    for where, name, value in listed:
        if what := _value_fault(known, name, value):
            yield Fault(where, what)


def _value_fault(known: _Known, name: str, value: str) -> str:
    """Return why a field cannot have a value; empty if it can, or if that is not known here."""
    if value == "":
        return ""
    if name in known.added:
        return _added_value_fault(known.added[name], value)
    try:
        if name == "walltime":
            parse_walltime(value)
        elif name == "memory":
            parse_memory(value)
    except ValueError as error:
        return str(error)
    if name in ("cores", "gpus") and not (value.isascii() and value.isdecimal()):
        return "write a whole number"
    if name in _WORDS and not _WORD.fullmatch(value):
        return "write one word of letters, digits and . + @ -"
    if name == "exclusive" and value != "true":
        return 'write true, or "" for no'
    names = known.names.get(name, ())
    return f"there is no {name} {value}: there is {_listed(names)}" if names and value not in names else ""


def _added_value_fault(field: AddedField, value: str) -> str:
    if field.kind == "choice" and value not in field.choices:
        return f"{value!r} is not one of its choices: {_listed(field.choices)}"
    if field.kind == "checkbox" and value != "true":
        return 'write true, or "" for no'
    if field.kind == "number":
        try:
            number = int(value)
        except ValueError:
            return "write a whole number"
        if field.minimum is not None and number < field.minimum:
            return f"it is less than {field.minimum}"
        if field.maximum is not None and number > field.maximum:
            return f"it is more than {field.maximum}"
    return ""
