"""The way from the browser to the servers: compares what should be with what is, and makes the difference.

There is no other way to make a route. All is compared at the start and on an interval; on a change of one
person's, that person's part alone (`gateway.scope`), against what the proxy held after the last steps: with
thousands of routes all takes longer than a browser should wait. Where the proxy turns out to hold something
else, because a step fails or another of its processes answers, all is compared at once.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from gateway.address import Address
from gateway.dataplane.haproxy import HAProxy
from gateway.dataplane.tunnel import Tunnel
from gateway.errors import ConfigError, DataPlaneError, GatewayError
from gateway.lifecycle import ROUTED, Phase
from gateway.model import Server
from gateway.origins import Origins
from gateway.routes import Actual, Desired, Grant, Route, Step, carried_out, id_of, plan, route_key
from gateway.scope import Scope
from gateway.store import ServerStore, SessionStore

log = logging.getLogger(__name__)

#: For how long the hub answers at the address of a server that has ended: somebody may still have it open.
HELD = timedelta(days=7)
#: Seconds between two comparisons of all; longer where one takes so long that it would keep the hub busy.
INTERVAL = 5.0
_BUSY_AT_MOST, _LONGEST_INTERVAL = 0.05, 30.0
#: How often all is read again because somebody's part was changed meanwhile, before changes have to wait.
_TRIES = 3

Ways = Mapping[tuple[str, int], Address]


@dataclass(frozen=True, slots=True)
class RouteRow:
    """A route as administrators see it.

    Attributes:
        key: What it is looked up by: ``HOST/USER/NAME``.
        server_id, generation: The start of the server, and which way to it.
        cluster: Where the server runs.
        address: Where the way begins.
        master: Which of the tunnel's SSH masters carries it; None if none does.
        login_node: To which that leads, "" if there is none.
        failure: Why the proxy does not have it as it should, "" if it does.
    """

    key: str
    server_id: str
    generation: int
    cluster: str
    address: Address
    master: int | None
    login_node: str
    failure: str


@dataclass(frozen=True, slots=True)
class _Found:
    """What was read for one comparison of all."""

    live: Sequence[Server]
    ways: Ways
    desired: Desired
    actual: Actual


@dataclass(frozen=True, slots=True)
class _Known:
    """What was wanted at the last run, and what the proxy held after it."""

    desired: Desired
    actual: Actual


class Routing:
    """Reconciles HAProxy and the tunnels with the database.

    Args:
        servers: The servers' rows.
        sessions: The grants.
        haproxy: Where the routes are.
        tunnels: The ways to each cluster's nodes, by the cluster's name.
        origins: Which host each user's servers are at.
        node_tls: For each cluster the TLS context that speaks with its nodes; None where the site opted out.
    """

    def __init__(
        self,
        servers: ServerStore,
        sessions: SessionStore,
        haproxy: HAProxy,
        tunnels: Mapping[str, Tunnel],
        origins: Origins,
        node_tls: Mapping[str, ssl.SSLContext | None],
    ) -> None:
        self._servers = servers
        self._sessions = sessions
        self._haproxy = haproxy
        self._tunnels = tunnels
        self._origins = origins
        self._node_tls = node_tls
        self._failures: dict[str, str] = {}
        self._known: _Known | None = None
        self._table: tuple[Route, ...] = ()
        self._routes: dict[str, Route] = {}
        self._clusters: dict[str, str] = {}
        self._comparing = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._changes = 0
        self._next: asyncio.Task[None] | None = None
        self._next_part: asyncio.Task[None] | None = None
        self._users: set[str] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._on_lost: Callable[[str], None] | None = None

    async def __aenter__(self) -> Self:
        await self._haproxy.ensure()
        await asyncio.gather(*(self._tend(name) for name in self._tunnels))
        await self.sync()
        self._loops = [asyncio.create_task(self._keep_in_sync())]
        self._loops += [asyncio.create_task(self._keep_tending(name)) for name in self._tunnels]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    def on_lost(self, call: Callable[[str], None]) -> None:
        """Have ``call`` told the id of each server whose way is no longer there, or about to end."""
        self._on_lost = call

    def probe_context(self, cluster: str) -> ssl.SSLContext | None:
        """Return the TLS context for requests to a cluster's nodes, None where they speak plain HTTP."""
        return self._node_tls[cluster]

    def failure(self, server_id: str) -> str:
        """Return why HAProxy does not have a server's route as it should, "" if it does."""
        return self._failures.get(server_id, "")

    def table(self) -> Sequence[RouteRow]:
        """Return the routes as they should be since the last run, by key."""
        return [self._row(route) for route in sorted(self._table, key=lambda route: route.key)]

    async def last_used(self) -> Mapping[str, datetime]:
        """Return when a request to each server last began, by its id; since HAProxy's last start or reload.

        Raises:
            DataPlaneError: HAProxy does not answer.
        """
        now, found = datetime.now(UTC), dict[str, datetime]()
        for name, seconds in (await self._haproxy.last_used()).items():
            moment = now - timedelta(seconds=seconds)
            found[id_of(name)] = max(moment, found.get(id_of(name), moment))
        return found

    async def traffic(self) -> Mapping[str, int]:
        """Return the bytes that went through each server's routes so far, by its id.

        Raises:
            DataPlaneError: HAProxy does not answer.
        """
        found: dict[str, int] = {}
        for name, count in (await self._haproxy.traffic()).items():
            found[id_of(name)] = found.get(id_of(name), 0) + count
        return found

    def _row(self, route: Route) -> RouteRow:
        cluster = self._clusters.get(route.server_id, "")
        tunnel = self._tunnels.get(cluster)
        carrier = tunnel.carrier(route.server_id, route.generation) if tunnel else None
        master, login_node = carrier or (None, "")
        return RouteRow(
            route.key,
            route.server_id,
            route.generation,
            cluster,
            route.address,
            master,
            login_node,
            self.failure(route.server_id),
        )

    async def sync(self, *users: str) -> None:
        """Compare and make the difference; return when HAProxy has all that the database held at the call.

        Args:
            users: Whose part; everybody's if nobody is named.
        """
        if users and self._known is not None:
            self._users.update(users)
            if self._next_part is None:
                self._next_part = asyncio.create_task(self._sync_part())
            await asyncio.shield(self._next_part)
            return
        if self._next is None:
            self._next = asyncio.create_task(self._sync_all())
        await asyncio.shield(self._next)

    async def give(
        self, cookie_hash: str, session_hash: str, servers: Sequence[Server], expires: datetime
    ) -> None:
        """Let the browser with this grant cookie reach servers; return when HAProxy knows.

        Args:
            cookie_hash: SHA-256 of the grant cookie, in hex.
            session_hash: The session that the grant ends with.
            servers: Which; the first is the one that is wanted now.
            expires: When the grant ends at the latest.

        Raises:
            DataPlaneError: HAProxy does not know the first; it is told again on the interval.
        """
        await self._sessions.add_grants(cookie_hash, session_hash, [server.id for server in servers], expires)
        await self.sync(*{server.user for server in servers})
        if why := self._failures.get(servers[0].id):
            raise DataPlaneError(f"{servers[0]} {why}")

    async def revoke(self, session_hash: str) -> None:
        """End a session: its grants, and the open connections of the servers it was granted.

        HAProxy does not say which grant an open WebSocket came with: those of the same person's other
        browsers end too, and come back by themselves, because their grants still hold.
        """
        session = await self._sessions.session(session_hash)
        await self._sessions.end_session(session_hash)
        await self.sync(*((session.user.name,) if session else ()))

    # --- one run ------------------------------------------------------------------------------------

    async def _sync_all(self) -> None:
        """Compare all. Reading it does not hold up changes of a part; after one, all is read again."""
        async with self._comparing:
            self._next = None
            for _ in range(_TRIES):
                seen = self._changes
                found = await self._read()
                async with self._changing:
                    if seen == self._changes:
                        await self._make(found.desired, found.actual)
                        break
            else:
                async with self._changing:
                    found = await self._read()
                    await self._make(found.desired, found.actual)
            if stale := self._stale(found.ways, found.live):
                # A way's generation is written before it is made: what is read now knows all that were there.
                await self._cancel(stale & self._stale(found.ways, await self._servers.live()))
            self._tell_lost(found.live, found.ways)

    async def _read(self) -> _Found:
        ways = await self._ways()  # first: what is made from now on is in neither
        live = await self._servers.live()
        actual = await self._haproxy.actual()
        desired = await self._desired(live, ways, actual, None)
        ids = {server.id for server in live}
        self._routes = {key: route for key, route in self._routes.items() if key in ids}
        self._clusters = {server.id: server.cluster for server in live}
        return _Found(live, ways, desired, actual)

    async def _make(self, desired: Desired, actual: Actual) -> None:
        """Have HAProxy hold what it should, all of it, where this is what it holds."""
        self._failures = await self._carry_out(desired, actual, plan(desired, actual))

    async def _sync_part(self) -> None:
        async with self._changing:
            self._next_part = None
            users, self._users = self._users, set()
            try:
                done = self._known is not None and await self._make_part(users, self._known)
            except DataPlaneError as error:
                log.warning("all routes are compared: %s", error)
                done = False
        if not done:
            await self.sync()

    async def _make_part(self, users: Collection[str], known: _Known) -> bool:
        """Have HAProxy hold what it should of these people's; return whether it does.

        Raises:
            DataPlaneError: It holds something else than it did, or does not answer.
        """
        before = [route for route in known.desired.routes if route.user in users]
        others = {route.server_id for route in known.desired.routes if route.user not in users}
        live = await self._servers.live_of(users)
        self._clusters |= {server.id: server.cluster for server in live}
        ids = {*(server.id for server in live), *(route.server_id for route in before)} - others
        scope = Scope.of(users, ids, self._origins.host_of)
        ways, actual = self._ways_of(live), scope.of_actual(known.actual)
        desired = await self._desired(live, ways, actual, ids)
        failures = await self._carry_out(
            scope.replaced(known.desired, desired), known.actual, plan(desired, actual), known.actual.worker
        )
        self._failures = {key: why for key, why in self._failures.items() if key not in ids} | failures
        await self._cancel(self._stale([(route.server_id, route.generation) for route in before], live))
        self._tell_lost(live, ways)
        return not failures

    async def _carry_out(
        self, desired: Desired, actual: Actual, steps: Sequence[Step], worker: str = ""
    ) -> dict[str, str]:
        """Take these steps from what HAProxy holds to what it should; return what failed, by server id."""
        self._changes += 1
        self._known = None
        self._table = desired.routes
        try:
            await self._haproxy.write_snapshot(desired)  # before the act: a crash in between comes back right
        except ConfigError as error:
            log.error("HAProxy could not come back by itself now: %s", error)
        failures: dict[str, str] = {}
        if steps:
            log.info("routes: %d steps", len(steps))
            failures = dict(await self._haproxy.apply(steps, worker))
            for server_id, why in failures.items():
                log.error("routes of %s: %s", server_id, why)
        after = carried_out(actual, steps)
        await self._end_revoked({*actual.servers, *after.servers})
        if not failures:
            self._known = _Known(desired, after)
        return failures

    async def _end_revoked(self, servers: Collection[str]) -> None:
        """End what is open to servers that have lost a grant, also when an earlier hub took it away."""
        if ids := set(await self._sessions.revocations()):
            await self._haproxy.shutdown_sessions([name for name in servers if id_of(name) in ids])
            await self._sessions.settle_revocations(sorted(ids))

    # --- what should be -----------------------------------------------------------------------------

    async def _ways(self) -> Ways:
        found = await asyncio.gather(*(tunnel.forwards() for tunnel in self._tunnels.values()))
        return {key: address for forwards in found for key, address in forwards.items()}

    def _ways_of(self, live: Sequence[Server]) -> Ways:
        """Return where these servers' ways begin, without asking whether they carry."""
        there = [server for server in live if server.cluster in self._tunnels]
        found = {
            (s.id, s.generation): self._tunnels[s.cluster].address(s.id, s.generation)
            for s in there
            if s.phase in ROUTED
        }
        return {key: address for key, address in found.items() if address is not None}

    async def _desired(
        self, live: Sequence[Server], ways: Ways, actual: Actual, ids: Collection[str] | None
    ) -> Desired:
        """Return what HAProxy should hold for these servers; ``ids`` are theirs, None if they are all."""
        routed = [s for s in live if s.phase in ROUTED and (s.id, s.generation) in ways]
        routes = await self._routes_of(routed, ways, actual)
        granted = {route.server_id for route in routes}
        grants = [
            Grant(grant.cookie_hash, grant.server_id, int(grant.expires.timestamp()))
            for grant in await self._sessions.grants(ids)
            if grant.server_id in granted
        ]
        people = {route.user for route in routes}
        held = [
            route_key(self._origins.host_of(user), user, name)
            for user, name in await self._servers.named_servers(people, HELD)
        ]
        return Desired(tuple(routes), tuple(grants), tuple(held), tuple(self._kept(routed, actual)))

    async def _routes_of(self, routed: Sequence[Server], ways: Ways, actual: Actual) -> list[Route]:
        """Return the routes to servers. What was made for the last run is used again: a token stays."""
        unknown = [server.id for server in routed if server.id not in self._routes]
        secrets = await self._servers.secrets(unknown) if unknown else {}
        tokens = {key: route.token for key, route in self._routes.items()}
        tokens |= {key: secret.token for key, secret in secrets.items()}
        found = []
        for server in routed:
            if server.id not in tokens:
                continue  # it has ended meanwhile
            address, bulk = ways[server.id, server.generation], None
            if server.id in actual.bulk:
                bulk = self._tunnels[server.cluster].bulk(server.id, server.generation)
            route = self._routes.get(server.id)
            if not route or (route.generation, route.address, route.bulk) != (
                server.generation,
                address,
                bulk,
            ):
                route = self._routes[server.id] = Route(
                    host=self._origins.host_of(server.user),
                    user=server.user,
                    name=server.name,
                    server_id=server.id,
                    generation=server.generation,
                    address=address,
                    node_tls=self._node_tls[server.cluster] is not None,
                    token=tokens[server.id],
                    bulk=bulk,
                )
            found.append(route)
        return found

    def _kept(self, routed: Sequence[Server], actual: Actual) -> list[str]:
        """Return HAProxy's servers of older ways that are to be left and still carry what is open."""
        there = {server.id: server for server in routed}
        found = []
        for name in actual.servers:
            server_id, _, word = name.partition(".")
            server, generation = there.get(server_id), int(word.removesuffix("b"))
            if server is None or generation >= server.generation:
                continue
            if self._tunnels[server.cluster].draining(server_id, generation):
                found.append(name)
        return found

    # --- ways ---------------------------------------------------------------------------------------

    def _stale(self, ways: Collection[tuple[str, int]], live: Sequence[Server]) -> set[tuple[str, int]]:
        """Return the ways whose server has ended or has a newer one, but for those that are being left.

        One that is newer than the server's own is about to become that: it was made beforehand.
        """
        current = {s.id: s for s in live if s.phase in ROUTED | {Phase.STARTING}}

        def is_stale(server_id: str, generation: int) -> bool:
            server = current.get(server_id)
            if server is None:
                return True
            tunnel = self._tunnels.get(server.cluster)
            left = tunnel is not None and tunnel.draining(server_id, generation)
            return generation < server.generation and not left

        return {key for key in ways if is_stale(*key)}

    async def _cancel(self, ways: Collection[tuple[str, int]]) -> None:
        for key in ways:
            for tunnel in self._tunnels.values():
                await tunnel.cancel(*key)

    def _tell_lost(self, live: Sequence[Server], ways: Ways) -> None:
        """Tell of the servers whose way is not there, or is to be left."""
        for server in live:
            if server.phase not in ROUTED or self._on_lost is None:
                continue
            key, tunnel = (server.id, server.generation), self._tunnels.get(server.cluster)
            if key not in ways or (tunnel is not None and tunnel.draining(*key)):
                self._on_lost(server.id)

    # --- again and again ----------------------------------------------------------------------------

    async def _keep_in_sync(self) -> None:
        pause = INTERVAL
        while True:
            await self._haproxy.pause(pause)
            began = asyncio.get_running_loop().time()
            for step in (self._haproxy.ensure, self.sync):  # one that runs is told, whatever ails its files
                try:
                    await step()
                except GatewayError as error:
                    log.error("the routes could not be brought up to date: %s", error)
                except Exception:
                    log.exception("the routes could not be brought up to date")
            took = asyncio.get_running_loop().time() - began
            pause = max(INTERVAL, min(took / _BUSY_AT_MOST, _LONGEST_INTERVAL))

    async def _keep_tending(self, name: str) -> None:
        while True:
            await self._tunnels[name].pause(INTERVAL)
            await self._tend(name)

    async def _tend(self, name: str) -> None:
        try:
            await self._tunnels[name].tend()
        except GatewayError as error:
            log.error("the tunnel to %s: %s", name, error)
        except Exception:
            log.exception("the tunnel to %s", name)
