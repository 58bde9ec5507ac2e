"""The ``haproxy`` program: found, checked, started as a daemon. It outlives who starts it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import DataPlaneError

#: The first version with TLS options for servers added at run time.
OLDEST = (2, 6)
_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INSTALL = "Install HAProxy 2.6 or later, on Debian and Ubuntu: apt install haproxy"
_VERSION = re.compile(r"HAProxy version ((\d+)\.(\d+)\S*)")
#: Messages that only repeat that there were others before them.
_SUMMARY = re.compile(r"Some protocols failed to start|Error\(s\) found in|Fatal errors found in")
_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be run."""

    path: str
    version: str


async def find_program(name: str) -> Program:
    """Return HAProxy's program.

    Args:
        name: A name, looked for in PATH and where system packages put daemons, or a path.

    Raises:
        DataPlaneError: It is missing or too old; the sentence says what to install.
    """
    path = shutil.which(name) or shutil.which(name, path=_PLACES)
    if path is None:
        raise DataPlaneError(f"there is no program {name!r}. {_INSTALL}")
    status, said = await run((path, "-v"))
    found = _VERSION.search(said)
    if status != 0 or not found:
        raise DataPlaneError(f"{path} is no HAProxy that works: {said[:200]!r}. {_INSTALL}")
    if (int(found[2]), int(found[3])) < OLDEST:
        raise DataPlaneError(f"{path} is HAProxy {found[1]}, which is too old. {_INSTALL}")
    return Program(path, found[1])


async def run(words: Sequence[str], within: float = _TIMEOUT) -> tuple[int, str]:
    """Run a program to its end and return its exit status and what it said, both streams in one.

    A file takes the output: a daemon that the program leaves behind may keep it open.

    Raises:
        DataPlaneError: It did not end in time (it is killed then), or cannot be started.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": os.environ.get("PATH", _PLACES)},
                start_new_session=True,
            )
        except OSError as error:
            raise DataPlaneError(f"{words[0]} cannot be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(within):
                status = await process.wait()
        except TimeoutError as error:
            raise DataPlaneError(f"{words[0]} did not end in {within:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        output.seek(0)
        return status, output.read(1 << 16).decode(errors="replace")


async def check_config(program: Program, config: Path) -> None:
    """Have HAProxy read a configuration without acting on it.

    Raises:
        DataPlaneError: HAProxy's own words on what is wrong.
    """
    status, said = await run((program.path, "-c", "-f", str(config)))
    if status != 0:
        raise DataPlaneError(f"HAProxy refuses its configuration {config}: {alerts(said)}")


async def start(
    program: Program, config: Path, master_socket: Path, pid_file: Path, mode: str = "600"
) -> None:
    """Start HAProxy, master and worker, as a daemon in a session of its own; it listens on return.

    Raises:
        DataPlaneError: HAProxy's own words on what is wrong: a port in use, a certificate it cannot read.
    """
    # -D: the program binds, forks and only then ends, so that its exit status tells what came of it.
    words = f"-W -D -S {master_socket},mode,{mode} -p {pid_file} -f {config}".split()
    status, said = await run((program.path, *words))
    if status != 0:
        raise DataPlaneError(f"HAProxy did not start: {alerts(said)}")


def lives(pid: int) -> bool:
    """Return whether a process is there and has not ended; one that nobody has reaped yet has (proc(5))."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return _is_hidden(pid)
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _is_hidden(pid: int) -> bool:
    """Return whether a process is there that /proc does not show us: another user's (hidepid in proc(5))."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return False


def alerts(said: str) -> str:
    """Return what matters in HAProxy's messages, on one line."""
    found = [line for line in re.findall(r"\[ALERT\]\s+\(\d+\) : (.*)", said) if not _SUMMARY.search(line)]
    return "; ".join(line.strip() for line in found) or said.strip()[:500] or "it does not say why"
