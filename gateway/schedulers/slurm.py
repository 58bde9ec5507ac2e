"""Slurm, by its own commands: sbatch, squeue, scancel, sacct. Measured with 22.05.8 (Debian 12)."""

import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import ClassVar

from gateway.errors import CancelRefused, QueueUnreachable, SubmitOutcomeUnknown, SubmitRefused
from gateway.model import Command, Completed, JobId, JobState, JobStatus, Listing
from gateway.schedulers.text import one_line

# squeue(1), JOB STATE CODES.
STATES = {
    "PENDING": JobState.QUEUED,
    "CONFIGURING": JobState.QUEUED,
    "REQUEUED": JobState.QUEUED,
    "REQUEUE_FED": JobState.QUEUED,
    "REQUEUE_HOLD": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "SUSPENDED": JobState.SUSPENDED,
    "STOPPED": JobState.SUSPENDED,
    "COMPLETING": JobState.STOPPING,
    "STAGE_OUT": JobState.STOPPING,
    "COMPLETED": JobState.COMPLETED,
    "CANCELLED": JobState.CANCELLED,
    "TIMEOUT": JobState.WALLTIME,
    "DEADLINE": JobState.WALLTIME,
    "FAILED": JobState.FAILED,
    "OUT_OF_MEMORY": JobState.FAILED,
    "NODE_FAIL": JobState.FAILED,
    "BOOT_FAIL": JobState.FAILED,
    "PREEMPTED": JobState.PREEMPTED,
}

# squeue(1), JOB REASON CODES, of pending jobs. With EnforcePartLimits=NO, Slurm's default, a job over a limit
# is accepted and waits for ever.
_HELD = re.compile(
    r"JobHeld(User|Admin)|JobHoldMaxRequeue|[\w ]*requeued[ _]held|job[ _]requeued[ _]in[ _]held.*", re.I
)
_NEVER = re.compile(
    r"Partition(TimeLimit|NodeLimit|Config)|BadConstraints|DependencyNeverSatisfied|Invalid\w+"
    r"|(Account|QOS)NotAllowed|(Assoc|QOS)\w*PerJobLimit|QOSMin\w+"
)

_NO_MEMORY = "The application needed more memory than the job had, so it was ended. Start again with more."

# What happened, what it means, and what to do next, or that there is nothing to do.
_WHY: tuple[tuple[str, str], ...] = (
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
        r"PartitionNodeLimit|PartitionConfig|BadConstraints",
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
_ENDED_WHY = {
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

# Words of slurm_strerror(3) after which the controller may have taken a request although it did not say so.
_UNCLEAR = re.compile(
    r"timed out|(send|receive|shutdown) failure|Zero Bytes|nexpected message|Header lengths"
    r"|Connection reset|Broken pipe",
    re.I,
)
# Here the request never left this side.
_NOT_SENT = re.compile(r"connect failure|Munge encode failed|Connection refused|No route to host", re.I)
_COMPLAINT = re.compile(r"^(?:slurm_\w+ error|squeue: (?:error|fatal)|slurm_\w+: error)", re.M)

_EPOCH = re.compile(r"[1-9][0-9]{8,10}", re.ASCII)
_MARK = re.compile(r"[0-9a-f]{16,64}", re.ASCII)
_NAME = re.compile(r"gw-[a-z2-7]{6}-[a-z2-7]{10}", re.ASCII)
_JOB_ID = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
#: Characters of the end of a job's comment, which its owner may make as long as Slurm takes it.
_LONGEST_COMMENT = 4096
#: The fields of a row, as squeue's -O calls them. Name and Comment are what other people may write.
_FIELDS = ("JobID", "State", "Reason", "BatchHost", "UserName", "RestartCnt", "StartTime", "Comment", "Name")


class Slurm:
    """Slurm: see :class:`gateway.schedulers.Scheduler` for what each method promises."""

    name: ClassVar[str] = "slurm"
    template: ClassVar[str] = "slurm.sh.j2"

    def submit_command(self) -> Command:
        """Return the sbatch command. On the command line, --export beats SBATCH_EXPORT in the environment."""
        return Command(("sbatch", "--parsable", "--export=NIL", "./script"))

    def read_submit(self, completed: Completed) -> JobId:
        """Return the id from the last line, ``ID`` or ``ID;CLUSTER``."""
        last = completed.stdout.strip().rpartition("\n")[2].partition(";")[0].strip()
        if completed.status == 0 and _JOB_ID.fullmatch(last):
            return JobId(last)
        detail = f"sbatch: exit status {completed.status}: {one_line(completed.stderr or completed.stdout)}"
        if _no_answer(completed) or _UNCLEAR.search(completed.stderr):
            raise SubmitOutcomeUnknown(detail)
        if _NOT_SENT.search(completed.stderr):
            raise QueueUnreachable(detail)
        words = _words_of(completed.stderr, "sbatch")
        if completed.status == 0 or not words:
            raise SubmitOutcomeUnknown(detail)
        raise SubmitRefused(detail, f"The cluster did not accept the job: {words}.")

    def status_command(self, names: Collection[str], mark: str) -> Command:
        """Return the squeue command: -a shows hidden partitions too, ``Field:SUFFIX`` cuts nothing off.

        Times come as seconds since 1970 (SLURM_TIME_FORMAT in squeue(1)): the login node's zone is not known.
        """
        if not names or not all(_NAME.fullmatch(name) for name in names):
            raise ValueError(f"not job names: {sorted(names)!r}")
        field, row = _separators(mark)
        suffixes = [field] * (len(_FIELDS) - 1) + [row]
        layout = ",".join(f"{name}:{suffix}" for name, suffix in zip(_FIELDS, suffixes, strict=True))
        words = ("squeue", "-h", "-a", "-t", "all", f"--name={','.join(sorted(names))}", "-O", layout)
        return Command(words, environment=("SLURM_TIME_FORMAT=%s",))

    def read_status(self, completed: Completed, mark: str) -> Listing:
        """Return the rows between the marks."""
        complaint = _COMPLAINT.search(completed.stderr)
        if _no_answer(completed) or completed.status != 0 or complaint:
            raise QueueUnreachable(f"squeue: exit status {completed.status}: {one_line(completed.stderr)}")
        field, row = _separators(mark)
        *rows, rest = completed.stdout.split(row + "\n")
        if rest:
            raise QueueUnreachable(f"squeue: the answer ends in the middle of a row: {one_line(rest)}")
        jobs = tuple(_parse_row(text.split(field)) for text in rows)
        if len({job.job_id for job in jobs}) != len(jobs):
            raise QueueUnreachable("squeue: a job is there twice: somebody may be forging rows")
        return Listing(jobs)

    def cancel_command(self, job_id: JobId) -> Command:
        """Return the scancel command: TERM to the job's processes, KILL after the site's KillWait."""
        return Command(("scancel", _checked(job_id)))

    def read_cancel(self, completed: Completed) -> None:
        """Return if the job ends: for an unknown id scancel is silent with exit status 0, or says so."""
        detail = f"scancel: exit status {completed.status}: {one_line(completed.stderr)}"
        if _no_answer(completed) or _NOT_SENT.search(completed.stderr) or _UNCLEAR.search(completed.stderr):
            raise QueueUnreachable(detail)
        if completed.status == 0 or re.search(r"Invalid job id|already complet", completed.stderr):
            return
        words = _words_of(completed.stderr, "scancel")
        if not words or "authentication" in words:
            raise QueueUnreachable(detail)
        raise CancelRefused(detail, f"The cluster will not stop the job: {words}.")

    def accounting_command(self, job_id: JobId) -> Command:
        """Return the sacct command; without --duplicates it shows the last run of a requeued job."""
        return Command(("sacct", "-X", "-n", "-P", "-j", _checked(job_id), "-o", "JobID,State"))

    def read_accounting(self, completed: Completed) -> JobState | None:
        """Return the last row's state, such as ``CANCELLED by 1000``."""
        if "accounting storage is disabled" in completed.stderr:
            return None
        if _no_answer(completed) or completed.status != 0:
            raise QueueUnreachable(f"sacct: exit status {completed.status}: {one_line(completed.stderr)}")
        rows = [line.split("|") for line in completed.stdout.splitlines() if "|" in line]
        return _state(rows[-1][1], "") if rows else None

    def why(self, status: JobStatus) -> str:
        """Return the sentence for the job's reason, or its state where that says more."""
        if sentence := _ENDED_WHY.get(status.native):
            return sentence
        if status.state in (JobState.RUNNING, JobState.STOPPING, JobState.COMPLETED):
            return ""
        for pattern, sentence in _WHY:
            if re.fullmatch(pattern, _reason_word(status.reason), re.I):
                return sentence
        return (
            f"The scheduler gives a reason of its own: {one_line(status.reason).rstrip('.')}. "
            "If your job does not start, ask the cluster's administrators."
        )


def _separators(mark: str) -> tuple[str, str]:
    """Return what ends a field and what ends a row. A suffix that starts with a digit would be a width."""
    if not _MARK.fullmatch(mark):
        raise ValueError(f"not a mark: {mark!r}")
    return f"~{mark}~", f"~{mark}."


def _parse_row(values: list[str]) -> JobStatus:
    if len(values) != len(_FIELDS) or not _JOB_ID.fullmatch(values[0]) or not values[5].isdecimal():
        raise QueueUnreachable(f"squeue: a row that cannot be read: {one_line(' | '.join(values))}")
    job_id, native, reason, host, user, restarts, starts, comment, name = values
    state = _state(native, reason)
    waits = state in (JobState.QUEUED, JobState.HELD)
    return JobStatus(
        JobId(job_id),
        name,
        user,
        state,
        host=host
        if (state.on_node or state is JobState.STOPPING) and host not in ("", "n/a", "(null)")
        else None,
        comment="" if comment == "(null)" else comment[-_LONGEST_COMMENT:],
        restarts=int(restarts),
        reason="" if reason == "None" else one_line(reason),
        native=native.split()[0] if native.strip() else "",
        starts=datetime.fromtimestamp(int(starts), UTC) if waits and _EPOCH.fullmatch(starts) else None,
    )


def _state(native: str, reason: str) -> JobState:
    words = native.split()
    state = STATES.get(words[0], JobState.UNKNOWN) if words else JobState.UNKNOWN
    if state is JobState.QUEUED and _HELD.fullmatch(_reason_word(reason)):
        return JobState.HELD
    if state is JobState.QUEUED and _NEVER.fullmatch(_reason_word(reason)):
        return JobState.CANNOT_START
    return state


def _reason_word(reason: str) -> str:
    """Return a reason without what follows a comma: ``ReqNodeNotAvail, UnavailableNodes:cn1``."""
    return reason.strip().strip("()").partition(",")[0]


def _no_answer(completed: Completed) -> bool:
    """Whether a time limit (124, or 137 if it had to kill) or the connection's end cut the command off."""
    return completed.status < 0 or completed.status in (124, 137)


def _words_of(stderr: str, program: str) -> str:
    """Return what a Slurm program complained about, without its prefixes, each sentence once."""
    found = re.findall(rf"^{program}: (?:error|fatal|unrecognized option)?:? ?(.*)$", stderr, re.M)
    sentences = [line.removeprefix("Batch job submission failed: ").strip(" .") for line in found]
    return one_line("; ".join(dict.fromkeys(sentence for sentence in sentences if sentence)))


def _checked(job_id: JobId) -> str:
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"not a Slurm job id: {job_id!r}")
    return job_id
