"""Logging in, one's own pages, and who may send what."""

from __future__ import annotations

import html
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.testing import bind_unused_port
from tornado.websocket import websocket_connect

from gateway import options
from gateway.discovery import Discovery, Room
from gateway.errors import (
    ConfigError,
    DataPlaneError,
    DirectoryUnreachable,
    GatewayError,
    LoginNodeUnreachable,
    LoginNotAllowed,
    LoginRefused,
    PasswordExpired,
)
from gateway.lifecycle import Phase
from gateway.model import EndReason, User
from gateway.options import check
from gateway.origins import ENTERED_COOKIE, ROUTE_COOKIE, SESSION_COOKIE, Origins
from gateway.script import preview_facts, render_script
from gateway.siteconfig import SiteConfig, parse_site_config
from gateway.timeline import Entry
from gateway.web import make_application, make_server
from gateway.web.base import secret_hash
from gateway.web.moments import ago, clock_time, until
from tests.unit.web_fakes import Browser, World, server, site, token

HUB = "https://gw.example.org:8443"
HUB_HOST = "gw.example.org"


@pytest.fixture
def world() -> World:
    return World.new(Origins.of(HUB + "/"))


@pytest.fixture
async def port(world: World) -> AsyncIterator[int]:
    listening, port = bind_unused_port()
    http = make_server(make_application(world.services()))
    http.add_sockets([listening])
    yield port
    http.stop()
    await http.close_all_connections()


@pytest.fixture
def browser(port: int) -> Browser:
    return Browser(port)


@pytest.fixture
async def alice(browser: Browser, world: World) -> Browser:
    await browser.log_in(world.origins)
    return browser


def text(page: HTTPResponse) -> str:
    return page.body.decode()


# --- logging in and out ---


async def test_a_login_leads_home_and_only_the_hash_of_its_cookie_is_kept(
    browser: Browser, world: World
) -> None:
    url, page = await browser.log_in(world.origins)
    assert (url, page.code) == (f"{HUB}/hub/home", 200)
    assert "alice" in text(page)
    cookie = browser.jar[HUB_HOST][SESSION_COOKIE]
    assert len(cookie) >= 43
    assert all(cookie not in kept for kept in world.sessions.sessions)


async def test_a_page_that_needs_a_login_is_reached_after_it(browser: Browser, world: World) -> None:
    url, page = await browser.open(f"{HUB}/hub/spawn/exp1?cluster=lab")
    assert url.startswith(f"{HUB}/hub/login?next=")
    assert 'name="next" value="' + f"{HUB}/hub/spawn/exp1?cluster=lab" in text(page)
    url, page = await browser.submit(
        page, f"{HUB}/hub/login", username="alice", password="alicepw", next="/hub/spawn/exp1"
    )
    assert url == f"{HUB}/hub/spawn/exp1"


@pytest.mark.parametrize("target", ["https://evil.org/", "//evil.org", "/\\evil.org", "javascript:alert(1)"])
async def test_a_login_leads_to_no_other_site(browser: Browser, world: World, target: str) -> None:
    url, _ = await browser.log_in(world.origins, next=target)
    assert url == f"{HUB}/hub/home"


async def test_a_wrong_password_gives_one_sentence_and_keeps_the_name(browser: Browser) -> None:
    page = await browser.fetch(f"{HUB}/hub/login")
    _, page = await browser.submit(page, f"{HUB}/hub/login", username='al"ice', password="no-such-pw")
    assert page.code == 403
    assert "do not match" in text(page)
    assert 'value="al&#34;ice"' in text(page)
    assert "no-such-pw" not in text(page)
    assert SESSION_COOKIE not in browser.jar[HUB_HOST]


async def test_the_log_of_a_failed_login_holds_a_name_only_if_somebody_has_it(
    browser: Browser, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await browser.log_in(world.origins)
    caplog.clear()
    page = await browser.fetch(f"{HUB}/hub/logout")
    for name in ("Alice", "hunter2", "Tr0ub4dor&3"):
        await browser.submit(page, f"{HUB}/hub/login", username=name, password="x")
    world.authenticator.error = DirectoryUnreachable("down")
    await browser.submit(page, f"{HUB}/hub/login", username="hunter2", password="x")
    said = [record.getMessage() for record in caplog.records if record.name == "gateway.web.session"]
    assert said == [
        "login of alice from 127.0.0.1 refused: wrong password",
        "login from 127.0.0.1 refused: wrong password",
        "login from 127.0.0.1 refused: malformed user name",
        "login from 127.0.0.1 failed: down",
    ]


async def test_a_directory_that_is_down_is_told_apart_and_does_not_count_as_a_try(
    browser: Browser, world: World
) -> None:
    world.authenticator.error = DirectoryUnreachable("down")
    for _ in range(7):
        _, page = await browser.log_in(world.origins)
        assert page.code == 503
        assert "not answering" in text(page)
    world.authenticator.error = None
    url, _ = await browser.log_in(world.origins)
    assert url == f"{HUB}/hub/home"


@pytest.mark.parametrize(
    "error",
    [
        LoginRefused("49 for alice"),
        LoginNotAllowed("not in the group"),
        PasswordExpired("49 with 532", advice="Change it at https://password.example.org/ & log in again."),
        DirectoryUnreachable("down: no route"),
        ConfigError("the reader is refused", "Your password is right. You are not logged in."),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_each_kind_of_no_is_shown_with_what_to_do_next(
    browser: Browser, world: World, error: GatewayError
) -> None:
    world.authenticator.error = error
    _, page = await browser.log_in(world.origins)
    (shown,) = re.findall(r'role="alert"[^>]*>(.*?)</p>', text(page))
    plain = html.unescape(re.sub(r"<[^>]+>", "", shown))
    assert (page.code, " ".join(plain.split())) == (error.status, error.text)
    assert str(error) not in text(page)
    assert SESSION_COOKIE not in browser.jar[HUB_HOST]


@pytest.mark.parametrize(
    ("contact", "shown"),
    [
        ("help@example.org", 'Ask <a href="mailto:help@example.org">'),
        ("https://help.example.org/", 'Ask <a href="https://help.example.org/">'),
        ("room 12 <b>", "Ask room 12 &lt;b&gt;</p>"),
    ],
)
async def test_every_page_says_whom_to_ask(world: World, contact: str, shown: str) -> None:
    listening, port = bind_unused_port()
    http = make_server(make_application(replace(world.services(), contact=contact)))
    http.add_sockets([listening])
    assert shown in text(await Browser(port).fetch(f"{HUB}/hub/login"))
    assert shown in text(await Browser(port).fetch(f"{HUB}/hub/nosuch"))
    http.stop()
    await http.close_all_connections()


async def test_guessing_is_slowed_down_by_name_and_address_and_not_for_ever(
    browser: Browser, world: World
) -> None:
    page = await browser.fetch(f"{HUB}/hub/login")
    wrong = {"username": "alice", "password": "x"}
    codes = [(await browser.submit(page, f"{HUB}/hub/login", **wrong))[1].code for _ in range(7)]
    assert codes == [403] * 5 + [429] * 2
    assert world.authenticator.asked == 5
    _, refused = await browser.log_in(world.origins)
    assert refused.code == 429
    assert int(refused.headers["Retry-After"]) <= 301
    _, other = await browser.log_in(world.origins, "bob")
    assert other.code == 200
    world.clock.ahead = timedelta(minutes=6)
    browser.jar.clear()
    assert (await browser.log_in(world.origins))[1].code == 200


async def test_a_login_gets_a_new_cookie_and_ends_the_old_session_with_its_grants(
    alice: Browser, world: World
) -> None:
    old = alice.jar[HUB_HOST][SESSION_COOKIE]
    (old_hash,) = world.sessions.sessions
    await world.routing.give("c" * 64, old_hash, [server()], world.clock())
    page = await alice.fetch(f"{HUB}/hub/home")
    await alice.submit(page, f"{HUB}/hub/login", username="bob", password="bobpw")
    assert alice.jar[HUB_HOST][SESSION_COOKIE] != old
    assert [each.user.name for each in world.sessions.sessions.values()] == ["bob"]
    assert not world.routing.grants


async def test_a_session_ends_in_time(alice: Browser, world: World) -> None:
    world.clock.ahead = timedelta(hours=9)
    url, _ = await alice.open(f"{HUB}/hub/home")
    assert url.startswith(f"{HUB}/hub/login")


async def test_a_link_does_not_log_out_and_the_button_takes_everything_back(
    alice: Browser, world: World
) -> None:
    (session_hash,) = world.sessions.sessions
    await world.routing.give("c" * 64, session_hash, [server()], world.clock())
    page = await alice.fetch(f"{HUB}/hub/logout")
    assert len(world.sessions.sessions) == 1
    _, page = await alice.submit(page, f"{HUB}/hub/logout")
    assert "logged out" in text(page)
    assert not world.sessions.sessions
    assert not world.routing.grants
    assert SESSION_COOKIE not in alice.jar[HUB_HOST]


async def test_a_logout_works_while_the_proxy_is_down(alice: Browser, world: World) -> None:
    world.routing.error = DataPlaneError("down")
    page = await alice.fetch(f"{HUB}/hub/logout")
    _, page = await alice.submit(page, f"{HUB}/hub/logout")
    assert page.code == 200
    assert not world.sessions.sessions


# --- who may send what ---


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://bob.gw.example.org:8443", "Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.org", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
    ],
)
async def test_a_form_of_another_origin_does_nothing_even_with_the_right_token(
    alice: Browser, world: World, headers: dict[str, str]
) -> None:
    world.servers.put(server())
    body = urlencode({"_xsrf": token(await alice.fetch(f"{HUB}/hub/home"))})
    for path in ("/hub/stop", "/hub/spawn/exp1", "/hub/logout", "/hub/login"):
        answer = await alice.fetch(HUB + path, "POST", body, headers)
        assert answer.code == 403
        assert "Nothing was done" in text(answer)
    assert world.servers.now["alice", ""].phase is Phase.READY
    assert len(world.sessions.sessions) == 1


@pytest.mark.parametrize("sent", ["", "_xsrf=", "_xsrf=2%7C00000000%7C0000%7C1"])
async def test_a_form_without_the_right_token_does_nothing(alice: Browser, world: World, sent: str) -> None:
    world.servers.put(server())
    answer = await alice.fetch(f"{HUB}/hub/stop", "POST", sent, {"Origin": HUB})
    assert answer.code == 403
    assert world.servers.now["alice", ""].phase is Phase.READY


async def test_every_page_forbids_frames_foreign_files_and_inline_scripts(
    alice: Browser, world: World
) -> None:
    world.servers.put(server(phase=Phase.QUEUED))
    for path in (
        "/hub/home",
        "/hub/spawn/exp1",
        "/hub/wait",
        "/hub/login?x",
        "/hub/logout",
        "/nowhere",
        "/hub/api/user",
    ):
        answer = await alice.fetch(HUB + path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy, path
        assert "frame-ancestors 'none'" in policy, path
        assert "unsafe" not in policy, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert " style=" not in text(answer)
        assert "<script>" not in text(answer)
        assert "Server" not in answer.headers


async def test_hub_pages_are_on_the_hubs_host_only(alice: Browser) -> None:
    answer = await alice.fetch("https://alice.gw.example.org:8443/hub/home")
    assert (answer.code, answer.headers["Location"]) == (302, f"{HUB}/hub/home")
    assert (await alice.fetch("https://evil.org/hub/home")).code == 404
    assert (await alice.fetch("https://alice.gw.example.org:8443/hub/logout", "POST", "")).code == 404
    assert (await alice.fetch("https://alice.gw.example.org:8443/hub/api/user")).code == 404


async def test_files_are_the_four_that_pages_use(browser: Browser) -> None:
    page = await browser.fetch(f"{HUB}/hub/login")
    for name in ("gateway.css", "wait.js", "spawn.js", "icon.svg"):
        assert (await browser.fetch(f"{HUB}/hub/static/{name}")).code == 200
    for name in ("page.html", "../web/page.html", "%2e%2e/page.html", "gatewayxcss"):
        assert (await browser.fetch(f"{HUB}/hub/static/{name}")).code == 404
    assert "/hub/static/gateway.css?v=" in text(page)


# --- one's servers ---


async def test_home_shows_each_server_with_what_can_be_done(alice: Browser, world: World) -> None:
    world.servers.put(server())
    world.servers.put(server(name="exp1", id="b" * 10, phase=Phase.QUEUED, native_reason="Resources"))
    world.servers.put(server(name="old", id="c" * 10, phase=Phase.ENDED, reason=EndReason.WALLTIME))
    world.servers.put(server("bob", "secret", id="d" * 10))
    page = text(await alice.fetch(f"{HUB}/hub/home"))
    assert 'href="https://alice.gw.example.org:8443/user/alice/"' in page
    assert f'href="{HUB}/hub/wait/exp1"' in page
    assert "Time is up" in page
    assert "secret" not in page


async def test_a_further_server_gets_its_name_checked_in_words(alice: Browser) -> None:
    url, page = await alice.open(f"{HUB}/hub/spawn?name=exp1")
    assert (url, page.code) == (f"{HUB}/hub/spawn/exp1", 200)
    page = await alice.fetch(f"{HUB}/hub/spawn?name=lab")
    assert page.code == 400
    assert "Jupyter itself uses" in text(page)
    assert (await alice.fetch(f"{HUB}/hub/spawn/..%2Fhome")).code == 400


async def test_the_form_starts_a_server_with_what_was_chosen(alice: Browser, world: World) -> None:
    page = await alice.fetch(f"{HUB}/hub/spawn")
    assert "10 minutes" in text(page)
    form = {
        "cluster": "lab",
        "application": "jupyterlab",
        "partition": "short",
        "walltime": "5m",
        "cores": "2",
    }
    url, page = await alice.submit(page, f"{HUB}/hub/spawn", **form, memory="1G")
    assert (url, page.code) == (f"{HUB}/hub/wait", 200)
    ((user, name, choices),) = world.servers.started
    assert (user.name, name) == ("alice", "")
    assert (choices.partition, choices.walltime, choices.cores, choices.memory) == ("short", 5, 2, 1024)


async def test_a_refused_form_keeps_what_was_typed_and_says_why_beside_the_field(
    alice: Browser, world: World
) -> None:
    page = await alice.fetch(f"{HUB}/hub/spawn")
    form = {"cluster": "lab", "partition": "short", "walltime": "77m", "cores": "1", "memory": '1G"<'}
    _, page = await alice.submit(page, f"{HUB}/hub/spawn", **form)
    assert page.code == 400
    assert 'value="77m"' in text(page)
    assert 'value="1G&#34;&lt;"' in text(page)
    assert 'id="f-walltime-error"' in text(page)
    assert "The longest walltime on short is 10 minutes." in text(page)
    assert not world.servers.started


async def test_an_undeclared_field_is_refused(alice: Browser, world: World) -> None:
    page = await alice.fetch(f"{HUB}/hub/spawn")
    _, page = await alice.submit(page, f"{HUB}/hub/spawn", cluster="lab", extra="--uid=0")
    assert page.code == 400
    assert not world.servers.started


async def test_a_cluster_that_does_not_answer_is_said_and_the_form_kept(alice: Browser, world: World) -> None:
    world.servers.error = LoginNodeUnreachable("login1: timed out")
    page = await alice.fetch(f"{HUB}/hub/spawn")
    _, page = await alice.submit(page, f"{HUB}/hub/spawn", cluster="lab", walltime="7m")
    assert page.code == 503
    assert "login node is not answering" in text(page)
    assert "login1" not in text(page)
    assert 'value="7m"' in text(page)


async def test_the_form_of_a_server_that_is_there_leads_to_it(alice: Browser, world: World) -> None:
    world.servers.put(server(phase=Phase.QUEUED))
    url, _ = await alice.open(f"{HUB}/hub/spawn")
    assert url == f"{HUB}/hub/wait"
    page = await alice.fetch(f"{HUB}/hub/home")
    _, page = await alice.submit(page, f"{HUB}/hub/spawn", cluster="lab")
    assert page.code == 409


async def test_two_clusters_have_a_form_each(alice: Browser, world: World) -> None:
    world.sites["other"] = site("other", "The other one")
    page = text(await alice.fetch(f"{HUB}/hub/spawn?cluster=other"))
    assert 'name="cluster" value="other"' in page
    assert "?cluster=lab" in page


async def test_only_the_form_that_is_shown_is_made(
    alice: Browser, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    form = options.form

    def counted(shown: SiteConfig, *others: Any) -> options.Form:
        made.append(shown.name)
        return form(shown, *others)

    monkeypatch.setattr(options, "form", counted)
    world.sites |= {name: site(name, name) for name in ("second", "third")}
    await alice.fetch(f"{HUB}/hub/spawn?cluster=second")
    assert made == ["second"]


async def test_waiting_shows_the_schedulers_reason_and_goes_on_without_scripts(
    alice: Browser, world: World
) -> None:
    waiting = world.servers.put(
        server(
            phase=Phase.QUEUED,
            message="The partition is full.",
            native_reason="Resources<b>",
            starts=datetime(2026, 11, 23, 15, 0, tzinfo=UTC),
        )
    )
    page = text(await alice.fetch(f"{HUB}/hub/wait"))
    assert "The partition is full." in page
    assert "Resources&lt;b&gt;" in page
    assert "2026-11-23 15:00 UTC" in page
    assert '<noscript><meta http-equiv="refresh" content="3"></noscript>' in page
    world.servers.put(replace(waiting, phase=Phase.READY))
    answer = await alice.fetch(f"{HUB}/hub/wait")
    assert (answer.code, answer.headers["Location"]) == (303, "https://alice.gw.example.org:8443/user/alice/")


async def test_an_ended_server_says_why_with_the_tail_of_its_log(alice: Browser, world: World) -> None:
    message = "The application failed with status 1.\nTraceback:\n  <no module>"
    world.servers.put(server(phase=Phase.ENDED, reason=EndReason.FAILED, message=message))
    page = text(await alice.fetch(f"{HUB}/hub/wait"))
    assert "The application failed with status 1." in page
    assert "&lt;no module&gt;</pre>" in page


async def test_an_ended_server_tells_what_happened_in_words_for_its_owner(
    alice: Browser, world: World
) -> None:
    ended = world.servers.put(server(phase=Phase.ENDED, reason=EndReason.FAILED, message="It failed."))
    page = text(await alice.fetch(f"{HUB}/hub/wait"))
    assert "What happened" not in page
    at = datetime(2026, 11, 23, 15, 4, 5, tzinfo=UTC)
    world.servers.timeline.entries[ended.id] = [
        Entry(
            at, "scheduler", Phase.QUEUED, "The scheduler says of job 7: PENDING (<b>).", "for administrators"
        ),
        Entry(at, "gone", Phase.ENDED, "It failed.\nTraceback"),
    ]
    page = text(await alice.fetch(f"{HUB}/hub/wait"))
    assert "What happened" in page
    assert "<time>15:04:05</time> <span>The scheduler says of job 7: PENDING (&lt;b&gt;).</span>" in page
    assert "for administrators" not in page


async def test_stop_stops_and_a_second_stop_does_no_harm(alice: Browser, world: World) -> None:
    world.servers.put(server(phase=Phase.QUEUED))
    page = await alice.fetch(f"{HUB}/hub/home")
    for _ in range(2):
        url, answer = await alice.submit(page, f"{HUB}/hub/stop")
        assert (url, answer.code) == (f"{HUB}/hub/wait", 200)
    assert world.servers.now["alice", ""].phase is Phase.ENDED


async def test_an_unforeseen_error_tells_nothing_of_itself(
    alice: Browser, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.sites.clear()
    assert (await alice.fetch(f"{HUB}/hub/spawn")).code == 404
    world.servers.now["alice", ""] = None  # type: ignore[assignment]  # a broken record
    answer = await alice.fetch(f"{HUB}/hub/home?code=s3cret")
    assert answer.code == 500
    assert "Traceback" not in text(answer)
    assert "AttributeError" not in text(answer)
    assert "s3cret" not in caplog.text


# --- the way into a server ---

ALICE = "https://alice.gw.example.org:8443"
ALICE_HOST = "alice.gw.example.org"


async def test_a_browser_is_led_through_login_to_the_very_page_it_wanted(
    browser: Browser, world: World
) -> None:
    world.servers.put(server())
    url, page = await browser.open(f"{ALICE}/user/alice/lab/tree/a%20b?x=1&y=2")
    assert url.startswith(f"{HUB}/hub/login?next=")
    target = text(page).split('name="next" value="')[1].split('"')[0].replace("&amp;", "&")
    url, page = await browser.submit(
        page, f"{HUB}/hub/login", username="alice", password="alicepw", next=target
    )
    assert url == f"{ALICE}/user/alice/lab/tree/a%20b?x=1&y=2"
    assert page.code == 503  # here the proxy would have let it through
    assert ROUTE_COOKIE in browser.jar[ALICE_HOST]
    assert ROUTE_COOKIE not in browser.jar[HUB_HOST]
    assert SESSION_COOKIE not in browser.jar[ALICE_HOST]
    ((cookie_hash, server_id),) = world.routing.grants
    assert server_id == "a" * 10
    assert browser.jar[ALICE_HOST][ROUTE_COOKIE] not in cookie_hash
    assert not world.sessions.codes


async def test_a_proxy_that_does_not_know_the_grant_is_no_endless_loop(alice: Browser, world: World) -> None:
    world.servers.put(server())
    url, page = await alice.open(f"{ALICE}/user/alice/")
    assert (url, page.code) == (f"{ALICE}/user/alice/", 503)
    assert 'http-equiv="refresh"' in text(page)
    del alice.jar[ALICE_HOST][ENTERED_COOKIE]
    assert (await alice.fetch(f"{ALICE}/user/alice/")).code == 302


async def test_entering_grants_all_of_ones_open_servers_to_a_new_cookie(alice: Browser, world: World) -> None:
    world.servers.put(server())
    world.servers.put(server(name="exp1", id="b" * 10))
    world.servers.put(server(name="exp2", id="c" * 10, phase=Phase.QUEUED))
    world.servers.put(server("bob", id="d" * 10))
    alice.jar[ALICE_HOST][ROUTE_COOKIE] = "planted-by-a-page"
    await alice.open(f"{ALICE}/user/alice/exp1/lab")
    assert alice.jar[ALICE_HOST][ROUTE_COOKIE] != "planted-by-a-page"
    assert sorted(server_id for _, server_id in world.routing.grants) == ["a" * 10, "b" * 10]


async def enter_url(browser: Browser, page: str = f"{ALICE}/user/alice/") -> str:
    """Go as far as the address with the code."""
    location = (await browser.fetch(page)).headers["Location"]
    return (await browser.fetch(location)).headers["Location"]


async def test_a_code_is_good_once(alice: Browser, world: World) -> None:
    world.servers.put(server())
    url = await enter_url(alice)
    assert (await alice.fetch(url)).code == 302
    world.routing.grants.clear()
    again = await alice.fetch(url)
    assert not world.routing.grants
    assert again.headers["Location"] == f"{ALICE}/user/alice/", "from where another code is fetched"
    assert "Set-Cookie" not in again.headers


async def test_a_page_that_could_not_be_granted_at_once_comes_in_when_it_tries_again(
    alice: Browser, world: World
) -> None:
    world.servers.put(server())
    world.routing.error = DataPlaneError("HAProxy does not answer")
    url = await enter_url(alice, f"{ALICE}/user/alice/lab?reset")
    refused = await alice.fetch(url)
    assert refused.code == 503
    assert 'http-equiv="refresh"' in text(refused)
    assert not world.routing.grants
    world.routing.error = None
    at, _ = await alice.open(url)
    assert at == f"{ALICE}/user/alice/lab?reset"
    assert len(world.routing.grants) == 1


async def test_a_code_is_good_only_in_the_browser_that_asked(alice: Browser, world: World, port: int) -> None:
    world.servers.put(server())
    for state in (None, "x" * 43):
        thief = Browser(port)
        if state:
            thief.jar[ALICE_HOST]["__Host-gateway-state"] = state
        assert (await thief.fetch(await enter_url(alice))).code == 403
    assert not world.routing.grants


async def test_a_code_is_good_only_at_its_own_host_and_server(alice: Browser, world: World) -> None:
    world.servers.put(server())
    world.servers.put(server(name="exp1", id="b" * 10))
    for other in (
        ("alice.gw.example.org", "bob.gw.example.org"),
        ("/user/alice/", "/user/alice/exp1/"),
        ("alice.gw.example.org:8443/user/alice", "bob.gw.example.org:8443/user/bob"),
    ):
        url = await enter_url(alice)
        alice.jar["bob.gw.example.org"] = dict(alice.jar[ALICE_HOST])
        assert (await alice.fetch(url.replace(*other, 1))).code in (403, 404)
    assert not world.routing.grants


async def test_a_code_dies_with_its_session(alice: Browser, world: World) -> None:
    world.servers.put(server())
    url = await enter_url(alice)
    world.sessions.sessions.clear()
    assert (await alice.fetch(url)).code == 403
    assert not world.routing.grants


@pytest.mark.parametrize(
    "to", ["https://evil.org/", "//evil.org/", "/user/bob/", "/hub/logout", "/user/alice/../../x"]
)
async def test_entering_leads_only_to_ones_own_servers(alice: Browser, world: World, to: str) -> None:
    world.servers.put(server())
    url = (await enter_url(alice)).partition("&to=")[0] + "&" + urlencode({"to": to})
    answer = await alice.fetch(url)
    assert answer.headers["Location"] == f"{ALICE}/user/alice/"


async def test_another_persons_server_is_refused_in_words_on_the_hub(browser: Browser, world: World) -> None:
    world.servers.put(server())
    await browser.log_in(world.origins, "bob")
    url, page = await browser.open(f"{ALICE}/user/alice/")
    assert url.startswith(f"{HUB}/hub/enter?")
    assert page.code == 403
    assert "belongs to alice" in text(page)
    assert not world.routing.grants
    assert not world.sessions.codes
    url, page = await browser.open(f"{HUB}/user/alice/")
    assert page.code == 403


async def test_an_administrator_enters_no_other_persons_server_either(browser: Browser, world: World) -> None:
    world.servers.put(server())
    await browser.log_in(world.origins, "carol")
    assert (await browser.open(f"{ALICE}/user/alice/"))[1].code == 403


async def test_a_server_that_does_not_run_is_offered_to_be_started(alice: Browser, world: World) -> None:
    _, page = await alice.open(f"{ALICE}/user/alice/lab")
    assert page.code == 424
    assert f'href="{HUB}/hub/spawn"' in text(page)
    world.servers.put(server(name="exp1", phase=Phase.ENDED, reason=EndReason.WALLTIME))
    _, page = await alice.open(f"{ALICE}/user/alice/exp1/lab")
    assert page.code == 424
    assert f'href="{HUB}/hub/spawn/exp1"' in text(page)


@pytest.mark.parametrize(
    "phase", [Phase.INTENT, Phase.SUBMITTING, Phase.QUEUED, Phase.STARTING, Phase.STOPPING]
)
async def test_a_server_that_is_not_ready_leads_to_its_waiting_page(
    alice: Browser, world: World, phase: Phase
) -> None:
    world.servers.put(server(phase=phase))
    url, page = await alice.open(f"{ALICE}/user/alice/lab")
    assert (url.partition("?")[0], page.code) == (f"{HUB}/hub/wait", 200)


async def test_the_page_that_was_wanted_is_reached_when_its_server_is_ready_again(
    alice: Browser, world: World
) -> None:
    world.servers.put(server(phase=Phase.QUEUED))
    wanted = f"{ALICE}/user/alice/lab/tree/a%20b.ipynb?x=1"
    url, page = await alice.open(wanted)
    assert f'data-wanted="{wanted}"' in text(page)
    world.servers.put(server())
    reached, _ = await alice.open(url)
    assert reached.startswith(wanted)


@pytest.mark.parametrize(
    "target", ["/user/bob/lab", "https://evil.org/user/alice/", "//evil.org/", "/hub/logout", "x"]
)
async def test_a_waiting_page_leads_to_ones_own_servers_only(
    alice: Browser, world: World, target: str
) -> None:
    world.servers.put(server(phase=Phase.QUEUED))
    url = f"{HUB}/hub/wait?" + urlencode({"to": target})
    assert 'data-wanted=""' in text(await alice.fetch(url))
    world.servers.put(server())
    assert (await alice.fetch(url)).headers["Location"] == f"{ALICE}/user/alice/"


async def test_the_page_of_a_server_that_does_not_run_goes_on_by_itself(alice: Browser) -> None:
    _, page = await alice.open(f"{ALICE}/user/alice/lab?x=1")
    assert page.code == 424
    assert f'http-equiv="refresh" content="15; url={ALICE}/user/alice/lab?x=1"' in text(page)


async def test_a_program_gets_errors_as_json_and_is_told_when_to_come_again(
    alice: Browser, world: World
) -> None:
    for headers in ({"Accept": "application/json", "Sec-Fetch-Mode": "cors"}, {"Upgrade": "websocket"}):
        answer = await alice.fetch(f"{HUB}/hub/nothing", headers=headers)
        assert (answer.code, json.loads(answer.body)["message"]) == (404, "There is nothing at this address.")
    world.servers.put(server(phase=Phase.QUEUED))
    answer = await alice.fetch(f"{ALICE}/user/alice/api/x", headers={"Sec-Fetch-Mode": "cors"})
    assert (answer.code, answer.headers["Retry-After"]) == (424, "10")


async def test_a_server_that_is_asked_to_stop_lets_nobody_in(alice: Browser, world: World) -> None:
    world.servers.put(server(wanted=False))
    url, _ = await alice.open(f"{ALICE}/user/alice/lab")
    assert url.partition("?")[0] == f"{HUB}/hub/wait"
    assert not world.routing.grants


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"Sec-Fetch-Mode": "cors"}),
        ("GET", {"Sec-Fetch-Mode": "websocket", "Upgrade": "websocket"}),
        ("GET", {"Upgrade": "websocket"}),
        ("POST", {}),
        ("DELETE", {}),
        ("PUT", {"Sec-Fetch-Mode": "cors"}),
    ],
)
async def test_scripts_and_websockets_get_a_refusal_and_never_a_redirect(
    alice: Browser, world: World, method: str, headers: dict[str, str]
) -> None:
    body = "" if method in ("POST", "PUT") else None
    answer = await alice.fetch(f"{ALICE}/user/alice/api/kernels", method, body, headers)
    assert answer.code == 424
    assert json.loads(answer.body) == {
        "status": 424,
        "message": "This server is not running.",
        "advice": "Start it from the list of your servers.",
    }
    world.servers.put(server())
    answer = await alice.fetch(f"{ALICE}/user/alice/api/kernels", method, body, headers)
    assert answer.code == 403
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Mode": "cors"}, {"Upgrade": "websocket"}])
async def test_a_page_that_was_let_in_is_asked_for_patience_while_its_route_is_made_again(
    alice: Browser, world: World, port: int, headers: dict[str, str]
) -> None:
    lost = world.servers.put(server())
    world.servers.put(server(name="later", id="b" * 10, phase=Phase.QUEUED))
    await alice.open(f"{ALICE}/user/alice/")
    kernels = f"{ALICE}/user/alice/api/kernels"
    answer = await alice.fetch(kernels, headers=headers)
    assert (answer.code, answer.headers["Retry-After"]) == (503, "2")
    assert "try again" in text(answer)
    assert "Set-Cookie" not in answer.headers

    stranger, bob = Browser(port), Browser(port)
    stranger.jar[ALICE_HOST][ROUTE_COOKIE] = "c" * 43
    bob.jar["bob.gw.example.org"] = dict(alice.jar[ALICE_HOST])
    assert (await stranger.fetch(kernels, headers=headers)).code == 403
    assert (await bob.fetch(kernels.replace("//alice", "//bob"), headers=headers)).code == 403
    later = f"{ALICE}/user/alice/later/api/kernels"
    assert (await alice.fetch(later, headers=headers)).code == 424
    world.servers.put(server(name="later", id="b" * 10))
    assert (await alice.fetch(later, headers=headers)).code == 403, "it was not granted this one"
    world.servers.put(replace(lost, id="c" * 10))
    assert (await alice.fetch(kernels, headers=headers)).code == 403, "it was granted another start"


@pytest.mark.parametrize(
    "path", ["//user/alice/", "/user%2falice/", "/User/alice/", "/user/", "/user/Alice/", "/user/bob/", "/x"]
)
async def test_odd_paths_on_a_users_host_lead_into_no_server(alice: Browser, world: World, path: str) -> None:
    world.servers.put(server())
    answer = await alice.fetch(ALICE + path)
    assert answer.code == 404 or answer.headers["Location"].startswith(f"{HUB}/")
    assert not world.sessions.codes


async def test_both_layouts_go_the_same_way() -> None:
    world = World.new(Origins.of("https://one.example.org/", "single"))
    world.servers.put(server())
    listening, port = bind_unused_port()
    http = make_server(make_application(world.services()))
    http.add_sockets([listening])
    browser = Browser(port)
    await browser.log_in(world.origins)
    url, _ = await browser.open("https://one.example.org/user/alice/lab?x")
    assert url == "https://one.example.org/user/alice/lab?x"
    assert len(world.routing.grants) == 1
    bob = Browser(port)
    await bob.log_in(world.origins, "bob")
    assert (await bob.open("https://one.example.org/user/alice/"))[1].code == 403
    http.stop()
    await http.close_all_connections()


@pytest.mark.parametrize("layout", ["per-user", "single"])
async def test_below_a_path_all_is_there_and_nothing_of_it_beside(layout: str) -> None:
    world = World.new(Origins.of("https://one.example.org/hpc/gateway/", layout))
    hub, own = "https://one.example.org", world.origins.user_origin("alice")
    world.servers.put(server())
    listening, port = bind_unused_port()
    http = make_server(make_application(world.services()))
    http.add_sockets([listening])
    browser = Browser(port)
    url, home = await browser.log_in(world.origins)
    assert (url, home.code) == (f"{hub}/hpc/gateway/hub/home", 200)
    for front in ("/hpc/gateway", "/hpc/gateway/", "/hpc/gateway/hub"):
        moved = await browser.fetch(hub + front)
        assert (moved.code, moved.headers["Location"]) == (302, f"{hub}/hpc/gateway/hub/home")
    pages = [text(home), text((await browser.open(f"{hub}/hpc/gateway/hub/spawn/exp1"))[1])]
    world.servers.put(server(name="exp1", phase=Phase.QUEUED))
    pages.append(text((await browser.open(f"{hub}/hpc/gateway/hub/wait/exp1"))[1]))
    found = [
        link
        for page in pages
        for link in re.findall(r' (?:href|src|action|data-[a-z]+)="([^"]*/[^"]*)"', page)
    ]
    outside = [link for link in found if "/hpc/gateway/" not in link]
    assert len(found) > 20
    assert outside == []
    style = re.findall(r'href="([^"]+gateway.css[^"]*)"', pages[0])[0]
    assert (await browser.fetch(style)).code == 200
    assert (await browser.fetch(f"{own}/hpc/gateway/user/alice")).headers["Location"].endswith("/user/alice/")
    url, _ = await browser.open(f"{own}/hpc/gateway/user/alice/lab?x")
    assert url == f"{own}/hpc/gateway/user/alice/lab?x"
    assert len(world.routing.grants) == 1
    for path in (
        "/",
        "/hub/home",
        "/hub/login",
        "/hpc/gatewayx/hub/login",
        "/hpc",
        "/hpc/gateway/hpc/gateway/",
    ):
        missing = await browser.fetch(hub + path, headers={"Accept": "text/html"})
        assert (missing.code, "Your servers" in text(missing)) == (404, True), path
    assert (await browser.fetch(f"{own}/user/alice/", headers={"Accept": "text/html"})).code in (302, 404)
    assert len(world.routing.grants) == 1
    http.stop()
    await http.close_all_connections()


# --- the form as a site shapes it ---

SHAPED = """\
version: 1
name: lab
title: The lab
scheduler: slurm
login: {hosts: [h], user: svc, key: /k, known_hosts: /h, act_as: sudo}
partitions:
  - {name: short, title: Short jobs, max_walltime: 10m, max_cores: 2, max_memory: 2G}
  - {name: gpu, max_walltime: 8h, max_cores: 8, max_memory: 32G, gpus: {a100: 2}}
  - {name: staff, max_walltime: 8h, max_cores: 8, max_memory: 32G, groups: [staff]}
applications:
  - {name: jupyterlab, title: JupyterLab, command: [jupyter, lab]}
form:
  fields:
    - {name: course, label: "Course <b>", default: X}
    - {name: mail, label: Mail me, kind: checkbox}
  fix: {memory: 1G}
  presets:
    - {name: training, title: Training, values: {partition: gpu, walltime: 2h, gpus: "1"}}
  rules:
    - {field: cores, when: {course: ["</script><script>alert(1)</script>"]}, at_most: 1, message: One.}
messages:
  login: "**Down** on Tuesday <script>"
  form: "Read the [docs](https://docs.example.org/)."
"""


@pytest.fixture
def shaped(world: World) -> World:
    world.sites["lab"] = parse_site_config(SHAPED, "lab.yaml")
    room = Room("gpu", nodes=4, free_nodes=1, cores=64, free_cores=12, free_gpus={"a100": 1}, waiting=7)
    closed = Room("short", closed="DRAIN")
    at = datetime.now(UTC) - timedelta(seconds=40)
    world.discoveries["lab"] = Discovery((room, closed), accounts={"alice": ("proj1", "proj2")}, at=at)
    return world


async def test_a_clusters_messages_are_shown_and_cannot_be_more_than_text(
    browser: Browser, shaped: World
) -> None:
    page = text(await browser.fetch(f"{HUB}/hub/login"))
    assert "<p><strong>Down</strong> on Tuesday &lt;script&gt;</p>" in page
    await browser.log_in(shaped.origins)
    page = text(await browser.fetch(f"{HUB}/hub/spawn"))
    assert '<a href="https://docs.example.org/" rel="noopener noreferrer">docs</a>' in page
    assert "<script>alert" not in page, "what a site writes into a rule does not end the JSON"
    assert "Course &lt;b&gt;" in page


async def test_the_form_shows_what_is_free_and_how_old_that_is_without_asking_the_cluster(
    alice: Browser, shaped: World
) -> None:
    page = text(await alice.fetch(f"{HUB}/hub/spawn"))
    for words in ("1 of 4 nodes", "12 of 64 cores", "1 a100 GPU", "<td>7</td>", "40 seconds ago"):
        assert words in page
    assert "Closed: DRAIN" in page
    assert "closed: DRAIN" in page
    shaped.discoveries.clear()
    assert "Jobs waiting" not in text(await alice.fetch(f"{HUB}/hub/spawn"))


async def test_a_preset_fills_in_the_form_without_javascript(alice: Browser, shaped: World) -> None:
    page = text(await alice.fetch(f"{HUB}/hub/spawn"))
    link = re.search(r'href="([^"]+)" data-preset="training"', page)
    assert link
    page = text(await alice.fetch(html.unescape(link[1])))
    assert '<option value="gpu" selected>' in page
    assert 'id="f-walltime" name="walltime" value="2h"' in page


async def test_what_ones_groups_do_not_show_is_not_on_the_form_and_not_taken(
    browser: Browser, shaped: World
) -> None:
    await browser.log_in(shaped.origins)
    assert "staff" not in text(await browser.fetch(f"{HUB}/hub/spawn"))
    form = await browser.fetch(f"{HUB}/hub/spawn")
    _, answer = await browser.submit(form, f"{HUB}/hub/spawn", cluster="lab", partition="staff")
    assert answer.code == 400
    shaped.authenticator.groups = frozenset({"staff"})
    browser.jar.clear()
    await browser.log_in(shaped.origins, "bob")
    assert '<option value="staff">' in text(await browser.fetch(f"{HUB}/hub/spawn"))


async def test_who_starts_for_somebody_else_is_bound_by_that_persons_groups(
    browser: Browser, shaped: World
) -> None:
    shaped.authenticator.groups = frozenset({"staff"})
    await browser.log_in(shaped.origins, "bob")
    shaped.sessions.tokens[secret_hash("t")] = User("carol", admin=True)
    for name, code in (("bob", 202), ("dora", 400)):
        body = json.dumps({"partition": "staff"})
        headers = {"Authorization": "token t"}
        answer = await browser.fetch(f"{HUB}/hub/api/users/{name}/server", "POST", body, headers)
        assert answer.code == code


async def test_the_job_script_is_shown_as_it_would_be_submitted_and_nothing_is_started(
    alice: Browser, shaped: World
) -> None:
    form = await alice.fetch(f"{HUB}/hub/spawn")
    chosen = {"cluster": "lab", "partition": "gpu", "walltime": "90m", "account": "proj2", "course": "<i>"}
    _, page = await alice.submit(form, f"{HUB}/hub/spawn/exp", **chosen, _show="script")
    assert page.code == 200
    site = shaped.sites["lab"]
    choices = check({"lab": site}, {k: [v] for k, v in chosen.items()}, User("alice"), shaped.discoveries)
    expected = render_script(site, choices, preview_facts("alice", "exp", "aaaaaa", site))
    shown = re.search(r"<pre[^>]*>(.*)</pre>", text(page), re.DOTALL)
    assert shown
    assert html.unescape(shown[1]) == expected
    assert not shaped.servers.started
    kept = {n: html.unescape(v) for n, v in re.findall(r'name="(\w+)" value="([^"]*)"', text(page))}
    kept.pop("_xsrf")
    assert kept.pop("_show") == "form"
    assert kept == chosen
    _, back = await alice.submit(page, f"{HUB}/hub/spawn/exp", **kept, _show="form")
    assert back.code == 200
    assert 'value="90m"' in text(back)
    await alice.submit(page, f"{HUB}/hub/spawn/exp", **kept)
    ((_, name, started),) = shaped.servers.started
    assert (name, started) == ("exp", choices)


async def test_a_script_of_choices_that_are_not_possible_gets_every_sentence_beside_its_field(
    alice: Browser, shaped: World
) -> None:
    form = await alice.fetch(f"{HUB}/hub/spawn")
    wrong = {"cluster": "lab", "partition": "short", "walltime": "9h", "cores": "3", "account": "theirs"}
    _, page = await alice.submit(form, f"{HUB}/hub/spawn", **wrong, _show="script")
    assert page.code == 400
    for field, sentence in (
        ("walltime", "The longest walltime on short is 10 minutes."),
        ("cores", "The most cores on short is 2."),
        ("account", "There is no account &#39;theirs&#39;. There is: proj1, proj2."),
    ):
        assert f'id="f-{field}-error" aria-live="polite">{sentence}</p>' in text(page)


async def test_a_cluster_of_which_nothing_is_known_or_nothing_is_open_is_told_in_words(
    alice: Browser, shaped: World
) -> None:
    known = shaped.sites["lab"]
    shaped.sites["lab"] = known.model_copy(update={"partitions": known.partitions[2:]})
    page = await alice.fetch(f"{HUB}/hub/spawn")
    assert (page.code, "open to your account" in text(page)) == (403, True)
    shaped.sites["lab"] = known.model_copy(update={"partitions": ()})
    page = await alice.fetch(f"{HUB}/hub/spawn")
    assert (page.code, "has not heard from the cluster yet" in text(page)) == (503, True)


async def test_clients_get_the_form_that_the_browser_gets(alice: Browser, shaped: World) -> None:
    answer = await alice.fetch(f"{HUB}/hub/api/clusters/lab/form")
    told = json.loads(answer.body)
    page = text(await alice.fetch(f"{HUB}/hub/spawn"))
    embedded = re.search(r'<script type="application/json" id="form-description">(.*?)</script>', page)
    assert embedded
    assert json.loads(embedded[1]) == told
    assert (await alice.fetch(f"{HUB}/hub/api/clusters/other/form")).code == 404


async def test_the_walltime_left_is_on_the_pages_and_administrators_find_the_clusters(
    browser: Browser, world: World
) -> None:
    await browser.log_in(world.origins, "carol")
    world.servers.put(server("carol", ends=datetime.now(UTC) + timedelta(hours=2, minutes=5, seconds=30)))
    page = text(await browser.fetch(f"{HUB}/hub/home"))
    assert "</time>, in 2 h 5 min</dd>" in page
    assert f'href="{HUB}/hub/clusters"' in page
    world.servers.put(server("carol", phase=Phase.UNREACHABLE, ends=datetime.now(UTC)))
    assert "any moment now" in text(await browser.fetch(f"{HUB}/hub/wait"))
    browser.jar.clear()
    await browser.log_in(world.origins, "alice")
    assert "/hub/clusters" not in text(await browser.fetch(f"{HUB}/hub/home"))


@pytest.mark.parametrize(
    ("minutes", "words"),
    [(0, "any moment now"), (59, "in 59 min"), (60, "in 1 h"), (1500, "in 1 d 1 h"), (-9, "any moment now")],
)
def test_how_far_ahead_something_is(minutes: int, words: str) -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert until(now + timedelta(minutes=minutes), now) == words


def test_a_time_of_another_day_has_its_date() -> None:
    now = datetime(2026, 11, 23, 23, tzinfo=UTC)
    assert clock_time(now + timedelta(minutes=5), now) == "23:05 UTC"
    assert clock_time(now + timedelta(hours=2), now) == "Tue 24 Nov, 01:00 UTC"
    assert [ago(now - timedelta(seconds=s), now) for s in (1, 40, 130, 7300, 200000)] == [
        "just now",
        "40 seconds ago",
        "2 minutes ago",
        "2 hours ago",
        "2 days ago",
    ]


# --- whether the network lets WebSockets through ---


async def test_a_page_of_the_hub_may_try_a_websocket(port: int) -> None:
    headers = {"Host": HUB_HOST, "Origin": HUB, "X-Forwarded-Proto": "https"}
    request = HTTPRequest(f"ws://127.0.0.1:{port}/hub/websocket", headers=headers)
    socket = await websocket_connect(request)
    assert [await socket.read_message(), await socket.read_message()] == ["through", None]
    socket.close()


@pytest.mark.parametrize("origin", ["https://evil.org", "https://bob.gw.example.org:8443"])
async def test_a_page_of_nobody_else_may(browser: Browser, origin: str) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers = {**upgrade, "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Origin": origin}
    assert (await browser.fetch(f"{HUB}/hub/websocket", headers=headers)).code == 403
