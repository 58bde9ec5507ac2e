"""The browser's half of the form's rules: in Chromium it says what the server says, of whatever is typed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from gateway.rules import Rule, broken
from tests.unit.test_rules import CASES, MEASURES, RULES

pytestmark = pytest.mark.browser

PROGRAM = Path("/usr/bin/chromium")
SCRIPT = Path(__file__).resolve().parents[2] / "templates" / "web" / "rules.js"
_ALL = "sets => sets.map(s => Rules.broken(s.rules, s.measures, s.values).map(r => s.rules.indexOf(r)))"
_TYPED = [
    *("", "0", "1", "2", "-3", "007", "1.5", "1e3", "4h", "240m", "90 min", "1-00:00", "24:00:00", "0:00:01"),
    *("512M", "1G", "2GiB", "1T", "0G", "99999999", "true", "no", "gpu", "short", "constructor", "x" * 200),
    *("4\xa0h", "4h\xa0", "\u20284h", "4h\ufeff", "4h\x1c", "4\u2003h", " 4h\t", "4\v h"),
    *("\uff14h", "\uff12", "\uff11G", "1\xa0G"),
]


def _random_sets(count: int) -> list[dict[str, Any]]:
    chance = random.Random(2)
    fields = [*MEASURES, "partition", "__proto__", "toString"]

    def conditions() -> dict[str, list[str]]:
        return {chance.choice(fields): chance.sample(_TYPED, 2) for _ in range(chance.randint(0, 2))}

    def rule() -> dict[str, Any]:
        limit = {name: chance.choice([None, *_TYPED]) for name in ("at_least", "at_most")}
        one_of = chance.choice([None, chance.sample(_TYPED, 5)])
        sides = {"when": conditions(), "unless": conditions()}
        return {"field": chance.choice(fields), "message": "no", "one_of": one_of, **limit, **sides}

    return [
        {
            "measures": CASES["measures"],
            "rules": [rule() for _ in range(3)],
            "values": {name: chance.choice(_TYPED) for name in chance.sample(fields, 4)},
        }
        for _ in range(count)
    ]


def test_server_and_browser_agree() -> None:
    if not PROGRAM.exists():
        pytest.skip("the browser tests need Debian's package chromium")
    known = [
        {"measures": CASES["measures"], "rules": CASES["rules"], "values": case["values"]}
        for case in CASES["cases"]
    ]
    sets = [*known, *_random_sets(3000)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.add_script_tag(content=SCRIPT.read_text().replace("const Rules", "globalThis.Rules", 1))
        said = page.evaluate(f"text => ({_ALL})(JSON.parse(text))", json.dumps(sets))
        browser.close()
    assert said[: len(known)] == [case["broken"] for case in CASES["cases"]]
    for each, numbers in zip(sets, said, strict=True):
        rules = [Rule(**rule) for rule in each["rules"]]
        expected = {id(rule) for rule in broken(rules, MEASURES, each["values"])}
        assert [number for number, rule in enumerate(rules) if id(rule) in expected] == numbers, each
    assert len(RULES) == len(CASES["rules"])
