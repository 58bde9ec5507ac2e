"""Looks at the servers of sites that stop idle ones: warns their owners, and stops those that stay idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from gateway import idle
from gateway.dataplane.fetch import NoSuchAnswer, fetch_json
from gateway.errors import GatewayError
from gateway.idle import Policy, Use, Verdict, Watch
from gateway.lifecycle import Phase
from gateway.model import Server
from gateway.pki import server_name
from gateway.servers import patience
from gateway.servers.tools import Tools
from gateway.siteconfig import Idle
from gateway.timeline import Happening
from gateway.urls import server_path

log = logging.getLogger(__name__)

#: Looks at once, so that a site with many servers is not asked in a burst.
_AT_ONCE = 5
#: Seconds between two looks at the same server: at most, and at least where somebody set minutes.
_SLOW, _FAST = 60.0, 5.0
#: By how much the time of last use must have moved to be written.
_MOVED = timedelta(minutes=1)


class Idleness:
    """Watches over the ready servers.

    Args:
        tools: What it works with.
        stop: Stops a server for being idle.
        traffic: Returns the bytes so far by server id.
    """

    def __init__(
        self,
        tools: Tools,
        stop: Callable[[Server], Awaitable[object]],
        traffic: Callable[[], Awaitable[Mapping[str, int]]],
    ) -> None:
        self._tools = tools
        self._stop = stop
        self._traffic = traffic
        self._watches: dict[str, Watch] = {}
        self._markers: dict[str, str] = {}
        self._bytes: dict[str, tuple[int, datetime]] = {}

    def policy(self, server: Server) -> Idle | None:
        """Return what the site says of idle servers where this one runs."""
        cluster = self._tools.clusters.get(server.cluster)
        return cluster.site.idle_policy(server.choices.partition) if cluster else None

    async def keep(self, server: Server) -> Server:
        """Count a server's idle time anew, from now on: its owner wants to keep it."""
        self._watches.pop(server.id, None)
        self._tools.store.timeline.add(server, Happening.WISH, "Somebody asked to keep it, although idle.")
        return await self._note(server, active=datetime.now(UTC), idle_end=None)

    async def run(self) -> None:
        """Look, again and again, until cancelled. What an earlier hub has announced is announced anew."""
        for server in await self._tools.store.live():
            await self._note(server, idle_end=None)
        while True:
            pause = _SLOW
            try:
                pause = await self.round()
            except GatewayError as error:
                log.warning("idle servers are looked for later: %s", error)
            except Exception:
                log.exception("idle servers could not be looked for")
            await asyncio.sleep(pause)

    async def round(self) -> float:
        """Look at each server once; return the seconds until the next round."""
        live = {server.id: server for server in await self._tools.store.live()}
        for forgotten in self._watches.keys() - live.keys():
            self._watches.pop(forgotten)
            self._markers.pop(forgotten, None)
            self._bytes.pop(forgotten, None)
        policies = {server.id: self.policy(server) for server in live.values() if server.wanted}
        watched = [
            (live[key], policy)
            for key, policy in policies.items()
            if policy and live[key].phase is Phase.READY
        ]
        pause = self._pause()
        totals = await self._totals([server for server, _ in watched])
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(server: Server, policy: Idle) -> None:
            async with room:
                use = await self._use(server, policy, totals)
            await self._follow(server, policy, use, timedelta(seconds=pause))

        await asyncio.gather(*(one(server, policy) for server, policy in watched))
        return pause

    def _pause(self) -> float:
        """Return the seconds between two rounds: a twelfth of the shortest time that any site allows."""
        sites = [cluster.site for cluster in self._tools.clusters.values()]
        said = [site.idle for site in sites] + [each.idle for site in sites for each in site.partitions]
        return min([_SLOW, *(max(_FAST, policy.after * 60 / 12) for policy in said if policy)])

    async def _follow(self, server: Server, policy: Idle, use: Use, pause: timedelta) -> None:
        now = datetime.now(UTC)
        limits = Policy(timedelta(minutes=policy.after), timedelta(minutes=min(policy.warn, policy.after)))
        watch = self._watches[server.id] = idle.look(self._watches.get(server.id), use, now, pause)
        if use is Use.ACTIVE and (server.idle_end or _moved(server.active, now)):
            await self._note(server, active=now, idle_end=None)
        match idle.verdict(watch, limits):
            case Verdict.WARN:
                self._watches[server.id] = watch = replace(watch, warned=now)
                end = idle.stops_at(watch, limits)
                text = f"Nothing runs in it: it will be stopped at {end:%H:%M} UTC if that stays so."
                self._tools.store.timeline.add(server, Happening.WISH, text)
                await self._note(server, idle_end=end)
            case Verdict.STOP:
                self._watches.pop(server.id, None)
                log.info("%s is idle and is stopped", server)
                await self._stop(server)
            case Verdict.NOTHING:
                if watch.warned:  # it may have moved, by the time in which nothing was known
                    await self._note(server, idle_end=idle.stops_at(watch, limits))

    async def _use(self, server: Server, policy: Idle, totals: Mapping[str, int]) -> Use:
        site = self._tools.clusters[server.cluster].site
        application = site.application(server.application)
        if application is None or application.activity == "traffic":
            return self._by_traffic(server, policy, totals)
        try:
            kernels = await self._ask(server, "api/kernels")
            terminals = await self._ask_terminals(server)
            use, self._markers[server.id] = idle.of_jupyter(kernels, terminals, self._markers.get(server.id))
        except (GatewayError, ValueError) as error:
            log.info("%s whether it is in use is not known: %s", server, error)
            return Use.UNKNOWN
        return use

    def _by_traffic(self, server: Server, policy: Idle, totals: Mapping[str, int]) -> Use:
        now, total = datetime.now(UTC), totals.get(server.id)
        before, at = self._bytes.get(server.id, (None, now))
        if total is not None:
            self._bytes[server.id] = total, now
        return idle.of_traffic(total, before, (now - at).total_seconds(), policy.bytes_per_second)

    async def _ask_terminals(self, server: Server) -> object:
        try:
            return await self._ask(server, "api/terminals")
        except NoSuchAnswer:  # Jupyter without them
            return None

    async def _ask(self, server: Server, path: str) -> object:
        address = self._tools.clusters[server.cluster].tunnel.address(server.id, server.generation)
        if address is None:
            raise GatewayError(f"{server} has no way")
        return await fetch_json(
            address,
            server_path(server.user, server.name, self._tools.base) + path,
            token=(await self._tools.secrets(server)).token,
            tls=self._tools.routing.probe_context(server.cluster),
            server_name=server_name(server.id),
            timeout=patience.PROBE_TIMEOUT,
        )

    async def _totals(self, servers: Sequence[Server]) -> Mapping[str, int]:
        """Return the bytes so far, if any server is judged by them."""
        sites = {server.cluster: self._tools.clusters[server.cluster].site for server in servers}
        applications = (sites[server.cluster].application(server.application) for server in servers)
        if all(application and application.activity == "jupyter" for application in applications):
            return {}
        try:
            return await self._traffic()
        except GatewayError as error:
            log.warning("nobody says how much the servers are used: %s", error)
            return {}

    async def _note(self, server: Server, **changes: datetime | None) -> Server:
        if all(getattr(server, key) == value for key, value in changes.items()):
            return server
        noted = await self._tools.store.note(server.id, **changes)
        self._tools.feed.publish(noted)
        return noted


def _moved(then: datetime | None, now: datetime) -> bool:
    return then is None or now - then >= _MOVED
