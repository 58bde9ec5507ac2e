"""A cluster under examination: what its steps share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gateway.config import Settings
from gateway.doctor.check import Finding, not_ok
from gateway.model import Command, Completed
from gateway.siteconfig import SiteConfig
from gateway.ssh.runner import Runner, Users

#: For whom a job is, where all are the service account's own and nobody was named.
STRANGER = "doctor"
#: Seconds that a command on the login node may take: less than a step, so that the command is named.
COMMAND = 8.0
#: timeout(1): it ended the command, or had to kill it.
_ENDED_BY_LIMIT = (124, 137)
#: timeout(1) and the shell: it could not be run, or is not there.
_NOT_RUN = (126, 127)


@dataclass(frozen=True, slots=True)
class Patient:
    """A cluster.

    Args:
        site: Its site config.
        file: The site config's file, for the words.
        node: Runs commands on its login node, as the service account.
        user: For whom to act; None if nobody was named.
        scratch: A directory of the doctor's own, short and private.
        settings: The gateway's.
        users: Its login node as each of its users, for ``act_as: certificate``.
        trials: Whether to try logins that are to be refused: login nodes may hold these against this host.
    """

    site: SiteConfig
    file: str
    node: Runner
    user: str | None
    scratch: Path
    settings: Settings
    users: Users | None = None
    trials: bool = False

    @property
    def where(self) -> str:
        """The login node, in words."""
        return self.site.login.hosts[0] if self.site.login.hosts else "this host"

    def program(self, name: str) -> str:
        """Return the path of one of the scheduler's programs on the login node."""
        return f"{self.site.login.bin.rstrip('/')}/{name}"

    async def ask(self, *words: str, stdin: bytes = b"") -> Completed:
        """Run a command on the login node as the service account.

        Raises:
            LoginNodeUnreachable, LoginNodeRefused, HostKeyRefused: It could not be run.
        """
        return await self.node.run(Command(words), stdin=stdin, timeout=COMMAND)

    async def schedule(self, program: str, *words: str) -> Completed:
        """Run one of the scheduler's programs on the login node, as `ask` does."""
        environment = (f"{name}={value}" for name, value in self.site.login.environment.items())
        return await self.ask("/usr/bin/env", "LC_ALL=C", *environment, self.program(program), *words)


def hung(answer: Completed, what: str) -> Finding | None:
    """Return what to say of a command that did not end in time; None if it did."""
    if answer.status not in _ENDED_BY_LIMIT:
        return None
    return not_ok(f"{what} took more than {COMMAND:g} s", f"Run it by hand on the login node: time {what}")


def never_ran(answer: Completed) -> bool:
    """Return whether a program is not there or may not be run."""
    return answer.status in _NOT_RUN


def words_of(answer: Completed) -> str:
    """Return what a command said, as one line."""
    return (
        _one_line((answer.stderr.strip() or answer.stdout.strip()).splitlines())
        or f"exit status {answer.status}"
    )


def _one_line(lines: Iterable[str]) -> str:
    text = " / ".join(line.strip() for line in lines if line.strip())
    return "".join(character if character.isprintable() else " " for character in text)[-300:]
