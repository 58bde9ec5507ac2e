"""One OpenSSH master: the connection to a login node that carries forwards to compute nodes.

A master is a process of its own (``ssh -f -N -M``) in a directory of its own; whoever knows the directory
can use it, so a restarted hub finds everything again. The directory holds:

- ``ctl``, the control socket (ControlPath in ssh_config(5));
- ``pid``, written once the master is usable;
- ``log``, what ssh said since it was started;
- ``host``, the login node it is connected to, and ``made-with``, the other settings it was started with;
- ``draining``, since when it is to end once nothing goes through it;
- ``jump``, the control socket of the connection to the jump host, if there is one, and ``jump.log``;
- ``ID.G.to``, the "host port" that one forward leads to, and ``ID.G.sock``, its socket;
- ``ID.G.gone``, the same of one that is being ended; and ``config``, all that ssh was started with.

The ``.to`` files say which forwards there should be. A process that has died is replaced by one that makes
all of them again, at the same paths: whoever connects there need not know. Who keeps the masters and who
makes forwards may be two processes, without a lock: a forward is ended by renaming its ``.to`` first, and
whoever starts a process looks afterwards which of the forwards that it began with are no longer wanted.
In the directory of a master for what is large the names are ``ID.Gb``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import shlex
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from gateway.dataplane import sshclient
from gateway.dataplane.access import share_directory, share_socket
from gateway.dataplane.ciphers import CIPHERS
from gateway.dataplane.mux import Control, MasterGoneError
from gateway.dataplane.orphans import clear, kill, recorded_pid
from gateway.dataplane.refusals import is_explained, translated
from gateway.dataplane.tunnel import Forward, TunnelSettings, stem
from gateway.errors import DataPlaneError, GatewayError, LoginNodeUnreachable
from gateway.model import Completed
from gateway.siteconfig import Jump

_FILE = re.compile(r"([a-z2-7]{10})\.(\d{1,5})b?\.(to|sock|gone)", re.ASCII)
#: From which number on a master carries only what is large.
BULK_FIRST = 80
#: From which number on a master leads to a compute node, as one user: see `gateway.dataplane.nodes`.
NODES_FIRST = 1000
#: How many answers in a row, and for how many seconds, a master whose process is there may owe.
SILENCES_TO_BELIEVE, SILENT_FOR = 3, 30.0
#: Seconds that one which owed the last answer is waited for: it does not hold up the others again.
SILENT_TIMEOUT = 3.0

log = logging.getLogger(__name__)

Key = tuple[str, int]
"""A server's id and a generation."""


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

    #: Whether a new process begins with its forwards, or gets them once its first session has gone well.
    _at_once = True
    #: Further words of its ssh.
    _words: tuple[str, ...] = ()

    def __init__(self, settings: TunnelSettings, index: int) -> None:
        self.index = index
        self.bulk = index >= BULK_FIRST
        self.directory = settings.directory / str(index)
        self.load = 0
        self.draining = False
        self._settings = settings
        self.control = self.directory / "ctl"
        self._mux = Control(self.control, settings.timeout)
        self._pid_file = self.directory / "pid"
        self._log_file = self.directory / "log"
        self._jump = self.directory / "jump"
        self._jump_log = self.directory / "jump.log"
        self._host_file = self.directory / "host"
        self._made_with = self.directory / "made-with"
        self._config = self.directory / "config"
        self._drains_since = self.directory / "draining"
        self._silences = 0
        self._silent_since = 0.0

    def __repr__(self) -> str:
        return f"<Master {self._settings.cluster}/{self.index}: {self.load} forwards>"

    def _files(self) -> dict[str, set[Key]]:
        """Return what there is of forwards on disk, by the files' kind."""
        found: dict[str, set[Key]] = {"to": set(), "sock": set(), "gone": set()}
        try:
            names = os.listdir(self.directory)  # noqa: PTH208  (thrice as fast; there are hundreds)
        except FileNotFoundError:
            return found
        for name in names:
            if match := _FILE.fullmatch(name):
                found[match[3]].add((match[1], int(match[2])))
        return found

    def wanted(self) -> set[Key]:
        """Return which forwards it should have, by server id and generation. `load` is their number."""
        found = self._files()["to"]
        self.load = len(found)
        return found

    def sockets(self) -> dict[Key, Path]:
        """Return the sockets of its forwards, as they are on disk; a dead master's lead nowhere."""
        found = self._files()
        self.load = len(found["to"])
        return {key: self.path(key) for key in found["to"] & found["sock"]}

    def path(self, key: Key, kind: str = "sock") -> Path:
        """Return where a forward's socket is, or its file of another kind, whether there is one or not."""
        return self.directory / f"{stem(*key, bulk=self.bulk)}.{kind}"

    def target(self, key: Key, kind: str = "to") -> Forward | None:
        """Return the forward that was asked of it under this id and generation, if there was one."""
        try:
            host, port = self.path(key, kind).read_text("ascii").split()
            return Forward(*key, host, int(port), self.bulk)
        except (FileNotFoundError, ValueError):
            return None

    @property
    def silent(self) -> bool:
        """Whether it owed the last answer that it was asked for."""
        return self._silences > 0

    async def pulse(self) -> Pulse:
        """Return whether the master answers; make it usable if its start was interrupted.

        Raises:
            DataPlaneError: It cannot be asked: nothing is known.
        """
        if not self.control.exists():
            return Pulse.GONE
        timeout = min(SILENT_TIMEOUT, self._settings.timeout) if self.silent else self._settings.timeout
        try:
            pid = await self._mux.pid(timeout)
        except MasterGoneError:
            self._silences = 0
            return Pulse.GONE
        except TimeoutError:
            return self._no_answer()
        self._silences = 0
        if _said(self._pid_file) != str(pid):
            await self._open_session()
            self._pid_file.write_text(str(pid), "ascii")
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

    @property
    def host(self) -> str:
        """The login node that it is, or was last, connected to; "" if none."""
        return _said(self._host_file)

    def is_as_set(self, hosts: Collection[str]) -> bool:
        """Return whether it was made with the settings of today, and to one of these hosts."""
        return self.host in hosts and _said(self._made_with) == self._made_now()

    def _made_now(self) -> str:
        """Return the settings that it would be made with now, and which certificate."""
        certificate = self._settings.certificate
        content = certificate.read_bytes() if certificate and certificate.exists() else b""
        return f"{self._settings.destination} {hashlib.sha256(content).hexdigest()}"

    def draining_for(self) -> float:
        """Return for how many seconds it is to end once nothing goes through it: from the first call on."""
        with suppress(FileExistsError):
            self._drains_since.touch(exist_ok=False)
        return time.time() - self._drains_since.stat().st_mtime

    def pid(self) -> int | None:
        """Return the pid of its process, if that is there and usable."""
        return recorded_pid(self.directory)

    async def start(self, host: str, ciphers: str = CIPHERS) -> None:
        """Connect to a login node and stay connected, whatever becomes of this process.

        All forwards that it should have are there when this returns.

        Args:
            host: One of the tunnel's hosts.
            ciphers: Those to prefer, in this order, with commas.

        Raises:
            HostKeyRefused: The host key is unknown or has changed; the detail says how to add it.
            LoginNodeRefused: The login node does not take the user's key.
            LoginNodeUnreachable: No connection.
            DataPlaneError: The ssh client is missing or refuses its options, or a file cannot be written.
        """
        try:
            begun_with = self._prepare(host, ciphers)
            with self._log_file.open("ab") as said:
                status = (await sshclient.run(self._connect(host), self._settings.timeout + 5, said)).status
        except TimeoutError:
            raise LoginNodeUnreachable(f"{host}: no connection within {self._settings.timeout} s") from None
        except OSError as error:
            raise DataPlaneError(f"{self.directory}: {error}") from error
        if status != 0:
            raise self._refusal(host)
        if await self.pulse() is not Pulse.ALIVE:
            raise LoginNodeUnreachable(f"{host}: the connection broke as soon as it was made")
        if not self._at_once:
            for forward in begun_with:
                await self._make(forward)
        await self._end_unwanted(begun_with)
        self.share()
        log.info(
            "[%s] master %d is connected to %s, with %d forwards",
            self._settings.cluster,
            self.index,
            host,
            self.load,
        )

    def _prepare(self, host: str, ciphers: str) -> list[Forward]:
        """Make the directory ready for a new process; return the forwards that it will begin with."""
        kill(self.directory)
        for directory in (self._settings.directory, self.directory):
            directory.mkdir(mode=0o700, exist_ok=True)
            share_directory(directory, self._settings.group)
        for file in (
            self.control,
            self._pid_file,
            self._log_file,
            self._drains_since,
            self._jump,
            self._jump_log,
        ):
            file.unlink(missing_ok=True)
        for key in self._files()["gone"]:
            self.path(key).unlink(missing_ok=True)
            self.path(key, "gone").unlink(missing_ok=True)
        for key in self._files()["sock"] - self.wanted():
            self.path(key).unlink(missing_ok=True)
        forwards = [forward for forward in map(self.target, self.wanted()) if forward]
        self._host_file.write_text(host, "ascii")
        self._made_with.write_text(self._made_now(), "utf-8")
        lines = [f"Ciphers ^{ciphers}"]
        if self._at_once:
            lines += [f"LocalForward {self.path(_key(each))} {each.host}:{each.port}" for each in forwards]
        self._config.write_text("\n".join(lines) + "\n", "ascii")
        return forwards

    async def _end_unwanted(self, begun_with: Iterable[Forward]) -> None:
        """End what was cancelled while the process was starting: nobody could tell it."""
        unwanted = {_key(forward): forward for forward in begun_with}.keys() - self.wanted()
        for forward in (each for each in begun_with if _key(each) in unwanted):
            await self._finish(forward)

    def _refusal(self, host: str) -> GatewayError:
        """Return why ssh did not connect. If it does not know, the one to the jump host may."""
        settings, hop, said = self._settings, self._settings.jump, _said(self._log_file)
        if hop and not is_explained(said) and (there := _said(self._jump_log)):
            return translated(f"on the way to {host}: {there}", hop.host, hop, settings.program)
        return translated(said, host, settings, settings.program)

    async def add(self, forward: Forward) -> Path:
        """Make a forward and return its socket. It says nothing of whether anybody listens at its end.

        Raises:
            DataPlaneError: The master is dead or could not bind the socket.
        """
        path = self.path(_key(forward))
        try:
            path.with_suffix(".to").write_text(f"{forward.host} {forward.port}\n", "ascii")
        except OSError as error:
            raise DataPlaneError(f"{self!r}: {error}") from error
        await self._make(forward)
        self.load += 1
        return path

    async def _make(self, forward: Forward) -> None:
        path = self.path(_key(forward))
        try:
            await self._mux.open(path, *self._end_of(forward))
        except TimeoutError:
            raise DataPlaneError(f"{self!r} does not answer") from None
        except (MasterGoneError, OSError) as error:
            raise DataPlaneError(f"{self!r}: {error}") from error
        if not path.exists():
            raise DataPlaneError(f"{self!r}: {forward.stem}: there is no socket")

    def _end_of(self, forward: Forward) -> tuple[str, int]:
        """Return where a forward leads, as ssh is told."""
        return forward.host, forward.port

    async def remove(self, key: Key) -> None:
        """End a forward; what goes through it at the moment is not cut. It may be gone already."""
        forward = self.target(key)
        with suppress(FileNotFoundError):
            self.path(key, "to").rename(self.path(key, "gone"))  # first: from now on nobody makes it again
            self.load = max(0, self.load - 1)
        if forward or (forward := self.target(key, "gone")):
            await self._finish(forward)

    async def _finish(self, forward: Forward) -> None:
        """End a forward that is wanted no more."""
        path = self.path(_key(forward))
        path.unlink(missing_ok=True)  # first: a socket on disk has a listener, while the master lives
        try:
            await self._mux.close(path, *self._end_of(forward))
        except TimeoutError:
            log.warning("%r does not answer: %s is not cancelled yet", self, forward.stem)
            return
        except MasterGoneError:
            pass
        path.with_suffix(".gone").unlink(missing_ok=True)

    def leftovers(self) -> set[Key]:
        """Return what `add` or `remove` was interrupted in, by server id and generation."""
        found = self._files()
        return found["gone"] | (found["to"] - found["sock"])

    async def quit(self) -> None:
        """End the process, by its pid if it does not listen. What was asked of it stays on disk."""
        try:
            await self._mux.terminate()
        except MasterGoneError:  # also where it does as it is told: it does not wait until it is heard
            pass
        except TimeoutError:
            log.warning("%r does not answer: it is killed", self)
        for _ in range(20):
            if recorded_pid(self.directory) is None:
                break
            await asyncio.sleep(0.05)
        kill(self.directory)

    async def end(self) -> None:
        """End the master and remove all that it left."""
        await self.quit()
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

    def address(self, key: Key) -> Path | None:
        """Return a forward's socket, which the settings' group may connect to; None if it is not on disk."""
        path = self.path(key)
        return path if path.exists() and self._shared(path) else None

    def _shared(self, path: Path) -> bool:
        try:
            share_socket(path, self._settings.group)
        except FileNotFoundError:  # cancelled in the meantime
            return False
        return True

    async def _open_session(self) -> None:
        """Run ``true`` on the login node: without a session sshd leaves Nagle's algorithm on.

        A request then waits 10 to 40 ms (measured with OpenSSH 9.2). A command that the key is bound to does
        as well.
        """
        controls = {"the tunnel's user": self.control}
        if hop := self._settings.jump:
            controls[f"{hop.user} on the jump host {hop.host}"] = self._jump
        for who, control in controls.items():
            try:
                answer = await sshclient.run_true(self._settings.program, control, self._settings.timeout)
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
        way = self._proxy()
        proxy = ("-o", f"ProxyCommand={shlex.join(way)}") if way else ()
        control = ("-M", "-S", str(self.control), "-E", str(self._log_file))
        words = ("-f", "-N", *control, *self._words, "-F", str(self._config))
        return [*self._call(self._settings, *words), *proxy, "--", host]

    def _proxy(self) -> list[str]:
        """Return the words of the program that carries the connection; none if there is none."""
        return self._by_way_of(hop) if (hop := self._settings.jump) else []

    def _by_way_of(self, hop: Jump) -> list[str]:
        """Return the ssh that carries the master's connection: ssh replaces %h and %p, a shell runs it.

        It takes commands on a socket of its own, so that a session can be opened on it too. It ends with the
        master.
        """
        control = ("-M", "-S", str(self._jump), "-E", str(self._jump_log), "-o", "LogLevel=INFO")
        return [*self._call(hop, *control, "-F", "/dev/null"), "-W", "[%h]:%p", "--", hop.host]

    def _call(self, way: TunnelSettings | Jump, *control: str) -> list[str]:
        return sshclient.connecting(self._settings.program, way, self._settings.timeout, *control)


def _key(forward: Forward) -> Key:
    return forward.server_id, forward.generation


def _said(log_file: Path) -> str:
    return log_file.read_text("utf-8", "replace") if log_file.exists() else ""
