"""One OpenSSH master: the connection to a login node that carries forwards to compute nodes.

A master is a process of its own (``ssh -f -N -M``) in a directory of its own; whoever knows the directory
can use it, so a restarted hub finds everything again. The directory holds:

- ``ctl``, the control socket (ControlPath in ssh_config(5));
- ``pid``, written once the master is usable;
- ``log``, what ssh said since it was started;
- ``made-with``, the settings that it was started with;
- ``jump``, the control socket of the connection to the jump host, if there is one, and ``jump.log``;
- ``ID.G.sock``, the socket of one forward, and ``ID.G.to``, the "host port" it leads to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import IO

from gateway.dataplane.access import share_directory, share_socket
from gateway.dataplane.orphans import clear, recorded_pid
from gateway.dataplane.tunnel import Forward, TunnelSettings
from gateway.errors import (
    DataPlaneError,
    GatewayError,
    HostKeyRefused,
    LoginNodeRefused,
    LoginNodeUnreachable,
)
from gateway.model import Completed
from gateway.siteconfig import Jump

_SOCKET = re.compile(r"([a-z2-7]{10})\.(\d{1,5})\.sock", re.ASCII)
_CHANGED_KEY = re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key .* has changed", re.IGNORECASE)
_UNKNOWN_KEY = re.compile(r"host key is known for|Host key verification failed|authenticity of host")
_REFUSED = re.compile(r"Permission denied \(|Too many authentication failures")
_NOT_FORWARDED = re.compile(r"administratively prohibited")
_BROKEN_SETUP = re.compile(r"Bad configuration option|Bad SSH2|command-line: line|No user exists for uid")

#: Set by the gateway and not by the machine's ssh_config, which is not read.
_OPTIONS = (
    "BatchMode=yes",
    "Ciphers=^aes128-gcm@openssh.com,aes256-gcm@openssh.com",
    "ClearAllForwardings=yes",
    "Compression=no",
    "ConnectionAttempts=1",
    "ControlPersist=no",
    "ExitOnForwardFailure=yes",
    "GlobalKnownHostsFile=/dev/null",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "LogLevel=ERROR",
    "PreferredAuthentications=publickey",
    "ServerAliveCountMax=3",
    "ServerAliveInterval=5",
    "StreamLocalBindMask=0177",
    "StreamLocalBindUnlink=yes",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
)

#: How many answers in a row, and for how many seconds, a master whose process is there may owe.
SILENCES_TO_BELIEVE, SILENT_FOR = 3, 30.0
#: Seconds that one which owed the last answer is waited for: it does not hold up the others again.
SILENT_TIMEOUT = 3.0

log = logging.getLogger(__name__)


class Pulse(Enum):
    """What is known of a master."""

    ALIVE = auto()
    """It answers."""
    UNKNOWN = auto()
    """It owes an answer, and its process is there: what goes through it may well go on."""
    GONE = auto()
    """There is no such process, or it does not answer any more."""


class Master:
    """One master, which may or may not be alive.

    Args:
        settings: The tunnel's.
        index: Which of the tunnel's masters it is; also the name of its directory.
    """

    def __init__(self, settings: TunnelSettings, index: int) -> None:
        self.index = index
        self.directory = settings.directory / str(index)
        self._settings = settings
        self._control = self.directory / "ctl"
        self._pid_file = self.directory / "pid"
        self._log_file = self.directory / "log"
        self._jump = self.directory / "jump"
        self._jump_log = self.directory / "jump.log"
        self._made_with = self.directory / "made-with"
        self._silences = 0
        self._silent_since = 0.0

    def __repr__(self) -> str:
        return f"<Master {self._settings.cluster}/{self.index}: {len(self.sockets())} forwards>"

    def sockets(self) -> dict[tuple[str, int], Path]:
        """Return the sockets of its forwards by server id and generation, as they are on disk."""
        try:
            found = [(_SOCKET.fullmatch(entry.name), entry) for entry in self.directory.iterdir()]
        except FileNotFoundError:
            return {}
        return {(match[1], int(match[2])): entry for match, entry in found if match}

    def target(self, server_id: str, generation: int) -> Forward | None:
        """Return the forward that was asked of it under this id and generation, if there was one."""
        try:
            host, port = (self.directory / f"{server_id}.{generation}.to").read_text("ascii").split()
        except (FileNotFoundError, ValueError):
            return None
        return Forward(server_id, generation, host, int(port))

    @property
    def silent(self) -> bool:
        """Whether it owed the last answer that it was asked for."""
        return self._silences > 0

    async def pulse(self) -> Pulse:
        """Return whether the master answers; make it usable if its start was interrupted.

        Raises:
            DataPlaneError: The ssh client cannot be run: nothing is known.
        """
        if not self._control.exists():
            return Pulse.GONE
        timeout = min(SILENT_TIMEOUT, self._settings.timeout) if self.silent else self._settings.timeout
        try:
            answer = await self._command("-O", "check", timeout=timeout)
        except TimeoutError:
            return self._no_answer()
        if answer.status < 0:  # a signal ended the client: the master has not said a word
            return self._no_answer()
        self._silences = 0
        found = re.search(r"\(pid=(\d+)\)", answer.stderr + answer.stdout)
        if answer.status != 0 or not found:
            return Pulse.GONE
        if not self._pid_file.exists():
            await self._open_session()
            self._pid_file.write_text(found[1], "ascii")
        return Pulse.ALIVE

    def _no_answer(self) -> Pulse:
        """Return what to believe after one more silence; the machine may only be busy."""
        now = time.monotonic()
        if not self._silences:
            self._silent_since = now
        self._silences += 1
        silent_for = now - self._silent_since
        log.warning(
            "[%s] master %d does not answer, for %.0f s now", self._settings.cluster, self.index, silent_for
        )
        ended = self._pid_file.exists() and recorded_pid(self.directory) is None
        if ended or (self._silences >= SILENCES_TO_BELIEVE and silent_for >= SILENT_FOR):
            return Pulse.GONE
        return Pulse.UNKNOWN

    def is_as_set(self) -> bool:
        """Return whether it was made with the settings of today, and not before they were changed."""
        try:
            return self._made_with.read_text("utf-8") == self._settings.destination
        except FileNotFoundError:
            return False

    async def start(self, host: str) -> None:
        """Connect to a login node and stay connected, whatever becomes of this process.

        Args:
            host: One of the tunnel's hosts.

        Raises:
            HostKeyRefused: The host key is unknown or has changed; the detail says how to add it.
            LoginNodeRefused: The login node does not take the user's key.
            LoginNodeUnreachable: No connection.
            DataPlaneError: The ssh client is missing or refuses its options, or a file cannot be written.
        """
        try:
            self._make_directory()
            self._made_with.write_text(self._settings.destination, "utf-8")
            with self._log_file.open("ab") as said:
                status = (await _run(self._connect(host), self._settings.timeout + 5, said)).status
        except TimeoutError:
            raise LoginNodeUnreachable(f"{host}: no connection within {self._settings.timeout} s") from None
        except OSError as error:
            raise DataPlaneError(f"{self.directory}: {error}") from error
        if status != 0:
            raise self._refusal(host)
        if await self.pulse() is not Pulse.ALIVE:
            raise LoginNodeUnreachable(f"{host}: the connection broke as soon as it was made")
        log.info("[%s] master %d is connected to %s", self._settings.cluster, self.index, host)

    def _refusal(self, host: str) -> GatewayError:
        """Return why ssh did not connect. If it does not know, the one to the jump host may."""
        settings, hop, said = self._settings, self._settings.jump, _said(self._log_file)
        known = any(words.search(said) for words in (_CHANGED_KEY, _UNKNOWN_KEY, _REFUSED, _BROKEN_SETUP))
        if hop and not known and (there := _said(self._jump_log)):
            return _translated(f"on the way to {host}: {there}", hop.host, hop, settings.program)
        return _translated(said, host, settings, settings.program)

    async def add(self, forward: Forward) -> Path:
        """Make a forward and return its socket. It says nothing of whether anybody listens at its end.

        Raises:
            DataPlaneError: The master is dead or could not bind the socket.
        """
        path = self.directory / f"{forward.stem}.sock"
        try:
            path.with_suffix(".to").write_text(f"{forward.host} {forward.port}\n", "ascii")
            answer = await self._command("-O", "forward", "-L", _specification(path, forward))
        except TimeoutError:
            raise DataPlaneError(f"{self!r} does not answer") from None
        except OSError as error:
            raise DataPlaneError(f"{self!r}: {error}") from error
        if answer.status != 0 or not path.exists():
            raise DataPlaneError(f"{self!r}: {forward.stem}: {answer.stderr.strip()}")
        return path

    async def remove(self, server_id: str, generation: int) -> None:
        """End a forward; what goes through it at the moment is not cut. It may be gone already.

        Raises:
            DataPlaneError: The ssh client cannot be run.
        """
        forward = self.target(server_id, generation)
        if forward is None:
            return
        path = self.directory / f"{forward.stem}.sock"
        path.unlink(missing_ok=True)  # first: a socket on disk always has a listener
        try:
            await self._command("-O", "cancel", "-L", _specification(path, forward))
        except TimeoutError:
            log.warning("%r does not answer: %s is not cancelled", self, forward.stem)
        path.with_suffix(".to").unlink(missing_ok=True)

    def leftovers(self) -> list[tuple[str, int]]:
        """Return what `remove` was interrupted in, by server id and generation."""
        there = self.sockets()
        names = (entry.name.removesuffix(".to").split(".") for entry in self.directory.glob("*.to"))
        return [key for key in ((name, int(generation)) for name, generation in names) if key not in there]

    async def end(self) -> None:
        """End the master, by its pid if it does not listen, and remove all that it left.

        Raises:
            DataPlaneError: The ssh client cannot be run.
        """
        if self._control.exists():
            try:
                await self._command("-O", "exit")
            except TimeoutError:
                log.warning("%r does not answer: it is killed", self)
        for _ in range(20):
            if recorded_pid(self.directory) is None:
                break
            await asyncio.sleep(0.05)
        self.clear()

    def clear(self) -> None:
        """Kill what is left of a master that does not answer, and remove its directory."""
        clear(self.directory)

    def share(self) -> None:
        """Let the settings' group connect to its forwards.

        Whoever made one may have been ended before it came to that, and the group may be another today.
        """
        with suppress(FileNotFoundError):  # somebody else clears up
            for directory in (self._settings.directory, self.directory):
                share_directory(directory, self._settings.group)
        for path in self.sockets().values():
            self._shared(path)

    def address(self, server_id: str, generation: int) -> Path | None:
        """Return a forward's socket, which the settings' group may connect to; None if it is not on disk."""
        path = self.directory / f"{server_id}.{generation}.sock"
        return path if path.exists() and self._shared(path) else None

    def _shared(self, path: Path) -> bool:
        try:
            share_socket(path, self._settings.group)
        except FileNotFoundError:  # cancelled in the meantime
            return False
        return True

    def _make_directory(self) -> None:
        self.clear()
        for directory in (self._settings.directory, self.directory):
            directory.mkdir(mode=0o700, exist_ok=True)
            share_directory(directory, self._settings.group)

    async def _open_session(self) -> None:
        """Run ``true`` on the login node: without a session sshd leaves Nagle's algorithm on.

        A request then waits 10 to 40 ms (measured with OpenSSH 9.2). A command that the key is bound to does
        as well.
        """
        controls = {"the tunnel's user": self._control}
        if hop := self._settings.jump:
            controls[f"{hop.user} on the jump host {hop.host}"] = self._jump
        for who, control in controls.items():
            try:
                answer = await self._command("-o", "ProxyCommand=false", after=("true",), control=control)
            except TimeoutError:
                answer = Completed(124)
            if answer.status in (124, 255):
                log.warning(
                    "[%s] %s cannot open a session: the tunnel will be slow: %s",
                    self._settings.cluster,
                    who,
                    answer.stderr.strip() or "no answer",
                )

    def _connect(self, host: str) -> list[str]:
        proxy = (
            ("-o", f"ProxyCommand={shlex.join(self._by_way_of(hop))}") if (hop := self._settings.jump) else ()
        )
        control = ("-M", "-S", str(self._control), "-E", str(self._log_file))
        return [*self._ssh(self._settings, "-f", "-N", *control), *proxy, "--", host]

    def _by_way_of(self, hop: Jump) -> list[str]:
        """Return the ssh that carries the master's connection: ssh replaces %h and %p, a shell runs it.

        It takes commands on a socket of its own, so that a session can be opened on it too. It ends with the
        master.
        """
        control = ("-M", "-S", str(self._jump), "-E", str(self._jump_log), "-o", "LogLevel=INFO")
        return [*self._ssh(hop, *control), "-W", "[%h]:%p", "--", hop.host]

    def _ssh(self, way: TunnelSettings | Jump, *control: str) -> list[str]:
        """Return the words for one connection: those given, then the port, the account, its key.

        ssh takes an option's first value, and whoever looks for a master finds its socket in the first words.
        """
        options = (
            *_OPTIONS,
            f"ConnectTimeout={max(1, round(self._settings.timeout))}",
            f"UserKnownHostsFile={way.known_hosts}",
        )
        words = [self._settings.program, *control, "-F", "/dev/null", "-i", str(way.key)]
        words += [word for option in options for word in ("-o", option)]
        return [*words, "-p", str(way.port), "-l", way.user]

    async def _command(
        self,
        *words: str,
        after: tuple[str, ...] = (),
        timeout: float | None = None,  # noqa: ASYNC109  (what it started is killed)
        control: Path | None = None,
    ) -> Completed:
        """Say something to the master over its control socket; ssh wants a host's name, and ignores it."""
        command = [self._settings.program, "-F", "/dev/null", "-S", str(control or self._control), *words]
        return await _run([*command, "--", "login", *after], timeout or self._settings.timeout)


def _specification(path: Path, forward: Forward) -> str:
    return f"{path}:{forward.host}:{forward.port}"


def _said(log_file: Path) -> str:
    return log_file.read_text("utf-8", "replace") if log_file.exists() else ""


def _translated(said: str, host: str, way: TunnelSettings | Jump, program: str) -> GatewayError:
    """Return the error for what ssh said when it did not connect (the words of OpenSSH 7.4 to 10)."""
    known_hosts, port = way.known_hosts, way.port
    name = host if port == 22 else f"[{host}]:{port}"
    add = f"ssh-keyscan -p {port} {host} >> {known_hosts}"
    if _CHANGED_KEY.search(said):
        fingerprint = re.search(r"SHA256:\S+?(?=\.?\s|\.?$)", said)
        return HostKeyRefused(
            f"The host key of {name} is not the one in {known_hosts}: it shows "
            f"{fingerprint[0] if fingerprint else 'another'}. If its administrators confirm the change: "
            f"ssh-keygen -f {known_hosts} -R '{name}' && {add}"
        )
    if _UNKNOWN_KEY.search(said):
        return HostKeyRefused(
            f"The host key of {name} is not in {known_hosts}. Add it with: {add} "
            f"and compare with the login node's administrators: ssh-keygen -lf {known_hosts}"
        )
    words = " / ".join(said.split("\n")).strip(" /")[-500:] or "ssh gave no reason"
    if _REFUSED.search(said):
        return LoginNodeRefused(f"{name} does not let {way.user} in with {way.key}: {words}")
    if _NOT_FORWARDED.search(said):
        return LoginNodeRefused(f"{name} does not lead {way.user} on to the login node: {words}")
    if _BROKEN_SETUP.search(said):
        return DataPlaneError(f"{program}: {words}")
    return LoginNodeUnreachable(f"{name}: {words}")


async def _run(
    words: Sequence[str],
    timeout: float,  # noqa: ASYNC109  (what it started is killed)
    stderr: IO[bytes] | None = None,
) -> Completed:
    """Run an ssh client and return what it did; it is gone when this returns or raises.

    Args:
        words: The program and its arguments.
        timeout: Seconds.
        stderr: Where it writes, for one that goes on in the background: it would keep a pipe open.

    Raises:
        TimeoutError: It took longer.
        DataPlaneError: It cannot be run.
    """
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=nothing,
            stdout=nothing if stderr else pipe,
            stderr=stderr or pipe,
            start_new_session=True,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except OSError as error:
        raise DataPlaneError(f"{words[0]} cannot be run: {error}. Install the OpenSSH client") from error
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
    text = ((stream or b"").decode("utf-8", "replace") for stream in (out, err))
    return Completed(process.returncode or 0, *text)
