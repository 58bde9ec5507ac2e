"""The ways to the node that are compared, all over one sshd on the loopback, with one SSH connection each."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from benchmarks import node, others
from benchmarks.load import Way
from benchmarks.processes import Processes, Sides, move, output
from gateway.dataplane.haproxy import HAProxy, HAProxySettings, Listener
from gateway.dataplane.masters import Masters, TunnelSettings
from gateway.origins import ROUTE_COOKIE
from gateway.pki import Authority, self_signed
from gateway.routes import Desired, Grant, Route, hash_cookie, plan
from tests.proxy.sshd import Sshd, free_port

#: Two users of the same node: with the one the gateway speaks plainly, with the other TLS.
PLAIN = {"": "aaaaaaaaaa", "stream": "bbbbbbbbbb"}
TLS = {"": "cccccccccc", "stream": "dddddddddd"}
#: The tunnels: the gateway's to two users' servers, with a master for bulk each, and the one of ``ssh -L``.
#: Every other proxy has one too: the connections that one keeps would slow another down.
TUNNELS = ("plain", "tls", "raw")


@asynccontextmanager
async def built(
    directory: Path, sides: Sides, compared: Collection[str] = tuple(others.STARTS)
) -> AsyncIterator[tuple[Way, ...]]:
    """Build all ways; everything that was started has ended afterwards.

    Args:
        directory: An empty one with a short path.
        sides: Who runs on which CPUs; afterwards this thread is on the near side.
        compared: Which other proxies to start.
    """
    authority = Authority.open(directory / "ca")
    proxy, front, cookie = free_port(), free_port(), secrets.token_urlsafe(32)
    move(sides.far)
    with Sshd(directory) as sshd, Processes() as processes:
        ports = node.start(processes, directory / "node", authority, TLS[""], TLS["stream"])
        settings = {
            name: dataclasses.replace(
                sshd.settings(), directory=directory / name, bulk=int(name in TUNNELS[:2])
            )
            for name in (*TUNNELS, *compared)
        }
        tunnels = {name: Masters(wanted) for name, wanted in settings.items()}
        haproxy = HAProxy(_haproxy_settings(directory, proxy, front, authority))
        try:
            await asyncio.gather(*(tunnel.tend() for tunnel in tunnels.values()))
            listening = {
                name: [_listen(settings[name], port) for port in (ports.small, ports.stream)]
                for name in ("raw", *compared)
            }
            move(sides.near)
            await haproxy.ensure()
            await _route(haproxy, tunnels, ports, cookie)
            their = {
                name: others.STARTS[name](processes, directory / f"{name}-own", *listening[name])
                for name in compared
            }
            raw = listening["raw"]
            addresses = {
                "direct": ((ports.small, "/"), (ports.stream, "/")),
                "ssh -L": ((raw[0], "/"), (raw[1], "/")),
                **{name: ((port, others.SMALL), (port, others.STREAM)) for name, port in their.items()},
                "gateway": ((proxy, others.SMALL), (proxy, others.STREAM)),
                "gateway, TLS to node": ((proxy, "/user/tls/"), (proxy, "/user/tls/stream/")),
                "gateway, TLS in front": ((front, others.SMALL), (front, others.STREAM)),
                "gateway, both TLS": ((front, "/user/tls/"), (front, "/user/tls/stream/")),
            }
            cookies = f"_xsrf=2|f00; {ROUTE_COOKIE}={cookie}"
            yield tuple(Way(name, *both, cookies, both[0][0] == front) for name, both in addresses.items())
        finally:
            await haproxy.stop()
            for tunnel in tunnels.values():
                await tunnel.stop()


def _haproxy_settings(directory: Path, port: int, front: int, authority: Authority) -> HAProxySettings:
    certificate = directory / "front.pem"
    certificate.write_bytes(self_signed(["localhost"], ["127.0.0.1"], timedelta(days=1)))
    return HAProxySettings(
        directory=directory / "haproxy",
        hub_socket=directory / "hub.sock",
        listeners=(Listener(f"127.0.0.1:{port}"), Listener(f"127.0.0.1:{front}", certificate)),
        node_ca=authority.node_ca,
        client_pem=authority.client_pem,
        scheme="http",
    )


async def _route(haproxy: HAProxy, tunnels: Mapping[str, Masters], ports: node.Ports, cookie: str) -> None:
    """Make the routes as the gateway does: a forward, a server, a secret, a grant and a route for each."""
    wanted = (
        ("plain", "", PLAIN[""], ports.small),
        ("plain", "stream", PLAIN["stream"], ports.stream),
        ("tls", "", TLS[""], ports.small_tls),
        ("tls", "stream", TLS["stream"], ports.stream_tls),
    )
    routes = []
    for user, name, server_id, port in wanted:
        path = await tunnels[user].forward(server_id, 0, "127.0.0.1", port)
        token = secrets.token_urlsafe(32)
        large = tunnels[user].bulk(server_id, 0)
        routes.append(Route("127.0.0.1", user, name, server_id, 0, path, user == "tls", token, large))
    grants = [Grant(hash_cookie(cookie), route.server_id, 2**33) for route in routes]
    await haproxy.apply(plan(Desired(tuple(routes), tuple(grants)), await haproxy.actual()))


def _listen(settings: TunnelSettings, port: int) -> int:
    """Have a master listen on a TCP port, as ``ssh -L`` does for a person, and return that port."""
    here = free_port()
    control = str(settings.directory / "0" / "ctl")
    forward = f"127.0.0.1:{here}:127.0.0.1:{port}"
    output("ssh", "-F", "/dev/null", "-S", control, "-O", "forward", "-L", forward, "login")
    return here
