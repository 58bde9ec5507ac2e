"""The queue: what it sends to the login node, and what each answer from there means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import (
    Forbidden,
    GatewayError,
    LoginNodeRefused,
    LoginNodeUnreachable,
    QueueUnreachable,
    StateDirUnwritable,
    SubmitOutcomeUnknown,
    SubmitRefused,
)
from gateway.launcher import launcher_text
from gateway.model import Completed, JobId, JobState, Listing
from gateway.queue import Ending, Queue
from gateway.schedulers.slurm import Slurm
from gateway.script import Exit, ExitWord
from gateway.siteconfig import SiteConfig
from gateway.ssh.runner import AnswerLost, NotBegun, Replay, Runner

ID = "abcdefgh23"
FILES: Mapping[str, bytes] = {"script": b"#!/bin/sh\n", "token": b"s3cret"}


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


def queue(*answers: Completed | GatewayError, act_as: str = "sudo") -> tuple[Queue, Replay]:
    replay = Replay(answers)
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


def names(count: int) -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    return [
        "gw-aaaaaa-aaaaaa"
        + letters[n >> 15 & 31]
        + letters[n >> 10 & 31]
        + letters[n >> 5 & 31]
        + letters[n & 31]
        for n in range(count)
    ]


async def test_a_submit_is_one_exec_through_sudo_and_all_secrets_go_by_standard_input() -> None:
    subject, replay = queue(Completed(0, "4711\ngw1 exited 0\n"))
    assert await subject.submit("alice", ID, FILES) == JobId("4711")
    (call,) = replay.calls
    launcher = "/usr/local/sbin/gateway-launcher"
    assert call.command.words == ("sudo", "-n", "-H", "-u", "alice", "--", launcher, "submit", ID)
    assert call.stdin.startswith(
        b"gw1 statedir 10\n~/.gatewaygw1 bin 14\n/opt/slurm/bingw1 limit 2\n40gw1 word 6\nsbatch"
    )
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
        subject.ending(user, ID, JobId("1")),
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


async def test_a_listing_is_asked_by_the_service_account_with_an_absolute_path() -> None:
    subject, replay = queue(Completed(0, ""))
    assert await subject.listing(names(2)) == Listing(())
    words = replay.calls[0].command.words
    assert words[:3] == ("/usr/bin/env", "SLURM_TIME_FORMAT=%s", "/opt/slurm/bin/squeue")
    assert f"--name={','.join(names(2))}" in words


async def test_two_listings_use_two_marks() -> None:
    subject, replay = queue(Completed(0, ""), Completed(0, ""))
    await subject.listing(names(1))
    await subject.listing(names(1))
    assert replay.calls[0].command != replay.calls[1].command


async def test_no_names_need_no_command() -> None:
    subject, replay = queue()
    assert await subject.listing([]) == Listing(())
    assert not replay.calls


async def test_very_many_names_are_asked_for_in_parts() -> None:
    subject, replay = queue(*[Completed(0, "")] * 3)
    await subject.listing(names(9000))
    assert len(replay.calls) == 3
    assert max(len(word) for call in replay.calls for word in call.command.words) < 131072


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Completed(124), QueueUnreachable),
        (Completed(1, "", "slurm_load_jobs error: Unable to contact slurm controller"), QueueUnreachable),
        (AnswerLost("broken"), LoginNodeUnreachable),
    ],
)
async def test_no_answer_is_never_an_empty_listing(
    answer: Completed | GatewayError, error: type[GatewayError]
) -> None:
    subject, _ = queue(answer)
    with pytest.raises(error):
        await subject.listing(names(1))


async def test_a_cancel_runs_as_the_user() -> None:
    subject, replay = queue(Completed(0, "\ngw1 exited 0\n"))
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


async def test_an_ending_holds_the_accountings_word_and_the_jobs_own() -> None:
    subject, _ = queue(Completed(0, READ), Completed(0, "4711|TIMEOUT\n\ngw1 exited 0\n"))
    ending = await subject.ending("alice", ID, JobId("4711"))
    assert ending == Ending(JobState.WALLTIME, Exit(3, ExitWord.FAILED, 0), "last[31m words\n")


@pytest.mark.parametrize(
    "accounting",
    [
        Completed(0, "\ngw1 exited 1\n", "Slurm accounting storage is disabled\n"),
        Completed(0, "\ngw1 exited 1\n", "sacct: error: Connection refused\n"),
        Completed(69, "", "gateway-launcher: there is no program /usr/bin/sacct"),
        Completed(124),
    ],
)
async def test_an_ending_without_an_accounting_is_what_the_job_said(accounting: Completed) -> None:
    subject, _ = queue(Completed(0, READ), accounting)
    assert (await subject.ending("alice", ID, JobId("4711"))).state is None


async def test_of_a_forged_log_only_the_end_is_kept() -> None:
    log = " " + "a-" * 10_000 + "end\n"
    subject, _ = queue(Completed(0, f"gw1 exit\n 3 failed 0\ngw1 log\n{log}gw1 end\n", ""))
    ending = await subject.ending("alice", ID, JobId("4711"), JobState.FAILED)
    assert len(ending.log_tail) == 4096
    assert ending.log_tail.endswith("-end")


@pytest.mark.parametrize("status", [0, 1])
async def test_an_account_that_answers_without_end_is_not_listened_to(status: int) -> None:
    read = f"gw1 log\n {'a-' * 100_000}\ngw1 end\n"
    subject, _ = queue(Completed(status, read, "b " * 100_000))
    with pytest.raises(LoginNodeRefused, match="not the launcher") as refused:
        await subject.ending("alice", ID, JobId("4711"), JobState.FAILED)
    assert not refused.value.transient  # nobody asks again and again
    assert len(str(refused.value)) < 200


async def test_of_what_an_account_complains_only_the_end_is_read() -> None:
    subject, _ = queue(
        Completed(0, "gw1 exited 1\n", "scancel: error: a\n" + "b " * 100_000 + "\nscancel: error: last")
    )
    with pytest.raises(GatewayError) as refused:
        await subject.cancel("alice", ID, JobId("4711"))
    assert "error: a" not in str(refused.value)
    assert "last" in refused.value.public


async def test_an_ending_of_which_nobody_knows_is_asked_for_again() -> None:
    subject, _ = queue(Completed(0, "gw1 end\n"), Completed(124))
    with pytest.raises(QueueUnreachable):
        await subject.ending("alice", ID, JobId("4711"))


async def test_files_that_could_not_be_read_are_not_taken_for_absent() -> None:
    subject, _ = queue(Completed(0, "gw1 exit\n 0\n"))
    with pytest.raises(LoginNodeUnreachable):
        await subject.ending("alice", ID, JobId("4711"))


async def test_a_removal_is_done_when_the_launcher_says_so() -> None:
    subject, _ = queue(Completed(0, "gw1 end\n"), Completed(0, ""), Completed(73, "", "rm: busy"))
    await subject.remove("alice", ID)
    with pytest.raises(LoginNodeUnreachable):
        await subject.remove("alice", ID)
    with pytest.raises(StateDirUnwritable):
        await subject.remove("alice", ID)
