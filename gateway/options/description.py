"""The whole form as one value: the page is made of it, the browser evaluates it, clients may read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gateway.discovery import Discovery
from gateway.model import User
from gateway.options.fields import Field, Kind, all_fields
from gateway.options.limits import all_rules
from gateway.options.offer import Offer, offer
from gateway.rules import Rule, same
from gateway.siteconfig import Preset, SiteConfig


@dataclass(frozen=True, slots=True)
class Form:
    """A cluster's form for one person: its fields, the rules between them, and what fills in several."""

    offered: Offer
    fields: tuple[Field, ...]
    rules: tuple[Rule, ...]
    presets: tuple[Preset, ...]

    def field(self, name: str) -> Field | None:
        """Return the field of this name, if there is one."""
        return next((field for field in self.fields if field.name == name), None)

    def values(self, typed: Mapping[str, str]) -> dict[str, str]:
        """Return what every field holds where ``typed`` was typed: its default where that is not possible."""
        if not self.fields:
            return {}
        partition = typed.get("partition", "")
        if self.offered.site.partition(partition) not in self.offered.partitions:
            partition = self.offered.start.name
        return {field.name: _fitting(field, typed.get(field.name), partition) for field in self.fields}


def form(site: SiteConfig, user: User | None, discovery: Discovery | None = None) -> Form:
    """Return a cluster's form. The arguments are those of `offer.offer`."""
    offered = offer(site, user, discovery)
    fields = all_fields(offered)
    by_name = {field.name: field for field in fields}
    presets = tuple(each for each in site.form.presets if _is_possible(each, by_name))
    return Form(offered, fields, all_rules(offered, fields), presets)


def fields(site: SiteConfig, user: User | None, discovery: Discovery | None = None) -> tuple[Field, ...]:
    """Return a form's fields. The arguments are those of `offer.offer`."""
    return all_fields(offer(site, user, discovery))


def form_description(
    site: SiteConfig, user: User | None, discovery: Discovery | None = None
) -> dict[str, Any]:
    """Return a form for JSON: its fields, rules and presets. The arguments are those of `offer.offer`."""
    return as_json(form(site, user, discovery))


def as_json(made: Form) -> dict[str, Any]:
    """Return a form for JSON."""
    return {
        "cluster": made.offered.site.name,
        "title": made.offered.site.title,
        "fields": [asdict(field) for field in made.fields],
        "rules": [asdict(rule) for rule in made.rules],
        "presets": [each.model_dump() for each in made.presets],
    }


def _fitting(field: Field, typed: str | None, partition: str) -> str:
    default = field.default_on(partition)
    if typed is None or field.kind in (Kind.HIDDEN, Kind.FIXED):
        return default
    if field.choices and typed not in {option.value for option in field.choices}:
        return default
    return typed


def _is_possible(preset: Preset, fields: Mapping[str, Field]) -> bool:
    """Return whether every field that a preset fills in is there for this person, and has that value."""
    for name, value in preset.values.items():
        field = fields.get(name)
        if field is None:
            return False
        if field.kind in (Kind.HIDDEN, Kind.FIXED) and not same(field.measure, value, field.default):
            return False
        if field.choices and value not in {option.value for option in field.choices}:
            return False
    return True
