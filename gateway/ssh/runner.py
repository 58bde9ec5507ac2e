"""The seam between the hub and a login node: run one command there. Its fake stands beside it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import GatewayError, LoginNodeRefused, LoginNodeUnreachable
from gateway.model import Command, Completed


class AnswerLost(LoginNodeUnreachable):
    """The command was sent and may have run, but its whole answer did not come back."""


class NotBegun(LoginNodeRefused):
    """The login node took the command's words and ended without running it.

    Args:
        status: The exit status of the shell there.
        said: The end of what it printed.
    """

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"the login node ran nothing (exit status {status}): {said}")
        self.shell_status = status


class Runner(Protocol):
    """Something that runs commands on a login node."""

    async def run(
        self,
        command: Command,
        *,
        stdin: bytes = b"",
        timeout: float,  # noqa: ASYNC109  (the remote side's limit)
        output: int | None = None,
    ) -> Completed:
        """Run a command and return what it did.

        Args:
            command: Words, of which the first is a program's absolute path or is found in /usr/bin or /bin.
            stdin: The command's standard input: any bytes but NUL.
            timeout: Seconds that the command may take; then it is ended and the status is 124.
            output: Bytes of output beyond which the answer is refused; None for what is usual.

        Raises:
            AnswerLost: The command may have run; what it did is not known.
            LoginNodeUnreachable: The command did not run.
            HostKeyRefused: The login node's key is not the known one; nothing was sent.
            LoginNodeRefused: The login node does not let the gateway in, or runs nothing for it.
        """
        ...


class Users(Protocol):
    """The login node as each of its users: there a runner's command is the launcher's words, ``VERB ID``."""

    def as_user(self, user: str) -> AbstractAsyncContextManager[Runner]:
        """Give what runs the launcher as this user, for as long as the block lasts.

        Raises:
            Forbidden: The gateway never acts for an account of this name.
        """
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a ``Replay``."""

    command: Command
    stdin: bytes
    timeout: float


class Replay:
    """A Runner for tests: gives recorded answers in turn and keeps what it was asked.

    Args:
        answers: What each call returns, or raises if it is an error.
    """

    def __init__(self, answers: Iterable[Completed | GatewayError]) -> None:
        self._answers = list(answers)
        self.calls: list[Call] = []

    async def run(
        self,
        command: Command,
        *,
        stdin: bytes = b"",
        timeout: float,  # noqa: ASYNC109  (the remote side's limit)
        output: int | None = None,
    ) -> Completed:
        """Return or raise the next recorded answer."""
        self.calls.append(Call(command, stdin, timeout))
        if not self._answers:
            raise AssertionError(f"no answer is recorded for {command}")
        answer = self._answers.pop(0)
        if isinstance(answer, GatewayError):
            raise answer
        return answer

    def __repr__(self) -> str:
        return f"<Replay {len(self.calls)} calls, {len(self._answers)} answers left>"
