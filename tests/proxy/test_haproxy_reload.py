"""A reload drops nothing; what goes on in the worker it has replaced is revoked too, and ends in time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from gateway.dataplane.haproxy import HAProxy, Listener
from gateway.routes import Desired
from tests.processes import lives
from tests.proxy.http2 import Http2Browser
from tests.proxy.stage import ALICE, HOST, Stage, cookie, free_port, own_certificate, trusting

pytestmark = pytest.mark.proxy
OWN = f"{ALICE}.1"
ORIGIN = ("origin", f"https://{HOST}")


class Load:
    """Short requests without a pause, of browsers that keep a connection and of those that open new ones."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.answers: list[str] = []
        self._stopping = False

    async def run(self) -> list[str]:
        """Return what went wrong."""
        found = await asyncio.gather(*(self._guarded(kept) for kept in (True, True, False, False)))
        return [each for each in found if each]

    def stop(self) -> None:
        self._stopping = True

    async def _guarded(self, kept: bool) -> str:
        try:
            await (self._kept() if kept else self._new())
        except (OSError, EOFError, TimeoutError) as error:
            return f"{'kept' if kept else 'new'}: {error!r}"
        return ""

    async def _new(self) -> None:
        while not self._stopping:
            self.answers.append((await self.stage.ask("/user/alice/", [cookie()])).body.decode())

    async def _kept(self) -> None:
        browser = await self.stage.browser()
        while not self._stopping:
            answer = await browser.ask("/user/alice/", [cookie()])
            self.answers.append(answer.body.decode())
            if answer.one("connection") == "close":
                await browser.close()
                browser = await self.stage.browser()


async def test_reloads_under_load_fail_no_request_and_end_no_websocket(stage: Stage) -> None:
    await stage.usual()
    websocket, idle = await stage.websocket(), await stage.browser()
    await idle.ask("/user/alice/", [cookie()])
    load = Load(stage)
    running = asyncio.create_task(load.run())
    for _ in range(4):
        await asyncio.sleep(0.2)
        await stage.haproxy.reload()
        assert await websocket.echo(b"more") == b"more"
    assert (await idle.ask("/user/alice/", [cookie()])).body == OWN.encode()  # kept all the while
    load.stop()
    assert await running == []
    assert set(load.answers) == {OWN}
    assert len(load.answers) > 100


def many(stage: Stage, desired: Desired) -> Desired:
    """Return a thousand routes more."""
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    ids = [f"tttttttt{a}{b}" for a in alphabet for b in alphabet][:1000]
    routes = tuple(stage.route(each, f"u{each}") for each in ids)
    return Desired((*desired.routes, *routes), (*desired.grants, *(stage.grant(each) for each in ids)))


async def test_revoking_reaches_every_worker_within_a_second_with_a_thousand_routes(stage: Stage) -> None:
    port, certificate = free_port(), own_certificate(stage.directory)
    listeners = (*stage.settings.listeners, Listener(f"127.0.0.1:{port}", certificate))
    stage.settings = replace(stage.settings, listeners=listeners)
    stage.haproxy = HAProxy(stage.settings)
    desired = many(stage, await stage.usual())
    await stage.reach(*desired.routes, grants=desired.grants)
    websockets, browsers = [], []
    for reloads in range(3):
        if reloads:
            await stage.haproxy.reload()
        websockets.append(await stage.websocket())
        browser = await Http2Browser.open(port, trusting(certificate))
        number, _ = await browser.websocket("/user/alice/api", [cookie(), ORIGIN])
        browsers.append((browser, number))
    bobs = await stage.websocket("/user/bob/api", "of-bob")
    assert len(await stage.workers()) == 3

    begun = time.monotonic()
    await stage.reach(*desired.routes, grants=desired.grants[1:])
    assert [await websocket.echo(b"more") for websocket in websockets] == [b""] * 3
    assert [await browser.echo(number, b"more") for browser, number in browsers] == [b""] * 3
    assert time.monotonic() - begun < 1

    assert await bobs.echo(b"more") == b"more"
    for browser, _ in browsers[::-1]:
        # One that goes on with a connection to an old worker, although it was told to go, gets no further.
        assert browser.told_to_go is (browser is not browsers[-1][0])
        assert (await browser.ask("/user/alice/", [cookie()])).body == b"hub"
        await browser.close()


async def test_a_worker_that_was_replaced_ends_in_time_whatever_is_open(stage: Stage) -> None:
    stage.settings = replace(stage.settings, hard_stop=1)
    stage.haproxy = HAProxy(stage.settings)
    await stage.usual()
    websocket = await stage.websocket()
    await stage.haproxy.reload()
    _, old = await stage.workers()
    assert await websocket.echo(b"more") == b"more"
    async with asyncio.timeout(5):
        assert await websocket.reader.read() == b""
        while lives(old):
            await asyncio.sleep(0.05)
    assert len(await stage.workers()) == 1
