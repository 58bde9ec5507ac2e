"""What every scheduler promises, whatever its programs print: see gateway.schedulers.Scheduler."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

import pytest

from gateway.errors import GatewayError, QueueUnreachable, SubmitOutcomeUnknown, SubmitRefused
from gateway.model import Completed, JobId, JobState, JobStatus
from gateway.schedulers import Scheduler, get, local, slurm

MARK = "5f1e0c4d9ab37f26"
NAME = "gw-inst22-abcdefghia"
NO_ANSWER = [Completed(-1), Completed(124), Completed(137), Completed(-1, "1\n"), Completed(124, "1\n")]


def slurm_rows(states: Sequence[str]) -> str:
    rows = (
        (str(i), state, "None", "cn1", "alice", "0", "N/A", "a comment", NAME)
        for i, state in enumerate(states, 1)
    )
    return "".join(f"~{MARK}~".join(values) + f"~{MARK}.\n" for values in rows)


def local_rows(states: Sequence[str]) -> str:
    fields = {"name": NAME, "user": "alice", "reason": "", "host": "cn1", "comment": "a comment"}
    rows = [{"id": str(i), "state": state, **fields} for i, state in enumerate(states, 1)]
    return "".join(f"{json.dumps(row)}\n" for row in [*rows, {"end": len(rows)}])


#: For each scheduler: its states, and a good listing of jobs in the states given.
KNOWN = {"slurm": (slurm.STATES, slurm_rows), "local": (local.STATES, local_rows)}


@pytest.fixture(params=KNOWN)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scheduler(name: str) -> Scheduler:
    return get(name)


def read(scheduler: Scheduler, *states: str) -> tuple[JobStatus, ...]:
    listing = KNOWN[scheduler.name][1](states)
    return scheduler.read_status(Completed(0, listing), MARK).jobs


def test_it_is_known_by_its_own_name(scheduler: Scheduler, name: str) -> None:
    assert scheduler.name == name
    assert scheduler.template == f"{name}.sh.j2"


@pytest.mark.parametrize("completed", NO_ANSWER)
def test_without_an_answer_nothing_is_known(scheduler: Scheduler, completed: Completed) -> None:
    with pytest.raises(SubmitOutcomeUnknown):
        scheduler.read_submit(completed)
    with pytest.raises(QueueUnreachable):
        scheduler.read_status(completed, MARK)
    with pytest.raises(QueueUnreachable):
        scheduler.read_cancel(completed)
    with pytest.raises(QueueUnreachable):
        scheduler.read_accounting(completed)


@pytest.mark.parametrize("noise", ["", "x", "\x00", "1\n2\n", "{}\n", "[" * 99_999 + "\n", '{"end": 1}\n{'])
@pytest.mark.parametrize("status", [0, 1, 65, 75, 255])
def test_noise_is_never_more_than_one_of_our_errors(scheduler: Scheduler, noise: str, status: int) -> None:
    completed = Completed(status, noise, noise)
    for reader in (
        scheduler.read_submit,
        scheduler.read_cancel,
        scheduler.read_accounting,
        lambda answer: scheduler.read_status(answer, MARK),
    ):
        with contextlib.suppress(GatewayError):
            reader(completed)


def test_a_submit_that_succeeded_with_something_else_than_an_id_is_not_a_refusal(
    scheduler: Scheduler,
) -> None:
    for printed in ("", "0\n", "1 2\n", "-1\n", "job 1\n"):
        with pytest.raises(GatewayError) as caught:
            scheduler.read_submit(Completed(0, printed))
        assert not isinstance(caught.value, SubmitRefused)


def test_a_listing_cut_short_never_invents_or_changes_a_job(scheduler: Scheduler) -> None:
    whole = KNOWN[scheduler.name][1](["RUNNING", "COMPLETED", "CANCELLED"])
    jobs = scheduler.read_status(Completed(0, whole), MARK).jobs
    assert len(jobs) == 3
    for end in range(len(whole)):
        with contextlib.suppress(QueueUnreachable):
            some = scheduler.read_status(Completed(0, whole[:end]), MARK).jobs
            assert some == jobs[: len(some)]
    with pytest.raises(QueueUnreachable):
        scheduler.read_status(Completed(1, whole), MARK)


def test_every_native_state_has_a_meaning_and_an_unknown_one_is_a_value(scheduler: Scheduler) -> None:
    states = KNOWN[scheduler.name][0]
    assert [job.state for job in read(scheduler, *states)] == list(states.values())
    assert {JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED} <= set(states.values())
    assert read(scheduler, "NEWFANGLED")[0].state is JobState.UNKNOWN


def test_only_a_job_on_its_node_has_a_host(scheduler: Scheduler) -> None:
    for job in read(scheduler, *KNOWN[scheduler.name][0]):
        assert (job.host == "cn1") == (job.state.on_node or job.state is JobState.STOPPING)


def test_what_ended_badly_has_a_sentence_and_an_odd_reason_is_shown(scheduler: Scheduler) -> None:
    for job in read(scheduler, *KNOWN[scheduler.name][0]):
        if job.state.ended and job.state is not JobState.COMPLETED:
            assert scheduler.why(job).endswith(".")
    odd = JobStatus(JobId("1"), NAME, "alice", JobState.QUEUED, reason="Odd\x1b[31mThing", native="x")
    assert "Odd [31mThing" in scheduler.why(odd)


@pytest.mark.parametrize("job_id", ["", "0", "-1", "1;2", "1 2", "--help", "1_2", "1\n", "٣"])
def test_only_a_job_id_reaches_a_command_line(scheduler: Scheduler, job_id: str) -> None:
    for command in (scheduler.cancel_command, scheduler.accounting_command):
        with pytest.raises(ValueError, match=r"not a .*job id"):
            command(JobId(job_id))


@pytest.mark.parametrize("names", [[], ["gw-inst22-abcdefghia,other"], ["x"], [""], [f"{NAME}\n"]])
def test_only_job_names_reach_a_command_line(scheduler: Scheduler, names: list[str]) -> None:
    with pytest.raises(ValueError, match="not job names"):
        scheduler.status_command(names, MARK)


@pytest.mark.parametrize("mark", ["", "abc", MARK.upper(), f"{MARK},", f"{MARK}\n"])
def test_a_weak_mark_is_refused(scheduler: Scheduler, mark: str) -> None:
    with pytest.raises(ValueError, match="not a mark"):
        scheduler.status_command([NAME], mark)
