"""The way from the hub to one server: a forward through the tunnel, and the question whether it answers."""

from __future__ import annotations

from pathlib import Path

from gateway.dataplane.probe import Answer, probe
from gateway.lifecycle import ROUTED
from gateway.model import Server
from gateway.pki import server_name
from gateway.servers.tools import Tools
from gateway.urls import server_path

#: Seconds that a server may take to answer.
PROBE_TIMEOUT = 5.0


class Way:
    """Keeps a forward to one server.

    Args:
        tools: What it works with.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._unmade: int | None = None
        self._answered = True

    async def ask(self, server: Server) -> Answer:
        """See that there is a forward to a server whose host and port are known, and ask for an answer.

        Raises:
            LoginNodeUnreachable, HostKeyRefused, LoginNodeRefused, DataPlaneError: There is no forward.
        """
        socket = await self._forward(server)
        answer = await probe(
            socket,
            server_path(server.user, server.name) + "api",
            token=(await self._tools.secrets(server)).token,
            tls=self._tools.routing.probe_context(server.cluster),
            server_name=server_name(server.id),
            timeout=PROBE_TIMEOUT,
        )
        self._answered = answer.ready
        return answer

    async def _forward(self, server: Server) -> Path:
        """Return a live forward to the server; a new one has a new generation, written before it is made."""
        host, port = server.host, server.port
        assert host is not None  # noqa: S101  this is only called once both are known
        assert port is not None  # noqa: S101
        masters = self._tools.clusters[server.cluster].masters
        key = server.id, server.generation
        # A socket on disk is as good as its last answer; only after silence are the masters asked.
        socket = masters.socket(*key) if self._answered else (await masters.forwards()).get(key)
        if socket is not None:
            return socket
        generation = server.generation
        if self._unmade != generation:  # else the last try made none, and its number is still free
            generation += 1
            await self._tools.store.note(server.id, generation=generation)
        self._unmade = generation
        socket = await masters.forward(server.id, generation, host, port)
        self._unmade = None
        if server.phase in ROUTED:
            await self._tools.routing.sync()
        return socket
