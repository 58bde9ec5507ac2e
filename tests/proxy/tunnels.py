"""What tests of tunnels do to a master and ask of a forward."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gateway.dataplane.masters import Masters
from gateway.dataplane.tunnel import TunnelSettings
from gateway.errors import GatewayError
from tests.processes import lives

ALICE, BOB = "aaaaaaaaaa", "bbbbbbbbbb"


async def echoes(path: Path, text: bytes = b"hello") -> bool:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(text)
        answer = await reader.read(len(text))
        writer.close()
        return answer == text


def pid_of(settings: TunnelSettings, index: int = 0) -> int:
    return int((settings.directory / str(index) / "pid").read_text())


async def gone(pid: int, within: float = 5.0) -> bool:
    """Whether the process ends within a few seconds; a zombie has ended."""
    for _ in range(round(within / 0.05) + 1):
        if not lives(pid):
            return True
        await asyncio.sleep(0.05)
    return False


async def ssh_process(settings: TunnelSettings) -> int:
    """Return the ssh that somebody has started for a tunnel."""
    async with asyncio.timeout(20):
        while True:
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):  # it has ended in the meantime
                    if os.fsencode(settings.directory / "0/ctl") in file.read_bytes().split(b"\0"):
                        return int(file.parent.name)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def kept(masters: Masters) -> AsyncIterator[None]:
    """Have masters tended for as long as the block takes, as a keeper does."""

    async def keep() -> None:
        while True:
            with suppress(GatewayError):
                await masters.tend()
            await masters.pause(5.0)

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


async def seconds_until(true: Callable[[], Awaitable[bool]], within: float) -> float:
    """Return after how many seconds something came true; it must within so many."""
    begun = time.monotonic()
    while time.monotonic() - begun < within:
        with suppress(OSError, TimeoutError):
            if await true():
                return time.monotonic() - begun
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {within} s")
