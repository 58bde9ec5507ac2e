"""What the proxy should hold, what it holds, and the ordered steps from the one to the other. Pure.

The order is what keeps it safe: a route appears after its server and its secret, and goes before them; a
grant goes before the sessions that it let in are ended. At no step is there a route to a server that is not
there, or a route whose server would get another server's token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.address import Address, Tcp, check_address
from gateway.model import SERVER_ID, SERVER_NAME, USER_NAME

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,252})|\[[0-9a-f:.]{2,45}\]", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9_.~+/=-]{16,512}", re.ASCII)
_HASH = re.compile(r"[0-9A-F]{64}", re.ASCII)


#: What a held key leads to. It is no server's name, and nobody is ever granted it: the hub answers.
HUB = "hub"


def hash_cookie(value: str) -> str:
    """Return what the proxy knows a cookie by: its SHA-256 as HAProxy's ``hex`` prints it, in upper case."""
    return hashlib.sha256(value.encode()).hexdigest().upper()


def _require(pattern: re.Pattern[str], what: str, value: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"a route's {what} cannot be {value!r}" if what != "token" else "malformed token")


def route_key(host: str, user: str, name: str) -> str:
    """Return under which key the way to a server is looked up; ``name`` is "" for the default server."""
    return f"{host}/{user}/{name}"


@dataclass(frozen=True, slots=True)
class Route:
    """The way from a browser's address to one start of a server.

    Args:
        host: What the browser calls us: lower case, without port.
        user: The owner.
        name: The server's name, "" for the default one.
        server_id: The id of this start.
        generation: Which way to this start.
        address: Where this way begins.
        node_tls: Whether the application is reached with TLS and its certificate is checked.
        token: What the application wants to see in ``Authorization``.

    Raises:
        ValueError: A value would not be safe in a command or a configuration.
    """

    host: str
    user: str
    name: str
    server_id: str
    generation: int
    address: Address
    node_tls: bool
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        _require(_HOST, "host", self.host)
        _require(USER_NAME, "user", self.user)
        if self.name:
            _require(SERVER_NAME, "server name", self.name)
        _require(SERVER_ID, "server id", self.server_id)
        check_address(self.address)
        _require(_TOKEN, "token", self.token)
        if not 0 <= self.generation < 10**9:
            raise ValueError(f"a route's generation cannot be {self.generation}")

    @property
    def key(self) -> str:
        """The key in the map of routes."""
        return route_key(self.host, self.user, self.name)

    @property
    def server(self) -> str:
        """The name of the proxy's server, ``ID.G``."""
        return f"{self.server_id}.{self.generation}"


@dataclass(frozen=True, slots=True)
class Grant:
    """A browser's right to use one start of a server.

    Args:
        cookie_hash: SHA-256 of the grant cookie in hexadecimal, of either case.
        server_id: The start that it is for.
        expires: Unix time in seconds.

    Raises:
        ValueError: A value is not what it should be.
    """

    cookie_hash: str
    server_id: str
    expires: int

    def __post_init__(self) -> None:
        if not _HASH.fullmatch(self.cookie_hash.upper()):
            raise ValueError("a grant's cookie hash is 64 hexadecimal digits")
        _require(SERVER_ID, "server id", self.server_id)
        if not 0 <= self.expires < 2**40:
            raise ValueError(f"a grant cannot expire at {self.expires}")

    @property
    def key(self) -> str:
        """The key in the map of grants."""
        return f"{self.cookie_hash.upper()}.{self.server_id}"


@dataclass(frozen=True, slots=True)
class Desired:
    """What the proxy should hold. Of two routes with one key the later counts.

    ``held`` are keys of servers that are not running: the hub answers there, where else the same person's
    default server would.
    """

    routes: tuple[Route, ...] = ()
    grants: tuple[Grant, ...] = ()
    held: tuple[str, ...] = ()

    def entries(self, map_: Map) -> dict[str, str]:
        """Return what one of the maps should hold."""
        if map_ is Map.ROUTES:
            return dict.fromkeys(self.held, HUB) | {route.key: route.server for route in self.routes}
        if map_ is Map.GRANTS:
            return {grant.key: str(grant.expires) for grant in self.grants}
        return {route.server_id: route.token for route in self.routes}


class Map(StrEnum):
    """The proxy's maps."""

    ROUTES = "routes"
    GRANTS = "grants"
    SECRETS = "secrets"


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server as the proxy has it. ``weight`` is 0 for all of ours; ``enabled`` is False in maintenance.

    ``tcp`` is where it leads to; None if that is a Unix socket: HAProxy does not say which.
    """

    weight: int
    enabled: bool
    node_tls: bool
    tcp: Tcp | None = None


@dataclass(frozen=True, slots=True)
class Actual:
    """What the proxy holds. A key that is in a map with several values has the value ``""``."""

    servers: Mapping[str, ServerState] = field(default_factory=dict)
    routes: Mapping[str, str] = field(default_factory=dict)
    grants: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class AddServer:
    """Add a route's server with weight 0 and enable it."""

    server_id: str
    route: Route


@dataclass(frozen=True, slots=True)
class EnableServer:
    """Take a server out of maintenance."""

    server_id: str
    name: str


@dataclass(frozen=True, slots=True)
class RemoveServer:
    """Put a server into maintenance and delete it."""

    server_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ShutSessions:
    """End what is open to a server, WebSockets and downloads included, in every worker."""

    server_id: str
    name: str


@dataclass(frozen=True, slots=True)
class AddEntry:
    """Add an entry to a map that does not have its key."""

    server_id: str
    map: Map
    key: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SetEntry:
    """Change the value of a key that a map has."""

    server_id: str
    map: Map
    key: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeleteEntry:
    """Take a key, and every entry with it, out of a map."""

    server_id: str
    map: Map
    key: str


Step = AddServer | EnableServer | RemoveServer | ShutSessions | AddEntry | SetEntry | DeleteEntry
"""One thing to do. When one fails, the later ones with the same ``server_id`` must not be done."""


def id_of(server: str) -> str:
    """Return the server id in a proxy server's name ``ID.G``."""
    return server.partition(".")[0]


def refused(actual: Actual) -> tuple[str, ...]:
    """Return the servers that have a weight, which none of ours has: requests could fall through to them.

    Source: with ``use-server`` naming a missing server, HAProxy 2.6 and 2.8 balance over those with a weight.
    """
    return tuple(sorted(name for name, state in actual.servers.items() if state.weight != 0))


def plan(desired: Desired, actual: Actual) -> tuple[Step, ...]:
    """Return the steps, in their order, that make the proxy hold what it should and nothing else."""
    wanted = {route.server: route for route in desired.routes}
    good = {name for name, route in wanted.items() if _fits(route, actual.servers.get(name))}
    bad = {
        name
        for name, state in actual.servers.items()
        if state.weight or (name in wanted and name not in good)
    }
    surplus = actual.servers.keys() - wanted.keys() - bad
    return (
        *_routes_away(desired, actual, bad),
        *_grants_away(desired, actual),
        *_servers_away(bad),
        *(AddServer(route.server_id, route) for name, route in wanted.items() if name not in good),
        *(EnableServer(id_of(name), name) for name in sorted(good) if not actual.servers[name].enabled),
        *_entries(Map.SECRETS, desired.entries(Map.SECRETS), actual.secrets),
        *_entries(Map.GRANTS, desired.entries(Map.GRANTS), actual.grants),
        *_entries(Map.ROUTES, desired.entries(Map.ROUTES), _kept_routes(desired, actual, bad)),
        *_servers_away(surplus),
        *_secrets_away(desired, actual),
    )


def _fits(route: Route, state: ServerState | None) -> bool:
    tcp = route.address if isinstance(route.address, Tcp) else None
    return state == ServerState(0, state.enabled, route.node_tls, tcp) if state else False


def _kept_routes(desired: Desired, actual: Actual, bad: set[str]) -> dict[str, str]:
    """Return the routes that may stay until they are set anew: wanted keys, sound servers, right secrets."""
    keys, secrets = desired.entries(Map.ROUTES), desired.entries(Map.SECRETS)

    def sound(name: str) -> bool:
        secret = actual.secrets.get(id_of(name))
        is_ours = bool(secret) and secrets.get(id_of(name), secret) == secret
        return name == HUB or (name in actual.servers and name not in bad and is_ours)

    return {key: name for key, name in actual.routes.items() if key in keys and sound(name)}


def _routes_away(desired: Desired, actual: Actual, bad: set[str]) -> Iterator[Step]:
    kept = _kept_routes(desired, actual, bad)
    for key in sorted(actual.routes.keys() - kept.keys()):
        yield DeleteEntry(id_of(actual.routes[key]), Map.ROUTES, key)


def _grants_away(desired: Desired, actual: Actual) -> Iterator[Step]:
    gone = sorted(actual.grants.keys() - desired.entries(Map.GRANTS).keys())
    for key in gone:
        yield DeleteEntry(_grant_id(key), Map.GRANTS, key)
    revoked = {_grant_id(key) for key in gone}
    for name in sorted(actual.servers):
        if id_of(name) in revoked:
            yield ShutSessions(id_of(name), name)


def _servers_away(names: Iterable[str]) -> Iterator[Step]:
    for name in sorted(names):
        yield ShutSessions(id_of(name), name)
        yield RemoveServer(id_of(name), name)


def _secrets_away(desired: Desired, actual: Actual) -> Iterator[Step]:
    for key in sorted(actual.secrets.keys() - desired.entries(Map.SECRETS).keys()):
        yield DeleteEntry(key, Map.SECRETS, key)


def _entries(map_: Map, wanted: Mapping[str, str], there: Mapping[str, str]) -> Iterator[Step]:
    for key, value in wanted.items():
        if key not in there:
            yield AddEntry(_entry_id(map_, key, value), map_, key, value)
        elif there[key] != value:
            yield SetEntry(_entry_id(map_, key, value), map_, key, value)


def _entry_id(map_: Map, key: str, value: str) -> str:
    return {Map.ROUTES: id_of(value), Map.GRANTS: _grant_id(key), Map.SECRETS: key}[map_]


def _grant_id(key: str) -> str:
    return key.rpartition(".")[2]
