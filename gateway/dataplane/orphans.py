"""SSH masters that nobody counts on any more: found by their control socket's path, and ended."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

#: Bytes of a command line that are read: the control socket comes early.
_COMMAND_LINE = 4096

log = logging.getLogger(__name__)


def recorded_pid(directory: Path) -> int | None:
    """Return the pid that a master's directory names, if that process is (still) the master: see `clear`."""
    try:
        pid = int((directory / "pid").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(directory / "ctl") in _command_line(pid) else None


def kill(directory: Path) -> None:
    """Kill what is left of a master, also one that has not connected yet; its directory stays.

    A hub that is killed leaves an ssh behind that has neither a control socket nor a pid file: it would
    connect beside the next one, and stay. Looking through /proc takes less than a millisecond.
    """
    found = {pid for pid in _all_pids() if _is_master(pid, directory)}
    if recorded := recorded_pid(directory):
        found.add(recorded)
    for pid in found:
        # Looked at again: a number is given to another process only when the one that had it has ended.
        if pid == recorded_pid(directory) or _is_master(pid, directory):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def clear(directory: Path) -> None:
    """Kill what is left of a master, and remove its directory with all forwards that were asked of it."""
    kill(directory)
    if not directory.exists():
        return
    for entry in directory.iterdir():
        entry.unlink(missing_ok=True)
    with suppress(OSError):  # somebody asks for a forward at this moment, and will have one
        directory.rmdir()


def clear_all_but(tunnels: Path, claimed: Collection[str]) -> None:
    """End the masters of clusters that nobody has a tunnel over SSH to any more.

    Args:
        tunnels: Where the masters of all clusters live, each cluster's in a directory of its name.
        claimed: The clusters whose masters stay.
    """
    try:
        left = [entry for entry in tunnels.iterdir() if entry.name not in claimed and entry.is_dir()]
    except OSError as error:
        log.error("%s: SSH masters that nobody needs are not looked for: %s", tunnels, error)
        return
    for cluster in left:
        try:
            _clear_cluster(cluster)
        except OSError as error:
            log.error("[%s] its SSH masters could not be ended: %s", cluster.name, error)


def _clear_cluster(cluster: Path) -> None:
    masters = [entry for entry in cluster.iterdir() if entry.name.isdecimal() and entry.is_dir()]
    if not masters:
        return
    log.warning("[%s] its %d SSH masters are ended", cluster.name, len(masters))
    for master in masters:
        clear(master)
    shutil.rmtree(cluster / "drain", ignore_errors=True)
    if not any(cluster.iterdir()):  # else the files of ways without a tunnel
        cluster.rmdir()


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208  (three times as fast)


def _is_master(pid: int, directory: Path) -> bool:
    """Return whether a process is an ssh of ours that has, or will have, the control socket in a directory.

    In another mount namespace the same path may be another directory: the masters of another gateway's.
    """
    try:
        if Path(f"/proc/{pid}").stat().st_uid != os.geteuid():
            return False
        if not {b"-M", os.fsencode(directory / "ctl")} <= set(_command_line(pid)):
            return False
        place = next(path for path in (directory, *directory.parents) if path.exists())
        return place.samefile(f"/proc/{pid}/root{place}")
    except OSError:
        return False


def _command_line(pid: int) -> list[bytes]:
    """Return a process's words, none if it is not there or has ended."""
    try:
        descriptor = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(descriptor, _COMMAND_LINE).split(b"\0")
    except OSError:
        return []
    finally:
        os.close(descriptor)
