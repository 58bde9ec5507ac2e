"""Browsers by HTTP/2, WebSockets over it included: the same is let through as by HTTP/1.1."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from gateway.dataplane.haproxy import HAProxy, Listener
from gateway.origins import ROUTE_COOKIE
from tests.proxy.http2 import Http2Browser
from tests.proxy.stage import ALICE, BOB, COOKIE, HOST, Stage, cookie, free_port, own_certificate, trusting
from tests.proxy.test_pages import FLAGS, PROGRAM

pytestmark = [pytest.mark.proxy, pytest.mark.asyncio(loop_scope="module")]
OWN = f"{ALICE}.1"
ORIGIN = ("origin", f"https://{HOST}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[tuple[Stage, int, ssl.SSLContext]]:
    stage, port = Stage(), free_port()
    certificate = own_certificate(stage.directory)
    listeners = (*stage.settings.listeners, Listener(f"127.0.0.1:{port}", certificate))
    stage.settings = replace(stage.settings, listeners=listeners)
    stage.haproxy = HAProxy(stage.settings)
    try:
        await stage.usual()
        yield stage, port, trusting(certificate)
    finally:
        await stage.close()


@pytest.fixture
def stage(running: tuple[Stage, int, ssl.SSLContext]) -> Stage:
    running[0].forget()
    return running[0]


@pytest_asyncio.fixture(loop_scope="module")
async def browser(running: tuple[Stage, int, ssl.SSLContext]) -> AsyncIterator[Http2Browser]:
    found = await Http2Browser.open(*running[1:])
    yield found
    await found.close()


async def test_a_granted_request_reaches_the_users_own_server_with_its_token(
    stage: Stage, browser: Http2Browser
) -> None:
    answer = await browser.ask("/user/alice/api?x=%2F..", [cookie()], host=f"{HOST}:8443")
    assert (answer.status, answer.body) == (200, OWN.encode())
    request = stage.backends[OWN].requests[0]
    assert request.target == "/user/alice/api?x=%2F.."
    assert request.one("host") == f"{HOST}:8443"
    assert request.one("authorization") == f"token token-of-{ALICE}"
    assert request.one("cookie") is None


@pytest.mark.parametrize(
    ("cookies", "expected", "left"),
    [
        (["a=1", f"{ROUTE_COOKIE}={COOKIE}", "__Host-gateway-session=s", "b=2"], OWN, "a=1; b=2"),
        ([f"a=1; {ROUTE_COOKIE}={COOKIE}", "b=2"], OWN, "a=1; b=2"),
        ([f"{ROUTE_COOKIE}={COOKIE}", f"{ROUTE_COOKIE}=wrong"], "hub", None),
        ([f"{ROUTE_COOKIE}=of-bob", "a=1"], "hub", None),
    ],
)
async def test_cookies_that_the_browser_has_split_count_as_one_line(
    stage: Stage, browser: Http2Browser, cookies: list[str], expected: str, left: str | None
) -> None:
    answer = await browser.ask("/user/alice/", [("cookie", each) for each in cookies])
    assert (answer.body.decode(), stage.reached()) == (expected, [expected])
    if left:
        assert stage.backends[OWN].requests[0].one("cookie") == left


async def test_the_authority_counts_and_no_host_line_beside_it(stage: Stage, browser: Http2Browser) -> None:
    sent = [cookie(), ("host", HOST)]
    assert (await browser.ask("/user/alice/", sent, host="evil.example.org")).body == b"hub"
    assert stage.reached() == ["hub"]
    assert stage.backends["hub"].requests[0].all("host") == ["evil.example.org"]


@pytest.mark.parametrize("target", ["*", f"https://{HOST}/user/alice/", "user/alice/"])
async def test_targets_that_no_browser_sends_reach_nobody(
    stage: Stage, browser: Http2Browser, target: str
) -> None:
    answer = await browser.ask(target, [cookie()])
    assert answer.status == 400 or answer.reset is not None
    assert stage.reached() == []


async def test_a_tunnel_is_refused(stage: Stage, browser: Http2Browser) -> None:
    number = browser.send([(":method", "CONNECT"), (":authority", f"{HOST}:443"), cookie()])
    assert (await browser.until(number)).status == 400
    assert stage.reached() == []


async def test_a_websocket_of_the_own_origin_is_carried(stage: Stage, browser: Http2Browser) -> None:
    assert browser.websockets_offered
    version = ("sec-websocket-version", "13")
    number, answer = await browser.websocket("/user/alice/api", [cookie(), ORIGIN, version])
    assert answer.status == 200
    assert await browser.echo(number, b"hello") == b"hello"
    assert (await browser.ask("/user/alice/", [cookie()])).status == 200
    assert await browser.echo(number, b"more") == b"more"
    request = stage.backends[OWN].requests[0]
    assert (request.start, request.one("upgrade")) == ("GET /user/alice/api HTTP/1.1", "websocket")
    assert request.one("authorization") == f"token token-of-{ALICE}"


@pytest.mark.parametrize("protocol", ["websocket", "connect-udp"])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("origin", "https://evil.example.org")],
        [("origin", f"https://bob.{HOST}")],
        [("origin", f"http://{HOST}")],
        [("origin", "null")],
        [ORIGIN, ("origin", "https://evil.example.org")],
        [ORIGIN, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "websocket")],
    ],
    ids=["none", "foreign", "neighbour", "http", "null", "two", "cross-site"],
)
async def test_a_websocket_of_any_other_origin_is_refused(
    stage: Stage, browser: Http2Browser, headers: list[tuple[str, str]], protocol: str
) -> None:
    _, answer = await browser.websocket("/user/alice/api", [cookie(), *headers], protocol=protocol)
    assert answer.status == 403
    assert stage.reached() == []


async def test_a_websocket_without_a_grant_asks_the_hub(stage: Stage, browser: Http2Browser) -> None:
    await browser.websocket("/user/bob/api", [cookie(), ORIGIN])
    assert stage.reached() == ["hub"]
    assert f"{BOB}.1" not in stage.reached()


@pytest.mark.browser
@pytest.mark.skipif(not PROGRAM.exists(), reason="needs Chromium")
async def test_chromium_comes_by_http2_with_its_websockets_too(
    running: tuple[Stage, int, ssl.SSLContext], stage: Stage
) -> None:
    origin = f"https://{HOST}:{running[1]}"
    where = "--host-resolver-rules=MAP *.example.org 127.0.0.1"
    async with (
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=PROGRAM, args=[*FLAGS, where]) as chromium,
        await chromium.new_context(ignore_https_errors=True) as context,
    ):
        await context.add_cookies([{"name": ROUTE_COOKIE, "value": COOKIE, "url": origin, "secure": True}])
        page = await context.new_page()
        await page.goto(f"{origin}/user/alice/lab")
        hop = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
        assert await page.evaluate(hop) == "h2"
        opened = """url => new Promise(done => {
            const socket = new WebSocket(url);
            socket.onopen = () => done("open");
            socket.onerror = () => done("error");
        })"""
        target = f"wss://{HOST}:{running[1]}/user/alice/api"
        assert await page.evaluate(opened, target) == "open"
        await page.goto(f"https://neighbour.example.org:{running[1]}/")  # same site: the cookie is sent
        assert await page.evaluate(opened, target) == "error"
    (websocket,) = (each for each in stage.backends[OWN].requests if each.one("upgrade"))
    assert websocket.one("origin") == origin
    # As HAProxy writes it for a WebSocket that came by HTTP/2; Chromium itself writes "Upgrade".
    assert websocket.one("connection") == "upgrade"
