"""What the relay of applications without TLS costs, against the application itself, behind the same HAProxy.

Run ``python benchmarks/relay.py``. There is no tunnel: HAProxy connects to "the node" on the loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a script from anywhere

from benchmarks import load, node
from benchmarks.processes import Processes
from gateway.address import Tcp
from gateway.dataplane.haproxy import HAProxy, HAProxySettings, Listener
from gateway.launcher import relay
from gateway.origins import ROUTE_COOKIE
from gateway.pki import Authority
from gateway.routes import Desired, Grant, Route, hash_cookie, plan
from tests.proxy.sshd import free_port

#: A way's name, and the ids of its two servers: the one for requests and the one for all else.
WAYS = {
    "plain": ("aaaaaaaaaa", "bbbbbbbbbb"),
    "own TLS": ("cccccccccc", "dddddddddd"),
    "relay": ("eeeeeeeeee", "ffffffffff"),
}


class Behind:
    """An application that was started by somebody else."""

    family = socket.AF_INET

    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)


def serve(state: Path, port: int, behind: int) -> None:
    """Be a relay, until ended."""
    listener = socket.create_server(("127.0.0.1", port))
    listener.setblocking(False)
    relay.Relay(listener, relay.tls(state), Behind(behind)).serve(lambda: True, lambda: True)


@contextmanager
def relayed(directory: Path, authority: Authority, server_id: str, behind: int) -> Iterator[int]:
    """Have a relay in front of a port; return the port that it listens on."""
    state, port = directory / server_id, free_port()
    state.mkdir()
    key, certificate = authority.issue(server_id, datetime.now(UTC) + timedelta(days=1))
    (state / "key.pem").write_text(key)
    (state / "cert.pem").write_text(certificate)
    (state / "client-ca.pem").write_bytes(authority.client_ca.read_bytes())
    with Processes() as processes:
        processes.start(sys.executable, __file__, "--serve", str(state), str(port), str(behind), port=port)
        yield port


async def measure(rounds: int, seconds: float) -> list[dict[str, tuple[float, ...]]]:
    """Return the figures of each round, by way."""
    with tempfile.TemporaryDirectory(prefix="gwbench") as name, Processes() as processes:
        directory = Path(name)
        authority, port, cookie = Authority.open(directory / "ca"), free_port(), secrets.token_urlsafe(32)
        ports = node.start(processes, directory / "node", authority, *WAYS["own TLS"])
        settings = HAProxySettings(
            directory=directory / "haproxy",
            hub_socket=directory / "hub.sock",
            listeners=(Listener(f"127.0.0.1:{port}"),),
            node_ca=authority.node_ca,
            client_pem=authority.client_pem,
            scheme="http",
        )
        haproxy = HAProxy(settings)
        small, stream = WAYS["relay"]
        with (
            relayed(directory, authority, small, ports.small) as relay_small,
            relayed(directory, authority, stream, ports.stream) as relay_stream,
        ):
            try:
                await haproxy.ensure()
                there = {
                    "plain": (ports.small, ports.stream),
                    "own TLS": (ports.small_tls, ports.stream_tls),
                    "relay": (relay_small, relay_stream),
                }
                await _route(haproxy, there, cookie)
                ways = [_way(number, name, port, cookie) for number, name in enumerate(WAYS)]
                return [{way.name: _figures(way, seconds) for way in ways} for _ in range(rounds)]
            finally:
                await haproxy.stop()


async def _route(haproxy: HAProxy, there: dict[str, tuple[int, int]], cookie: str) -> None:
    routes = [
        Route("127.0.0.1", f"u{number}", name, key, 0, Tcp("127.0.0.1", port), way != "plain", "t" * 43)
        for number, (way, ids) in enumerate(WAYS.items())
        for name, key, port in zip(("", "stream"), ids, there[way], strict=True)
    ]
    grants = [Grant(hash_cookie(cookie), route.server_id, 2**33) for route in routes]
    await haproxy.apply(plan(Desired(tuple(routes), tuple(grants)), await haproxy.actual()))


def _way(number: int, name: str, port: int, cookie: str) -> load.Way:
    path = f"/user/u{number}/"
    return load.Way(name, (port, path), (port, f"{path}stream/"), f"{ROUTE_COOKIE}={cookie}")


def _figures(way: load.Way, seconds: float) -> tuple[float, ...]:
    requests = load.requests(way, 1, seconds), load.requests(way, 32, seconds)
    return (*requests, load.bulk(way, seconds), load.websocket(way, seconds))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds for each load and way (2)")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        state, port, behind = options.serve
        serve(Path(state), int(port), int(behind))
        return
    found = asyncio.run(measure(options.rounds, options.seconds))
    print(f"Python {platform.python_version()}, kernel {platform.release()}")
    print(f"{'':<12}{'req/s at 1':>14}{'req/s at 32':>14}{'MB/s':>14}{'WebSocket/s':>14}")
    for name in WAYS:
        columns = zip(*(each[name] for each in found), strict=True)
        print(f"{name:<12}" + "".join(f"{median(column):>14,.0f}" for column in columns))


if __name__ == "__main__":
    main()
