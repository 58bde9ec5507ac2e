"""Who may use what the gateway keeps in its run directory: its own account, and HAProxy where it has another.

Where HAProxy runs as a user of its own, that user's group may pass through the directories, connect to the
hub's and the forwards' sockets and read HAProxy's files; nobody else may, and nothing else is shared.
"""

from __future__ import annotations

import grp
import os
from pathlib import Path

from gateway.errors import ConfigError


def find_group(name: str) -> int:
    """Return the id of a group that this process may give files to.

    Raises:
        ConfigError: There is no such group, or this process is not in it.
    """
    try:
        group = grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f"c.Gateway.proxy_group: there is no group {name}: groupadd --system {name}"
        ) from None
    if os.geteuid() != 0 and group not in {os.getegid(), *os.getgroups()}:
        raise ConfigError(
            f"c.Gateway.proxy_group: the gateway's user is not in {name}: usermod -aG {name} gateway"
        )
    return group


def share_directory(path: Path, group: int | None, *, writable: bool = False) -> None:
    """Let a group pass through a directory of ours, and nobody else. Without a group it is private.

    Args:
        path: The directory.
        group: The group's id.
        writable: Whether the group may also list it and make files in it.
    """
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(0o700 if group is None else 0o770 if writable else 0o710)


def share_socket(path: Path, group: int | None) -> None:
    """Let a group connect to a socket of ours; without a group it is left as it is."""
    if group is not None:
        os.chown(path, -1, group)
        path.chmod(0o660)


def share_file(descriptor: int, group: int | None) -> None:
    """Let a group read an open file of ours; without a group it is left as it is."""
    if group is not None:
        os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, 0o640)
