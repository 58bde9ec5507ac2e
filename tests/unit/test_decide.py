"""What is done next with a server that has a job: above all, what is not taken for its end."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gateway.decide import START_PATIENCE, Act, Decision, Sighting, decide, how_it_ended
from gateway.lifecycle import WITH_JOB, Event, Phase
from gateway.model import Choices, EndReason, JobId, JobState, JobStatus, Server
from gateway.script import Exit, ExitWord

NOW = datetime.now(UTC)
RUN = "0123456789abcdef"
SERVER = Server(
    id="abcdefghij",
    user="alice",
    name="",
    cluster="lab",
    application="lab",
    choices=Choices("lab", "lab", "short", 5, 1, 500),
    run=RUN,
    phase=Phase.QUEUED,
    wanted=True,
    created=NOW,
    changed=NOW,
    job_id=JobId("42"),
)
JOB = JobStatus(JobId("42"), "gw-abcdef-abcdefghij", "alice", JobState.RUNNING, host="cn1")
PORTS = (20000, 29999)


def decided(server: Server, sighting: Sighting, age: float = 1.0) -> Decision:
    return decide(server, sighting, ports=PORTS, age=age)


def at(phase: Phase) -> Server:
    return replace(SERVER, phase=phase)


def token(restarts: int = 0, host: str = "cn1", port: int = 20001, run: str = RUN) -> str:
    return f"gw1:{run}:{restarts}:{host}:{port}"


@pytest.mark.parametrize("phase", sorted(WITH_JOB))
def test_one_listing_without_the_job_proves_nothing(phase: Phase) -> None:
    assert decided(at(phase), Sighting(None, repeated=1)).act is Act.WAIT
    assert decided(at(phase), Sighting(None, repeated=2)).act is Act.ENDING


@pytest.mark.parametrize("phase", sorted(WITH_JOB))
def test_an_unknown_state_changes_nothing(phase: Phase) -> None:
    job = replace(JOB, state=JobState.UNKNOWN)
    assert decided(at(phase), Sighting(job, repeated=99)) == Decision(Act.WAIT)


@pytest.mark.parametrize("phase", sorted(WITH_JOB))
@pytest.mark.parametrize(
    "state", [JobState.COMPLETED, JobState.FAILED, JobState.WALLTIME, JobState.CANCELLED]
)
def test_an_ended_job_is_looked_into_in_every_phase(phase: Phase, state: JobState) -> None:
    assert decided(at(phase), Sighting(replace(JOB, state=state))).act is Act.ENDING


def test_a_preempted_job_may_come_back_with_the_next_listing() -> None:
    job = replace(JOB, state=JobState.PREEMPTED)
    assert decided(at(Phase.READY), Sighting(job, repeated=1)).act is Act.WAIT
    assert decided(at(Phase.READY), Sighting(job, repeated=2)).act is Act.ENDING


def test_a_queued_job_says_why_it_waits_and_only_when_that_changes() -> None:
    job = replace(JOB, state=JobState.QUEUED, host=None, reason="Priority", starts=NOW)
    decision = decided(SERVER, Sighting(job, why="Others are before you."))
    assert decision.act is Act.WAIT
    assert decision.changes == {
        "message": "Others are before you.",
        "native_reason": "Priority",
        "starts": NOW,
    }
    known = replace(SERVER, **decision.changes)
    assert decided(known, Sighting(job, why="Others are before you.")).changes == {}


def test_a_running_job_moves_on_from_the_queue() -> None:
    decision = decided(SERVER, Sighting(JOB))
    assert (decision.act, decision.event, decision.changes["host"]) == (Act.MOVE, Event.STARTED, "cn1")


def test_a_job_that_can_never_start_is_given_up_with_the_reason() -> None:
    job = replace(JOB, state=JobState.CANNOT_START, host=None, reason="PartitionTimeLimit")
    decision = decided(SERVER, Sighting(job, why="It asks for more time than the partition allows."))
    assert (decision.act, decision.event) == (Act.MOVE, Event.STOP)
    assert decision.changes["reason"] is EndReason.REFUSED
    assert "more time" in decision.changes["message"]


def test_the_endpoint_of_this_run_is_reached() -> None:
    decision = decided(at(Phase.STARTING), Sighting(replace(JOB, comment=f"mine {token()}")))
    assert decision == Decision(Act.REACH, changes={"host": "cn1", "port": 20001})
    known = replace(at(Phase.STARTING), host="cn1", port=20001)
    assert decided(known, Sighting(replace(JOB, comment=token()))) == Decision(Act.REACH)


@pytest.mark.parametrize(
    "comment",
    ["", token(restarts=1), token(host="cn2"), token(port=22), token(run="f" * 16), "gw1:x"],
    ids=["none", "other restart", "other host", "port out of range", "other run", "malformed"],
)
def test_an_endpoint_that_cannot_be_this_runs_is_not_reached(comment: str) -> None:
    assert decided(at(Phase.STARTING), Sighting(replace(JOB, comment=comment))).act is Act.WAIT


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.READY, Phase.UNREACHABLE])
def test_an_application_that_went_to_another_port_is_followed_on_a_way_of_its_own(phase: Phase) -> None:
    known = replace(at(phase), host="cn1", port=20001, generation=3)
    decision = decided(known, Sighting(replace(JOB, comment=token(port=20002))))
    assert decision == Decision(Act.REACH, changes={"host": "cn1", "port": 20002, "generation": 4})
    for same in (token(), "", token(run="f" * 16, port=20002)):
        changes = decided(known, Sighting(replace(JOB, comment=same)), age=1.0).changes
        assert changes == {}


def test_an_application_that_never_listens_is_given_up() -> None:
    decision = decided(at(Phase.STARTING), Sighting(JOB), age=START_PATIENCE + 1)
    assert (decision.event, decision.changes["reason"]) == (Event.STOP, EndReason.FAILED)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.READY, Phase.UNREACHABLE])
def test_a_requeued_job_loses_its_endpoint_at_once(phase: Phase) -> None:
    server = replace(at(phase), host="cn1", port=20001)
    for job in (
        replace(JOB, restarts=1, comment=token()),
        replace(JOB, state=JobState.QUEUED, host=None, restarts=1, comment=token()),
        replace(JOB, state=JobState.HELD, host=None),
    ):
        decision = decided(server, Sighting(job))
        assert (decision.act, decision.event) == (Act.MOVE, Event.REQUEUED)
        assert decision.changes["port"] is None
        assert decision.changes["restarts"] == job.restarts


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.SUSPENDED])
def test_a_running_or_suspended_job_keeps_what_it_has(state: JobState) -> None:
    job = replace(JOB, state=state, comment=token())
    known = replace(at(Phase.READY), host="cn1", port=20001)
    assert decided(known, Sighting(job)) == Decision(Act.REACH)


def test_while_stopping_only_the_end_matters() -> None:
    for state in (JobState.RUNNING, JobState.QUEUED, JobState.STOPPING, JobState.CANNOT_START):
        assert decided(at(Phase.STOPPING), Sighting(replace(JOB, state=state))).act is Act.WAIT


@pytest.mark.parametrize(
    ("state", "left", "reason"),
    [
        (JobState.COMPLETED, (0, ExitWord.FINISHED), EndReason.FINISHED),
        (JobState.COMPLETED, (0, ExitWord.WALLTIME), EndReason.WALLTIME),
        (JobState.COMPLETED, None, EndReason.FINISHED),
        (JobState.WALLTIME, None, EndReason.WALLTIME),
        (JobState.WALLTIME, (143, ExitWord.TERMINATED), EndReason.WALLTIME),
        (JobState.CANCELLED, (143, ExitWord.TERMINATED), EndReason.CANCELLED),
        (JobState.PREEMPTED, (143, ExitWord.TERMINATED), EndReason.PREEMPTED),
        (JobState.FAILED, (3, ExitWord.FAILED), EndReason.FAILED),
        (JobState.FAILED, (1, ExitWord.NO_PORT), EndReason.FAILED),
        (JobState.FAILED, None, EndReason.FAILED),
        (None, (3, ExitWord.FAILED), EndReason.FAILED),
        (None, (0, ExitWord.WALLTIME), EndReason.WALLTIME),
        (None, (143, ExitWord.TERMINATED), EndReason.LOST),
        (None, None, EndReason.LOST),
    ],
)
def test_how_it_ended(state: JobState | None, left: tuple[int, ExitWord] | None, reason: EndReason) -> None:
    said = Exit(*left, restarts=0) if left else None
    found, text = how_it_ended(SERVER, state, said, "Traceback: no such module")
    assert found is reason
    assert ("Traceback" in text) == (reason is EndReason.FAILED)
    assert ("3" in text) == (left == (3, ExitWord.FAILED))


def test_a_stop_that_was_asked_for_is_its_own_reason() -> None:
    stopped = replace(SERVER, wanted=False)
    assert how_it_ended(stopped, JobState.CANCELLED, None, "")[0] is EndReason.STOPPED


def test_a_reason_that_was_already_found_stands() -> None:
    given_up = replace(SERVER, reason=EndReason.REFUSED, message="It asks for too much.")
    assert how_it_ended(given_up, JobState.CANCELLED, None, "") == (
        EndReason.REFUSED,
        "It asks for too much.",
    )
