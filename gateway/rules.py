"""What fields of a form may hold, depending on others: here and in the browser (``rules.js``). Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.siteconfig import parse_memory, parse_walltime

_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)
#: What stands for a box that is ticked, and for one that is not.
TICKED, CLEAR = "true", ""
_CLEAR_WORDS = frozenset({"", "false", "no", "off", "0"})


class Measure(StrEnum):
    """How the values of a field are compared."""

    WORD = "word"
    NUMBER = "number"
    WALLTIME = "walltime"
    MEMORY = "memory"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Rule:
    """What ``field`` may hold where the rule counts; see ``siteconfig.Rule`` for the words."""

    field: str
    message: str
    when: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    unless: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    at_least: str | None = None
    at_most: str | None = None
    one_of: Sequence[str] | None = None


def amount(measure: Measure, text: str) -> int | None:
    """Return how much a value is: minutes, megabytes, a number; None if it is none, or not to be measured."""
    try:
        match measure:
            case Measure.NUMBER:
                return int(text) if _NUMBER.fullmatch(text) else None
            case Measure.WALLTIME:
                return parse_walltime(text)
            case Measure.MEMORY:
                return parse_memory(text)
            case _:
                return None
    except ValueError:
        return None


def same(measure: Measure, one: str, other: str) -> bool:
    """Return whether two values mean the same: ``4h`` and ``240m`` do."""
    if measure is Measure.FLAG:
        return is_ticked(one) == is_ticked(other)
    first, second = amount(measure, one), amount(measure, other)
    return one == other if first is None or second is None else first == second


def is_ticked(text: str) -> bool:
    """Return whether a checkbox's value stands for a box that is ticked."""
    return text.lower() not in _CLEAR_WORDS


def broken(
    rules: Sequence[Rule], measures: Mapping[str, Measure], values: Mapping[str, str]
) -> tuple[Rule, ...]:
    """Return the rules that do not hold.

    Args:
        rules: All of them.
        measures: How the fields are compared, by name; the others are words.
        values: What the fields hold, by name; the others hold nothing. What cannot be read as its field's
            measure breaks no bound: that it cannot be read is another fault.
    """
    return tuple(
        rule for rule in rules if _counts(rule, measures, values) and _breaks(rule, measures, values)
    )


def _counts(rule: Rule, measures: Mapping[str, Measure], values: Mapping[str, str]) -> bool:
    def holds(conditions: Mapping[str, Sequence[str]]) -> bool:
        return all(
            any(same(measures.get(name, Measure.WORD), values.get(name, ""), each) for each in wanted)
            for name, wanted in conditions.items()
        )

    return holds(rule.when) and not (rule.unless and holds(rule.unless))


def _breaks(rule: Rule, measures: Mapping[str, Measure], values: Mapping[str, str]) -> bool:
    measure, value = measures.get(rule.field, Measure.WORD), values.get(rule.field, "")
    if rule.one_of is not None and not any(same(measure, value, each) for each in rule.one_of):
        return True
    if rule.at_least is not None and value == "":
        return True
    much = amount(measure, value)
    least, most = (None if text is None else amount(measure, text) for text in (rule.at_least, rule.at_most))
    if much is None:
        return False
    return (least is not None and much < least) or (most is not None and much > most)
