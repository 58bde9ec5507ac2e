"""``gateway generate-config``: every setting is in it, it loads as it is, and what must be set is marked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.commands.generate_config import config_text
from gateway.config import SECTIONS, load_settings


def uncommented(marked: bool) -> str:
    """Return the configuration with all settings uncommented, or only those that must be set."""
    text, must = [], False
    for line in config_text().splitlines():
        if re.match(r"# c\.\w+\.\w+ = ", line):
            text.append(line.removeprefix("# ") if must or not marked else line)
        else:
            text.append(line)
            must = line.endswith("for example:") if line.startswith("#") else False
    return "\n".join(text) + "\n"


def test_every_setting_stands_there_once_with_its_meaning() -> None:
    text = config_text()
    for name, section in SECTIONS.items():
        for trait in section.class_traits(config=True).values():
            assert len(re.findall(rf"^# c\.{name}\.{trait.name} = ", text, re.MULTILINE)) == 1
            assert trait.help, f"c.{name}.{trait.name} has no help"
    assert all(len(line) <= 100 for line in text.splitlines() if not line.startswith("# c."))


def test_as_it_is_it_changes_nothing_and_with_all_defaults_neither(tmp_path: Path) -> None:
    path = tmp_path / "gateway_config.py"
    path.write_text(config_text())
    untouched = load_settings(path)
    path.write_text(uncommented(marked=False))
    spelled_out = load_settings(path)
    for name, section in SECTIONS.items():
        for trait in section.class_traits(config=True).values():
            sections = [getattr(each, name.lower()) for each in (untouched, spelled_out)]
            values = [getattr(each, str(trait.name)) for each in sections]
            assert "example" in trait.metadata or values[0] == values[1], trait.name


def test_the_settings_that_must_be_set_are_those_that_are_marked(tmp_path: Path) -> None:
    path = tmp_path / "gateway_config.py"
    path.write_text(uncommented(marked=True))
    settings = load_settings(path)
    settings.require(settings.gateway, "public_url", "tls_certificate")
    settings.require(settings.ldap, "servers", "ca_file", "reader_dn", "reader_password_file", "user_base")


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway_config.py"
    assert main(["generate-config", "-o", str(path)]) == 0
    assert (path.read_text(), path.stat().st_mode & 0o777) == (config_text(), 0o640)
    path.write_text("mine")
    assert main(["generate-config", "-o", str(path)]) == 1
    assert path.read_text() == "mine"
    assert "is there already" in capsys.readouterr().err
