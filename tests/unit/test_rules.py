"""Rules between the form's fields: the cases that the browser's half is held to as well."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.rules import Measure, Rule, broken

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
