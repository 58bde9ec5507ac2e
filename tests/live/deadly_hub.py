"""The hub, killed with SIGKILL exactly where a test wants it: a program of the tests that runs the real hub.

    python3 -m tests.live.deadly_hub PLAN PYTHON -m gateway.cli run …

PLAN is a JSON file, read anew whenever something could end the hub:

- ``points``: for servers, by USER/NAME, an act of the hub and a moment, "before" or "after". An act is a step
  along the lifecycle's table ("queued/started"), "submit", "cancel", "remove" or "forward".
- ``go``: whether the hub may die.
- ``orders``: after how many orders to HAProxy the hub dies.
- ``life``: other values for constants of gateway.servers.patience, which no test has.

One death serves many servers: each waits at its point. When all are there, those whose moment is "after" do
their act, and then the hub dies: for each of them it died right before or right after that act.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

from gateway.cli import main
from gateway.dataplane.masters import Masters
from gateway.dataplane.runtime import CommandLine
from gateway.queue import Queue
from gateway.servers import patience
from gateway.store import ServerStore

STEP = 0.02
Call = Callable[[], Awaitable[Any]]


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


class Fate:
    """What the plan says, and which servers are at their points."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._there: set[str] = set()
        self._done: set[str] = set()
        self._orders = 0
        self.keys: dict[str, str] = {}

    @property
    def plan(self) -> dict[str, Any]:
        return dict(json.loads(self._path.read_text()))

    async def meet(self, server_id: str, act: str, call: Call) -> Any:
        """Do what the hub wants to do, unless this is where it dies."""
        key = self.keys.get(server_id, "")
        at, moment = self.plan["points"].get(key, ("", ""))
        if act != at or key in self._there:
            return await call()
        self._there.add(key)
        self._tell()
        await self._all_there()
        try:
            if moment == "after":
                await call()
        finally:
            self._done.add(key)
            if self._done >= self.plan["points"].keys():
                die()
            await asyncio.Event().wait()

    async def _all_there(self) -> None:
        while (plan := self.plan)["points"].keys() - self._there or not plan["go"]:
            await asyncio.sleep(STEP)

    def _tell(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(sorted(self._there)))
        new.replace(self._path.with_suffix(".there"))

    def before_order(self) -> None:
        limit = self.plan.get("orders")
        if limit is not None and self._orders >= limit:
            die()
        self._orders += 1


def patch(fate: Fate) -> None:
    """Put the fate before the hub's acts, from outside."""
    get, move, order = ServerStore.get, ServerStore.move, CommandLine.order

    async def knowing_get(store: ServerStore, server_id: str) -> Any:
        server = await get(store, server_id)
        fate.keys[server.id] = f"{server.user}/{server.name}"
        return server

    async def deadly_move(store: ServerStore, server_id: str, event: Any, *words: Any, **changes: Any) -> Any:
        server = await knowing_get(store, server_id)
        call = functools.partial(move, store, server_id, event, *words, **changes)
        return await fate.meet(server_id, f"{server.phase}/{event}", call)

    async def deadly_order(line: CommandLine, *words: str) -> None:
        fate.before_order()
        await order(line, *words)

    def deadly(act: str, method: Callable[..., Awaitable[Any]], place: int) -> Callable[..., Awaitable[Any]]:
        async def call(owner: Any, *words: Any) -> Any:
            return await fate.meet(words[place], act, functools.partial(method, owner, *words))

        return call

    changed: dict[str, Any] = {"get": knowing_get, "move": deadly_move}
    for name, method in changed.items():
        setattr(ServerStore, name, method)
    for name in ("submit", "cancel", "remove"):
        setattr(Queue, name, deadly(name, getattr(Queue, name), place=1))
    setattr(Masters, "forward", deadly("forward", Masters.forward, place=0))  # noqa: B010
    setattr(CommandLine, "order", deadly_order)  # noqa: B010


def run(plan: str, *words: str) -> int:
    fate = Fate(Path(plan))
    patch(fate)
    for name, value in fate.plan.get("life", {}).items():
        if not hasattr(patience, name):
            raise AttributeError(name)
        setattr(patience, name, value)
    return main(words[words.index("gateway.cli") + 1 :])


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
