"""Why a Grid Engine job waits, in sentences for its owner."""

import re

from gateway.model import JobState, JobStatus
from gateway.schedulers.text import one_line

_NO_ROOM = (
    "No node has enough free at the moment for what your job asks for. It starts by itself as soon as "
    "one has; with fewer cores or less memory it may start sooner."
)
#: What the scheduler's messages say (qstat -j with schedd_job_info), the most telling first.
_WHY: tuple[tuple[str, str], ...] = (
    (
        r"can't (?:open|stat\(\)|make|create).*(?:output|_path)|opening input/output",
        (
            "The cluster cannot write your job's log, so the job cannot start. Look whether your home "
            "directory is full or not there on the compute nodes, then start again."
        ),
    ),
    (
        r"can't chdir|changing into working directory",
        (
            "The compute node does not see your job's directory, so the job cannot start. Tell the "
            "cluster's administrators."
        ),
    ),
    (
        r"unable to find shell|searching requested shell",
        (
            "The compute node lacks the shell that runs the job, so the job cannot start. Tell the "
            "cluster's administrators."
        ),
    ),
    (
        r"getpwnam|can't get password entry|No such user|setgid|setuid",
        (
            "The compute node does not know your account, so the job cannot start. Tell the cluster's "
            "administrators."
        ),
    ),
    (
        r"in error state",
        "The cluster could not start your job. Start it again, or tell the cluster's administrators.",
    ),
    (
        r"in hold state",
        (
            "Your job is held and does not start by itself. If it was not you, ask the cluster's "
            "administrators why."
        ),
    ),
    (
        r"exceeds limit|resource quota|job limit|max_u_jobs|maxujobs",
        (
            "You or your group use as much of the cluster as you may at a time. Your job starts when one "
            "of these jobs ends."
        ),
    ),
    (
        r"predecessor|dependen",
        "Your job waits for other jobs to end. It starts by itself after them.",
    ),
    (
        r"reservation|reserved",
        (
            "What your job needs is reserved before it would end, for other jobs or a downtime. It starts by "
            "itself after that; with a shorter walltime it may start before."
        ),
    ),
    (r"only offers|offers only|full|overload", _NO_ROOM),
    (
        r"disabled|suspended|temporarily not available|in (?:alarm|error)|calendar",
        "The queue is closed at the moment. Wait until it opens, or start in another one.",
    ),
    (
        r"because of cluster queue|because of its hard|no suitable queues",
        (
            "The queue does not allow what your job asks for, perhaps its walltime. It may never start: "
            "start again with less, or in another queue."
        ),
    ),
)


def sentence(status: JobStatus) -> str:
    """Return a sentence on why a job waits or cannot start; empty if there is nothing to say."""
    if status.state in (JobState.RUNNING, JobState.STOPPING, JobState.COMPLETED):
        return ""
    if status.state is JobState.SUSPENDED:
        return "The cluster has suspended your job for a while. It goes on by itself."
    if not status.reason:
        if status.state is JobState.HELD:
            return _found("in hold state")
        if status.state is JobState.QUEUED:
            return "Your job waits for its turn. It starts by itself."
    return _found(status.reason) or (
        f"The scheduler gives a reason of its own: {one_line(status.reason or status.native).rstrip('.')}. "
        "If your job does not start, ask the cluster's administrators."
    )


def _found(reason: str) -> str:
    return next((text for pattern, text in _WHY if re.search(pattern, reason, re.I)), "")
