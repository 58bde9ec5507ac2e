"""What monitoring reads of the hub, in Prometheus' form."""

from __future__ import annotations

from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from gateway.lifecycle import Event, Phase
from gateway.model import Server

_BUCKETS = (2, 4, 6, 8, 10, 15, 20, 30, 45, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 24 * 3600)


class Metrics:
    """Counts what happens to servers. Make one for a hub: it has a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._events = Counter(
            "gateway_server_events_total",
            "Steps of servers along the lifecycle's table.",
            ["cluster", "event"],
            registry=self._registry,
        )
        self._start = Histogram(
            "gateway_start_seconds",
            "From the click to the first answer, queueing included.",
            ["cluster", "partition"],
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def moved(self, before: Phase, server: Server, event: Event) -> None:
        """Count one step.

        Args:
            before: The phase that the server was in.
            server: As it is now.
            event: What happened.
        """
        self._events.labels(server.cluster, event.value).inc()
        if before is Phase.STARTING and event is Event.ANSWERED and not server.restarts:
            seconds = (datetime.now(UTC) - server.created).total_seconds()
            self._start.labels(server.cluster, server.choices.partition).observe(seconds)

    def exposition(self) -> bytes:
        """Return all that has been counted, as text."""
        return generate_latest(self._registry)
