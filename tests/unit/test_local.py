"""The local queue's adapter, what its program makes of a script, and whose turn it is. Nothing is run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.errors import CancelRefused, ConfigError, QueueUnreachable, SubmitOutcomeUnknown, SubmitRefused
from gateway.localqueue import jobs as native
from gateway.localqueue.jobs import Job, Limits, Process, Refused, Request, State, read_request, waits_for
from gateway.model import Asked, Choices, Completed, JobEnd, JobId, JobState, JobStatus
from gateway.schedulers import Scheduler
from gateway.schedulers.local import STATES, Local
from gateway.schedulers.text import one_line
from gateway.script import JobFacts, render_script
from gateway.siteconfig import parse_site_config
from tests.unit.test_schedulers import ENDPOINT, INSTANCE, MARK, NAME, SchedulerContract

LOCAL: Scheduler = Local()
ASKED = [Asked("gw-inst22-abcdefghia", "alice", JobId("7"))]
ROW = {
    "id": "7",
    "name": "gw-inst22-abcdefghia",
    "user": "alice",
    "state": "RUNNING",
    "reason": "",
    "host": "localhost",
    "comment": "gw1:0123456789abcdef:0:localhost:20001",
    "ends": 1795463175,
}
MACHINE = {"cores": 4, "memory": 8000, "free_cores": 3, "waiting": ["5", "8"]}


def listing(*rows: Any, end: Any = None) -> Completed:
    last = {"end": len(rows)} if end is None else end
    return Completed(0, "".join(f"{json.dumps(row)}\n" for row in [*rows, last]))


def read(**changes: Any) -> JobStatus:
    (job,) = LOCAL.read_status([listing(ROW | changes)], ASKED, MARK).jobs
    return job


class TestContract(SchedulerContract):
    scheduler = LOCAL
    #: The program's states: the adapter's own table is tested against these.
    states: Mapping[str, JobState] = {
        "QUEUED": JobState.QUEUED,
        "RUNNING": JobState.RUNNING,
        "ENDING": JobState.STOPPING,
        "COMPLETED": JobState.COMPLETED,
        "FAILED": JobState.FAILED,
        "CANCELLED": JobState.CANCELLED,
        "TIMEOUT": JobState.WALLTIME,
        "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
        "PAUSED": JobState.UNKNOWN,  # of a later version
    }
    submitted = (Completed(0, "7\n"), JobId("7"))
    refused = (Completed(65, "", "gateway-queue: this queue gives out no GPUs\n"), "gives out no GPUs")
    not_cancelled = Completed(65, "", "gateway-queue: the account has no name\n")
    not_there = Completed(0)
    room = ("local", None, 4)
    good_directives = (" #GATEWAY cores=1", "##GATEWAY")
    bad_directives = ("#GATEWAY cores=1", "#GATEWAY name=mine")

    def listing(self, states: Sequence[str]) -> Sequence[Completed]:
        fields = {"name": NAME, "user": "alice", "reason": "", "comment": ENDPOINT, "ends": None}
        rows = ({"id": str(i), "state": state, "host": "cn1", **fields} for i, state in enumerate(states, 1))
        return [listing(*rows)]

    def discovered(self) -> Sequence[Completed]:
        return [listing(MACHINE, ROW)]


# --- the adapter ------------------------------------------------------------------------------------------


def test_its_commands_are_the_programs_verbs() -> None:
    second = Asked("gw-inst22-abcdefghib", "alice")
    assert LOCAL.submit_command().words == ("gateway-queue", "submit", "./script")
    (command,) = LOCAL.status_commands([second, *ASKED], MARK)
    assert command.words == ("gateway-queue", "list", ASKED[0].name, second.name)
    (command,) = LOCAL.discovery_commands(INSTANCE, MARK)
    assert command.words == ("gateway-queue", "survey", "gw-inst22-")
    assert LOCAL.cancel_command(JobId("7")).words == ("gateway-queue", "cancel", "7")
    assert LOCAL.accounting_command(ASKED[0]).words == ("gateway-queue", "how", "7")


def test_a_submit_prints_an_id_or_says_why_not() -> None:
    assert LOCAL.read_submit(Completed(0, "7\n")) == "7"
    with pytest.raises(SubmitRefused) as caught:
        LOCAL.read_submit(Completed(65, "", "noise\ngateway-queue: this queue gives out no GPUs\n"))
    assert caught.value.public == "The cluster did not accept the job: this queue gives out no GPUs."


@pytest.mark.parametrize("status", [75, 126, 127])
def test_a_program_that_did_nothing_or_never_ran_has_taken_no_job(status: int) -> None:
    with pytest.raises(QueueUnreachable, match=rf"^gateway-queue submit: exit status {status}: .* is busy$"):
        LOCAL.read_submit(Completed(status, "", "gateway-queue: the queue is busy\n"))


@pytest.mark.parametrize(
    "completed",
    [
        Completed(0),
        Completed(0, "7\n8\n"),
        Completed(0, "noise\n7\n"),
        Completed(1, "", "Traceback (most recent call last):\n"),
        Completed(1, "7\n"),
        Completed(65, "", ""),
        Completed(-1, "7\n"),
    ],
)
def test_a_submit_without_a_clear_answer_may_have_made_a_job(completed: Completed) -> None:
    with pytest.raises(SubmitOutcomeUnknown):
        LOCAL.read_submit(completed)


def test_a_listing_is_read_whole() -> None:
    assert read() == JobStatus(
        JobId("7"),
        "gw-inst22-abcdefghia",
        "alice",
        JobState.RUNNING,
        host="localhost",
        comment="gw1:0123456789abcdef:0:localhost:20001",
        native="RUNNING",
        ends=datetime.fromtimestamp(1795463175, UTC),
    )
    assert LOCAL.read_status([listing()], ASKED, MARK).jobs == ()
    assert {state.value for state in State} == set(STATES)


@pytest.mark.parametrize(
    "completed",
    [
        Completed(0),
        Completed(75, "", "gateway-queue: the queue is busy\n"),
        Completed(0, "[]\n"),
        listing(ROW, end={"end": 2}),
        listing(ROW, end=ROW | {"id": "8"}),
        listing(ROW, {"end": 1}, end={"end": 2}),
        listing(ROW, ROW),
        listing([]),
        listing({key: value for key, value in ROW.items() if key != "comment"}),
        listing(ROW | {"more": ""}),
        listing(ROW | {"id": 7}),
        listing(ROW | {"id": "x"}),
        listing(ROW | {"state": None}),
        listing(ROW | {"host": 1}),
        listing(ROW | {"comment": "two\nlines"}),
        listing(ROW | {"comment": "\ud800"}),
        listing(ROW | {"ends": "soon"}),
        listing(ROW | {"ends": 0}),
        listing(ROW | {"ends": 10**11}),
        listing(ROW | {"ends": True}),
        Completed(0, listing(ROW).stdout + "x"),
        Completed(0, "noise\n" + listing(ROW).stdout),
    ],
)
def test_an_answer_that_is_not_whole_is_no_news(completed: Completed) -> None:
    with pytest.raises(QueueUnreachable):
        LOCAL.read_status([completed], ASKED, MARK)


@pytest.mark.parametrize("verb", ["survey", "submit", "list", "cancel", "how"])
@pytest.mark.parametrize("status", [0, 1])
def test_what_the_program_did_not_do_is_logged_by_its_verb(verb: str, status: int) -> None:
    read: Mapping[str, Callable[[Completed], object]] = {
        "survey": lambda completed: LOCAL.read_discovery([completed], INSTANCE, MARK),
        "submit": LOCAL.read_submit,
        "list": lambda completed: LOCAL.read_status([completed], ASKED, MARK),
        "cancel": LOCAL.read_cancel,
        "how": lambda completed: LOCAL.read_accounting(completed, ASKED[0]),
    }
    for printed in ("{}\n", '"odd"', listing(ROW, end={"end": 7}).stdout):
        if verb != "cancel" or status:
            with pytest.raises((QueueUnreachable, SubmitOutcomeUnknown)) as caught:
                read[verb](Completed(status, printed))
            assert str(caught.value) == f"gateway-queue {verb}: exit status {status}: {one_line(printed)}"


def test_what_is_wrong_with_a_row_is_logged() -> None:
    for rows, words in (([ROW, ROW], "there twice"), ([{"id": "odd"}], "cannot be read: {'id': 'odd'}")):
        with pytest.raises(QueueUnreachable, match=words):
            LOCAL.read_status([listing(*rows)], ASKED, MARK)
    with pytest.raises(QueueUnreachable, match=r"survey: not a machine: \{'cores': 4\}"):
        LOCAL.read_discovery([listing({"cores": 4})], INSTANCE, MARK)


def test_the_first_second_of_all_is_a_time() -> None:
    assert read(ends=1).ends == datetime.fromtimestamp(1, UTC)


def test_every_shorter_answer_is_no_news() -> None:
    whole = listing(ROW, ROW | {"id": "8"}).stdout
    for end in range(len(whole)):
        with pytest.raises(QueueUnreachable):
            LOCAL.read_status([Completed(0, whole[:end])], ASKED, MARK)


def test_a_comment_is_data_whatever_it_says() -> None:
    comment = '"}\\n{"end": 0} ~|; $(x) gw1:'
    assert read(comment=comment).comment == comment


def test_a_waiting_job_has_a_sentence_on_why() -> None:
    for reason in ("", "Resources", "Priority"):
        job = read(state="QUEUED", reason=reason, host=None)
        assert job.state is JobState.QUEUED
        assert not LOCAL.why(job).startswith("The scheduler gives")
    job = read(state="QUEUED", reason="TooLarge", host=None)
    assert job.state is JobState.CANNOT_START
    assert LOCAL.why(job).endswith("so it can never start. Start again with less.")


@pytest.mark.parametrize("reason", ["ExitStatus:3", "CannotStart", "SupervisorDied"])
def test_a_failed_job_has_a_sentence_on_why(reason: str) -> None:
    why = LOCAL.why(read(state="FAILED", reason=reason, host=None))
    assert why.endswith(".")
    assert not why.startswith("The scheduler gives")


def test_a_cancel_is_done_refused_or_to_be_tried_again() -> None:
    LOCAL.read_cancel(Completed(0))
    with pytest.raises(CancelRefused, match=r"^gateway-queue cancel: exit status 65: .* no name"):
        LOCAL.read_cancel(Completed(65, "", "gateway-queue: the account has no name\n"))
    for completed in (Completed(75, "", "gateway-queue: the queue is busy\n"), Completed(1)):
        with pytest.raises(QueueUnreachable):
            LOCAL.read_cancel(completed)


def test_how_a_job_ended_is_known_for_a_while() -> None:
    ended = ROW | {"state": "TIMEOUT", "host": None, "ends": None}
    assert LOCAL.read_accounting(listing(ended), ASKED[0]) == JobEnd(JobState.WALLTIME, native="TIMEOUT")
    failed = listing(ended | {"state": "FAILED", "reason": "ExitStatus:3"})
    assert LOCAL.read_accounting(failed, ASKED[0]) == JobEnd(JobState.FAILED, 3, native="FAILED")
    assert LOCAL.read_accounting(listing(), ASKED[0]) is None
    with pytest.raises(QueueUnreachable, match="still"):
        LOCAL.read_accounting(listing(ROW), ASKED[0])


def test_the_machine_is_a_partition_and_jobs_have_their_place_in_the_line() -> None:
    waits = ROW | {"state": "QUEUED", "host": None, "ends": None}
    survey = listing(MACHINE, ROW, waits | {"id": "8"}, waits | {"id": "6", "state": "FAILED"})
    found = LOCAL.read_discovery([survey], INSTANCE, MARK)
    (room,) = found.rooms
    assert (room.default, room.cores, room.free_cores, room.max_memory, room.waiting) == (True, 4, 3, 8000, 2)
    assert (room.nodes, room.gpus, room.free_gpus, room.closed) == (1, {}, {}, "")
    assert found.positions == {JobId("8"): 2}
    assert [job.job_id for job in found.ours or ()] == ["7", "8"]
    assert found.hidden is False


@pytest.mark.parametrize(
    "machine",
    [None, [], {}, MACHINE | {"cores": "4"}, MACHINE | {"waiting": 2}, MACHINE | {"waiting": ["x"]}, ROW],
    ids=range(7),
)
def test_a_survey_of_something_else_is_no_news(machine: object) -> None:
    with pytest.raises(QueueUnreachable):
        LOCAL.read_discovery([listing(machine, ROW)], INSTANCE, MARK)


# --- the script -------------------------------------------------------------------------------------------

SITE = """
version: 1
name: here
title: Here
scheduler: local
login: {hosts: [h], user: svc, key: /k, known_hosts: /h, act_as: service, bin: /opt/q/bin}
partitions: [{name: all, max_walltime: 10m, max_cores: 4, max_memory: 8G, gpus: {any: 1}}]
applications: [{name: lab, title: Lab, command: [jupyter, lab], prologue: "#GATEWAY cores=9"}]
"""


def rendered(choices: Choices) -> str:
    facts = JobFacts("inst22", "abcdefghia", "0" * 16, "alice", "", "/user/alice/", node_tls=True)
    return render_script(parse_site_config(SITE, "here.yaml"), choices, facts)


def test_the_queue_understands_what_the_gateway_renders() -> None:
    script = rendered(Choices("here", "lab", "all", 5, 2, 4096))
    assert read_request(script) == Request("gw-inst22-abcdefghia", 300, 2, 4096, warning=10)
    assert "gw_listen=127.0.0.1\n" in script
    assert '/opt/q/bin/gateway-queue comment "$GATEWAY_JOB" "$1"' in script
    assert read_request(rendered(Choices("here", "lab", "all", 2, 1, 1))).warning == 0


def test_gpus_are_refused_by_the_queue_and_odd_values_before() -> None:
    with pytest.raises(Refused, match="no GPUs"):
        read_request(rendered(Choices("here", "lab", "all", 5, 1, 1, gpus=1, gpu_type="any")))
    with pytest.raises(ConfigError):
        rendered(Choices("here", "lab", "all", "5\n#GATEWAY cores=9", 1, 1))  # type: ignore[arg-type]


GOOD = "#!/bin/sh\n#GATEWAY name=n\n#GATEWAY walltime=1\n#GATEWAY cores=1\n#GATEWAY memory=1\n"


def test_only_lines_before_the_first_command_ask_for_something() -> None:
    assert read_request(f"{GOOD}# a comment\n\ntrue\n#GATEWAY cores=7\n").cores == 1


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("", "does not start with"),
        (GOOD.replace("sh", "csh"), "does not start with"),
        (GOOD.replace("cores=1", "cores=0"), "'#GATEWAY cores=0' is not understood"),
        (GOOD.replace("cores=1", "cores=1 "), "not understood"),
        (GOOD.replace("cores=1", "cores=٣"), "not understood"),
        (GOOD.replace("name=n", "name=-n"), "not understood"),
        (GOOD.replace("name=n", "name=a b"), "not understood"),
        (GOOD.replace("walltime=1", "walltime=1.5"), "not understood"),
        (GOOD.replace("memory=1", "memory=1G"), "not understood"),
        (GOOD.replace("#GATEWAY memory", "#GATEWAYmemory"), "not understood"),
        (f"{GOOD}#GATEWAY nice=1\n", "not understood"),
        (f"{GOOD}#GATEWAY cores=1\n", "says cores twice"),
        (GOOD.replace("#GATEWAY name=n\n", ""), "does not say its name"),
    ],
)
def test_what_is_not_understood_is_refused(script: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        read_request(script)


# --- whose turn it is ---------------------------------------------------------------------------------------

LIMITS = Limits(cores=4, memory=1000)


def job(job_id: int, state: State, cores: int, memory: int = 100) -> Job:
    return Job(job_id, Request("n", 60, cores, memory), "", Process(1, 1), "", 0, state)


def turns(*jobs: Job) -> list[str]:
    return [waits_for(one, jobs, LIMITS) for one in jobs if one.state is State.QUEUED]


def test_the_first_in_the_queue_starts_as_soon_as_it_fits() -> None:
    assert turns(job(1, State.QUEUED, 4)) == [""]
    assert turns(job(1, State.RUNNING, 3), job(2, State.QUEUED, 1)) == [""]
    assert turns(job(1, State.RUNNING, 3), job(2, State.QUEUED, 2)) == ["Resources"]
    assert turns(job(1, State.RUNNING, 1, 950), job(2, State.QUEUED, 1, 100)) == ["Resources"]
    assert turns(job(1, State.ENDING, 3), job(2, State.QUEUED, 2)) == ["Resources"]
    assert turns(*(job(i, s, 4) for i, s in enumerate(State) if s.ended), job(9, State.QUEUED, 4)) == [""]


def test_nobody_overtakes() -> None:
    waiting = (job(2, State.QUEUED, 4), job(3, State.QUEUED, 1))
    assert turns(job(1, State.RUNNING, 1), *waiting) == ["Resources", "Priority"]
    assert turns(*waiting) == ["", "Priority"]


def test_a_job_that_can_never_run_holds_nobody_up() -> None:
    assert turns(job(1, State.QUEUED, 5), job(2, State.QUEUED, 4)) == ["TooLarge", ""]


def test_the_programs_errors_have_the_statuses_that_the_adapter_reads() -> None:
    """The adapter is not the program's: they agree on numbers alone."""
    found = {error.__name__: error.status for error in (native.Usage, native.Refused, native.Unavailable)}
    assert found == {"Usage": 64, "Refused": 65, "Unavailable": 75}
