"""The launcher, run as each user: what is sent to it, and what its answers mean."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
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
from gateway.launcher.wire import read_exited, read_files, read_marked, read_tried, sections
from gateway.metrics import Timed, untimed
from gateway.model import SERVER_ID, USER_NAME, Command, Completed
from gateway.queue.allowance import Allowance
from gateway.queue.places import Places
from gateway.siteconfig import SiteConfig
from gateway.ssh.runner import AnswerLost, NotBegun, Runner, Users

#: Launchers that run at once. A login node takes a few more commands: there is always room for a listing.
_LAUNCHES = 6
#: The one variable that the launcher takes from an account that acts for others.
_CLUSTER = "SLURM_CLUSTERS"
#: Of one user: whose home directory hangs holds up nobody else.
EACH = 2
#: sudo's and the shell's own exit statuses when the launcher never ran.
_NEVER_RAN = (1, 126, 127)
#: Exit statuses of a shell that finds no launcher, or one that refuses the gateway's words.
_NO_LAUNCHER = (126, 127, LauncherStatus.USAGE, LauncherStatus.REFUSED)
#: Characters that the launcher may answer with: two files, or what the scheduler says of a user's jobs.
#: It is the user's own account that answers, so it may be anything.
_LONGEST, _LONGEST_RUN = 64 * 1024, 1024 * 1024


class Launches:
    """Runs the launcher on one cluster's login node.

    Args:
        site: The cluster.
        programs: The scheduler's, which a launcher that is sent along is told of.
        runner: Runs it as the service account, which has sudo or is who it is run as.
        allowance: How long it may take.
        users: What runs it as each user, for ``act_as: certificate``.
        timed: Puts down how long it took.
    """

    def __init__(
        self,
        site: SiteConfig,
        programs: Iterable[str],
        runner: Runner,
        allowance: Allowance,
        users: Users | None,
        timed: Timed = untimed,
    ) -> None:
        self._site = site
        self._programs = tuple(programs)
        self._runner = runner
        self._allowance = allowance
        self._users = users
        self._timed = timed
        self._places = Places(EACH)
        self._room = asyncio.Semaphore(_LAUNCHES)

    async def submit(
        self, user: str, server_id: str, words: Sequence[str], files: Mapping[str, bytes], dry: Sequence[str]
    ) -> tuple[Completed | None, Completed | None]:
        """Store files and submit the ``script`` among them, in one exec.

        Args:
            user: Whose.
            server_id: Names the state directory.
            words: The submit command.
            files: Names and contents.
            dry: The command that is tried before; if it does not end well, nothing is submitted.

        Returns:
            What the submit command did, or None and what the tried one did.

        Raises:
            SubmitOutcomeUnknown: It may have run.
            StateDirUnwritable, LoginNodeUnreachable, LoginNodeRefused, Forbidden: It did not.
        """
        text = sections(
            [
                *self._state_dir(),
                *self._scheduled(),
                *_section("try", dry),
                *_section("word", words),
                *((f"file:{name}", content) for name, content in files.items()),
            ]
        )
        commands = 2 if dry else 1
        try:
            completed = await self._launch(user, "submit", server_id, text, commands)
        except AnswerLost as error:
            raise SubmitOutcomeUnknown(f"submit of {server_id} for {user}: {error}") from error
        exited, tried = read_exited(completed), read_tried(completed)
        if exited is None and tried is None:
            _refused(completed, SubmitOutcomeUnknown)
        return exited, tried

    async def run(self, user: str, server_id: str, commands: Sequence[Command]) -> tuple[Completed, ...]:
        """Run commands of the scheduler, one after the other in one exec, and return what each did.

        Raises:
            QueueUnreachable, LoginNodeUnreachable: Nothing is known; it can be tried again.
            NoProgram, LoginNodeRefused, Forbidden: They were not run.
        """
        mark = secrets.token_hex(16)
        items = [*self._scheduled(), ("mark", mark.encode())]
        for number, command in enumerate(commands):
            items += [("next", b"")] if number else []
            items += _section("word", command.words)
        completed = await self._launch(user, "run", server_id, sections(items), len(commands))
        answers = read_marked(completed, mark, len(commands))
        if answers is None:
            _refused(completed, QueueUnreachable)
        return answers

    async def read(self, user: str, server_id: str, names: Iterable[str]) -> Mapping[str, str]:
        """Return the ends of files in a state directory, without those that are not there.

        Raises:
            LoginNodeUnreachable: Nothing is known; it can be tried again.
            LoginNodeRefused, StateDirUnwritable, Forbidden: They cannot be read.
        """
        text = sections([*self._state_dir(), *_section("name", names)])
        completed = await self._launch(user, "read", server_id, text)
        files = read_files(completed)
        if files is None:
            _refused(completed, LoginNodeUnreachable)
        return files

    async def remove(self, user: str, server_id: str) -> None:
        """Remove a state directory; return also if there is none.

        Raises:
            StateDirUnwritable: It cannot be removed.
            LoginNodeUnreachable, LoginNodeRefused, Forbidden: It could not be asked for.
        """
        completed = await self._launch(user, "remove", server_id, sections(self._state_dir()))
        if read_files(completed) is None:
            _refused(completed, LoginNodeUnreachable)

    def _state_dir(self) -> list[tuple[str, bytes]]:
        return [("statedir", self._site.login.state_dir.encode())]

    def _scheduled(self) -> list[tuple[str, bytes]]:
        """Return what a command of the scheduler needs. A login node's own file says what is not in there.

        The launcher takes no environment from an account that acts for others: it would run that account's
        own code as any of them (SLURM_CONF names a plugin directory). All that it takes is which of the
        clusters that Slurm knows.
        """
        login = self._site.login
        environment = login.environment
        if login.act_as != "service":
            environment = {name: value for name, value in environment.items() if name == _CLUSTER}
        return [
            ("bin", login.bin.encode()),
            ("limit", b"%d" % self._allowance.scheduler),
            *_section("env", (f"{name}={value}" for name, value in environment.items())),
        ]

    async def _launch(
        self, user: str, verb: str, server_id: str, text: bytes, commands: int = 1
    ) -> Completed:
        """Run the launcher for ``user``, as whom it must run."""
        if not USER_NAME.fullmatch(user) or user in DENIED_NAMES:
            raise Forbidden(f"the gateway never acts for the account {user!r}")
        if not SERVER_ID.fullmatch(server_id):
            raise ValueError(f"not a server id: {server_id!r}")
        timeout = self._allowance.launch(commands)
        async with self._places.of(user), self._launcher(user) as (runner, words):
            try:
                with self._timed(verb):
                    command = Command((*words, verb, server_id))
                    completed = await runner.run(command, stdin=text, timeout=timeout)
            except NotBegun as error:
                raise LoginNodeRefused(str(error), self._public(error.shell_status)) from error
        longest = _LONGEST_RUN if verb == "run" else _LONGEST
        if len(completed.stdout) > longest:
            raise LoginNodeRefused(
                f"what answers for {user} is not the launcher: {len(completed.stdout)} characters"
            )
        return replace(completed, stderr=completed.stderr[-longest:])

    @asynccontextmanager
    async def _launcher(self, user: str) -> AsyncIterator[tuple[Runner, tuple[str, ...]]]:
        """Give what runs the launcher for a user, and the words that start it there.

        It is the installed one, by sudo or as the user's own forced command, or its text as the service
        account.
        """
        login = self._site.login
        if login.act_as == "service":
            async with self._room:
                text = launcher_text(self._programs)
                yield self._runner, ("/bin/sh", "-c", text, "gateway-launcher")
        elif user == login.user:
            # This account may act as anybody: who submits a job as it owns all of them.
            raise Forbidden(f"the gateway never acts for its own service account {user!r}")
        elif login.act_as == "certificate":
            if self._users is None:
                raise ConfigError(f"{self._site.name}: nothing here makes certificates")
            async with self._users.as_user(user) as runner:
                yield runner, ()
        else:
            async with self._room:
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


class NoProgram(LoginNodeRefused):
    """The scheduler's program is not where the site config says."""


def _section(name: str, values: Iterable[str]) -> list[tuple[str, bytes]]:
    return [(name, value.encode()) for value in values]


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
            raise NoProgram(detail)
        case LauncherStatus.REFUSED | LauncherStatus.USAGE | LauncherStatus.CUT_SHORT:
            raise LoginNodeRefused(detail)
        case status if status in _NEVER_RAN:
            raise LoginNodeRefused(detail)
        case _:
            raise otherwise(detail)
