"""One SSH connection to a compute node, as the person whose job is there: see `gateway.dataplane.nodes`."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.dataplane import sshclient
from gateway.dataplane.ciphers import CIPHERS
from gateway.dataplane.mux import PATH
from gateway.dataplane.openssh import Master
from gateway.dataplane.orphans import kill
from gateway.dataplane.refusals import node_refusal
from gateway.dataplane.tunnel import Forward, TunnelSettings
from gateway.errors import DataPlaneError, GatewayError, LoginNodeRefused, LoginNodeUnreachable
from gateway.files import write_private


@dataclass(frozen=True, slots=True)
class Credentials:
    """A private key in OpenSSH's format, and its certificate (one line)."""

    private: bytes
    certificate: str


@dataclass(frozen=True, slots=True)
class Nodes:
    """How the compute nodes of a cluster are reached.

    Attributes:
        known_hosts: The file with their host keys.
        port: sshd's port on them.
        directory: Returns the directory of a user's sockets there.
        certify: Returns what a user logs in with, once, to run one command and to forward. It blocks.
    """

    known_hosts: Path
    port: int
    directory: Callable[[str], str]
    certify: Callable[[str, str], Credentials]


class NodeMaster(Master):
    """A master that leads to one compute node, as one user.

    Args:
        settings: Of the way to the login nodes; its account and hosts are not used.
        index: The number of its directory.
        who: The user and the node.
        nodes: How nodes are reached.
        gate: Returns the control socket of a master to a login node, None if there is none.
    """

    _at_once = False
    #: At this level ssh tells what a module of PAM says to who is refused.
    _words = ("-o", "LogLevel=INFO")

    def __init__(
        self,
        settings: TunnelSettings,
        index: int,
        who: tuple[str, str],
        nodes: Nodes,
        gate: Callable[[], Path | None],
    ) -> None:
        directory, (user, node) = settings.directory / str(index), who
        own = replace(
            settings,
            hosts=(node,),
            port=nodes.port,
            user=user,
            key=directory / "key",
            certificate=directory / "key-cert.pub",
            known_hosts=nodes.known_hosts,
            jump=None,
        )
        super().__init__(own, index)
        self.bulk = False
        self.who = who
        self.changing = asyncio.Lock()
        self._nodes = nodes
        self._gate = gate
        self._cluster = settings.cluster
        self._key, self._certificate = directory / "key", directory / "key-cert.pub"
        self._sockets = nodes.directory(user)

    def __repr__(self) -> str:
        user, node = self.who
        return f"<NodeMaster {self._cluster}/{self.index}: {user} at {node}, {self.load} forwards>"

    def want(self, forward: Forward) -> None:
        """Write that there is to be a forward; whoever connects makes it.

        Raises:
            DataPlaneError: It cannot be written.
        """
        try:
            self.path((forward.server_id, forward.generation), "to").write_text(
                f"{forward.host} {forward.port}\n", "ascii"
            )
        except OSError as error:
            raise DataPlaneError(f"{self!r}: {error}") from error

    async def start(self, host: str, ciphers: str = CIPHERS) -> None:
        """Connect, see that the sockets' directory is the user's, make the forwards: see `Master.start`."""
        try:
            made = await asyncio.to_thread(self._nodes.certify, self.who[0], owned(self._sockets))
            write_private(self._key, made.private)
            write_private(self._certificate, f"{made.certificate}\n".encode())
            await super().start(host, ciphers)
        except BaseException as error:
            kill(self.directory)
            if isinstance(error, OSError):
                raise DataPlaneError(f"{self!r}: {error}") from error
            raise
        finally:
            self._key.unlink(missing_ok=True)
            self._certificate.unlink(missing_ok=True)

    def _end_of(self, forward: Forward) -> tuple[str, int]:
        """Return the application's socket on the node: this start's, whatever the job said."""
        return f"{self._sockets}/{forward.server_id}.{forward.port}", PATH

    def _proxy(self) -> list[str]:
        """Return the ssh that goes on from the login node: a client of the master there."""
        gate = self._gate()
        if gate is None:
            raise LoginNodeUnreachable(f"{self!r}: there is no connection to a login node now")
        return [*sshclient.through(self._settings.program, gate), "-W", "[%h]:%p", "--", "login"]

    async def _open_session(self) -> None:
        """Have the node run what the certificate dictates; a session is needed anyway: see `Master`.

        Raises:
            LoginNodeRefused: The directory of the sockets is not the user's own, or there is none.
            LoginNodeUnreachable: No answer.
        """
        user, node = self.who
        try:
            answer = await sshclient.run_true(self._settings.program, self.control, self._settings.timeout)
        except TimeoutError:
            raise LoginNodeUnreachable(f"{node}: no session as {user} within the time") from None
        if answer.status == 255:
            raise LoginNodeUnreachable(f"{node}: no session as {user}: {answer.stderr.strip()[-300:]}")
        if answer.status != 0:
            raise LoginNodeRefused(
                f"{node}: {self._sockets} is not a directory of {user}'s own there, or the certificate's "
                f"command cannot be run (status {answer.status}): nothing is forwarded"
            )

    def _refusal(self, host: str) -> GatewayError:
        said = self._log_file.read_text("utf-8", "replace") if self._log_file.exists() else ""
        return node_refusal(said, host, self._settings)


def owned(directory: str) -> str:
    """Return the command that succeeds if a directory belongs to who runs it, whatever the shell."""
    word = shlex.quote(directory)
    return f"exec /bin/sh -c 'test -d {word} && test ! -L {word} && test -O {word}'"
