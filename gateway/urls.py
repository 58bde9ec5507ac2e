"""The paths of the hub, ``/hub/…``, and of users' servers: ``/user/NAME/`` and ``/user/NAME/SERVER/``.

All are below the path of the public address, the *base*: ``/``, or ``/gateway/`` where the host is another
web server's too. It has a slash at both ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.errors import BadRequest, ConfigError
from gateway.model import SERVER_NAME, USER_NAME

#: The last part of the path at which a browser turns a one-time code into a grant. No server name and no
#: path of an application begins with a hyphen.
ENTER = "-gateway-enter"

#: First parts of the paths of Jupyter and its usual extensions: a server of such a name would hide them on
#: the default server.
RESERVED_NAMES = frozenset(
    [
        "api",
        "authorize",
        "custom",
        "desktop",
        "doc",
        "edit",
        "favicon-ico",
        "files",
        "hub",
        "jupyter",
        "kernels",
        "kernelspecs",
        "lab",
        "lite",
        "login",
        "logout",
        "logo",
        "lsp",
        "mathjax",
        "metrics",
        "nbclassic",
        "nbconvert",
        "nbextensions",
        "nbgrader",
        "notebooks",
        "oauth",
        "oauth-callback",
        "proxy",
        "retro",
        "rstudio",
        "services",
        "sessions",
        "share",
        "static",
        "terminal",
        "terminals",
        "tree",
        "user",
        "view",
        "viewer",
        "voila",
        "vscode",
        "ws",
    ]
)


#: Also parts of expressions in HAProxy's and tornado's rules: nothing in it means anything there.
_BASE = re.compile(r"/(?:[A-Za-z0-9_][A-Za-z0-9_-]{0,62}/){0,8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ServerPath:
    """A path below a user's server. ``server`` is "" for the default one."""

    user: str
    server: str
    base: str = "/"

    def __str__(self) -> str:
        """Return the path of the server's first page, with slashes at both ends."""
        return server_path(self.user, self.server, self.base)


def check_base(path: str) -> str:
    """Return the base that a public address's path means; a slash at its end may be left out.

    Raises:
        ConfigError: It cannot be one.
    """
    base = path if path.endswith("/") else f"{path}/"
    if not _BASE.fullmatch(base):
        raise ConfigError(
            f"public_url: {path!r} cannot be the path below which the gateway is: write it as /gateway/, of "
            "letters, digits, _ and inner hyphens between single slashes"
        )
    return base


def hub_path(path: str, base: str = "/") -> str:
    """Return where a page of the hub is; ``path`` is as without a base, ``/hub/home``."""
    return base + path.removeprefix("/")


def server_path(user: str, server: str, base: str = "/") -> str:
    """Return the path of a server, ``/user/alice/`` or ``/user/alice/exp1/``: its application's base URL."""
    return f"{base}user/{user}/{server}/" if server else f"{base}user/{user}/"


def enter_path(user: str, server: str, base: str = "/") -> str:
    """Return the path at which a one-time code for this server is taken."""
    return server_path(user, server, base) + ENTER


def parse_server_path(path: str, base: str = "/") -> ServerPath | None:
    """Return which server a path belongs to, or None if it is none of ours.

    Like the proxy, it takes the path's parts literally: ``//`` or an encoded slash is no way to a server. If
    the part after the user's name could be a server's name it is taken for one; whether there is such a
    server, or it is a page of the default one, only the database knows.

    Args:
        path: Of a URL, as it came, without the query.
        base: Below which all of ours are.
    """
    if not path.startswith(base):
        return None
    parts = path[len(base) - 1 :].split("/")
    if len(parts) < 3 or parts[0] or parts[1] != "user" or not USER_NAME.fullmatch(parts[2]):
        return None
    name = parts[3] if len(parts) > 3 else ""
    return ServerPath(parts[2], name if is_server_name(name) else "", base)


def is_server_name(name: str) -> bool:
    """Return whether a further server may have this name."""
    return bool(SERVER_NAME.fullmatch(name)) and name not in RESERVED_NAMES


def check_server_name(name: str) -> str:
    """Return ``name``, the name of a further server, or "" for the default one.

    Raises:
        BadRequest: It cannot be a name; the sentence says what can.
    """
    if name in RESERVED_NAMES:
        raise BadRequest(
            f"reserved server name {name}",
            f"“{name}” is a name that Jupyter itself uses.",
            "Choose another name.",
        )
    if name and not SERVER_NAME.fullmatch(name):
        raise BadRequest(
            "malformed server name",
            "A server's name has 1 to 32 small letters, digits and inner hyphens, like “exp-1”.",
            "Choose such a name.",
        )
    return name
