"""The systemd units, and where they belong on a machine; made from the configuration that they run."""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.config import Settings
from gateway.errors import ConfigError

#: Open files, of each unit alike: two for each browser's connection.
OPEN_FILES = 131_072
#: The units, and where systemd looks for them.
UNITS = {
    name: Path("etc/systemd/system", name)
    for name in ("gateway-haproxy.service", "gateway-tunnels.service", "gateway-hub.service")
}
_TMPFILES = Path("etc/tmpfiles.d/gateway.conf")
_PLAIN = re.compile(r"[A-Za-z0-9_./@:+-]+", re.ASCII)
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def render_units(settings: Settings, config: Path, user: str) -> Mapping[Path, str]:
    """Return the units, and the line that makes the run directory at boot, by their paths below ``/``.

    Args:
        settings: The gateway's.
        config: Their file.
        user: Whom the hub runs as.

    Raises:
        ConfigError: A value cannot stand in a unit.
    """
    directory = settings.run_dir / "haproxy"
    group = settings.gateway.proxy_group
    haproxy = _program(settings.gateway.haproxy or "haproxy")
    values = {
        "user": user,
        "proxy_user": group or user,
        "mode": "660" if group else "600",
        "sockets": str(directory / "s" if group else directory),
        "run_dir": str(settings.run_dir),
        "state_dir": str(settings.state_dir),
        "config": str(config.absolute()),
        "haproxy": haproxy,
        "setpriv": _program("setpriv"),
        "files": str(OPEN_FILES),
    }
    hidden = [str(path) for path in _hidden(settings, config.absolute(), Path(haproxy))]
    for name, value in (*values.items(), *(("path", path) for path in hidden)):
        if not _PLAIN.fullmatch(value):
            raise ConfigError(f"{name} {value!r}: letters, digits and _ . / @ : + - only, for systemd")
    environment = Environment(
        loader=PackageLoader("gateway", "templates/systemd"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  no HTML; the values have been checked
    )
    templates = {path: f"{name}.j2" for name, path in UNITS.items()} | {_TMPFILES: "tmpfiles.conf.j2"}
    values["gateway"] = " ".join(_gateway())
    values["hidden"] = " ".join(f"-{path}" for path in hidden)
    return {path: environment.get_template(name).render(values) for path, name in templates.items()}


def _hidden(settings: Settings, config: Path, haproxy: Path) -> Sequence[Path]:
    """Return what HAProxy's unit does not see: the hub's directories and files.

    A directory is hidden if it can be the gateway's own: two names deep (``/etc/gateway``, not ``/etc``), and
    without anything that HAProxy needs. Else only the files in it are that the configuration names.
    """
    needed = (haproxy, settings.run_dir, Path("/usr/lib"))
    directories = (settings.state_dir, config.parent, Path(settings.gateway.site_dir).absolute())
    named = (settings.gateway.tls_certificate, settings.ldap.reader_password_file)
    own = [
        path
        for path in directories
        if len(path.parts) > 2 and not any(need.is_relative_to(path) for need in needed)
    ]
    files = [config, *(Path(name).absolute() for name in named if name)]
    left = [path for path in files if not any(path.is_relative_to(directory) for directory in own)]
    return list(dict.fromkeys([*own, *left]))


def _program(name: str) -> str:
    """Return a program's path; where it is not there yet, the usual one."""
    return shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH) or f"/usr/sbin/{name}"


def _gateway() -> tuple[str, ...]:
    """Return the words that run this very installation of the gateway."""
    script = Path(sysconfig.get_path("scripts")) / "gateway"
    words = (str(script),) if script.exists() else (sys.executable, "-m", "gateway")
    if not all(_PLAIN.fullmatch(word) for word in words):
        raise ConfigError(f"{words[0]!r}: letters, digits and _ . / @ : + - only, for systemd")
    return words
