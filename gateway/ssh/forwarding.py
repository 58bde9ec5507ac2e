"""Where an account may forward to: asked by forwarding there, for each target once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from enum import StrEnum

import paramiko

from gateway.siteconfig import Login
from gateway.ssh.transport import PROHIBITED, Limits, connect

Target = tuple[str, int]


class Outcome(StrEnum):
    """What came of one forward."""

    OPEN = "open"
    """Something at its end took the connection."""
    PROHIBITED = "prohibited"
    """The login node does not forward there for this account."""
    NOT_CONNECTED = "not connected"
    """The login node would forward, but nothing at the end took the connection."""


def try_forwards(
    login: Login, targets: Iterable[Target], limits: Limits | None = None
) -> Mapping[Target, Outcome]:
    """Log in and open a connection to each target, which is closed at once. Blocking.

    Args:
        login: Where.
        identity: As whom.
        targets: Host, as the login node knows it, and TCP port.
        limits: How long each step may take.

    Raises:
        HostKeyRefused: The login node's key is not the known one.
        LoginNodeRefused: The account is not let in.
        LoginNodeUnreachable: The login node does not answer.
    """
    limits = limits or Limits()
    transport = connect(login, limits, threading.Event())
    try:
        return {target: _try(transport, target, limits) for target in targets}
    finally:
        transport.close()


def _try(transport: paramiko.Transport, target: Target, limits: Limits) -> Outcome:
    try:
        transport.open_channel("direct-tcpip", target, ("127.0.0.1", 0), timeout=limits.connect).close()
    except paramiko.ChannelException as error:
        return Outcome.PROHIBITED if error.code == PROHIBITED else Outcome.NOT_CONNECTED
    except paramiko.SSHException:
        return Outcome.NOT_CONNECTED  # no answer in time: packets get lost behind the login node
    return Outcome.OPEN
