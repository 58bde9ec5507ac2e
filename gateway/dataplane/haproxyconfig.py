"""HAProxy's configuration: the settings, the files they make, and the words of one server."""

from __future__ import annotations

import hashlib
import re
import resource
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from gateway.address import Address, address_word, parse_address
from gateway.errors import ConfigError
from gateway.origins import ROUTE_COOKIE
from gateway.pki import server_name
from gateway.routes import Route, id_of

_WORD = re.compile(r"[A-Za-z0-9_./:@*()\[\]+-]+", re.ASCII)
_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\*|\[[0-9A-Fa-f:.]+\])?:\d{1,5}|unix@/[A-Za-z0-9_./-]+", re.ASCII)
_SERVER_LINE = re.compile(
    r"^ {4}server (?P<name>[a-z2-7]{10}\.\d{1,9}) (?P<address>unix@/[A-Za-z0-9_./-]+|[0-9a-f.:\[\]]+) "
    r"weight 0 pool-max-conn 64 pool-purge-delay 2s(?P<tls> ssl )?",
    re.ASCII | re.MULTILINE,
)
_UNIX_PATH_BYTES = 107
_MOST_CONNECTIONS = 50_000
#: Bytes in the body of a request to the hub: its own limit too.
_HUB_BODY = 64 * 1024

#: The name of the server that only names the certificate files.
ANCHOR = "anchor"


@dataclass(frozen=True, slots=True)
class Listener:
    """Where HAProxy listens.

    Args:
        address: ``:443``, ``192.0.2.1:443``, ``[2001:db8::1]:443`` or ``unix@/path``.
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

    def __post_init__(self) -> None:
        if not self.listeners:
            raise ConfigError("HAProxy needs at least one address to listen at")
        for listener in self.listeners:
            if not _ADDRESS.fullmatch(listener.address):
                raise ConfigError(f"{listener.address!r} is no address: write :443 or 192.0.2.1:443")
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
    def certificates(self) -> Mapping[Path, Path]:
        """The files with certificates, and where HAProxy finds its copy of each."""
        named = (*(listener.certificate for listener in self.listeners), self.node_ca, self.client_pem)
        return {path: self.copy_of(path) for path in named if path is not None}

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
    def of(cls, route: Route) -> ProxyServer:
        """Return the server that a route needs."""
        return cls(route.server, route.address, route.node_tls)

    def words(self, settings: HAProxySettings) -> tuple[str, ...]:
        """Return the words that describe it, the same in the configuration and at run time.

        Without ``pool-max-conn`` HAProxy 2.6 keeps no idle connection to a server added at run time.

        Raises:
            ConfigError: It needs TLS and there are no certificates for it.
        """
        # Idle channels slow a master down for all: measured with 64 of them, half the WebSocket round trips.
        common = ("weight", "0", "pool-max-conn", "64", "pool-purge-delay", "2s")
        # Never a name: one that cannot be resolved keeps the whole of HAProxy 2.6 from starting.
        address = address_word(self.address)
        if not self.node_tls:
            return (self.name, address, *common)
        if not settings.node_tls:
            raise ConfigError(f"{self.name} is to be reached with TLS, but HAProxy was given no certificates")
        node = server_name(id_of(self.name))
        tls = (*settings.node_tls, "verifyhost", node, "sni", f"str({node})")
        return (self.name, address, *common, *tls)


def read_servers(config: str) -> tuple[ProxyServer, ...]:
    """Return the servers in a configuration that `render` has written."""
    return tuple(
        ProxyServer(found["name"], parse_address(found["address"]), bool(found["tls"]))
        for found in _SERVER_LINE.finditer(config)
    )


def digest(settings: HAProxySettings) -> str:
    """Return a digest of all that only a reload can change: the configuration, pages, certificates.

    Raises:
        ConfigError: A certificate cannot be read.
    """
    found = hashlib.sha256(render(settings, (), "none").encode())
    for name, page in pages().items():
        found.update(f"{name} {page}".encode())
    for path in settings.certificates:
        found.update(read_certificate(path))
    return found.hexdigest()[:32]


def read_certificate(path: Path) -> bytes:
    """Return what a file with a certificate holds.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def check_pair(path: Path) -> None:
    """See that a file holds a certificate and the key that belongs to it.

    Raises:
        ConfigError: It does not.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{path}: not a certificate, its chain and its key in one file: {error.strerror or error}"
        ) from error


def render(settings: HAProxySettings, servers: Iterable[ProxyServer], config_digest: str) -> str:
    """Return the text of ``haproxy.cfg`` with these servers; it tells its digest when it runs."""
    environment = _environment()
    environment.finalize = _checked
    environment.filters["words"] = lambda words: _Line(" ".join(_checked(word) for word in words))
    return environment.get_template("haproxy.cfg.j2").render(
        digest=config_digest,
        max_connections=settings.max_connections or _connections_allowed(),
        directory=settings.directory,
        sockets=settings.sockets,
        socket_mode=socket_mode(settings),
        hub_socket=settings.hub_socket,
        hub_body=_HUB_BODY,
        listeners=[
            (listener.address, listener.certificate and settings.copy_of(listener.certificate))
            for listener in settings.listeners
        ],
        scheme=settings.scheme,
        cookie=ROUTE_COOKIE,
        node_tls=settings.node_tls,
        servers=[server.words(settings) for server in servers],
    )


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
        autoescape=select_autoescape(("html.j2",), default_for_string=False),
    )


@dataclass(frozen=True, slots=True)
class _Page:
    """A page that HAProxy gives itself: what happened, what it means, what to do next.

    ``refresh`` is after how many seconds it tries again, if it does.
    """

    status: str
    title: str
    text: str
    advice: str
    refresh: int | None = None


_PAGES = {
    "400.http": _Page(
        "400 Bad Request",
        "The gateway cannot read this request",
        "What the browser sent is not a request as the gateway knows them. Nothing was done.",
        "Go back and try again, with another browser if that does not help.",
    ),
    "403.http": _Page(
        "403 Forbidden",
        "The gateway has refused this request",
        "It came from a page of another site, which may not use your server. Nothing was done.",
        "Open your server from the list of your servers.",
    ),
    "413.http": _Page(
        "413 Content Too Large",
        "That is more than the gateway takes",
        "No form of the gateway needs that much. Nothing was done.",
        "Go back and send less.",
    ),
    "hub.http": _Page(
        "503 Service Unavailable",
        "One moment",
        "The gateway is being restarted. Running servers go on.",
        "Wait a moment; if it takes more than a few minutes, tell the gateway's administrators.",
        3,
    ),
    "502.http": _Page(
        "502 Bad Gateway",
        "Your server gave no proper answer",
        "The application on the compute node ended the connection, or its answer makes no sense. "
        "Your job is untouched.",
        "Wait a moment; if it stays so, save what you can, stop the server and start it again.",
        5,
    ),
    "503.http": _Page(
        "503 Service Unavailable",
        "Your server is not reachable right now",
        "The gateway has no connection to the application on the compute node. Your job is untouched: "
        "the gateway is connecting again, or your server is just ending.",
        "Wait a moment; if it stays so, look at the list of your servers what has become of it.",
        5,
    ),
    "504.http": _Page(
        "504 Gateway Timeout",
        "Your server takes very long to answer",
        "The application on the compute node has not answered in time. Your job is untouched.",
        "Wait, or stop in it what takes so long.",
        15,
    ),
}


def pages() -> dict[str, str]:
    """Return the files of the pages that HAProxy gives itself: whole HTTP answers, by file name."""
    template = _environment().get_template("error.html.j2")
    return {name: _answer(page, template.render(**_fields(page))) for name, page in _PAGES.items()}


def _fields(page: _Page) -> dict[str, str | int | None]:
    return {"title": page.title, "text": page.text, "advice": page.advice, "refresh": page.refresh}


def _answer(page: _Page, body: str) -> str:
    lines = [
        f"HTTP/1.1 {page.status}",
        "Content-Type: text/html; charset=utf-8",
        f"Content-Length: {len(body.encode())}",
        "Cache-Control: no-store",
        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'",
        "X-Content-Type-Options: nosniff",
        *([f"Retry-After: {page.refresh}"] if page.refresh else []),
    ]
    return "\r\n".join(lines) + "\r\n\r\n" + body
