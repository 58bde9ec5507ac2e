"""PBS's adapter over recordings of OpenPBS 23.06, and the script that it is given. Nothing is run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest

from gateway.discovery import MOST_ROOMS, Room
from gateway.errors import (
    CancelRefused,
    EndedNotListed,
    QueueUnreachable,
    SubmitOutcomeUnknown,
    SubmitRefused,
)
from gateway.model import Asked, Choices, Completed, JobId, JobState, JobStatus
from gateway.schedulers.pbs import Pbs
from gateway.schedulers.pbs_rows import STATES, rows, time
from gateway.script import JobFacts, render_script
from gateway.sitemerge import merge
from tests.unit.test_schedulers import ENDPOINT, INSTANCE, MARK, NAME, OTHER, SchedulerContract

RECORDINGS = Path(__file__).parents[1] / "recordings/pbs"
PBS = Pbs()
SEEN = Completed(0, "Server: pbshead|server_state=Active|default_queue=workq|query_other_jobs=True\n")
BLIND = Completed(0, "Server: pbshead|server_state=Active|query_other_jobs=False\n")
PUBLISHED = f"{NAME}.0123456789abcdef.0.20001.cn1"
_BLOCK = re.compile(
    r"^\$ (.*?)\n(?:--- stdin\n.*?)?--- exit code: (\d+)\n"
    r"--- stdout \((\d+) bytes\)\n(.*?)--- stderr \((\d+) bytes\)\n(.*?)(?=^### |\Z)",
    re.M | re.S,
)


def recorded(name: str, command: str) -> Completed:
    """Return what a command did in a recording."""
    found = _BLOCK.findall((RECORDINGS / name).read_text())
    for words, status, out, stdout, err, stderr in sorted(found, key=lambda block: block[0] != command):
        if words.startswith(command):
            return Completed(int(status), stdout[: int(out)], stderr[: int(err)])
    raise LookupError(command)


def row(number: int = 1, /, **changes: str) -> str:
    """Return the line of a job; a value "" leaves an attribute out, ``__`` stands for a dot."""
    values = {
        "Job_Name": PUBLISHED,
        "Job_Owner": "alice@pbshead.hpc.test",
        "job_state": "R",
        "queue": "short",
        "ctime": "Mon Nov 23 10:00:00 2026",
        "exec_host": "cn1/0*2+cn2/1*2",
        "Resource_List.walltime": "00:10:00",
        "stime": "Mon Nov  2 10:44:01 2026",
        "substate": "42",
        "Variable_List": "A=x\\|job_state=F\\|Exit_status=0,B=1",
        "comment": "Job run at Mon Nov 23 at 10:44 on (cn1:ncpus=2)",
        "run_count": "1",
    } | {key.replace("__", "."): value for key, value in changes.items()}
    cells = "|".join(f"{key}={value}" for key, value in values.items() if value)
    return f"Job Id: {number}.pbshead|{cells}\n"


def read(**changes: str) -> JobStatus:
    (job,) = PBS.read_status([Completed(0, row(**changes)), SEEN], [asked()], MARK).jobs
    return job


def asked(number: int | None = 1, name: str = NAME, owner: str = "alice") -> Asked:
    return Asked(name, owner, None if number is None else JobId(f"{number}.pbshead"))


def ended(substate: str, status: str = "", comment: str = "Job run at …") -> dict[str, str]:
    return {"job_state": "F", "substate": substate, "Exit_status": status, "comment": comment}


_NATIVE = {
    **{letter: ({"job_state": letter, "substate": ""}, state) for letter, state in STATES.items()},
    "never": ({"job_state": "Q", "substate": "10", "comment": "Can Never Run: mem"}, JobState.CANNOT_START),
    "tried": (
        {"job_state": "H", "substate": "20", "comment": "job held, too many failed attempts to run"},
        JobState.CANNOT_START,
    ),
    "cancelled": (ended("91", "271"), JobState.CANCELLED),
    "cancelled-waiting": (ended("91"), JobState.CANCELLED),
    "cancelled-good": (ended("91", "0"), JobState.CANCELLED),
    "good": (ended("92", "0"), JobState.COMPLETED),
    "never-ran": (ended("92"), JobState.FAILED),
    "bad": (ended("93", "3"), JobState.FAILED),
    "killed": (ended("93", "265"), JobState.FAILED),
    "tries": (ended("93", "-3"), JobState.FAILED),
    "walltime": (ended("93", "-29"), JobState.WALLTIME),
    "memory": (ended("93", "-27"), JobState.OUT_OF_MEMORY),
    "virtual-memory": (ended("93", "-26"), JobState.OUT_OF_MEMORY),
    "node": (ended("93", "-20"), JobState.NODE_FAILED),
    "mom": (ended("93", "-4"), JobState.NODE_FAILED),
    "moved": (ended("94"), JobState.UNKNOWN),
    "Z": ({"job_state": "Z"}, JobState.UNKNOWN),
}


class TestContract(SchedulerContract):
    scheduler = PBS
    states: Mapping[str, JobState] = {native: state for native, (_, state) in _NATIVE.items()}
    submitted = (recorded("51_directives.txt", "qsub -f -N fromcli"), JobId("136.pbshead"))
    refused = (recorded("03_qsub_errors.txt", "qsub -q nosuchq"), "Unknown queue")
    not_cancelled = Completed(159, "", "qdel: Unauthorized Request  49.pbshead\n")
    not_there = Completed(153, "", "qdel: Unknown Job Id 99999.pbshead\n")
    chosen_directives: ClassVar[Mapping[str, Sequence[str]]] = {
        "partition": ("#PBS -q other", "#PBS -qother"),
        "walltime": ("#PBS -l walltime=9:00:00", "#PBS -lscratch=1gb,min_walltime=1"),
        "cores": ("#PBS -l select=1:ncpus={{ choices.cores }}:ngpus=1",),
        "account": ("#PBS -A other",),
        "exclusive": ("#PBS -l place=shared",),
    }
    bad_directives = (
        "#PBS -J 1-3",
        " \t\f#PBS -J 1-3",
        "#PBS-J1-3",
        "#PBS -N other",
        "#PBS -o /tmp/x",
        "#PBS -joe",
        "#PBS -k n",
        "#PBS -r y",
        "#PBS -l ncpus=3",
        "#PBS -l vmem=3gb",
        "#PBS -a 2300",
        "#PBS -l select=1:ncpus=1+2:ncpus=2",
        "#PBS -W block=true",
        "#PBS -V",
        "#PBS -Y",
        "#PBS -A two words",
        *(f"#PBS -{letter}" for letter in "IXhVz"),
        *(f"#PBS -{option}" for option in ("e x", "R e", "C #X", "S /bin/csh", "u root")),
        *(f"#PBS -l {name}=1" for name in ("mem", "ngpus", "mpiprocs", "nodes", "nodect")),
        *(f"#PBS -W {name}=1" for name in ("umask", "run_count", "array")),
    )
    good_directives = (
        "#PBS -P project",
        "\u2028#PBS -J 1-3",
        "echo #PBS -J 1-3",
        "#PBS -l place=pack",
        "#PBS -l scratch=10gb,place=pack",
        "#PBS -M someone@example.org -m n",
        "#PBS -v A=1,select=1+1",
        "#PBS -W group_list=staff",
        "#PBS",
    )

    def listing(self, states: Sequence[str]) -> Sequence[Completed]:
        if not states:
            return [Completed(153, "", "qstat: Unknown Job Id 1.pbshead\n"), SEEN]
        text = "".join(row(number, **_NATIVE[state][0]) for number, state in enumerate(states, 1))
        return [Completed(0, text), SEEN]

    def discovered(self) -> Sequence[Completed]:
        return [Completed(0, QUEUES), Completed(0, NODES), SEEN, Completed(0, row())]

    def job_id(self, number: int) -> JobId:
        return JobId(f"{number}.pbshead")


QUEUES = """\
Queue: workq|queue_type=Execution|total_jobs=5|state_count=Transit:0 Queued:3 Held:0 Running:2 Begun:0 |\
resources_default.walltime=00:30:00|enabled=True|started=True
Queue: short|queue_type=Execution|total_jobs=0|state_count=Transit:0 Queued:0 |\
resources_max.walltime=00:10:00|\
acl_group_enable=True|acl_groups=staff,guests|enabled=True|started=False
Queue: R12|queue_type=Execution|enabled=True|started=True
"""
NODES = """\
Name=cn1|Mom=cn1|state=free|resources_available.mem=4194304kb|resources_available.ncpus=4|\
resources_available.ngpus=2|resources_assigned.mem=1048576kb|resources_assigned.ncpus=3|\
resources_assigned.ngpus=1
Name=cn2|Mom=cn2|state=down,offline|resources_available.mem=2gb|resources_available.ncpus=4|\
resources_assigned.ncpus=0
Name=big|Mom=big|state=free|queue=other|resources_available.mem=900gb|resources_available.ncpus=64
"""


# --- submit -----------------------------------------------------------------------------------------------


def test_its_submit_leaves_no_background_process_and_knows_its_own_directives() -> None:
    assert PBS.submit_command().words == ("qsub", "-f", "-C", "#PBS", "./script")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("qsub -q short -l walltime=00:20:00", "Job violates queue and/or server resource limits"),
        ("qsub -l bogus=3", "Unknown resource Resource_List.bogus"),
        ("qsub -l mem=10xb", "Illegal attribute or resource value Resource_List.mem"),
        ("qsub -q gpu", "Unauthorized Request"),
        ('qsub -N "bad name"', "illegal -N value"),
        ("qsub # max_queued", "would exceed complex's per-user limit"),
        ("qsub -q short # queue", "Queue is not enabled"),
        (f"qsub -N {'x' * 231}", "Job name is too long"),
        ("qsub", "Bad UID for job execution"),  # as root
        (
            "qsub -l select=2:ncpus=1 -l ncpus=4",
            '"-lresource=" cannot be used with "select" or "place", resource is: ncpus',
        ),
    ],
)
def test_each_refusal_is_told_in_qsubs_own_words(command: str, words: str) -> None:
    with pytest.raises(SubmitRefused) as caught:
        PBS.read_submit(recorded("03_qsub_errors.txt", command))
    assert caught.value.public == f"The cluster did not accept the job: {words}."


def test_a_script_with_carriage_returns_is_refused() -> None:
    (said,) = re.findall(r"^qsub: script contains .*$", (RECORDINGS / "51_directives.txt").read_text(), re.M)
    with pytest.raises(SubmitRefused, match="script contains cr, lf"):
        PBS.read_submit(Completed(1, "", f"{said}\n"))


@pytest.mark.parametrize(
    "completed",
    [
        Completed(255, "", "Failed to recv data from background qsub\n"),
        Completed(255, "", "qsub: something\n"),
        Completed(137),
        Completed(0, "", ""),
        Completed(0, "48[].pbshead\n"),
        Completed(183, "", "qsub: Batch protocol error\n"),
        Completed(1, "", "Killed\n"),
        Completed(0, "", "qsub: odd\n"),
        Completed(124, "", "qsub: odd\n"),
        Completed(-1, "", "qsub: odd\n"),
    ],
    ids=["background", "255", "killed", "silent", "array", "protocol", "odd", "no-id", "limit", "broken"],
)
def test_a_qsub_that_was_cut_off_may_have_left_a_job(completed: Completed) -> None:
    with pytest.raises(SubmitOutcomeUnknown):
        PBS.read_submit(completed)


@pytest.mark.parametrize("status", [160, 162, 186, 212])
def test_a_server_that_was_not_reached_has_taken_no_job(status: int) -> None:
    with pytest.raises(QueueUnreachable):
        PBS.read_submit(Completed(status, "", "qsub: cannot connect to server pbshead (errno=15010)\n"))


def test_what_qsub_says_before_the_id_does_no_harm() -> None:
    assert PBS.read_submit(Completed(0, "a warning of the site's\n48.pbshead\n")) == "48.pbshead"


def test_each_of_qsubs_sentences_is_told_once() -> None:
    said = "qsub: X is odd.\nusage: qsub\nqsub: .\nqsub: not so, X\nqsub: X is odd.\n"
    with pytest.raises(SubmitRefused) as caught:
        PBS.read_submit(Completed(1, "", said))
    assert caught.value.public == "The cluster did not accept the job: X is odd; not so, X."


def test_an_exit_status_alone_does_not_say_that_the_server_has_no_job() -> None:
    with pytest.raises(SubmitOutcomeUnknown):
        PBS.read_submit(Completed(160, "", "qsub: odd\n"))


def test_a_server_that_is_down_has_taken_no_job() -> None:
    with pytest.raises(QueueUnreachable, match=r"^qsub: exit status \d+: .*cannot connect"):
        PBS.read_submit(recorded("40_server_down.txt", "qsub -f hello.sh"))
    with pytest.raises(QueueUnreachable):
        PBS.read_submit(recorded("03_qsub_errors.txt", "qsub -q workq@nosuchserver"))


# --- status: the table of observations --------------------------------------------------------------------


def test_all_ids_are_asked_for_at_once_and_a_name_by_listing_all() -> None:
    first, second = PBS.status_commands([asked(7), asked(12, OTHER)], MARK)
    assert first.words == ("qstat", "-E", "-x", "-f", "-F", "dsv", "7.pbshead", "12.pbshead")
    assert second.words == ("qstat", "-B", "-f", "-F", "dsv")
    assert PBS.status_commands([asked()], MARK, ended=False)[0].words[:3] == ("qstat", "-E", "-f")
    named = PBS.status_commands([asked(7), asked(None, OTHER)], MARK)[0]
    assert named.words == ("qstat", "-x", "-f", "-F", "dsv")
    assert len(PBS.status_commands([asked(n) for n in range(10_000)], MARK)[0].words) == 10_006


def test_the_recorded_states_are_read() -> None:
    answer = Completed(0, (RECORDINGS / "60_fixture_states_master.dsv.stdout").read_text())
    wanted = [Asked("x", "pbsu1", JobId(identifier)) for identifier, _ in rows(answer.stdout, "Job Id: ")]
    jobs = {job.job_id: job for job in PBS.read_status([answer, SEEN], wanted, MARK).jobs}
    shown = [(job.job_id.partition(".")[0], job.native, job.state.value, job.host) for job in jobs.values()]
    assert shown == [
        ("244", "R 42", "running", "pbsn1"),
        ("245", "R 42", "running", "pbsn1"),
        ("246", "W 30", "queued", None),
        ("247", "H 20", "held", None),
        ("248", "S 43", "suspended", "pbsn1"),
        ("249", "F 92", "completed", None),
        ("250", "F 93", "failed", None),
        ("251", "R 42", "running", "pbsn1"),
        ("252[]", "B 70", "unknown", None),
        ("253", "F 91", "cancelled", None),
        ("254", "Q 10", "cannot-start", None),
        ("255", "Q 10", "queued", None),
        ("256", "Q 10", "queued", None),
        ("257", "F 91", "cancelled", None),
        ("258", "H 22", "held", None),
    ]
    assert jobs[JobId("255.pbshead")].starts == datetime(2026, 11, 23, 11, 44, 1, tzinfo=UTC)
    assert jobs[JobId("246.pbshead")].starts == datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    assert jobs[JobId("244.pbshead")].ends == datetime(2026, 11, 23, 10, 52, 0, tzinfo=UTC)
    assert jobs[JobId("255.pbshead")].reason.startswith("Not Running: Insufficient amount of resource: ncpus")


def test_without_history_the_listing_is_good_for_nothing_and_asks_for_another() -> None:
    answer = recorded("52_history_disabled.txt", "qstat -E -x -f -F dsv 143.pbshead 108")
    assert (answer.status, answer.stdout) == (0, "")
    with pytest.raises(EndedNotListed, match=r"^qstat: exit status 0: .*job history"):
        PBS.read_status([answer, SEEN], [asked()], MARK)


@pytest.mark.parametrize("status", [153, 35])
def test_if_no_id_is_known_every_job_is_gone(status: int) -> None:
    answer = Completed(status, "", "qstat: Unknown Job Id 1.pbshead\n")
    for server in (SEEN, BLIND, Completed(255)):
        assert PBS.read_status([answer, server], [asked()], MARK).silent == frozenset()


def test_who_is_left_out_is_absent_only_if_others_jobs_are_shown() -> None:
    wanted = [asked(1), asked(2, OTHER, "bob")]
    only_alice = Completed(0, row(1))
    assert PBS.read_status([only_alice, SEEN], wanted, MARK).silent == frozenset()
    assert PBS.read_status([only_alice, BLIND], wanted, MARK).silent == {OTHER}
    assert PBS.read_status([only_alice, Completed(124)], wanted, MARK).silent == {OTHER}
    assert PBS.read_status([Completed(0), BLIND], wanted, MARK).silent == {NAME, OTHER}
    assert PBS.read_status([Completed(0), SEEN], wanted, MARK).silent == frozenset()
    mine = [asked(1), asked(2, OTHER)]
    assert PBS.read_status([only_alice, BLIND], mine, MARK).silent == frozenset()
    for server in (Completed(1, SEEN.stdout), Completed(0, SEEN.stdout[:-1])):
        assert PBS.read_status([only_alice, server], wanted, MARK).silent == {OTHER}, "that is no answer"
    both = Completed(0, row(1) + row(3, Job_Owner="carol@h"))
    assert PBS.read_status([both, BLIND], wanted, MARK).silent == frozenset()


@pytest.mark.parametrize(
    "answer",
    [
        recorded("40_server_down.txt", "qstat -E -x -f -F dsv"),
        recorded("40_server_down.txt", "qstat -f -F json"),
        recorded("43_server_hung.txt", "time timeout"),
        Completed(160, "", "Unknown Host.\nqstat: cannot connect to server pbshead (errno=15008)\n"),
        Completed(162, "", "auth: error returned: 15019\n"),
        Completed(186),
        Completed(1, "", "qstat: Express option can only be used with job ids\n"),
        Completed(0, row(), "qstat: something odd\n"),
        Completed(0, row()[:-1]),
        Completed(0, row() + row()),
        Completed(0, "{}\n"),
        Completed(153, "", "Connection refused\nqstat: cannot connect to server\n"),
        Completed(0, row(), "some noise\nqstat: something odd\n"),
        Completed(0, row(), "Connection refused\n"),
    ],
    ids=[
        "down",
        "down-json",
        "hung",
        "host",
        "auth",
        "no-server",
        "wrong",
        "odd",
        "cut",
        "twice",
        "json",
        "both",
        "odd-behind-noise",
        "refused-with-rows",
    ],
)
def test_nothing_is_known_without_a_good_answer(answer: Completed) -> None:
    with pytest.raises(QueueUnreachable) as caught:
        PBS.read_status([answer, SEEN], [asked()], MARK)
    assert not isinstance(caught.value, EndedNotListed)


@pytest.mark.parametrize("lacks", ["Job_Name", "Job_Owner", "job_state"])
def test_a_row_without_what_every_job_has_is_no_news(lacks: str) -> None:
    with pytest.raises(QueueUnreachable, match="without a name"):
        PBS.read_status([Completed(0, row(**{lacks: ""})), SEEN], [asked()], MARK)


@pytest.mark.parametrize("line", ["Job Id: 1.pbshead\n", "Jop Id: 1.pbshead|a=b\n"])
def test_a_line_of_another_kind_is_no_news(line: str) -> None:
    with pytest.raises(QueueUnreachable, match="cannot be read"):
        rows(line, "Job Id: ")


# --- what a row says --------------------------------------------------------------------------------------


def test_nobodys_values_become_fields_or_jobs() -> None:
    job = read(Variable_List=r"A=x\|job_state=F\|Exit_status=0,B=\nJob Id: 2.pbshead\\\|job_state=F,C=\\")
    assert (job.state, job.job_id) == (JobState.RUNNING, "1.pbshead")
    assert read(comment="Not Running: a\\|b", job_state="Q").reason == "Not Running: a|b"


@pytest.mark.parametrize(
    ("printed", "value"),
    [("a\\\\", "a\\"), ("a\\\\\\|b", "a\\|b"), ("a\\,\\\\", "a\\,\\"), ("\\\\" * 3, "\\" * 3)],
)
def test_a_backslash_at_a_values_end_hides_no_field(printed: str, value: str) -> None:
    """By escape_delimiter() of OpenPBS: it is printed twice, and the delimiter after it is one."""
    job = read(comment=printed, job_state="Q", substate="10")
    assert (job.reason, job.state) == (value, JobState.QUEUED)


def test_times_that_no_calendar_has_are_none() -> None:
    assert read(stime="Fri Dec 31 23:59:59 9999").ends is None
    assert read(Resource_List__walltime="999999999:00:00").ends is None


def test_a_directive_takes_no_more_time_than_its_length() -> None:
    assert PBS.header_faults(f"#PBS -l {'select=' * 10**5}", ()) == ()
    assert PBS.header_faults(f"#PBS -l place=free,{'select=1,' * 10**5}select=1+1")


def test_a_lines_attributes_are_all_there_and_of_two_the_first_counts() -> None:
    """A value has its delimiters after backslashes: nobody's can begin another attribute."""
    ((name, values),) = rows("Job Id: 7.h|a=1|b=x\\|a=2=3|odd|a=4|c=\\\\\n", "Job Id: ")
    assert (name, dict(values)) == ("7.h", {"a": "1", "b": "x\\|a=2=3", "c": "\\\\"})
    assert (len(values), values.get("odd"), values.get("odd", "d")) == (3, None, "d")
    with pytest.raises(KeyError, match="odd"):
        values["odd"]


def test_an_answer_that_is_cut_short_is_logged_with_its_end() -> None:
    with pytest.raises(QueueUnreachable, match=r"middle of a line: Job Id: 1.h.a=tail$"):
        rows("Job Id: 1.h|a=tail", "Job Id: ")


def test_what_pbs_does_not_say_of_a_job_is_not_known() -> None:
    assert read(exec_host="").host is None
    assert read(substate="").native == "R"
    assert read(Job_Owner="alice").user == "alice"
    assert read(job_state="W", estimated__start_time="Mon Nov 23 10:00:00 2026").starts is None
    assert read().reason == ""
    assert read(run_count="").restarts == 0


def test_the_script_runs_on_the_first_node_however_they_are_told() -> None:
    for hosts in ("cn1/0*2+cn2/1*2", "cn1/0", "cn1", "cn1+cn2"):
        assert read(exec_host=hosts).host == "cn1"
    assert read(job_state="E").host == "cn1", "its processes are being ended there"


def test_the_end_of_a_settled_jobs_walltime_is_known_already() -> None:
    unsettled, known = asked(), Asked(NAME, "alice", JobId("1.pbshead"), settled=True)
    for job, is_there in ((unsettled, True), (known, False)):
        (found,) = PBS.read_status([Completed(0, row()), SEEN], [job], MARK).jobs
        assert (found.ends is not None) == is_there


def test_a_job_of_several_kinds_of_nodes_is_none_for_a_server() -> None:
    (fault,) = PBS.header_faults("#PBS -l place=free,select=1:ncpus=1+2:ncpus=2", ())
    assert "several kinds of nodes" in fault
    assert PBS.header_faults("#PBS -l place=a+b,select=2:ncpus=1", ()) == ()


def test_a_reservation_is_a_queue_that_the_form_says() -> None:
    (fault,) = PBS.header_faults("#PBS -q R9", {"reservation"})
    assert "chosen on the form" in fault


@pytest.mark.parametrize(
    "state",
    [
        *("down", "offline", "stale", "state-unknown", "unknown"),
        *("provisioning", "wait-provisioning", "sleep", "busy,down"),
    ],
)
def test_a_node_that_starts_nothing_has_nothing_free(state: str) -> None:
    node = f"Name=cn1|state={state}|resources_available.ncpus=8\n"
    room = room_of("|started=True", node)
    assert (room.cores, room.free_cores, room.free_nodes) == (8, 0, 0)


def test_the_endpoint_is_the_names_end_and_the_host_may_have_dots() -> None:
    assert (read().name, read().comment) == (NAME, ENDPOINT)
    job = read(Job_Name=f"{NAME}.0123456789abcdef.12.20001.cn1.hpc.example.org")
    assert (job.name, job.comment) == (NAME, "gw1:0123456789abcdef:12:cn1.hpc.example.org:20001")
    assert read(Job_Name=NAME).comment == ""


def test_a_job_that_its_owner_renamed_is_still_ours_and_anothers_of_our_name_is_not() -> None:
    assert (read(Job_Name="mine").name, read(Job_Name="mine").comment) == (NAME, "")
    forged = row(1, Job_Name="other", Job_Owner="mallory@pbshead")
    (theirs,) = PBS.read_status([Completed(0, forged), SEEN], [asked()], MARK).jobs
    assert (theirs.name, theirs.user) == ("other", "mallory")
    every = row(8, Job_Name="foreign") + row(9, Job_Name=PUBLISHED, Job_Owner="mallory@h")
    listing = PBS.read_status([Completed(0, every), SEEN], [asked(None)], MARK)
    assert [job.user for job in listing.jobs] == ["mallory"]


@pytest.mark.parametrize(
    ("state", "count", "restarts"),
    [("R", "1", 0), ("R", "2", 1), ("Q", "1", 1), ("Q", "", 0), ("F", "1", 0), ("X", "2", 1)],
)
def test_a_job_that_was_put_back_has_one_restart_more(state: str, count: str, restarts: int) -> None:
    assert read(job_state=state, run_count=count).restarts == restarts


def test_times_are_read_in_any_locale_and_nonsense_is_none() -> None:
    assert time("Mon Nov  2 10:44:01 2026") == datetime(2026, 11, 2, 10, 44, 1, tzinfo=UTC)
    for text in ("", "UNKNOWN", "Mon Nov 31 10:44:01 2026", "Mon Foo  2 10:44:01 2026", "now"):
        assert time(text) is None
    for limit in ("999999999:00:00", "\u0663:00", ""):
        assert read(Resource_List__walltime=limit).ends is None


# --- how it ended -----------------------------------------------------------------------------------------


def test_an_ended_job_says_how_and_by_whom() -> None:
    text = (RECORDINGS / "60_fixture_states_master.dsv.stdout").read_text()
    line = next(line for line in text.split("\n") if line.startswith("Job Id: 253."))
    end = PBS.read_accounting(Completed(0, f"{line}\n"), asked(253))
    assert end
    assert (end.state, end.exit_status, end.signal, end.by) == (JobState.CANCELLED, None, 15, "pbsu1")
    assert end.native.startswith("job_state=F substate=91 Exit_status=271 Job run at ")
    bad = PBS.read_accounting(Completed(0, row(**ended("93", "3"))), asked())
    assert bad
    assert (bad.state, bad.exit_status, bad.signal, bad.by) == (JobState.FAILED, 3, None, "")


def test_an_end_without_a_comment_is_told_by_its_numbers() -> None:
    end = PBS.read_accounting(Completed(0, row(**ended("92", "0", comment=""))), asked())
    assert end
    assert (end.by, end.native) == ("", "job_state=F substate=92 Exit_status=0")
    strange = PBS.read_accounting(Completed(0, row(**ended("93", "\u0663"))), asked())
    assert strange
    assert strange.exit_status is None


def test_where_nothing_is_kept_nobody_knows_and_a_job_that_runs_has_not_ended() -> None:
    assert PBS.read_accounting(recorded("52_history_disabled.txt", "qstat -x 143"), asked()) is None
    assert PBS.read_accounting(Completed(153, "", "qstat: Unknown Job Id 1.pbshead\n"), asked()) is None
    for answer in (Completed(0, row()), Completed(0), recorded("40_server_down.txt", "qstat -E -x")):
        with pytest.raises(QueueUnreachable, match=f"^qstat.*: exit status {answer.status}: "):
            PBS.read_accounting(answer, asked())


@pytest.mark.parametrize(
    ("shown", "exit_status", "signal"),
    [
        ("0", 0, None),
        ("255", 255, None),
        ("256", None, None),
        ("257", None, 1),
        ("320", None, 64),
        ("-3", None, None),
    ],
)
def test_an_exit_status_above_255_is_a_signal(
    shown: str, exit_status: int | None, signal: int | None
) -> None:
    end = PBS.read_accounting(Completed(0, row(**ended("93", shown))), asked())
    assert end
    assert (end.exit_status, end.signal) == (exit_status, signal)


@pytest.mark.parametrize("answer", [Completed(0), Completed(35, "", "qdel: Job has finished 1.pbshead\n")])
def test_a_job_that_is_over_is_cancelled(answer: Completed) -> None:
    PBS.read_cancel(answer)


def test_a_cancel_without_an_answer_is_no_refusal() -> None:
    for answer in (
        recorded("40_server_down.txt", "qdel 108"),
        Completed(222, "", "qdel: Server could not connect to MOM 132.pbshead\n"),
        *(
            Completed(status, "", "qdel: odd\n")
            for status in (-1, 124, 137, 160, 162, 183, 185, 186, 212, 255)
        ),
        Completed(1, "", "auth: error returned: 15019\n"),
    ):
        with pytest.raises(QueueUnreachable):
            PBS.read_cancel(answer)
    with pytest.raises(CancelRefused, match="159"):
        PBS.read_cancel(TestContract.not_cancelled)


def test_a_job_on_a_node_that_does_not_answer_is_said_to_be_so() -> None:
    with pytest.raises(QueueUnreachable, match=r"^qdel: exit status 222: ") as caught:
        PBS.read_cancel(Completed(222, "", "qdel: Server could not connect to MOM 132.pbshead\n"))
    assert "node of your job is not answering" in caught.value.public


# --- sentences --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("", "not looked at your job yet"),
        ("Not Running: Insufficient amount of resource: ncpus (R: 8 A: 7 T: 16)", "cluster is busy"),
        ("Not Running: Insufficient amount of resource: host ", "down or in use"),
        ("Not Running: User has reached server running job limit.", "as much running as is allowed"),
        ("Not Running: Queue short is not started", "closed at the moment"),
        ("Not Running: Job would conflict with reservation or top job", "reserved"),
        ("Not Running: Job would cross dedicated time boundary", "shorter walltime"),
        ("Not Running: Draining system to allow starving job to run", "come first"),
        ("Can Never Run: Insufficient amount of resource: mem (R: 64gb A: 8gb T: 8gb)", "can ever run"),
        ("Not Running: Something new", "reason of its own: Not Running: Something new."),
    ],
)
def test_why_it_waits_is_a_sentence(comment: str, words: str) -> None:
    assert words in PBS.why(read(job_state="Q", substate="10", comment=comment))


def test_a_hold_says_what_it_waits_for() -> None:
    assert "another job to end" in PBS.why(read(job_state="H", substate="22", comment=""))
    assert "on hold" in PBS.why(read(job_state="H", substate="20", comment=""))
    assert "many times" in PBS.why(
        read(job_state="H", substate="20", comment="job held, too many failed attempts to run")
    )
    assert "certain time" in PBS.why(read(job_state="W", substate="30", comment=""))
    assert PBS.why(read()) == ""


# --- discovery --------------------------------------------------------------------------------------------


def test_queues_have_limits_nodes_groups_and_what_is_free() -> None:
    waiting = [row(1, job_state="Q", queue="workq", Job_Name="x", Job_Owner="bob@h"), row(2)]
    waiting += [row(3, job_state="Q", queue="workq", Job_Name=NAME)]
    answers = [Completed(0, QUEUES), Completed(0, NODES), SEEN, Completed(0, "".join(waiting))]
    found = PBS.read_discovery(answers, INSTANCE, MARK)
    workq, short = found.rooms
    assert (workq.default, workq.default_walltime, workq.max_walltime, workq.waiting) == (True, 30, None, 3)
    assert (workq.max_cores, workq.max_memory, workq.gpus, workq.free_gpus) == (4, 4096, {"": 2}, {"": 1})
    assert (workq.nodes, workq.free_nodes, workq.cores, workq.free_cores) == (2, 0, 8, 1)
    assert (short.max_walltime, short.groups, short.closed) == (
        10,
        frozenset({"staff", "guests"}),
        "started=False",
    )
    assert found.positions == {"3.pbshead": 2}
    runs, waits = found.ours or ()
    assert (runs.job_id, waits.job_id) == ("2.pbshead", "3.pbshead")
    assert (runs.ends is not None, waits.ends) == (True, None)
    assert (found.hidden, found.faults) == (False, ())


@pytest.mark.parametrize(
    ("size", "megabytes"),
    [
        ("2097152", 2),
        ("2048kb", 2),
        ("2048KB", 2),
        ("3mb", 3),
        ("2gb", 2048),
        ("1tb", 2**20),
        ("1pb", 2**30),
        ("1mw", 8),
        ("1000b", None),
        ("much", None),
    ],
)
def test_memory_is_read_in_all_of_pbss_units(size: str, megabytes: int | None) -> None:
    node = Completed(0, f"Name=cn1|state=free|resources_available.mem={size}|resources_available.ncpus=1\n")
    found = PBS.read_discovery([Completed(0, QUEUES), node, SEEN, Completed(0)], INSTANCE, MARK)
    assert found.rooms[0].max_memory == megabytes


def test_a_queues_own_limits_and_nodes_count() -> None:
    queue = Completed(
        0, "Queue: small|hasnodes=True|resources_max.ncpus=2|resources_max.mem=1gb|started=True\n"
    )
    bound = NODES.replace("queue=other", "queue=small")
    (room,) = PBS.read_discovery([queue, Completed(0, bound), SEEN, Completed(0)], INSTANCE, MARK).rooms
    assert (room.nodes, room.max_cores, room.max_memory, room.gpus, room.free_gpus) == (1, 2, 1024, {}, None)
    assert (room.cores, room.free_cores, room.free_nodes, room.closed) == (64, 64, 1, "")
    assert (room.max_walltime, room.default_walltime, room.waiting, room.groups) == (None, None, None, None)


def test_an_account_that_is_shown_only_its_own_jobs_is_said_to_be() -> None:
    answers = [Completed(0, QUEUES), Completed(0, NODES), BLIND, Completed(0)]
    assert PBS.read_discovery(answers, INSTANCE, MARK).hidden is True
    down = recorded("40_server_down.txt", "pbsnodes -a")
    partly = PBS.read_discovery([answers[0], down, SEEN, answers[3]], INSTANCE, MARK)
    assert (partly.rooms[0].nodes, partly.hidden, len(partly.faults)) == (None, False, 1)
    cut = PBS.read_discovery([answers[0], Completed(0, NODES[:-1]), SEEN, answers[3]], INSTANCE, MARK)
    assert "middle of a line" in cut.faults[0]
    failed = [Completed(1, "", "one"), *[Completed(2, "", "two")] * 3]
    with pytest.raises(QueueUnreachable, match=r"^PBS: exit status 1: one; exit status 2: two; exit"):
        PBS.read_discovery(failed, INSTANCE, MARK)


def test_no_more_queues_are_looked_at_than_a_form_can_have() -> None:
    many = "".join(f"Queue: q{number}|started=True\n" for number in range(MOST_ROOMS + 1))
    found = PBS.read_discovery([Completed(0, many), Completed(0), SEEN, Completed(0)], INSTANCE, MARK)
    assert len(found.rooms) == MOST_ROOMS


# --- the script -------------------------------------------------------------------------------------------

SITE = """\
version: 1
name: lab
title: Lab
scheduler: pbs
login:
  {hosts: [login], user: svc, key: /k, known_hosts: /h, act_as: sudo, bin: /opt/pbs/bin}
tunnel: {user: tunnel, key: /k, ports: 20000-20009}
partitions:
  - {name: workq, title: Work, max_walltime: 4h, max_cores: 4, max_memory: 8G, default: true}
applications: [{name: lab, title: JupyterLab, command: [jupyter, lab], url: /lab}]
"""


def rendered(more: str = "", **changes: object) -> str:
    choices = {"walltime": 90, "cores": 2, "memory": 4096, **changes}
    job = JobFacts(INSTANCE, "abcdefghia", "0123456789abcdef", "alice", "", "/user/alice/", node_tls=True)
    chosen = Choices(cluster="lab", application="lab", partition="workq", **choices)  # type: ignore[arg-type]
    return render_script(merge((SITE + more, "lab.yaml")), chosen, job)


def directives(more: str = "", **changes: object) -> list[str]:
    return [line for line in rendered(more, **changes).split("\n") if line.startswith("#PBS")]


def test_the_scripts_directives_ask_for_what_was_chosen_and_nothing_else() -> None:
    assert directives() == [
        f"#PBS -N {NAME}",
        "#PBS -q workq",
        "#PBS -l select=1:ncpus=2:mem=4096mb",
        "#PBS -l walltime=01:30:00",
        "#PBS -r n",
        "#PBS -m n",
        "#PBS -j oe",
        "#PBS -k oed",
        "#PBS -o log",
        "#PBS -W umask=0077",
        "#PBS -S /bin/sh",
    ]
    more = directives(
        gpus=2, gpu_type="a100", account="proj42", exclusive=True, constraint="fast", reservation="R9"
    )
    assert "#PBS -l select=1:ncpus=2:mem=4096mb:ngpus=2:gpu_type=a100:fast=True" in more
    assert {"#PBS -A proj42", "#PBS -l place=exclhost", "#PBS -q R9"} <= set(more)


def test_a_sites_own_names_of_gpus_are_asked_for() -> None:
    own = "script: {resources: {gpus: gpu, gpu_type: gputype}}\n"
    lines = directives(own, gpus=2, gpu_type="a100")
    assert "#PBS -l select=1:ncpus=2:mem=4096mb:gpu=2:gputype=a100" in lines


def test_a_sites_lines_stand_where_qsub_still_reads_directives() -> None:
    job = JobFacts(INSTANCE, "abcdefghia", "0123456789abcdef", "alice", "", "/user/alice/", node_tls=True)
    chosen = Choices("lab", "lab", "workq", walltime=90, cores=2, memory=4096)
    text = render_script(merge((SITE, "lab.yaml")), chosen, job, header="#PBS -P project")
    before = text[: text.index("#PBS -P project")].split("\n")
    assert all(not line or line.startswith("#") for line in before)
    assert "\n#PBS -S /bin/sh\n\n#PBS -P project\n\n" in text


def test_the_name_that_a_job_takes_is_legal_and_short_enough() -> None:
    longest = f"{NAME}.{'0' * 16}.999999.65535.{'h' * 63}"
    assert re.fullmatch(r"[A-Za-z0-9_+.-]{1,230}", longest)
    assert "\r" not in rendered()


# --- discovery, field by field ----------------------------------------------------------------------------


def room_of(queue: str, nodes: str = "", server: str = "") -> Room:
    """Return the room of a queue, on these nodes, of a server with these attributes besides."""
    about = Completed(0, f"Server: s|query_other_jobs=True{server}\n")
    answers = [Completed(0, f"Queue: q{queue}\n"), Completed(0, nodes), about, Completed(0)]
    (room,) = PBS.read_discovery(answers, INSTANCE, MARK).rooms
    return room


def test_a_queue_without_limits_of_its_own_has_the_servers() -> None:
    server = "|resources_max.walltime=02:00:00|resources_default.walltime=00:30:59|default_queue=q"
    room = room_of("|enabled=True", server=server)
    assert (room.max_walltime, room.default_walltime, room.default) == (120, 30, True)
    assert isinstance(room.max_walltime, int)
    own = room_of("|resources_max.walltime=01:00:00|resources_default.walltime=00:05:00", server=server)
    assert (own.max_walltime, own.default_walltime) == (60, 5)


def test_groups_count_only_where_they_are_switched_on() -> None:
    assert room_of("|acl_groups=staff@h,guests").groups is None
    assert room_of("|acl_groups=staff@h|acl_group_enable=False").groups is None
    assert room_of("|acl_groups=staff@h|acl_group_enable=True").groups == frozenset({"staff"})


def test_a_node_that_is_away_is_there_and_has_nothing_free() -> None:
    nodes = "".join(
        f"Name=cn{number}|state={state}|resources_available.ncpus=8|resources_assigned.ncpus={used}"
        f"|resources_available.ngpus=2|resources_available.mem=1gb\n"
        for number, (state, used) in enumerate([("free", 0), ("job-busy", 9), ("down,offline", 0), ("", 3)])
    )
    room = room_of("|enabled=False|started=False", nodes)
    assert (room.nodes, room.free_nodes, room.cores, room.free_cores) == (4, 1, 32, 13)
    assert (room.gpus, room.free_gpus, room.max_memory) == ({"": 2}, {"": 6}, 1024)
    assert room.closed == "enabled=False, started=False"


def test_places_are_counted_for_each_queue() -> None:
    jobs = "".join(
        row(number, job_state="Q", queue=queue, Job_Name=name)
        for number, queue, name in [
            (1, "a", "x"),
            (2, "b", NAME),
            (3, "a", NAME),
            (4, "b", "y"),
            (5, "b", NAME),
        ]
    )
    answers = [Completed(0, QUEUES), Completed(0, NODES), SEEN, Completed(0, jobs)]
    found = PBS.read_discovery(answers, INSTANCE, MARK).positions
    assert found == {"2.pbshead": 1, "3.pbshead": 2, "5.pbshead": 3}


def test_only_a_job_that_waits_has_a_start_and_only_one_that_runs_an_end() -> None:
    times = {"estimated__start_time": "Mon Nov 23 10:00:00 2026", "stime": "Mon Nov 23 09:00:00 2026"}
    limit = {"Resource_List__walltime": "01:00:00"}
    waits, runs = read(job_state="Q", **times, **limit), read(job_state="R", **times, **limit)
    assert (waits.starts is None, waits.ends) == (False, None)
    assert (runs.starts, runs.ends is None) == (None, False)
    assert read(job_state="R", Resource_List__walltime="", **times).ends is None
    assert read(job_state="R", stime="", **limit).ends is None
