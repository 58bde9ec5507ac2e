"""What monitoring and administrators see of this moment: read from the parts that know, never kept."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from gateway.errors import GatewayError
from gateway.metrics import MasterSample, Metrics, ProxySample, Sample
from gateway.model import Server
from gateway.routing import RouteRow
from gateway.store.orphans import Orphan

log = logging.getLogger(__name__)


class Records(Protocol):
    """The servers; ``gateway.store.ServerStore``."""

    async def live(self) -> Sequence[Server]:
        """Return those that have not ended."""
        ...


class Proxy(Protocol):
    """HAProxy; ``gateway.dataplane.haproxy.HAProxy``."""

    async def figures(self) -> ProxySample:
        """Return its counters."""
        ...


class Tunnel(Protocol):
    """The ways to a cluster; ``gateway.dataplane.tunnel.Tunnel``."""

    def masters(self) -> Sequence[MasterSample]:
        """Return the SSH masters as they were last seen."""
        ...


class Poller(Protocol):
    """Asks a cluster's scheduler; ``gateway.poller.Poller``."""

    @property
    def silent_since(self) -> datetime | None:
        """Since when there is no news."""
        ...


class Orphans(Protocol):
    """Jobs that no server answers for; ``gateway.orphans.Orphans``."""

    async def all(self) -> Sequence[Orphan]:
        """Return those that are known."""
        ...


class Sampling:
    """Makes the exposition for one scrape. What does not answer is left out of it, and says so by that.

    Args:
        metrics: What is counted.
        records: The servers.
        proxy: HAProxy.
        table: Returns the routes.
        tunnels: By cluster.
        pollers: By cluster.
        orphans: Jobs that no server answers for.
    """

    def __init__(
        self,
        metrics: Metrics,
        records: Records,
        proxy: Proxy,
        table: Callable[[], Sequence[RouteRow]],
        tunnels: Mapping[str, Tunnel],
        pollers: Mapping[str, Poller],
        orphans: Orphans,
    ) -> None:
        self._metrics = metrics
        self._records = records
        self._proxy = proxy
        self._table = table
        self._tunnels = tunnels
        self._pollers = pollers
        self._orphans = orphans

    async def exposition(self) -> bytes:
        """Return everything, as text."""
        return self._metrics.exposition(await self._sample())

    async def _sample(self) -> Sample:
        live = await self._records.live()
        table = self._table()
        waiting = [orphan for orphan in await self._orphans.all() if not orphan.cancelled]
        return Sample(
            servers=Counter((server.cluster, server.phase.value) for server in live),
            silence={name: _seconds_since(poller.silent_since) for name, poller in self._pollers.items()},
            masters=[master for tunnel in self._tunnels.values() for master in tunnel.masters()],
            proxy=await self._of_proxy(),
            routes=len(table),
            routes_failing=sum(bool(row.failure) for row in table),
            orphans=dict.fromkeys(self._pollers, 0) | Counter(orphan.cluster for orphan in waiting),
        )

    async def _of_proxy(self) -> ProxySample | None:
        try:
            return await self._proxy.figures()
        except GatewayError as error:
            log.warning("HAProxy's counters: %s", error)
            return None


def _seconds_since(moment: datetime | None) -> float:
    return 0.0 if moment is None else max(0.0, (datetime.now(UTC) - moment).total_seconds())
