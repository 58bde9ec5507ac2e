"""One authenticated SSH connection to a login node. Blocking, with a limit on every step."""

from __future__ import annotations

import base64
import logging
import random
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import paramiko

from gateway.errors import GatewayError, HostKeyRefused, LoginNodeRefused, LoginNodeUnreachable
from gateway.siteconfig import Jump, Login
from gateway.ssh import hostcert
from gateway.ssh.authority import UserCertificate
from gateway.ssh.known_hosts import HostKey, KnownHosts, address

_log = logging.getLogger(__name__)
_BANNER_TRIES = 4
#: RFC 4254, 5.1: SSH_OPEN_ADMINISTRATIVELY_PROHIBITED.
PROHIBITED = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, and how much there may be. Times are seconds.

    ``connect`` is for each of TCP, banner, key exchange and authentication. ``grace`` is what a command may
    take beyond its own limit before the connection counts as broken. ``stall`` is how long sent bytes may
    stay unacknowledged. ``sessions`` stays below sshd's MaxSessions (10 by default).
    """

    connect: float = 10.0
    grace: float = 8.0
    stall: float = 20.0
    keepalive: int = 15
    sessions: int = 8
    output: int = 16 * 2**20


class Identity(Protocol):
    """Who logs in. ``str()`` is what errors call the key."""

    @property
    def user(self) -> str:
        """The account on the login node."""
        ...

    def key(self) -> paramiko.PKey:
        """Return the key for one connection; it may block.

        Raises:
            GatewayError: There is none.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeyFile:
    """An account whose private key is a file."""

    user: str
    path: Path

    def __str__(self) -> str:
        return f"the key {self.path}"

    def key(self) -> paramiko.PKey:
        """Return the key.

        Raises:
            LoginNodeRefused: It cannot be used.
        """
        try:
            return paramiko.PKey.from_path(self.path)
        except (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
            raise LoginNodeRefused(f"the key {self.path} cannot be used: {error}") from error


@dataclass(frozen=True, slots=True)
class Certified:
    """A user whom the gateway's own CA vouches for, anew at each connection."""

    user: str
    certify: Callable[[str], UserCertificate]

    def __str__(self) -> str:
        return (
            f"a certificate for {self.user} (on the login node: is this CA in TrustedUserCAKeys, {self.user} "
            "in the Match block's group, this host its Address, and the clock right? sshd's log says which)"
        )

    def key(self) -> paramiko.PKey:
        """Return a new key with its certificate.

        Raises:
            Forbidden, ConfigError: There is none for this user.
        """
        certified = self.certify(self.user)
        key = paramiko.ECDSAKey(vals=(certified.key, certified.key.public_key()))
        key.load_certificate(paramiko.Message(base64.b64decode(certified.line.split()[1])))
        return key


def quiet_library_log(level: int = logging.CRITICAL) -> None:
    """Set how much paramiko logs: it prints tracebacks for errors that were caught and dealt with."""
    logging.getLogger("paramiko").setLevel(level)


def connect(
    login: Login, limits: Limits, closing: threading.Event, identity: Identity | None = None
) -> paramiko.Transport:
    """Return a connection, logged in, to the first of the login nodes that answers.

    Args:
        login: Where, as whom and with which key, and which host keys are known.
        limits: How long each step may take.
        closing: Ends the waiting between two tries.
        identity: Who logs in, if it is not the service account.

    Raises:
        HostKeyRefused: A login node's key is not the known one.
        LoginNodeRefused: The key or the account is not accepted, or the key cannot be read.
        LoginNodeUnreachable: None answers.
        Forbidden, ConfigError: There is no certificate for this user.
    """
    known = _known_hosts(login.known_hosts)
    identity = identity or KeyFile(login.user, login.key)
    key = identity.key()
    failures = []
    for host in login.hosts:
        try:
            place = _Place(host, login.port, known, login.hop)
            return _patiently(place, identity, key, limits, closing)
        except LoginNodeUnreachable as error:
            failures.append(str(error))
    raise LoginNodeUnreachable("; ".join(failures))


@dataclass(frozen=True, slots=True)
class _Place:
    """A host, the keys that are known, and the jump host before it."""

    host: str
    port: int
    known: KnownHosts
    hop: Jump | None = None

    @property
    def name(self) -> str:
        return address(self.host, self.port)


def _patiently(
    place: _Place, identity: Identity, key: paramiko.PKey, limits: Limits, closing: threading.Event
) -> paramiko.Transport:
    """Connect to one host, again if it drops the connection before its banner (sshd's MaxStartups)."""
    for attempt in range(_BANNER_TRIES):
        try:
            return _open(place, identity, key, limits)
        except _NoBanner as error:
            failure = error
        if closing.wait(random.uniform(0.2, 0.6) * 2**attempt):  # noqa: S311  (jitter, no secret)
            break
    raise LoginNodeUnreachable(str(failure))


class _NoBanner(GatewayError):
    """The host took the connection and dropped it before it said anything."""


def _open(place: _Place, identity: Identity, key: paramiko.PKey, limits: Limits) -> paramiko.Transport:
    where = f"{identity.user}@{place.name}"
    transport = None
    try:
        types = place.known.types(place.name)
        transport = handshake(place.host, place.port, types, limits, place.hop)
        place.known.check(place.name, host_key(transport))
        if transport.auth_publickey(identity.user, key):
            raise LoginNodeRefused(f"{where}: the key was accepted, but the host asks for more than a key")
        transport.set_keepalive(limits.keepalive)
    except BaseException as error:
        if transport is not None:
            transport.close()
        raise _translated(error, where, identity) from error
    _log.info("connected to %s", where)
    return transport


def host_key(transport: paramiko.Transport) -> HostKey:
    """Return the key that a host has shown and proved to have, with its certificate if it has one."""
    shown = transport.get_remote_server_key()
    blob = shown.public_blob
    certificate = f"{blob.key_type} {base64.b64encode(blob.key_blob).decode()}" if blob else ""
    return HostKey(shown.get_name(), shown.get_base64(), certificate)


def handshake(
    host: str, port: int, types: tuple[str, ...], limits: Limits, hop: Jump | None = None
) -> paramiko.Transport:
    """Return a connection on which keys have been exchanged: nobody is logged in, the host key not checked.

    Args:
        host: The login node.
        port: sshd's.
        types: The types of host key to ask for first.
        limits: How long each step may take.
        hop: The jump host before it, if there is one, with its key and known hosts.

    Raises:
        SSHException, OSError, EOFError: There is none.
        HostKeyRefused, LoginNodeRefused, LoginNodeUnreachable: The jump host does not lead there.
    """
    way: Any = _through(hop, host, port, limits) if hop else _socket(host, port, limits)
    transport = paramiko.Transport(way)
    try:
        transport.banner_timeout = transport.handshake_timeout = limits.connect
        transport.auth_timeout = limits.connect
        _prefer(transport, types)
        transport.start_client(timeout=limits.connect)
    except BaseException:
        transport.close()
        raise
    return transport


def _translated(error: BaseException, where: str, identity: Identity) -> BaseException:
    if isinstance(error, paramiko.AuthenticationException):
        return LoginNodeRefused(f"{where}: {identity} is not accepted ({error})")
    if isinstance(error, paramiko.SSHException):
        kind = _NoBanner if "protocol banner" in str(error) else LoginNodeUnreachable
        return kind(f"{where}: {error or type(error).__name__}")
    if isinstance(error, (OSError, EOFError)):
        return LoginNodeUnreachable(f"{where}: {error or type(error).__name__}")
    return error


def _socket(host: str, port: int, limits: Limits) -> socket.socket:
    """Return a connected socket. paramiko sets neither option: without the first a call takes 40 ms more."""
    connected = socket.create_connection((host, port), timeout=limits.connect)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.stall * 1000))
    return connected


class _Through:
    """A connection by way of another host: all that paramiko asks of a socket. Closing it leaves that host.

    Args:
        channel: To the host behind.
        jump: The connection that carries it.
    """

    def __init__(self, channel: paramiko.Channel, jump: paramiko.Transport) -> None:
        self._jump = jump
        self.recv, self.send, self.settimeout = channel.recv, channel.send, channel.settimeout
        self.getpeername = jump.getpeername

    @property
    def _closed(self) -> bool:
        return not self._jump.is_active()

    def close(self) -> None:
        self._jump.close()


def _through(hop: Jump, host: str, port: int, limits: Limits) -> _Through:
    """Return a connection to a host from a jump host, whose own key is checked first.

    Raises:
        HostKeyRefused, LoginNodeRefused, LoginNodeUnreachable: It does not let the gateway in, or on.
    """
    assert hop.key is not None  # noqa: S101  Login.hop
    assert hop.known_hosts is not None  # noqa: S101
    identity = KeyFile(hop.user, hop.key)
    place = _Place(hop.host, hop.port, _known_hosts(hop.known_hosts))
    jump = _open(place, identity, identity.key(), limits)
    try:
        _open_session(jump, limits)
        channel = jump.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=limits.connect)
    except BaseException as error:
        jump.close()
        raise _not_on(error, f"{hop.user}@{place.name}", address(host, port)) from error
    return _Through(channel, jump)


def _open_session(jump: paramiko.Transport, limits: Limits) -> None:
    """Run ``true`` on a jump host: without a session sshd leaves Nagle's algorithm on.

    Every command behind it then takes 40 ms more (measured with OpenSSH 9.2). An account that may do nothing
    but forward is refused it, and is slower.
    """
    try:
        session = jump.open_session(timeout=limits.connect)
        try:
            session.settimeout(limits.connect)
            session.exec_command("true")
            session.recv(1)
        finally:
            session.close()
    except (paramiko.SSHException, OSError, EOFError) as error:
        _log.info("no session on the jump host %s: %s", jump.getpeername(), error)


def _not_on(error: BaseException, jump: str, target: str) -> BaseException:
    """Return the error for a jump host that was reached and does not lead on."""
    if isinstance(error, paramiko.ChannelException) and error.code == PROHIBITED:
        return LoginNodeRefused(
            f"{jump} does not forward to {target}: on the jump host, AllowTcpForwarding in sshd_config and "
            "permitopen in authorized_keys have to let it"
        )
    if isinstance(error, (paramiko.SSHException, OSError, EOFError)):
        return LoginNodeUnreachable(f"{jump} gets no connection to {target}: {error or type(error).__name__}")
    return error


def _prefer(transport: paramiko.Transport, types: tuple[str, ...]) -> None:
    """Ask the host for a key of a type that is known, as ssh(1) does."""
    # "ssh-rsa" in known_hosts names a key; it signs by rsa-sha2-* (RFC 8332).
    names = [n for t in types for n in (("rsa-sha2-512", "rsa-sha2-256") if t == "ssh-rsa" else (t,))]
    options = transport.get_security_options()
    offered = list(options.key_types)
    first = [n for n in names if n in offered or n in hostcert.TYPES]
    options.key_types = tuple(first + [n for n in offered if n not in first])


def _known_hosts(path: Path) -> KnownHosts:
    try:
        return KnownHosts.parse(path.read_text(encoding="utf-8", errors="replace"), str(path))
    except OSError as error:
        raise HostKeyRefused(f"the known host keys in {path} cannot be read: {error.strerror}") from error
