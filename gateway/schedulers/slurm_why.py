"""Why a job of Slurm waits, or how it ended, in sentences for its owner."""

import re

from gateway.model import JobState, JobStatus
from gateway.schedulers.text import one_line

_NO_MEMORY = "The application needed more memory than the job had, so it was ended. Start again with more."

# What happened, what it means, and what to do next, or that there is nothing to do.
#: Reasons (squeue(1), JOB REASON CODES) and what they mean. The first that matches counts.
WHY: tuple[tuple[str, str], ...] = (
    (r"None|", "The scheduler has not looked at your job yet. It will in a moment."),
    (r"Resources", "The cluster is busy. Your job is next: it starts as soon as enough is free."),
    (
        r"Priority",
        (
            "The cluster is busy, and jobs with a higher priority come first. Yours starts by itself; a "
            "shorter walltime or fewer cores may start sooner."
        ),
    ),
    (
        r"BeginTime",
        "Your job may not start yet. It starts by itself: a job that ran before waits a moment first.",
    ),
    (r"Dependency", "Your job waits for another job to end. It starts by itself after that."),
    (
        r"DependencyNeverSatisfied",
        "Your job waits for another job that has failed, so it can never start. Start again.",
    ),
    (r"JobHeldUser", "Your job is on hold. Release it on the cluster, or stop it here and start again."),
    (
        r"JobHeldAdmin",
        "The cluster's administrators have put your job on hold. Ask them why, or stop it here.",
    ),
    (
        r"[\w ]*requeued[ _]held|JobHoldMaxRequeue",
        (
            "Your job could not be started and is on hold now. Stop it here and start again; if that does "
            "not help, ask the cluster's administrators."
        ),
    ),
    (
        r"ReqNodeNotAvail|Nodes required.*|NodeDown",
        "The nodes that your job needs are down or reserved. Wait for them, or start in another partition.",
    ),
    (
        r"ReservationDeleted|InvalidReservation",
        "The reservation that your job asks for is not there any more. Start again without it.",
    ),
    (r"Reservation\w*", "Your job waits for its reservation. It starts by itself when that begins."),
    (
        r"Partition(Down|Inactive)",
        "The partition is closed at the moment. Wait until it opens, or start in another one.",
    ),
    (
        r"PartitionTimeLimit|.*WallDuration\w*",
        "The walltime is longer than allowed, so your job can never start. Start again with a shorter one.",
    ),
    (
        r"PartitionNodeLimit",
        (
            "Your job asks for more nodes than the partition has, or its nodes are down. Wait for them, or "
            "start in another partition."
        ),
    ),
    (
        r"PartitionConfig|BadConstraints",
        "No node of this partition can ever run your job. Start again with less, or in another partition.",
    ),
    (r"Licenses", "Your job waits for a software licence. It starts by itself when one is free."),
    (
        r"JobArrayTaskLimit|(Assoc|QOS)\w*Jobs\w*Limit",
        "You have as many jobs as you may have at a time. This one starts when another one of yours ends.",
    ),
    (
        r"(Assoc|QOS)\w*PerJobLimit|QOSMin\w+",
        (
            "Your job asks for what your account does not allow, so it can never start. Start again with "
            "other choices."
        ),
    ),
    (
        r"(Assoc|QOS)Grp\w*(Minutes|RunMinutes)\w*",
        "Your group's computing time is used up at the moment. Ask the head of your group for more, or wait.",
    ),
    (
        r"(Assoc|QOS)\w*Limit",
        (
            "You or your group use as much of the cluster as you may at a time. Your job starts when one of "
            "these jobs ends."
        ),
    ),
    (
        r"InvalidAccount|AccountNotAllowed",
        (
            "Your account may not be used here, so your job can never start. Start again with another one, "
            "or ask the cluster's administrators."
        ),
    ),
    (
        r"InvalidQOS|QOSNotAllowed",
        (
            "Your quality of service may not be used here, so your job can never start. Ask the cluster's "
            "administrators which one is yours."
        ),
    ),
    (r"Prolog", "The node is being prepared for your job. It starts in a moment."),
    (
        r"JobLaunchFailure",
        (
            "The cluster could not start your job on its node. Start it again; if that happens again, tell "
            "the cluster's administrators."
        ),
    ),
    (r"NonZeroExitCode", "The application ended with an error. Its log says more."),
    (r"TimeLimit", "The walltime is used up. Start it again, with a longer one if you need more."),
    (r"OutOfMemory", _NO_MEMORY),
)
#: Native states that say more than any reason.
ENDED_WHY = {
    "OUT_OF_MEMORY": _NO_MEMORY,
    "NODE_FAIL": "The node that ran your job has failed, so the job has ended. Start it again.",
    "BOOT_FAIL": "The node for your job did not start, so the job has ended. Start it again.",
    "TIMEOUT": "The walltime is used up. Start it again, with a longer one if you need more.",
    "DEADLINE": "The job's deadline is over, so it has ended. Start it again if you need it.",
    "CANCELLED": "The job was cancelled. If it was not you, ask the cluster's administrators why.",
    "PREEMPTED": "The job had to make room for one with a higher priority. Start it again; it waits.",
    "CONFIGURING": "The node for your job is being switched on. Wait: this may take some minutes.",
    "SUSPENDED": "The cluster has suspended your job for a while. It goes on by itself.",
}

_MAINTENANCE = re.compile(r"reserved for maintenance", re.I)


def why(status: JobStatus) -> str:
    """Return the sentence for the job's reason, or for its state where that says more."""
    if sentence := ENDED_WHY.get(status.native):
        return sentence
    if status.state in (JobState.RUNNING, JobState.STOPPING, JobState.COMPLETED):
        return ""
    if _MAINTENANCE.search(status.reason):
        return (
            "The nodes are reserved for maintenance. Your job starts by itself after that; with a shorter "
            "walltime it may start before."
        )
    for pattern, sentence in WHY:
        if re.fullmatch(pattern, reason_word(status.reason), re.I):
            return sentence
    return (
        f"The scheduler gives a reason of its own: {one_line(status.reason).rstrip('.')}. "
        "If your job does not start, ask the cluster's administrators."
    )


def reason_word(reason: str) -> str:
    """Return a reason without what follows a comma: ``ReqNodeNotAvail, UnavailableNodes:cn1``."""
    return reason.strip().strip("()").partition(",")[0]
