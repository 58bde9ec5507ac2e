"""What is large goes by a way of its own, which is made for servers that are used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.dataplane.haproxyconfig import backend_of
from gateway.routes import WANTED, Route
from tests.proxy.stage import ALICE, BOB, HOST, UPGRADE, Headers, Stage, cookie

pytestmark = pytest.mark.proxy
OWN, OWN_BULK, OTHERS = f"{ALICE}.1", f"{ALICE}.1b", f"{BOB}.1"
ORIGIN = ("Origin", f"https://{HOST}")
OPENED = [("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]


async def with_bulk(stage: Stage) -> tuple[Route, Route]:
    """Have alice's server reached by two ways, and bob's by one."""
    for name in ("hub", OWN, OWN_BULK, OTHERS):
        await stage.backend(name)
    await stage.haproxy.ensure()
    alices = replace(stage.route(ALICE, "alice"), bulk=stage.directory / f"{OWN_BULK}.sock")
    bobs = stage.route(BOB, "bob")
    await stage.reach(alices, bobs, grants=[stage.grant(ALICE), stage.grant(BOB, "of-bob")])
    return alices, bobs


@pytest.mark.parametrize(
    ("method", "target", "headers", "expected"),
    [
        ("GET", "/user/alice/lab", OPENED, OWN),
        ("GET", "/user/alice/static/lab/main.js", [], OWN),
        ("GET", "/user/alice/api/contents/files.ipynb", [], OWN),
        ("GET", "/user/alice/files/data.h5", [], OWN_BULK),
        ("GET", "/user/alice/files/data.h5?_xsrf=1", [ORIGIN], OWN_BULK),
        ("GET", "/user/alice/nbconvert/html/a.ipynb?download=true", [], OWN_BULK),
        ("GET", "/user/alice/api/export?download=1", [], OWN_BULK),
        ("PUT", "/user/alice/api/contents/a.bin", [ORIGIN, ("Content-Length", "1048577")], OWN_BULK),
        ("PUT", "/user/alice/api/contents/a.bin", [ORIGIN, ("Content-Length", "0")], OWN),
        ("GET", "/user/bob/files/data.h5", [], OTHERS),
        ("GET", "/user/alice/api/kernels/1/channels", [ORIGIN, *UPGRADE], OWN),
    ],
)
async def test_what_is_large_goes_by_the_way_for_it(
    stage: Stage, method: str, target: str, headers: Headers, expected: str
) -> None:
    await with_bulk(stage)
    browser = await stage.browser()
    value = "of-bob" if "/bob/" in target else "c" * 43
    lines = [f"{method} {target} HTTP/1.1", f"Host: {HOST}"]
    lines += [f"{key}: {word}" for key, word in (cookie(value), *headers)]
    browser.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    if ("Content-Length", "1048577") in headers:
        browser.writer.write(bytes(1048577))
    await browser.reader.readuntil(b"\r\n\r\n")
    assert stage.reached() == [expected]


async def test_who_opens_a_page_wishes_for_a_way_and_is_served_meanwhile(stage: Stage) -> None:
    await stage.usual()
    assert (await stage.haproxy.actual()).bulk == {}
    await stage.ask("/user/alice/api/status", [cookie()])
    assert (await stage.haproxy.actual()).bulk == {}
    assert (await stage.ask("/user/alice/lab", [cookie(), *OPENED])).body == OWN.encode()
    assert (await stage.ask("/user/bob/files/x", [cookie("of-bob")])).body == OTHERS.encode()
    assert (await stage.ask("/user/alice/files/x", [cookie()])).body == OWN.encode()
    assert (await stage.haproxy.actual()).bulk == {ALICE: WANTED, BOB: WANTED}


async def test_a_person_without_a_grant_wishes_for_nothing(stage: Stage) -> None:
    await stage.usual()
    assert (await stage.ask("/user/alice/lab", [cookie("wrong"), *OPENED])).body == b"hub"
    assert (await stage.haproxy.actual()).bulk == {}


async def test_a_way_that_comes_and_goes_breaks_nothing(stage: Stage) -> None:
    alices, bobs = await with_bulk(stage)
    grants = [stage.grant(ALICE), stage.grant(BOB, "of-bob")]
    assert (await stage.ask("/user/alice/files/x", [cookie()])).body == OWN_BULK.encode()
    await stage.reach(replace(alices, bulk=None), bobs, grants=grants)
    assert (await stage.ask("/user/alice/files/x", [cookie()])).body == OWN.encode()
    assert OWN_BULK not in (await stage.haproxy.actual()).servers
    await stage.reach(alices, bobs, grants=grants)
    assert (await stage.ask("/user/alice/files/x", [cookie()])).body == OWN_BULK.encode()
    await stage.haproxy.reload()
    assert (await stage.ask("/user/alice/files/x", [cookie()])).body == OWN_BULK.encode()


async def test_a_way_in_maintenance_is_passed_by(stage: Stage) -> None:
    await with_bulk(stage)
    await stage.order("disable", "server", f"{backend_of(OWN_BULK)}/{OWN_BULK}")
    assert (await stage.ask("/user/alice/files/x", [cookie()])).body == OWN.encode()


async def test_a_revoked_grant_ends_what_goes_by_either_way(stage: Stage) -> None:
    alices, bobs = await with_bulk(stage)
    one = await stage.websocket("/user/alice/api", "c" * 43)
    two = await stage.websocket("/user/alice/files/api", "c" * 43)
    assert stage.reached() == sorted([OWN, OWN_BULK])
    await stage.reach(alices, bobs)
    assert await one.echo(b"more") == await two.echo(b"more") == b""
