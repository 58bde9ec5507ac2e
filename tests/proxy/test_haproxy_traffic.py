"""All that HTTP allows, over the whole way: browser, HAProxy, ssh, sshd, an application with TLS."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.dataplane.masters import Masters
from gateway.pki import Authority
from gateway.routes import Route
from tests.proxy.application import BLOCK, Application, body
from tests.proxy.sshd import Sshd
from tests.proxy.stage import ALICE, HOST, UPGRADE, Browser, Headers, Message, Stage, cookie
from tests.proxy.test_haproxy_tls import node, with_tls

pytestmark = [pytest.mark.proxy, pytest.mark.asyncio(loop_scope="module")]
ORIGIN = ("Origin", f"https://{HOST}")
GB = 10**9


@dataclass
class Scene:
    """The way to one application, and who carries it."""

    stage: Stage
    application: Application
    carriers: tuple[int, ...]

    async def open(self, do: str, headers: Headers | None = None, method: str = "GET") -> Browser:
        """Send a request's head and return the connection."""
        browser = await self.stage.browser()
        lines = [f"{method} /user/alice/do/{do} HTTP/1.1", f"Host: {HOST}"]
        lines += [f"{key}: {value}" for key, value in (cookie(), ORIGIN, *(headers or []))]
        browser.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        return browser

    async def ask(self, do: str, headers: Headers | None = None, method: str = "GET") -> Message:
        return await answer(await self.open(do, headers, method))


async def answer(browser: Browser, *, has_body: bool = True) -> Message:
    """Read an answer's head, and its body if it has one."""
    async with asyncio.timeout(60):
        head = (await browser.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head[:-4].split("\r\n")
        found = Message(start, [(k, v.strip()) for k, _, v in (line.partition(":") for line in lines)])
        if has_body and found.status not in (100, 101, 204, 304):
            found.body = b"".join([part async for part in body(found, browser.reader)])
    return found


def peak(pids: tuple[int, ...]) -> list[int]:
    """Return the most memory that each process has had so far, in bytes."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return [int(re.findall(r"VmHWM:\s+(\d+)", text)[0]) * 1024 for text in texts]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def built() -> AsyncIterator[Scene]:
    stage = Stage()
    with tempfile.TemporaryDirectory(prefix="gw") as directory, Sshd(Path(directory)) as sshd:
        masters = Masters(sshd.settings())
        try:
            authority = Authority.open(stage.directory / "ca")
            with_tls(stage, authority)
            async with Application(node(authority, stage.directory, ALICE)) as application:
                await stage.haproxy.ensure()
                await masters.tend()
                address = await masters.forward(ALICE, 1, "127.0.0.1", application.port)
                route = Route(HOST, "alice", "", ALICE, 1, address, True, f"token-of-{ALICE}")
                await stage.reach(route, grants=[stage.grant(ALICE)])
                ssh = [int(path.read_text()) for path in Path(directory, "t").glob("*/pid")]
                yield Scene(stage, application, (*(await stage.workers()), *ssh))
        finally:
            await masters.stop()
            await stage.close()


@pytest.fixture
def scene(built: Scene) -> Scene:
    built.application.requests.clear()
    built.application.ended.clear()
    return built


# --- how much ---------------------------------------------------------------------------------------


async def test_a_download_of_a_gigabyte_is_held_by_nobody(scene: Scene) -> None:
    await scene.ask("bytes/50000000")
    before = peak(scene.carriers)
    browser = await scene.open(f"bytes/{GB}")
    head = await answer(browser, has_body=False)
    assert head.one("content-length") == str(GB)
    left = GB
    while left:
        left -= len(await browser.reader.read(1 << 20))
    grown = [after - then for after, then in zip(peak(scene.carriers), before, strict=True)]
    assert max(grown) < 20e6, grown


async def test_an_upload_of_a_gigabyte_is_held_by_nobody(scene: Scene) -> None:
    before = peak(scene.carriers)
    browser = await scene.open("count", [("Content-Length", str(GB))], "PUT")
    for _ in range(GB // 250_000):
        browser.writer.write(BLOCK[:250_000])
        await browser.writer.drain()
    assert (await answer(browser)).body.startswith(f"{GB} ".encode())
    grown = [after - then for after, then in zip(peak(scene.carriers), before, strict=True)]
    assert max(grown) < 20e6, grown


async def test_who_does_not_read_is_not_read_ahead_for(scene: Scene) -> None:
    browser = await scene.open(f"bytes/{GB}")
    await answer(browser, has_body=False)
    browser.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(0.5)
    held = scene.application.sent
    await asyncio.sleep(0.5)
    assert held == scene.application.sent < 32e6
    await browser.close()


async def test_who_leaves_a_download_ends_it_at_the_application(scene: Scene) -> None:
    browser = await scene.open(f"bytes/{GB}")
    await answer(browser, has_body=False)
    browser.writer.transport.abort()
    async with asyncio.timeout(2):
        await scene.application.ended.wait()


async def test_who_leaves_a_long_poll_ends_it_at_the_application(scene: Scene) -> None:
    open_before = scene.application.open
    browser = await scene.open("silent/1500")
    await asyncio.sleep(0.3)
    browser.writer.transport.abort()
    async with asyncio.timeout(4):
        await scene.application.ended.wait()
    assert scene.application.open <= open_before


async def test_an_answer_before_the_end_of_an_upload_arrives(scene: Scene) -> None:
    browser = await scene.open("refuse", [("Content-Length", str(10 * GB))], "PUT")
    browser.writer.write(BLOCK)
    found = await answer(browser)
    assert (found.status, found.body) == (413, b"stop")


# --- how long ---------------------------------------------------------------------------------------


async def test_each_event_arrives_when_it_is_sent(scene: Scene) -> None:
    browser = await scene.open("events/8")
    head = await answer(browser, has_body=False)
    now = asyncio.get_running_loop().time
    late = [now() - float(event.split()[1]) async for event in body(head, browser.reader)]
    assert len(late) == 8
    assert sorted(late)[4] < 0.05, late


async def test_an_answer_may_take_its_time(scene: Scene) -> None:
    assert (await scene.ask("silent/1200")).body == b"at last"


async def test_a_websocket_carries_both_ways_and_ends_when_one_side_does(scene: Scene) -> None:
    browser = await scene.open("echo", [*UPGRADE])
    assert (await answer(browser)).status == 101
    for size in (1, 60_000, 3):
        browser.writer.write(bytes(size))
        async with asyncio.timeout(5):
            assert await browser.reader.readexactly(size) == bytes(size)
    browser.writer.transport.abort()
    async with asyncio.timeout(2):
        await scene.application.ended.wait()


async def test_nothing_cuts_off_what_is_silent_for_long(scene: Scene) -> None:
    config = (scene.stage.settings.directory / "haproxy.cfg").read_text()
    times = dict(re.findall(r"^    timeout (\S+) (\S+)$", config, re.MULTILINE))
    assert (times["client"], times["server"], times["tunnel"]) == ("1h", "1h", "24h")


# --- forms ------------------------------------------------------------------------------------------


async def test_chunks_and_trailers_come_through_both_ways(scene: Scene) -> None:
    browser = await scene.open("chunks", [("TE", "trailers")])
    found = await answer(browser)
    assert (found.body, found.one("x-sum")) == (b"first second", "12")
    browser = await scene.open("count", [("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")], "POST")
    browser.writer.write(b"5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n")
    assert (await answer(browser)).body.startswith(b"11 ")
    assert scene.application.requests[-1].one("x-sum") == "11"


async def test_a_body_is_sent_only_after_the_applications_go_ahead(scene: Scene) -> None:
    browser = await scene.open("count", [("Expect", "100-continue"), ("Content-Length", "5")], "PUT")
    assert (await answer(browser)).status == 100
    browser.writer.write(b"hello")
    assert (await answer(browser)).body.startswith(b"5 ")


async def test_an_answer_to_head_has_no_body(scene: Scene) -> None:
    browser = await scene.open("head", method="HEAD")
    found = await answer(browser, has_body=False)
    assert (found.status, found.one("content-length")) == (200, "12345")
    browser.writer.write(f"GET /user/alice/do/silent/1 HTTP/1.1\r\nHost: {HOST}\r\n".encode())
    browser.writer.write(f"{': '.join(cookie())}\r\n\r\n".encode())
    assert (await answer(browser)).body == b"at last"


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_end_where_they_end(scene: Scene, status: int) -> None:
    found = await scene.ask(f"status/{status}")
    assert (found.status, found.one("etag")) == (status, '"a"')


async def test_a_part_of_a_file_can_be_had(scene: Scene) -> None:
    found = await scene.ask("range", [("Range", "bytes=2-4")])
    assert (found.status, found.body, found.one("content-range")) == (206, b"cde", "bytes 2-4/10")


async def test_long_headers_come_through_both_ways(scene: Scene) -> None:
    found = await scene.ask("long-header/14000", [("X-Long", "x" * 14_000)])
    assert (found.status, found.body, len(found.one("x-back") or "")) == (200, b"14000", 14_000)
