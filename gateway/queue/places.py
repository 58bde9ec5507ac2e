"""Nobody takes all the room."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Places:
    """The same few places for each key, of which it can hold no more.

    Args:
        each: How many.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._places: dict[str, asyncio.Semaphore] = {}
        self._claims: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Places {self._each} each, {len(self._places)} in use>"

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """Wait for a place of this key's, and hold it."""
        places = self._places.setdefault(key, asyncio.Semaphore(self._each))
        self._claims[key] += 1
        try:
            async with places:
                yield
        finally:
            self._claims[key] -= 1
            if not self._claims[key]:
                del self._places[key], self._claims[key]
