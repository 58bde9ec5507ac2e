"""Who listens on a TCP port of this machine (proc(5): /proc/net/tcp, /proc/PID/fd)."""

from __future__ import annotations

import pwd
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that may be the one; ``pid`` is None if it is another user's, which this one may not see."""

    user: str
    pid: int | None
    command: tuple[str, ...]

    def __str__(self) -> str:
        if self.pid is None:
            return f"a program of the user {self.user}"
        name = Path(self.command[0]).name if self.command else "a program"
        return f"{name} (process {self.pid} of {self.user})"


def holders(port: int) -> list[Holder]:
    """Return who listens on a port; of those whose sockets may not be seen, every process of that user."""
    found: list[Holder] = []
    for uid, inode in _listeners(port):
        user = _name(uid)
        seen = [Holder(user, pid, _command(pid)) for pid in _processes(uid)]
        exact = [holder for holder in seen if holder.pid and inode in _sockets(holder.pid)]
        found += exact or [Holder(user, None, word.command) for word in seen] or [Holder(user, None, ())]
    return found


def _listeners(port: int) -> Iterator[tuple[int, str]]:
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield int(fields[7]), fields[9]


def _processes(uid: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and entry.stat().st_uid == uid:
                yield int(entry.name)
        except OSError:
            continue


def _command(pid: int) -> tuple[str, ...]:
    try:
        return tuple(
            Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        )
    except OSError:
        return ()


def _sockets(pid: int) -> set[str]:
    try:
        links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return set()
    return {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
