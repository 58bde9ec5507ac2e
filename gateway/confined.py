"""One question to a program that is given a little time, a little room for its answer, and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from gateway.errors import ConfigError, ScriptNotRendered

#: What ends a process without its having done anything: the kernel, for want of memory, or people.
_BY_OTHERS = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP})


async def ask(
    where: str, words: Sequence[str], question: bytes, *, seconds: float, most: int
) -> tuple[int, bytes]:
    """Run a program and return its exit status, below 0 for a signal, and its answer.

    It has no environment, and a session of its own: what it started and left behind is killed.

    Args:
        where: What this is about, for errors.
        words: The program and its arguments. Its limits are its own to set.
        question: Its standard input.
        seconds: What it may take by the clock. A machine that does nothing else needs far less.
        most: Bytes that it may answer.

    Raises:
        ScriptNotRendered: The machine could not do it now.
        ConfigError: It says too much.
    """
    try:
        child = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
            limit=2**16,
        )
    except OSError as error:
        raise ScriptNotRendered(f"{where}: {words[0]} could not be started: {error}") from error
    try:
        async with asyncio.timeout(seconds):
            status, answer = await _conversation(where, child, question, most)
    except TimeoutError:
        raise ScriptNotRendered(
            f"{where}: takes more than {seconds:g} s to render: this host is busy"
        ) from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await asyncio.shield(child.wait())
    if status in _BY_OTHERS:
        raise ScriptNotRendered(f"{where}: what renders it was ended by signal {-status}")
    return status, answer


async def _conversation(
    where: str, child: asyncio.subprocess.Process, question: bytes, most: int
) -> tuple[int, bytes]:
    stdin, stdout = child.stdin, child.stdout
    assert stdin is not None  # noqa: S101  it was started with pipes
    assert stdout is not None  # noqa: S101
    with suppress(ConnectionError):
        stdin.write(question)
        await stdin.drain()
    stdin.close()
    answer = bytearray()
    while part := await stdout.read(2**16):
        answer += part
        if len(answer) > most:
            raise ConfigError(f"{where}: writes too much: make it shorter")
    return await child.wait(), bytes(answer)
