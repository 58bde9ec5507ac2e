"""The administrators' page of clusters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tornado.testing import bind_unused_port

from gateway.discovery import Discovery, Room
from gateway.model import JobId
from gateway.origins import Origins
from gateway.sitemerge import merge
from gateway.siteview import SiteView, SiteViews
from gateway.store.orphans import Orphan
from gateway.web import make_application, make_server
from gateway.web.services import Orphans
from tests.unit.test_siteview import BAD, SHORT, SOURCE, Looks, Scheduler, look
from tests.unit.web_fakes import Browser, World

HUB = "https://gw.example.org:8443"
PAGE = f"{HUB}/hub/clusters"
SEEN = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
ORPHAN = Orphan("lab", JobId("4711"), "gw-aaaaaa-bbbbbbbbbb", "alice", SEEN)


class Site:
    """A cluster whose login node and scheduler say what a test wants."""

    def __init__(self) -> None:
        self.looks = Looks(look(SHORT))
        room = Room(
            "short",
            max_walltime=60,
            cores=64,
            free_cores=7,
            nodes=2,
            free_nodes=1,
            waiting=3,
            free_gpus={"a100": 5},
        )
        scheduler = Scheduler(room)
        self.view = SiteView(SOURCE, merge(SOURCE), looks=self.looks, discover=scheduler.discover)


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
async def browser(site: Site) -> AsyncIterator[Browser]:
    async def orphans() -> Any:
        return [ORPHAN]

    kept = SimpleNamespace(all=orphans, cancelled_after=lambda orphan: orphan.first_seen + timedelta(days=1))
    services = replace(
        World.new(Origins.of(HUB + "/")).services(),
        views=SiteViews({"lab": site.view}),
        orphans=cast("Orphans", kept),
        news=lambda _: datetime.now(UTC) - timedelta(seconds=150),
    )
    listening, port = bind_unused_port()
    http = make_server(make_application(services))
    http.add_sockets([listening])
    yield Browser(port)
    http.stop()
    await http.close_all_connections()


async def shown(browser: Browser, name: str = "carol") -> str:
    await browser.log_in(Origins.of(HUB + "/"), name)
    _, page = await browser.open(PAGE)
    return page.body.decode()


async def test_it_is_for_administrators_alone(browser: Browser) -> None:
    await browser.log_in(Origins.of(HUB + "/"), "alice")
    page = await browser.fetch(PAGE)
    assert page.code == 403
    assert "for the gateway&#39;s administrators" in page.body.decode()
    assert (await browser.submit(page, PAGE, _xsrf=""))[1].code == 403


async def test_what_is_in_use_and_what_is_free(browser: Browser, site: Site) -> None:
    await site.view.refresh()
    text = await shown(browser)
    assert "/etc/gateway/site.d/0.yaml" in text
    assert site.view.sources[0].sha256[:12] in text
    assert "7 of 64" in text
    assert "5 a100" in text
    assert "2 minutes ago" in text


async def test_faults_and_disagreements_stand_there_escaped(browser: Browser, site: Site) -> None:
    odd = "version: 1\n<script>x</script>: 1\n"
    site.looks.now = (look(odd), look("version: 1\n", host="login2"))
    await site.view.refresh()
    text = await shown(browser)
    assert "login1:/etc/gateway/site.d/0.yaml:2" in text
    assert "login1 and login2 do not have the same drop-ins" in text
    assert "<script>x" not in text
    assert "the last good ones stay in use" in text


async def test_an_orphan_is_shown_with_its_owner_and_when_it_is_cancelled(browser: Browser) -> None:
    text = await shown(browser)
    for words in ("4711", "alice", "Mon 5 Jan, 10:00 UTC", "after Tue 6 Jan, 10:00 UTC"):
        assert words in text


async def test_where_other_peoples_jobs_are_hidden_it_says_that_orphans_are_not_looked_for(
    browser: Browser, site: Site
) -> None:
    words = "not looked for on The lab"
    assert words not in await shown(browser)
    site.view.discovery = Discovery(hidden=True)
    _, page = await browser.open(PAGE)
    assert words in page.body.decode()


async def test_read_again_now_asks_and_shows_what_came_of_it(browser: Browser, site: Site) -> None:
    await shown(browser)
    site.looks.now = (look(BAD["key"]),)
    where, page = await browser.submit(await browser.fetch(PAGE), PAGE)
    assert where == PAGE
    assert "partitoins" in page.body.decode()
    assert site.looks.everywhere == [True]
