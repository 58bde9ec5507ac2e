"""What many routes cost: to add one, to compare all, to take a grant back, to start again; and their memory.

Run ``python benchmarks/routes.py [--counts N …] [--adds N] [--json]``; README.rst says more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a script from anywhere

from benchmarks.processes import Processes
from gateway.dataplane.haproxy import HAProxy, HAProxySettings, Listener
from gateway.dataplane.masters import Masters
from gateway.lifecycle import Event, Phase
from gateway.model import Choices, JobId, Secrets, Server, User
from gateway.origins import ROUTE_COOKIE, Origins
from gateway.pki import Authority
from gateway.routes import hash_cookie
from gateway.routing import Routing
from gateway.store import Database, ServerStore, SessionStore, upgrade
from gateway.store.sealed import Seal
from gateway.dataplane.tunnel import FORWARDS_MAX
from tests.proxy.sshd import Sshd, free_port

COUNTS = (10, 100, 1000, 5000)
#: Goals: milliseconds from an application that answers to a browser that is led there, at a thousand routes;
#: bytes of HAProxy's worker and the SSH masters for each route.
ADD_P99_MS, ROUTE_KB = 50.0, 25.0
DOMAIN = "gw.example.org"
_LATER = datetime.now(UTC) + timedelta(days=1)


class Stage:
    """The hub's routing with a database, an sshd, SSH masters and HAProxy of its own, and many servers.

    Args:
        directory: An empty one with a short path.
        most: How many routes there will be.
    """

    def __init__(self, directory: Path, most: int) -> None:
        self.directory = directory
        self.port, self.node = free_port(), free_port()
        self.masters = -(-most // FORWARDS_MAX)
        self.servers: list[Server] = []
        self.cookies: dict[str, str] = {}
        self._ids = iter(lambda: "".join(secrets.choice("abcdefghijklmnop234567") for _ in range(10)), "")

    @asynccontextmanager
    async def built(self) -> AsyncIterator[None]:
        """Have all that the servers need; everything that was started has ended afterwards."""
        async with AsyncExitStack() as stack:
            authority = Authority.open(self.directory / "ca")
            sshd = stack.enter_context(Sshd(self.directory))
            processes = stack.enter_context(Processes())
            application = str(Path(__file__).with_name("answering.py"))
            processes.start(
                sys.executable, application, str(self.node), str(self.directory / "ca"), port=self.node
            )
            url = f"sqlite+aiosqlite:///{self.directory}/gateway.sqlite"
            await upgrade(url)
            database = await stack.enter_async_context(Database(url))
            self.store = ServerStore(database, Seal.open(self.directory / "secret.key"))
            self.sessions = SessionStore(database)
            self.tunnel = Masters(sshd.settings(self.masters))
            stack.push_async_callback(self.tunnel.stop)
            self.haproxy = HAProxy(self._settings(authority))
            stack.push_async_callback(self.haproxy.stop)
            origins = Origins.of(f"https://{DOMAIN}/")
            context = None if authority is None else _client_context(authority)
            self.routing = Routing(
                self.store,
                self.sessions,
                self.haproxy,
                {"bench": self.tunnel},
                origins,
                {"bench": context},
            )
            await self.haproxy.ensure()
            while len(list((self.directory / "t").glob("*/pid"))) < self.masters:
                await self.tunnel.tend()
            yield

    def _settings(self, authority: Authority) -> HAProxySettings:
        return HAProxySettings(
            directory=self.directory / "haproxy",
            hub_socket=self.directory / "hub.sock",
            listeners=(Listener(f"127.0.0.1:{self.port}"),),
            node_ca=authority.node_ca,
            client_pem=authority.client_pem,
        )

    async def start(self, phase: Phase) -> Server:
        """Have one more server, whose person has logged in, as far as this phase, and the way to it."""
        number, server_id = len(self.servers), next(self._ids)
        now = datetime.now(UTC)
        server = Server(
            id=server_id,
            user=f"u{number}",
            name="",
            cluster="bench",
            application="lab",
            choices=Choices("bench", "lab", "short", 5, 1, 500),
            run=secrets.token_hex(8),
            phase=phase,
            wanted=True,
            created=now,
            changed=now,
            job_id=JobId(str(number)),
            host="127.0.0.1",
            port=self.node,
            generation=1,
        )
        await self.store.create(server, Secrets(secrets.token_urlsafe(32), "key" * 80, "certificate" * 80))
        await self.sessions.login(User(server.user), f"session-{server_id}", _LATER)
        self.cookies[server_id] = secrets.token_urlsafe(32)
        self.servers.append(server)
        return server

    async def grow(self, count: int) -> None:
        """Have so many servers, routed, each with a browser that may reach it."""
        while len(self.servers) < count:
            server = await self.start(Phase.READY)
            await self.forward(server)
            await self.sessions.add_grants(
                hash_cookie(self.cookies[server.id]), f"session-{server.id}", [server.id], _LATER
            )
        await self.routing.sync()

    async def forward(self, server: Server) -> None:
        await self.tunnel.forward(server.id, 1, "127.0.0.1", self.node)

    async def let_in(self, server: Server) -> None:
        """Grant a person's browser the server."""
        await self.routing.give(
            hash_cookie(self.cookies[server.id]), f"session-{server.id}", [server], _LATER
        )

    async def answer(self, server: Server) -> tuple[int, str]:
        """Return the status of a server's answer to its person's browser, and which server that is."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        host = f"{server.user}.{DOMAIN}"
        cookie = f"{ROUTE_COOKIE}={self.cookies[server.id]}"
        writer.write(
            f"GET /user/{server.user}/api HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        answer = await reader.read(-1)
        writer.close()
        return int(answer.split()[1]), answer.rpartition(b"\r\n\r\n")[2].decode(errors="replace")

    async def memory(self) -> dict[str, dict[str, int]]:
        """Return the kB that HAProxy's worker and the masters take, as RSS and as proportional share."""
        line = await self.haproxy._processes()  # noqa: SLF001
        masters = [int(path.read_text()) for path in (self.directory / "t").glob("*/pid")]
        return {"haproxy": _memory(line.workers[:1]), "ssh": _memory(masters)}


def _client_context(authority: Authority):
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.node_ca)
    context.load_cert_chain(authority.client_pem)
    return context


def _memory(pids: Sequence[int]) -> dict[str, int]:
    found = {"rss": 0, "pss": 0, "private": 0}
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        kB = {key: int(value) for key, value in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
        found["rss"] += kB["Rss"]
        found["pss"] += kB["Pss"]
        found["private"] += kB["Private_Dirty"] + kB["Private_Clean"]
    return found


def _ms(began: float) -> float:
    return (time.perf_counter() - began) * 1000


async def measure(stage: Stage, count: int, adds: int) -> dict:
    began = time.perf_counter()
    await stage.grow(count)
    print(f"{count}: grown in {_ms(began):.0f} ms", file=sys.stderr)
    figures = {"routes": count, "memory": await stage.memory()}
    full = []
    for _ in range(5):
        began = time.perf_counter()
        await stage.routing.sync()
        full.append(_ms(began))
    figures["full_ms"] = median(full)
    added, granted, forwarded = [], [], []
    for _ in range(adds):
        server = await stage.start(Phase.STARTING)
        began = time.perf_counter()
        await stage.forward(server)
        forwarded.append(_ms(began))
        began = time.perf_counter()
        await stage.store.move(server.id, Event.ANSWERED)
        await stage.routing.sync(server.user)
        added.append(_ms(began))
        began = time.perf_counter()
        await stage.let_in(server)
        said = await stage.answer(server)
        assert said == (200, server.id), said
        granted.append(_ms(began))
    for name, values in (("forward", forwarded), ("route", added), ("enter", granted)):
        figures[f"{name}_ms"] = (median(values), quantiles(values, n=100)[98])
    return figures


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS)
    parser.add_argument("--adds", type=int, default=100)
    o = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gwr") as directory:
        stage = Stage(Path(directory), max(o.counts))
        async with stage.built():
            print(await stage.memory())
            for count in o.counts:
                print(json.dumps(await measure(stage, count, o.adds)))


if __name__ == "__main__":
    asyncio.run(main())
