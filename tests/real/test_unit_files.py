"""The systemd units: systemd understands them, and calls them well confined."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from traitlets.config import Config

from gateway.cli import main
from gateway.config import Settings
from gateway.units import UNITS, render_units

#: The exposure that each may have, of 10; Debian's own haproxy.service has 9.
MOST = 2.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a directory with the units in it, for two users that every machine has."""
    config = tmp_path / "gateway_config.py"
    config.write_text("c.Gateway.proxy_group = 'daemon'\nc.Gateway.run_dir = '/run/gateway-test'\n")
    words = ["units", "-f", str(config), "--user", "bin", "--root", str(tmp_path / "root")]
    assert main(words) == 0
    return tmp_path / "root"


def analyze(*words: str) -> str:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    done = subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return done.stderr


def test_systemd_understands_them_without_a_warning(root: Path) -> None:
    said = analyze("verify", *(str(root / path) for path in UNITS.values()))
    assert [line for line in said.splitlines() if "gateway" in line] == []


@pytest.mark.parametrize("name", UNITS)
def test_they_are_well_confined(root: Path, name: str) -> None:
    analyze("security", "--offline=true", f"--threshold={round(MOST * 10)}", str(root / UNITS[name]))


def test_the_run_directory_is_made_at_boot(root: Path) -> None:
    (line,) = [
        line
        for line in (root / "etc/tmpfiles.d/gateway.conf").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert line.split()[:3] == ["d", "/run/gateway-test", "0710"]


def test_without_a_group_haproxy_runs_as_the_hubs_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "gateway_config.py"
    config.write_text("")
    assert main(["units", "-f", str(config)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("User=gateway\n") == 3
    assert "InaccessiblePaths" not in printed
    assert "master.sock,mode,600" in printed


@pytest.mark.parametrize(
    ("config", "site_dir", "hidden"),
    [
        ("/etc/gateway/gateway_config.py", "/etc/gateway/sites", "-/s/gw -/etc/gateway -/etc/gateway/sites"),
        ("/etc/gateway_config.py", "/srv/g/sites", "-/s/gw -/srv/g/sites -/etc/gateway_config.py"),
        ("/etc/gateway_config.py", "/etc", "-/s/gw -/etc/gateway_config.py"),
        ("/run/gateway/c.py", "/usr/lib", "-/s/gw -/run/gateway/c.py"),
        ("/usr/sbin/c.py", "/srv/g/sites", "-/s/gw -/srv/g/sites -/usr/sbin/c.py"),
    ],
)
def test_haproxy_sees_nothing_of_the_hubs_and_all_of_the_systems(
    config: str, site_dir: str, hidden: str
) -> None:
    values = {"site_dir": site_dir, "state_dir": "/s/gw", "proxy_group": "p", "run_dir": "/run/gateway"}
    values |= {"tls_certificate": "/etc/tls.pem", "haproxy": "/usr/sbin/haproxy"}
    ldap = {"reader_password_file": "/etc/gateway/ldap-password"}
    files = render_units(Settings(Config({"Gateway": values, "Ldap": ldap}), "test"), Path(config), "bin")
    (line,) = re.findall("^InaccessiblePaths=(.*)$", files[UNITS["gateway-haproxy.service"]], re.MULTILINE)
    password = "" if "-/etc/gateway " in f"{hidden} " else " -/etc/gateway/ldap-password"
    assert line == f"{hidden} -/etc/tls.pem{password}"


@pytest.mark.parametrize("run_dir", ["/run/a b", "/run/%h", "/run/a\nUser=root"])
def test_a_value_that_would_mean_something_to_systemd_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run_dir: str
) -> None:
    config = tmp_path / "gateway_config.py"
    config.write_text(f"c.Gateway.run_dir = {run_dir!r}\n")
    assert main(["units", "-f", str(config)]) == 1
    assert capsys.readouterr().out == ""
