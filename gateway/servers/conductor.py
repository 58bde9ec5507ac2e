"""All servers: starts and stops them, and keeps one life going for each, also those that it finds."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Self

from gateway.errors import CallRefused, Forbidden, NotFound
from gateway.lifecycle import NEXT, Event, Phase
from gateway.metrics import Metrics
from gateway.model import Asked, Choices, EndReason, Secrets, Server, User
from gateway.pki import Authority
from gateway.renderer import Renderer
from gateway.routing import Routing
from gateway.servers.callback import Callback, is_proof
from gateway.servers.cluster import Cluster, News
from gateway.servers.feed import Feed
from gateway.servers.idleness import Idleness
from gateway.servers.life import Life
from gateway.servers.record import keep_written
from gateway.servers.tools import Tools
from gateway.store import ServerStore
from gateway.store.database import random_word
from gateway.timeline import Happening

log = logging.getLogger(__name__)

#: How long after a server's end the removal of its files is still tried.
CLEAN_WITHIN = timedelta(days=1)
#: How long a job may wait in the queue and then still use its certificate for its whole walltime.
QUEUE_PATIENCE = timedelta(days=60)


class Servers:
    """The conductor. Use it as an async context manager: leaving it stops no server.

    Args:
        instance: This gateway's name in the names of its jobs.
        store: The servers' rows.
        routing: The way from the browser to them.
        authority: Makes their certificates.
        clusters: By name.
        metrics: Counts what happens.
        callback: Where jobs call in, on clusters whose site config lets them.
        renderer: Writes their job scripts.
        base: The path of the public address, below which all servers are.
    """

    def __init__(
        self,
        instance: str,
        store: ServerStore,
        routing: Routing,
        authority: Authority,
        clusters: Mapping[str, Cluster],
        metrics: Metrics,
        callback: Callback | None = None,
        renderer: Renderer | None = None,
        base: str = "/",
    ) -> None:
        self._store = store
        self._instance = instance
        self._feed = Feed()
        self._lives: dict[str, Life] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._clusters = clusters
        self._authority = authority
        news = {name: News(partial(self._jobs, name), partial(self._heard, name)) for name in clusters}
        self._tools = Tools(
            instance,
            store,
            routing,
            authority,
            self._feed,
            metrics,
            clusters,
            news,
            callback or Callback(),
            renderer or Renderer(),
            base,
        )
        self._idleness = Idleness(self._tools, self._stop_idle, routing.traffic)

    async def __aenter__(self) -> Self:
        self._tools.routing.on_lost(self._lost)
        for server in [*await self._store.live(), *await self._store.uncleaned(CLEAN_WITHIN)]:
            if server.id not in self._lives and server.phase is not Phase.ENDED:
                self._store.timeline.add(server, Happening.FOUND, "The hub was started, and found it.")
            self._begin(server)
        self._loops.append(asyncio.create_task(keep_written(self._store.timeline)))
        for name, cluster in self._clusters.items():
            news = self._tools.news[name]
            self._loops.append(asyncio.create_task(cluster.poller.run(news.begin, news.take)))
        self._loops.append(asyncio.create_task(self._idleness.run()))
        return self

    async def __aexit__(self, *exc: object) -> None:
        for tasks in ([*self._tasks.values()], self._loops):  # what the lives still tell is written at last
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _running(self, user_name: str, name: str, advice: str) -> Server:
        server = await self._store.latest(user_name, name)
        if server is None or server.phase is Phase.ENDED:
            what = f"{user_name}/{name} is not running"
            raise NotFound(what, "This server is not running.", advice)
        return server

    async def keep(self, user_name: str, name: str) -> Server:
        """Count a server's idle time anew, so that it is not stopped.

        Raises:
            NotFound: There is none, or it has ended.
        """
        server = await self._running(user_name, name, "Start it if you need it.")
        return await self._idleness.keep(server)

    async def _stop_idle(self, server: Server) -> None:
        """Stop a server that nobody uses."""
        text = "Nothing had run in it for as long as this cluster allows: it is stopped."
        self._store.timeline.add(server, Happening.WISH, text)
        self._feed.publish(await self._store.note(server.id, wanted=False, reason=EndReason.IDLE))
        self.wake(server.id)

    async def start(self, user: User, name: str, choices: Choices) -> Server:
        """Write that a server is wanted, and begin to make it so.

        Args:
            user: Whose.
            name: "" for the default server.
            choices: Checked by ``options.check``.

        Returns:
            The server, in its first phase.

        Raises:
            AlreadyRunning: It is there and has not ended.
        """
        server_id, now = random_word(10), datetime.now(UTC)
        until = now + QUEUE_PATIENCE + timedelta(minutes=choices.walltime)
        key, certificate = await asyncio.to_thread(self._authority.issue, server_id, until)
        server = Server(
            id=server_id,
            user=user.name,
            name=name,
            cluster=choices.cluster,
            application=choices.application,
            choices=choices,
            run=secrets.token_hex(8),
            phase=Phase.INTENT,
            wanted=True,
            created=now,
            changed=now,
        )
        server = await self._store.create(server, Secrets(secrets.token_urlsafe(32), key, certificate))
        log.info("%s is wanted", server)
        self._begin(server)
        return server

    async def stop(self, user_name: str, name: str) -> Server:
        """Write that a server is not wanted any more, and begin to make it so.

        Raises:
            NotFound: There is none, or it has ended.
        """
        server = await self._running(user_name, name, "There is nothing to stop.")
        server = await self._store.note(server.id, wanted=False)
        self._store.timeline.add(server, Happening.WISH, "Somebody asked to stop it.")
        self._feed.publish(server)
        if server.cluster not in self._clusters:
            return await self._abandon(server)
        self.wake(server.id)
        return server

    async def _abandon(self, server: Server) -> Server:
        """End a server whose cluster the gateway no longer knows, so that its name is free again."""
        text = (
            f"The cluster {server.cluster} is no longer there for the gateway, so nobody knows whether the "
            "job still runs. Ask the gateway's administrators."
        )
        for event in (Event.NOT_FOUND, Event.STOP, Event.GONE):
            if (server.phase, event) in NEXT:
                server = await self._store.move(server.id, event, text, reason=EndReason.LOST)
        self._feed.publish(server)
        return server

    async def published(self, server_id: str, proof: str, port: int) -> None:
        """Take the port on which a starting server's job says that its application listens.

        Where it runs is the scheduler's word alone.

        Args:
            server_id: Whose job calls.
            proof: What shows that it is this job (`gateway.servers.callback`).
            port: Where it listens.

        Raises:
            Forbidden: It is not this job, there is no such server, or jobs there do not call.
            CallRefused: The server is not starting, or the port is not one of the site's.
        """
        secrets_now = (await self._store.secrets([server_id])).get(server_id)
        life = self._lives.get(server_id)
        known = is_proof(proof, secrets_now.token if secrets_now else secrets.token_hex(16))
        if not known or secrets_now is None or life is None or not life.takes_calls:
            raise Forbidden(f"a call for {server_id} that its job did not make")
        if not await life.called(port):
            raise CallRefused(
                f"a call for {server_id}, port {port}: it is not starting, or not a port of the site's"
            )

    async def changes(self, server_id: str) -> AsyncIterator[Server]:
        """Yield a server as it is, then whenever it changes, until it has ended."""
        async for server in self._feed.watch(server_id, self._store.get):
            yield server

    def news(self, cluster: str) -> datetime | None:
        """Return when a cluster's scheduler last listed its jobs; None if it was not asked, or has not."""
        news = self._tools.news.get(cluster)
        return news.at if news else None

    def wake(self, server_id: str) -> None:
        """Make one server's life look again now."""
        if life := self._lives.get(server_id):
            life.wake()

    def _heard(self, cluster: str) -> None:
        """Make the lives on one cluster look again: there is news about it."""
        for life in self._lives.values():
            if life.cluster == cluster:
                life.heard()

    def _lost(self, server_id: str) -> None:
        if life := self._lives.get(server_id):
            life.lost()

    def _begin(self, server: Server) -> None:
        if server.id in self._lives:
            return
        if server.cluster not in self._clusters:
            log.error("%s is on a cluster that has no site config any more: nothing is known of it", server)
            return
        life = Life(server, self._tools)
        self._lives[server.id] = life
        task = asyncio.create_task(life.run(), name=repr(life))
        self._tasks[server.id] = task
        task.add_done_callback(partial(self._ended, server.id))

    def _ended(self, server_id: str, task: asyncio.Task[None]) -> None:
        del self._lives[server_id], self._tasks[server_id]
        if not task.cancelled() and (error := task.exception()):
            log.error("the life of %s broke off", server_id, exc_info=error)

    async def _jobs(self, cluster: str) -> list[Asked]:
        """Return the jobs to ask the scheduler for: of all servers that have, or may have, one there."""
        live = await self._store.live(cluster)
        queue = self._clusters[cluster].queue
        return [queue.asked(self._instance, server) for server in live if server.phase is not Phase.INTENT]
