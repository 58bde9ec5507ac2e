"""A cluster's queue: submits, lists, cancels and tidies up jobs by way of its login node."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import NoReturn

from gateway.auth import DENIED_NAMES
from gateway.errors import (
    ConfigError,
    Forbidden,
    GatewayError,
    LoginNodeRefused,
    LoginNodeUnreachable,
    QueueUnreachable,
    StateDirUnwritable,
    SubmitOutcomeUnknown,
)
from gateway.launcher import LauncherStatus, launcher_text
from gateway.launcher.wire import read_exited, read_files, sections
from gateway.model import SERVER_ID, USER_NAME, Command, Completed, JobId, JobState, Listing
from gateway.schedulers import Scheduler
from gateway.script import Exit, read_exit
from gateway.siteconfig import SiteConfig
from gateway.ssh.runner import AnswerLost, NotBegun, Runner, Users

#: Names in one status command: Linux takes at most 128 KiB in one word (MAX_ARG_STRLEN).
_NAMES_AT_ONCE = 4000
#: Launchers that run at once. A login node takes a few more commands: there is always room for a listing.
_LAUNCHES = 6
#: sudo's and the shell's own exit statuses when the launcher never ran.
_NEVER_RAN = (1, 126, 127)
#: Exit statuses of a shell that finds no launcher, or one that refuses the gateway's words.
_NO_LAUNCHER = (126, 127, LauncherStatus.USAGE, LauncherStatus.REFUSED)
#: Characters of a job's log that are kept, and of its exit file; the launcher sends no more bytes of either.
_LOG_TAIL, _EXIT_FILE = 4096, 200
#: Characters that the launcher may answer with: two files, or what one command of the scheduler says of one
#: job. It is the user's own account that answers, so it may be anything.
_LONGEST_ANSWER = 64 * 1024
#: What timeout(1) makes of a command that it ended.
_ENDED_BY_LIMIT = (124, 137)


@dataclass(frozen=True, slots=True)
class Allowance:
    """Seconds that things may take on the login node.

    ``scheduler`` is for one command of the scheduler (below 300), ``launcher`` for what the launcher does
    besides.
    """

    scheduler: int = 40
    launcher: int = 20


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known of a job that has ended.

    ``state`` is the accounting's word, ``exit`` the job's own; None if nobody says. ``log_tail`` is the end
    of the job's log, of 4096 characters at most.
    """

    state: JobState | None
    exit: Exit | None
    log_tail: str

    @property
    def words(self) -> str:
        """What is known, but for the log."""
        left = f"{self.exit.word}, exit status {self.exit.status}" if self.exit else "nothing"
        return f"the scheduler says {self.state or 'nothing'}, the job itself {left}"


class Queue:
    """The queue of one cluster.

    Args:
        site: The cluster.
        scheduler: What to run there, and how to read it.
        runner: Runs it on the login node.
        allowance: How long it may take.
        users: What runs the launcher as each user, for ``act_as: certificate``.
    """

    def __init__(
        self,
        site: SiteConfig,
        scheduler: Scheduler,
        runner: Runner,
        allowance: Allowance | None = None,
        users: Users | None = None,
    ) -> None:
        self._site = site
        self._scheduler = scheduler
        self._runner = runner
        self._allowance = allowance or Allowance()
        self._users = users
        self._launches = asyncio.Semaphore(_LAUNCHES)

    def __repr__(self) -> str:
        return f"<Queue {self._scheduler.name} of {self._site.name} via {self._runner!r}>"

    def owner(self, user: str) -> str:
        """Return the account that a person's jobs belong to on this cluster."""
        return self._site.login.owner(user)

    async def submit(self, user: str, server_id: str, files: Mapping[str, bytes]) -> JobId:
        """Store a server's files in its state directory and submit the ``script`` among them: one exec.

        It is safe to call again: a job that was accepted is not submitted twice for the same ``server_id``.

        Args:
            user: Whose server.
            server_id: Names the state directory.
            files: Names and contents; they are stored with mode 0600.

        Raises:
            SubmitRefused: The scheduler said no, in its own words.
            StateDirUnwritable: The files cannot be stored.
            SubmitOutcomeUnknown: The job may exist: look for its name.
            LoginNodeUnreachable, QueueUnreachable: Nothing was submitted; it can be tried again.
            LoginNodeRefused, HostKeyRefused, Forbidden: Nothing was submitted, and trying again is no use.
        """
        words = self._scheduler.submit_command().words
        text = sections(
            [
                *self._state_dir(),
                *self._scheduled(words),
                *((f"file:{name}", content) for name, content in files.items()),
            ]
        )
        try:
            completed = await self._launch(user, "submit", server_id, text)
        except AnswerLost as error:
            raise SubmitOutcomeUnknown(f"submit of {server_id} for {user}: {error}") from error
        exited = read_exited(completed)
        if exited is None:
            _refused(completed, SubmitOutcomeUnknown)
        return self._scheduler.read_submit(exited)

    async def listing(self, names: Collection[str]) -> Listing:
        """Return all jobs of these names, whoever's they are. The service account asks, not the users.

        Raises:
            QueueUnreachable: The scheduler did not answer.
            LoginNodeUnreachable, HostKeyRefused, LoginNodeRefused: It could not be asked.
        """
        ordered = sorted(names)
        parts = [
            await self._list(ordered[start : start + _NAMES_AT_ONCE])
            for start in range(0, len(ordered), _NAMES_AT_ONCE)
        ]
        return Listing(tuple(job for part in parts for job in part.jobs))

    async def own_listing(self, user: str, server_id: str, name: str) -> Listing:
        """Return the job of this name as its owner sees it, where the service account may see none.

        It goes through the launcher, which sets no environment: when the job is to start is not known.

        Raises:
            QueueUnreachable, LoginNodeUnreachable: Nothing is known; it can be tried again.
            LoginNodeRefused: The gateway is not let in.
        """
        mark = secrets.token_hex(8)
        command = self._scheduler.status_command([name], mark)
        return self._scheduler.read_status(await self._run(user, server_id, command), mark)

    async def _list(self, names: Collection[str]) -> Listing:
        mark = secrets.token_hex(8)
        asked = self._scheduler.status_command(names, mark)
        program, *words = asked.words
        environment = ("/usr/bin/env", *asked.environment) if asked.environment else ()
        command = Command((*environment, f"{self._site.login.bin.rstrip('/')}/{program}", *words))
        completed = await self._runner.run(command, timeout=self._allowance.scheduler)
        if completed.status in _ENDED_BY_LIMIT:
            raise QueueUnreachable(f"{program} took more than {self._allowance.scheduler} s")
        return self._scheduler.read_status(completed, mark)

    async def cancel(self, user: str, server_id: str, job_id: JobId) -> None:
        """End a job; return if it is being ended or has ended already.

        Raises:
            CancelRefused: The scheduler will not.
            QueueUnreachable, LoginNodeUnreachable, LoginNodeRefused: Nothing is known; it can be tried again.
        """
        self._scheduler.read_cancel(await self._run(user, server_id, self._scheduler.cancel_command(job_id)))

    async def ending(self, user: str, server_id: str, job_id: JobId, state: JobState | None = None) -> Ending:
        """Return how a job ended, by the accounting and by the files that it left.

        An accounting that does not answer counts as one that knows nothing, if the job itself left word. It
        is not asked if ``state``, what the last listing said of the job, is known.

        Raises:
            QueueUnreachable, LoginNodeUnreachable: Nothing is known; it can be tried again.
            LoginNodeRefused, StateDirUnwritable: The gateway is not let in.
        """
        files = await self._read(user, server_id, ["exit", "log"])
        left = read_exit(files.get("exit", "")[:_EXIT_FILE])
        try:
            state = state or await self._accounting(user, server_id, job_id)
        except QueueUnreachable:
            if left is None:
                raise
        return Ending(state, left, _printable(files.get("log", "")[-_LOG_TAIL:]))

    async def _accounting(self, user: str, server_id: str, job_id: JobId) -> JobState | None:
        try:
            completed = await self._run(user, server_id, self._scheduler.accounting_command(job_id))
        except _NoProgram:
            return None
        return self._scheduler.read_accounting(completed)

    async def remove(self, user: str, server_id: str) -> None:
        """Remove a server's state directory; return also if there is none.

        Raises:
            StateDirUnwritable: It cannot be removed.
            LoginNodeUnreachable, LoginNodeRefused: It could not be asked for.
        """
        completed = await self._launch(user, "remove", server_id, sections(self._state_dir()))
        if read_files(completed) is None:
            _refused(completed, LoginNodeUnreachable)

    async def _read(self, user: str, server_id: str, names: Iterable[str]) -> Mapping[str, str]:
        wanted = (("name", name.encode()) for name in names)
        completed = await self._launch(user, "read", server_id, sections([*self._state_dir(), *wanted]))
        files = read_files(completed)
        if files is None:
            _refused(completed, LoginNodeUnreachable)
        return files

    async def _run(self, user: str, server_id: str, command: Command) -> Completed:
        completed = await self._launch(user, "run", server_id, sections(self._scheduled(command.words)))
        exited = read_exited(completed)
        if exited is None:
            _refused(completed, QueueUnreachable)
        return exited

    # --- the launcher ---------------------------------------------------------------------------------

    def _state_dir(self) -> list[tuple[str, bytes]]:
        return [("statedir", self._site.login.state_dir.encode())]

    def _scheduled(self, words: Iterable[str]) -> list[tuple[str, bytes]]:
        return [
            ("bin", self._site.login.bin.encode()),
            ("limit", b"%d" % self._allowance.scheduler),
            *(("word", word.encode()) for word in words),
        ]

    async def _launch(self, user: str, verb: str, server_id: str, text: bytes) -> Completed:
        """Run the launcher for ``user``, as whom it must run."""
        if not USER_NAME.fullmatch(user) or user in DENIED_NAMES:
            raise Forbidden(f"the gateway never acts for the account {user!r}")
        if not SERVER_ID.fullmatch(server_id):
            raise ValueError(f"not a server id: {server_id!r}")
        timeout = self._allowance.scheduler + self._allowance.launcher
        async with self._launcher(user) as (runner, words):
            try:
                completed = await runner.run(Command((*words, verb, server_id)), stdin=text, timeout=timeout)
            except NotBegun as error:
                raise LoginNodeRefused(str(error), self._public(error.shell_status)) from error
        if len(completed.stdout) > _LONGEST_ANSWER:
            raise LoginNodeRefused(
                f"what answers for {user} is not the launcher: {len(completed.stdout)} characters"
            )
        return replace(completed, stderr=completed.stderr[-_LONGEST_ANSWER:])

    @asynccontextmanager
    async def _launcher(self, user: str) -> AsyncIterator[tuple[Runner, tuple[str, ...]]]:
        """Give what runs the launcher for a user, and the words that start it there.

        It is the installed one, by sudo or as the user's own forced command, or its text as the service
        account.
        """
        login = self._site.login
        if login.act_as == "service":
            async with self._launches:
                yield self._runner, ("/bin/sh", "-c", launcher_text(), "gateway-launcher")
        elif user == login.user:
            # This account may act as anybody: who submits a job as it owns all of them.
            raise Forbidden(f"the gateway never acts for its own service account {user!r}")
        elif login.act_as == "certificate":
            if self._users is None:
                raise ConfigError(f"{self._site.name}: nothing here makes certificates")
            async with self._users.as_user(user) as runner:
                yield runner, ()
        else:
            async with self._launches:
                yield self._runner, ("sudo", "-n", "-H", "-u", user, "--", login.launcher)

    def _public(self, status: int) -> str | None:
        """Return what a person can do about a shell that ended before the launcher began; None: nothing."""
        if self._users is None or status in _NO_LAUNCHER:
            return None
        if status == LauncherStatus.CUT_SHORT:
            return (
                "A start-up file of your shell on the cluster, such as ~/.bashrc, reads standard input. "
                "Nothing was started. Let it do so in interactive shells only, then try again."
            )
        return (
            f"Your shell on the cluster ended with status {status} before the gateway began. "
            "Nothing was started. Look for exit or exec in its start-up files (~/.bashrc), then try again."
        )


class _NoProgram(LoginNodeRefused):
    """The scheduler's program is not where the site config says."""


def _refused(completed: Completed, otherwise: type[GatewayError]) -> NoReturn:
    """Raise what a launcher's answer means that did not run what it was asked to.

    Args:
        completed: What the launcher, or sudo in its place, did.
        otherwise: The error where that is not clear.
    """
    words = " ".join((completed.stderr.strip() or completed.stdout.strip()).split())[-400:]
    detail = f"the launcher's exit status {completed.status}: {words}"
    match completed.status:
        case LauncherStatus.STATE_DIR:
            raise StateDirUnwritable(detail)
        case LauncherStatus.NO_PROGRAM:
            raise _NoProgram(detail)
        case LauncherStatus.REFUSED | LauncherStatus.USAGE | LauncherStatus.CUT_SHORT:
            raise LoginNodeRefused(detail)
        case status if status in _NEVER_RAN:
            raise LoginNodeRefused(detail)
        case _:
            raise otherwise(detail)


def _printable(text: str) -> str:
    """Return a log without control characters, which a job may write at will."""
    return re.sub(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]", "", text)
