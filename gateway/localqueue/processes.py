"""Processes, as /proc shows them: found, measured and signalled. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gateway.localqueue.jobs import Process

#: Carries a job's mark in the environment of its processes.
MARK = "GATEWAY_JOB_MARK"

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class _Seen(NamedTuple):
    process: Process
    parent: int
    session: int


def boot() -> str:
    """Return the id of the machine's present boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent dies, as prctl(2) describes.

    Raises:
        OSError: The system does not do that.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this system does not let a process adopt orphans")


def find(pid: int) -> Process | None:
    """Return the process of this id.

    None if there is none, if it is dead and only not yet waited for, or if the system hides it from this
    account (``hidepid`` in proc(5)).
    """
    seen = _look(pid)
    return seen.process if seen else None


def alive(process: Process) -> bool:
    """Return whether this very process is still there."""
    return find(process.pid) == process


def descendants(pids: Collection[int]) -> list[Process]:
    """Return the living processes below these, without them."""
    children: dict[int, list[Process]] = {}
    for seen in _all():
        children.setdefault(seen.parent, []).append(seen.process)
    found: dict[int, Process] = {}
    ahead = list(pids)
    while ahead:
        for child in children.get(ahead.pop(), ()):
            if child.pid not in found:
                found[child.pid] = child
                ahead.append(child.pid)
    return [process for pid, process in found.items() if pid not in pids]


def marked(mark: str) -> list[Process]:
    """Return what is left of a job: those with its mark, those in sessions with them, and all below.

    A process that made a session of its own, without the mark, and whose parents are gone, is not found.
    """
    word, everybody = f"{MARK}={mark}".encode(), list(_all())
    sessions = {seen.session for seen in everybody if word in _environment(seen.process.pid)}
    found = {seen.process.pid: seen.process for seen in everybody if seen.session in sessions}
    return [*found.values(), *descendants(found.keys())]


def send(processes: Iterable[Process], number: int) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        if alive(process):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, number)


def resident(processes: Iterable[Process]) -> int:
    """Return the sum of what each process has in memory, in bytes: what they share counts for each."""
    return sum(_resident(process.pid) for process in processes)


def proportional(processes: Iterable[Process]) -> int:
    """Return what these processes have in memory together, in bytes. It takes far longer."""
    return sum(_proportional(process.pid) for process in processes)


def _all() -> Iterator[_Seen]:
    """Yield every living process."""
    for name in os.listdir(_PROC):  # noqa: PTH208  half the time, and it runs every few seconds
        if name.isdecimal() and (seen := _look(int(name))):
            yield seen


def _look(pid: int) -> _Seen | None:
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # hidepid=1: somebody else's
        return None
    # The program's name, in brackets, may hold anything; the fields after it are counted from the third.
    fields = text.rpartition(b") ")[2].split()
    dead = fields[0] in (b"Z", b"X")
    return None if dead else _Seen(Process(pid, int(fields[19])), int(fields[1]), int(fields[3]))


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def _resident(pid: int) -> int:
    try:
        return int((_PROC / str(pid) / "statm").read_bytes().split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0


def _proportional(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_bytes().split(b"\n")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError:  # it has made itself unreadable
        return _resident(pid)
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))
