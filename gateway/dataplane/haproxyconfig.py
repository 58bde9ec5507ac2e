"""HAProxy's configuration: the settings, the files they make, and the words of one server."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from gateway.address import Address, address_word, parse_address
from gateway.dataplane import accesslog, pages
from gateway.dataplane.accesslog import log_words
from gateway.dataplane.certificates import Certificate
from gateway.dataplane.front import Front, is_loopback
from gateway.dataplane.limits import Limits
from gateway.errors import ConfigError
from gateway.origins import ROUTE_COOKIE
from gateway.pki import server_name
from gateway.routes import Route, id_of
from gateway.urls import check_base

_WORD = re.compile(r"[A-Za-z0-9_./:@*()\[\]+-]+", re.ASCII)
_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\*|\[[0-9A-Fa-f:.]+\])?:\d{1,5}|unix@/[A-Za-z0-9_./-]+", re.ASCII)
_HOST = re.compile(r"[a-z0-9.-]+(?::\d{1,5})?", re.ASCII)
_SERVER_LINE = re.compile(
    r"^ {4}server (?P<name>[a-z2-7]{10}\.\d{1,9}) (?P<address>unix@/[A-Za-z0-9_./-]+|[0-9a-f.:\[\]]+) "
    r"weight 0 pool-max-conn 64 pool-purge-delay 2s maxconn \d+(?P<tls> ssl )?",
    re.ASCII | re.MULTILINE,
)
_UNIX_PATH_BYTES = 107
_MOST_CONNECTIONS = 50_000
#: One does 60,000 requests a second, and each costs memory in every server.
_MOST_THREADS = 4
#: Bytes in the body of a request to the hub: its own limit too.
_HUB_BODY = 64 * 1024

#: How the names of the users' backends begin. HAProxy walks a backend's whole list of servers for each
#: request (``use-server`` of 2.6; 90 µs with 5,000 of them): they are spread by their ids' last character.
BACKENDS = "users-"
_SHARDS = "abcdefghijklmnopqrstuvwxyz234567"
#: Every server has weight 0: where the one that is named is missing or in maintenance HAProxy balances over
#: those with a weight (seen on 2.6 and 2.8), and with none it answers 503.
_USE = """\
    use-server %[var(txn.bulk)] if { var(txn.bulk) -m found }
    use-server %[var(txn.route)] if TRUE
"""


@dataclass(frozen=True, slots=True)
class Listener:
    """Where HAProxy listens.

    Args:
        address: ``:443``, ``192.0.2.1:443``, ``[2001:db8::1]:443`` or ``unix@/path``; ``[::]:443`` takes
            IPv4 too, unless another listener has this port there.
        certificate: Certificate chain and key in one PEM file; None for plain HTTP (benchmarks, or behind
            something that terminates TLS).
    """

    address: str
    certificate: Path | None = None


@dataclass(frozen=True, slots=True)
class HAProxySettings:
    """What HAProxy is told once.

    Args:
        directory: HAProxy's own directory (made with mode 0700): a short absolute path, best on a tmpfs.
        hub_socket: The hub's Unix socket.
        listeners: Where browsers come in.
        node_ca: The CA whose signature the applications' certificates bear; None if no site uses TLS there.
        client_pem: The gateway's client certificate and key; None if no site uses TLS there.
        scheme: What browsers see before the host, also where something else terminates TLS.
        program: HAProxy's name or path.
        max_connections: Of browsers; None for what the open-files limit allows, at most 50,000.
        managed: Whether a service manager starts it, and not the gateway.
        group: The group that it runs with, where it runs as a user of its own.
        redirects: Addresses for plain HTTP, where browsers are only told the right one.
        public: The public address's host and port, as after ``https://``: where they are told to go.
        users_below: Whether hosts directly below that one are ours too: browsers keep theirs.
        hsts: For how many seconds browsers shall come by HTTPS only; 0 says nothing.
        hard_stop: After how many seconds a worker that a reload has replaced ends, whatever is open.
        limits: What a server and a browser may take up.
        access_log: Where a line for each request goes: see `log_words`.
        front: Reverse proxies in front of it.
        base: The path below which everything is, with a slash at both ends.

    Raises:
        ConfigError: A value cannot be written into HAProxy's configuration.
    """

    directory: Path
    hub_socket: Path
    listeners: tuple[Listener, ...]
    node_ca: Path | None = None
    client_pem: Path | None = None
    scheme: Literal["https", "http"] = "https"
    program: str = "haproxy"
    max_connections: int | None = None
    managed: bool = False
    group: int | None = None
    redirects: tuple[str, ...] = ()
    public: str = ""
    users_below: bool = False
    hsts: int = 0
    hard_stop: int = 24 * 3600
    limits: Limits = field(default_factory=Limits)
    access_log: str = ""
    front: Front = field(default_factory=Front)
    base: str = "/"

    def __post_init__(self) -> None:
        log_words(self.access_log, managed=self.managed)
        check_base(self.base)
        if not self.listeners:
            raise ConfigError("HAProxy needs at least one address to listen at")
        for address in self._addresses:
            if not _ADDRESS.fullmatch(address):
                raise ConfigError(f"{address!r} is no address: write :443 or 192.0.2.1:443")
        if (self.redirects or self.front.trusted) and not _HOST.fullmatch(self.public):
            raise ConfigError(f"{self.public!r} is no host to which browsers can be sent from plain HTTP")
        for path in self._paths():
            if not (path.is_absolute() and _WORD.fullmatch(str(path))):
                raise ConfigError(
                    f"{str(path)!r}: write an absolute path of letters, digits and . _ - / + @ for HAProxy"
                )
        # HAProxy binds NAME.PID.tmp first and renames it.
        for path in (self.hub_socket, self.sockets / "master.sock.4194304.tmp"):
            if len(str(path).encode()) > _UNIX_PATH_BYTES:
                raise ConfigError(
                    f"{path} is longer than the {_UNIX_PATH_BYTES} bytes of a Unix socket's path"
                )

    def _paths(self) -> Iterable[Path]:
        yield from (self.directory, self.hub_socket)

    @property
    def _addresses(self) -> tuple[str, ...]:
        return (*(listener.address for listener in self.listeners), *self.redirects)

    def binds(self, address: str) -> tuple[tuple[str, ...], ...]:
        """Return the words of each ``bind`` line of an address.

        One line for both families would give addresses such as ``::ffff:192.0.2.1`` to the hub (2.6.12).
        """
        host, _, port = address.rpartition(":")
        if host != "[::]":
            return ((address,),)
        others = {other.rpartition(":")[0] for other in self._addresses if other.endswith(f":{port}")}
        alone = all(other.startswith("[") for other in others)
        return ((address, "v6only"), *([(f":{port}",)] if alone else []))

    @property
    def sockets(self) -> Path:
        """Where its command sockets are: a user of its own may make files there, and nowhere else."""
        return self.directory if self.group is None else self.directory / "s"

    def copy_of(self, certificate: Path) -> Path:
        """Return where HAProxy finds its copy of a certificate: it needs to read nobody else's files."""
        if certificate == self.node_ca:
            return self.directory / "node-ca.pem"
        if certificate == self.client_pem:
            return self.directory / "client.pem"
        place = [listener.certificate for listener in self.listeners].index(certificate)
        return self.directory / f"public-{place}.pem"

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The files with certificates."""
        named = (*(listener.certificate for listener in self.listeners), self.node_ca, self.client_pem)
        return tuple(
            Certificate(path, self.copy_of(path), path == self.node_ca)
            for path in dict.fromkeys(named)
            if path is not None
        )

    @property
    def node_tls(self) -> tuple[str, ...]:
        """The words with which a server is reached with TLS, but for the name; none if no site uses it."""
        if self.node_ca is None or self.client_pem is None:
            return ()
        authority, own = self.copy_of(self.node_ca), self.copy_of(self.client_pem)
        return ("ssl", "verify", "required", "ca-file", str(authority), "crt", str(own))


@dataclass(frozen=True, slots=True)
class ProxyServer:
    """A server of HAProxy's: the name ``ID.G``, where it is reached, and whether TLS is spoken there."""

    name: str
    address: Address
    node_tls: bool

    @classmethod
    def all_of(cls, route: Route) -> list[ProxyServer]:
        """Return the servers that a route needs."""
        return [cls(name, address, route.node_tls) for name, address in route.servers.items()]

    def words(self, settings: HAProxySettings) -> tuple[str, ...]:
        """Return the words that describe it, the same in the configuration and at run time.

        Without ``pool-max-conn`` HAProxy 2.6 keeps no idle connection to a server added at run time.

        Raises:
            ConfigError: It needs TLS and there are no certificates for it.
        """
        # Idle channels slow a master down for all: measured with 64 of them, half the WebSocket round trips.
        common = ("weight", "0", "pool-max-conn", "64", "pool-purge-delay", "2s", *settings.limits.words)
        # Never a name: one that cannot be resolved keeps the whole of HAProxy 2.6 from starting.
        address = address_word(self.address)
        if not self.node_tls:
            return (self.name, address, *common)
        if not settings.node_tls:
            raise ConfigError(f"{self.name} is to be reached with TLS, but HAProxy was given no certificates")
        node = server_name(id_of(self.name))
        tls = (*settings.node_tls, "verifyhost", node, "sni", f"str({node})")
        return (self.name, address, *common, *tls)


def backend_of(server: str) -> str:
    """Return the backend that a server (``ID.G``) is in."""
    return BACKENDS + id_of(server)[-1]


def read_servers(config: str) -> tuple[ProxyServer, ...]:
    """Return the servers in a configuration that `render` has written."""
    return tuple(
        ProxyServer(found["name"], parse_address(found["address"]), bool(found["tls"]))
        for found in _SERVER_LINE.finditer(config)
    )


@functools.lru_cache(maxsize=4)
def digest(settings: HAProxySettings) -> str:
    """Return a digest of all that only a reload can change: the configuration and the pages."""
    found = hashlib.sha256(render(settings, {}, "none").encode())
    for name, text in pages.files().items():
        found.update(f"{name} {text}".encode())
    return found.hexdigest()[:32]


def server_lines(settings: HAProxySettings, servers: Iterable[ProxyServer]) -> str:
    """Return the lines of the configuration that describe servers of one backend."""
    return "".join(f"    server {_words(server.words(settings))}\n" for server in servers)


def render(settings: HAProxySettings, servers: Mapping[str, str], config_digest: str) -> str:
    """Return the text of ``haproxy.cfg``; it tells its digest when it runs.

    Args:
        settings: What HAProxy is told once.
        servers: Lines of servers (`server_lines`) by the name of one of them.
        config_digest: What it tells.
    """
    lines: dict[str, list[str]] = {BACKENDS + shard: [] for shard in _SHARDS}
    for name, text in servers.items():
        lines[backend_of(name)].append(text)
    own = "".join(f"    {line}\n" for line in settings.limits.lines()) + _USE
    found = (f"\nbackend {name} from users\n{own}{''.join(texts)}" for name, texts in lines.items())
    return _fixed(settings, config_digest) + "".join(found)


@functools.lru_cache(maxsize=4)
def _fixed(settings: HAProxySettings, config_digest: str) -> str:
    """Return what is the same whatever is routed: with many routes it would be half of the work."""
    name, _, port = settings.public.partition(":")
    return _config_template().render(
        digest=config_digest,
        max_connections=settings.max_connections or _connections_allowed(),
        directory=settings.directory,
        sockets=settings.sockets,
        socket_mode=socket_mode(settings),
        hub_socket=settings.hub_socket,
        hub_body=_HUB_BODY,
        listeners=[
            (
                words,
                listener.certificate and settings.copy_of(listener.certificate),
                bool(settings.front.trusted) and not is_loopback(listener.address),
            )
            for listener in settings.listeners
            for words in settings.binds(listener.address)
        ],
        redirects=[words for address in settings.redirects for words in settings.binds(address)],
        public_name=name,
        public_port=_Line(f":{port}" if port else ""),
        users_below=settings.users_below,
        hsts=settings.hsts,
        hard_stop=settings.hard_stop,
        scheme=settings.scheme,
        front=settings.front,
        base=settings.base,
        user_field=settings.base.count("/") + 2,
        cookie=ROUTE_COOKIE,
        node_tls=settings.node_tls,
        threads=min(_MOST_THREADS, len(os.sched_getaffinity(0))),
        limits=settings.limits,
        log_words=log_words(settings.access_log, managed=settings.managed),
        log_format=_Line(accesslog.FORMAT),
        log_path=accesslog.PATH,
        page=lambda name: _Line(pages.reply(settings.directory, name)),
        page_mark=pages.MARK,
    )


@functools.cache
def _config_template() -> Template:
    environment = _environment()
    environment.finalize = _checked
    environment.filters["words"] = _words
    return environment.get_template("haproxy.cfg.j2")


def _words(words: Iterable[str]) -> str:
    return _Line(" ".join(_checked(word) for word in words))


def socket_mode(settings: HAProxySettings) -> str:
    """Return the mode of HAProxy's command sockets: the hub's, by its group where HAProxy is another user."""
    return "600" if settings.group is None else "660"


class _Line(str):
    """Words that have been checked one by one."""

    __slots__ = ()


def _checked(value: object) -> str:
    """Return a value as one word of a configuration line: data never becomes syntax."""
    if isinstance(value, _Line):
        return value
    if not _WORD.fullmatch(str(value)):
        raise ConfigError(f"{str(value)!r} cannot be written into HAProxy's configuration")
    return str(value)


def _connections_allowed() -> int:
    """Return how many browsers' connections fit: each takes two descriptors, and some are HAProxy's own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(100, min(_MOST_CONNECTIONS, (hard - 300) // 2))


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("gateway", "templates/proxy"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=select_autoescape((), default_for_string=False),
    )
