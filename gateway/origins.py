"""Which origin serves what, and the cookies that belong to each.

In the layout "per-user" the hub and each user have an origin of their own, so that a page of one user's
server can read and do nothing of another's, nor of the hub's. In the layout "single" all share one.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from gateway.errors import ConfigError
from gateway.model import USER_NAME
from gateway.urls import ServerPath, check_base, enter_path, hub_path, parse_server_path, server_path

#: Browsers take a ``__Host-`` cookie only from its own host, over TLS, with Path=/ and no Domain: no page on
#: another host can set or shadow it (RFC 6265bis, 4.1.3.2).
SESSION_COOKIE = "__Host-gateway-session"
ROUTE_COOKIE = "__Host-gateway-route"
STATE_COOKIE = "__Host-gateway-state"
XSRF_COOKIE = "__Host-gateway-xsrf"
#: Set for some seconds after an enter: if the browser comes back at once, the proxy does not know the grant.
ENTERED_COOKIE = "__Host-gateway-entered"

#: Names of hosts that people expect to be something else than a user.
RESERVED_LABELS = frozenset(
    [
        "www",
        "hub",
        "gateway",
        "admin",
        "api",
        "mail",
        "smtp",
        "imap",
        "pop",
        "ns",
        "ns1",
        "ns2",
        "mx",
        "ftp",
        "static",
        "cdn",
        "assets",
        "login",
        "auth",
        "sso",
        "autoconfig",
        "autodiscover",
        "wpad",
        "isatap",
        "localhost",
        "status",
        "help",
        "support",
        "docs",
        "root",
        "hostmaster",
        "postmaster",
        "webmaster",
    ]
)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_ESCAPED = "u--"
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_ADDRESS = re.compile(r"[0-9.]+", re.ASCII)
_THIS_MACHINE = ("localhost", "localdomain")
_PLAIN_URL = re.compile(r"[\x21-\x5b\x5d-\x7e]{1,2000}", re.ASCII)  # no blanks, controls or backslashes


class Layout(StrEnum):
    """How origins are laid out."""

    PER_USER = "per-user"
    SINGLE = "single"


@dataclass(frozen=True, slots=True)
class Origins:
    """The public URLs of the hub and of users' servers. Make one with ``Origins.of``.

    ``host`` is the hub's, in lower case; ``port`` is None for 443; ``base`` is the path below which all
    is, on every host.
    """

    host: str
    port: int | None
    layout: Layout
    base: str = "/"

    @classmethod
    def of(cls, public_url: str, layout: str = Layout.PER_USER) -> Origins:
        """Return the origins of a gateway.

        Args:
            public_url: Where browsers find it: ``https://HOST[:PORT]/[BASE/]``.
            layout: ``per-user`` or ``single``.

        Raises:
            ConfigError: The URL cannot serve, or there is no such layout.
        """
        try:
            parts = urlsplit(public_url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"public_url: {public_url}: {error}") from None
        host = (parts.hostname or "").lower()
        if parts.scheme != "https" or parts.query or parts.fragment or parts.username:
            raise ConfigError(
                f"public_url: {public_url}: write it as https://gw.example.org/, also with a port or a path"
            )
        if not _HOST.fullmatch(host) or ".." in host:
            raise ConfigError(f"public_url: {public_url}: {host!r} is not a host's name")
        if layout not in tuple(Layout):
            raise ConfigError(f"layout: {layout!r} is neither per-user nor single")
        if layout == Layout.PER_USER and _ADDRESS.fullmatch(host):
            raise ConfigError(
                f"public_url: {host} is an address: users' own origins need a name (or layout single)"
            )
        return cls(host, None if port in (None, 443) else port, Layout(layout), check_base(parts.path))

    # --- URLs ---

    @property
    def hub_origin(self) -> str:
        """The hub's origin, without a slash at its end."""
        return self._origin(self.host)

    def hub_url(self, path: str = "/hub/home") -> str:
        """Return the URL of a page of the hub; ``path`` is as without a base."""
        return self.hub_origin + self.hub_path(path)

    def hub_path(self, path: str) -> str:
        """Return the path of a page of the hub, for its own origin; ``path`` is as without a base."""
        return hub_path(path, self.base)

    def server_path(self, user: str, server: str) -> str:
        """Return the path of a server, its application's base URL."""
        return server_path(user, server, self.base)

    def parse(self, path: str) -> ServerPath | None:
        """Return which server a path belongs to: see `parse_server_path`."""
        return parse_server_path(path, self.base)

    def user_origin(self, user: str) -> str:
        """Return the origin of a user's servers, without a slash at its end."""
        return self._origin(self.host_of(user))

    def server_url(self, user: str, server: str) -> str:
        """Return the URL of a server's first page."""
        return self.user_origin(user) + self.server_path(user, server)

    def enter_url(self, user: str, server: str) -> str:
        """Return the URL at which a one-time code for this server is taken."""
        return self.user_origin(user) + enter_path(user, server, self.base)

    @property
    def may_insist(self) -> bool:
        """Whether browsers may be told to come to these hosts by HTTPS only (RFC 6797).

        They apply it to every port of a host, so with a port of our own it could cut off somebody else; and
        names that mean this machine are a demonstration's, with a certificate that browsers do not know. A
        host of which we have only a part is its web server's to decide about.
        """
        name, _, top = self.host.rpartition(".")
        alone = self.port is None and self.base == "/"
        return alone and bool(name) and not top.isdigit() and top not in _THIS_MACHINE

    def form_targets(self) -> str:
        """Return what forms of the hub may lead to, as CSP sources: browsers also check later redirects."""
        return "'self'" if self.layout is Layout.SINGLE else f"'self' {self._origin('*.' + self.host)}"

    def _origin(self, host: str) -> str:
        return f"https://{host}:{self.port}" if self.port else f"https://{host}"

    # --- hosts ---

    def host_of(self, user: str) -> str:
        """Return the host of a user's origin: lower case, no port. The key of the routes begins with it."""
        return self.host if self.layout is Layout.SINGLE else f"{label_of(user)}.{self.host}"

    def is_hub_host(self, host: str) -> bool:
        """Return whether a Host header names the hub."""
        return _bare(host) == self.host

    def user_of_host(self, host: str) -> str | None:
        """Return whose origin a Host header names; None if it is nobody's own."""
        label, dot, rest = _bare(host).partition(".")
        if self.layout is Layout.SINGLE or not dot or rest != self.host:
            return None
        return _user_of_label(label)

    # --- what comes in ---

    def safe_next(self, url: str) -> str | None:
        """Return where a login may lead to, as a full URL, or None if ``url`` is not a page of ours.

        Args:
            url: A path of the hub or of a server, or a full URL of one; untrusted.
        """
        if not _PLAIN_URL.fullmatch(url):
            return None
        if url.startswith("/") and not url.startswith("//"):
            return self._page(url)
        scheme, separator, rest = url.partition("://")
        host, slash, path = rest.partition("/")
        if scheme != "https" or not separator or not slash:
            return None
        page = self._page("/" + path)
        return page if page and page.startswith(f"https://{host}/") else None

    def _page(self, target: str) -> str | None:
        path = target.partition("?")[0].partition("#")[0]
        if any(part in (".", "..") for part in path.lower().replace("%2e", ".").split("/")):
            return None
        if path.startswith(self.hub_path("/hub/")):
            return self.hub_origin + target
        server = self.parse(path)
        return None if server is None else self.user_origin(server.user) + target

    def serves(self, host: str, server: ServerPath) -> bool:
        """Return whether a Host header names the origin at which this server is."""
        return _bare(host) == self.host_of(server.user)


def label_of(user: str) -> str:
    """Return the DNS label of a user's origin: the name itself where it can be one, else an escape of it.

    Args:
        user: A user's name, as ``model.USER_NAME``.
    """
    if _LABEL.fullmatch(user) and "--" not in user and user not in RESERVED_LABELS:
        return user
    return _ESCAPED + base64.b32encode(user.encode("ascii")).decode("ascii").rstrip("=").lower()


def _user_of_label(label: str) -> str | None:
    user = label
    if label.startswith(_ESCAPED):
        code = label.removeprefix(_ESCAPED).upper()
        try:
            user = base64.b32decode(code + "=" * (-len(code) % 8)).decode("ascii")
        except ValueError:
            return None
    return user if USER_NAME.fullmatch(user) and label_of(user) == label else None


def is_same_origin(headers: Mapping[str, str], origin: str) -> bool:
    """Return whether a request that changes something was sent by a page of ``origin``, not of another one.

    Users' origins are of the same site as the hub's, so SameSite keeps none of them out. A browser that tells
    ``Sec-Fetch-Site`` or ``Origin`` cannot be made to lie by a page (Fetch standard, forbidden headers).
    Where both are missing it is not a browser of this decade; the form's token decides.

    Args:
        headers: The request's.
        origin: ``https://HOST[:PORT]``.
    """
    site, sent = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site is not None and site != "same-origin":
        return False
    if sent is None or sent == origin:
        return True
    # A page that sends no referrer has the origin "null" in its forms; another site's frame has it too.
    return sent == "null" and site == "same-origin"


def _bare(host: str) -> str:
    name, colon, port = host.lower().partition(":")
    return name if not colon or port.isdecimal() else ""
