"""The gateway's configuration: what is wrong with it is said in one sentence, with the file and the mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Settings, load_settings
from gateway.errors import ConfigError


def load(directory: Path, text: str) -> Settings:
    path = directory / "gateway_config.py"
    path.write_text(text)
    return load_settings(path)


def fault(directory: Path, text: str) -> str:
    """Return what is wrong with a configuration, without its directory."""
    with pytest.raises(ConfigError) as caught:
        load(directory, text)
    return str(caught.value).removeprefix(f"{directory}/")


def test_settings_are_read_and_the_others_have_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, "c.Gateway.state_dir = '/srv/gateway'\nc.Ldap.timeout = 3\n")
    assert settings.database_url == "sqlite+aiosqlite:////srv/gateway/gateway.sqlite"
    assert (settings.ldap.timeout, settings.gateway.layout) == (3, "per-user")


def test_a_configuration_may_begin_with_get_config_and_an_empty_one_is_one(tmp_path: Path) -> None:
    assert load(tmp_path, "c = get_config()\nc.Gateway.bind = [':443']\n").gateway.bind == [":443"]
    assert load(tmp_path, "").gateway.bind == ["127.0.0.1:8443"]


def test_a_database_that_is_named_is_taken(tmp_path: Path) -> None:
    settings = load(tmp_path, "c.Gateway.database_url = 'sqlite+aiosqlite:////elsewhere.sqlite'\n")
    assert settings.database_url == "sqlite+aiosqlite:////elsewhere.sqlite"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("c.Gateway.bind = [\n", "gateway_config.py:1: '[' was never closed"),
        ("\nc.Gateway.bind = 1/0\n", "gateway_config.py:2: ZeroDivisionError: division by zero"),
        ("c.Gateway.bind = bindings\n", "gateway_config.py:1: NameError: name 'bindings' is not defined"),
        ("\n\nimport sys\nsys.exit('no')\n", "gateway_config.py:4: SystemExit: no"),
        (
            "c.Gateway.pubic_url = ''\n",
            "gateway_config.py: c.Gateway.pubic_url: there is no such setting; did you mean public_url?",
        ),
        ("c.Ldap.zzz = ''\n", "gateway_config.py: c.Ldap.zzz: there is no such setting"),
        (
            "c.Gatway.bind = []\n",
            "gateway_config.py: c.Gatway: there is no such section; did you mean Gateway?",
        ),
        (
            "c.JupyterHub.ip = ''\n",
            "gateway_config.py: c.JupyterHub: there is no such section",
        ),
        (
            "c.Gateway.session_hours = 'a week'\n",
            "gateway_config.py: c.Gateway.session_hours expected an int, not the str 'a week'.",
        ),
        (
            "c.Gateway.session_hours = 0\n",
            (
                "gateway_config.py: c.Gateway.session_hours should not be less than 1, "
                "but a value of 0 was specified"
            ),
        ),
        (
            "c.Gateway.layout = 'both'\n",
            "gateway_config.py: c.Gateway.layout expected any of ['per-user', 'single'], not the str 'both'.",
        ),
    ],
)
def test_a_fault_is_told_with_the_file_and_where_in_it(tmp_path: Path, text: str, words: str) -> None:
    assert fault(tmp_path, text) == words


def test_a_section_in_place_of_which_there_is_a_value_is_told_with_its_line(tmp_path: Path) -> None:
    assert fault(tmp_path, "\nc.Gateway = 3\n").startswith("gateway_config.py:2: ValueError: ")


@pytest.mark.parametrize("text", ["x = '\0'\n", "x = '\udcff'\n"])
def test_a_file_that_is_no_python_text_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gateway_config.py"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert str(caught.value).startswith(f"{path}:")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told_with_the_option_that_names_another(tmp_path: Path) -> None:
    for path in (tmp_path / "none.py", tmp_path):
        with pytest.raises(ConfigError) as caught:
            load_settings(path)
        assert str(caught.value) == f"{path}: there is no such file; name one with -f"


def test_a_setting_that_must_be_there_is_told_with_what_it_means(tmp_path: Path) -> None:
    settings = load(tmp_path, "c.Gateway.public_url = 'https://gw.example.org/'\n")
    with pytest.raises(ConfigError) as caught:
        settings.require(settings.gateway, "public_url", "tls_certificate")
    assert str(caught.value) == (
        f"{tmp_path}/gateway_config.py: set c.Gateway.tls_certificate: "
        "A PEM file with the certificate, its chain and its key (0600). "
        "A new one is taken up within seconds. "
        "For example '/etc/gateway/tls.pem'."
    )


def test_a_file_that_a_setting_names_must_be_readable(tmp_path: Path) -> None:
    (tmp_path / "tls.pem").touch()
    settings = load(tmp_path, f"c.Gateway.tls_certificate = '{tmp_path}/tls.pem'\n")
    settings.require_file(settings.gateway, "tls_certificate")
    (tmp_path / "tls.pem").unlink()
    with pytest.raises(ConfigError) as caught:
        settings.require_file(settings.gateway, "tls_certificate")
    assert str(caught.value) == (
        f"{tmp_path}/gateway_config.py: c.Gateway.tls_certificate: {tmp_path}/tls.pem: "
        "No such file or directory"
    )
