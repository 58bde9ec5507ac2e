"""What the pages need from the rest of the gateway, as narrow protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from gateway.auth import Authenticator
from gateway.discovery import Discovery
from gateway.model import Choices, Server, User
from gateway.origins import Origins
from gateway.renderer import Renderer
from gateway.routing import RouteRow
from gateway.siteconfig import SiteConfig
from gateway.siteview import SiteView
from gateway.store import Code, Session
from gateway.store.orphans import Orphan
from gateway.timeline import Entry


class Sessions(Protocol):
    """Who is logged in; ``gateway.store.SessionStore``. Every hash is the SHA-256 of a secret, in hex."""

    async def login(self, user: User, session_hash: str, expires: datetime) -> None:
        """Remember a login."""
        ...

    async def session(self, session_hash: str) -> Session | None:
        """Return a session that has not expired."""
        ...

    async def person(self, name: str) -> User | None:
        """Return somebody as the directory had them at their last login."""
        ...

    async def knows(self, name: str) -> bool:
        """Return whether somebody of this name has ever been let in."""
        ...

    async def token_user(self, token_hash: str) -> User | None:
        """Return whose API token this is."""
        ...

    async def save_code(self, code_hash: str, code: Code, expires: datetime) -> None:
        """Remember a one-time code."""
        ...

    async def take_code(self, code_hash: str) -> Code | None:
        """Return what a code stands for, the first time."""
        ...

    async def granted(self, cookie_hash: str, server_id: str) -> bool:
        """Return whether the browser with this grant cookie may reach this start of a server."""
        ...


class Timelines(Protocol):
    """What happened to the servers; ``gateway.store.timeline.Timeline``."""

    async def of(self, server_id: str) -> Sequence[Entry]:
        """Return what happened to a start of a server, in order."""
        ...


class Records(Protocol):
    """The servers as the database holds them; ``gateway.store.ServerStore``."""

    @property
    def timeline(self) -> Timelines:
        """What happened to them."""
        ...

    async def latest(self, user: str, name: str) -> Server | None:
        """Return the latest start of a server, ended or not."""
        ...

    async def servers_of(self, user: str) -> Sequence[Server]:
        """Return the latest start of each of a person's servers."""
        ...


class Conductor(Protocol):
    """Starts and stops servers; ``gateway.servers.Servers``."""

    async def start(self, user: User, name: str, choices: Choices) -> Server:
        """Begin a new start of a server. Raises AlreadyRunning."""
        ...

    async def stop(self, user_name: str, name: str) -> Server:
        """Ask for a server's end. Raises NotFound."""
        ...

    async def keep(self, user_name: str, name: str) -> Server:
        """Count an idle server's time anew. Raises NotFound."""
        ...

    async def published(self, server_id: str, proof: str, port: int) -> None:
        """Take the port that a job calls in. Raises Forbidden, CallRefused."""
        ...

    def changes(self, server_id: str) -> AsyncIterator[Server]:
        """Yield a start of a server as it is, then whenever it changes, until it has ended."""
        ...


class Routing(Protocol):
    """Opens and closes the proxy's ways for browsers; ``gateway.routing``."""

    async def give(
        self, cookie_hash: str, session_hash: str, servers: Sequence[Server], expires: datetime
    ) -> None:
        """Let the browser with this grant cookie reach servers; returns when the proxy knows of the first."""
        ...

    async def revoke(self, session_hash: str) -> None:
        """End a session: all that it was given, and its open connections."""
        ...

    async def sync(self) -> None:
        """Compare what the proxy holds with what it should, and make the difference."""
        ...

    def table(self) -> Sequence[RouteRow]:
        """Return the routes."""
        ...

    async def last_used(self) -> Mapping[str, datetime]:
        """Return when a request to each server last began, by its id."""
        ...


class Orphans(Protocol):
    """Jobs that no server answers for; ``gateway.orphans.Orphans``."""

    async def all(self) -> Sequence[Orphan]:
        """Return those that are known, the oldest first."""
        ...

    def cancelled_after(self, orphan: Orphan) -> datetime:
        """Return when an orphan is cancelled, if it is still there."""
        ...


def _no_news(_: str) -> None:
    return None


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Services:
    """What the pages work with.

    ``sites`` gives the site configs by name as they are now, ``discoveries`` what the schedulers say;
    ``session_lifetime`` is counted from the login; ``metrics`` gives a Prometheus exposition, or is None for
    none; ``contact`` is whom people ask; ``instance`` is which gateway this is, as in its jobs' names;
    ``callback_url`` is what the address that a job calls begins with, empty for none; ``views`` are the
    living site configs, ``news`` tells when a cluster's scheduler last answered; ``renderer`` writes the job
    scripts that are shown.
    """

    authenticator: Authenticator
    origins: Origins
    sites: Callable[[], Mapping[str, SiteConfig]]
    sessions: Sessions
    records: Records
    servers: Conductor
    routing: Routing
    clock: Callable[[], datetime] = utc_now
    session_lifetime: timedelta = timedelta(hours=24)
    discoveries: Callable[[], Mapping[str, Discovery]] = dict
    metrics: Callable[[], Awaitable[bytes]] | None = None
    orphans: Orphans | None = None
    views: Mapping[str, SiteView] = field(default_factory=dict)
    news: Callable[[str], datetime | None] = _no_news
    contact: str = ""
    instance: str = "a" * 6
    callback_url: str = ""
    renderer: Renderer = field(default_factory=Renderer)

    def open_url(self, server: Server) -> str:
        """Return where a browser goes first to use a server: the page that its application names."""
        site = self.sites().get(server.cluster)
        application = site.application(server.application) if site else None
        first = application.url if application else "/"
        return self.origins.server_url(server.user, server.name) + first.lstrip("/")
