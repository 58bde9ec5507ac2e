"""The way from the browser to the servers: compares what should be with what is, and makes the difference.

There is no other way to make a route. It runs at the start, on each change and on an interval.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Self

from gateway.address import Address
from gateway.dataplane.haproxy import HAProxy
from gateway.dataplane.tunnel import Tunnel
from gateway.errors import ConfigError, DataPlaneError, GatewayError
from gateway.lifecycle import ROUTED, Phase
from gateway.model import Server
from gateway.origins import Origins
from gateway.routes import Desired, Grant, Route, plan, route_key
from gateway.store import ServerStore, SessionStore

log = logging.getLogger(__name__)

#: For how long the hub answers at the address of a server that has ended: somebody may still have it open.
HELD = timedelta(days=7)
#: Seconds between two comparisons when nothing has asked for one.
INTERVAL = 5.0


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
        self._failures: Mapping[str, str] = {}
        self._running = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
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
        """Have ``call`` told the id of each server whose forward is no longer there."""
        self._on_lost = call

    def probe_context(self, cluster: str) -> ssl.SSLContext | None:
        """Return the TLS context for requests to a cluster's nodes, None where they speak plain HTTP."""
        return self._node_tls[cluster]

    def failure(self, server_id: str) -> str:
        """Return why HAProxy does not have a server's route as it should, "" if it does."""
        return self._failures.get(server_id, "")

    async def sync(self) -> None:
        """Compare and make the difference; return when HAProxy has all that the database held at the call."""
        if self._next is None:
            self._next = asyncio.create_task(self._sync_after_the_present_one())
        await asyncio.shield(self._next)

    async def _sync_after_the_present_one(self) -> None:
        async with self._running:
            self._next = None
            await self._sync()

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
        await self.sync()
        if why := self._failures.get(servers[0].id):
            raise DataPlaneError(f"{servers[0]} {why}")

    async def revoke(self, session_hash: str) -> None:
        """End a session: its grants, and the open connections of the servers it was granted.

        HAProxy does not say which grant an open WebSocket came with: those of the same person's other
        browsers end too, and come back by themselves, because their grants still hold.
        """
        await self._sessions.end_session(session_hash)
        await self.sync()

    async def _sync(self) -> None:
        ways = await self._ways()  # first: what is made from now on is in neither
        live = await self._servers.live()
        desired = await self._desired(live, ways)
        actual = await self._haproxy.actual()
        try:
            await self._haproxy.write_snapshot(desired)  # before the act: a crash in between comes back right
        except ConfigError as error:
            log.error("HAProxy could not come back by itself now: %s", error)
        self._failures = {}
        if steps := plan(desired, actual):
            log.info("routes: %d steps", len(steps))
            self._failures = await self._haproxy.apply(steps)
            for server_id, why in self._failures.items():
                log.error("routes of %s: %s", server_id, why)
        await self._end_revoked(live)
        await self._cancel_stale(ways)
        for server in live:
            if server.phase in ROUTED and (server.id, server.generation) not in ways and self._on_lost:
                self._on_lost(server.id)

    async def _end_revoked(self, live: Sequence[Server]) -> None:
        """End what is open to servers that have lost a grant, also when an earlier hub took it away."""
        if ids := await self._sessions.revocations():
            names = [f"{server.id}.{server.generation}" for server in live if server.id in ids]
            await self._haproxy.shutdown_sessions(names)
            await self._sessions.settle_revocations(ids)

    async def _ways(self) -> Mapping[tuple[str, int], Address]:
        found = await asyncio.gather(*(tunnel.forwards() for tunnel in self._tunnels.values()))
        return {key: address for forwards in found for key, address in forwards.items()}

    async def _desired(self, live: Sequence[Server], ways: Mapping[tuple[str, int], Address]) -> Desired:
        routed = [s for s in live if s.phase in ROUTED and (s.id, s.generation) in ways]
        secrets = await self._servers.secrets([server.id for server in routed])
        routes = [
            Route(
                host=self._origins.host_of(server.user),
                user=server.user,
                name=server.name,
                server_id=server.id,
                generation=server.generation,
                address=ways[server.id, server.generation],
                node_tls=self._node_tls[server.cluster] is not None,
                token=secrets[server.id].token,
            )
            for server in routed
            if server.id in secrets
        ]
        ids = {route.server_id for route in routes}
        grants = [
            Grant(grant.cookie_hash, grant.server_id, int(grant.expires.timestamp()))
            for grant in await self._sessions.grants()
            if grant.server_id in ids
        ]
        people = {route.user for route in routes}
        held = [
            route_key(self._origins.host_of(user), user, name)
            for user, name in await self._servers.named_servers(people, HELD)
        ]
        return Desired(tuple(routes), tuple(grants), tuple(held))

    async def _cancel_stale(self, ways: Mapping[tuple[str, int], Address]) -> None:
        """Close those of the forwards whose server has ended or has a newer one.

        A forward's generation is written before it is made: what is read now knows all that were there.
        """
        live = await self._servers.live()
        current = {(s.id, s.generation) for s in live if s.phase in ROUTED | {Phase.STARTING}}
        for key in ways.keys() - current:
            for tunnel in self._tunnels.values():
                await tunnel.cancel(*key)

    async def _keep_in_sync(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            for step in (
                self._haproxy.ensure,
                self.sync,
            ):  # a proxy that runs is told, whatever ails its files
                try:
                    await step()
                except GatewayError as error:
                    log.error("the routes could not be brought up to date: %s", error)
                except Exception:
                    log.exception("the routes could not be brought up to date")

    async def _keep_tending(self, name: str) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self._tend(name)

    async def _tend(self, name: str) -> None:
        try:
            await self._tunnels[name].tend()
        except GatewayError as error:
            log.error("the tunnel to %s: %s", name, error)
        except Exception:
            log.exception("the tunnel to %s", name)
