"""Why a PBS job waits or ended, in a sentence: from the comment, which is the scheduler's, and the state."""

from __future__ import annotations

import re

from gateway.model import JobState, JobStatus
from gateway.schedulers.text import one_line

_ADMINISTRATORS = "ask the cluster's administrators"

# The comments are those of OpenPBS's scheduler (job_info.cpp). What happened, what it means, and what to do
# next, or that there is nothing to do.
_WHY: tuple[tuple[str, str], ...] = (
    (r"", "The scheduler has not looked at your job yet. It will in a moment."),
    (
        r"Can Never Run: .*walltime.*",
        "The walltime is longer than allowed, so your job can never start. Start again with a shorter one.",
    ),
    (
        r"Can Never Run: .*",
        "No node of this cluster can ever run your job. Start again with less, or in another queue.",
    ),
    (
        r".*too many failed attempts.*",
        (
            "The cluster tried to start your job many times and could not. Stop it here and start again; if "
            f"that does not help, {_ADMINISTRATORS}."
        ),
    ),
    (
        r"Not Running: .*\b(limit|would exceed)\b.*",
        (
            "You, your group or the queue have as much running as is allowed at a time. Your job starts "
            "by itself when one of these jobs ends."
        ),
    ),
    (
        r"Not Running: .*dedicated time.*",
        (
            "The cluster will be closed for a while, and your job would not be over before. Start again with "
            "a shorter walltime, or wait."
        ),
    ),
    (
        r"Not Running: .*prime ?time.*",
        "The queue runs jobs at certain hours only. Your job starts by itself then.",
    ),
    (
        r"Not Running: .*(reservation|top job).*",
        (
            "Others have reserved what your job needs before it would end. It starts by itself after them; "
            "a shorter walltime may be sooner."
        ),
    ),
    (
        r"Not Running: .*(not started|disabled).*",
        "The queue is closed at the moment. Wait until it opens, or start in another one.",
    ),
    (
        r"Not Running: .*(starv|[Dd]raining|priority).*",
        "Jobs that waited longer or have a higher priority come first. Yours starts by itself after them.",
    ),
    (
        r"Not Running: Insufficient amount of resource: (host|vnode)\b.*",
        "The nodes that your job needs are down or in use. It starts by itself when one is back.",
    ),
    (
        r"Not Running: (Insufficient|Not enough|No available|Node|Nodes|.*free nodes|.*ineligible).*",
        "The cluster is busy. Your job starts by itself when enough is free; with less it may start sooner.",
    ),
    (r"Job held by .*", "Your job is on hold. Release it on the cluster, or stop it here and start again."),
)
_HELD = {
    "H 22": "Your job waits for another job to end. It starts by itself after that.",
    "H 37": f"Your job's files could not be brought in, so it is on hold. Stop it, or {_ADMINISTRATORS}.",
}
_ON_HOLD = (
    "Your job is on hold. Release it on the cluster, or stop it here and start again; if you did not put it "
    f"there, {_ADMINISTRATORS}."
)
_BY_STATE = {
    JobState.SUSPENDED: "The cluster has suspended your job for a while. It goes on by itself.",
    JobState.CANCELLED: f"The job was cancelled. If it was not you, {_ADMINISTRATORS} why.",
    JobState.WALLTIME: "The walltime is used up. Start it again, with a longer one if you need more.",
    JobState.OUT_OF_MEMORY: (
        "The application needed more memory than the job had, so it was ended. Start again with more."
    ),
    JobState.NODE_FAILED: "The node that ran your job has failed, so the job has ended. Start it again.",
    JobState.FAILED: "The application ended with an error, or could not be started. Its log says more.",
    JobState.PREEMPTED: "The job had to make room for one with a higher priority. Start it again; it waits.",
}


def why(status: JobStatus) -> str:
    """Return the sentence for a job; empty if there is nothing to say."""
    if status.state in (JobState.RUNNING, JobState.STOPPING, JobState.COMPLETED):
        return ""
    if sentence := _BY_STATE.get(status.state) or _HELD.get(status.native):
        return sentence
    if status.state is JobState.HELD and not status.reason:
        return _ON_HOLD
    if status.native.startswith("W"):
        return "Your job may not start before a certain time. It starts by itself then."
    for pattern, sentence in _WHY:
        if re.fullmatch(pattern, status.reason):
            return sentence
    return (
        f"The scheduler gives a reason of its own: {one_line(status.reason).rstrip('.')}. "
        f"If your job does not start, {_ADMINISTRATORS}."
    )
