"""What every life works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.metrics import Metrics
from gateway.model import Secrets, Server
from gateway.pki import Authority
from gateway.renderer import Renderer
from gateway.routing import Routing
from gateway.servers.callback import Callback
from gateway.servers.cluster import Cluster, News
from gateway.servers.feed import Feed
from gateway.store import ServerStore


@dataclass(frozen=True, slots=True)
class Tools:
    """The parts of the gateway that a server's life uses."""

    instance: str
    store: ServerStore
    routing: Routing
    authority: Authority
    feed: Feed
    metrics: Metrics
    clusters: Mapping[str, Cluster]
    news: Mapping[str, News]
    callback: Callback
    renderer: Renderer
    base: str = "/"

    async def secrets(self, server: Server) -> Secrets:
        """Return the secrets of a server that has not ended."""
        return (await self.store.secrets([server.id]))[server.id]
