"""Slurm: what is run, and how each answer is read. The recordings are what Slurm 22.05.8 printed."""

import contextlib
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.errors import (
    CancelRefused,
    ConfigError,
    GatewayError,
    QueueUnreachable,
    SubmitOutcomeUnknown,
    SubmitRefused,
)
from gateway.model import Completed, JobId, JobState, JobStatus
from gateway.schedulers import Scheduler, get
from gateway.schedulers.slurm import STATES, Slurm

RECORDINGS = Path(__file__).parent.parent / "recordings" / "slurm"
MARK = "5f1e0c4d9ab37f26"
SLURM: Scheduler = Slurm()


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
        comment,
        more.get("name", "gw-inst22-abcdefghia"),
    ]
    return f"~{MARK}~".join(values) + f"~{MARK}.\n"


def read(*rows: str) -> tuple[JobStatus, ...]:
    return SLURM.read_status(Completed(0, "".join(rows)), MARK).jobs


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
    words = SLURM.status_command({"gw-inst22-abcdefghib", "gw-inst22-abcdefghia"}, MARK).words
    assert words[:5] == ("squeue", "-h", "-a", "-t", "all")
    assert words[5] == "--name=gw-inst22-abcdefghia,gw-inst22-abcdefghib"
    assert words[7].endswith(f"Comment:~{MARK}~,Name:~{MARK}.")


@pytest.mark.parametrize("names", [[], ["gw-inst22-abcdefghia,other"], ["x"], [""]])
def test_a_listing_of_everything_cannot_be_asked_for(names: list[str]) -> None:
    with pytest.raises(ValueError, match="not job names"):
        SLURM.status_command(names, MARK)


@pytest.mark.parametrize("mark", ["", "abc", "5F1E0C4D9AB37F26", "5f1e0c4d9ab37f26,", "5f1e0c4d9ab37f26\n"])
def test_a_weak_mark_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match="not a mark"):
        SLURM.status_command(["gw-inst22-abcdefghia"], mark)


def test_a_real_listing_is_read_whole() -> None:
    jobs = {job.job_id: job for job in SLURM.read_status(recorded("squeue-states"), MARK).jobs}
    assert jobs[JobId("25")] == JobStatus(
        JobId("25"),
        "gw-inst22-abcdefghia",
        "alice",
        JobState.RUNNING,
        host="cn1",
        comment="gw1:0123456789abcdef:0:cn1:24265",
        native="RUNNING",
    )
    assert (jobs[JobId("26")].state, jobs[JobId("26")].starts) == (JobState.HELD, None)
    assert (jobs[JobId("33")].state, jobs[JobId("33")].reason) == (JobState.QUEUED, "Resources")
    assert jobs[JobId("33")].host is None
    assert jobs[JobId("29")].state is JobState.COMPLETED
    assert (jobs[JobId("30")].state, jobs[JobId("30")].reason) == (JobState.FAILED, "NonZeroExitCode")
    assert (jobs[JobId("31")].state, jobs[JobId("31")].host) == (JobState.CANCELLED, None)


def test_nobody_forges_a_row_with_a_comment() -> None:
    """Recorded: bob's job has alice's name, and a comment with separators, line breaks and another mark."""
    listing = SLURM.read_status(recorded("squeue-states"), MARK)
    assert JobId("1") not in {job.job_id for job in listing.jobs}
    forger = next(job for job in listing.jobs if job.job_id == "32")
    assert forger.user == "bob"
    assert forger.comment.endswith("\n1~RUNNING|None\x1fcn2\nalice")
    assert forger not in listing.named("gw-inst22-abcdefghia", "alice")


def test_of_a_comment_and_a_reason_without_end_some_is_kept() -> None:
    (job,) = read(row("1", comment="a-" * 100_000 + "gw1:last", reason="b" * 100_000))
    assert len(job.comment) == 4096
    assert job.comment.endswith("gw1:last")
    assert len(job.reason) <= 400


def test_no_jobs_is_a_good_answer() -> None:
    assert SLURM.read_status(recorded("squeue-none"), MARK).jobs == ()


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
        SLURM.read_status(completed, MARK)


def test_every_prefix_of_an_answer_is_no_news_or_lacks_only_whole_rows() -> None:
    whole = recorded("squeue-states").stdout
    jobs = SLURM.read_status(Completed(0, whole), MARK).jobs
    for end in range(len(whole)):
        try:
            some = SLURM.read_status(Completed(0, whole[:end]), MARK).jobs
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
        ("PartitionNodeLimit", JobState.CANNOT_START),
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


def test_an_expected_start_is_an_instant_and_one_without_a_zone_is_not_guessed_at() -> None:
    (job,) = SLURM.read_status(recorded("squeue-start"), MARK).jobs
    assert job.starts is not None
    assert job.starts.year == 2026
    (job,) = read(row("1", state="PENDING", reason="Priority", host="n/a", starts="2026-11-23T13:07:26"))
    assert job.starts is None


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


@pytest.mark.parametrize("job_id", ["", "0", "-1", "1;2", "1 2", "--help", "1_2"])
def test_only_a_job_id_reaches_a_command_line(job_id: str) -> None:
    with pytest.raises(ValueError, match="not a Slurm job id"):
        SLURM.cancel_command(JobId(job_id))
    with pytest.raises(ValueError, match="not a Slurm job id"):
        SLURM.accounting_command(JobId(job_id))


@pytest.mark.parametrize(
    ("completed", "state"),
    [
        (recorded("sacct-disabled"), None),
        (Completed(0), None),
        (Completed(0, "12|COMPLETED\n"), JobState.COMPLETED),
        (Completed(0, "12|CANCELLED by 10001\n"), JobState.CANCELLED),
        (Completed(0, "12|TIMEOUT\n"), JobState.WALLTIME),
        (Completed(0, "12|REQUEUED\n12|NODE_FAIL\n"), JobState.FAILED),
        (Completed(0, "12|ODD\n"), JobState.UNKNOWN),
    ],
)
def test_the_accounting_says_how_a_job_ended(completed: Completed, state: JobState | None) -> None:
    assert SLURM.read_accounting(completed) is state


@pytest.mark.parametrize(
    "completed",
    [
        Completed(-1),
        Completed(124),
        Completed(1, "", "sacct: error: Problem talking to the database: Connection refused\n"),
    ],
)
def test_an_accounting_that_does_not_answer_says_nothing(completed: Completed) -> None:
    with pytest.raises(QueueUnreachable):
        SLURM.read_accounting(completed)


# --- words ----------------------------------------------------------------------------------------------


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


def test_schedulers_are_known_by_name() -> None:
    assert get("slurm").name == "slurm"
    with pytest.raises(ConfigError, match="'pbs' is not one of local, slurm"):
        get("pbs")


@pytest.mark.parametrize(
    "noise", ["", "x", "sbatch: ", "\x00", "~", "1\n2\n", f"~{MARK}.\n", f"~{MARK}~" * 8 + f"~{MARK}.\n"]
)
@pytest.mark.parametrize("status", [0, 1, 255, -1])
def test_no_noise_makes_a_reader_fall_over(noise: str, status: int) -> None:
    completed = Completed(status, noise, noise)
    for reader in (
        SLURM.read_submit,
        SLURM.read_cancel,
        SLURM.read_accounting,
        lambda c: SLURM.read_status(c, MARK),
    ):
        with contextlib.suppress(GatewayError):
            reader(completed)
