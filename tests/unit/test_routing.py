"""The reconciling of routes with the database: whatever was left half-done is made whole."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from gateway.dataplane.haproxy import HAProxy
from gateway.dataplane.tunnel import Tunnel
from gateway.errors import DataPlaneError
from gateway.lifecycle import Event, Phase
from gateway.model import Secrets, Server, User
from gateway.origins import Origins
from gateway.routes import WANTED, Actual, Desired, Map, Step
from gateway.routing import Routing
from gateway.store import ServerStore, SessionStore
from tests.unit.test_routes import Simulated
from tests.unit.test_store import SERVER, database, servers, sessions

__all__ = ["database", "servers", "sessions"]  # fixtures

COOKIE = "ab" * 32
LATER = datetime.now(UTC) + timedelta(hours=1)
READY = replace(SERVER, phase=Phase.READY, host="cn1", port=20001, generation=1)


@dataclass
class Proxy:
    """HAProxy, simulated, that notes in which order it was used."""

    simulated: Simulated = field(default_factory=lambda: Simulated.of(Actual({}, {}, {}, {})))
    used: list[str] = field(default_factory=list)
    shut: list[str] = field(default_factory=list)
    failing: dict[str, str] = field(default_factory=dict)
    slow: float = 0.0
    worker: str = "1"
    written: Desired = field(default_factory=Desired)

    async def actual(self) -> Actual:
        self.used.append("actual")
        found = replace(self.simulated.actual(), worker=self.worker)
        await asyncio.sleep(self.slow)
        return found

    async def write_snapshot(self, desired: Desired) -> None:
        self.used.append("snapshot")
        self.written = desired

    async def apply(self, steps: Sequence[Step], worker: str = "") -> Mapping[str, str]:
        self.used.append("apply")
        if worker != self.worker and worker:
            raise DataPlaneError("another process answers")
        for step in steps:
            self.simulated.take(step)
        return self.failing

    async def shutdown_sessions(self, names: Sequence[str]) -> None:
        self.shut.extend(names)


@dataclass
class Tunnels:
    """A tunnel's forwards, as a dictionary."""

    there: dict[tuple[str, int], Path] = field(default_factory=dict)
    left: set[tuple[str, int]] = field(default_factory=set)

    def address(self, server_id: str, generation: int) -> Path | None:
        return self.there.get((server_id, generation))

    def bulk(self, server_id: str, generation: int) -> Path | None:
        path = self.address(server_id, generation)
        return path.with_name(f"{path.stem}b.sock") if path else None

    def draining(self, server_id: str, generation: int) -> bool:
        return (server_id, generation) in self.left

    def carrier(self, server_id: str, generation: int) -> tuple[int, str] | None:
        return (0, "login1") if (server_id, generation) in self.there else None

    async def forwards(self) -> Mapping[tuple[str, int], Path]:
        return dict(self.there)

    async def cancel(self, server_id: str, generation: int) -> None:
        del self.there[server_id, generation]


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


@pytest.fixture
def tunnels() -> Tunnels:
    return Tunnels({(SERVER.id, 1): Path(f"/run/gateway/t/lab/0/{SERVER.id}.1.sock")})


@pytest.fixture
def routing(servers: ServerStore, sessions: SessionStore, proxy: Proxy, tunnels: Tunnels) -> Routing:
    return Routing(
        servers,
        sessions,
        cast("HAProxy", proxy),
        {"lab": cast("Tunnel", tunnels)},
        Origins.of("https://gw.example.org/"),
        {"lab": None},
    )


@pytest.fixture
async def ready(servers: ServerStore, sessions: SessionStore) -> Server:
    await servers.create(READY, Secrets("a-token-of-enough-length", "key", "certificate"))
    await sessions.login(User("alice"), "session", LATER)
    return READY


async def test_a_ready_server_gets_a_route_at_its_users_host(
    routing: Routing, proxy: Proxy, ready: Server
) -> None:
    await routing.sync()
    assert proxy.simulated.actual().routes == {"alice.gw.example.org/alice/": f"{ready.id}.1"}


async def test_a_stopped_servers_address_is_the_hubs_and_not_the_default_servers(
    routing: Routing, proxy: Proxy, ready: Server, servers: ServerStore
) -> None:
    other = replace(READY, id="bbbbbbbbbb", name="exp1", phase=Phase.QUEUED)
    await servers.create(other, Secrets("a-token-of-enough-length", "key", "certificate"))
    await routing.sync()
    assert proxy.simulated.actual().routes["alice.gw.example.org/alice/exp1"] == "hub"


async def test_a_grant_is_given_when_the_proxy_knows_it(
    routing: Routing, proxy: Proxy, ready: Server
) -> None:
    await routing.give(COOKIE, "session", [ready], LATER)
    assert list(proxy.simulated.actual().grants.values()) == [str(int(LATER.timestamp()))]


async def test_a_grant_that_the_proxy_did_not_take_is_not_said_to_be_given(
    routing: Routing, proxy: Proxy, ready: Server
) -> None:
    proxy.failing = {ready.id: "no such map"}
    with pytest.raises(DataPlaneError, match="no such map"):
        await routing.give(COOKIE, "session", [ready], LATER)


async def test_another_servers_failure_does_not_withhold_a_grant(
    routing: Routing, proxy: Proxy, ready: Server
) -> None:
    proxy.failing = {"zzzzzzzzzz": "no such map"}
    await routing.give(COOKIE, "session", [ready], LATER)


async def test_a_logout_ends_grants_and_open_connections(
    routing: Routing, proxy: Proxy, ready: Server
) -> None:
    await routing.give(COOKIE, "session", [ready], LATER)
    await routing.revoke("session")
    assert proxy.simulated.actual().grants == {}
    assert f"{ready.id}.1" in proxy.shut


async def test_a_logout_cut_short_by_a_crash_is_finished_by_the_next_hub(
    routing: Routing, proxy: Proxy, ready: Server, sessions: SessionStore
) -> None:
    await sessions.add_grants(COOKIE, "session", [ready.id], LATER)
    await sessions.end_session("session")  # and here the hub was killed, the grant already out of HAProxy
    await routing.sync()
    assert proxy.shut == [f"{ready.id}.1"]
    await routing.sync()
    assert proxy.shut == [f"{ready.id}.1"]


async def test_the_snapshot_is_written_before_the_proxy_is_told(
    routing: Routing, proxy: Proxy, ready: Server
) -> None:
    await routing.sync()
    assert proxy.used == ["actual", "snapshot", "apply"]
    await routing.sync()
    assert proxy.used[3:] == ["actual", "snapshot"]


async def test_the_route_goes_with_the_server_and_then_its_forward(
    routing: Routing, proxy: Proxy, ready: Server, servers: ServerStore, tunnels: Tunnels
) -> None:
    await routing.sync()
    await servers.move(ready.id, Event.STOP)
    await routing.sync()
    assert proxy.simulated.actual().routes == {}
    assert proxy.simulated.actual().secrets == {}
    assert tunnels.there == {}


async def test_a_forward_that_is_made_during_a_run_is_left_alone(
    routing: Routing, proxy: Proxy, ready: Server, servers: ServerStore, tunnels: Tunnels
) -> None:
    proxy.slow = 0.05
    run = asyncio.create_task(routing.sync())
    await asyncio.sleep(0.02)
    await servers.note(ready.id, generation=2)
    tunnels.there[ready.id, 2] = Path(f"/run/gateway/t/lab/0/{ready.id}.2.sock")
    await run
    assert (ready.id, 2) in tunnels.there
    await routing.sync()
    assert list(tunnels.there) == [(ready.id, 2)]


async def test_a_lost_forward_is_told_to_the_conductor(
    routing: Routing, ready: Server, tunnels: Tunnels
) -> None:
    lost: list[str] = []
    routing.on_lost(lost.append)
    await routing.sync()
    assert lost == []
    tunnels.there.clear()
    await routing.sync()
    assert lost == [ready.id]


async def test_many_calls_at_once_share_a_run_that_began_after_them(
    routing: Routing, proxy: Proxy, ready: Server
) -> None:
    proxy.slow = 0.05
    first = asyncio.create_task(routing.sync())
    await asyncio.sleep(0.02)
    await asyncio.gather(*(routing.sync() for _ in range(20)))
    await first
    assert proxy.used.count("actual") == 2


# --- one person's part ----------------------------------------------------------------------------------

BOBS = replace(READY, id="bbbbbbbbbb", user="bob")
ALICES_KEY, BOBS_KEY = "alice.gw.example.org/alice/", "bob.gw.example.org/bob/"


@pytest.fixture
async def both(
    routing: Routing, ready: Server, servers: ServerStore, sessions: SessionStore, tunnels: Tunnels
) -> Server:
    """Alice's server is routed; bob's is there, and not routed yet."""
    await routing.sync()
    await servers.create(BOBS, Secrets("another-token-of-enough-length", "key", "certificate"))
    await sessions.login(User("bob"), "session of bob", LATER)
    tunnels.there[BOBS.id, 1] = Path(f"/run/gateway/t/lab/0/{BOBS.id}.1.sock")
    return BOBS


async def test_one_persons_route_is_made_without_reading_all_that_the_proxy_holds(
    routing: Routing, proxy: Proxy, both: Server
) -> None:
    proxy.used.clear()
    await routing.sync("bob")
    assert proxy.used == ["snapshot", "apply"]
    routes = {ALICES_KEY: f"{READY.id}.1", BOBS_KEY: f"{both.id}.1"}
    assert proxy.simulated.actual().routes == routes
    assert {row.key: f"{row.server_id}.{row.generation}" for row in routing.table()} == routes
    assert {(row.cluster, row.master, row.login_node) for row in routing.table()} == {("lab", 0, "login1")}


async def test_after_one_persons_part_all_is_as_it_should_be(
    routing: Routing, proxy: Proxy, both: Server, servers: ServerStore, sessions: SessionStore
) -> None:
    await routing.give(COOKIE, "session of bob", [both], LATER)
    await servers.move(READY.id, Event.STOP)
    await routing.sync("alice")
    await routing.revoke("session of bob")
    assert proxy.shut == [f"{both.id}.1"]
    proxy.used.clear()
    await routing.sync()
    assert proxy.used == ["actual", "snapshot"]
    assert proxy.simulated.actual().routes == {BOBS_KEY: f"{both.id}.1"}


async def test_a_way_goes_with_its_server_at_once(
    routing: Routing, both: Server, servers: ServerStore, tunnels: Tunnels
) -> None:
    await servers.move(READY.id, Event.STOP)
    await routing.sync("alice")
    assert list(tunnels.there) == [(both.id, 1)]


@pytest.mark.parametrize("what", ["another process", "a failure"])
async def test_all_is_compared_where_the_proxy_holds_something_else_than_it_did(
    routing: Routing, proxy: Proxy, both: Server, what: str
) -> None:
    if what == "another process":
        proxy.worker = "2"
        proxy.simulated = Simulated.of(Actual())
    else:
        proxy.failing = {both.id: "already there"}
    proxy.used.clear()
    await routing.sync("bob")
    assert proxy.used[:4] == ["snapshot", "apply", "actual", "snapshot"]
    assert set(proxy.simulated.actual().routes) == {ALICES_KEY, BOBS_KEY}


async def test_a_change_made_while_all_is_read_is_not_undone(
    routing: Routing, proxy: Proxy, both: Server, servers: ServerStore
) -> None:
    await routing.sync("bob")
    proxy.slow = 0.2
    run = asyncio.create_task(routing.sync())
    await asyncio.sleep(0.1)
    await servers.move(both.id, Event.STOP)
    await routing.sync("bob")
    assert not run.done()
    assert list(proxy.simulated.actual().routes) == [ALICES_KEY]
    await run
    assert list(proxy.simulated.actual().routes) == [ALICES_KEY]
    assert [route.key for route in proxy.written.routes] == [ALICES_KEY]


async def test_a_way_that_is_to_be_left_is_told_and_carries_what_is_open_until_it_ends(
    routing: Routing, proxy: Proxy, ready: Server, servers: ServerStore, tunnels: Tunnels
) -> None:
    lost: list[str] = []
    routing.on_lost(lost.append)
    await routing.sync()
    tunnels.left.add((ready.id, 1))
    await routing.sync()
    assert lost == [ready.id]
    tunnels.there[ready.id, 2] = Path(f"/run/gateway/t/lab/1/{ready.id}.2.sock")
    await servers.note(ready.id, generation=2)
    for sync in (routing.sync("alice"), routing.sync()):
        await sync
        assert proxy.simulated.actual().routes == {ALICES_KEY: f"{ready.id}.2"}
        assert sorted(proxy.simulated.servers) == [f"{ready.id}.1", f"{ready.id}.2"]
        assert (proxy.shut, len(tunnels.there)) == ([], 2)
    tunnels.left.clear()
    await routing.sync()
    assert list(proxy.simulated.servers) == [f"{ready.id}.2"]
    assert list(tunnels.there) == [(ready.id, 2)]


async def test_a_way_that_was_made_before_its_number_was_written_is_left_alone(
    routing: Routing, ready: Server, tunnels: Tunnels
) -> None:
    tunnels.there[ready.id, 2] = Path(f"/run/gateway/t/lab/1/{ready.id}.2.sock")
    await routing.sync()
    assert (ready.id, 2) in tunnels.there


async def test_a_way_for_bulk_is_made_where_the_proxy_has_asked_for_one(
    routing: Routing, proxy: Proxy, ready: Server
) -> None:
    await routing.sync()
    assert list(proxy.simulated.servers) == [f"{ready.id}.1"]
    proxy.simulated.maps[Map.BULK][ready.id] = WANTED
    await routing.sync()
    assert list(proxy.simulated.servers) == [f"{ready.id}.1", f"{ready.id}.1b"]
    assert proxy.simulated.maps[Map.BULK] == {ready.id: f"{ready.id}.1b"}
