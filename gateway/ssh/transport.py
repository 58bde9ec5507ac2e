"""One authenticated SSH connection to a login node. Blocking, with a limit on every step."""

from __future__ import annotations

import logging
import random
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

import paramiko

from gateway.errors import GatewayError, HostKeyRefused, LoginNodeRefused, LoginNodeUnreachable
from gateway.siteconfig import Login
from gateway.ssh.known_hosts import HostKey, KnownHosts, address

_log = logging.getLogger(__name__)
_BANNER_TRIES = 4


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


def quiet_library_log(level: int = logging.CRITICAL) -> None:
    """Set how much paramiko logs: it prints tracebacks for errors that were caught and dealt with."""
    logging.getLogger("paramiko").setLevel(level)


def connect(login: Login, limits: Limits, closing: threading.Event) -> paramiko.Transport:
    """Return a connection, logged in, to the first of the login nodes that answers.

    Args:
        login: Where, as whom and with which key.
        limits: How long each step may take.
        closing: Ends the waiting between two tries.

    Raises:
        HostKeyRefused: A login node's key is not the known one.
        LoginNodeRefused: The key or the account is not accepted, or the key cannot be read.
        LoginNodeUnreachable: None answers.
    """
    known = _known_hosts(login.known_hosts)
    key = _private_key(login.key)
    failures = []
    for host in login.hosts:
        try:
            return _patiently(login, host, key, known, limits, closing)
        except LoginNodeUnreachable as error:
            failures.append(str(error))
    raise LoginNodeUnreachable("; ".join(failures))


def _patiently(
    login: Login,
    host: str,
    key: paramiko.PKey,
    known: KnownHosts,
    limits: Limits,
    closing: threading.Event,
) -> paramiko.Transport:
    """Connect to one host, again if it drops the connection before its banner (sshd's MaxStartups)."""
    for attempt in range(_BANNER_TRIES):
        try:
            return _open(login, host, key, known, limits)
        except _NoBanner as error:
            failure = error
        if closing.wait(random.uniform(0.2, 0.6) * 2**attempt):  # noqa: S311  (jitter, no secret)
            break
    raise LoginNodeUnreachable(str(failure))


class _NoBanner(GatewayError):
    """The host took the connection and dropped it before it said anything."""


def _open(
    login: Login, host: str, key: paramiko.PKey, known: KnownHosts, limits: Limits
) -> paramiko.Transport:
    name = address(host, login.port)
    where = f"{login.user}@{name}"
    transport = None
    try:
        transport = paramiko.Transport(_socket(host, login.port, limits))
        transport.banner_timeout = transport.handshake_timeout = limits.connect
        transport.auth_timeout = limits.connect
        _prefer(transport, known.types(name))
        transport.start_client(timeout=limits.connect)
        shown = transport.get_remote_server_key()
        known.check(name, HostKey(shown.get_name(), shown.get_base64()))
        if transport.auth_publickey(login.user, key):
            raise LoginNodeRefused(f"{where}: the key was accepted, but the host asks for more than a key")
        transport.set_keepalive(limits.keepalive)
    except BaseException as error:
        if transport is not None:
            transport.close()
        raise _translated(error, where, login) from error
    _log.info("connected to %s", where)
    return transport


def _translated(error: BaseException, where: str, login: Login) -> BaseException:
    if isinstance(error, paramiko.AuthenticationException):
        return LoginNodeRefused(f"{where}: the key {login.key} is not accepted ({error})")
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


def _prefer(transport: paramiko.Transport, types: tuple[str, ...]) -> None:
    """Ask the host for a key of a type that is known, as ssh(1) does."""
    # "ssh-rsa" in known_hosts names a key; it signs by rsa-sha2-* (RFC 8332).
    names = [n for t in types for n in (("rsa-sha2-512", "rsa-sha2-256") if t == "ssh-rsa" else (t,))]
    options = transport.get_security_options()
    offered = list(options.key_types)
    first = [n for n in names if n in offered]
    options.key_types = tuple(first + [n for n in offered if n not in first])


def _known_hosts(path: Path) -> KnownHosts:
    try:
        return KnownHosts.parse(path.read_text(encoding="utf-8", errors="replace"), str(path))
    except OSError as error:
        raise HostKeyRefused(f"the known host keys in {path} cannot be read: {error.strerror}") from error


def _private_key(path: Path) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_path(path)
    except (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
        raise LoginNodeRefused(f"the key {path} cannot be used: {error}") from error
