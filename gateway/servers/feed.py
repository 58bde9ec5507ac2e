"""Tells everybody who watches a server what it has become."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable

from gateway.lifecycle import Phase
from gateway.model import Server


class Feed:
    """The newest state of servers, for watchers; a slow one misses states in between, never the last."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[asyncio.Queue[Server]]] = defaultdict(set)

    def publish(self, server: Server) -> None:
        """Tell the watchers of this server."""
        for queue in self._watchers.get(server.id, ()):
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(server)

    async def watch(self, server_id: str, read: Callable[[str], Awaitable[Server]]) -> AsyncIterator[Server]:
        """Yield a server as ``read`` finds it, then each newer state of it, until it has ended."""
        queue: asyncio.Queue[Server] = asyncio.Queue()
        self._watchers[server_id].add(queue)  # before it is read: what changes meanwhile is not missed
        try:
            server = await read(server_id)
            while True:
                yield server
                if server.phase is Phase.ENDED:
                    return
                server = await queue.get()
        finally:
            self._watchers[server_id].discard(queue)
            if not self._watchers[server_id]:
                del self._watchers[server_id]
