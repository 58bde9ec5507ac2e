"""Site configs: what is refused, with which words and on which line."""

from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.siteconfig import parse_memory, parse_site_config, parse_walltime
from gateway.sites import load_site, load_sites

GOOD = """\
version: 1
name: cascade
title: Cascade
scheduler: slurm
login:
  hosts: [login1.example.org]
  user: gateway
  key: /etc/gateway/ssh/cascade
  known_hosts: /etc/gateway/ssh/known_hosts
  act_as: sudo
partitions:
  - name: short
    max_walltime: 4h
    max_cores: 32
    max_memory: 128G
    gpus: {a100: 4}
    default: true
  - {name: long, max_walltime: 7-00:00:00, max_memory: 1T}
applications:
  - {name: lab, title: JupyterLab, command: [jupyter, lab], shell: /bin/bash -l, url: /lab}
"""


def fault(old: str, new: str) -> str:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        parse_site_config(GOOD.replace(old, new), "site.yaml")
    return str(caught.value)


def test_a_good_one_is_read() -> None:
    site = parse_site_config(GOOD, "site.yaml")
    short, long = site.partitions
    assert (short.max_walltime, short.max_memory, short.gpus) == (240, 128 * 1024, {"a100": 4})
    assert (long.max_walltime, long.max_cores) == (7 * 24 * 60, 1)
    assert site.tunnel.ports == (20000, 29999)
    assert site.partition("nosuch") is None


@pytest.mark.parametrize(
    ("old", "new", "line", "where", "what"),
    [
        ("4h", "soon", 13, "partitions[0].max_walltime", "write a walltime as"),
        ("128G", "128", 15, "partitions[0].max_memory", "whole number and a unit"),
        ("name: short", "name: 'a b'", 12, "partitions[0].name", "'a b' is not allowed"),
        ("max_cores: 32", "cores: 32", 14, "partitions[0].cores", "there is no such key"),
        ("act_as: sudo", "act_as: root", 10, "login.act_as", "sudo"),
        ("  user: gateway\n", "", 5, "login.user", "required"),
        ("/etc/gateway/ssh/cascade", "ssh/key", 8, "login.key", "absolute path"),
        ("name: long", "name: short", 11, "partitions", "short is there twice"),
        ("title: Cascade", "title: Cascade\ntitle: Again", 4, "", "title is there twice"),
        ("title: Cascade", "title: &x Cascade\nname: *x", 4, "", "aliases are not allowed"),
        ("title: Cascade", "title: ]", 3, "", "expected"),
        ("title: Cascade", "title: !!python/object:os.system x", 3, "", "constructor"),
        ("[login1.example.org]", "['-oProxyCommand=x']", 6, "login.hosts[0]", "not allowed"),
        ("/bin/bash -l", "/bin/tcsh", 20, "applications[0].shell", "not allowed"),
    ],
)
def test_a_fault_names_its_line_and_place(old: str, new: str, line: int, where: str, what: str) -> None:
    text = fault(old, new)
    assert text.startswith(f"site.yaml:{line}: {where}")
    assert what in text


def test_all_faults_are_told_at_once() -> None:
    text = fault("4h", "soon\n    foo: 1")
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize("text", ["", "- a", "just words", "\x00"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^site\.yaml:1: "):
        parse_site_config(text, "site.yaml")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("30m", 30), ("4h", 240), ("2d", 2880), ("01:30", 90), ("00:00:01", 1), ("1-00:00:00", 1440)],
)
def test_walltimes(text: str, minutes: int) -> None:
    assert parse_walltime(text) == minutes


@pytest.mark.parametrize("text", ["", "0m", "-1h", "1h30", "4", "1.5h", "٣h", "00:00:00"])
def test_what_is_no_walltime(text: str) -> None:
    with pytest.raises(ValueError, match="walltime"):
        parse_walltime(text)


def test_memory() -> None:
    assert [parse_memory(text) for text in ("512M", "4G", "1TiB")] == [512, 4096, 1048576]
    for text in ("", "0G", "4", "1.5G", "-1G"):
        with pytest.raises(ValueError, match="memory"):
            parse_memory(text)


def test_a_directory_of_site_configs(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    assert list(load_sites(tmp_path)) == ["cascade"]
    (tmp_path / "b.yaml").write_text(GOOD.replace("4h", "soon"))
    (tmp_path / "c.yaml").write_bytes(b"version: 1\nname: \xff")
    with pytest.raises(ConfigError) as caught:
        load_sites(tmp_path)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        f"{tmp_path}/b.yaml:13",
        f"{tmp_path}/c.yaml:2",
    ]


def test_an_empty_directory_and_a_missing_file_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no site config"):
        load_sites(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_site(tmp_path / "nosuch.yaml")


def test_every_example_is_valid() -> None:
    examples = Path(__file__).parents[2] / "site-configs"
    found = sorted(examples.glob("*.yaml"))
    assert found
    for path in found:
        load_site(path)
