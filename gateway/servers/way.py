"""The way from the hub to one server: through the tunnel or direct, and the question whether it answers."""

from __future__ import annotations

import time

from gateway.address import Address
from gateway.dataplane.probe import Answer, probe
from gateway.errors import GatewayError
from gateway.lifecycle import ROUTED
from gateway.model import Server
from gateway.pki import server_name
from gateway.servers import patience
from gateway.servers.record import Record
from gateway.servers.tools import Tools
from gateway.timeline import Happening
from gateway.urls import server_path


class Way:
    """Keeps a forward to one server.

    Args:
        tools: What it works with.
        record: Where it is written.
    """

    def __init__(self, tools: Tools, record: Record) -> None:
        self._tools = tools
        self._record = record
        self._unmade: int | None = None
        self._answered = True

    async def ask(self, server: Server) -> Answer:
        """See that there is a forward to a server whose host and port are known, and ask for an answer.

        Raises:
            LoginNodeUnreachable, HostKeyRefused, LoginNodeRefused, DataPlaneError: There is no forward.
        """
        address = await self._forward(server)
        began = time.monotonic()
        answer = await probe(
            address,
            server_path(server.user, server.name, self._tools.base) + "api",
            token=(await self._tools.secrets(server)).token,
            tls=self._tools.routing.probe_context(server.cluster),
            server_name=server_name(server.id),
            timeout=patience.PROBE_TIMEOUT,
        )
        self._answered = answer.ready
        if answer.ready:
            self._tools.metrics.answered(server.cluster, time.monotonic() - began)
        return answer

    async def _forward(self, server: Server) -> Address:
        """Return a live forward to the server; a new one has a new generation, written before it is made."""
        host, port = server.host, server.port
        assert host is not None  # noqa: S101  this is only called once both are known
        assert port is not None  # noqa: S101
        tunnel = self._tools.clusters[server.cluster].tunnel
        key = server.id, server.generation
        # What was made is as good as its last answer; only after silence is it looked into.
        address = tunnel.address(*key) if self._answered else await tunnel.confirmed(*key)
        if address is not None:
            return await self._moved(server, address) if tunnel.draining(*key) else address
        generation = server.generation
        if self._unmade != generation:  # else the last try made none, and its number is still free
            generation += 1
            await self._tools.store.note(server.id, generation=generation)
        self._unmade = generation
        async with self._record.act(server, Happening.FORWARD) as done:
            address = await tunnel.forward(server.id, generation, host, port, self._owner(server))
            done.text = f"There is a way to {host}, port {port}: number {generation}."
        self._unmade = None
        if server.phase in ROUTED:
            await self._record.route(server)
        return address

    def _owner(self, server: Server) -> str:
        return self._tools.clusters[server.cluster].queue.owner(server.user)

    async def _moved(self, server: Server, address: Address) -> Address:
        """Return a new way to the server, whose present one carries until it is left; else the present one.

        The new one is made before its generation is written: until then the present one is the server's.
        """
        tunnel, generation = self._tools.clusters[server.cluster].tunnel, server.generation + 1
        assert server.host is not None  # noqa: S101
        assert server.port is not None  # noqa: S101
        try:
            async with self._record.act(server, Happening.FORWARD) as done:
                owner = self._owner(server)
                moved = await tunnel.forward(server.id, generation, server.host, server.port, owner)
                done.text = f"The way to {server.host} is about to end: there is number {generation}."
        except GatewayError:
            return address  # another one is tried at the next look
        await self._tools.store.note(server.id, generation=generation)
        if server.phase in ROUTED:
            await self._record.route(server)
        return moved
