"""What monitoring reads of the hub, in Prometheus' form: what is counted, and what is sampled."""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway import __version__
from gateway.errors import GatewayError
from gateway.lifecycle import Event, Phase
from gateway.model import Server

_STARTS = (2, 4, 6, 8, 10, 15, 20, 30, 45, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 24 * 3600)
_ANSWERS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60)
#: The phases of a start, each with how long it takes. What comes after is not ours to make shorter.
_SPAWNING = frozenset({Phase.INTENT, Phase.SUBMITTING, Phase.QUEUED, Phase.STARTING})

#: Times a block and counts its failures, under a name of what it does.
Timed = Callable[[str], AbstractContextManager[None]]


def untimed(_: str) -> AbstractContextManager[None]:
    """Time nothing: for what has no monitoring."""
    return nullcontext()


@dataclass(frozen=True, slots=True)
class MasterSample:
    """An SSH master of a tunnel to ``host``. ``kind`` is ``interactive``, ``bulk`` or ``node``."""

    cluster: str
    index: int
    host: str
    kind: str
    alive: bool
    draining: bool
    forwards: int
    reconnects: int


@dataclass(frozen=True, slots=True)
class ProxySample:
    """HAProxy's own counters. ``requests`` and ``codes`` are by where they went: ``hub`` or ``servers``."""

    connections: int
    connections_max: int
    uptime: float
    requests: Mapping[str, int]
    codes: Mapping[tuple[str, str], int]
    bytes_in: Mapping[str, int]
    bytes_out: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """What is true at this moment. Nothing in it names a person.

    ``servers`` counts by cluster and phase; ``silence`` is how many seconds ago each cluster's scheduler
    last answered; ``proxy`` is None if HAProxy does not answer.
    """

    servers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    silence: Mapping[str, float] = field(default_factory=dict)
    masters: Sequence[MasterSample] = ()
    proxy: ProxySample | None = None
    routes: int = 0
    routes_failing: int = 0
    orphans: Mapping[str, int] = field(default_factory=dict)


class Metrics:
    """Counts what happens. Make one for a hub: it has a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._events = Counter(
            "gateway_server_events_total",
            "Steps of servers along the lifecycle's table.",
            ["cluster", "event"],
            registry=registry,
        )
        self._start = Histogram(
            "gateway_start_seconds",
            "From the click to the first answer, queueing included.",
            ["cluster", "partition"],
            buckets=_STARTS,
            registry=registry,
        )
        self._phase = Histogram(
            "gateway_phase_seconds",
            "How long servers were in each phase of their start.",
            ["cluster", "phase"],
            buckets=_STARTS,
            registry=registry,
        )
        self._commands = Histogram(
            "gateway_command_seconds",
            "How long a command on the login node took, connecting included.",
            ["cluster", "command"],
            buckets=_ANSWERS,
            registry=registry,
        )
        self._failures = Counter(
            "gateway_command_failures_total",
            "Commands on the login node that brought no answer, by the kind of error.",
            ["cluster", "command", "error"],
            registry=registry,
        )
        self._answers = Histogram(
            "gateway_answer_seconds",
            "How long a server took to answer the hub through its tunnel.",
            ["cluster"],
            buckets=_ANSWERS,
            registry=registry,
        )
        self._lag = Histogram(
            "gateway_loop_lag_seconds",
            "How late the hub's event loop was, measured once a second.",
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
            registry=registry,
        )
        build = Gauge("gateway_build_info", "The version that runs.", ["version"], registry=registry)
        build.labels(__version__).set(1)
        self._sampled = _Sampled()
        registry.register(self._sampled)
        self._entered: dict[str, datetime] = {}

    def moved(self, before: Phase, server: Server, event: Event) -> None:
        """Count one step.

        Args:
            before: The phase that the server was in.
            server: As it is now.
            event: What happened.
        """
        now = datetime.now(UTC)
        self._events.labels(server.cluster, event.value).inc()
        entered = self._entered.pop(server.id, server.created if before is Phase.INTENT else None)
        if before in _SPAWNING and entered is not None:
            seconds = max(0.0, (now - entered).total_seconds())
            self._phase.labels(server.cluster, before.value).observe(seconds)
        if server.phase in _SPAWNING:
            self._entered[server.id] = now
        if before is Phase.STARTING and event is Event.ANSWERED and not server.restarts:
            seconds = (now - server.created).total_seconds()
            self._start.labels(server.cluster, server.choices.partition).observe(seconds)

    def answered(self, cluster: str, seconds: float) -> None:
        """Put down how long a server took to answer through its tunnel."""
        self._answers.labels(cluster).observe(seconds)

    def timed(self, cluster: str) -> Timed:
        """Return what times the commands on a cluster's login node."""

        @contextmanager
        def time_one(command: str) -> Iterator[None]:
            began = time.monotonic()
            try:
                yield
            except GatewayError as error:
                self._failures.labels(cluster, command, type(error).__name__).inc()
                raise
            finally:
                self._commands.labels(cluster, command).observe(time.monotonic() - began)

        return time_one

    async def watch_loop(self, every: float = 1.0) -> None:
        """Measure how late the event loop is, until cancelled.

        Args:
            every: Seconds between two looks.
        """
        while True:
            due = time.monotonic() + every
            await asyncio.sleep(every)
            self._lag.observe(max(0.0, time.monotonic() - due))

    def exposition(self, sample: Sample | None = None) -> bytes:
        """Return all that has been counted, and the sample, as text."""
        self._sampled.sample = sample or Sample()
        return generate_latest(self._registry)


class _Sampled:
    """Gives prometheus_client what a `Sample` holds."""

    def __init__(self) -> None:
        self.sample = Sample()

    def collect(self) -> Iterator[Metric]:
        sample = self.sample
        yield _gauge("gateway_servers", "Servers that have not ended.", ("cluster", "phase"), sample.servers)
        yield _gauge(
            "gateway_scheduler_silence_seconds",
            "Since when a cluster's scheduler has not answered, while there is something to ask.",
            ("cluster",),
            {(cluster,): seconds for cluster, seconds in sample.silence.items()},
        )
        yield _gauge("gateway_routes", "Routes that HAProxy should hold.", (), {(): sample.routes})
        yield _gauge(
            "gateway_routes_failing",
            "Routes that HAProxy does not hold as it should.",
            (),
            {(): sample.routes_failing},
        )
        yield _gauge(
            "gateway_orphans",
            "Jobs of this gateway that no server answers for.",
            ("cluster",),
            {(cluster,): count for cluster, count in sample.orphans.items()},
        )
        yield from _of_masters(sample.masters)
        yield from _of_proxy(sample.proxy)


def _gauge(name: str, about: str, labels: Sequence[str], values: Mapping[Any, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def _counter(
    name: str, about: str, labels: Sequence[str], values: Mapping[Any, float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, about, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def _of_masters(masters: Iterable[MasterSample]) -> Iterator[Metric]:
    by = {(each.cluster, str(each.index), each.host, each.kind): each for each in masters}
    labels = ("cluster", "master", "login_node", "kind")
    yield _gauge(
        "gateway_tunnel_master_up",
        "SSH masters: 1 is alive.",
        labels,
        {key: float(each.alive) for key, each in by.items()},
    )
    yield _gauge(
        "gateway_tunnel_master_draining",
        "SSH masters: 1 gets no more forwards and is about to be left.",
        labels,
        {key: float(each.draining) for key, each in by.items()},
    )
    yield _gauge(
        "gateway_tunnel_forwards",
        "Forwards on each SSH master.",
        labels,
        {key: each.forwards for key, each in by.items()},
    )
    again: Count[tuple[str, str]] = Count()
    for each in by.values():
        again[each.cluster, each.kind] += each.reconnects
    yield _counter(
        "gateway_tunnel_reconnects",
        "How often an SSH master came back after it was gone, since the hub was started.",
        ("cluster", "kind"),
        again,
    )


def _of_proxy(proxy: ProxySample | None) -> Iterator[Metric]:
    yield _gauge("gateway_proxy_up", "Whether HAProxy answers the hub.", (), {(): float(proxy is not None)})
    there = proxy or ProxySample(0, 0, 0.0, {}, {}, {}, {})
    single = {} if proxy is None else {(): 0.0}
    yield _gauge(
        "gateway_proxy_connections",
        "Connections of browsers.",
        (),
        dict.fromkeys(single, there.connections),
    )
    yield _gauge(
        "gateway_proxy_connections_max",
        "Connections of browsers that HAProxy takes.",
        (),
        dict.fromkeys(single, there.connections_max),
    )
    yield _gauge(
        "gateway_proxy_uptime_seconds",
        "Since HAProxy's last start or reload.",
        (),
        dict.fromkeys(single, there.uptime),
    )
    side = ("to",)
    for name, about, values in (
        ("gateway_proxy_requests", "Requests since HAProxy's last start or reload.", there.requests),
        ("gateway_proxy_received_bytes", "Bytes from browsers, the same.", there.bytes_in),
        ("gateway_proxy_sent_bytes", "Bytes to browsers, the same.", there.bytes_out),
    ):
        yield _counter(name, about, side, {(to,): count for to, count in values.items()})
    yield _counter(
        "gateway_proxy_responses",
        "Responses by the first digit of their status, the same.",
        ("to", "code"),
        there.codes,
    )
