"""What the proxy should hold, what it holds, and the ordered steps from the one to the other. Pure.

The order is what keeps it safe: a route appears after its server and its secret, and goes before them; a
grant goes before the sessions that it let in are ended. At no step is there a route to a server that is not
there, or a route whose server would get another server's token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gateway.address import Address, Tcp, check_address
from gateway.model import SERVER_ID, SERVER_NAME, USER_NAME

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,252})|\[[0-9a-f:.]{2,45}\]", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9_.~+/=-]{16,512}", re.ASCII)
_HASH = re.compile(r"[0-9A-F]{64}", re.ASCII)


#: What a held key leads to. It is no server's name, and nobody is ever granted it: the hub answers.
HUB = "hub"
#: What the proxy itself writes beside a server's id into the map of the ways for bulk: it has asked for one.
WANTED = "wanted"


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
        bulk: Where a second way begins, for what is large; None if there is none.

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
    bulk: Address | None = None

    def __post_init__(self) -> None:
        _require(_HOST, "host", self.host)
        _require(USER_NAME, "user", self.user)
        if self.name:
            _require(SERVER_NAME, "server name", self.name)
        _require(SERVER_ID, "server id", self.server_id)
        for address in self.servers.values():
            check_address(address)
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

    @property
    def servers(self) -> dict[str, Address]:
        """The proxy's servers that it needs, and where each leads: ``ID.G``, and ``ID.Gb`` for bulk."""
        bulk = {f"{self.server}b": self.bulk} if self.bulk is not None else {}
        return {self.server: self.address, **bulk}


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
    default server would. ``kept`` are servers of routes that were: no new request goes to them, and what is
    open there may end by itself.
    """

    routes: tuple[Route, ...] = ()
    grants: tuple[Grant, ...] = ()
    held: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def entries(self, map_: Map) -> dict[str, str]:
        """Return what one of the maps should hold."""
        if map_ is Map.ROUTES:
            return dict.fromkeys(self.held, HUB) | {route.key: route.server for route in self.routes}
        if map_ is Map.GRANTS:
            return {grant.key: str(grant.expires) for grant in self.grants}
        if map_ is Map.BULK:
            return {route.server_id: f"{route.server}b" for route in self.routes if route.bulk is not None}
        return {route.server_id: route.token for route in self.routes}


class Map(StrEnum):
    """The proxy's maps."""

    ROUTES = "routes"
    GRANTS = "grants"
    SECRETS = "secrets"
    BULK = "bulk"
    """Where a start of a server is reached with what is large; `WANTED` where that is yet to be made."""


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
    bulk: Mapping[str, str] = field(default_factory=dict)
    worker: str = ""
    """Which of the proxy's processes holds it: another one may hold something else."""

    def entries(self, map_: Map) -> Mapping[str, str]:
        """Return what one of the maps holds."""
        return {
            Map.ROUTES: self.routes,
            Map.GRANTS: self.grants,
            Map.SECRETS: self.secrets,
            Map.BULK: self.bulk,
        }[map_]


@dataclass(frozen=True, slots=True)
class AddServer:
    """Add a server with weight 0 and enable it."""

    server_id: str
    name: str
    address: Address
    node_tls: bool


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
    wanted = {step.name: step for route in desired.routes for step in additions(route)}
    good = {name for name, step in wanted.items() if _fits(step, actual.servers.get(name))}
    bad = {
        name
        for name, state in actual.servers.items()
        if state.weight or (name in wanted and name not in good)
    }
    surplus = actual.servers.keys() - wanted.keys() - bad - set(desired.kept)
    return (
        *_routes_away(desired, actual, bad),
        *_bulk_away(desired, actual, bad),
        *_grants_away(desired, actual),
        *_servers_away(bad),
        *(step for name, step in wanted.items() if name not in good),
        *(EnableServer(id_of(name), name) for name in sorted(good) if not actual.servers[name].enabled),
        *_entries(Map.SECRETS, desired.entries(Map.SECRETS), actual.secrets),
        *_entries(Map.GRANTS, desired.entries(Map.GRANTS), actual.grants),
        *_entries(Map.BULK, desired.entries(Map.BULK), _kept_bulk(desired, actual, bad)),
        *_entries(Map.ROUTES, desired.entries(Map.ROUTES), _kept_routes(desired, actual, bad)),
        *_servers_away(surplus),
        *_secrets_away(desired, actual),
    )


def additions(route: Route) -> tuple[AddServer, ...]:
    """Return the steps that add the servers that a route needs."""
    return tuple(
        AddServer(route.server_id, name, address, route.node_tls) for name, address in route.servers.items()
    )


def _fits(wanted: AddServer, state: ServerState | None) -> bool:
    if state is None:
        return False
    tcp = wanted.address if isinstance(wanted.address, Tcp) else None
    return (state.weight, state.node_tls, state.tcp) == (0, wanted.node_tls, tcp)


def _added(step: AddServer) -> ServerState:
    return ServerState(0, True, step.node_tls, step.address if isinstance(step.address, Tcp) else None)


def carried_out(actual: Actual, steps: Iterable[Step]) -> Actual:
    """Return what the proxy holds after steps that all succeeded, in their order."""
    servers = dict(actual.servers)
    maps = {map_: dict(actual.entries(map_)) for map_ in Map}
    for step in steps:
        match step:
            case AddServer(name=name):
                servers[name] = _added(step)
            case EnableServer(name=name):
                servers[name] = replace(servers[name], enabled=True)
            case RemoveServer(name=name):
                servers.pop(name, None)
            case AddEntry(map=map_, key=key, value=value) | SetEntry(map=map_, key=key, value=value):
                maps[map_][key] = value
            case DeleteEntry(map=map_, key=key):
                maps[map_].pop(key, None)
            case ShutSessions():
                pass
    return Actual(servers, **{map_.value: entries for map_, entries in maps.items()}, worker=actual.worker)


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


def _kept_bulk(desired: Desired, actual: Actual, bad: set[str]) -> dict[str, str]:
    """Return the ways for bulk that may stay until they are set anew, and the wishes for one."""
    wanted, ids = desired.entries(Map.BULK), {route.server_id for route in desired.routes}

    def sound(key: str, name: str) -> bool:
        return name == WANTED or (wanted.get(key) == name and name in actual.servers and name not in bad)

    return {key: name for key, name in actual.bulk.items() if key in ids and sound(key, name)}


def _bulk_away(desired: Desired, actual: Actual, bad: set[str]) -> Iterator[Step]:
    for key in sorted(actual.bulk.keys() - _kept_bulk(desired, actual, bad).keys()):
        yield DeleteEntry(key, Map.BULK, key)


def _grants_away(desired: Desired, actual: Actual) -> Iterator[Step]:
    gone = sorted(actual.grants.keys() - desired.entries(Map.GRANTS).keys())
    for key in gone:
        yield DeleteEntry(grant_id(key), Map.GRANTS, key)
    revoked = {grant_id(key) for key in gone}
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
    return {Map.ROUTES: id_of(value), Map.GRANTS: grant_id(key)}.get(map_, key)


def grant_id(key: str) -> str:
    """Return the server id in a key of the map of grants."""
    return key.rpartition(".")[2]
