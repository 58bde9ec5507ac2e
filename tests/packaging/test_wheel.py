"""The wheel holds all that the gateway needs and runs from anywhere, built from the tree or the sdist."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
#: What is not Python but read at run time: where it is here, below ``gateway/`` in the wheel.
DATA = (
    "templates/batch",
    "templates/proxy",
    "templates/systemd",
    "templates/web",
    "launcher/gateway-launcher",
    "py.typed",
)
_NOT_SOURCE = (".*", "var", "build", "dist", "*.egg-info", "__pycache__", "node_modules")

#: Run by the installed gateway's Python, away from the source.
_LOOK = """
from pathlib import Path
import gateway
from gateway.dataplane.haproxyconfig import HAProxySettings, Listener, render
from gateway.dataplane.pages import files
from gateway.web.application import TEMPLATES
settings = HAProxySettings(Path("/run/g/haproxy"), Path("/run/g/hub.sock"), (Listener(":8080"),))
assert "bind :8080" in render(settings, {}, "digest")
assert files()["pages.map"].startswith("400.html <!DOCTYPE html>")
assert (TEMPLATES / "login.html").is_file()
print(gateway.__file__)
"""


def run(
    words: Sequence[str | Path], where: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing of this process's Python environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_REQ"))}
    return subprocess.run(
        [str(word) for word in words],
        cwd=where,
        env=clean | (environment or {}),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def output(words: Sequence[str | Path], where: Path, environment: dict[str, str] | None = None) -> str:
    done = run(words, where, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Builder:
    """Builds with a setuptools of its own, as ``pyproject.toml`` asks for it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tools = directory / "tools"
        self._source = directory / "source"
        shutil.copytree(REPOSITORY, self._source, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_SOURCE))

    def fetch_tools(self) -> None:
        """Install what builds; skip the tests where that cannot be had."""
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
        words = ("install", "--quiet", "--retries=1", "--timeout=15", "--target", self._tools)
        done = self._pip(*words, *project["build-system"]["requires"])
        if done.returncode:
            pytest.skip(f"pip cannot get the build tools: {done.stderr.strip().splitlines()[-1]}")

    def wheel(self, source: Path | None = None) -> Path:
        """Return a wheel built from a directory or an sdist."""
        out = self._directory / f"wheel-of-{(source or self._source).name}"
        done = self._pip(
            *("wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"),
            *("--wheel-dir", out, source or self._source),
        )
        assert done.returncode == 0, done.stderr
        (made,) = out.iterdir()
        return made

    def sdist(self) -> Path:
        """Return the sdist."""
        code = f"import setuptools.build_meta as build; print(build.build_sdist({str(self._directory)!r}))"
        said = output([sys.executable, "-c", code], self._source, {"PYTHONPATH": str(self._tools)})
        return self._directory / said.splitlines()[-1]

    def _pip(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": str(self._tools), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return run([sys.executable, "-m", "pip", *words], self._directory, environment)


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    builder = Builder(tmp_path_factory.mktemp("build"))
    builder.fetch_tools()
    return builder


@pytest.fixture(scope="module")
def wheel(builder: Builder) -> Path:
    return builder.wheel()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs' directory of a fresh venv with the wheel; what it depends on is this process's."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin/python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    output([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], home)
    site_packages = next(home.glob("lib/python*/site-packages"))
    (site_packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return home / "bin"


def contents(wheel: Path) -> dict[str, bytes]:
    """Return what a wheel holds, but for the list of it."""
    with zipfile.ZipFile(wheel) as archive:
        links = [entry.filename for entry in archive.infolist() if stat.S_ISLNK(entry.external_attr >> 16)]
        assert links == []
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_the_wheel_holds_all_code_and_data_as_real_files(wheel: Path) -> None:
    source = REPOSITORY / "gateway"
    wanted = {path for path in source.rglob("*.py") if "__pycache__" not in path.parts}
    for data in DATA:
        place = source / data
        wanted |= set(place.iterdir()) if place.is_dir() else {place}
    held = contents(wheel)
    assert any(name.endswith("/LICENSE") for name in held)
    metadata = next(text for name, text in held.items() if name.endswith("/METADATA")).decode()
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    for wanted_package in setup["options"]["install_requires"].split():
        name = re.match(r"[A-Za-z][A-Za-z0-9-]*", wanted_package)
        assert name is None or f"Requires-Dist: {name[0]}" in metadata
    assert wanted
    for path in wanted:
        assert held[str(path.relative_to(REPOSITORY))] == path.read_bytes()


def test_the_wheel_holds_the_gateway_and_nothing_else(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in contents(wheel)}
    assert tops == {"gateway", f"batch_gateway-{__version__}.dist-info"}


def test_a_wheel_made_from_the_sdist_is_the_same(builder: Builder, wheel: Path) -> None:
    assert contents(builder.wheel(builder.sdist())) == contents(wheel)


def test_the_command_runs_from_any_directory(installed: Path, tmp_path: Path) -> None:
    gateway = installed / "gateway"
    assert output([gateway, "--version"], tmp_path) == f"gateway {__version__}\n"
    source = REPOSITORY / "gateway/launcher/gateway-launcher"
    assert output([gateway, "launcher"], tmp_path) == source.read_text()
    site = REPOSITORY / "site-configs/sudo.yaml"
    script = output([gateway, "render", site, "--user", "alice"], tmp_path)
    assert script.startswith("#!/bin/sh\n#SBATCH --job-name=gw-")
    assert "gw_publish" in script


def test_the_installed_package_makes_its_database(installed: Path, tmp_path: Path) -> None:
    config = tmp_path / "gateway_config.py"
    config.write_text(f"c.Gateway.state_dir = '{tmp_path}/state'\n")
    said = output([installed / "gateway", "db", "upgrade", "-f", config], tmp_path)
    assert said.startswith("the schema was empty and is ")
    assert (tmp_path / "state/gateway.sqlite").stat().st_size > 0


def test_the_installed_package_finds_its_pages_and_the_proxys_template(
    installed: Path, tmp_path: Path
) -> None:
    found = output([installed / "python", "-c", _LOOK], tmp_path).strip()
    assert Path(found).is_relative_to(installed.parent)
