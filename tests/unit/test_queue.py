"""The queue: what it sends to the login node, and what each answer from there means."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.discovery import Discovery
from gateway.errors import (
    EndedNotListed,
    Forbidden,
    GatewayError,
    LoginNodeRefused,
    LoginNodeUnreachable,
    NoAccounting,
    NotEndedYet,
    QueueUnreachable,
    StateDirUnwritable,
    SubmitOutcomeUnknown,
    SubmitRefused,
)
from gateway.launcher import launcher_text
from gateway.lifecycle import Phase
from gateway.model import Asked, Choices, Command, Completed, JobEnd, JobId, JobState, Listing, Server
from gateway.queue import Allowance, Ending, Queue
from gateway.queue.pace import Pace
from gateway.queue.turns import Turns
from gateway.schedulers.slurm import Slurm
from gateway.script import Exit, ExitWord
from gateway.servers import patience
from gateway.siteconfig import SiteConfig
from gateway.ssh.runner import AnswerLost, NotBegun, Replay, Runner

ID = "abcdefgh23"
FILES: Mapping[str, bytes] = {"script": b"#!/bin/sh\n", "token": b"s3cret"}
MARK = re.compile(rb"(?:\A|gw1 mark 32\n)([0-9a-f]{32})")


class Login(Replay):
    """Hands out recorded answers; several commands' in one exec are a list, and are put together here."""

    def __init__(self, answers: Iterable[Completed | GatewayError | Sequence[Completed]]) -> None:
        self._in_turn = list(answers)
        super().__init__([])

    async def run(
        self,
        command: Command,
        *,
        stdin: bytes = b"",
        timeout: float,
        output: int | None = None,
    ) -> Completed:
        if self._in_turn:
            answer = self._in_turn.pop(0)
            found = MARK.search(stdin)
            if not isinstance(answer, (Completed, GatewayError)):
                assert found
                answer = together(answer, found[1].decode())
            self._answers.append(answer)
        return await super().run(command, stdin=stdin, timeout=timeout, output=output)


def together(answers: Sequence[Completed], mark: str) -> Completed:
    lines = [f"\ngw1 exited {answer.status} {mark}\n" for answer in answers]
    both = list(zip(answers, lines, strict=True))
    return Completed(
        0, "".join(one.stdout + line for one, line in both), "".join(one.stderr + line for one, line in both)
    )


def several(*answers: Completed) -> list[Completed]:
    return list(answers)


def site(act_as: str = "sudo") -> SiteConfig:
    return SiteConfig.model_validate(
        {
            "version": 1,
            "name": "lab",
            "title": "Lab",
            "scheduler": "slurm",
            "login": {
                "hosts": ["login1"],
                "user": "svc",
                "key": Path("/k"),
                "known_hosts": Path("/h"),
                "act_as": act_as,
                "bin": "/opt/slurm/bin",
            },
            "partitions": [{"name": "short", "max_walltime": "10m", "max_memory": "1G"}],
            "applications": [{"name": "lab", "title": "Lab", "command": ["x"]}],
        }
    )


def queue(
    *answers: Completed | GatewayError | Sequence[Completed], act_as: str = "sudo"
) -> tuple[Queue, Replay]:
    replay = Login(answers)
    return Queue(site(act_as), Slurm(), replay), replay


class Certified:
    """The login node as each user: notes who it was."""

    def __init__(self, runner: Runner) -> None:
        self.users: list[str] = []
        self._runner = runner

    @asynccontextmanager
    async def as_user(self, user: str) -> AsyncIterator[Runner]:
        self.users.append(user)
        yield self._runner


def by_certificate(*answers: Completed | GatewayError) -> tuple[Queue, Replay, Certified]:
    """Return a queue, what runs as its users and who they were; the service account has nothing to run."""
    replay = Replay(answers)
    users = Certified(replay)
    return Queue(site("certificate"), Slurm(), Replay([]), users=users), replay, users


def jobs(count: int, owner: str = "alice") -> list[Asked]:
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    return [
        Asked(
            f"gw-aaaaaa-{owner[:6]:a<6}"
            + letters[n >> 15 & 31]
            + letters[n >> 10 & 31]
            + letters[n >> 5 & 31]
            + letters[n & 31],
            owner,
            JobId(str(n + 1)),
        )
        for n in range(count)
    ]


JOB = Asked(f"gw-aaaaaa-{ID}", "alice", JobId("4711"))


async def test_a_submit_is_one_exec_through_sudo_and_all_secrets_go_by_standard_input() -> None:
    subject, replay = queue(Completed(0, "4711\ngw1 exited 0\n"))
    assert await subject.submit("alice", ID, FILES) == JobId("4711")
    (call,) = replay.calls
    launcher = "/usr/local/sbin/gateway-launcher"
    assert call.command.words == ("sudo", "-n", "-H", "-u", "alice", "--", launcher, "submit", ID)
    assert call.stdin.startswith(
        b"gw1 statedir 10\n~/.gatewaygw1 bin 14\n/opt/slurm/bingw1 limit 2\n40gw1 try 6\nsbatch"
    )
    assert b"gw1 word 6\nsbatchgw1 word 10\n--parsable" in call.stdin
    assert call.stdin.endswith(b"gw1 file:token 6\ns3cretgw1 end 0\n")


async def test_without_sudo_the_launcher_is_sent_along_and_the_jobs_are_the_service_accounts() -> None:
    subject, replay = queue(Completed(0, "4711\ngw1 exited 0\n"), act_as="service")
    assert await subject.submit("alice", ID, FILES) == JobId("4711")
    words = replay.calls[0].command.words
    assert words == ("/bin/sh", "-c", launcher_text(), "gateway-launcher", "submit", ID)
    assert subject.owner("alice") == "svc"
    assert queue()[0].owner("alice") == "alice"


async def test_with_certificates_the_users_themselves_are_asked_to_run_the_launcher() -> None:
    subject, replay, users = by_certificate(Completed(0, "4711\ngw1 exited 0\n"))
    assert await subject.submit("alice", ID, FILES) == JobId("4711")
    assert replay.calls[0].command.words == ("submit", ID)
    assert replay.calls[0].stdin.endswith(b"gw1 file:token 6\ns3cretgw1 end 0\n")
    assert users.users == ["alice"]
    assert subject.owner("alice") == "alice"


async def test_with_certificates_nobody_is_certified_who_must_not_act() -> None:
    subject, _, users = by_certificate()
    for user in ("root", "slurm", "svc", "alice\n"):
        with pytest.raises(Forbidden):
            await subject.submit(user, ID, FILES)
    assert not users.users


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (65, "A start-up file of your shell on the cluster, such as ~/.bashrc, reads standard input."),
        (0, "Your shell on the cluster ended with status 0 before the gateway began."),
        (1, "Your shell on the cluster ended with status 1 before the gateway began."),
        (126, LoginNodeRefused.default_public),
        (127, LoginNodeRefused.default_public),
        (77, LoginNodeRefused.default_public),
    ],
)
async def test_a_shell_that_ends_before_the_launcher_begins_is_told_to_who_can_mend_it(
    status: int, sentence: str
) -> None:
    subject, _, _ = by_certificate(NotBegun(status, "gateway-launcher: words"))
    with pytest.raises(LoginNodeRefused) as caught:
        await subject.submit("alice", ID, FILES)
    assert caught.value.public.startswith(sentence)
    assert f"exit status {status}): gateway-launcher: words" in str(caught.value)


@pytest.mark.parametrize(
    "user", ["root", "slurm", "Alice", "#10001", "-x", "a b", "", "alice\n", "svc", "../x"]
)
async def test_names_that_must_not_act_are_refused_before_any_exec(user: str) -> None:
    subject, replay = queue()
    for call in (
        subject.submit(user, ID, FILES),
        subject.cancel(user, ID, JobId("1")),
        subject.ending(user, ID, JOB),
        subject.remove(user, ID),
    ):
        with pytest.raises(Forbidden):
            await call
    assert not replay.calls


async def test_an_odd_id_is_never_sent() -> None:
    subject, replay = queue()
    with pytest.raises(ValueError, match="not a server id"):
        await subject.remove("alice", "../../home")
    assert not replay.calls


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Completed(73, "", "gateway-launcher: /home: Read-only file system"), StateDirUnwritable),
        (Completed(69, "", "gateway-launcher: there is no program"), LoginNodeRefused),
        (Completed(77, "", "gateway-launcher: refused"), LoginNodeRefused),
        (Completed(65, "", "gateway-launcher: cut short"), LoginNodeRefused),
        (Completed(1, "", "sudo: a password is required"), LoginNodeRefused),
        (Completed(127, "", "timeout: failed to run command 'sudo'"), LoginNodeRefused),
        (Completed(75, "", "gateway-launcher: under way"), SubmitOutcomeUnknown),
        (Completed(124), SubmitOutcomeUnknown),
        (Completed(137), SubmitOutcomeUnknown),
        (Completed(2, "", "sh: 5: parameter not set"), SubmitOutcomeUnknown),
        (Completed(0, "4711\n"), SubmitOutcomeUnknown),
        (Completed(0, ""), SubmitOutcomeUnknown),
        (Completed(0, "\ngw1 exited 124\n"), SubmitOutcomeUnknown),
        (Completed(0, "\ngw1 exited 1\n", "sbatch: error: invalid partition specified: x\n"), SubmitRefused),
        (AnswerLost("broken"), SubmitOutcomeUnknown),
        (LoginNodeUnreachable("no route"), LoginNodeUnreachable),
    ],
)
async def test_what_became_of_a_submit(answer: Completed | GatewayError, error: type[GatewayError]) -> None:
    subject, _ = queue(answer)
    with pytest.raises(error) as caught:
        await subject.submit("alice", ID, FILES)
    assert isinstance(caught.value, error)
    assert "s3cret" not in str(caught.value)


async def test_a_listing_is_one_exec_of_the_service_account_with_absolute_paths() -> None:
    subject, replay = queue([Completed(0, "")])
    assert await subject.listing(jobs(2)) == Listing(())
    words = replay.calls[0].command.words
    assert words[:2] == ("/bin/sh", "-c")
    assert "/opt/slurm/bin/squeue" in words
    assert {"/usr/bin/env", "TZ=UTC", "LC_ALL=C", "SLURM_TIME_FORMAT=%s"} <= set(words)
    assert f"--name={','.join(job.name for job in jobs(2))}" in words


async def test_two_listings_use_two_marks_and_none_is_seen_by_others_of_the_host() -> None:
    subject, replay = queue([Completed(0, "")], [Completed(0, "")])
    await subject.listing(jobs(1))
    await subject.listing(jobs(1))
    marks = [call.stdin.decode().strip() for call in replay.calls]
    assert marks[0] != marks[1]
    assert not [
        word for call in replay.calls for word in call.command.words for mark in marks if mark in word
    ]


async def test_what_the_site_says_of_the_schedulers_place_goes_to_its_programs() -> None:
    """But not to the launcher where the service account acts for others: it reads a file of root's."""
    place = {"SLURM_CONF": "/opt/slurm/etc/slurm.conf", "SLURM_CLUSTERS": "big"}
    for act_as, told in (("sudo", False), ("service", True)):
        whole = site(act_as)
        login = whole.login.model_copy(update={"environment": place})
        replay = Login([[Completed(0)], [Completed(0)]])
        subject = Queue(whole.model_copy(update={"login": login}), Slurm(), replay)
        await subject.listing(jobs(1))
        assert "SLURM_CONF=/opt/slurm/etc/slurm.conf" in replay.calls[0].command.words
        await subject.cancel("alice", ID, JobId("1"))
        assert (b"SLURM_CONF" in replay.calls[1].stdin) is told
        assert b"gw1 env 18\nSLURM_CLUSTERS=big" in replay.calls[1].stdin


async def test_a_site_config_is_for_one_cluster() -> None:
    wrong = {"SLURM_CLUSTERS": "big,small"}
    whole = site().model_dump(mode="json", exclude_unset=True)
    whole["login"]["environment"] = wrong
    with pytest.raises(ValueError, match="one cluster's name"):
        SiteConfig.model_validate(whole)


async def test_no_jobs_need_no_command() -> None:
    subject, replay = queue()
    assert await subject.listing([]) == Listing(())
    assert not replay.calls


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (several(Completed(124)), QueueUnreachable),
        (several(Completed(137)), QueueUnreachable),
        (
            several(Completed(1, "", "slurm_load_jobs error: Unable to contact slurm controller")),
            QueueUnreachable,
        ),
        (several(Completed(0), Completed(0)), QueueUnreachable),
        (Completed(0, ""), QueueUnreachable),
        (Completed(0, "\ngw1 exited 0 0123456789abcdef0123456789abcdef\n"), QueueUnreachable),
        (Completed(124), QueueUnreachable),
        (AnswerLost("broken"), LoginNodeUnreachable),
    ],
    ids=["limit", "killed", "down", "two", "none", "forged", "hung", "lost"],
)
async def test_no_answer_is_never_an_empty_listing(
    answer: Completed | GatewayError | list[Completed], error: type[GatewayError]
) -> None:
    subject, _ = queue(answer)
    with pytest.raises(error):
        await subject.listing(jobs(1))


async def test_a_cancel_runs_as_the_user() -> None:
    subject, replay = queue([Completed(0)])
    await subject.cancel("alice", ID, JobId("4711"))
    assert replay.calls[0].command.words[4:] == ("alice", "--", "/usr/local/sbin/gateway-launcher", "run", ID)
    assert b"gw1 word 7\nscancelgw1 word 4\n4711" in replay.calls[0].stdin


async def test_a_cancel_without_an_answer_is_no_success() -> None:
    subject, _ = queue(Completed(124), AnswerLost("broken"))
    with pytest.raises(QueueUnreachable):
        await subject.cancel("alice", ID, JobId("4711"))
    with pytest.raises(LoginNodeUnreachable):
        await subject.cancel("alice", ID, JobId("4711"))


READ = "gw1 exit\n 3 failed 0\ngw1 log\n last\x1b[31m words\n \ngw1 end\n"
NOTHING_LEFT = Completed(0, "gw1 end\n")
FAILED = JobEnd(JobState.FAILED, exit_status=3)
CANCELLED = JobEnd(JobState.CANCELLED)


class Plain(Slurm):
    """A scheduler of few words: jobs are listed by name; it is told what else it is to be."""

    def __init__(self, *, lag: float = 0.0, hidden: bool | None = None, keeps_ended: bool = True) -> None:
        self.lag = lag
        self.hidden = hidden
        self.operators: frozenset[str] = frozenset()
        self.keeps_ended = keeps_ended
        self.asked_for_ended: list[bool] = []

    @property
    def accounting_lag(self) -> float:  # type: ignore[override]
        return self.lag

    def dry_run_command(self) -> Command | None:
        return Command(("sbatch", "--test-only", "./script"))

    def read_dry_run(self, completed: Completed) -> None:
        if "never" in completed.stderr:
            raise SubmitRefused(completed.stderr)

    def status_commands(
        self, asked: Collection[Asked], mark: str, *, ended: bool = True
    ) -> Sequence[Command]:
        self.asked_for_ended.append(ended)
        return (Command(("squeue", *sorted(job.name for job in asked))),)

    def read_status(self, completed: Sequence[Completed], asked: Collection[Asked], mark: str) -> Listing:
        if self.asked_for_ended[-1] and not self.keeps_ended:
            raise EndedNotListed("history is off")
        return Listing((), frozenset(completed[0].stdout.split()))

    def accounting_command(self, job: Asked) -> Command:
        return Command(("sacct", job.name))

    def read_accounting(self, completed: Completed, job: Asked) -> JobEnd | None:
        if completed.status:
            raise QueueUnreachable(completed.stderr)
        if completed.stdout == "running":
            raise NotEndedYet("still")
        if completed.stdout == "none":
            raise NoAccounting("disabled")
        state, _, nobody = completed.stdout.partition(" ")
        return JobEnd(JobState(state), by="" if nobody else "root") if state else None

    def discovery_commands(self, instance: str, mark: str) -> Sequence[Command]:
        return Command(("sinfo", instance)), Command(("scontrol", "show", "config"))

    def read_discovery(self, completed: Sequence[Completed], instance: str, mark: str) -> Discovery:
        return Discovery(hidden=self.hidden, operators=self.operators)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def plain(
    scheduler: Plain, *answers: Completed | GatewayError | Sequence[Completed], act_as: str = "sudo"
) -> tuple[Queue, Login, Clock]:
    login, clock = Login(answers), Clock()
    return Queue(site(act_as), scheduler, login, Allowance(scheduler=7), clock=clock), login, clock


async def test_an_ending_holds_the_accountings_word_and_the_jobs_own() -> None:
    subject, _, _ = plain(Plain(), Completed(0, READ), [Completed(0, "walltime")])
    ending = await subject.ending("alice", ID, JOB)
    assert ending == Ending(
        JobEnd(JobState.WALLTIME, by="root"), Exit(3, ExitWord.FAILED, 0), "last[31m words\n"
    )


@pytest.mark.parametrize(
    "accounting",
    [
        several(Completed(0)),
        several(Completed(1, "", "sacct: error: Connection refused\n")),
        Completed(69, "", "gateway-launcher: there is no program /usr/bin/sacct"),
        Completed(124),
    ],
    ids=["knows nothing", "refused", "is not there", "hangs"],
)
async def test_an_ending_without_an_accounting_is_what_the_job_said(
    accounting: Completed | list[Completed],
) -> None:
    subject, _, _ = plain(Plain(), Completed(0, READ), accounting)
    assert (await subject.ending("alice", ID, JOB)).end is None


@pytest.mark.parametrize(
    ("seen", "accounting", "end"),
    [
        (CANCELLED, several(Completed(0, "cancelled")), JobEnd(JobState.CANCELLED, by="root")),
        (CANCELLED, several(Completed(0, "none")), CANCELLED),
        (CANCELLED, Completed(124), CANCELLED),
        (CANCELLED, Completed(69, "", "no program"), CANCELLED),
        (JobEnd(JobState.FAILED), several(Completed(1)), JobEnd(JobState.FAILED)),
        (FAILED, None, FAILED),
        (JobEnd(JobState.COMPLETED), None, JobEnd(JobState.COMPLETED)),
    ],
    ids=["who", "no accounting", "hangs", "none", "down", "known", "completed"],
)
async def test_of_an_end_that_was_seen_the_accounting_is_asked_only_what_is_missing(
    seen: JobEnd, accounting: Completed | list[Completed] | None, end: JobEnd
) -> None:
    """And its silence fails nothing."""
    subject, login, _ = plain(Plain(lag=9.0), NOTHING_LEFT, *([accounting] if accounting else []))
    assert (await subject.ending("alice", ID, JOB, seen)).end == end
    assert len(login.calls) == (2 if accounting else 1)


@pytest.mark.parametrize("behind", ["running", "", "cancelled by nobody"])
async def test_an_accounting_that_knows_less_of_an_end_than_it_will_is_asked_again_a_moment_later(
    monkeypatch: pytest.MonkeyPatch, behind: str
) -> None:
    runs, known = several(Completed(0, behind)), several(Completed(0, "cancelled"))
    subject, login, clock = plain(Plain(lag=5.0), NOTHING_LEFT, runs, known)

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert (await subject.ending("alice", ID, JOB, CANCELLED)).end == JobEnd(JobState.CANCELLED, by="root")
    subject, login, _ = plain(Plain(lag=5.0), NOTHING_LEFT, *[runs] * 9)
    subject._clock = clock
    assert (await subject.ending("alice", ID, JOB, CANCELLED)).end == CANCELLED
    assert len(login.calls) == 4


async def test_a_job_that_runs_by_the_accounting_is_asked_for_later_if_nobody_else_has_told_of_its_end() -> (
    None
):
    subject, _, _ = plain(Plain(lag=5.0), NOTHING_LEFT, several(Completed(0, "running")))
    with pytest.raises(NotEndedYet):  # nobody else says that it has ended
        await subject.ending("alice", ID, JOB)


async def test_an_accounting_that_lags_is_asked_again_for_as_long_as_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing, known = several(Completed(0)), several(Completed(0, "walltime"))
    subject, login, clock = plain(Plain(lag=8.0), NOTHING_LEFT, nothing, nothing, known)

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    ending = await subject.ending("alice", ID, JOB)
    assert ending.end is not None
    assert ending.end.state is JobState.WALLTIME
    assert clock.now == 1003.0
    subject, login, _ = plain(Plain(lag=8.0), NOTHING_LEFT, *[nothing] * 9)
    subject._clock = clock
    assert (await subject.ending("alice", ID, JOB)).end is None
    assert clock.now - 1003.0 == 7.0  # 1, 2 and 4 s: the next would be after 8
    subject, login, _ = plain(Plain(lag=8.0), Completed(0, READ), nothing)  # the job itself has said it
    assert (await subject.ending("alice", ID, JOB)).end is None
    assert len(login.calls) == 2


async def test_of_a_forged_log_only_the_end_is_kept() -> None:
    log = " " + "a-" * 10_000 + "end\n"
    subject, _ = queue(Completed(0, f"gw1 exit\n 3 failed 0\ngw1 log\n{log}gw1 end\n", ""))
    ending = await subject.ending("alice", ID, JOB, FAILED)
    assert len(ending.log_tail) == 4096
    assert ending.log_tail.endswith("-end")


@pytest.mark.parametrize("status", [0, 1])
async def test_an_account_that_answers_without_end_is_not_listened_to(status: int) -> None:
    read = f"gw1 log\n {'a-' * 100_000}\ngw1 end\n"
    subject, _ = queue(Completed(status, read, "b " * 100_000))
    with pytest.raises(LoginNodeRefused, match="not the launcher") as refused:
        await subject.ending("alice", ID, JOB, FAILED)
    assert not refused.value.transient  # nobody asks again and again
    assert len(str(refused.value)) < 200


async def test_of_what_an_account_complains_only_the_end_is_read() -> None:
    subject, _ = queue(
        [Completed(1, "", "scancel: error: a\n" + "b " * 1_000_000 + "\nscancel: error: last")]
    )
    with pytest.raises(GatewayError) as refused:
        await subject.cancel("alice", ID, JobId("4711"))
    assert "error: a" not in str(refused.value)
    assert "last" in refused.value.public


async def test_an_ending_of_which_nobody_knows_is_asked_for_again() -> None:
    for accounting in (Completed(124), [Completed(124)], [Completed(1)]):
        subject, _, _ = plain(Plain(), NOTHING_LEFT, accounting)
        with pytest.raises(QueueUnreachable):
            await subject.ending("alice", ID, JOB)


async def test_files_that_could_not_be_read_are_not_taken_for_absent() -> None:
    subject, _ = queue(Completed(0, "gw1 exit\n 0\n"))
    with pytest.raises(LoginNodeUnreachable):
        await subject.ending("alice", ID, JOB)


async def test_a_job_that_can_never_run_is_not_submitted() -> None:
    subject, login, _ = plain(Plain(), Completed(0, "\ngw1 tried 1\n", "never"))
    with pytest.raises(SubmitRefused, match="never"):
        await subject.submit("alice", ID, FILES)
    (call,) = login.calls
    assert call.stdin.index(b"gw1 try 11\n--test-only") < call.stdin.index(b"gw1 word 6\nsbatch")
    assert call.timeout == 2 * 7 + 20


async def test_a_trial_that_says_nothing_clear_keeps_nobody_from_submitting() -> None:
    subject, login, _ = plain(Plain(), Completed(0, "gw1 tried 124\n"), Completed(0, "4711\ngw1 exited 0\n"))
    assert await subject.submit("alice", ID, FILES) == JobId("4711")
    assert b"gw1 try" not in login.calls[1].stdin


async def test_where_there_is_no_scheduler_to_ask_nothing_is_submitted_either() -> None:
    gone = (
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n"
    )
    subject, login, _ = plain(Plain(), Completed(0, "gw1 tried 1\n", gone))
    with pytest.raises(QueueUnreachable):
        await subject.submit("alice", ID, FILES)
    assert len(login.calls) == 1


async def test_where_ended_jobs_are_not_kept_they_are_asked_for_only_once_an_hour() -> None:
    scheduler = Plain(keeps_ended=False)
    subject, _, clock = plain(scheduler, *[[Completed(0)]] * 6)
    assert await subject.listing([JOB]) == Listing(())  # nobody waits for the next poll
    await subject.listing([JOB])
    assert scheduler.asked_for_ended == [True, False, False]
    clock.now += 3601
    await subject.listing([JOB])
    await subject.own_listing("alice", ID, JOB)
    assert scheduler.asked_for_ended[3:] == [True, False, False]


async def test_a_discovery_is_one_exec_with_a_limit_of_its_own() -> None:
    subject, login, _ = plain(Plain(), [Completed(0), Completed(124)])
    assert await subject.discover("aaaaaa") == Discovery()
    (call,) = login.calls
    assert [word for word in call.command.words if word.startswith("/opt")] == [
        "/opt/slurm/bin/sinfo",
        "/opt/slurm/bin/scontrol",
    ]
    assert call.command.words[4] == str(Allowance().discovery)


# --- jobs that are hidden from the service account ------------------------------------------------


async def hidden(
    *answers: Completed | GatewayError | Sequence[Completed], act_as: str = "sudo"
) -> tuple[Queue, Login, Clock]:
    subject, login, clock = plain(Plain(hidden=True), [Completed(0), Completed(0)], *answers, act_as=act_as)
    await subject.discover("aaaaaa")
    login.calls.clear()
    return subject, login, clock


def users_of(login: Login) -> list[str]:
    users = [call.command.words[4] for call in login.calls]
    login.calls.clear()
    return sorted(users)


async def test_hidden_jobs_are_asked_for_as_their_owners_each_at_most_every_30_s() -> None:
    subject, login, clock = await hidden(*[[Completed(0)]] * 9)
    asked = [*jobs(3), *jobs(1, "bob")]
    assert await subject.listing(asked) == Listing(())
    assert users_of(login) == ["alice", "bob"]
    clock.now += 29
    silent = frozenset(job.name for job in asked)
    assert await subject.listing(asked) == Listing((), silent)  # an old answer is not given as a new one
    carol = jobs(1, "carol")
    assert await subject.listing([*asked, *carol]) == Listing((), silent)  # a new one does not wait
    assert users_of(login) == ["carol"]
    clock.now += 1
    assert await subject.listing([*asked, *carol]) == Listing((), frozenset({carol[0].name}))
    assert users_of(login) == ["alice", "bob"]


async def test_nothing_is_hidden_from_an_operator_though_only_one_users_jobs_are_there() -> None:
    scheduler = Plain(hidden=True)
    look = [Completed(0)] * 2
    subject, login, _ = plain(scheduler, look, [Completed(0)], look)
    scheduler.operators = frozenset({"root", "svc"})
    assert (await subject.discover("aaaaaa")).hidden is False
    login.calls.clear()
    await subject.listing([*jobs(1), *jobs(1, "bob")])
    assert len(login.calls) == 1
    scheduler.operators = frozenset({"root"})
    assert (await subject.discover("aaaaaa")).hidden is True


async def test_a_user_who_leaves_and_comes_back_does_not_ask_more_often() -> None:
    subject, login, _ = await hidden(*[[Completed(0)]] * 9)
    await subject.listing([*jobs(1), *jobs(1, "bob")])
    await subject.listing(jobs(1, "bob"))
    await subject.listing([*jobs(1), *jobs(1, "bob")])
    assert users_of(login) == ["alice", "bob"]


async def test_from_its_owner_no_job_is_hidden() -> None:
    """What a scheduler calls silent may be hidden from who asks: never from the owner."""
    (alice,) = jobs(1)
    subject, _, _ = plain(Plain(), *[[Completed(0, alice.name)]] * 2)
    assert await subject.listing([alice]) == Listing((), frozenset({alice.name}))
    assert await subject.own_listing("alice", ID, alice) == Listing(())
    subject, _, _ = await hidden([Completed(0, alice.name)])
    assert await subject.listing([alice]) == Listing(())


async def test_an_owner_who_was_asked_by_the_listing_is_not_asked_again_about_it() -> None:
    subject, login, clock = await hidden(*[[Completed(0)]] * 9)
    alice, other = jobs(2)
    await subject.listing([alice])
    assert await subject.own_listing("alice", ID, alice, listed=True) == Listing(())
    assert users_of(login) == ["alice"]
    for job, listed in ((alice, False), (other, True)):  # what is about now, and what was not listed
        await subject.own_listing("alice", ID, job, listed=listed)
        assert users_of(login) == ["alice"]
    assert await subject.listing([other]) == Listing((), frozenset({other.name}))  # that was their turn
    clock.now += 30
    await subject.own_listing("alice", ID, other, listed=True)
    assert users_of(login) == ["alice"]


async def test_after_a_listing_that_failed_the_owner_is_asked() -> None:
    subject, login, _ = await hidden([Completed(0)], LoginNodeRefused("expired"), [Completed(0)])
    (alice,) = jobs(1)
    await subject.listing(jobs(1, "bob"))
    await subject.listing([alice])
    await subject.own_listing("alice", ID, alice, listed=True)
    assert users_of(login) == ["alice", "alice", "bob"]


async def test_of_whom_cannot_be_asked_nothing_is_known_and_the_others_are_as_they_are() -> None:
    subject, _, _ = await hidden(LoginNodeRefused("expired"), [Completed(0)])
    alice, bob = jobs(1), jobs(1, "bob")
    assert await subject.listing([*alice, *bob]) == Listing((), frozenset({alice[0].name}))


async def test_when_nobody_can_be_asked_there_is_no_news() -> None:
    subject, login, clock = await hidden(*[AnswerLost("broken")] * 2, [Completed(0)], [Completed(0)])
    asked = [*jobs(1), *jobs(1, "bob")]
    for _ in range(2):  # nor as long as nobody's turn has come again
        with pytest.raises(LoginNodeUnreachable):
            await subject.listing(asked)
    assert len(login.calls) == 2
    clock.now += 30
    assert await subject.listing(asked) == Listing(())


async def test_at_most_five_users_are_asked_at_once() -> None:
    subject, login, _ = await hidden(*[[Completed(0)]] * 40)
    answer, at_once, most = login.run, 0, 0

    async def run(*args: object, **words: object) -> Completed:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.001)
        at_once -= 1
        return await answer(*args, **words)  # type: ignore[arg-type]

    login.run = run  # type: ignore[method-assign]
    await subject.listing([job for number in range(26) for job in jobs(1, f"user{chr(97 + number)}")])
    assert most == 5
    assert len(login.calls) == 26


@pytest.mark.parametrize("verb", ["remove", "endpoint"])
async def test_a_home_that_hangs_holds_up_nobody_else(verb: str) -> None:
    subject, login = queue(*[Completed(0, "gw1 end\n")] * 9)
    answer, waiting, home_is_back = login.run, 0, asyncio.Event()

    async def run(command: Command, **words: Any) -> Completed:
        nonlocal waiting
        if "alice" in command.words:
            waiting += 1
            await home_is_back.wait()
        return await answer(command, **words)

    login.run = run  # type: ignore[method-assign]
    ask = getattr(subject, verb)
    ids = [f"{letter}bcdefgh23" for letter in "abcdefgh"]
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for server_id in ids:
            group.create_task(ask("alice", server_id))
        await asyncio.sleep(0.01)
        await ask("bob", ID)
        assert waiting == 2
        home_is_back.set()
    assert len(login.calls) == 9


def test_a_submit_of_unknown_outcome_is_waited_for_as_long_as_it_may_take() -> None:
    ending = 5.0  # timeout -k 5
    allowed = Allowance()
    assert 2 * (allowed.scheduler + ending) + allowed.launcher <= patience.SUBMIT_MAY_TAKE


async def test_where_all_jobs_are_the_service_accounts_none_is_hidden() -> None:
    subject, login, _ = await hidden([Completed(0)], act_as="service")
    await subject.listing(jobs(5))
    assert "squeue" in login.calls[0].command.words[-6]


def test_who_waits_longest_is_asked_first() -> None:
    turns = Turns()
    for at, owner in enumerate(("carol", "alice", "bob")):
        turns.note(owner, float(at))
    assert turns.due(("alice", "bob", "carol", "dora"), 31.5) == ["dora", "carol", "alice"]
    assert turns.due((), 100.0) == []
    assert turns.due(("bob",), 0.0) == ["bob"]  # forgotten


# --- endpoint files -------------------------------------------------------------------------------


async def test_an_endpoint_file_is_read_as_its_owner_and_an_absent_one_is_empty() -> None:
    subject, login, _ = plain(Plain(), Completed(0, "gw1 endpoint\n gw1:x\n \ngw1 end\n"), NOTHING_LEFT)
    assert await subject.endpoint("alice", ID) == "gw1:x\n"
    assert login.calls[0].command.words[4:] == (
        "alice",
        "--",
        "/usr/local/sbin/gateway-launcher",
        "read",
        ID,
    )
    assert await subject.endpoint("alice", "bbbbbbbb22") == ""


async def test_one_key_has_its_turn_only_so_often_and_only_so_many_have_it_at_once() -> None:
    pace, now = Pace(2, 0.03), asyncio.get_running_loop().time
    began, turns, at_once, most = now(), [], 0, 0

    async def come(key: str) -> None:
        nonlocal at_once, most
        async with pace.turn(key):
            turns.append((key, now() - began))
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.005)
            at_once -= 1

    await asyncio.gather(*map(come, "aaabcde"))
    assert most == 2
    times = sorted(at for key, at in turns if key == "a")
    assert times[1] >= 0.03
    assert times[2] >= 0.06


async def test_a_removal_is_done_when_the_launcher_says_so() -> None:
    subject, _ = queue(Completed(0, "gw1 end\n"), Completed(0, ""), Completed(73, "", "rm: busy"))
    await subject.remove("alice", ID)
    with pytest.raises(LoginNodeUnreachable):
        await subject.remove("alice", ID)
    with pytest.raises(StateDirUnwritable):
        await subject.remove("alice", ID)


# --- what is asked for --------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", Phase)
def test_only_of_a_ready_server_whose_endpoint_and_end_are_known_the_state_is_enough(phase: Phase) -> None:
    asker, _ = queue()
    now = datetime.now(UTC)
    choices = Choices("lab", "lab", "short", 5, 1, 500)
    words = (ID, "alice", "", "lab", "lab", choices, "0" * 16, phase)
    server = Server(*words, True, now, now, JobId("7"), "cn1", 20001, ends=now)
    plain = Asked("gw-inst22-abcdefgh23", "alice", JobId("7"), now)
    assert asker.asked("inst22", server) == replace(plain, settled=phase is Phase.READY)
    for unknown in (replace(server, port=None), replace(server, ends=None)):
        assert asker.asked("inst22", unknown) == plain
