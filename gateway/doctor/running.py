"""The steps that ask whether the gateway's own processes run: the hub, HAProxy, the keeper of the tunnels."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.config import Settings
from gateway.dataplane import runtime
from gateway.doctor.check import Finding, ok, warning
from gateway.doctor.walk import in_thread
from gateway.errors import DataPlaneError
from gateway.origins import Origins

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

#: Seconds for an answer.
_WITHIN = 3.0
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_LOCK = re.compile(
    r"\d+: FLOCK +\S+ +WRITE (?P<pid>\d+) (?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):(?P<inode>\d+) 0 EOF"
)
_OPEN_FILES = re.compile(r"^Max open files +(\S+) +(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Running:
    """Examines what runs. What does not is a warning: it may be that all is only being set up."""

    settings: Settings

    async def hub(self) -> Finding:
        """Say whether a hub runs, and answers."""
        pid = await in_thread(self.hub_pid)
        if pid is None:
            return warning(
                f"nobody holds {self.settings.run_dir}/hub.lock",
                f"systemctl start gateway-hub   (or gateway run -f {self.settings.source})",
            )
        socket = self.settings.run_dir / "hub.sock"
        status = await self._health(lambda: asyncio.open_unix_connection(socket))
        if status != 200:
            return warning(
                f"process {pid} is the hub, but at {socket} {self._health_path} {_said(status)}",
                "journalctl -u gateway-hub   says what it is doing",
            )
        return ok(f"process {pid}, and it says that it is well")

    async def haproxy(self) -> Finding:
        """Say whether HAProxy runs, and leads browsers to the hub."""
        mend = (
            f"systemctl start gateway-haproxy   (or gateway run -f {self.settings.source}, which starts it)"
        )
        if not await self.haproxy_answers():
            return warning(f"nobody answers at {self._admin_socket}", mend)
        if self.settings.gateway.proxy_protocol or not self.settings.gateway.bind:
            return ok("it runs; what a reverse proxy of yours hands on to it is not tried from here")
        for address in self.settings.gateway.bind:
            host, _, port = address.rpartition(":")
            if address.startswith("unix@") or not port.isdecimal():
                continue
            status = await self._health(_public(host, int(port), self._origins.host))
            if status is None:
                words = f"it runs, but nobody answers at {address}"
                return warning(words, "systemctl restart gateway-haproxy")
            if status != 200:
                return warning(
                    f"at {address} {self._health_path} {_said(status)}: it does not get to the hub",
                    "See the step the hub runs.",
                )
        return ok(f"it leads from {', '.join(self.settings.gateway.bind)} to the hub")

    async def keeper(self) -> Finding:
        """Say whether somebody keeps the SSH masters of the tunnels."""
        lock = self.settings.run_dir / "tunnels.lock"
        pid = await in_thread(lambda: lock_holder(lock))
        if pid is None:
            return warning(
                f"nobody holds {lock}: a tunnel that breaks stays broken",
                "systemctl start gateway-tunnels   (without units it is the hub, and runs with it)",
            )
        return ok("it is the hub" if pid == await in_thread(self.hub_pid) else f"process {pid}")

    def hub_pid(self) -> int | None:
        """Return the hub's process, None if there is none. Blocking."""
        return lock_holder(self.settings.run_dir / "hub.lock")

    async def haproxy_answers(self) -> bool:
        """Return whether the gateway's own HAProxy runs."""
        try:
            async with runtime.open_worker(self._admin_socket, _WITHIN) as line:
                return "Pid:" in await line.ask("show", "info")
        except DataPlaneError:
            return False

    @property
    def _admin_socket(self) -> Path:
        directory = self.settings.run_dir / "haproxy"
        return (directory / "s" if self.settings.gateway.proxy_group else directory) / "admin.sock"

    @property
    def _origins(self) -> Origins:
        return Origins.of(self.settings.gateway.public_url, self.settings.gateway.layout)

    @property
    def _health_path(self) -> str:
        return self._origins.hub_path("/hub/api/health")

    async def _health(self, connect: Connect) -> int | None:
        """Return the HTTP status with which the hub's health is answered, None if there is no answer."""
        host = self._origins.hub_origin.removeprefix("https://")
        request = f"GET {self._health_path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        try:
            async with asyncio.timeout(_WITHIN):
                reader, writer = await connect()
                try:
                    writer.write(request.encode("ascii"))
                    found = _STATUS.match(await reader.readline())
                finally:
                    writer.close()
                    with suppress(OSError):
                        await writer.wait_closed()
        except (OSError, TimeoutError, ValueError):
            return None
        return int(found[1]) if found else None


def lock_holder(path: Path) -> int | None:
    """Return the process that holds a lock file, None if none does. Blocking.

    The kernel is asked: who tries to take the lock keeps it from one who needs it at this moment (proc(5)).
    """
    try:
        wanted = path.stat()
        lines = Path("/proc/locks").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    found = [lock for lock in map(_LOCK.fullmatch, lines) if lock and int(lock["inode"]) == wanted.st_ino]
    return next((int(lock["pid"]) for lock in found if _is_of(lock, wanted)), None)


def open_files(pid: int) -> float | None:
    """Return how many files a process may have open, as far as it may raise that itself. Blocking."""
    try:
        limit = _OPEN_FILES.search(Path(f"/proc/{pid}/limits").read_text("ascii", "replace"))
    except OSError:
        return None
    if limit is None:
        return None
    return float("inf") if limit[2] == "unlimited" else float(limit[2])


def _is_of(lock: re.Match[str], wanted: os.stat_result) -> bool:
    """Return whether a lock is this file's: some file systems show another device in stat(2) than here."""
    if os.makedev(int(lock["major"], 16), int(lock["minor"], 16)) == wanted.st_dev:
        return True
    with suppress(OSError):
        for entry in Path(f"/proc/{lock['pid']}/fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(entry.stat(), wanted):
                    return True
    return False


def _public(host: str, port: int, name: str) -> Connect:
    """Return what connects to a public address. It asks whether it answers; other steps ask who it is."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    here = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
    bare = host.strip("[]")
    return lambda: asyncio.open_connection(here.get(bare, bare), port, ssl=context, server_hostname=name)


def _said(status: int | None) -> str:
    return "has no answer" if status is None else f"is answered with {status}"
