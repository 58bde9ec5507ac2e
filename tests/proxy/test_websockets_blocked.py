"""A network that lets pages through but no WebSockets: said to the person, in Chromium through nginx."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from playwright.async_api import Page, async_playwright
from tornado.netutil import bind_unix_socket

from gateway.lifecycle import Phase
from gateway.origins import Origins
from gateway.web import make_application, make_server
from tests.proxy import fronts
from tests.proxy.conftest import PLACES
from tests.proxy.stage import HOST, Stage, own_certificate
from tests.proxy.test_pages import DESK, FLAGS, PROGRAM, SCREENSHOTS
from tests.unit.web_fakes import World, server

pytestmark = [pytest.mark.proxy, pytest.mark.browser]
SAYS = "Your network blocks WebSockets"


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A tab of a Chromium that finds the gateway's name on this machine."""
    if not (PROGRAM.exists() and shutil.which("nginx", path=PLACES)):
        pytest.skip("needs Debian's packages chromium and nginx")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright:
        flags = [*FLAGS, f"--host-resolver-rules=MAP {HOST} 127.0.0.1"]
        browser = await playwright.chromium.launch(executable_path=PROGRAM, args=flags)
        context = await browser.new_context(ignore_https_errors=True, viewport=DESK)
        yield await context.new_page()
        await browser.close()


@pytest.mark.parametrize("upgrades", [False, True], ids=["blocked", "through"])
async def test_a_network_that_blocks_websockets_is_noticed_and_said(
    stage: Stage, page: Page, upgrades: bool
) -> None:
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text))
    certificate = own_certificate(stage.directory)
    async with fronts.nginx(stage.directory, stage.port, certificate, upgrades=upgrades) as port:
        world = World.new(Origins.of(f"https://{HOST}:{port}/"))
        world.servers.put(server(phase=Phase.QUEUED))
        services = replace(world.services(), contact="help@example.org")
        hub = make_server(make_application(services))
        hub.add_socket(bind_unix_socket(str(stage.settings.hub_socket)))
        await stage.haproxy.ensure()
        try:
            await page.goto(world.origins.hub_url("/hub/login"))
            await page.get_by_label("User name").fill("alice")
            await page.get_by_label("Password").fill("alicepw")
            heard: list[str | bytes] = []

            def hear(frame: str | bytes) -> None:
                heard.append(frame)

            page.on("websocket", lambda socket: socket.on("framereceived", hear))
            await page.get_by_role("button", name="Log in", exact=True).click()
            await page.get_by_role("heading", name="Your servers").wait_for()
            await see(page, blocked=not upgrades, name="home-websockets")
            await page.goto(world.origins.hub_url("/hub/wait"))
            await see(page, blocked=not upgrades, name="waiting-websockets")
            assert heard == ["through", "through"] * upgrades
            if upgrades:
                assert complaints == []
        finally:
            hub.stop()
            await hub.close_all_connections()


async def see(page: Page, *, blocked: bool, name: str) -> None:
    """Look at a page after the time that WebSockets are given."""
    alert = page.get_by_role("alert").get_by_text(re.compile(SAYS))
    if blocked:
        await alert.wait_for(timeout=10_000)
        assert "help@example.org" in await alert.inner_text()
        await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    else:
        await page.wait_for_timeout(5500)
        assert not await alert.is_visible()
