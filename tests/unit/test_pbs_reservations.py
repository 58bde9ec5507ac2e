"""PBS's reservations, in the text that OpenPBS's pbs_rstat.c prints."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.discovery import Discovery, Downtime
from gateway.model import Choices, Completed, JobId, JobState, JobStatus
from gateway.schedulers.pbs import Pbs
from gateway.waiting import why_it_waits
from tests.unit.test_schedulers import INSTANCE, MARK, NAME

QUEUES = ("workq|started=True", "gpu|started=True|hasnodes=True", "M7|started=False", "R8|started=True")
NODES = (("pbsn1", ""), ("pbsn2", ""), ("pbsg[0]", "gpu"))
NOW = datetime(2026, 11, 23, 20, tzinfo=UTC)
#: Attributes in the order of master_resv_attr_def.xml; the state in words, as convert_resv_state() has it.
MAINTENANCE = """\
Resv ID: M7.pbshead
Reserve_Name = NULL
Reserve_Owner = root@pbshead
reserve_state = RESV_CONFIRMED
reserve_substate = 2
reserve_start = Tue Nov 24 08:00:00 2026
reserve_end = Tue Nov 24 18:00:00 2026
reserve_duration = 36000
queue = M7
Resource_List.ncpus = 8
Resource_List.nodect = 2
Resource_List.place = exclhost
Resource_List.select = host=pbsn1:ncpus=4+host=pbsn2:ncpus=4
Resource_List.walltime = 10:00:00
resv_nodes = (pbsn1:ncpus=4)+(pbsn2:ncpus=4)
Authorized_Users = root@pbshead
server = pbshead
ctime = Mon Nov 23 08:00:00 2026
mtime = Mon Nov 23 08:00:00 2026
Variable_List = PBS_O_LOGNAME=root,PBS_O_HOST=pbshead

"""
COURSE = """\
Resv ID: R8.pbshead
Reserve_Name = course
Reserve_Owner = bob@pbshead
reserve_state = RESV_RUNNING
reserve_start = Mon Nov 23 19:00:00 2026
reserve_end = Mon Nov 23 22:00:00 2026
queue = R8
resv_nodes = (pbsn1:ncpus=1)
Authorized_Users = +alice@*,bob@pbshead,-eve@*

"""
DOWN = Downtime(
    "M7",
    datetime(2026, 11, 24, 8, tzinfo=UTC),
    datetime(2026, 11, 24, 18, tzinfo=UTC),
    frozenset({"workq"}),
)


def discovered(text: str, status: int = 0, stderr: str = "") -> Discovery:
    queues = Completed(0, "".join(f"Queue: {queue}\n" for queue in QUEUES))
    nodes = "".join(
        f"Name={name}|resources_available.ncpus=4{f'|queue={queue}' if queue else ''}\n"
        for name, queue in NODES
    )
    server = Completed(0, "Server: pbshead|query_other_jobs=True\n")
    answers = [queues, Completed(0, nodes), server, Completed(0), Completed(status, text, stderr)]
    return Pbs().read_discovery(answers, INSTANCE, MARK)


def test_a_maintenance_of_all_nodes_of_a_queue_is_a_downtime_of_it() -> None:
    found = discovered(MAINTENANCE)
    assert (found.downtimes, found.faults) == ((DOWN,), ())
    assert [room.name for room in found.rooms] == ["workq", "gpu"]
    everywhere = MAINTENANCE.replace("(pbsn2:ncpus=4)", "(pbsn2:ncpus=2+pbsg[0]:ncpus=2)")
    (downtime,) = discovered(everywhere).downtimes
    assert downtime.partitions == frozenset()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+(pbsn2:ncpus=4)", ""),  # jobs may run on the other one
        ("RESV_CONFIRMED", "RESV_UNCONFIRMED"),
        ("RESV_CONFIRMED", "RESV_FINISHED"),
        ("RESV_CONFIRMED", "RESV_BEING_DELETED"),
        ("Nov 24 08:00:00 2026", "Nov 99 08:00:00 2026"),
        ("reserve_end = ", "reserve_over = "),
        ("M7.pbshead", "M9.pbshead"),  # the server has no such queue
        ("M7.pbshead", "X7.pbshead"),
    ],
)
def test_what_is_in_nobodys_way_or_not_granted_is_no_downtime(old: str, new: str) -> None:
    assert old in MAINTENANCE
    assert discovered(MAINTENANCE.replace(old, new)).downtimes == ()


@pytest.mark.parametrize(
    "state",
    [
        *("RESV_CONFIRMED", "RESV_WAIT", "RESV_TIME_TO_RUN"),
        *("RESV_RUNNING", "RESV_DEGRADED", "RESV_BEING_ALTERED"),
    ],
)
def test_a_maintenance_counts_while_it_is_granted(state: str) -> None:
    assert discovered(MAINTENANCE.replace("RESV_CONFIRMED", state)).downtimes == (DOWN,)


def test_a_reservation_is_offered_to_those_who_may_use_it_by_its_queue() -> None:
    (course,) = discovered(COURSE).downtimes
    assert (course.name, course.maintenance, course.users) == ("R8", False, frozenset({"alice", "bob"}))


def test_nobody_makes_a_downtime_by_what_they_write_into_a_reservation() -> None:
    """A line break in a value is printed as it is (show_nonprint_chars() in misc_utils.c)."""
    forged = COURSE.replace("course", f"course\n{MAINTENANCE.replace('M7', 'M9')}")
    assert not any(each.maintenance for each in discovered(forged).downtimes)
    moved = COURSE.replace("course", f"course\n{MAINTENANCE.replace('08:00', '02:00')}")
    found = discovered(moved + MAINTENANCE)
    assert not any(each.maintenance for each in found.downtimes)
    assert found.faults == ("pbs_rstat: M7.pbshead is there twice",)


@pytest.mark.parametrize(
    ("status", "stderr"),
    [
        (0, "pbs_rstat: Unauthorized Request \n"),  # it ends with 0 (handle_resv())
        (162, "Connection refused\npbs_rstat: cannot connect to server (errno=15010)\n"),
        (127, "/usr/bin/env: '/opt/pbs/bin/pbs_rstat': No such file or directory\n"),
        (124, ""),
    ],
)
def test_without_an_answer_there_is_a_fault_and_all_else_stands(status: int, stderr: str) -> None:
    found = discovered(MAINTENANCE, status, stderr)
    assert found.downtimes == ()
    (fault,) = found.faults
    assert fault.startswith(f"pbs_rstat: exit status {status}: {stderr.partition(chr(10))[0].strip()}")
    assert len(found.rooms) == 2


def test_a_shorter_walltime_that_can_start_is_named() -> None:
    reason = "Not Running: Job would conflict with reservation or top job"
    job = JobStatus(JobId("1.pbshead"), NAME, "alice", JobState.QUEUED, reason=reason, native="Q 10")
    choices = Choices("pbs", "lab", "workq", 900, 1, 100)
    told = why_it_waits(job, Pbs().why(job), choices, discovered(MAINTENANCE), NOW)
    assert "15 h cannot start before Tuesday's downtime (Tue 24 Nov, 08:00 to 18:00 UTC); 11 h can." in told
    elsewhere = Choices("pbs", "lab", "gpu", 900, 1, 100)
    assert "downtime (" not in why_it_waits(job, "", elsewhere, discovered(MAINTENANCE), NOW)
