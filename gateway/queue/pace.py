"""Lets through only so many at once, and the same one only so often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Pace:
    """Whoever comes too early waits.

    Args:
        at_once: How many are let through at once.
        every: Seconds between two turns of the same key.
        clock: Seconds, only ever growing.
    """

    def __init__(self, at_once: int, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._room = asyncio.Semaphore(at_once)
        self._every = every
        self._clock = clock
        self._next: dict[str, float] = {}

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Wait for this key's next turn and for room, and hold both."""
        now = self._clock()
        self._next = {other: at for other, at in self._next.items() if at > now}
        at = max(now, self._next.get(key, now))
        self._next[key] = at + self._every
        await asyncio.sleep(at - now)
        async with self._room:
            yield
