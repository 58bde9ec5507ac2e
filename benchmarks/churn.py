"""What people notice when a part of the gateway ends or changes: cut WebSockets, failed requests, how long.

A hundred people each have a WebSocket open to their own server, send something every half second and ask
for a page as often. Run ``python benchmarks/churn.py [--clients N] [--seconds S] [--json]``; README.rst says
more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a script from anywhere

from benchmarks.routes import SHARED_MEMORY, versions
from benchmarks.stage import DOMAIN, HOSTS, Hub, Place, hub, placed, words
from benchmarks.websocket import KEY
from gateway.dataplane import drain
from gateway.dataplane.runtime import Processes, ask_master
from gateway.model import Server
from gateway.origins import ROUTE_COOKIE

#: Seconds between two things that a client does.
PAUSE = 0.5
#: Where no socket may be dropped and no request may fail.
UNNOTICED = ("hub killed", "haproxy reloaded", "certificate rotated")


@dataclass
class Client:
    """A person with a browser: one WebSocket, and pages over new connections."""

    port: int
    server: Server
    cookie: str
    tls: ssl.SSLContext
    drops: list[float] = field(default_factory=list)
    failures: list[float] = field(default_factory=list)
    waited: float = 0.0
    wrong: list[str] = field(default_factory=list)
    shown: set[bytes] = field(default_factory=set)

    async def keep_socket(self) -> None:
        """Keep a WebSocket open and use it; note when it is dropped, and open it anew."""
        while True:
            opened = False
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with self._socket() as (reader, writer):
                    opened = True
                    while True:
                        said = os.urandom(8)
                        writer.write(said)
                        async with asyncio.timeout(10):
                            if await reader.readexactly(8) != said:
                                self.wrong.append(f"{self.server.id} did not echo")
                        await asyncio.sleep(PAUSE)
            if opened:
                self.drops.append(time.monotonic())
            await asyncio.sleep(0.2)

    async def keep_asking(self) -> None:
        """Ask for a page again and again; note when it fails, and for how long it goes on so."""
        good = time.monotonic()
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(10):
                    status, who = await self._ask()
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                status, who = 0, ""
            if status == 200:
                if who != self.server.id:
                    self.wrong.append(f"{who} answered for {self.server.id}")
                if self.failures and self.failures[-1] > good:
                    self.waited = max(self.waited, time.monotonic() - good)
                good = time.monotonic()
            else:
                self.failures.append(began)
            await asyncio.sleep(PAUSE if status == 200 else 0.1)

    @asynccontextmanager
    async def _socket(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        upgrade = (
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {KEY}",
        )
        async with self._sent("api/ws", *upgrade) as (reader, writer):
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 101 " not in head.splitlines()[0]:
                raise ConnectionRefusedError(head.splitlines()[0])
            if (who := (await reader.readexactly(10)).decode()) != self.server.id:
                self.wrong.append(f"{who} has the WebSocket of {self.server.id}")
            yield reader, writer

    async def _ask(self) -> tuple[int, str]:
        async with self._sent("api", "Connection: close") as (reader, writer):
            connection = writer.get_extra_info("ssl_object")
            self.shown.add(connection.getpeercert(binary_form=True) or b"")
            said = await reader.read(-1)
        if not said:
            raise ConnectionResetError
        return int(said.split()[1]), said.rpartition(b"\r\n\r\n")[2].decode(errors="replace")

    @asynccontextmanager
    async def _sent(
        self, path: str, *headers: str
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        host = f"{self.server.user}.{DOMAIN}"
        lines = (
            f"GET /user/{self.server.user}/{path} HTTP/1.1",
            f"Host: {host}",
            f"Origin: https://{host}",
            f"Cookie: {ROUTE_COOKIE}={self.cookie}",
            *headers,
            "\r\n",
        )
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self.tls, server_hostname=host
            )
        try:
            writer.write("\r\n".join(lines).encode())
            yield reader, writer
        finally:
            writer.transport.abort()


class HubProcess:
    """The hub, as a process."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until all is routed."""
        self._process = await asyncio.create_subprocess_exec(
            *words(self._place), stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout
        async with asyncio.timeout(60):
            if (await self._process.stdout.readline()) != b"ready\n":
                raise SystemExit("the hub did not start")

    async def kill(self) -> None:
        """Kill it; what it has started stays."""
        if self._process and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Churn:
    """What happens to the parts."""

    def __init__(self, place: Place, here: Hub, process: HubProcess) -> None:
        self._place = place
        self._here = here
        self._process = process

    @property
    def happenings(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What there is, in order."""
        return {
            "nothing": self._nothing,
            "hub killed": self._hub,
            "haproxy reloaded": self._here.haproxy.reload,
            "certificate rotated": self._certificate,
            "master killed": self._master,
            "login node drained": self._drain,
            "haproxy killed": self._haproxy,
        }

    async def _nothing(self) -> None:
        pass

    async def _hub(self) -> None:
        await self._process.kill()
        await asyncio.sleep(2)
        await self._process.start()

    async def _certificate(self) -> None:
        self._place.rotate()

    async def _master(self) -> None:
        pid = sorted(self._here.tunnel_directory.glob("[0-9]/pid"))[0]
        os.kill(int(pid.read_text()), signal.SIGKILL)

    async def _drain(self) -> None:
        drain.mark(self._here.tunnel_directory, HOSTS[0])

    async def _haproxy(self) -> None:
        path = self._here.haproxy.settings.sockets / "master.sock"
        there = Processes(await ask_master(path, 5, "show", "proc"))
        for pid in (there.master, *there.workers):
            os.kill(pid or 0, signal.SIGKILL)


@dataclass(frozen=True)
class Noticed:
    """What the clients noticed of one happening.

    Attributes:
        dropped: WebSockets that were cut.
        failed: Requests that got no answer, or not the server's.
        seconds: For how long the worst off got none.
        certificates: How many different ones the front showed.
    """

    what: str
    dropped: int
    failed: int
    seconds: float
    certificates: int


async def watch(
    what: str, happen: Callable[[], Awaitable[None]], clients: Sequence[Client], seconds: float
) -> Noticed:
    """Let something happen and return what the clients notice, until so many seconds after it."""
    for client in clients:
        client.waited = 0.0
        client.shown.clear()
    began = time.monotonic()
    await happen()
    await asyncio.sleep(seconds)
    drops = sum(at >= began for client in clients for at in client.drops)
    failures = sum(at >= began for client in clients for at in client.failures)
    if wrong := [line for client in clients for line in client.wrong]:
        raise SystemExit(f"{what}: {wrong[0]}")
    shown = {certificate for client in clients for certificate in client.shown}
    return Noticed(what, drops, failures, max(client.waited for client in clients), len(shown))


async def run(count: int, seconds: float) -> list[Noticed]:
    """Return what so many clients notice of each happening."""
    tmpfs = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    async with AsyncExitStack() as stack:
        directory, run_dir = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gw", dir=place)))
            for place in (None, tmpfs)
        )
        place = stack.enter_context(placed(directory, run_dir, count, tls=True))
        here = await stack.enter_async_context(hub(place))
        stack.push_async_callback(here.tunnel.stop)
        stack.push_async_callback(here.haproxy.stop)
        await here.masters_alive()
        await here.grow(count)
        process = HubProcess(place)
        stack.push_async_callback(process.kill)
        await process.start()
        clients = [Client(place.port, server, here.cookies[server.id], tls) for server in here.servers]
        tasks = [asyncio.create_task(c.keep_socket()) for c in clients]
        tasks += [asyncio.create_task(c.keep_asking()) for c in clients]
        await asyncio.sleep(3)
        noticed = []
        try:
            for what, happen in Churn(place, here, process).happenings.items():
                print(f"{what} …", file=sys.stderr)
                noticed.append(await watch(what, happen, clients, seconds))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return noticed


def table(noticed: Iterable[Noticed]) -> str:
    """Return the figures for people."""
    titles = ("", "dropped", "failed", "seconds", "certificates")
    lines = [f"{titles[0]:<22}" + "".join(f"{title:>14}" for title in titles[1:])]
    lines += [
        f"{row.what:<22}{row.dropped:>14}{row.failed:>14}{row.seconds:>14.1f}{row.certificates:>14}"
        for row in noticed
    ]
    return "\n".join(lines)


def missed(noticed: Iterable[Noticed]) -> list[str]:
    """Return which goals were not reached."""
    found = [
        f"{row.what}: {row.dropped} WebSockets dropped, {row.failed} requests failed"
        for row in noticed
        if row.what in UNNOTICED and (row.dropped or row.failed)
    ]
    rotated = [row for row in noticed if row.what == "certificate rotated" and row.certificates < 2]
    return found + ["the new certificate was not shown" for _ in rotated]


def main() -> None:
    """Measure and print; exit with 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--clients", type=int, default=100, help="people, each with a server (100)")
    parser.add_argument("--seconds", type=float, default=12.0, help="to look on after each happening (12)")
    options = parser.parse_args()
    noticed = asyncio.run(run(options.clients, options.seconds))
    if options.json:
        rows = {row.what: [row.dropped, row.failed, row.seconds] for row in noticed}
        print(json.dumps({"versions": versions(), "dropped, failed, seconds": rows}, indent=2))
    else:
        print(", ".join(f"{program} {version}" for program, version in versions().items()) + "\n")
        print(table(noticed))
    if found := missed(noticed):
        sys.exit("missed: " + "; ".join(found))


if __name__ == "__main__":
    main()
