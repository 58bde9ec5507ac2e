"""What is done next with a server that has a job: above all, what is not taken for its end."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.decide import (
    ENDS,
    START_PATIENCE,
    Act,
    Decision,
    Sighting,
    decide,
    how_it_ended,
    where_it_calls_from,
    where_it_says,
)
from gateway.lifecycle import WITH_JOB, Event, Phase
from gateway.model import Choices, EndReason, JobEnd, JobId, JobState, JobStatus, Server
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


def test_a_job_that_can_never_start_says_why_at_once_and_is_given_up_after_a_minute() -> None:
    job = replace(JOB, state=JobState.CANNOT_START, host=None, reason="PartitionTimeLimit")
    why = "It asks for more time than the partition allows."
    for repeated, lasting in ((1, 0.0), (1, 999.0), (20, 59.0)):
        early = decided(SERVER, Sighting(job, repeated, lasting, why))
        assert early == Decision(Act.WAIT, changes={"message": why, "native_reason": job.reason})
        put_back = decided(at(Phase.READY), Sighting(job, repeated, lasting, why))
        assert (put_back.act, put_back.event) == (Act.MOVE, Event.REQUEUED)
    decision = decided(SERVER, Sighting(job, 2, 60.0, why))
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
    ("end", "left", "reason", "says"),
    [
        (JobEnd(JobState.COMPLETED), (0, ExitWord.FINISHED), EndReason.FINISHED, "by itself"),
        (JobEnd(JobState.COMPLETED), (0, ExitWord.WALLTIME), EndReason.WALLTIME, "walltime"),
        (JobEnd(JobState.COMPLETED), None, EndReason.FINISHED, "by itself"),
        (JobEnd(JobState.WALLTIME), None, EndReason.WALLTIME, "longer walltime"),
        (JobEnd(JobState.WALLTIME), (143, ExitWord.TERMINATED), EndReason.WALLTIME, "walltime"),
        (JobEnd(JobState.CANCELLED), (0, ExitWord.WALLTIME), EndReason.WALLTIME, "walltime"),
        (JobEnd(JobState.CANCELLED), None, EndReason.CANCELLED, "was cancelled"),
        (JobEnd(JobState.CANCELLED, by="alice"), None, EndReason.CANCELLED, "You cancelled"),
        (JobEnd(JobState.CANCELLED, by="alice@login1"), None, EndReason.CANCELLED, "You cancelled"),
        (JobEnd(JobState.CANCELLED, by="<b>x</b>"), None, EndReason.CANCELLED, "was cancelled"),
        (JobEnd(JobState.CANCELLED, by="root"), None, EndReason.CANCELLED, "An administrator"),
        (JobEnd(JobState.CANCELLED, by="0"), None, EndReason.CANCELLED, "An administrator"),
        (JobEnd(JobState.CANCELLED, by="1003"), None, EndReason.CANCELLED, "Somebody else (uid 1003)"),
        (
            JobEnd(JobState.CANCELLED, by="olga"),
            (0, ExitWord.WALLTIME),
            EndReason.CANCELLED,
            "olga cancelled",
        ),
        (JobEnd(JobState.PREEMPTED), (143, ExitWord.TERMINATED), EndReason.PREEMPTED, "higher priority"),
        (JobEnd(JobState.OUT_OF_MEMORY), (137, ExitWord.FAILED), EndReason.OUT_OF_MEMORY, "with more"),
        (JobEnd(JobState.NODE_FAILED), None, EndReason.NODE_FAILED, "node"),
        (
            JobEnd(JobState.FAILED),
            (3, ExitWord.FAILED),
            EndReason.FAILED,
            "application failed with exit status 3",
        ),
        (JobEnd(JobState.FAILED), (137, ExitWord.FAILED), EndReason.FAILED, "memory"),
        (JobEnd(JobState.FAILED), (139, ExitWord.FAILED), EndReason.FAILED, "signal 11"),
        (JobEnd(JobState.FAILED), (1, ExitWord.NO_PORT), EndReason.FAILED, "no free port"),
        (JobEnd(JobState.FAILED), (1, ExitWord.SILENT), EndReason.FAILED, "did not get ready"),
        (JobEnd(JobState.FAILED), (1, ExitWord.NO_STATE), EndReason.FAILED, "files in your home"),
        (JobEnd(JobState.FAILED, exit_status=7), None, EndReason.FAILED, "job failed with exit status 7"),
        (JobEnd(JobState.FAILED, signal=9), None, EndReason.FAILED, "killed (signal 9)"),
        (JobEnd(JobState.FAILED), None, EndReason.FAILED, "The job failed"),
        (None, (3, ExitWord.FAILED), EndReason.FAILED, "exit status 3"),
        (None, (0, ExitWord.WALLTIME), EndReason.WALLTIME, "walltime"),
        (None, (143, ExitWord.TERMINATED), EndReason.LOST, "from outside"),
        (None, None, EndReason.LOST, "no longer there"),
        (JobEnd(JobState.UNKNOWN), None, EndReason.LOST, "no longer there"),
    ],
)
def test_how_it_ended(
    end: JobEnd | None, left: tuple[int, ExitWord] | None, reason: EndReason, says: str
) -> None:
    said = Exit(*left, restarts=0) if left else None
    found, text = how_it_ended(SERVER, end, said, "Traceback: no such module")
    assert found is reason
    sentence, _, detail = text.partition("\n")
    assert says in sentence
    shown = (EndReason.FAILED, EndReason.OUT_OF_MEMORY, EndReason.NODE_FAILED, EndReason.LOST)
    assert ("Traceback" in detail) == (reason in shown)
    assert len(sentence) <= 250


def test_what_a_run_before_a_requeue_left_says_nothing_of_the_end() -> None:
    requeued = replace(SERVER, restarts=1)
    left = Exit(0, ExitWord.FINISHED, restarts=0)
    assert how_it_ended(requeued, None, left, "")[0] is EndReason.LOST
    assert how_it_ended(requeued, None, replace(left, restarts=1), "")[0] is EndReason.FINISHED


def test_a_stop_that_was_asked_for_is_its_own_reason() -> None:
    stopped = replace(SERVER, wanted=False)
    end = how_it_ended(stopped, JobEnd(JobState.CANCELLED, by="root"), None, "")
    assert end == (EndReason.STOPPED, "Stopped.")


def test_every_reason_for_an_end_has_a_sentence() -> None:
    assert set(ENDS) == set(EndReason)


def test_a_reason_that_was_already_found_stands() -> None:
    given_up = replace(SERVER, reason=EndReason.REFUSED, message="It asks for too much.")
    assert how_it_ended(given_up, JobEnd(JobState.CANCELLED), None, "") == (
        EndReason.REFUSED,
        "It asks for too much.",
    )


def test_the_end_of_the_walltime_is_written_when_it_is_known_and_when_it_moves() -> None:
    ends = NOW + timedelta(minutes=5)
    assert decided(SERVER, Sighting(replace(JOB, ends=ends))).changes["ends"] == ends
    known = replace(at(Phase.READY), host="cn1", port=20001, ends=ends)
    for later, changes in (
        (10, {}),
        (89, {}),
        (90, {"ends": ends + timedelta(seconds=90)}),
        (600, {"ends": ends + timedelta(seconds=600)}),
    ):
        job = replace(JOB, ends=ends + timedelta(seconds=later), comment=token())
        assert decided(known, Sighting(job)).changes == changes
    assert decided(known, Sighting(replace(JOB, comment=token()))).changes == {}
    assert decided(known, Sighting(replace(JOB, restarts=1))).changes["ends"] is None


def test_a_port_that_was_called_in_stands_while_the_scheduler_says_nothing() -> None:
    starting = replace(at(Phase.STARTING), host="cn1")
    assert where_it_calls_from(starting, 20001, PORTS) == {"host": "cn1", "port": 20001}
    known = replace(starting, port=20001)
    assert decided(known, Sighting(JOB), age=START_PATIENCE + 1) == Decision(Act.REACH)
    assert where_it_calls_from(known, 20001, PORTS) == {}
    assert where_it_calls_from(known, 20002, PORTS) == {"host": "cn1", "port": 20002, "generation": 1}


@pytest.mark.parametrize("port", [0, 22, 19999, 30000, 99999])
def test_a_port_outside_of_the_sites_range_is_not_taken(port: int) -> None:
    starting = replace(at(Phase.STARTING), host="cn1")
    assert where_it_calls_from(starting, port, PORTS) is None
    assert where_it_says(starting, token(port=port), PORTS) is None


@pytest.mark.parametrize("phase", sorted(set(Phase) - {Phase.STARTING}))
def test_only_a_starting_server_takes_a_call_or_the_endpoint_file(phase: Phase) -> None:
    server = replace(at(phase), host="cn1")
    assert where_it_calls_from(server, 20001, PORTS) is None
    assert where_it_says(server, token(), PORTS) is None


def test_the_endpoint_file_is_believed_as_far_as_a_comment_is() -> None:
    starting = replace(at(Phase.STARTING), host="cn1")
    assert where_it_says(starting, f"{token()}\n", PORTS) == {"host": "cn1", "port": 20001}
    for text in ("", token(restarts=1), token(host="cn2"), token(run="f" * 16), "20001"):
        assert where_it_says(starting, text, PORTS) is None
    assert where_it_says(replace(starting, wanted=False), token(), PORTS) is None


# --- what is written down, whole ----------------------------------------------------------------------------


def test_a_start_writes_where_and_forgets_why_it_waited() -> None:
    ends = NOW + timedelta(minutes=5)
    waited = replace(SERVER, native_reason="Priority", starts=NOW)
    decision = decided(waited, Sighting(replace(JOB, restarts=2, ends=ends)))
    assert decision.changes == {
        "host": "cn1",
        "restarts": 2,
        "message": "Starting on cn1.",
        "starts": None,
        "ends": ends,
        "native_reason": "",
    }


def test_a_requeue_forgets_where_it_ran_and_gets_a_way_of_its_own() -> None:
    known = replace(at(Phase.READY), host="cn1", port=20001, generation=3, ends=NOW)
    queued = replace(JOB, state=JobState.QUEUED, host=None, restarts=1)
    assert decided(known, Sighting(queued, why="A node was lost.")) == Decision(
        Act.MOVE,
        Event.REQUEUED,
        {
            "restarts": 1,
            "host": None,
            "port": None,
            "ends": None,
            "generation": 4,
            "message": "A node was lost.",
        },
    )


def test_a_job_that_can_never_start_keeps_the_schedulers_word_for_it() -> None:
    job = replace(JOB, state=JobState.CANNOT_START, host=None, reason="PartitionTimeLimit")
    assert decided(SERVER, Sighting(job, why="Never.", repeated=2, lasting=60.0)).changes == {
        "reason": EndReason.REFUSED,
        "message": "Never.",
        "native_reason": "PartitionTimeLimit",
    }


def test_the_end_of_the_walltime_is_learnt_before_the_application_listens_and_after() -> None:
    ends = NOW + timedelta(minutes=5)
    job = replace(JOB, ends=ends)
    assert decided(at(Phase.STARTING), Sighting(job)) == Decision(Act.WAIT, changes={"ends": ends})
    ready = replace(at(Phase.READY), host="cn1", port=20001)
    assert decided(ready, Sighting(job)) == Decision(Act.REACH, changes={"ends": ends})


def test_patience_is_over_after_its_last_second_and_the_message_says_how_long_it_was() -> None:
    starting = at(Phase.STARTING)
    assert decided(starting, Sighting(JOB), age=START_PATIENCE).act is Act.WAIT
    decision = decided(starting, Sighting(JOB), age=START_PATIENCE + 0.1)
    assert (decision.act, set(decision.changes)) == (Act.MOVE, {"reason", "message"})
    assert f"after {START_PATIENCE // 60:.0f} minutes" in decision.changes["message"]


@pytest.mark.parametrize("port", PORTS)
def test_the_first_and_the_last_port_of_the_range_are_in_it(port: int) -> None:
    starting = replace(at(Phase.STARTING), host="cn1")
    assert where_it_calls_from(starting, port, PORTS) == {"host": "cn1", "port": port}
    assert where_it_says(starting, token(port=port), PORTS) == {"host": "cn1", "port": port}


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (128, "exit status 128"),
        (129, "signal 1"),
        (159, "signal 31"),
        (160, "exit status 160"),
    ],
)
def test_an_exit_status_between_128_and_160_is_a_signal(status: int, says: str) -> None:
    _, text = how_it_ended(SERVER, None, Exit(status, ExitWord.FAILED, restarts=0), "")
    assert says in text
    assert "application" in text


def test_a_job_that_failed_took_the_application_with_it_and_an_application_its_job() -> None:
    _, job = how_it_ended(SERVER, JobEnd(JobState.FAILED, signal=11), None, "")
    assert "job was ended by signal 11, and the application with it" in job
    _, application = how_it_ended(SERVER, None, Exit(3, ExitWord.FAILED, restarts=0), "")
    assert "application failed with exit status 3, so its job has ended" in application


def test_the_log_of_what_was_given_up_stands_below_the_message() -> None:
    given_up = replace(SERVER, reason=EndReason.FAILED, message="It was not ready.")
    _, text = how_it_ended(given_up, None, None, "Traceback: no such module")
    assert text.startswith("It was not ready.\n")
    assert "Traceback: no such module" in text
