"""A hub's routing with all that it works with: a database, SSH masters, HAProxy; and servers of many people.

As a script it is the hub alone, a process that can be killed: ``python benchmarks/stage.py PLACE`` (JSON).
"""

from __future__ import annotations

import asyncio
import getpass
import json
import secrets
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a script from anywhere

from benchmarks.processes import ROOT, Processes
from gateway.dataplane.haproxy import HAProxy, HAProxySettings, Listener
from gateway.dataplane.masters import Masters, TunnelSettings
from gateway.dataplane.tunnel import FORWARDS_MAX
from gateway.lifecycle import Phase
from gateway.model import Choices, JobId, Secrets, Server, User
from gateway.origins import Origins
from gateway.pki import Authority, self_signed
from gateway.routes import hash_cookie
from gateway.routing import Routing
from gateway.store import Database, ServerStore, SessionStore, upgrade
from gateway.store.sealed import Seal
from tests.proxy.sshd import Sshd, free_port

DOMAIN = "gw.example.org"
CLUSTER = "bench"
#: The login nodes, which are one.
HOSTS = ("127.0.0.1", "127.0.0.2")
LATER = datetime.now(UTC) + timedelta(days=1)


@dataclass(frozen=True)
class Place:
    """Where everything is; a process that knows it can be the hub there.

    Attributes:
        directory: What stays: the database, keys. Short.
        run: What a reboot may take: HAProxy's files and the masters' sockets. Short, best on a tmpfs.
        port, node: HAProxy's port, and the application's.
        sshd: The login node's port, the same at both of its names.
        masters: How many SSH masters.
        tls: Whether browsers come by TLS.
    """

    directory: str
    run: str
    port: int
    node: int
    sshd: int
    masters: int
    tls: bool

    @property
    def certificate(self) -> Path:
        """The certificate that browsers are shown."""
        return Path(self.directory) / "public.pem"

    def rotate(self) -> None:
        """Give the front another certificate."""
        new = self.certificate.with_suffix(".new")
        new.write_bytes(self_signed([DOMAIN, f"*.{DOMAIN}"], [], timedelta(days=1)))
        new.replace(self.certificate)

    def haproxy(self, authority: Authority) -> HAProxySettings:
        """Return HAProxy's settings."""
        return HAProxySettings(
            directory=Path(self.run) / "haproxy",
            hub_socket=Path(self.run) / "hub.sock",
            listeners=(Listener(f"127.0.0.1:{self.port}", self.certificate if self.tls else None),),
            node_ca=authority.node_ca,
            client_pem=authority.client_pem,
        )

    def tunnel(self) -> TunnelSettings:
        """Return the tunnel's settings."""
        directory = Path(self.directory)
        return TunnelSettings(
            cluster=CLUSTER,
            hosts=HOSTS,
            port=self.sshd,
            user=getpass.getuser(),
            key=directory / "user_key",
            known_hosts=directory / "known_hosts",
            count=self.masters,
            directory=Path(self.run) / "t",
        )


@dataclass
class Hub:
    """What the hub works with.

    Attributes:
        servers: Those that were started here.
        cookies: The grant cookie of each server's person, by the server's id.
    """

    place: Place
    store: ServerStore
    sessions: SessionStore
    tunnel: Masters
    haproxy: HAProxy
    routing: Routing
    servers: list[Server] = field(default_factory=list)
    cookies: dict[str, str] = field(default_factory=dict)

    async def start(self, phase: Phase) -> Server:
        """Write one more server in this phase; its person has logged in."""
        number, now = len(self.servers), datetime.now(UTC)
        server = Server(
            id="".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(10)),
            user=f"u{number}",
            name="",
            cluster=CLUSTER,
            application="lab",
            choices=Choices(CLUSTER, "lab", "short", 5, 1, 500),
            run=secrets.token_hex(8),
            phase=phase,
            wanted=True,
            created=now,
            changed=now,
            job_id=JobId(str(number)),
            host="127.0.0.1",
            port=self.place.node,
            generation=1,
        )
        # As long as a real key and certificate.
        await self.store.create(server, Secrets(secrets.token_urlsafe(32), "key" * 80, "certificate" * 80))
        self.cookies[server.id] = secrets.token_urlsafe(32)
        self.servers.append(server)
        await self.log_in(server)
        return server

    async def log_in(self, server: Server) -> None:
        """Have a server's person log in."""
        await self.sessions.login(User(server.user), self.session(server), LATER)

    def session(self, server: Server) -> str:
        """Return the hash of the session of a server's person."""
        return f"session-{server.id}"

    async def forward(self, server: Server) -> None:
        """Make the way to a server."""
        await self.tunnel.forward(server.id, server.generation, "127.0.0.1", self.place.node)

    async def grow(self, count: int) -> None:
        """Have so many servers, each with a way to it and a browser that may reach it; not yet routed."""
        while len(self.servers) < count:
            server = await self.start(Phase.READY)
            await self.forward(server)
            cookie = hash_cookie(self.cookies[server.id])
            await self.sessions.add_grants(cookie, self.session(server), [server.id], LATER)

    async def let_in(self, server: Server) -> None:
        """Grant a person's browser the server, as the hub does where one comes in."""
        cookie = hash_cookie(self.cookies[server.id])
        await self.routing.give(cookie, self.session(server), [server], LATER)

    async def masters_alive(self) -> None:
        """Return when all the masters are there."""
        while len(list(self.tunnel_directory.glob("*/pid"))) < self.place.masters:
            await self.tunnel.tend()
            await asyncio.sleep(0.05)

    @property
    def tunnel_directory(self) -> Path:
        """Where the masters are."""
        return Path(self.place.run) / "t"


@asynccontextmanager
async def hub(place: Place, proxy: type[HAProxy] = HAProxy) -> AsyncIterator[Hub]:
    """Be the hub: adopt what is there. HAProxy and the masters stay."""
    directory = Path(place.directory)
    authority = Authority.open(directory / "ca")
    url = f"sqlite+aiosqlite:///{directory}/gateway.sqlite"
    await upgrade(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.node_ca)
    context.load_cert_chain(authority.client_pem)
    async with Database(url) as database:
        store = ServerStore(database, Seal.open(directory / "secret.key"))
        sessions = SessionStore(database)
        tunnel = Masters(place.tunnel())
        haproxy = proxy(place.haproxy(authority))
        origins = Origins.of(f"https://{DOMAIN}/")
        routing = Routing(store, sessions, haproxy, {CLUSTER: tunnel}, origins, {CLUSTER: context})
        yield Hub(place, store, sessions, tunnel, haproxy, routing)


@contextmanager
def placed(directory: Path, run: Path, routes: int, *, tls: bool) -> Iterator[Place]:
    """Have a login node and an application that is every server; they have ended afterwards.

    Args:
        directory: An empty one.
        run: Another one, with a short path.
        routes: The most that there will be.
        tls: Whether browsers come by TLS.
    """
    Authority.open(directory / "ca")
    with Sshd(directory) as sshd, Processes() as processes:
        sshd.listen_too(HOSTS[1])
        masters = max(2, -(-routes // FORWARDS_MAX))
        place = Place(str(directory), str(run), free_port(), free_port(), sshd.port, masters, tls)
        place.rotate()
        script = str(ROOT / "benchmarks/answering.py")
        processes.start(sys.executable, script, str(place.node), str(directory / "ca"), port=place.node)
        yield place


async def serve(place: Place) -> None:
    """Be the hub until the process is killed; say when all is routed.

    A way that is to be left gets a successor, as the conductor makes one.
    """
    async with hub(place) as here:
        tasks: set[asyncio.Task[None]] = set()

        async def move(server_id: str) -> None:
            server = await here.store.get(server_id)
            if here.tunnel.draining(server_id, server.generation):
                await here.tunnel.forward(server_id, server.generation + 1, "127.0.0.1", place.node)
                await here.store.note(server_id, generation=server.generation + 1)
                await here.routing.sync(server.user)

        def lost(server_id: str) -> None:
            tasks.add(task := asyncio.create_task(move(server_id)))
            task.add_done_callback(tasks.discard)

        here.routing.on_lost(lost)
        async with here.routing:
            print("ready", flush=True)
            await asyncio.Event().wait()


def words(place: Place) -> list[str]:
    """Return the command that is the hub as a process of its own."""
    return [sys.executable, str(Path(__file__).resolve()), json.dumps(asdict(place))]


if __name__ == "__main__":
    asyncio.run(serve(Place(**json.loads(sys.argv[1]))))
