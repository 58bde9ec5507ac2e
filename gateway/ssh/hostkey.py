"""The key that a host shows, for comparing: nobody is logged in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import paramiko

from gateway.errors import HostKeyRefused, LoginNodeUnreachable
from gateway.siteconfig import Jump
from gateway.ssh.known_hosts import HostKey, KnownHosts, address
from gateway.ssh.transport import Limits, handshake, host_key


class Trust(StrEnum):
    """What a known_hosts file says of the key that a host shows."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Shown:
    """The key that a host shows, the line that would make it known, and whether it is."""

    key: HostKey
    line: str
    trust: Trust


def shown_key(
    host: str, port: int, known_hosts: Path, limits: Limits | None = None, hop: Jump | None = None
) -> Shown:
    """Ask a host for its key, one of a type that is known if there is one, and compare. Blocking.

    Args:
        host: The login node.
        port: sshd's.
        known_hosts: The file; one that is not there knows nothing.
        limits: How long each step may take.
        hop: The jump host before it, if there is one.

    Raises:
        LoginNodeUnreachable: The host does not answer as an SSH server does.
        HostKeyRefused: The file cannot be read, or the jump host's key is not known.
        LoginNodeRefused: The jump host does not let the gateway in, or on.
    """
    known, name = _known(known_hosts), address(host, port)
    try:
        transport = handshake(host, port, known.types(name), limits or Limits(), hop)
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise LoginNodeUnreachable(f"{name}: {error or type(error).__name__}") from error
    try:
        key = host_key(transport)
    finally:
        transport.close()
    return Shown(key, f"{name} {key.type} {key.base64}", _trust(known, name, key))


def _trust(known: KnownHosts, name: str, key: HostKey) -> Trust:
    try:
        known.check(name, key)
    except HostKeyRefused:
        return Trust.CHANGED if known.types(name) else Trust.UNKNOWN
    return Trust.KNOWN


def _known(path: Path) -> KnownHosts:
    try:
        return KnownHosts.parse(path.read_text(encoding="utf-8", errors="replace"), str(path))
    except FileNotFoundError:
        return KnownHosts((), str(path))
    except OSError as error:
        raise HostKeyRefused(f"{path} cannot be read: {error.strerror}") from error
