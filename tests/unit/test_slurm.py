"""Slurm: what is run, and how each answer is read. The recordings are what Slurm 22.05.8 printed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest

from gateway.discovery import MOST_ROOMS, Discovery, Downtime
from gateway.errors import (
    CancelRefused,
    ConfigError,
    NoAccounting,
    QueueUnreachable,
    SubmitOutcomeUnknown,
    SubmitRefused,
)
from gateway.model import Asked, Choices, Completed, JobEnd, JobId, JobState, JobStatus
from gateway.schedulers import Scheduler
from gateway.schedulers.slurm import STATES, Slurm
from gateway.script import JobFacts, render_script
from gateway.siteconfig import parse_site_config
from tests.unit.test_schedulers import ENDPOINT, INSTANCE, MARK, NAME, SchedulerContract

RECORDINGS = Path(__file__).parent.parent / "recordings" / "slurm"
SLURM: Scheduler = Slurm()
ASKED = [Asked(f"gw-inst22-abcdefghi{end}", "alice", JobId("12")) for end in "abcdefghi2"]


def recorded(name: str) -> Completed:
    lines = (RECORDINGS / f"{name}.txt").read_text().split("\n")
    stdout = "".join(f"{line[3:]}\n" for line in lines if line.startswith("1> "))
    stderr = "".join(f"{line[3:]}\n" for line in lines if line.startswith("2> "))
    return Completed(int(next(line[3:] for line in lines if line.startswith("rc="))), stdout, stderr)


def row(
    job_id: str, *, state: str = "RUNNING", reason: str = "None", comment: str = "(null)", **more: str
) -> str:
    values = [
        job_id,
        state,
        reason,
        more.get("host", "cn1"),
        more.get("user", "alice"),
        more.get("restarts", "0"),
        more.get("starts", "N/A"),
        more.get("ends", "N/A"),
        comment,
        more.get("name", "gw-inst22-abcdefghia"),
    ]
    return f"~{MARK}~".join(values) + f"~{MARK}.\n"


def read(*rows: str) -> tuple[JobStatus, ...]:
    return SLURM.read_status([Completed(0, "".join(rows))], ASKED, MARK).jobs


def queued(job_id: str, state: str, partition: str, priority: int, **more: str) -> str:
    """Return a row of the discovery's squeue."""
    plain = [job_id, state, partition, str(priority), more.get("user", "alice"), more.get("reason", "None")]
    return f"{'|'.join(plain)}~{MARK}~{more.get('name', 'x')}~{MARK}.\n"


LOOK = [
    recorded(f"discovery-{name}")
    for name in ("0-scontrol", "1-sinfo", "2-squeue", "3-scontrol", "4-sacctmgr", "5-scontrol")
]


def test_the_name_of_the_cluster_that_squeue_prints_with_slurm_clusters_is_no_job() -> None:
    contract = TestContract()
    (answer,) = contract.listing(["RUNNING"])
    named = replace(answer, stdout=f"CLUSTER: big\n{answer.stdout}")
    assert SLURM.read_status([named], [contract.asked()], MARK) == SLURM.read_status(
        [answer], [contract.asked()], MARK
    )
    found = SLURM.read_discovery(LOOK, INSTANCE, MARK)
    look = [LOOK[0], *(replace(one, stdout=f"CLUSTER: big\n{one.stdout}") for one in LOOK[1:3]), *LOOK[3:]]
    assert SLURM.read_discovery(look, INSTANCE, MARK) == found


def test_while_slurmdbd_does_not_say_where_the_cluster_is_nothing_was_sent() -> None:
    said = (
        "sbatch: error: Problem talking to database\nsbatch: error: 'big' can't be reached now, or it is an "
        "invalid entry for SLURM_CLUSTERS.  Use 'sacctmgr list clusters' to see available clusters.\n"
    )
    for status in (0, 1):
        with pytest.raises(QueueUnreachable):
            SLURM.read_submit(Completed(status, "", said))
    with pytest.raises(QueueUnreachable):
        SLURM.read_cancel(Completed(1, "", said.replace("sbatch", "scancel")))


class TestContract(SchedulerContract):
    scheduler = SLURM
    states = STATES
    submitted = (recorded("sbatch-ok"), JobId("23"))
    refused = (recorded("sbatch-account"), "account 'proj9' is not yours")
    not_cancelled = recorded("scancel-not-yours")
    not_there = recorded("scancel-unknown")
    good_directives = (
        "#SBATCH --qos=interactive --mem-bind=local -C 'ib&fast'  # not --array=1-3, nor -J",
        "#SBATCH -kOs --nice=-5",
        "#SBATCH --tmp=10G --wckey=x --licenses=matlab -x cn9 --mem-bind=local",
        "##SBATCH --array=1-3",
        " #SBATCH --array=1-3",
        "#SBATCH",
    )
    chosen_directives: ClassVar[Mapping[str, Sequence[str]]] = {
        "partition": ("#SBATCH -p other", "#SBATCH -kpother", "#SBATCH --part=other"),
        "walltime": ("#SBATCH -t 5", "#SBATCH --time=5", "#SBATCH --time-min=5"),
        "cores": ("#SBATCH -N2", "#SBATCH --nodes=2", "#SBATCH -n 4", "#SBATCH --cpus-per-t=9"),
        "memory": ("#SBATCH --mem=1G", "#SBATCH --mem-per-cpu=2G", "#SBATCH --mem-per-g 2G"),
        "gpus": ("#SBATCH --gres=gpu:1", "#SBATCH -G 1", "#SBATCH --gpus-per-node=1", "#SBATCH --gpus=1"),
        "account": ("#SBATCH -A other", "#SBATCH --acc=other"),
        "qos": ("#SBATCH --qos=long", "#SBATCH -q long"),
        "reservation": ("#SBATCH --reservation=R",),
        "constraint": ("#SBATCH -C ib", "#SBATCH --constraint=ib"),
        "exclusive": ("#SBATCH --exclusive=user",),
    }
    bad_directives = (
        "#SBATCH --array=1-3",
        "#SBATCH --arr 1-3",
        "#SBATCH--array=1-3",
        "#SBATCH --nice=1 -a 1-3",
        "#SBATCH --begin=now+1hour",
        "#SBATCH -ksa1-3",
        '#SBATCH --comment="a b" -a 1-3',
        "#SBATCH hetjob",
        "#SBATCH packjob",
        "#SBATCH -J mine",
        "#SBATCH --job-name=mine",
        "#SBATCH -o /tmp/x",
        "#SBATCH -e /tmp/x",
        "#SBATCH --open-mode=truncate",
        "#SBATCH --export=ALL",
        "#SBATCH --requeue",
        "#SBATCH --no-requeue",
        "#SBATCH --signal=USR2@60",
        "#SBATCH -D /tmp",
        "#SBATCH --chdir=/tmp",
        "#SBATCH -M other",
        "#SBATCH --wait",
        "#SBATCH --test-only",
        "#SBATCH -H",
        '#SBATCH --comment="a',
        "#PBS -N mine",
    )

    def listing(self, states: Sequence[str]) -> Sequence[Completed]:
        rows = (row(str(i), state=state, comment=ENDPOINT) for i, state in enumerate(states, 1))
        return [Completed(0, "".join(rows))]

    def discovered(self) -> Sequence[Completed]:
        jobs = queued("1", "RUNNING", "short", 5, name=NAME) + queued("2", "PENDING", "short", 4)
        return [*LOOK[:2], Completed(0, jobs), *LOOK[3:]]


# --- submit ---------------------------------------------------------------------------------------------


def test_submit_inherits_nothing_and_prints_an_id() -> None:
    assert SLURM.submit_command().words == ("sbatch", "--parsable", "--export=NIL", "./script")
    assert SLURM.read_submit(recorded("sbatch-ok")) == "23"
    assert SLURM.read_submit(Completed(0, "some prolog noise\n4711;cluster2\n")) == "4711"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sbatch-partition", "invalid partition specified: nosuch; Invalid partition name specified"),
        ("sbatch-walltime", "Requested time limit is invalid (missing or exceeds some limit)"),
        (
            "sbatch-account",
            "account 'proj9' is not yours; Invalid account or account/partition combination specified",
        ),
        (
            "sbatch-memory",
            "Memory specification can not be satisfied; Requested node configuration is not available",
        ),
        ("sbatch-time-syntax", "Invalid --time specification"),
        ("sbatch-qos", "Invalid qos specification"),
        ("sbatch-association", "Invalid account or account/partition combination specified"),
    ],
)
def test_a_refusal_is_told_in_slurms_own_words(name: str, words: str) -> None:
    with pytest.raises(SubmitRefused) as caught:
        SLURM.read_submit(recorded(name))
    assert caught.value.public == f"The cluster did not accept the job: {words}."


def test_a_controller_that_cannot_be_reached_has_not_taken_the_job() -> None:
    with pytest.raises(QueueUnreachable):
        SLURM.read_submit(recorded("sbatch-dead"))


@pytest.mark.parametrize(
    "completed",
    [
        recorded("sbatch-hung"),
        Completed(124),
        Completed(137),
        Completed(-1),
        Completed(0),
        Completed(0, "Submitted batch job 12\n"),
        Completed(1, "", "Segmentation fault\n"),
        Completed(
            1, "", "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received\n"
        ),
        Completed(
            1,
            "",
            "sbatch: error: Batch job submission failed: "
            "Unable to contact slurm controller (receive failure)\n",
        ),
        Completed(-1, "17\n"),
    ],
)
def test_a_submit_without_a_clear_answer_may_have_made_a_job(completed: Completed) -> None:
    with pytest.raises(SubmitOutcomeUnknown):
        SLURM.read_submit(completed)


# --- status ---------------------------------------------------------------------------------------------


def test_one_command_asks_for_all_names() -> None:
    words = SLURM.status_commands([ASKED[1], ASKED[0], ASKED[1]], MARK)[0].words
    assert words[:5] == ("squeue", "-h", "-a", "-t", "all")
    assert words[5] == "--name=gw-inst22-abcdefghia,gw-inst22-abcdefghib"
    assert words[7].endswith(f"Comment:~{MARK}~,Name:~{MARK}.")


def test_a_real_listing_is_read_whole() -> None:
    listing = SLURM.read_status([recorded("squeue-states")], ASKED, MARK)
    jobs = {job.name[-1]: job for job in listing.jobs if job.user == "alice"}
    assert jobs["a"] == JobStatus(
        JobId("87"),
        "gw-inst22-abcdefghia",
        "alice",
        JobState.RUNNING,
        host="cn1",
        comment="gw1:0123456789abcdef:0:cn1:24265",
        native="RUNNING",
        ends=datetime.fromtimestamp(1795463175, UTC),
    )
    assert (jobs["b"].state, jobs["b"].starts, jobs["b"].ends) == (JobState.HELD, None, None)
    assert (jobs["i"].state, jobs["i"].reason, jobs["i"].host) == (JobState.QUEUED, "Resources", None)
    assert (jobs["i"].starts, jobs["i"].ends) == (datetime.fromtimestamp(1795462580, UTC), None)
    assert jobs["d"].state is JobState.COMPLETED
    assert (jobs["e"].state, jobs["e"].reason, jobs["e"].ends) == (JobState.FAILED, "NonZeroExitCode", None)
    assert (jobs["f"].state, jobs["f"].host) == (JobState.CANCELLED, None)


def test_more_names_than_a_command_line_takes_are_left_away_and_others_dropped() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    many = [
        Asked(f"gw-inst22-abcdefg{a}{b}{c}", "alice") for a in letters for b in letters for c in "abcdefgh"
    ]
    (command,) = SLURM.status_commands(many, MARK)
    assert not any(word.startswith("--name") for word in command.words)
    assert max(map(len, command.words)) < 100_000
    (command,) = SLURM.status_commands(many[:4000], MARK)
    assert max(map(len, command.words)) < 100_000
    assert any(word.startswith("--name") for word in command.words)
    listing = Completed(
        0, row("1", name=many[5].name) + row("2", name="other") + row("3", name="gw-inst22-zzzzzzzzzz")
    )
    assert [job.job_id for job in SLURM.read_status([listing], many, MARK).jobs] == ["1"]


def test_nobody_forges_a_row_with_a_comment() -> None:
    """Recorded: bob's job has alice's name, and a comment with separators, line breaks and another mark."""
    listing = SLURM.read_status([recorded("squeue-states")], ASKED, MARK)
    assert JobId("1") not in {job.job_id for job in listing.jobs}
    forger = next(job for job in listing.jobs if job.user == "bob")
    assert forger.comment.endswith("\n1~RUNNING|None\x1fcn2\nalice")
    assert forger not in listing.named("gw-inst22-abcdefghia", "alice")


def test_an_expected_start_without_a_zone_is_not_guessed_at() -> None:
    (job,) = read(row("1", state="PENDING", reason="Priority", host="n/a", starts="2026-11-23T13:07:26"))
    assert job.starts is None


def test_of_a_comment_and_a_reason_without_end_some_is_kept() -> None:
    (job,) = read(row("1", comment="a-" * 100_000 + "gw1:last", reason="b" * 100_000))
    assert len(job.comment) == 4096
    assert job.comment.endswith("gw1:last")
    assert len(job.reason) <= 400


def test_no_jobs_is_a_good_answer() -> None:
    assert SLURM.read_status([recorded("squeue-none")], ASKED, MARK).jobs == ()


@pytest.mark.parametrize(
    "completed",
    [
        recorded("squeue-dead"),
        recorded("squeue-hung"),
        Completed(-1),
        Completed(124),
        Completed(0, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"),
        Completed(0, "", "squeue: error: Munge encode failed: Failed to access\n"),
        Completed(1, row("1"), ""),
        Completed(0, row("1") + row("2")[:-1]),
        Completed(0, row("1") + row("2")[:40]),
        Completed(0, "some noise\n"),
        Completed(0, row("1") + row("2") + row("1", state="CANCELLED")),
        Completed(0, row("1").replace(f"alice~{MARK}~", "")),
        Completed(0, row("1", restarts="x")),
        Completed(0, row("x")),
    ],
)
def test_an_answer_that_is_not_whole_is_no_news(completed: Completed) -> None:
    with pytest.raises(QueueUnreachable):
        SLURM.read_status([completed], ASKED, MARK)


def test_every_prefix_of_an_answer_is_no_news_or_lacks_only_whole_rows() -> None:
    whole = recorded("squeue-states").stdout
    jobs = SLURM.read_status([Completed(0, whole)], ASKED, MARK).jobs
    for end in range(len(whole)):
        try:
            some = SLURM.read_status([Completed(0, whole[:end])], ASKED, MARK).jobs
        except QueueUnreachable:
            continue
        assert some == jobs[: len(some)]


@pytest.mark.parametrize(
    ("native", "state"),
    [
        *STATES.items(),
        ("CANCELLED by 1000", JobState.CANCELLED),
        ("NEWFANGLED", JobState.UNKNOWN),
        ("", JobState.UNKNOWN),
    ],
)
def test_every_state_has_one_meaning(native: str, state: JobState) -> None:
    (job,) = read(row("1", state=native))
    assert job.state is state
    assert (job.host == "cn1") == (state.on_node or state is JobState.STOPPING)


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("Priority", JobState.QUEUED),
        ("ReqNodeNotAvail, UnavailableNodes:cn[1-2]", JobState.QUEUED),
        ("AssocGrpCpuLimit", JobState.QUEUED),
        ("PartitionDown", JobState.QUEUED),
        ("BrandNewReason", JobState.QUEUED),
        ("JobHeldUser", JobState.HELD),
        ("JobHeldAdmin", JobState.HELD),
        ("launch_failed_requeued_held", JobState.HELD),
        ("launch failed requeued held", JobState.HELD),
        ("PartitionTimeLimit", JobState.CANNOT_START),
        ("PartitionNodeLimit", JobState.QUEUED),
        ("PartitionConfig", JobState.CANNOT_START),
        ("BadConstraints", JobState.CANNOT_START),
        ("DependencyNeverSatisfied", JobState.CANNOT_START),
        ("InvalidAccount", JobState.CANNOT_START),
        ("InvalidQOS", JobState.CANNOT_START),
        ("QOSMaxWallDurationPerJobLimit", JobState.CANNOT_START),
    ],
)
def test_a_pending_jobs_reason_tells_whether_it_can_start(reason: str, state: JobState) -> None:
    (job,) = read(row("1", state="PENDING", reason=reason, host="n/a"))
    assert job.state is state
    assert SLURM.why(job)


def test_a_requeued_job_has_its_count_and_no_host() -> None:
    (job,) = read(
        row("1", state="PENDING", reason="BeginTime", restarts="2", host="n/a", starts="1795444696")
    )
    assert (job.restarts, job.host, job.starts) == (2, None, datetime.fromtimestamp(1795444696, UTC))


# --- cancel, accounting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scancel-unknown", "scancel-ended"])
def test_a_job_that_is_gone_counts_as_cancelled(name: str) -> None:
    SLURM.read_cancel(recorded(name))


def test_a_job_that_is_ending_counts_as_cancelled() -> None:
    words = "scancel: error: Kill job error on job id 30: Job/step already completing or completed\n"
    SLURM.read_cancel(Completed(1, "", words))
    SLURM.read_cancel(
        Completed(1, "", "scancel: error: Kill job error on job id 30: Invalid job id specified\n")
    )


def test_another_ones_job_is_not_cancelled() -> None:
    with pytest.raises(CancelRefused, match="Access/permission denied"):
        SLURM.read_cancel(recorded("scancel-not-yours"))


@pytest.mark.parametrize(
    "completed", [recorded("scancel-dead"), recorded("scancel-hung"), Completed(124), Completed(-1)]
)
def test_a_cancel_without_an_answer_is_to_be_tried_again(completed: Completed) -> None:
    with pytest.raises(QueueUnreachable):
        SLURM.read_cancel(completed)


# --- how it ended -----------------------------------------------------------------------------------------


def ended(native: str, code: str = "0:0", **more: str) -> JobEnd | None:
    row = ["12", "10001", native, code, more.get("reason", "None"), "cn1", more.get("name", NAME)]
    return SLURM.read_accounting(Completed(0, "|".join(row) + "\n"), ASKED[0])


def told(name: str, end: str = "a") -> JobEnd | None:
    """Return how alice's job ``gw-inst22-abcdefghi{end}`` ended by a recording of sacct."""
    words = (RECORDINGS / f"sacct-{name}.txt").read_text().split("\n")[0].split()[1:]
    asked = Asked(f"gw-inst22-abcdefghi{end}", "alice", JobId(words[words.index("-j") + 1]))
    assert SLURM.accounting_command(asked).words == tuple(words)
    return SLURM.read_accounting(recorded(f"sacct-{name}"), asked)


@pytest.mark.parametrize(
    ("name", "letter", "end"),
    [
        ("completed", "k", JobEnd(JobState.COMPLETED, 0, None, "", "COMPLETED acctn1")),
        ("failed", "g", JobEnd(JobState.FAILED, 3, None, "", "FAILED acctn1")),
        ("killed", "h", JobEnd(JobState.FAILED, 0, 9, "", "FAILED acctn1")),
        ("over-memory-kill", "b", JobEnd(JobState.FAILED, 0, 9, "", "FAILED acctn2")),
        ("out-of-memory", "b", JobEnd(JobState.OUT_OF_MEMORY, 0, 125, "", "OUT_OF_MEMORY acctn1")),
        ("walltime", "a", JobEnd(JobState.WALLTIME, 0, None, "", "TIMEOUT acctn1")),
        ("deadline", "j", JobEnd(JobState.WALLTIME, 1, None, "", "DEADLINE")),
        ("preempted", "c", JobEnd(JobState.PREEMPTED, 0, None, "", "PREEMPTED acctn1")),
        ("node-fail", "i", JobEnd(JobState.NODE_FAILED, 0, None, "", "NODE_FAIL acctn2")),
        ("cancelled-by-root", "e", JobEnd(JobState.CANCELLED, 0, None, "0", "CANCELLED by 0 acctn1")),
        (
            "cancelled-by-owner",
            "f",
            JobEnd(JobState.CANCELLED, 0, None, "alice", "CANCELLED by 10001 acctn1"),
        ),
        (
            "cancelled-by-operator",
            "m",
            JobEnd(JobState.CANCELLED, 0, None, "10003", "CANCELLED by 10003 acctn1"),
        ),
        ("cancelled-waiting", "l", JobEnd(JobState.CANCELLED, 0, None, "alice", "CANCELLED by 10001")),
        ("requeued", "d", JobEnd(JobState.CANCELLED, 0, None, "alice", "CANCELLED by 10001 BeginTime")),
        ("unknown", "z", None),
        ("completed", "a", None),
    ],
)
def test_the_accounting_says_how_a_job_ended_and_who_cancelled_it(
    name: str, letter: str, end: JobEnd | None
) -> None:
    assert told(name, letter) == end


def test_a_state_that_is_not_known_is_told_as_it_is() -> None:
    assert ended("ODD", "") == JobEnd(JobState.UNKNOWN, None, None, "", "ODD cn1")
    assert ended("CANCELLED") == JobEnd(JobState.CANCELLED, 0, None, "", "CANCELLED cn1")


def test_the_accounting_knows_the_last_run_of_the_very_job() -> None:
    assert ended("FAILED", "1:0", reason="RaisedSignal:9(Killed)") == JobEnd(
        JobState.FAILED, 1, None, "", "FAILED RaisedSignal:9(Killed) cn1"
    )
    assert ended("FAILED", name="gw-inst22-zzzzzzzzzz") is None, "an id that is used again"
    assert ended("FAILED", name=f"{NAME}|x") is None
    rows = (
        f"12|1|NODE_FAIL|1:0|None|cn1|{NAME}\n12|1|COMPLETED|0:0|None|cn2|{NAME}\n13|1|FAILED|1:0|||{NAME}\n"
    )
    end = SLURM.read_accounting(Completed(0, rows), ASKED[0])
    assert end
    assert (end.state, end.native) == (JobState.COMPLETED, "COMPLETED cn2")
    assert SLURM.read_accounting(Completed(0), ASKED[0]) is None
    assert SLURM.read_accounting(Completed(0, "12|1|FAILED\n"), ASKED[0]) is None
    with pytest.raises(NoAccounting):
        SLURM.read_accounting(recorded("sacct-disabled"), ASKED[0])


@pytest.mark.parametrize("native", ["RUNNING", "PENDING", "REQUEUED", "SUSPENDED", "COMPLETING"])
def test_a_job_that_runs_by_the_accountings_word_has_not_ended(native: str) -> None:
    with pytest.raises(QueueUnreachable, match="still"):
        ended(native)
    with pytest.raises(QueueUnreachable, match="RUNNING still"):
        told("running", "m")


def test_an_accounting_that_does_not_answer_says_nothing() -> None:
    with pytest.raises(QueueUnreachable, match="Connection refused"):
        told("dead")


# --- the dry run ------------------------------------------------------------------------------------------


def test_a_dry_run_hands_nothing_in_and_lets_a_good_job_pass() -> None:
    command = SLURM.dry_run_command()
    assert command
    assert command.words == ("sbatch", "--parsable", "--export=NIL", "--test-only", "./script")
    SLURM.read_dry_run(recorded("dry-ok"))


@pytest.mark.parametrize(
    "name",
    [
        "account",
        "association",
        "cores",
        "feature",
        "group",
        "option",
        "partition",
        "qos",
        "reservation",
        "walltime",
    ],
)
def test_a_dry_run_refuses_what_can_never_run(name: str) -> None:
    with pytest.raises(SubmitRefused, match=r"^sbatch: exit status"):
        SLURM.read_dry_run(recorded(f"dry-{name}"))


def test_a_dry_runs_refusal_is_in_slurms_own_words() -> None:
    with pytest.raises(SubmitRefused) as caught:
        SLURM.read_dry_run(recorded("dry-account"))
    assert caught.value.public == (
        "The cluster did not accept the job: account 'proj9' is not yours; "
        "Invalid account or account/partition combination specified."
    )


@pytest.mark.parametrize("name", ["drained", "memory", "node-down"])
def test_a_dry_run_that_fails_for_what_may_pass_refuses_nothing(name: str) -> None:
    """A node that is down and more memory than any has are told in the same words: sbatch knows better."""
    SLURM.read_dry_run(recorded(f"dry-{name}"))


@pytest.mark.parametrize("name", ["sbatch-dead", "sbatch-hung"])
def test_a_dry_run_without_a_controller_refuses_nothing(name: str) -> None:
    SLURM.read_dry_run(recorded(name))


# --- discovery --------------------------------------------------------------------------------------------


def look(**changes: Completed) -> Sequence[Completed]:
    names = ("partitions", "nodes", "jobs", "reservations", "accounts", "config")
    return [changes.get(name, one) for name, one in zip(names, LOOK, strict=True)]


def discover(**changes: Completed) -> Discovery:
    return SLURM.read_discovery(look(**changes), INSTANCE, MARK)


def test_a_real_cluster_is_discovered() -> None:
    """Recorded: both nodes are full, one job waits in the line, two are held, one for a date."""
    found = discover()
    room = found.room("debug")
    assert room
    assert (room.default, room.max_walltime, room.default_walltime) == (True, 60, 30)
    assert (room.max_cores, room.max_memory, room.gpus) == (4, 4000, {"fake": 2})
    assert (room.nodes, room.free_nodes, room.cores, room.free_cores) == (2, 0, 8, 0)
    assert (room.free_gpus, room.waiting) == ({"fake": 0}, 1)
    assert (room.groups, room.accounts, room.qos, room.closed) == (None, None, None, "")
    assert found.positions == {JobId("93"): 1}
    assert {job.job_id: (job.user, job.state) for job in found.ours or ()} == {
        "87": ("alice", JobState.RUNNING),
        "89": ("alice", JobState.HELD),
        "90": ("alice", JobState.RUNNING),
        "91": ("alice", JobState.QUEUED),
        "92": ("bob", JobState.HELD),
        "93": ("alice", JobState.QUEUED),
    }
    assert (found.accounts, found.qos, found.hidden, found.faults) == (None, None, False, ())
    start, end = (datetime.fromtimestamp(seconds, UTC) for seconds in (1795464383, 1795471583))
    course, until = (datetime.fromtimestamp(seconds, UTC) for seconds in (1795497383, 1795504583))
    assert found.downtimes == (
        Downtime("downtime", start, end, users=frozenset({"root"})),
        Downtime("course", course, until, maintenance=False, users=frozenset({"alice", "bob"})),
    )


def test_limits_and_those_who_may_use_a_partition_are_read() -> None:
    line = (
        "PartitionName=long AllowGroups=staff,hpc AllowAccounts=a,b AllowQos=normal Default=NO Hidden=NO "
        "MaxTime=1-12:30:59 DefaultTime=NONE MaxCPUsPerNode=2 MaxMemPerNode=1000 Nodes=cn1 State=DRAIN\n"
        "PartitionName=mine RootOnly=YES Hidden=NO MaxTime=UNLIMITED MaxCPUsPerNode=UNLIMITED Nodes=cn1\n"
        "PartitionName=secret Hidden=YES Nodes=cn1 State=UP\n"
    )
    nodes = (
        "long|2/10/4/16|gpu:a100:4(S:0-1),gpu:h100:2,nvme:1|gpu:a100:1(IDX:0),gpu:h100:0|9000+|8+|1/0/1/2|"
        "ib,fast|\n"
        "long|0/8/0/8|gpu:2|gpu:0|2000|8|0/1/0/1|(null)|\n"
        "a row|that\n"
    )
    long, mine = discover(partitions=Completed(0, line), nodes=Completed(0, nodes)).rooms
    assert (long.max_walltime, long.default_walltime, long.closed) == (2190, None, "DRAIN")
    assert (long.max_cores, long.max_memory) == (2, 1000)
    assert (long.groups, long.accounts) == (frozenset({"staff", "hpc"}), frozenset({"a", "b"}))
    assert long.qos == frozenset({"normal"})
    assert long.gpus == {"a100": 4, "h100": 2, "": 2}
    assert long.free_gpus == {"a100": 3, "h100": 2, "": 2}
    assert (long.nodes, long.free_nodes, long.cores, long.free_cores) == (3, 1, 24, 18)
    assert (mine.max_walltime, mine.groups, mine.nodes) == (None, frozenset(), None)
    assert discover(nodes=Completed(0, nodes)).features == ("fast", "ib")


def test_a_place_in_the_line_counts_those_before_in_the_same_partition() -> None:
    rows = [
        queued("1", "PENDING", "debug", 10),
        queued("2", "PENDING", "debug", 30, reason="Priority"),
        queued("3", "PENDING", "debug", 10, name=NAME),
        queued("4", "PENDING", "debug", 50, reason="Dependency"),
        queued("5", "PENDING", "debug", 50, reason="BeginTime"),
        queued("6", "PENDING", "gpu,debug", 9, name=NAME),
        queued("7", "PENDING", "debug", 99, reason="PartitionTimeLimit"),
        queued("8", "PENDING", "debug", 0, reason="JobHeldUser", name=NAME),
        queued("9", "RUNNING", "debug", 99),
        queued("10", "PENDING", "debug", 99, name="gw-other2-abcdefghia"),
    ]
    found = discover(jobs=Completed(0, "".join(rows)))
    assert found.positions == {JobId("3"): 4, JobId("6"): 1}
    assert [room.waiting for room in found.rooms] == [5, 0, 1]
    assert [job.job_id for job in found.ours or ()] == ["3", "6", "8"]


#: As long as a line may be that is looked at: work that grows with its square takes minutes for all of them.
LONG = 65_000


@pytest.mark.parametrize("part", ["b", "b=", "(", "gpu:", "[", "Nodes=a[", "PrivateData "])
def test_no_line_takes_more_time_than_its_length(part: str) -> None:
    line = part * (LONG // len(part))
    text = Completed(0, f"PartitionName=p Nodes={line}\n{line}\np|{line}\n" * 20)
    found = discover(partitions=text, nodes=text, reservations=text, config=text, accounts=text)
    assert {room.name for room in found.rooms} == {"p"}


def test_a_line_that_is_too_long_hides_no_other() -> None:
    text = f"PartitionName=long Nodes={'b' * 10**6}\nPartitionName=short Nodes=cn1\n"
    assert [room.name for room in discover(partitions=Completed(0, text)).rooms] == ["short"]


def test_no_more_partitions_are_looked_at_than_a_form_can_have() -> None:
    text = "".join(f"PartitionName=p{number} Nodes=cn1\n" for number in range(MOST_ROOMS + 1))
    assert len(discover(partitions=Completed(0, text)).rooms) == MOST_ROOMS


@pytest.mark.parametrize("digits", ["9" * 14, "1" * 5000, "٣٣"])
def test_a_strange_number_is_not_known_and_breaks_nothing(digits: str) -> None:
    limits = f"MaxTime={digits} DefaultTime={digits}-00:00:00 MaxMemPerNode={digits}"
    nodes = (
        f"p|0/8/0/{digits}|(null)|(null)|1|1|0/1/0/1||\n"
        f"p|0/8/0/8|gpu:{digits}|gpu:1|{digits}|{digits}|0/1/0/1||\n"
    )
    times = f"StartTime={digits} EndTime={digits} Nodes=p1 Flags=MAINT"
    found = discover(
        partitions=Completed(0, f"PartitionName=p {limits} Nodes=p[1-{digits}]\n"),
        nodes=Completed(0, nodes),
        reservations=Completed(0, f"ReservationName=r {times}\n"),
    )
    (room,) = found.rooms
    assert (room.max_walltime, room.default_walltime, room.max_memory, room.max_cores) == (None,) * 4
    assert (room.cores, room.gpus, found.downtimes) == (8, {}, ())


@pytest.mark.parametrize("restarts", ["1" * 5000, "٣"])
def test_a_strange_count_of_restarts_is_no_job(restarts: str) -> None:
    with pytest.raises(QueueUnreachable, match="cannot be read"):
        read(row("1", restarts=restarts))


def test_nobody_forges_a_job_of_this_instance() -> None:
    name = f"x\n7|RUNNING|debug|1|alice|None~{'0' * 16}~{NAME}~{'0' * 16}."
    found = discover(jobs=Completed(0, queued("1", "RUNNING", "debug", 1, user="bob", name=name)))
    assert found.ours == ()


@pytest.mark.parametrize(
    "jobs",
    [
        Completed(0, queued("1", "RUNNING", "debug", 1)[:-2]),
        Completed(0, queued("x", "RUNNING", "debug", 1)),
        Completed(0, queued("1" * 5000, "RUNNING", "debug", 1)),
        Completed(0, f"1|RUNNING~{MARK}~x~{MARK}.\n"),
        Completed(0, f"1|RUNNING|debug|1|alice|None~{MARK}.\n"),
        recorded("squeue-dead"),
    ],
)
def test_jobs_that_cannot_be_read_are_not_said_to_be_none(jobs: Completed) -> None:
    found = discover(jobs=jobs)
    assert (found.ours, found.positions) == (None, {})
    assert found.rooms[0].waiting is None
    assert len(found.faults) == 1


def of_cluster(name: str) -> Completed:
    return Completed(0, f"ClusterName             = {name}\nPrivateData             = none\n")


def test_the_accounts_and_qos_of_each_user_are_read_for_this_cluster_alone() -> None:
    rows = recorded("sacctmgr-clusters")
    found = discover(accounts=rows, config=of_cluster("labacct"))
    normal = ("normal",)
    assert found.accounts == {
        "root": ("root",),
        "alice": ("proj1", "proj2"),
        "carol": ("proj1",),
        "svc": ("proj1",),
        "bob": ("proj2",),
    }
    assert found.qos == {
        "root": normal,
        "alice": ("again", "cheap", "normal"),
        "carol": ("normal", "urgent"),
        "svc": normal,
        "bob": normal,
    }
    assert found.operators == {"root", "carol", "svc"}
    assert discover(accounts=rows, config=of_cluster("elsewhere")).accounts == {
        "root": ("root",),
        "alice": ("theirs",),
    }
    assert discover(accounts=rows, config=Completed(1)).accounts is None, "whose they are is not known"
    one = Completed(0, "".join(line for line in rows.stdout.splitlines(True) if line.startswith("labacct")))
    assert discover(accounts=one, config=Completed(1)).accounts == found.accounts


@pytest.mark.parametrize("name", ["private", "dead"])
def test_nobody_lacks_an_account_because_they_are_not_shown(name: str) -> None:
    """With PrivateData=accounts somebody who is no operator is shown their own."""
    found = discover(accounts=recorded(f"sacctmgr-{name}"), config=of_cluster("labacct"))
    assert (found.accounts, found.qos, found.operators) == (None, None, frozenset())


def test_a_downtime_is_of_those_partitions_that_it_takes_whole() -> None:
    def downtime(nodes: str, **more: str) -> str:
        flags = more.get("flags", "MAINT,SPEC_NODES")
        start = more.get("start", "1795464383")
        return (
            f"ReservationName=d StartTime={start} EndTime=1795471583 Nodes={nodes} "
            f"PartitionName=(null) Flags={flags} Users={more.get('users', 'root')} Accounts=-a,b\n"
        )

    def found(text: str) -> Sequence[Downtime]:
        return discover(reservations=Completed(0, text)).downtimes

    (gpu,) = found(downtime("cn2"))
    assert gpu.partitions == {"gpu"}
    assert found(downtime("cn1")) == ()
    for everything in ("cn[1-2]", "cn[2,1],gpu[01-03]", "cn1,cn2"):
        (all_,) = found(downtime(everything))
        assert all_.partitions == frozenset()
    (some,) = found(downtime("cn1", flags="SPEC_NODES", users="-alice,bob"))
    assert (some.maintenance, some.users, some.accounts) == (False, frozenset({"bob"}), frozenset({"b"}))
    assert found("No reservations in the system\n") == found(downtime("cn[1-2]", start="N/A")) == ()


@pytest.mark.parametrize(
    ("private", "users", "hidden"),
    [
        ("none", ["alice"], False),
        ("jobs,usage", ["alice"], True),
        ("all", [], True),
        ("jobs", ["alice", "bob"], False),
        ("nodes,usage", [], False),
    ],
)
def test_hidden_jobs_are_known_by_the_setting_and_by_what_is_seen(
    private: str, users: list[str], hidden: bool
) -> None:
    rows = "".join(queued(str(i), "RUNNING", "debug", 1, user=user) for i, user in enumerate(users, 1))
    config = Completed(0, f"Configuration data\nPrivateData             = {private}\n")
    assert discover(jobs=Completed(0, rows), config=config).hidden is hidden
    assert discover(config=Completed(1)).hidden is None


# --- the script -------------------------------------------------------------------------------------------

SITE = """
version: 1
name: here
title: Here
scheduler: slurm
login: {hosts: [h], user: svc, key: /k, known_hosts: /h, act_as: sudo, bin: /opt/slurm/bin}
partitions: [{name: all, max_walltime: 10m, max_cores: 4, max_memory: 8G, gpus: {a100: 1}}]
applications: [{name: lab, title: Lab, command: [jupyter, lab]}]
"""


def directives(choices: Choices, header: str = "") -> list[str]:
    facts = JobFacts(INSTANCE, "abcdefghia", "0" * 16, "alice", "", "/user/alice/", node_tls=True)
    script = render_script(parse_site_config(SITE, "here.yaml"), choices, facts, header=header)
    head = script.split("\ngw_restarts=")[0].split("\n")
    return [line.removeprefix("#SBATCH ") for line in head if line.startswith("#SBATCH")]


def test_what_was_chosen_is_asked_of_slurm_and_nothing_else() -> None:
    usual = directives(Choices("here", "lab", "all", 5, 2, 100))
    assert usual[0] == f"--job-name={NAME}"
    assert not [line for line in usual if re.match(r"--(qos|res|con|exc|acc|gres)", line)]
    chosen = Choices(
        "here", "lab", "all", 5, 2, 100, 1, "a100", "proj1", "high", "course", "ib", exclusive=True
    )
    asked = {
        "--qos=high",
        "--reservation=course",
        "--constraint=ib",
        "--exclusive",
        "--account=proj1",
        "--gres=gpu:a100:1",
    }
    assert set(directives(chosen)) - set(usual) == asked
    with pytest.raises(ConfigError):
        directives(replace(chosen, constraint="a\n#SBATCH --array=1-3"))


def test_a_sites_directives_stand_where_slurm_reads_them() -> None:
    header = "#SBATCH --tmp=1G\nexport A=1\n#SBATCH --nice"
    assert directives(Choices("here", "lab", "all", 5, 2, 100), header)[-2:] == ["--tmp=1G", "--nice"]


# --- words ------------------------------------------------------------------------------------------------


def test_a_maintenance_in_the_way_is_told() -> None:
    (job,) = read(row("1", state="PENDING", reason="ReqNodeNotAvail, Reserved for maintenance"))
    assert SLURM.why(job).startswith("The nodes are reserved for maintenance.")
    (job,) = read(row("1", state="PENDING", reason="ReqNodeNotAvail, UnavailableNodes:cn1"))
    assert "down or reserved" in SLURM.why(job)


def test_reasons_are_sentences_and_unknown_ones_are_shown_as_they_are() -> None:
    (job,) = read(row("1", state="PENDING", reason="Resources"))
    assert SLURM.why(job) == "The cluster is busy. Your job is next: it starts as soon as enough is free."
    (job,) = read(row("1", state="PENDING", reason="Odd\x1b[31mThing"))
    assert SLURM.why(job).startswith("The scheduler gives a reason of its own: Odd [31mThing. If your job")
    (job,) = read(row("1"))
    assert SLURM.why(job) == ""
    for native, state in STATES.items():
        (job,) = read(row("1", state=native))
        if state.ended and state is not JobState.COMPLETED:
            assert re.fullmatch(r"[A-Z].*\.", SLURM.why(job))


# --- discovery, field by field ----------------------------------------------------------------------------


def test_our_jobs_in_a_discovery_say_why_they_wait() -> None:
    rows = queued("3", "PENDING", "debug", 10, name=NAME, reason="Priority")
    rows += queued("4", "RUNNING", "debug", 10, name=NAME, reason="None")
    waits, runs = discover(jobs=Completed(0, rows)).ours or ()
    assert (waits.native, waits.reason, runs.native, runs.reason) == ("PENDING", "Priority", "RUNNING", "")


def test_a_reason_may_hold_what_separates_fields() -> None:
    (job,) = (
        discover(jobs=Completed(0, queued("3", "PENDING", "debug", 10, name=NAME, reason="a|b"))).ours or ()
    )
    assert (job.reason, job.user) == ("a|b", "alice")


def test_what_cannot_be_read_hides_nothing_behind_it() -> None:
    bad = "a row|that\ndebug|x/0/0/1|||1|1|0/1/0/1||\ndebug|0/1/0/1|||1|1|x||\n"
    nodes = f"{bad}debug|0/4/0/4|||9000|4|0/1/0/1||\n"
    (debug, *_) = discover(nodes=Completed(0, nodes)).rooms
    assert (debug.nodes, debug.max_cores) == (1, 4)
    window = "StartTime=1795464383 EndTime=1795471583 Nodes=cn[1-2] PartitionName=(null)"
    text = (
        f"odd\nReservationName=a {window} Flags=MAINT\nReservationName=b {window.replace('[1-2]', '9')} "
        f"Flags=MAINT\nReservationName=c StartTime=1795464383 EndTime= Flags=MAINT\n"
        f"ReservationName=d {window.replace('(null)', 'debug,gpu')} Flags=FLEX\n"
    )
    found = discover(reservations=Completed(0, text)).downtimes
    assert [downtime.name for downtime in found] == ["a", "d"]
    assert found[1].partitions == {"debug", "gpu"}


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("30", 30),
        ("30:59", 30),
        ("2:30:00", 150),
        ("1-00:00:00", 1440),
        ("1-2:03:04", 1563),
        ("UNLIMITED", None),
        ("INFINITE", None),
        ("", None),
    ],
)
def test_a_partitions_limit_is_minutes_in_all_of_slurms_forms(text: str, minutes: int | None) -> None:
    line = f"PartitionName=p MaxTime={text} DefaultTime={text} State=UP\n"
    (room,) = discover(partitions=Completed(0, line)).rooms
    assert (room.max_walltime, room.default_walltime) == (minutes, minutes)


@pytest.mark.parametrize(
    "option",
    [
        *("--cluster-constraint=x", "--clusters=x", "--export=ALL", "--export-file=x", "--gid=0", "--help"),
        *(
            "--hold",
            "--parsable",
            "--partition=x",
            "--quiet",
            "--time=1",
            "--time-min=1",
            "--uid=0",
            "--usage",
        ),
        *(
            "--version",
            "--wait",
            "--wrap=x",
            "-a1",
            "-Dx",
            "-ex",
            "-h",
            "-H",
            "-Jx",
            "-Mx",
            "-ox",
            "-px",
            "-Q",
        ),
        *("-t1", "-V", "-W"),
    ],
)
def test_an_option_that_changes_what_the_gateway_asks_for_is_a_fault(option: str) -> None:
    (fault,) = SLURM.header_faults(f"#SBATCH {option}")
    assert fault.startswith(f"line 1: {option[:2] if option[1] != '-' else option.partition('=')[0]} ")
