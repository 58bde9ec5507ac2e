"""The pages that nobody should have to see, in a real Chromium: the proxy's own, and some of the hub's.

Chromium goes through tests that fetch for it: what it shows came from the real HAProxy, or the real pages.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from playwright.async_api import Browser as Chromium
from playwright.async_api import Route, ViewportSize, async_playwright
from tornado.testing import bind_unused_port

from gateway.dataplane import haproxyconfig, pages
from gateway.dataplane.haproxy import HAProxy
from gateway.dataplane.limits import Limits
from gateway.lifecycle import Phase
from gateway.model import EndReason
from gateway.origins import ENTERED_COOKIE, Origins
from gateway.timeline import Entry
from gateway.web import make_application, make_server
from tests.proxy.stage import ALICE, HOST, UPGRADE, Headers, Message, Stage, cookie
from tests.unit.web_fakes import Browser, World, server

pytestmark = [pytest.mark.proxy, pytest.mark.browser]

PROGRAM = Path("/usr/bin/chromium")
SCREENSHOTS = Path(__file__).parents[2] / "var" / "screenshots"
DESK, PHONE = ViewportSize(width=1280, height=800), ViewportSize(width=390, height=844)
HUB = "https://gw.example.org:8443"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

#: Returns what a browser gets at an address: the status, the headers, the body.
Fetch = Callable[[str], Awaitable[tuple[int, dict[str, str], bytes]]]


@pytest.fixture
async def chromium() -> AsyncIterator[Chromium]:
    if not PROGRAM.exists():
        pytest.skip("needs Debian's package chromium")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=PROGRAM, args=FLAGS)
        yield browser
        await browser.close()


async def look(chromium: Chromium, url: str, fetch: Fetch, name: str) -> tuple[str, str]:
    """Open an address, at a desk and then on a phone in the dark; return its title and what one reads."""
    page = await chromium.new_page(viewport=DESK)
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text))
    await page.route("**/*", answering(fetch))
    await page.goto(url, wait_until="load")
    for details in await page.locator("details").all():
        await details.locator("summary").click()
    await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    await page.set_viewport_size(PHONE)
    await page.emulate_media(color_scheme="dark")
    await page.screenshot(path=SCREENSHOTS / f"{name}-phone.png", full_page=True)
    assert not await page.evaluate("document.documentElement.scrollWidth > innerWidth"), (
        "too wide for a phone"
    )
    assert [said for said in complaints if "the server responded with a status" not in said] == []
    read = await page.title(), await page.locator("main").inner_text()
    await page.close()
    return read


def answering(fetch: Fetch) -> Callable[[Route], Awaitable[None]]:
    async def answer(route: Route) -> None:
        status, headers, body = await fetch(route.request.url)
        await route.fulfill(status=status, headers=headers, body=body)

    return answer


# --- HAProxy's own ---


#: How a person's browser, and how programs and pages' scripts, say what they are.
PERSON = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"), ("Accept", "text/html,*/*")]
PROGRAMS: list[Headers] = [
    [("Accept", "application/json")],
    [],
    [("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Site", "same-origin"), ("Accept", "text/html")],
    [*UPGRADE, ("Origin", f"https://{HOST}"), ("Accept", "text/html")],
]


async def a_bad_request(stage: Stage, who: Headers) -> Message:
    return await stage.ask("/user/alice/", [("Cookie", "a=1"), cookie(), *who])


async def a_page_of_another_site(stage: Stage, who: Headers) -> Message:
    foreign = [("Origin", "https://evil.example.org"), ("Origin", f"https://{HOST}")]
    return await stage.ask("/user/alice/api", [cookie(), *who, *foreign])


async def a_large_form(stage: Stage, who: Headers) -> Message:
    return await stage.ask("/hub/spawn", [("Content-Length", "99999999"), *who], method="POST")


async def a_slow_form(stage: Stage, who: Headers) -> Message:
    return await stage.ask("/hub/spawn", [("Content-Length", "9"), *who], method="POST")


async def too_many_requests(stage: Stage, who: Headers) -> Message:
    while (answer := await stage.ask("/user/alice/exp1/", [cookie(), *who])).status in (200, 101):
        pass
    return answer


async def no_hub(stage: Stage, who: Headers) -> Message:
    await stage.backends["hub"].close()
    return await stage.ask("/hub/home", who)


async def no_proper_answer(stage: Stage, who: Headers) -> Message:
    await stage.backends[f"{ALICE}.1"].close()
    async with await asyncio.start_unix_server(babble, stage.directory / f"{ALICE}.1.sock"):
        return await stage.ask("/user/alice/", [cookie(), *who])


async def no_answer(stage: Stage, who: Headers) -> Message:
    await stage.backends[f"{ALICE}.1"].close()
    async with await asyncio.start_unix_server(hesitate, stage.directory / f"{ALICE}.1.sock"):
        return await stage.ask("/user/alice/", [cookie(), *who])


async def hesitate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1000):
        pass
    writer.close()


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.write(b"not HTTP\r\n\r\n")
    with suppress(OSError):
        await writer.drain()
    writer.close()


async def no_way(stage: Stage, who: Headers) -> Message:
    await stage.backends[f"{ALICE}.1"].close()
    return await stage.ask("/user/alice/", [cookie(), *who])


Cause = Callable[[Stage, Headers], Awaitable[Message]]
CAUSES: dict[str, Cause] = {
    "400": a_bad_request,
    "403": a_page_of_another_site,
    "408": a_slow_form,
    "413": a_large_form,
    "429": too_many_requests,
    "hub": no_hub,
    "502": no_proper_answer,
    "503": no_way,
    "504": no_answer,
}


def impatient(stage: Stage) -> None:
    """Let HAProxy wait for an answer, and for the rest of a form, for a second in place of an hour."""
    stage.settings = replace(stage.settings, limits=Limits(patience=1, requests=2))
    stage.haproxy = HAProxy(stage.settings)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    template = haproxyconfig._config_template().render

    def render(**values: object) -> str:
        text: str = template(**values)
        assert "timeout server 1h" in text
        return text.replace("timeout server 1h", "timeout server 1s")

    monkeypatch.setattr(haproxyconfig, "_config_template", lambda: SimpleNamespace(render=render))
    for cached in (haproxyconfig._fixed, haproxyconfig.digest):
        cached.cache_clear()


@pytest.mark.usefixtures("_impatient")
async def test_programs_get_the_same_words_as_json(stage: Stage) -> None:
    impatient(stage)
    await stage.usual()
    for name, cause in CAUSES.items():
        page = pages.PAGES[name]
        # HAProxy itself takes Upgrade out of a request with a body; waiting once is enough.
        for who in PROGRAMS[: {"408": 1, "413": -1, "504": 1}.get(name)]:
            answer = await cause(stage, who)
            assert (answer.status, answer.one("content-type")) == (page.status, "application/json"), name
            assert json.loads(answer.body) == {
                "status": page.status,
                "message": page.text,
                "advice": page.advice,
            }
            assert answer.one("retry-after") == (str(page.refresh) if page.refresh else None)
            assert (answer.one("cache-control"), answer.one("x-content-type-options")) == (
                "no-store",
                "nosniff",
            )
            await bring_back(stage)


async def test_a_page_of_ours_waits_for_the_server_and_then_brings_one_back_to_the_same_address(
    chromium: Chromium,
) -> None:
    url, asked = f"https://{HOST}/user/alice/lab/tree/a%20b?x=1", []
    lines = pages.files()["pages.map"].splitlines()
    html = next(line.partition(" ")[2] for line in lines if line.startswith("hub.html "))
    headers = {"Content-Type": "text/html", **pages._headers(pages.PAGES["hub"])}
    page = await chromium.new_page()

    async def answer(route: Route) -> None:
        asked.append(f"{route.request.method} {route.request.url}")
        if len(asked) == 1:
            await route.fulfill(status=503, headers=headers, body=html)
        elif len(asked) == 2:
            await route.abort("connectionrefused")
        else:
            await route.fulfill(status=200, content_type="text/html", body="<h1>Back</h1>")

    await page.route("**/user/**", answer)
    await page.goto(url)
    await page.get_by_role("heading", name="Back").wait_for(timeout=15_000)
    assert page.url == url
    assert asked == [f"GET {url}", f"HEAD {url}", f"HEAD {url}", f"GET {url}"]


@pytest.mark.usefixtures("_impatient")
async def test_each_of_the_proxys_own_pages_says_what_happened(stage: Stage, chromium: Chromium) -> None:
    assert CAUSES.keys() == pages.PAGES.keys()
    impatient(stage)
    await stage.usual()
    answers = {}
    for name, cause in CAUSES.items():
        answer = await cause(stage, PERSON)
        assert answer.status == pages.PAGES[name].status, name
        assert answer.one("content-type") == "text/html; charset=utf-8"
        head = "".join(f"{key}: {value}\r\n" for key, value in answer.headers)
        answers[name] = f"{answer.start}\r\n{head}\r\n{answer.body.decode()}"
        await bring_back(stage)
    for name, answer_text in answers.items():
        title, words = await look(chromium, f"https://{HOST}/", always(answer_text), f"proxy-{name}")
        assert words.startswith(title), name
        assert len(title) > 5
        assert words.count(".") >= 2, f"{name}: what happened and what to do: {words}"


async def bring_back(stage: Stage) -> None:
    """Start again what a cause has ended."""
    for name in ("hub", f"{ALICE}.1"):
        if not stage.backends[name].path.exists():
            await stage.backends[name].start()


def always(answer: str) -> Fetch:
    """Return what answers every address like this; an icon is not asked for."""
    head, _, body = answer.partition("\r\n\r\n")
    start, *lines = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    headers.pop("content-length", headers.pop("Content-Length", None))

    async def fetch(_: str) -> tuple[int, dict[str, str], bytes]:
        return int(start.split()[1]), headers, body.encode()

    return fetch


# --- the hub's ---


@pytest.fixture
async def alice() -> AsyncIterator[tuple[Browser, World]]:
    world = World.new(Origins.of(HUB + "/"))
    listening, port = bind_unused_port()
    http = make_server(make_application(world.services()))
    http.add_sockets([listening])
    browser = Browser(port)
    await browser.log_in(world.origins)
    yield browser, world
    http.stop()
    await http.close_all_connections()


def by(browser: Browser) -> Fetch:
    async def fetch(url: str) -> tuple[int, dict[str, str], bytes]:
        headers = {"Accept": "*/*", "Sec-Fetch-Mode": "no-cors"} if "/static/" in url else {}
        answer = await browser.fetch(url, headers=headers)
        return answer.code, dict(answer.headers.get_all()), answer.body

    return fetch


async def test_a_server_that_the_proxy_does_not_let_through_yet(
    alice: tuple[Browser, World], chromium: Chromium
) -> None:
    browser, world = alice
    there = world.servers.put(server())
    browser.jar["alice.gw.example.org"][ENTERED_COOKIE] = there.id
    url = "https://alice.gw.example.org:8443/user/alice/lab"
    title, words = await look(chromium, url, by(browser), "not-through")
    assert title == "One moment · Gateway"
    assert "tries again by itself" in words


async def test_an_ended_server_with_its_story(alice: tuple[Browser, World], chromium: Chromium) -> None:
    browser, world = alice
    log = 'Traceback (most recent call last):\n  File "lab.py", line 1\nModuleNotFoundError: jupyterlab'
    ended = world.servers.put(
        server(phase=Phase.ENDED, reason=EndReason.FAILED, message=f"The application failed.\n{log}")
    )
    at = datetime(2026, 11, 23, 15, 4, 5, tzinfo=UTC)
    said = [
        (Phase.INTENT, "jupyterlab on lab: partition short, 5 min, cores 1, 512 MB"),
        (Phase.SUBMITTING, "Handing your job to the scheduler."),
        (Phase.SUBMITTING, "The scheduler took it as job 4242."),
        (Phase.QUEUED, "The scheduler says of job 4242: PENDING (Resources)."),
        (Phase.STARTING, "Starting on cn042."),
        (
            Phase.STARTING,
            "How job 4242 ended: the scheduler says failed, the job itself failed, exit status 1.",
        ),
        (Phase.ENDED, f"The application failed.\n{log}"),
    ]
    world.servers.timeline.entries[ended.id] = [
        Entry(at + timedelta(seconds=7 * number), "step", phase, text)
        for number, (phase, text) in enumerate(said)
    ]
    _, words = await look(chromium, f"{HUB}/hub/wait", by(browser), "ended-story")
    assert "What happened, step by step" in words
    assert "15:04:26 The scheduler says of job 4242: PENDING (Resources)." in " ".join(words.split())
