"""A login node that is this very host: the same program for ``/bin/sh`` as over SSH, run here."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import pwd
import secrets
import signal
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.errors import ConfigError, LoginNodeUnreachable
from gateway.model import Command, Completed
from gateway.siteconfig import Login
from gateway.ssh import remote
from gateway.ssh.runner import AnswerLost, NotBegun

_SHELL = "/bin/sh"
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
#: The hub raises its own limit of open files. What it starts gets the usual one back: Slurm hands a submit
#: command's limits on to the job, and select(2) fails beyond 1024.
_LIMITS = b"ulimit -S -n 1024 2>/dev/null\n"
#: Seconds that a shell may take to end: one whose whole answer is there, and one that was killed.
_ENDS_WITHIN, _DIES_WITHIN = 1.0, 5.0
#: How often a session is looked through for what was started while it was being killed.
_ROUNDS = 20

log = logging.getLogger(__name__)


class LocalNode:
    """The login node that the hub runs on: a ``Runner``.

    Each command has a session of its own, so that a signal to the hub does not reach it. One that is given up
    is killed with all that it started, but for what runs as another account (``sudo``) or has left the
    session.

    Args:
        login: As whom.
        grace: Seconds that a command may take beyond its own limit.
        at_once: How many run at once; the others wait.
        output: Bytes of output beyond which an answer is refused.

    Raises:
        ConfigError: The gateway runs as another account than ``login.user``.
    """

    def __init__(
        self, login: Login, *, grace: float = 8.0, at_once: int = 8, output: int = 16 * 2**20
    ) -> None:
        account = own_account()
        if account.pw_name != login.user:
            raise ConfigError(
                f"login.user is {login.user}, but the gateway runs as {account.pw_name}: with transport: "
                f"local they are one. Write user: {account.pw_name}, or run the gateway as {login.user}"
            )
        self._user = login.user
        self._environment = {
            "HOME": account.pw_dir,
            "USER": account.pw_name,
            "LOGNAME": account.pw_name,
            "PATH": _PATH,
        }
        self._grace = grace
        self._output = output
        self._room = asyncio.Semaphore(at_once)
        self._runs: set[asyncio.Task[Completed]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<LocalNode {self._user}@localhost{' closed' if self._closed else ''}>"

    async def aclose(self) -> None:
        """End what runs. A second call does nothing."""
        self._closed = True
        runs = tuple(self._runs)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)

    async def run(
        self,
        command: Command,
        *,
        stdin: bytes = b"",
        timeout: float,  # noqa: ASYNC109  (the program's own limit)
        output: int | None = None,
    ) -> Completed:
        """Run a command on this host: see ``Runner.run``."""
        if self._closed:
            raise LoginNodeUnreachable(f"{self!r}")
        nonce, limit = secrets.token_hex(16), max(1, math.ceil(timeout))
        program = remote.program(command, stdin=stdin, limit=limit, nonce=nonce)
        answer = remote.Answer(nonce, output or self._output)
        run = asyncio.create_task(self._run(program, answer, limit + self._grace))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        try:
            return await run
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise AnswerLost(f"{self!r} was closed while a command ran") from None

    async def _run(self, program: bytes, answer: remote.Answer, limit: float) -> Completed:
        async with self._room:
            shell = await _Shell.start(answer, self._environment)
            try:
                async with asyncio.timeout(limit):
                    await shell.answer_to(_LIMITS + program)
            except TimeoutError:
                raise AnswerLost(f"a command did not answer within {limit:g} s") from None
            finally:
                # In a task of its own: whoever is cancelled here, all that was started is killed.
                await asyncio.shield(asyncio.create_task(shell.end()))
            if shell.status >= 0 and not answer.begun:
                raise NotBegun(shell.status, answer.noise)
            return answer.completed()


class _Shell(asyncio.SubprocessProtocol):
    """A shell in a session of its own, which is told a program and whose output goes into an answer.

    Not ``asyncio.subprocess``: there the end of the process is not known before the pipes are closed (3.11),
    and what the command leaves behind may keep them open.
    """

    def __init__(self, answer: remote.Answer) -> None:
        loop = asyncio.get_running_loop()
        self._answer = answer
        self._answered: asyncio.Future[None] = loop.create_future()
        self._exited = asyncio.Event()
        self._open = {1, 2}
        self._transport: asyncio.SubprocessTransport

    @property
    def status(self) -> int:
        """Its exit status; below 0 if a signal ended it, or if it has not ended."""
        status = self._transport.get_returncode()
        return -1 if status is None else status

    @classmethod
    async def start(cls, answer: remote.Answer, environment: dict[str, str]) -> _Shell:
        """Start one.

        Raises:
            LoginNodeUnreachable: It cannot be started; nothing runs.
        """
        loop = asyncio.get_running_loop()
        try:
            transport, shell = await loop.subprocess_exec(
                lambda: cls(answer), _SHELL, cwd="/", env=environment, start_new_session=True
            )
        except OSError as error:
            raise LoginNodeUnreachable(f"{_SHELL} cannot be started: {error}") from error
        shell._transport = transport  # noqa: SLF001  its own
        return shell

    async def answer_to(self, program: bytes) -> None:
        """Have the program run; return when its whole answer is there, or will never be.

        Raises:
            AnswerLost: It answers too much.
        """
        pipe = self._transport.get_pipe_transport(0)
        assert isinstance(pipe, asyncio.WriteTransport)  # noqa: S101  it was started with a pipe
        pipe.write(program)
        pipe.write_eof()
        await self._answered

    async def end(self) -> None:
        """See that the shell has ended, and with it, if its answer is not whole, all that it started."""
        if not (self._answer.complete and await self._exits(_ENDS_WITHIN)):
            await asyncio.to_thread(_kill_session, self._transport.get_pid())
            if not await self._exits(_DIES_WITHIN):
                log.warning("a shell was killed and does not end: process %d", self._transport.get_pid())
        self._transport.close()

    async def _exits(self, within: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._exited.wait()
        return self._exited.is_set()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take a part of the answer."""
        if self._answered.done():
            return
        try:
            self._answer.feed(**{"stdout" if fd == 1 else "stderr": data})
        except AnswerLost as error:
            self._answered.set_exception(error)
            return
        if self._answer.complete:
            self._answered.set_result(None)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Wait no longer if nothing can come any more."""
        self._open.discard(fd)
        if not self._open and not self._answered.done():
            self._answered.set_result(None)

    def process_exited(self) -> None:
        """Know that the shell has ended."""
        self._exited.set()


def own_account() -> pwd.struct_passwd:
    """Return the account that this process runs as.

    Raises:
        ConfigError: Its uid has no name.
    """
    try:
        return pwd.getpwuid(os.geteuid())
    except KeyError:
        raise ConfigError(f"the gateway runs as uid {os.geteuid()}, which has no name on this host") from None


def _kill_session(leader: int) -> None:
    """Kill the processes of a session, also those in process groups of their own, as timeout(1) makes one."""
    for _ in range(_ROUNDS):
        members = _members(leader)
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not members:
            return


def _members(session: int) -> list[int]:
    """Return the processes of a session that have not ended, and that this account may signal."""
    processes = (entry for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [int(process.name) for process in processes if _lives_in(process, session)]


def _lives_in(process: Path, session: int) -> bool:
    try:
        state, _, _, found = (process / "stat").read_text("ascii", "replace").rpartition(")")[2].split()[:4]
        return int(found) == session and state not in ("Z", "X") and process.stat().st_uid == os.geteuid()
    except (OSError, ValueError):
        return False
