"""Connections to one sshd, made one after the other: those that are not logged in yet count for it.

sshd drops connections at random once ``MaxStartups`` of them have not logged in (10:30:100), whoever's they
are.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

#: Seconds, at most, between one connection and the next to the same sshd.
_BREATH = 0.1


class Turns:
    """Whose turn it is to connect to which sshd. Tunnels that share it share the turns too."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}
        self._jitter = random.SystemRandom()

    @asynccontextmanager
    async def take(self, host: str, port: int) -> AsyncIterator[None]:
        """Wait for the turn at one sshd, and have it for the block."""
        lock = self._locks.setdefault((host, port), asyncio.Lock())
        waits = lock.locked()
        async with lock:
            if waits:
                await asyncio.sleep(self._jitter.uniform(0, _BREATH))
            yield
