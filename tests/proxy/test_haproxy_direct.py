"""Nodes that HAProxy reaches without a tunnel, by IP address and port: the right process, and nobody else."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from typing import Self

import pytest

from gateway.address import Tcp
from gateway.dataplane.direct import Direct
from gateway.dataplane.haproxy import HAProxy
from gateway.dataplane.probe import Outcome, client_context, probe
from gateway.pki import Authority, server_name
from gateway.routes import Actual, Desired, RemoveServer, Route, ServerState, additions, plan
from tests.proxy.stage import ALICE, BOB, Backend, Stage, cookie, free_port
from tests.proxy.test_haproxy_tls import authority, node, with_tls

__all__ = ["authority"]  # a fixture

pytestmark = pytest.mark.proxy
OWN, OTHERS = f"{ALICE}.1", f"{BOB}.1"


class Node(Backend):
    """An application that listens on a TCP port."""

    address: Tcp

    async def start(self, tls: ssl.SSLContext | None = None, ip: str = "127.0.0.1") -> Self:
        try:
            self._server = await asyncio.start_server(self._serve, ip, 0, ssl=tls)
        except OSError:
            pytest.skip(f"this machine has no {ip}")
        self.address = Tcp(*self._server.sockets[0].getsockname()[:2])
        return self


async def listening(
    stage: Stage, name: str, tls: ssl.SSLContext | None = None, ip: str = "127.0.0.1"
) -> Node:
    stage.backends[name] = started = await Node(name, stage.directory / "none").start(tls, ip)
    return started


def direct(
    stage: Stage, address: Tcp, server_id: str = ALICE, user: str = "alice", **changes: object
) -> Route:
    return replace(stage.route(server_id, user), address=address, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_a_node_is_reached_with_tls_by_name_also_after_a_reload_and_a_crash(
    stage: Stage, authority: Authority, ip: str
) -> None:
    with_tls(stage, authority)
    backend = await listening(stage, OWN, node(authority, stage.directory, ALICE), ip)
    await stage.haproxy.ensure()
    route = direct(stage, backend.address, node_tls=True)
    desired = await stage.reach(route, grants=[stage.grant(ALICE)])
    assert (await stage.haproxy.actual()).servers == {OWN: ServerState(0, True, True, backend.address)}
    browser = await stage.browser()
    for _ in range(5):
        assert (await browser.ask("/user/alice/", [cookie()])).body == OWN.encode()
    assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()
    assert backend.connections <= 2
    assert plan(desired, await stage.haproxy.actual()) == ()
    await stage.haproxy.reload()
    assert plan(desired, await stage.haproxy.actual()) == ()
    await stage.kill_all()
    await HAProxy(stage.settings).ensure()
    assert plan(desired, await stage.haproxy.actual()) == ()
    assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()


async def test_a_neighbour_on_the_port_gets_503_for_the_browser_and_no_byte_of_a_request(
    stage: Stage, authority: Authority
) -> None:
    with_tls(stage, authority)
    neighbour = await listening(stage, OTHERS, node(authority, stage.directory, BOB))
    await stage.haproxy.ensure()
    await stage.reach(direct(stage, neighbour.address, node_tls=True), grants=[stage.grant(ALICE)])
    assert (await stage.ask("/user/alice/", [cookie()])).status == 503
    assert neighbour.requests == []
    answer = await probe(
        neighbour.address,
        "/user/alice/api",
        token="s3cret",
        tls=client_context(authority),
        server_name=server_name(ALICE),
        timeout=5,
    )
    assert answer.outcome is Outcome.WRONG_PROCESS
    assert neighbour.requests == []


async def test_a_port_where_nobody_listens_is_503_and_nothing_is_sent_elsewhere(stage: Stage) -> None:
    await stage.haproxy.ensure()
    bobs = await listening(stage, OTHERS)
    nobody = Tcp("127.0.0.1", free_port())
    routes = direct(stage, nobody), direct(stage, bobs.address, BOB, "bob")
    await stage.reach(*routes, grants=[stage.grant(ALICE)])
    assert (await stage.ask("/user/alice/", [cookie()])).status == 503
    assert bobs.connections == 0
    answer = await probe(nobody, "/", token="t", tls=None, server_name=None, timeout=5)
    assert answer.outcome is Outcome.REFUSED


async def test_the_next_generation_replaces_an_address_and_the_old_one_hears_no_more(stage: Stage) -> None:
    await stage.haproxy.ensure()
    old, new = await listening(stage, OWN), await listening(stage, f"{ALICE}.2")
    await stage.reach(direct(stage, old.address), grants=[stage.grant(ALICE)])
    assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()
    stage.forget()
    await stage.reach(direct(stage, new.address, generation=2), grants=[stage.grant(ALICE)])
    assert (await stage.ask("/user/alice/", [cookie()])).body == f"{ALICE}.2".encode()
    assert list((await stage.haproxy.actual()).servers) == [f"{ALICE}.2"]
    assert old.requests == []


async def test_a_server_that_leads_elsewhere_than_its_route_is_put_right(stage: Stage) -> None:
    await stage.haproxy.ensure()
    own, bobs = await listening(stage, OWN), await listening(stage, OTHERS)
    desired = await stage.reach(direct(stage, own.address), grants=[stage.grant(ALICE)])
    elsewhere = additions(direct(stage, bobs.address))
    assert await stage.haproxy.apply([RemoveServer(ALICE, OWN), *elsewhere]) == {}
    await stage.reach(*desired.routes, grants=desired.grants)
    assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()
    assert bobs.requests == []


async def test_a_way_made_by_name_leads_probe_and_browser_to_the_application(stage: Stage) -> None:
    await stage.haproxy.ensure()
    backend = await listening(stage, OWN)
    ways = Direct("test", stage.directory / "t")
    address = await ways.forward(ALICE, 1, "localhost", backend.address.port)
    assert address == backend.address
    answer = await probe(address, "/user/alice/api", token="t", tls=None, server_name=None, timeout=5)
    assert answer.ready
    desired = Desired((direct(stage, address),), (stage.grant(ALICE),))
    assert await stage.haproxy.apply(plan(desired, Actual())) == {}
    assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()
