"""A native reason is told in words a person understands: by what each sentence is about, not word by word."""

import pytest

from gateway.model import JobId, JobState, JobStatus
from gateway.schedulers import get

REASONS = {
    "slurm": {
        "None": "not looked",
        "Resources": "is next",
        "Priority": "higher priority",
        "BeginTime": "not start yet",
        "Dependency": "job to end",
        "DependencyNeverSatisfied": "has failed",
        "JobHeldUser": "Release it",
        "JobHeldAdmin": "Ask them why",
        "launch failed requeued held": "could not be started",
        "JobHoldMaxRequeue": "could not be started",
        "ReqNodeNotAvail, UnavailableNodes:cn1": "down or reserved",
        "(Resources)": "is next",
        "nodedown": "down or reserved",
        "NodeDown": "down or reserved",
        "Nodes required for job are DOWN": "down or reserved",
        "ReservationDeleted": "not there any more",
        "InvalidReservation": "not there any more",
        "Reservation": "for its reservation",
        "PartitionDown": "partition is closed",
        "PartitionInactive": "partition is closed",
        "PartitionTimeLimit": "longer than allowed",
        "QOSMaxWallDurationPerJobLimit": "longer than allowed",
        "PartitionNodeLimit": "partition",
        "PartitionConfig": "can ever run",
        "BadConstraints": "can ever run",
        "Licenses": "licence",
        "JobArrayTaskLimit": "as many jobs",
        "AssocMaxJobsLimit": "as many jobs",
        "QOSMaxJobsPerUserLimit": "as many jobs",
        "AssocMaxCpuPerJobLimit": "does not allow",
        "QOSMinCpuNotSatisfied": "does not allow",
        "AssocGrpCPUMinutesLimit": "computing time is used up",
        "QOSGrpCpuLimit": "as much of the cluster",
        "AssocMaxNodesLimit": "as much of the cluster",
        "InvalidAccount": "Your account",
        "AccountNotAllowed": "Your account",
        "InvalidQOS": "quality of service",
        "QOSNotAllowed": "quality of service",
        "Prolog": "being prepared",
        "JobLaunchFailure": "on its node",
        "NonZeroExitCode": "with an error",
        "TimeLimit": "walltime is used up",
        "OutOfMemory": "more memory",
    },
    "pbs": {
        "": "not looked",
        "Can Never Run: walltime is too long": "longer than allowed",
        "Can Never Run: Insufficient amount of resource: ncpus": "can ever run",
        "job held, too many failed attempts to run": "many times",
        "Not Running: User has reached queue q running job limit.": "allowed at a time",
        "Not Running: would exceed queue q's limit on resource": "allowed at a time",
        "Not Running: Job would cross into dedicated time": "will be closed",
        "Not Running: Job will run in primetime only": "certain hours",
        "Not Running: Job would conflict with reservation or top job": "Others have reserved",
        "Not Running: Queue not started.": "queue is closed",
        "Not Running: Draining system to allow starving job to run": "waited longer",
        "Not Running: Insufficient amount of resource: host": "down or in use",
        "Not Running: Insufficient amount of resource: ncpus": "is busy",
        "Job held by alice on Mon Nov 23": "Release it",
    },
    "sge": {
        "": "for its turn",
        'can\'t open output file "/x/log": No such file or directory': "cannot write your job's log",
        "can't chdir to /home/alice: No such file or directory": "does not see your job's directory",
        'unable to find shell "/bin/x"': "lacks the shell",
        'can\'t get password entry for user "alice"': "does not know your account",
        "Job is in error state": "could not start your job",
        "Job is in hold state": "is held",
        'cannot run because it exceeds limit "alice/////" in rule "max/1"': "as much of the cluster",
        "job dropped because of job dependencies": "other jobs to end",
        "cannot run because it would interfere with an advance reservation": "is reserved",
        'cannot run in queue "q" because it offers only hc:slots=0': "enough free",
        'queue instance "q@cn1" dropped because it is FULL': "enough free",
        'queue instance "q@cn1" dropped because it is temporarily not available': "queue is closed",
        '(-l h_rt=9) cannot run in queue "q" because of cluster queue': "does not allow",
    },
    "local": {
        "": "not looked",
        "Resources": "is next",
        "Priority": "came before",
        "TooLarge": "never start",
        "ExitStatus:3": "with an error",
        "CannotStart": "could not write",
        "SupervisorDied": "restarted",
    },
}
ENDED = {
    "OUT_OF_MEMORY": "more memory",
    "NODE_FAIL": "has failed",
    "BOOT_FAIL": "did not start",
    "TIMEOUT": "walltime is used up",
    "DEADLINE": "deadline",
    "CANCELLED": "was cancelled",
    "PREEMPTED": "make room",
    "CONFIGURING": "switched on",
    "SUSPENDED": "suspended",
}
CASES = [(name, reason, words) for name, reasons in REASONS.items() for reason, words in reasons.items()]


def why(name: str, reason: str, native: str = "x", state: JobState = JobState.QUEUED) -> str:
    status = JobStatus(JobId("7"), "gw-inst22-abcdefghia", "alice", state, reason=reason, native=native)
    return get(name).why(status)


@pytest.mark.parametrize(("name", "reason", "words"), CASES)
def test_a_native_reason_is_told_by_what_it_means(name: str, reason: str, words: str) -> None:
    assert words in why(name, reason)
    assert "reason of its own" not in why(name, reason)


@pytest.mark.parametrize(("native", "words"), ENDED.items())
def test_slurms_states_say_more_than_a_reason(native: str, words: str) -> None:
    assert words in why("slurm", "Odd", native, JobState.FAILED)


@pytest.mark.parametrize(("native", "words"), [("H 22", "job to end"), ("H 37", "brought in")])
def test_pbss_substates_say_why_a_job_is_held(native: str, words: str) -> None:
    assert words in why("pbs", "", native, JobState.HELD)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (JobState.SUSPENDED, "suspended"),
        (JobState.CANCELLED, "was cancelled"),
        (JobState.WALLTIME, "walltime is used up"),
        (JobState.OUT_OF_MEMORY, "more memory"),
        (JobState.NODE_FAILED, "has failed"),
        (JobState.FAILED, "with an error"),
        (JobState.PREEMPTED, "make room"),
    ],
)
def test_pbss_states_say_more_than_a_comment(state: JobState, words: str) -> None:
    assert words in why("pbs", "Not Running: odd", state=state)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (JobState.HELD, "is held"),
        (JobState.QUEUED, "for its turn"),
        (JobState.CANNOT_START, "reason of its own: Eqw. If"),
        (JobState.SUSPENDED, "suspended"),
    ],
)
def test_without_a_message_grid_engines_state_is_told(state: JobState, words: str) -> None:
    assert words in why("sge", "", "Eqw", state)


@pytest.mark.parametrize("name", ["slurm", "pbs", "sge", "local"])
@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.STOPPING, JobState.COMPLETED])
def test_a_job_that_runs_or_is_well_needs_no_sentence(name: str, state: JobState) -> None:
    assert why(name, "Odd", state=state) == ""


@pytest.mark.parametrize(
    ("name", "native"), [("local", "OUT_OF_MEMORY"), ("local", "TIMEOUT"), ("local", "CANCELLED")]
)
def test_the_local_queues_ends_are_told(name: str, native: str) -> None:
    assert "reason of its own" not in why(name, "Odd", native, JobState.FAILED)
    assert ENDED[native] in why(name, "Odd", native, JobState.FAILED)
