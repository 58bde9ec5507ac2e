"""What is said of site configs: the schemas, the docs and the examples say what the models do."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from gateway.cli import main
from gateway.errors import ConfigError
from gateway.siteconfig import DropIn, SiteConfig, parse_drop_in
from gateway.siteconfig.schema import DIALECT, schema, tables
from gateway.sitemerge import merge
from gateway.sites import load_site, read_source

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = REPOSITORY / "docs/site-configs.rst"
SITES = sorted((REPOSITORY / "site-configs").glob("*.yaml"))
DROP_INS = sorted((REPOSITORY / "site-configs/site.d").glob("*.yaml"))
_SAMPLE = re.compile(r"\.\. code-block:: yaml\n\n((?:   .*\n|\n)+)")

SITE: dict[str, Any] = {
    "version": 1,
    "name": "cascade",
    "title": "Cascade",
    "scheduler": "slurm",
    "login": {"hosts": ["login1"], "user": "svc", "key": "/k", "known_hosts": "/h", "act_as": "sudo"},
}
PARTITION = {"name": "short", "max_walltime": "7-00:00:00", "max_memory": "4G", "gpus": {"a100": 4}}


def refused(document: dict[str, Any], *, drop_in: bool = False) -> bool:
    """Whether an editor would say that it is wrong; the gateway must be of the same opinion."""
    validator = jsonschema.Draft202012Validator(schema(drop_in=drop_in))
    wrong = not validator.is_valid(document)
    parse = parse_drop_in if drop_in else lambda text, source: merge((text, source))
    try:
        parse(json.dumps(document), "x.yaml")
    except ConfigError:
        assert wrong, "only the gateway refuses it"
    else:
        assert not wrong, "only the schema refuses it"
    return wrong


@pytest.mark.parametrize("drop_in", [False, True])
def test_the_schema_is_one_of_2020_12(drop_in: bool) -> None:
    found = schema(drop_in=drop_in)
    assert found["$schema"] == DIALECT
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["properties"].keys() == (DropIn if drop_in else SiteConfig).model_fields.keys()


def test_the_schema_takes_values_as_they_are_written() -> None:
    assert not refused(SITE)
    assert not refused(SITE | {"partitions": [PARTITION], "tunnel": "direct"})
    assert not refused(SITE | {"tunnel": {"ports": "30000-31000"}, "accounts": [2024]})
    form = {"fix": {"cores": 4, "exclusive": True}, "rules": []}
    assert not refused({"version": 1, "partitions": [PARTITION], "form": form}, drop_in=True)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"partitions": [PARTITION | {"max_walltime": "soon"}]},
        {"partitions": [PARTITION | {"max_memory": "4 apples"}]},
        {"partitions": [PARTITION | {"max_cores": 0}]},
        {"partitions": [PARTITION | {"cores": 4}]},
        {"partitions": [PARTITION | {"gpus": {"a 100": 4}}]},
        {"applications": [{"name": "lab", "title": "Lab", "command": []}]},
        {"form": {"hide": ["No"]}},
        {"form": {"fields": [{"name": "x", "label": "X", "kind": "picture"}]}},
        {"login": {"hosts": []}},
    ],
    ids=json.dumps,
)
def test_an_editor_and_the_gateway_agree_on_what_is_wrong(change: dict[str, Any]) -> None:
    assert refused(SITE | change)
    assert refused({"version": 1} | change, drop_in=True)


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
    assert main(["schema", "--drop-in"]) == 0
    assert json.loads(capsys.readouterr().out) == schema(drop_in=True)
    assert main(["schema", "--rst"]) == 0
    assert capsys.readouterr().out == tables() + "\n"


def test_the_tables_in_the_docs_are_todays() -> None:
    _, _, rest = DOCUMENT.read_text().partition('written by "gateway schema --rst"\n\n')
    written, _, _ = rest.partition("\n.. end of the keys\n")
    assert written == tables(), "put what gateway schema --rst prints between these two lines"


def test_every_sample_in_the_docs_is_good() -> None:
    samples = [textwrap.dedent(sample) for sample in _SAMPLE.findall(DOCUMENT.read_text())]
    assert samples
    for sample in samples:
        parse_drop_in(sample, "docs/site-configs.rst")


def test_drop_ins_are_checked_alone_and_with_their_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, drop_in = str(REPOSITORY / "site-configs/sudo.yaml"), tmp_path / "a.yaml"
    drop_in.write_text("version: 1\nform:\n  fix: {partition: nosuch}\n")
    assert main(["check", "--drop-in", str(drop_in)]) == 0  # the partition may be the cluster's
    assert main(["check", site, "--drop-in", str(tmp_path)]) == 1
    assert f"{drop_in}:3: form.fix.partition: there is no partition nosuch" in capsys.readouterr().out
    drop_in.write_text("version: 1\nscheduler: local\n")
    assert main(["check", "--drop-in", str(drop_in)]) == 1
    assert capsys.readouterr().out.startswith(f"{drop_in}:2: scheduler: this belongs into")
    assert main(["check"]) == 1
    assert main(["check", site, site, "--drop-in", str(drop_in)]) == 1


@pytest.mark.parametrize("path", SITES, ids=lambda path: str(path.name))
def test_every_example_is_good(path: Path) -> None:
    load_site(path)


@pytest.mark.parametrize("path", DROP_INS, ids=lambda path: str(path.name))
def test_every_example_of_a_drop_in_is_good(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = REPOSITORY / "site-configs/sudo.yaml"
    assert main(["check", "--drop-in", str(path)]) == 0
    assert main(["check", str(site), "--drop-in", str(path.parent)]) == 0
    assert "ok: Cascade" in capsys.readouterr().out
    assert merge(read_source(site), [read_source(path)]).partition("short").title == "Short jobs"  # type: ignore[union-attr]
