"""What a tunnel does, and what it is made of: one cluster's settings, and a forward to one server. No I/O."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.address import Address
from gateway.errors import ConfigError
from gateway.metrics import MasterSample
from gateway.model import SERVER_ID
from gateway.siteconfig import HOST, Jump

#: The longest path of a unix socket, in bytes: unix(7), sun_path less its NUL.
SOCKET_PATH_MAX = 107
#: The most forwards on one master: 1,000 cost it 30 % of its throughput, 200 nothing.
FORWARDS_MAX = 256
#: The largest generation of a forward; it bounds the length of a socket's path.
GENERATION_MAX = 99_999
#: ssh binds the control socket as ``ctl.`` and 16 random characters before it renames it (mux.c).
_LONGEST_NAME = max(len("ctl.") + 16, len(f"{'x' * 10}.{GENERATION_MAX}b.sock"))

#: Paths that neither ssh's ``%`` and ``${}`` expansion nor its splitting of lists can take for more.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./@+-]*", re.ASCII)
_PLAIN_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)


class Tunnel(Protocol):
    """The ways to the servers on one cluster. They outlive the hub: another finds them again."""

    async def tend(self) -> None:
        """See that ways can be made and carry. Called again and again.

        Raises:
            GatewayError: None can.
        """
        ...

    async def forward(self, server_id: str, generation: int, host: str, port: int, user: str = "") -> Address:
        """Return where a server is reached; the way there is made if there is none.

        Args:
            server_id: The server's id.
            generation: From 0 to 99999; a new one for every endpoint and after every loss.
            host: The compute node as the scheduler names it.
            port: The application's TCP port there, or the number of its socket.
            user: The account that the job belongs to.

        Raises:
            ValueError: An argument is malformed.
            GatewayError: The way cannot be made, or is there for another endpoint.
        """
        ...

    async def forwards(self) -> Mapping[tuple[str, int], Address]:
        """Return what is really there, by server id and generation.

        Raises:
            DataPlaneError: Nothing is known.
        """
        ...

    def address(self, server_id: str, generation: int) -> Address | None:
        """Return where a way that was made begins, without asking whether it still carries."""
        ...

    async def confirmed(self, server_id: str, generation: int) -> Address | None:
        """Return the same if it does still carry, as far as can be known: for when the server is silent.

        Raises:
            DataPlaneError: Nothing is known.
        """
        ...

    def bulk(self, server_id: str, generation: int) -> Address | None:
        """Return where the same way begins for what is large; None if that has none of its own now."""
        ...

    def carrier(self, server_id: str, generation: int) -> tuple[int, str] | None:
        """Return which master carries a way, and the login node it goes by; None where there is none."""
        ...

    def draining(self, server_id: str, generation: int) -> bool:
        """Return whether a way will end soon and another one can be made: for what is opened from now on.

        What is open on it may stay until it ends by itself, or the way does.
        """
        ...

    async def pause(self, most: float) -> None:
        """Return when `tend` has something to do, at the latest after ``most`` seconds."""
        ...

    async def cancel(self, server_id: str, generation: int) -> None:
        """End a way; it may be gone already. Open connections are not cut.

        Raises:
            DataPlaneError: It cannot be ended now.
        """
        ...

    async def stop(self) -> None:
        """End all ways and what carries them. Safe to call twice."""
        ...

    def masters(self) -> Sequence[MasterSample]:
        """Return the SSH masters as they were last seen, none where there are none."""
        ...


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """How one cluster's tunnel is made.

    Attributes:
        cluster: The cluster's name, for the log.
        hosts: The login nodes, taken in turn.
        port: sshd's port on them.
        user: The account there; it needs nothing but forwarding.
        key: The private key's file.
        known_hosts: The file with the login nodes' host keys.
        count: How many masters to keep, at least 1.
        bulk: How many more carry nothing but what is large.
        directory: Where the masters live: ``RUN_DIR/t/CLUSTER``. Its parent exists and is 0700.
        program: The ssh client.
        timeout: Seconds that connecting, or one command to a master, may take.
        retry: Seconds from a failure to the next try: after the first one, and at most.
        group: The group that may connect to the forwards: HAProxy's, where it is not the gateway's own.
        jump: The host through which the login nodes are reached, with its key and known hosts.
        certificate: The key's certificate, read anew whenever it is another one.
        drain: Seconds that what is open may stay on a master that is to end.
    """

    cluster: str
    hosts: tuple[str, ...]
    port: int
    user: str
    key: Path
    known_hosts: Path
    count: int
    directory: Path
    program: str = "ssh"
    timeout: float = 10.0
    retry: tuple[float, float] = (1.0, 60.0)
    group: int | None = None
    jump: Jump | None = None
    bulk: int = 0
    certificate: Path | None = None
    drain: float = 900.0

    @property
    def destination(self) -> str:
        """Where it leads and as whom, in words: a master that was made with others is to be replaced."""
        words = f"{self.port} {self.user} {self.key} {self.known_hosts} {self.certificate or '-'}"
        hop = self.jump
        return f"{words} by {hop.host} {hop.port} {hop.user} {hop.key} {hop.known_hosts}" if hop else words

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: A path is too long for a socket or holds characters that ssh would expand; a host,
                port or user is none.
        """
        too_long = len(os.fsencode(self.directory)) + len("/99/") + _LONGEST_NAME - SOCKET_PATH_MAX
        if too_long > 0:
            raise ConfigError(
                f"{self.directory}: {too_long} bytes too long: the path of a socket in it would not fit into "
                f"{SOCKET_PATH_MAX} bytes. Choose a shorter run_dir, such as /run/gateway"
            )
        hop = self.jump
        for path in (
            self.directory,
            self.key,
            self.known_hosts,
            *((hop.key, hop.known_hosts) if hop else ()),
            *((self.certificate,) if self.certificate else ()),
        ):
            if not _PLAIN_PATH.fullmatch(str(path)):
                raise ConfigError(f"{path}: must be absolute and of letters, digits and _ . / @ + - only")
        if not self.hosts or not all(re.fullmatch(HOST, host, re.ASCII) for host in self.hosts):
            raise ConfigError(f"{self.cluster}: tunnel hosts {self.hosts!r}: not the names of login nodes")
        if hop and not (re.fullmatch(HOST, hop.host, re.ASCII) and _PLAIN_USER.fullmatch(hop.user)):
            raise ConfigError(
                f"{self.cluster}: tunnel: jump: host {hop.host!r} or user {hop.user!r} is wrong"
            )
        counts = self.count >= 1 and self.bulk >= 0
        if not (_PLAIN_USER.fullmatch(self.user) and 1 <= self.port <= 65535 and counts):
            raise ConfigError(
                f"{self.cluster}: tunnel: user {self.user!r}, port {self.port} or count is wrong"
            )


@dataclass(frozen=True, slots=True)
class Forward:
    """A forward to one server's endpoint, for ever: ``generation`` is new for another endpoint.

    ``bulk`` is the one for what is large, which goes by a master of its own kind.

    Raises:
        ValueError: A field is not what it should be; nothing of it reached ssh.
    """

    server_id: str
    generation: int
    host: str
    port: int
    bulk: bool = False

    def __post_init__(self) -> None:
        if not SERVER_ID.fullmatch(self.server_id) or not 0 <= self.generation <= GENERATION_MAX:
            raise ValueError(f"not a server id and generation: {self.server_id!r}, {self.generation!r}")
        if not re.fullmatch(HOST, self.host, re.ASCII) or not 1 <= self.port <= 65535:
            raise ValueError(f"not an endpoint: {self.host!r}, port {self.port!r}")

    @property
    def stem(self) -> str:
        """The name of its files, without the suffix."""
        return stem(self.server_id, self.generation, bulk=self.bulk)


def stem(server_id: str, generation: int, *, bulk: bool) -> str:
    """Return the name of a forward's files, without the suffix: also that of HAProxy's server."""
    return f"{server_id}.{generation}{'b' if bulk else ''}"
