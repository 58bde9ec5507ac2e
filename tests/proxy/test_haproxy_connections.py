"""What HAProxy does when a server is gone, a grant is revoked or it is reloaded: on the real program."""

from __future__ import annotations

import asyncio

import pytest

from gateway.dataplane.haproxyconfig import backend_of
from gateway.routes import RemoveServer
from tests.proxy.stage import ALICE, BOB, HOST, UPGRADE, Stage, cookie

pytestmark = pytest.mark.proxy
OWN, OTHERS = f"{ALICE}.1", f"{BOB}.1"
ORIGIN = ("Origin", f"https://{HOST}")


# --- fail closed ------------------------------------------------------------------------------------


async def test_a_missing_server_answers_503_and_no_other_one_sees_a_byte(stage: Stage) -> None:
    await stage.usual()
    await stage.haproxy.apply([RemoveServer(ALICE, OWN)])
    person, program = [cookie(), ("Accept", "text/html")], [cookie(), *UPGRADE, ORIGIN]
    for headers, told in ((person, b'<body data-again="5">'), (program, b'"status": 503')):
        answer = await stage.ask("/user/alice/api", headers)
        assert answer.status == 503
        assert told in answer.body
    assert all(backend.connections == 0 for backend in stage.backends.values())


async def test_a_server_in_maintenance_answers_503_and_no_other_one_sees_a_byte(stage: Stage) -> None:
    await stage.usual()
    await stage.order("disable", "server", f"{backend_of(OWN)}/{OWN}")
    assert (await stage.ask("/user/alice/", [cookie()])).status == 503
    assert all(backend.connections == 0 for backend in stage.backends.values())


async def test_a_forward_that_is_gone_answers_503_and_nothing_is_sent_elsewhere(stage: Stage) -> None:
    await stage.usual()
    await stage.backends[OWN].close()
    assert (await stage.ask("/user/alice/", [cookie()])).status == 503
    assert all(backend.connections == 0 for backend in stage.backends.values())


async def test_a_reload_that_has_forgotten_a_server_answers_503_or_asks_the_hub(stage: Stage) -> None:
    desired = await stage.usual()
    maps = {path: path.read_text() for path in stage.settings.directory.glob("*.map")}
    await stage.haproxy.write_snapshot(type(desired)(desired.routes[1:], ()))
    await stage.haproxy.reload()
    assert (await stage.ask("/user/alice/", [cookie()])).body == b"hub"
    for path, text in maps.items():
        path.write_text(text)
    await stage.haproxy.reload()
    assert (await stage.ask("/user/alice/", [cookie()])).status == 503
    assert [name for name, backend in stage.backends.items() if backend.connections] == ["hub"]


async def test_a_server_with_a_weight_is_refused_and_removed(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    desired = await stage.usual()
    await stage.order("set", "weight", f"{backend_of(OTHERS)}/{OTHERS}", "1")
    actual = await stage.haproxy.actual()
    assert actual.servers[OTHERS].weight == 1
    assert OTHERS in caplog.text
    await stage.reach(*desired.routes, grants=desired.grants)
    assert (await stage.haproxy.actual()).servers[OTHERS].weight == 0


async def test_without_the_hub_a_page_says_that_it_is_restarted(stage: Stage) -> None:
    await stage.usual()
    await stage.backends["hub"].close()
    answer = await stage.ask("/hub/home")
    assert answer.status == 503
    assert b"The gateway is being restarted. Running servers go on." in answer.body
    assert (await stage.ask("/user/alice/", [cookie()])).status == 200


# --- open connections -------------------------------------------------------------------------------


async def test_connections_to_a_server_added_at_run_time_are_kept(stage: Stage) -> None:
    await stage.usual()
    browser = await stage.browser()
    for _ in range(20):
        assert (await browser.ask("/user/alice/", [cookie()])).status == 200
    for _ in range(5):
        assert (await stage.ask("/user/alice/", [cookie()])).status == 200
    assert len(stage.backends[OWN].requests) == 25
    assert stage.backends[OWN].connections <= 2


async def test_a_server_with_idle_connections_can_be_removed(stage: Stage) -> None:
    await stage.usual()
    await stage.ask("/user/alice/", [cookie()])
    await stage.reach(stage.route(BOB, "bob"))
    assert set((await stage.haproxy.actual()).servers) == {OTHERS}


async def test_revoking_a_grant_ends_its_websockets_and_no_others(stage: Stage) -> None:
    desired = await stage.usual()
    grants = desired.grants
    await stage.reach(*desired.routes, grants=grants)
    alices, bobs = await stage.websocket(), await stage.websocket("/user/bob/api", "of-bob")
    await stage.reach(*desired.routes, grants=grants[1:])
    assert await alices.echo(b"more") == b""
    assert await bobs.echo(b"more") == b"more"


async def test_a_websocket_survives_a_reload_and_is_still_ended_by_revoking(stage: Stage) -> None:
    desired = await stage.usual()
    websocket = await stage.websocket()
    for _ in range(2):
        await stage.haproxy.reload()
        assert await websocket.echo(b"more") == b"more"
    await stage.reach(*desired.routes)
    assert await websocket.echo(b"more") == b""


async def test_after_a_reload_a_connection_to_the_old_worker_cannot_use_a_revoked_grant(stage: Stage) -> None:
    desired = await stage.usual()
    browser = await stage.browser()
    assert (await browser.ask("/user/alice/", [cookie()])).status == 200
    await stage.haproxy.reload()
    await stage.reach(*desired.routes)
    try:
        answer = await browser.ask("/user/alice/", [cookie()])
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    assert answer.body == b"hub"


async def test_stopping_a_server_ends_its_websockets(stage: Stage) -> None:
    desired = await stage.usual()
    websocket = await stage.websocket()
    await stage.reach(*desired.routes[1:], grants=desired.grants[1:])
    assert await websocket.echo(b"more") == b""
    assert (await stage.ask("/user/alice/", [cookie()])).body == b"hub"


async def test_shutdown_sessions_takes_names_that_nobody_knows(stage: Stage) -> None:
    await stage.usual()
    websocket = await stage.websocket()
    await stage.haproxy.shutdown_sessions(["zzzzzzzzzz.7", OWN])
    assert await websocket.echo(b"more") == b""


async def test_a_grant_ends_by_itself_when_it_expires(stage: Stage) -> None:
    await stage.usual()
    await stage.reach(stage.route(ALICE, "alice"), grants=[stage.grant(ALICE, seconds=2)])
    assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()
    await asyncio.sleep(2.1)
    assert (await stage.ask("/user/alice/", [cookie()])).body == b"hub"
