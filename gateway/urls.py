"""The paths of users' servers: ``/user/NAME/`` and ``/user/NAME/SERVER/``."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import BadRequest
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


@dataclass(frozen=True, slots=True)
class ServerPath:
    """A path below a user's server. ``server`` is "" for the default one."""

    user: str
    server: str

    def __str__(self) -> str:
        """Return the path of the server's first page, with slashes at both ends."""
        return server_path(self.user, self.server)


def server_path(user: str, server: str) -> str:
    """Return the path of a server, ``/user/alice/`` or ``/user/alice/exp1/``: its application's base URL."""
    return f"/user/{user}/{server}/" if server else f"/user/{user}/"


def enter_path(user: str, server: str) -> str:
    """Return the path at which a one-time code for this server is taken."""
    return server_path(user, server) + ENTER


def parse_server_path(path: str) -> ServerPath | None:
    """Return which server a path belongs to, or None if it is none of ours.

    Like the proxy, it takes the path's parts literally: ``//`` or an encoded slash is no way to a server. If
    the part after the user's name could be a server's name it is taken for one; whether there is such a
    server, or it is a page of the default one, only the database knows.

    Args:
        path: Of a URL, as it came, without the query.
    """
    parts = path.split("/")
    if len(parts) < 3 or parts[0] or parts[1] != "user" or not USER_NAME.fullmatch(parts[2]):
        return None
    name = parts[3] if len(parts) > 3 else ""
    return ServerPath(parts[2], name if is_server_name(name) else "")


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
