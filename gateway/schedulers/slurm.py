"""Slurm, by its own commands: sbatch, squeue, scancel, sacct. Measured with 22.05.8 (Debian 12)."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import ClassVar

from gateway.discovery import Discovery
from gateway.errors import (
    CancelRefused,
    NoAccounting,
    NotEndedYet,
    QueueUnreachable,
    SubmitOutcomeUnknown,
    SubmitRefused,
)
from gateway.model import Asked, Command, Completed, JobEnd, JobId, JobState, JobStatus, Listing
from gateway.schedulers import slurm_discovery, slurm_header, slurm_why
from gateway.schedulers.slurm_why import reason_word
from gateway.schedulers.text import FORM, checked_mark, checked_names, no_answer, one_line

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
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "NODE_FAIL": JobState.NODE_FAILED,
    "BOOT_FAIL": JobState.FAILED,
    "PREEMPTED": JobState.PREEMPTED,
}

# squeue(1), JOB REASON CODES, of pending jobs. With EnforcePartLimits=NO, Slurm's default, a job over a limit
# is accepted and waits for ever. PartitionNodeLimit does not say that: it "can also indicate that required
# nodes are DOWN or DRAINED".
_HELD = re.compile(
    r"JobHeld(User|Admin)|JobHoldMaxRequeue|[\w ]*requeued[ _]held|job[ _]requeued[ _]in[ _]held.*", re.I
)
_NEVER = re.compile(
    r"Partition(TimeLimit|Config)|BadConstraints|DependencyNeverSatisfied|Invalid\w+"
    r"|(Account|QOS)NotAllowed|(Assoc|QOS)\w*PerJobLimit|QOSMin\w+"
)

# Words of slurm_strerror(3) after which the controller may have taken a request although it did not say so.
_UNCLEAR = re.compile(
    r"timed out|(send|receive|shutdown) failure|Zero Bytes|nexpected message|Header lengths"
    r"|Connection reset|Broken pipe",
    re.I,
)
# Here the request never left this side.
_NOT_SENT = re.compile(
    r"connect failure|Munge encode failed|Connection refused|No route to host"
    r"|Problem talking to database|can't be reached now",  # SLURM_CLUSTERS is looked up in slurmdbd
    re.I,
)
_COMPLAINT = re.compile(r"^(?:slurm_\w+ error|squeue: (?:error|fatal)|slurm_\w+: error)", re.M)

#: What --test-only says of jobs that can never run. All else may pass: "Requested node configuration is not
#: available" also stands for nodes that are down just now, and a drained partition opens again.
_NEVER_RUNS = re.compile(
    r"time limit is invalid|Invalid (?:partition|account|qos|feature|--\w+)|invalid partition specified"
    r"|[Rr]eservation is invalid|Invalid generic resource|More processors requested than permitted"
    r"|Node count specification invalid|not permitted to use this partition|unrecognized option"
)

_EPOCH = re.compile(r"[1-9][0-9]{8,10}", re.ASCII)
_JOB_ID = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_RESTARTS = re.compile(r"[0-9]{1,9}", re.ASCII)
_EXIT = re.compile(r"([0-9]{1,3}):([0-9]{1,3})", re.ASCII)
_BY = re.compile(r"CANCELLED by ([0-9]{1,10})", re.ASCII)
#: Names on a command line, where a word has at most 128 KiB (MAX_ARG_STRLEN of Linux); else all are listed.
_MOST_NAMES = 4000
#: Characters of the end of a job's comment, which its owner may make as long as Slurm takes it.
_LONGEST_COMMENT = 4096
#: The fields of a row, as squeue's -O calls them. Name and Comment are what other people may write.
_FIELDS = (
    "JobID",
    "State",
    "Reason",
    "BatchHost",
    "UserName",
    "RestartCnt",
    "StartTime",
    "EndTime",
    "Comment",
    "Name",
)
#: The fields of the accounting, as sacct's -o calls them; the last may hold the separator.
_ENDED_FIELDS = ("JobID", "UID", "State", "ExitCode", "Reason", "NodeList", "JobName")
#: What stands for "no such thing".
_NOTHING = ("", "None", "None assigned", "(null)")
_SECONDS = ("SLURM_TIME_FORMAT=%s",)


class Slurm:
    """Slurm: see :class:`gateway.schedulers.Scheduler` for what each method promises."""

    name: ClassVar[str] = "slurm"
    template: ClassVar[str] = "slurm.sh.j2"
    programs: ClassVar[tuple[str, ...]] = (
        "sbatch",
        "squeue",
        "scancel",
        "sacct",
        "scontrol",
        "sinfo",
        "sacctmgr",
    )
    directive: ClassVar[str] = "#SBATCH"
    resources: ClassVar[Mapping[str, str]] = {}
    accounting_lag: ClassVar[float] = 5.0

    def header_faults(self, header: str, chosen: Collection[str] = FORM) -> tuple[str, ...]:
        """Return what is wrong with ``#SBATCH`` lines."""
        return slurm_header.faults(header, chosen)

    def dry_run_command(self) -> Command | None:
        """Return the sbatch command that hands nothing in.

        With EnforcePartLimits=NO it takes a walltime over the partition's limit, as a real submit does.
        """
        return Command(("sbatch", "--parsable", "--export=NIL", "--test-only", "./script"))

    def read_dry_run(self, completed: Completed) -> None:
        """Raise what sbatch says of a job that can never run; squeue tells better when one would start."""
        if not no_answer(completed) and completed.status != 0 and _NEVER_RUNS.search(completed.stderr):
            raise SubmitRefused(*_refusal(completed))

    def discovery_commands(self, instance: str, mark: str) -> Sequence[Command]:
        """Return the commands: see :mod:`gateway.schedulers.slurm_discovery`."""
        return slurm_discovery.commands(instance, mark)

    def read_discovery(self, completed: Sequence[Completed], instance: str, mark: str) -> Discovery:
        """Return what they showed."""
        return slurm_discovery.read(completed, instance, mark, _state)

    def submit_command(self) -> Command:
        """Return the sbatch command. On the command line, --export beats SBATCH_EXPORT in the environment."""
        return Command(("sbatch", "--parsable", "--export=NIL", "./script"))

    def read_submit(self, completed: Completed) -> JobId:
        """Return the id from the last line, ``ID`` or ``ID;CLUSTER``.

        The cluster is the one that all commands here speak with (``login.environment``): a script may not
        name another, see `header_faults`.
        """
        last = completed.stdout.strip().rpartition("\n")[2].partition(";")[0].strip()
        if completed.status == 0 and _JOB_ID.fullmatch(last):
            return JobId(last)
        detail = f"sbatch: exit status {completed.status}: {one_line(completed.stderr or completed.stdout)}"
        if no_answer(completed) or _UNCLEAR.search(completed.stderr):
            raise SubmitOutcomeUnknown(detail)
        if _NOT_SENT.search(completed.stderr):
            raise QueueUnreachable(detail)
        if completed.status == 0 or not _words_of(completed.stderr, "sbatch"):
            raise SubmitOutcomeUnknown(detail)
        raise SubmitRefused(*_refusal(completed))

    def status_commands(
        self, asked: Collection[Asked], mark: str, *, ended: bool = True
    ) -> Sequence[Command]:
        """Return the squeue command: -a shows hidden partitions too, ``Field:SUFFIX`` cuts nothing off.

        Times come as seconds since 1970 (SLURM_TIME_FORMAT in squeue(1)): the login node's zone is not known.
        """
        field, row = _separators(mark)
        layout = f":{field},".join(_FIELDS) + f":{row}"
        names = checked_names(asked)
        only = (f"--name={','.join(names)}",) if len(names) <= _MOST_NAMES else ()
        return (Command(("squeue", "-h", "-a", "-t", "all", *only, "-O", layout), _SECONDS),)

    def read_status(self, completed: Sequence[Completed], asked: Collection[Asked], mark: str) -> Listing:
        """Return the rows between the marks."""
        (answer,) = completed
        complaint = _COMPLAINT.search(answer.stderr)
        if no_answer(answer) or answer.status != 0 or complaint:
            raise QueueUnreachable(f"squeue: exit status {answer.status}: {one_line(answer.stderr)}")
        field, row = _separators(mark)
        *rows, rest = slurm_discovery.of_one_cluster(answer.stdout).split(row + "\n")
        if rest:
            raise QueueUnreachable(f"squeue: the answer ends in the middle of a row: {one_line(rest)}")
        names = {job.name for job in asked}
        split = (text.split(field) for text in rows)
        jobs = tuple(_parse_row(row) for row in split if len(row) != len(_FIELDS) or row[-1] in names)
        if len({job.job_id for job in jobs}) != len(jobs):
            raise QueueUnreachable("squeue: a job is there twice: somebody may be forging rows")
        return Listing(jobs)

    def cancel_command(self, job_id: JobId) -> Command:
        """Return the scancel command: TERM to the job's processes, KILL after the site's KillWait."""
        return Command(("scancel", _checked(job_id)))

    def read_cancel(self, completed: Completed) -> None:
        """Return if the job ends: for an unknown id scancel is silent with exit status 0, or says so."""
        detail = f"scancel: exit status {completed.status}: {one_line(completed.stderr)}"
        if no_answer(completed) or _NOT_SENT.search(completed.stderr) or _UNCLEAR.search(completed.stderr):
            raise QueueUnreachable(detail)
        if completed.status == 0 or re.search(r"Invalid job id|already complet", completed.stderr):
            return
        words = _words_of(completed.stderr, "scancel")
        if not words or "authentication" in words:
            raise QueueUnreachable(detail)
        raise CancelRefused(detail, f"The cluster will not stop the job: {words}.")

    def accounting_command(self, job: Asked) -> Command:
        """Return the sacct command; without --duplicates it shows the last run of a requeued job.

        Of all clusters (-L): sacct alone knows nothing of SLURM_CLUSTERS. The job is told by its name.
        """
        fields = ",".join(_ENDED_FIELDS)
        return Command(("sacct", "-X", "-L", "-n", "-P", "-j", _checked(job.job_id), "-o", fields))

    def read_accounting(self, completed: Completed, job: Asked) -> JobEnd | None:
        """Return the last row's end. Who cancelled is a uid: the owner's becomes the owner's name."""
        if "accounting storage is disabled" in completed.stderr:
            raise NoAccounting("sacct: there is no accounting")
        if no_answer(completed) or completed.status != 0:
            raise QueueUnreachable(f"sacct: exit status {completed.status}: {one_line(completed.stderr)}")
        rows = [line.split("|", len(_ENDED_FIELDS) - 1) for line in completed.stdout.split("\n")]
        rows = [row for row in rows if row[0] == job.job_id and row[-1] == job.name]
        if not rows or len(rows[-1]) != len(_ENDED_FIELDS):
            return None
        _, uid, native, code, reason, nodes, _ = rows[-1]
        state = _state(native, "")
        if state is not JobState.UNKNOWN and not state.ended:
            raise NotEndedYet(f"sacct: job {job.job_id} is {one_line(native)} still")
        by, exited = _BY.fullmatch(native), _EXIT.fullmatch(code)
        return JobEnd(
            state,
            exit_status=int(exited[1]) if exited else None,
            signal=int(exited[2]) or None if exited else None,
            by=(job.owner if by[1] == uid else by[1]) if by else "",
            native=one_line(" ".join(word for word in (native, reason, nodes) if word not in _NOTHING)),
        )

    def why(self, status: JobStatus) -> str:
        """Return the sentence for the job's reason, or its state where that says more."""
        return slurm_why.why(status)


def _separators(mark: str) -> tuple[str, str]:
    """Return what ends a field and what ends a row. A suffix that starts with a digit would be a width."""
    return f"~{checked_mark(mark)}~", f"~{mark}."


def _parse_row(values: list[str]) -> JobStatus:
    if len(values) != len(_FIELDS) or not _JOB_ID.fullmatch(values[0]) or not _RESTARTS.fullmatch(values[5]):
        raise QueueUnreachable(f"squeue: a row that cannot be read: {one_line(' | '.join(values))}")
    job_id, native, reason, host, user, restarts, starts, ends, comment, name = values
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
        starts=_instant(starts) if waits else None,
        ends=_instant(ends) if state.on_node else None,
    )


def _state(native: str, reason: str) -> JobState:
    words = native.split()
    state = STATES.get(words[0], JobState.UNKNOWN) if words else JobState.UNKNOWN
    if state is JobState.QUEUED and _HELD.fullmatch(reason_word(reason)):
        return JobState.HELD
    if state is JobState.QUEUED and _NEVER.fullmatch(reason_word(reason)):
        return JobState.CANNOT_START
    return state


def _instant(text: str) -> datetime | None:
    """Return an instant from seconds since 1970; a job that does not end, or not start yet, has none."""
    return datetime.fromtimestamp(int(text), UTC) if _EPOCH.fullmatch(text) else None


def _refusal(completed: Completed) -> tuple[str, str]:
    """Return what the log and what the user is told of a refusal."""
    words = _words_of(completed.stderr, "sbatch")
    detail = f"sbatch: exit status {completed.status}: {one_line(completed.stderr or completed.stdout)}"
    return detail, f"The cluster did not accept the job: {words}."


def _words_of(stderr: str, program: str) -> str:
    """Return what a Slurm program complained about, without its prefixes, each sentence once."""
    found = re.findall(
        rf"^(?:{program}: (?:error|fatal|unrecognized option)?:? ?|allocation failure: )(.*)$", stderr, re.M
    )
    sentences = [line.removeprefix("Batch job submission failed: ").strip(" .") for line in found]
    return one_line("; ".join(dict.fromkeys(sentence for sentence in sentences if sentence)))


def _checked(job_id: JobId | None) -> str:
    if job_id is None or not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"not a Slurm job id: {job_id!r}")
    return job_id
