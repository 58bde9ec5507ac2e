"""What HAProxy lets through, to whom, and with which headers: on the real program, one for all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.origins import ROUTE_COOKIE
from tests.proxy.stage import ALICE, BOB, COOKIE, EXP1, HOST, UPGRADE, Stage, cookie

pytestmark = [pytest.mark.proxy, pytest.mark.asyncio(loop_scope="module")]
OWN, OTHERS, NAMED = f"{ALICE}.1", f"{BOB}.1", f"{EXP1}.1"
ORIGIN = ("Origin", f"https://{HOST}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Stage]:
    stage = Stage()
    try:
        await stage.usual()
        yield stage
    finally:
        await stage.close()


@pytest.fixture
def stage(running: Stage) -> Stage:
    running.forget()
    return running


# --- who gets in ------------------------------------------------------------------------------------


async def test_a_granted_request_reaches_the_users_own_server_with_its_token(stage: Stage) -> None:
    sent = [cookie(), ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "cors")]
    answer = await stage.ask("/user/alice/api/status?x=%2F..", sent, host=f"{HOST}:8443")
    assert (answer.status, answer.body) == (200, OWN.encode())
    assert stage.reached() == [OWN]
    request = stage.backends[OWN].requests[0]
    assert request.target == "/user/alice/api/status?x=%2F.."
    assert request.one("host") == f"{HOST}:8443"
    assert request.one("authorization") == f"token token-of-{ALICE}"
    assert request.one("sec-fetch-site") == "same-origin"
    assert request.one("sec-fetch-mode") == "cors"
    assert request.one("x-forwarded-for") == "127.0.0.1"
    assert request.one("x-forwarded-proto") == "https"
    assert request.one("cookie") is None


@pytest.mark.parametrize(
    "cookies",
    [
        "",
        f"{ROUTE_COOKIE}=",
        f"{ROUTE_COOKIE}=wrong",
        f"{ROUTE_COOKIE}=expired",
        f"{ROUTE_COOKIE}=of-bob",
        f"{ROUTE_COOKIE}={COOKIE}; {ROUTE_COOKIE}={COOKIE}",
        f"{ROUTE_COOKIE}=wrong; {ROUTE_COOKIE}={COOKIE}",
        f"{ROUTE_COOKIE}={COOKIE}; {ROUTE_COOKIE}=wrong",
        f"{ROUTE_COOKIE.lower()}={COOKIE}",
        f"X{ROUTE_COOKIE}={COOKIE}",
        f'a="{ROUTE_COOKIE}={COOKIE}"',
    ],
)
async def test_without_a_grant_for_this_server_the_hub_is_asked(stage: Stage, cookies: str) -> None:
    answer = await stage.ask("/user/alice/tree", [("Cookie", cookies)] if cookies else [])
    assert (answer.body, stage.reached()) == (b"hub", ["hub"])
    assert stage.backends["hub"].requests[0].one("x-gateway-route") is None


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        ("/user/alice/", HOST, OWN),
        ("/user/alice/tree", HOST, OWN),
        ("/user/alice/", f"{HOST}:8443", OWN),
        ("/user/alice/", HOST.upper(), OWN),
        ("/user/alice//exp1/", HOST, OWN),
        ("/user/alice/%65xp1/", HOST, OWN),
        ("/user/alice/../bob/", HOST, OWN),
        ("/user/alice/exp1", HOST, NAMED),
        ("/user/alice/exp1/lab", HOST, NAMED),
        ("/user/alice/exp1?a=/user/bob/", HOST, NAMED),
        ("/user/alice", HOST, "hub"),
        ("/user/bob/", HOST, "hub"),
        ("//user/alice/", HOST, "hub"),
        ("/user//alice/", HOST, "hub"),
        ("/User/alice/", HOST, "hub"),
        ("/user/Alice/", HOST, "hub"),
        ("/user%2falice/", HOST, "hub"),
        ("/user/alice%2f", HOST, "hub"),
        ("/./user/alice/", HOST, "hub"),
        ("/hub/../user/alice/", HOST, "hub"),
        ("/hub/home", HOST, "hub"),
        ("/", HOST, "hub"),
        ("/user/alice/", "evil.example.org", "hub"),
        ("/user/alice/", f"{HOST}.", "hub"),
        ("/user/x", f"{HOST}/alice/", "hub"),
        ("/user/alice/-gateway-enter?code=x", HOST, "hub"),
        ("/user/alice/exp1/-gateway-enter?code=x", HOST, "hub"),
        ("/user/alice/stopped/lab", HOST, "hub"),
    ],
)
async def test_paths_are_taken_literally(stage: Stage, target: str, host: str, expected: str) -> None:
    answer = await stage.ask(target, [cookie()], host=host)
    assert (answer.body.decode(), stage.reached()) == (expected, [expected])
    assert stage.backends[expected].requests[0].target == target


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (f"http://{HOST}/user/alice/", HOST),
        ("https://evil.example.org/user/alice/", HOST),
        ("*", HOST),
        (f"{HOST}:443", HOST),
    ],
)
async def test_targets_that_no_browser_sends_are_refused(stage: Stage, target: str, host: str) -> None:
    method = "CONNECT" if target.endswith(":443") else "OPTIONS" if target == "*" else "GET"
    assert (await stage.ask(target, [cookie()], method=method, host=host)).status == 400
    assert stage.reached() == []


async def test_two_lines_of_cookies_are_refused(stage: Stage) -> None:
    assert (await stage.ask("/user/alice/", [("Cookie", "a=1"), cookie()])).status == 400
    assert stage.reached() == []


# --- headers on the way in --------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/hub/home", "/user/alice/"])
async def test_what_only_the_proxy_may_say_is_not_taken_from_outside(stage: Stage, target: str) -> None:
    forged = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("x-forwarded-proto", "http"),
        ("X-Forwarded-Host", "evil"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-Scheme", "http"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Gateway-Route", "evil"),
        ("x-gateway-user", "root"),
        ("Authorization", "token mine"),
    ]
    await stage.ask(target, [cookie(), *forged])
    (reached,) = stage.reached()
    request = stage.backends[reached].requests[0]
    assert request.one("x-forwarded-for") == "127.0.0.1"
    assert request.one("x-forwarded-proto") == "https"
    for name in (
        "X-Forwarded-Host",
        "X-Real-IP",
        "X-Scheme",
        "Forwarded",
        "X-Gateway-Route",
        "X-Gateway-User",
    ):
        assert request.one(name) is None
    expected = "token mine" if reached == "hub" else f"token token-of-{ALICE}"
    assert request.one("authorization") == expected


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        (f"{ROUTE_COOKIE}={COOKIE}", None),
        (f"a=1; {ROUTE_COOKIE}={COOKIE}", "a=1"),
        (f"{ROUTE_COOKIE}={COOKIE}; a=1", "a=1"),
        (f"a=1; {ROUTE_COOKIE}={COOKIE}; b=2", "a=1; b=2"),
        (f"__Host-gateway-session=s; {ROUTE_COOKIE}={COOKIE}; __Host-gateway-xsrf=x; b=2", "b=2"),
        (
            f'_xsrf=2|a|b|1; {ROUTE_COOKIE}={COOKIE};x;  y="q,r";__HOST-Gateway-Z=1',
            '_xsrf=2|a|b|1;x;  y="q,r"',
        ),
        (
            f"a__Host-gateway-b=1; {ROUTE_COOKIE}={COOKIE}; c=__Host-gateway-d",
            "a__Host-gateway-b=1; c=__Host-gateway-d",
        ),
        (f'a="; {ROUTE_COOKIE}=x"; {ROUTE_COOKIE}={COOKIE}; b=2', 'a="; b=2'),
    ],
)
async def test_the_gateways_cookies_are_taken_out_and_others_left_as_they_are(
    stage: Stage, sent: str, left: str | None
) -> None:
    await stage.ask("/user/alice/", [("Cookie", sent)])
    assert stage.reached() == [OWN]
    assert stage.backends[OWN].requests[0].one("cookie") == left


SITE, MODE, DEST = "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", [], 200),
        ("POST", [ORIGIN], 200),
        ("DELETE", [ORIGIN, (SITE, "same-origin")], 200),
        ("POST", [], 200),
        ("POST", [(SITE, "same-origin")], 200),
        ("GET", [(SITE, "none"), (MODE, "navigate"), (DEST, "document")], 200),
        ("GET", [(SITE, "cross-site"), (MODE, "navigate"), (DEST, "document")], 200),
        ("GET", [(SITE, "same-site"), (MODE, "navigate"), (DEST, "document")], 200),
        ("GET", [*UPGRADE, ORIGIN], 101),
        ("GET", UPGRADE, 403),
        ("GET", [*UPGRADE, ("Origin", "https://evil.example.org")], 403),
        ("GET", [*UPGRADE, ("Origin", f"https://bob.{HOST}")], 403),
        ("GET", [*UPGRADE, ("Origin", f"http://{HOST}")], 403),
        ("GET", [*UPGRADE, ("Origin", f"https://{HOST}:444")], 403),
        ("GET", [*UPGRADE, ("Origin", "null")], 403),
        ("GET", [*UPGRADE, ORIGIN, ("Origin", "https://evil.example.org")], 403),
        ("GET", [*UPGRADE, ORIGIN, (SITE, "cross-site"), (MODE, "websocket")], 403),
        ("POST", [("Origin", "https://evil.example.org")], 403),
        ("POST", [("Origin", "null")], 403),
        ("POST", [(SITE, "cross-site")], 403),
        ("POST", [(SITE, "same-site")], 403),
        ("PUT", [(SITE, "none")], 403),
        ("TRACE", [("Origin", f"https://bob.{HOST}")], 403),
        ("GET", [(SITE, "cross-site"), (MODE, "no-cors"), (DEST, "script")], 403),
        ("GET", [(SITE, "same-site"), (MODE, "cors"), (DEST, "empty")], 403),
        ("GET", [(SITE, "cross-site"), (MODE, "navigate"), (DEST, "iframe")], 403),
        ("GET", [(SITE, "cross-site")], 403),
    ],
)
async def test_only_pages_of_this_origin_may_do_things(
    stage: Stage, method: str, headers: list[tuple[str, str]], status: int
) -> None:
    answer = await stage.ask("/user/alice/api", [cookie(), *headers], method=method)
    assert answer.status == status
    assert stage.reached() == ([] if status == 403 else [OWN])


# --- headers on the way out -------------------------------------------------------------------------


async def test_an_application_cannot_reach_beyond_its_path(stage: Stage) -> None:
    stage.backends[OWN].answer_headers = [
        ("Service-Worker-Allowed", "/"),
        ("Clear-Site-Data", '"*"'),
        ("Set-Cookie", "good=1; Path=/user/alice/; HttpOnly"),
        ("Set-Cookie", f"{ROUTE_COOKIE}=stolen; Path=/; Secure"),
        ("set-cookie", f" {ROUTE_COOKIE.upper()}=stolen; Path=/; Secure"),
        ("Set-Cookie", f"={ROUTE_COOKIE}=stolen; Path=/; Secure"),
        ("Set-Cookie", f"wide=1; path=/; DOMAIN = {HOST}"),
        ("Set-Cookie", "domain=mine; Path=/"),
        ("X-Own", "kept"),
    ]
    answer = await stage.ask("/user/alice/", [cookie()])
    assert answer.all("service-worker-allowed") == answer.all("clear-site-data") == []
    kept = [value for value in answer.all("set-cookie") if value]
    assert kept == ["good=1; Path=/user/alice/; HttpOnly", "domain=mine; Path=/"]
    assert answer.one("x-own") == "kept"


async def test_when_no_cookie_is_left_there_is_no_set_cookie_line(stage: Stage) -> None:
    stage.backends[OWN].answer_headers = [("Set-Cookie", "wide=1; Domain=gw.example.org")]
    assert (await stage.ask("/user/alice/", [cookie()])).all("set-cookie") == []


async def test_the_hubs_answers_are_left_alone(stage: Stage) -> None:
    stage.backends["hub"].answer_headers = [("Set-Cookie", f"{ROUTE_COOKIE}=new; Path=/; Secure")]
    assert (await stage.ask("/hub/home")).one("set-cookie") == f"{ROUTE_COOKIE}=new; Path=/; Secure"
