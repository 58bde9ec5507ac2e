"""The pages' surroundings for tests, kept in memory, and a browser as strict with cookies as a real one."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders

from gateway.auth import acceptable_name
from gateway.discovery import Discovery
from gateway.errors import AlreadyRunning, GatewayError, LoginRefused, NotFound
from gateway.lifecycle import Phase
from gateway.model import Choices, EndReason, JobId, Server, User
from gateway.origins import Origins
from gateway.routing import RouteRow
from gateway.siteconfig import SiteConfig, parse_site_config
from gateway.store import Code, Session
from gateway.timeline import Entry
from gateway.web import Services

SITE = """\
version: 1
name: {name}
title: {title}
scheduler: slurm
login:
  hosts: [login.example.org]
  user: svc
  key: /etc/gateway/key
  known_hosts: /etc/gateway/known_hosts
  act_as: sudo
partitions:
  - {{name: short, title: Short jobs, max_walltime: 10m, max_cores: 2, max_memory: 2G, default: true}}
  - {{name: long, max_walltime: 2d, max_cores: 16, max_memory: 64G}}
  - {{name: gpu, max_walltime: 8h, max_cores: 8, max_memory: 32G, gpus: {{a100: 2}}}}
applications:
  - {{name: jupyterlab, title: JupyterLab, command: [jupyter, lab]}}
"""

CHOICES = Choices("lab", "jupyterlab", "short", walltime=5, cores=1, memory=512)


def site(name: str = "lab", title: str = "The lab") -> SiteConfig:
    return parse_site_config(SITE.format(name=name, title=title), f"{name}.yaml")


def server(user: str = "alice", name: str = "", phase: Phase = Phase.READY, **changes: Any) -> Server:
    now = datetime.now(UTC)
    made = Server(
        id="a" * 10,
        user=user,
        name=name,
        cluster="lab",
        application="jupyterlab",
        choices=CHOICES,
        run="0" * 16,
        phase=phase,
        wanted=True,
        created=now,
        changed=now,
        job_id=JobId("4242"),
    )
    return replace(made, **changes)


class FakeAuthenticator:
    """Everybody's password is their name with ``pw``; carol administers."""

    def __init__(self) -> None:
        self.error: GatewayError | None = None
        self.asked = 0
        self.groups: frozenset[str] = frozenset()

    async def authenticate(self, name: str, password: str) -> User:
        self.asked += 1
        if self.error:
            raise self.error
        canonical = acceptable_name(name, password)
        if password != f"{canonical}pw":
            raise LoginRefused("wrong password")
        return User(canonical, admin=canonical == "carol", groups=self.groups)


class FakeSessions:
    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.codes: dict[str, tuple[Code, datetime]] = {}
        self.tokens: dict[str, User] = {}
        self.grants: dict[tuple[str, str], tuple[str, datetime]] = {}

    async def login(self, user: User, session_hash: str, expires: datetime) -> None:
        self.sessions[session_hash] = Session(session_hash, user, expires)

    async def session(self, session_hash: str) -> Session | None:
        return self.sessions.get(session_hash)

    async def end_session(self, session_hash: str) -> None:
        self.sessions.pop(session_hash, None)

    async def person(self, name: str) -> User | None:
        return next((s.user for s in self.sessions.values() if s.user.name == name), None)

    async def knows(self, name: str) -> bool:
        return name in {session.user.name for session in self.sessions.values()}

    async def token_user(self, token_hash: str) -> User | None:
        return self.tokens.get(token_hash)

    async def save_code(self, code_hash: str, code: Code, expires: datetime) -> None:
        self.codes[code_hash] = (code, expires)

    async def take_code(self, code_hash: str) -> Code | None:
        code, expires = self.codes.pop(code_hash, (None, datetime.max.replace(tzinfo=UTC)))
        return code if expires > datetime.now(UTC) else None

    async def granted(self, cookie_hash: str, server_id: str) -> bool:
        return (cookie_hash, server_id) in self.grants


class FakeTimeline:
    def __init__(self) -> None:
        self.entries: dict[str, list[Entry]] = {}

    async def of(self, server_id: str) -> Sequence[Entry]:
        return self.entries.get(server_id, [])


class FakeServers:
    """Both the records and the conductor."""

    def __init__(self) -> None:
        self.timeline = FakeTimeline()
        self.now: dict[tuple[str, str], Server] = {}
        self.started: list[tuple[User, str, Choices]] = []
        self.called: list[tuple[str, str, int]] = []
        self.error: GatewayError | None = None
        self._watchers: dict[str, list[asyncio.Queue[Server]]] = defaultdict(list)

    def put(self, changed: Server) -> Server:
        self.now[changed.user, changed.name] = changed
        for queue in self._watchers[changed.id]:
            queue.put_nowait(changed)
        return changed

    async def latest(self, user: str, name: str) -> Server | None:
        return self.now.get((user, name))

    async def servers_of(self, user: str) -> Sequence[Server]:
        return [each for each in self.now.values() if each.user == user]

    async def start(self, user: User, name: str, choices: Choices) -> Server:
        if self.error:
            raise self.error
        present = self.now.get((user.name, name))
        if present and present.phase is not Phase.ENDED:
            raise AlreadyRunning
        self.started.append((user, name, choices))
        new_id = "abcdefghijklmnopqrstuvwxyz"[-len(self.started)] * 10
        return self.put(server(user.name, name, Phase.INTENT, id=new_id, choices=choices, job_id=None))

    async def stop(self, user_name: str, name: str) -> Server:
        present = self.now.get((user_name, name))
        if present is None or present.phase is Phase.ENDED:
            raise NotFound
        return self.put(replace(present, phase=Phase.ENDED, wanted=False, reason=EndReason.STOPPED))

    async def keep(self, user_name: str, name: str) -> Server:
        present = self.now.get((user_name, name))
        if present is None or present.phase is Phase.ENDED:
            raise NotFound
        return self.put(replace(present, idle_end=None))

    async def published(self, server_id: str, proof: str, port: int) -> None:
        self.called.append((server_id, proof, port))

    async def changes(self, server_id: str) -> AsyncIterator[Server]:
        queue: asyncio.Queue[Server] = asyncio.Queue()
        self._watchers[server_id].append(queue)
        latest = next(each for each in self.now.values() if each.id == server_id)
        while True:
            yield latest
            if latest.phase is Phase.ENDED:
                return
            latest = await queue.get()


class FakeRouting:
    def __init__(self, sessions: FakeSessions) -> None:
        self.sessions = sessions
        self.error: GatewayError | None = None
        self.synced = 0
        self.rows: list[RouteRow] = []
        self.used: dict[str, datetime] = {}

    async def give(
        self, cookie_hash: str, session_hash: str, servers: Sequence[Server], expires: datetime
    ) -> None:
        if self.error:
            raise self.error
        for server in servers:
            self.grants[cookie_hash, server.id] = (session_hash, expires)

    @property
    def grants(self) -> dict[tuple[str, str], tuple[str, datetime]]:
        return self.sessions.grants

    async def sync(self) -> None:
        self.synced += 1

    def table(self) -> Sequence[RouteRow]:
        return self.rows

    async def last_used(self) -> Mapping[str, datetime]:
        return self.used

    async def revoke(self, session_hash: str) -> None:
        await self.sessions.end_session(session_hash)
        if self.error:
            raise self.error
        self.sessions.grants = {key: value for key, value in self.grants.items() if value[0] != session_hash}


async def exposition() -> bytes:
    return b"gateway_up 1\n"


class Clock:
    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class World:
    """All the fakes of one gateway."""

    origins: Origins
    authenticator: FakeAuthenticator
    sessions: FakeSessions
    servers: FakeServers
    routing: FakeRouting
    clock: Clock
    sites: dict[str, SiteConfig]
    discoveries: dict[str, Discovery]

    @classmethod
    def new(cls, origins: Origins) -> World:
        sessions = FakeSessions()
        return cls(
            origins,
            FakeAuthenticator(),
            sessions,
            FakeServers(),
            FakeRouting(sessions),
            Clock(),
            {"lab": site()},
            {},
        )

    def services(self) -> Services:
        return Services(
            self.authenticator,
            self.origins,
            lambda: self.sites,
            self.sessions,
            self.servers,
            self.servers,
            self.routing,
            self.clock,
            timedelta(hours=8),
            lambda: self.discoveries,
            exposition,
        )


class Browser:
    """Keeps cookies by host, sends what browsers send, refuses a ``__Host-`` cookie that breaks its rules.

    Args:
        port: Where the hub listens; every host is there.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.jar: dict[str, dict[str, str]] = defaultdict(dict)
        self.visited: list[str] = []

    async def fetch(
        self, url: str, method: str = "GET", body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> HTTPResponse:
        """Send one request; a redirect is not followed."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        sent = HTTPHeaders({"Host": parts.netloc, "X-Forwarded-Proto": "https"})
        if cookies := self.jar[host]:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        sent.update({"Accept": "text/html", "Sec-Fetch-Mode": "navigate", **(headers or {})})
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = HTTPRequest(
            f"http://127.0.0.1:{self._port}{path}",
            method,
            sent,
            body,
            follow_redirects=False,
            allow_nonstandard_methods=True,
        )
        response = await AsyncHTTPClient().fetch(request, raise_error=False)
        for line in response.headers.get_list("Set-Cookie"):
            self._keep(host, line)
        self.visited.append(url)
        return response

    async def open(self, url: str, **more: Any) -> tuple[str, HTTPResponse]:
        """Go to an address, as a person does: redirects are followed. Returns where that led."""
        response = await self.fetch(url, **more)
        for _ in range(10):
            if response.code not in (301, 302, 303):
                return url, response
            url = urljoin(url, response.headers["Location"])
            response = await self.fetch(url)
        raise AssertionError(f"goes round in circles: {self.visited[-4:]}")

    async def submit(self, page: HTTPResponse, url: str, **values: str) -> tuple[str, HTTPResponse]:
        """Send a form that is on ``page`` to ``url``, with the token from the page."""
        origin = "https://" + urlsplit(url).netloc
        body = urlencode({"_xsrf": token(page), **values})
        return await self.open(
            url, method="POST", body=body, headers={"Origin": origin, "Sec-Fetch-Site": "same-origin"}
        )

    async def log_in(self, origins: Origins, name: str = "alice", **more: str) -> tuple[str, HTTPResponse]:
        page = await self.fetch(origins.hub_url("/hub/login"))
        return await self.submit(
            page, origins.hub_url("/hub/login"), username=name, password=f"{name}pw", **more
        )

    def _keep(self, host: str, line: str) -> None:
        for name, morsel in SimpleCookie(line).items():
            rules = morsel["secure"] and morsel["httponly"] and morsel["path"] == "/" and not morsel["domain"]
            assert name.startswith("__Host-"), line
            assert rules, line
            assert morsel["samesite"] in ("Lax", "Strict"), line
            if morsel["expires"]:  # we set it only to the past
                self.jar[host].pop(name, None)
            else:
                self.jar[host][name] = morsel.value


def token(page: HTTPResponse) -> str:
    """Return the form token on a page."""
    found = re.search(r'name="_xsrf" value="([^"]+)"', page.body.decode())
    assert found, page.body.decode()
    return found[1]
