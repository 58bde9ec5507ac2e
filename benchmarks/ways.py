"""The ways to the node that are compared, all over one sshd on the loopback, with one SSH connection each."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import node
from benchmarks.load import Way
from benchmarks.processes import ROOT, Processes, Sides, move, output
from gateway.dataplane.haproxy import HAProxy, HAProxySettings, Listener
from gateway.dataplane.masters import Masters, TunnelSettings
from gateway.origins import ROUTE_COOKIE
from gateway.pki import Authority
from gateway.routes import Desired, Grant, Route, hash_cookie, plan
from tests.proxy.sshd import Sshd, free_port

#: Two users of the same node: with the one the gateway speaks plainly, with the other TLS.
PLAIN = {"": "aaaaaaaaaa", "stream": "bbbbbbbbbb"}
TLS = {"": "cccccccccc", "stream": "dddddddddd"}
#: The tunnels, one master each: the gateway's to the two users' servers, and the one for all others.
TUNNELS = ("plain", "tls", "raw")
CHP = ROOT / "var" / "bench" / "node_modules" / "configurable-http-proxy"


@asynccontextmanager
async def built(directory: Path, sides: Sides) -> AsyncIterator[tuple[Way, ...]]:
    """Build all ways; everything that was started has ended afterwards.

    Args:
        directory: An empty one with a short path.
        sides: Who runs on which CPUs; afterwards this thread is on the near side.
    """
    authority = Authority.open(directory / "ca")
    proxy_port, cookie = free_port(), secrets.token_urlsafe(32)
    move(sides.far)
    with Sshd(directory) as sshd, Processes() as processes:
        ports = node.start(processes, directory / "node", authority, TLS[""], TLS["stream"])
        settings = {
            name: dataclasses.replace(sshd.settings(), directory=directory / name) for name in TUNNELS
        }
        tunnels = {name: Masters(settings[name]) for name in TUNNELS}
        haproxy = HAProxy(_haproxy_settings(directory, proxy_port, authority))
        try:
            await asyncio.gather(*(tunnel.tend() for tunnel in tunnels.values()))
            small, stream = (_listen(settings["raw"], port) for port in (ports.small, ports.stream))
            move(sides.near)
            await haproxy.ensure()
            await _route(haproxy, tunnels, ports, cookie)
            chp = _start_chp(processes, {"/user/plain": small, "/user/plain/stream": stream})
            addresses = {
                "direct": ((ports.small, "/"), (ports.stream, "/")),
                "ssh -L": ((small, "/"), (stream, "/")),
                "gateway": ((proxy_port, "/user/plain/"), (proxy_port, "/user/plain/stream/")),
                "gateway-tls": ((proxy_port, "/user/tls/"), (proxy_port, "/user/tls/stream/")),
                "chp": ((chp, "/user/plain/"), (chp, "/user/plain/stream/")),
            }
            cookies = f"_xsrf=2|f00; {ROUTE_COOKIE}={cookie}"
            yield tuple(Way(name, *both, cookies) for name, both in addresses.items())
        finally:
            await haproxy.stop()
            for tunnel in tunnels.values():
                await tunnel.stop()


def _haproxy_settings(directory: Path, port: int, authority: Authority) -> HAProxySettings:
    return HAProxySettings(
        directory=directory / "haproxy",
        hub_socket=directory / "hub.sock",
        listeners=(Listener(f"127.0.0.1:{port}"),),
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
        routes.append(Route("127.0.0.1", user, name, server_id, 0, path, user == "tls", token))
    grants = [Grant(hash_cookie(cookie), route.server_id, 2**33) for route in routes]
    await haproxy.apply(plan(Desired(tuple(routes), tuple(grants)), await haproxy.actual()))


def _listen(settings: TunnelSettings, port: int) -> int:
    """Have a master listen on a TCP port, as ``ssh -L`` does for a person, and return that port."""
    here = free_port()
    control = str(settings.directory / "0" / "ctl")
    forward = f"127.0.0.1:{here}:127.0.0.1:{port}"
    output("ssh", "-F", "/dev/null", "-S", control, "-O", "forward", "-L", forward, "login")
    return here


def install_chp() -> str:
    """Install configurable-http-proxy into ``var/bench`` if it is not there, and return its version."""
    if not CHP.is_dir():
        prefix = CHP.parents[1]
        prefix.mkdir(parents=True, exist_ok=True)
        words = ("--prefix", str(prefix), "--no-audit", "--no-fund", "configurable-http-proxy@5")
        output("npm", "install", *words, timeout=300)
    version: str = json.loads((CHP / "package.json").read_text())["version"]
    return version


def _start_chp(processes: Processes, routes: Mapping[str, int]) -> int:
    port, api, token = free_port(), free_port(), secrets.token_urlsafe(32)
    addresses = ("--ip", "127.0.0.1", "--port", str(port), "--api-ip", "127.0.0.1", "--api-port", str(api))
    script = str(CHP / "bin" / "configurable-http-proxy")
    processes.start(
        "node",
        script,
        *addresses,
        "--no-include-prefix",
        "--log-level",
        "error",
        port=api,
        env={**os.environ, "CONFIGPROXY_AUTH_TOKEN": token},
    )
    for path, target in routes.items():
        request = urllib.request.Request(
            f"http://127.0.0.1:{api}/api/routes{path}",
            data=json.dumps({"target": f"http://127.0.0.1:{target}"}).encode(),
            headers={"Authorization": f"token {token}"},
            method="POST",
        )
        urllib.request.urlopen(request, timeout=10).close()
    return port
