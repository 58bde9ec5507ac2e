"""Rules between the form's fields: the cases that the browser's half is held to as well."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.rules import Measure, Rule, broken, is_ticked, same

CASES: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "recordings" / "form" / "rules.json").read_text()
)
MEASURES = {name: Measure(measure) for name, measure in CASES["measures"].items()}
RULES = [Rule(**rule) for rule in CASES["rules"]]


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: json.dumps(case["values"]))
def test_a_rule_breaks_only_where_it_counts(case: dict[str, Any]) -> None:
    assert [RULES.index(rule) for rule in broken(RULES, MEASURES, case["values"])] == case["broken"]


def test_every_rule_of_the_cases_is_broken_somewhere() -> None:
    assert {number for case in CASES["cases"] for number in case["broken"]} == set(range(len(RULES)))


@pytest.mark.parametrize("text", ["", "0", "no", "No", "off", "false", "False"])
def test_a_checkbox_with_one_of_these_words_is_not_ticked(text: str) -> None:
    assert not is_ticked(text)
    assert is_ticked("true")
    assert same(Measure.FLAG, text, "")
    assert not same(Measure.FLAG, text, "true")


def test_what_cannot_be_measured_is_compared_as_it_is_written() -> None:
    assert same(Measure.WALLTIME, "4h", "240m")
    assert same(Measure.WALLTIME, "soon", "soon")
    assert not same(Measure.WALLTIME, "soon", "4h")
    assert not same(Measure.NUMBER, "x", "y")
    assert not same(Measure.NUMBER, "1", "x")


def test_a_field_that_is_no_measure_is_a_word() -> None:
    rule = Rule("partition", "Only short.", when={"site": ("010",)}, one_of=("010",))
    assert broken((rule,), {}, {"site": "10", "partition": "x"}) == ()
    assert broken((rule,), {}, {"site": "010", "partition": "10"}) == (rule,)
    assert broken((rule,), {}, {"site": "010", "partition": "010"}) == ()
