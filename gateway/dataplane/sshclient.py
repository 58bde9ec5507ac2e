"""How the OpenSSH client is called: by whose settings alone, with which words, and for how long."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from gateway.dataplane.tunnel import TunnelSettings
from gateway.errors import DataPlaneError
from gateway.model import Completed
from gateway.siteconfig import Jump

#: Set by the gateway and not by the machine's ssh_config, which is not read.
OPTIONS = (
    "BatchMode=yes",
    "Compression=no",
    "ConnectionAttempts=1",
    "ControlPersist=no",
    "ExitOnForwardFailure=yes",
    "GlobalKnownHostsFile=/dev/null",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "LogLevel=ERROR",
    "PreferredAuthentications=publickey",
    # A connection that is dead ends 12 s after the last byte: after 3 s of silence, and three such waits.
    "ServerAliveCountMax=3",
    "ServerAliveInterval=3",
    "StreamLocalBindMask=0177",
    "StreamLocalBindUnlink=yes",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
)


def connecting(program: str, way: TunnelSettings | Jump, timeout: float, *control: str) -> list[str]:
    """Return the words for one connection: those given, then the port, the account, its key.

    ssh takes an option's first value, and whoever looks for a master finds its socket in the first words.

    Args:
        program: The client.
        way: Whose account, with which key.
        timeout: Seconds for the connection to be made.
        control: What comes first.
    """
    options = (
        *OPTIONS,
        f"ConnectTimeout={max(1, round(timeout))}",
        f"UserKnownHostsFile={way.known_hosts}",
        *(f"CertificateFile={path}" for path in [getattr(way, "certificate", None)] if path),
    )
    words = [program, *control, "-i", str(way.key)]
    words += [word for option in options for word in ("-o", option)]
    return [*words, "-p", str(way.port), "-l", way.user]


def through(program: str, control: Path) -> list[str]:
    """Return the words for a client of a master, which makes no connection of its own.

    ssh wants a host's name after them, and ignores it.
    """
    return [program, "-F", "/dev/null", "-S", str(control), "-o", "ProxyCommand=false"]


async def run_true(program: str, control: Path, timeout: float) -> Completed:  # noqa: ASYNC109  (as of `run`)
    """Run ``true`` by way of a master: see `run`."""
    return await run([*through(program, control), "--", "login", "true"], timeout)


async def run(
    words: Sequence[str],
    timeout: float,  # noqa: ASYNC109  (what it started is killed)
    stderr: IO[bytes] | None = None,
) -> Completed:
    """Run an ssh client and return what it did; it is gone when this returns or raises.

    Args:
        words: The program and its arguments.
        timeout: Seconds.
        stderr: Where it writes, for one that goes on in the background: it would keep a pipe open.

    Raises:
        TimeoutError: It took longer.
        DataPlaneError: It cannot be run.
    """
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=nothing,
            stdout=nothing if stderr else pipe,
            stderr=stderr or pipe,
            start_new_session=True,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except OSError as error:
        raise DataPlaneError(f"{words[0]} cannot be run: {error}. Install the OpenSSH client") from error
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
    text = ((stream or b"").decode("utf-8", "replace") for stream in (out, err))
    return Completed(process.returncode or 0, *text)
