"""What every scheduler promises, over the real one: see gateway.schedulers.Scheduler."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from gateway.errors import SubmitRefused
from gateway.launcher import ENVIRONMENT
from gateway.model import Asked, Command, Completed, JobEnd, JobId, JobState, JobStatus, job_name
from gateway.schedulers import Scheduler
from tests.lab.nodes import Node, wait_until

INSTANCE = "lqve22"
RUN = "0123456789abcdef"


@dataclass
class LiveScheduler:
    """A scheduler and the login node on which its programs are; ``person`` submits, ``svc`` asks.

    ``script`` makes a job script from a name and a walltime in minutes; ``publish`` the words with which a
    job's owner says where it listens.
    """

    scheduler: Scheduler
    login: Node
    script: Callable[[str, int], str]
    publish: Callable[[JobId, str], Sequence[str]]
    partition: str
    longest: int
    person: str = "alice"

    def run(self, command: Command, user: str, cwd: str | None = None) -> Completed:
        environment = ENVIRONMENT | dict(word.split("=", 1) for word in command.environment)
        words: Sequence[str] = command.words
        if command.each:
            listed = self.login.run(command.each, user=user, env=environment, cwd=cwd)
            if listed.returncode:
                return Completed(listed.returncode, listed.stdout, listed.stderr)
            program, option = command.words
            words = [program, *(word for name in listed.stdout.split() for word in (option, name))]
        done = self.login.run(words, user=user, env=environment, cwd=cwd)
        return Completed(done.returncode, done.stdout, done.stderr)

    def directory(self, name: str, walltime: int) -> str:
        """Make a job's directory with its script and return it."""
        path = f"/home/{self.person}/{name}"
        words = ["sh", "-c", 'mkdir "$0" && cat >"$0/script"', path]
        self.login.run(words, user=self.person, input=self.script(name, walltime), check=True)
        return path

    def submit(self, name: str) -> JobId:
        where = self.directory(name, 5)
        if (dry := self.scheduler.dry_run_command()) is not None:
            self.scheduler.read_dry_run(self.run(dry, self.person, where))
        return self.scheduler.read_submit(self.run(self.scheduler.submit_command(), self.person, where))

    def listed(self, job: Asked) -> tuple[JobStatus, ...]:
        mark = secrets.token_hex(8)
        commands = self.scheduler.status_commands([job], mark)
        answers = [self.run(command, "svc") for command in commands]
        return self.scheduler.read_status(answers, [job], mark).named(job.name, job.owner)

    def ending(self, job: Asked) -> JobEnd | None:
        return self.scheduler.read_accounting(
            self.run(self.scheduler.accounting_command(job), self.person), job
        )


def check(live: LiveScheduler) -> None:
    """Take a job through its life: refused, submitted, seen, published, discovered, cancelled, ended."""
    scheduler = live.scheduler
    names = [job_name(INSTANCE, "".join(secrets.choice("abcdefgh") for _ in range(10))) for _ in range(2)]
    dry = scheduler.dry_run_command()
    assert dry is not None
    with pytest.raises(SubmitRefused):
        scheduler.read_dry_run(live.run(dry, live.person, live.directory(names[0], live.longest * 2)))

    asked = Asked(names[1], live.person, submitted=datetime.now(UTC))
    assert live.listed(asked) == ()
    job_id = live.submit(names[1])
    job = Asked(names[1], live.person, job_id, asked.submitted)
    wait_until(lambda: [j.state for j in live.listed(asked)] == [JobState.RUNNING], "the job runs", 20, 0.2)
    token = f"gw1:{RUN}:0:{live.listed(job)[0].host}:20001"
    live.login.run(live.publish(job_id, token), user=live.person, check=True)
    (status,) = live.listed(job)
    assert (status.job_id, status.user, token in status.comment) == (job_id, live.person, True)
    assert status.ends is not None
    assert timedelta(minutes=4) < status.ends - datetime.now(UTC) < timedelta(minutes=6)

    mark = secrets.token_hex(8)
    looks = [live.run(command, "svc") for command in scheduler.discovery_commands(INSTANCE, mark)]
    found = scheduler.read_discovery(looks, INSTANCE, mark)
    room = found.room(live.partition)
    assert room is not None
    assert room.max_walltime == live.longest
    assert [one.name for one in found.ours or ()] == [names[1]]
    assert found.faults == ()

    scheduler.read_cancel(live.run(scheduler.cancel_command(job_id), live.person))
    wait_until(lambda: all(one.state.ended for one in live.listed(job)), "the job has ended", 20, 0.2)
    scheduler.read_cancel(live.run(scheduler.cancel_command(job_id), live.person))
    seen = [one.state for one in live.listed(job)]
    if seen:
        assert seen == [JobState.CANCELLED]
    elif scheduler.accounting_lag:
        wait_until(
            lambda: live.ending(job) is not None, "the accounting knows", scheduler.accounting_lag, 0.3
        )
        end = live.ending(job)
        assert end is not None
        assert end.state is JobState.CANCELLED
        assert live.ending(Asked(names[0], live.person, job_id)) is None
    live.login.run(["rm", "-r", *(f"/home/{live.person}/{name}" for name in names)], user=live.person)
