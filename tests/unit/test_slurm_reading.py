"""Slurm's rows and lines, field by field: what each means, and what stands for "no such thing"."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from gateway.discovery import Downtime, Room
from gateway.errors import CancelRefused, QueueUnreachable, SubmitRefused
from gateway.model import Asked, Completed, JobId, JobState
from gateway.schedulers import slurm_discovery
from gateway.schedulers.slurm_nodes import Budget
from gateway.schedulers.slurm_nodes import read as nodes_of
from tests.unit.test_schedulers import MARK, NAME
from tests.unit.test_slurm import ASKED, LOOK, SLURM, discover, read, recorded, row

# --- jobs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", ["", "n/a", "(null)"])
def test_a_host_that_is_none_is_none(nothing: str) -> None:
    (job,) = read(row("1", host=nothing))
    assert (job.state, job.host) == (JobState.RUNNING, None)


def test_a_comment_and_a_state_that_are_none_are_empty() -> None:
    (job,) = read(row("1", state=""))
    assert (job.comment, job.native) == ("", "")


def test_a_row_that_cannot_be_read_is_logged_field_by_field() -> None:
    with pytest.raises(QueueUnreachable, match=r"^squeue: a row that cannot be read: x \| RUNNING \| None"):
        read(row("x"))


@pytest.mark.parametrize(
    ("stdout", "words"),
    [(row("1")[:-1], "ends in the middle of a row: 1~"), (row("1") * 2, "twice: somebody may be forging")],
)
def test_what_is_wrong_with_a_listing_is_logged(stdout: str, words: str) -> None:
    with pytest.raises(QueueUnreachable, match=words):
        read(stdout)


# --- what programs complain about -------------------------------------------------------------------------


def test_each_of_sbatchs_sentences_is_told_once_and_all_of_them_logged() -> None:
    said = "sbatch: error: X is odd.\nsbatch: error: .\nsbatch: error: not so, X\nsbatch: error: X is odd\n"
    with pytest.raises(SubmitRefused) as caught:
        SLURM.read_submit(Completed(1, "printed", said))
    assert caught.value.public == "The cluster did not accept the job: X is odd; not so, X."
    assert str(caught.value).startswith("sbatch: exit status 1: sbatch: error: X is odd. sbatch: error: .")


def test_a_controller_that_was_not_reached_is_logged() -> None:
    with pytest.raises(QueueUnreachable, match=r"^sbatch: exit status 1: .*connect failure"):
        SLURM.read_submit(recorded("sbatch-dead"))


@pytest.mark.parametrize(
    "stderr",
    ["", "Killed\n", "scancel: error: Kill job error on job id 30: Protocol authentication error\n"],
    ids=["silent", "killed", "munge"],
)
def test_a_scancel_that_did_not_get_through_is_no_refusal(stderr: str) -> None:
    with pytest.raises(QueueUnreachable, match=r"^scancel: exit status 1"):
        SLURM.read_cancel(Completed(1, "", stderr))
    with pytest.raises(CancelRefused):
        SLURM.read_cancel(recorded("scancel-not-yours"))


def test_a_job_whose_name_holds_separators_is_not_the_one_asked_for() -> None:
    good = f"12|10001|COMPLETED|0:0|None|cn1|{NAME}\n"
    forged = f"12|10001|FAILED|1:0|None|cn1|x|{NAME}\n"
    end = SLURM.read_accounting(Completed(0, good + forged), Asked(NAME, "alice", JobId("12")))
    assert end
    assert end.state is JobState.COMPLETED


@pytest.mark.parametrize(("reason", "nodes"), [("None", "None assigned"), ("", "(null)"), ("(null)", "")])
def test_what_stands_for_nothing_is_not_shown(reason: str, nodes: str) -> None:
    line = f"12|10001|COMPLETED|0:0|{reason}|{nodes}|{NAME}\n"
    end = SLURM.read_accounting(Completed(0, line), Asked(NAME, "alice", JobId("12")))
    assert end
    assert end.native == "COMPLETED"


# --- directives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["#SBATCH hetjob # the second", "#SBATCH hetjob now", "#SBATCH packjob x"])
def test_a_job_of_several_parts_is_a_fault_whatever_follows(line: str) -> None:
    (fault,) = SLURM.header_faults(line)
    assert "is not supported" in fault


def test_what_ends_the_options_is_none_of_them() -> None:
    assert SLURM.header_faults("#SBATCH -- x") == ()


@pytest.mark.parametrize(
    ("option", "means"),
    [
        *(
            ("-a 1", "array"),
            ("-b now", "starts as soon"),
            ("-D /", "directory"),
            ("-e x", "log"),
            ("-h", "answer"),
        ),
        *(("-H", "on hold"), ("-J x", "names"), ("-M x", "cluster"), ("-o x", "log"), ("-Q", "answer")),
        *(("-V", "answer"), ("-W", "answer"), ("-c 2", "form"), ("--export=A", "inherit")),
    ],
)
def test_a_short_option_is_refused_for_what_it_means(option: str, means: str) -> None:
    (fault,) = SLURM.header_faults(f"#SBATCH {option}")
    assert means in fault


# --- partitions and nodes ---------------------------------------------------------------------------------


def room_of(words: str, *slices: str) -> Room:
    """Return a partition ``p`` of which scontrol says these words, and sinfo these rows."""
    nodes = "".join(f"p|{each}|\n" for each in slices)
    (room,) = discover(partitions=Completed(0, f"PartitionName=p {words}\n"), nodes=Completed(0, nodes)).rooms
    return room


def test_what_a_partition_does_not_say_is_no_limit() -> None:
    for words in ("", "AllowGroups= AllowAccounts=(null) AllowQos=ALL State=UP"):
        room = room_of(words)
        assert (room.groups, room.accounts, room.qos, room.closed, room.default) == (
            None,
            None,
            None,
            "",
            False,
        )
        assert (room.max_walltime, room.default_walltime, room.max_cores, room.max_memory) == (None,) * 4


def test_of_a_partition_without_nodes_nothing_is_known_to_be_free() -> None:
    room = room_of("State=UP")
    assert (room.nodes, room.free_nodes, room.cores, room.free_cores, room.free_gpus) == (None,) * 5
    assert room.gpus == {}


def test_a_partition_is_the_sum_of_its_nodes_and_the_largest_of_them() -> None:
    """Of each kind of nodes, or of their cores: allocated, idle, of no use now, all."""
    room = room_of("", "1/2/4/7|gpu:a:2|gpu:a:1|100|4|1/2/5/8|", "0/8/0/8|gpu:b:1|gpu:b:0|50|8|0/16/32/48|")
    assert (room.nodes, room.free_nodes, room.cores, room.free_cores) == (56, 18, 15, 10)
    assert (room.max_cores, room.max_memory) == (8, 100)
    assert (room.gpus, room.free_gpus) == ({"a": 2, "b": 1}, {"a": 3, "b": 16})


def test_gpus_of_one_type_on_several_sockets_are_counted_together() -> None:
    room = room_of("", "0/8/0/8|gpu:a100:2(S:0),gpu:a100:2(S:1),gpu:1|gpu:a100:0(IDX:N/A)|1|8|0/1/0/1|")
    assert room.gpus == {"": 1, "a100": 4}


def test_each_command_that_failed_is_told_by_what_it_shows() -> None:
    for i, name in enumerate(["partitions", "nodes", "jobs", "reservations"]):
        look = [*LOOK[:i], Completed(1, "", "odd"), *LOOK[i + 1 :]]
        assert SLURM.read_discovery(look, "inst22", MARK).faults == (f"{name}: exit status 1: odd",)


def test_a_setting_is_told_from_others_that_begin_like_it() -> None:
    config = "PrivateDataX            = jobs\nPrivateData             = none\n"
    assert discover(config=Completed(0, config)).hidden is False
    assert discover(config=Completed(0, "PrivateData\n")).hidden is None


# --- reservations -----------------------------------------------------------------------------------------


def downtimes(*lines: str, partitions: str = "PartitionName=p Nodes=cn1\n") -> Sequence[Downtime]:
    text = "".join(f"ReservationName=r{i} {line}\n" for i, line in enumerate(lines))
    return discover(partitions=Completed(0, partitions), reservations=Completed(0, text)).downtimes


WINDOW = "StartTime=1795464383 EndTime=1795471583"


def test_a_reservation_that_does_not_say_for_whom_or_of_what_is_nobodys() -> None:
    (found,) = downtimes(WINDOW)
    assert (found.start, found.end) == tuple(
        datetime.fromtimestamp(seconds, UTC) for seconds in (1795464383, 1795471583)
    )
    assert (found.maintenance, found.partitions, found.users, found.accounts) == (False, *[frozenset()] * 3)


def test_a_maintenance_of_nodes_that_nobody_tells_is_in_nobodys_way() -> None:
    assert downtimes(f"{WINDOW} Flags=MAINT") == ()
    assert downtimes(f"{WINDOW} Flags=MAINT Nodes=cn1", partitions="PartitionName=p\n") == ()


def test_no_more_reservations_are_looked_at_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_discovery, "_MOST_RESERVATIONS", 2)
    assert [found.name for found in downtimes(*[WINDOW] * 3)] == ["r0", "r1"]


# --- lists of nodes ---------------------------------------------------------------------------------------


def test_a_budget_is_what_may_still_be_taken() -> None:
    budget = Budget(3)
    assert [budget.take(count) for count in (2, 1, 1, 0)] == [True, True, False, False]


def test_a_list_costs_as_much_as_it_has_parts() -> None:
    for text, cost in (("a1,a2,a3", 3), ("a[1-2],a4", 2), ("a1", 1), ("", 0), ("(null)", 0)):
        budget = Budget(5)
        nodes_of(text, budget)
        assert budget.left == 5 - cost


def test_a_list_is_kept_by_prefix_and_digits_in_whole_ranges() -> None:
    found = nodes_of("cn[8-11],cn[13],cn[12,90-99],cn[100-1000],x[a],login", Budget())
    assert found == {
        ("cn", 1): [(8, 9)],
        ("cn", 2): [(10, 13), (90, 99)],
        ("cn", 3): [(100, 999)],
        ("cn", 4): [(1000, 1000)],
        ("x[a]", 0): [(0, 0)],
        ("login", 0): [(0, 0)],
    }


def test_ranges_that_overlap_or_touch_are_one_and_those_with_a_gap_are_two() -> None:
    assert nodes_of("n[5-7],n[1-3],n[2-2]", Budget()) == {("n", 1): [(1, 3), (5, 7)]}
    assert nodes_of("n[4],n[1-3],n[2-5]", Budget()) == {("n", 1): [(1, 5)]}


def test_all_jobs_are_still_asked_for_by_name() -> None:
    (command,) = SLURM.status_commands(ASKED[:1], MARK)
    assert command.words[-2] == "-O"


@pytest.mark.parametrize(
    "complaint", ["slurm_load_partitions error: x\n", "a warning\nslurm_load_jobs error: y\n"]
)
def test_an_exit_status_of_0_with_a_complaint_is_no_answer(complaint: str) -> None:
    count = len(slurm_discovery.commands("inst22", MARK))
    with pytest.raises(QueueUnreachable, match="discovery: "):
        SLURM.read_discovery([Completed(0, "", complaint)] * count, "inst22", MARK)


@pytest.mark.parametrize(
    "option", ["--partition=gpu", "--time=1", "--cpus-per-task=2", "--mem=1G", "--gpus=1"]
)
def test_what_every_form_asks_for_stands_in_no_header_of_a_site(option: str) -> None:
    (fault,) = SLURM.header_faults(f"#SBATCH {option}")
    assert fault.startswith(f"line 1: {option.partition('=')[0]} ")
    assert "is chosen on the form" in fault
