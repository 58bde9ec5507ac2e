"""TinyQ, a scheduler with one program: ``tq``. It is the example of docs/schedulers.rst."""

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from gateway.discovery import Discovery, Room
from gateway.errors import CancelRefused, QueueUnreachable, SubmitOutcomeUnknown, SubmitRefused
from gateway.model import Asked, Command, Completed, JobEnd, JobId, JobState, JobStatus, Listing
from gateway.schedulers.text import checked_instance, checked_mark, checked_names, no_answer, one_line

STATES = {
    "waiting": JobState.QUEUED,
    "running": JobState.RUNNING,
    "done": JobState.COMPLETED,
    "failed": JobState.FAILED,
    "killed": JobState.CANCELLED,
}


class TinyQ:
    """TinyQ: see :class:`gateway.schedulers.Scheduler` for what each method promises."""

    name = "tinyq"
    template = "tinyq.sh.j2"
    programs = ("tq",)
    directive = "#TQ"
    resources: ClassVar[Mapping[str, str]] = {}
    accounting_lag = 0.0

    def header_faults(self, header: str, chosen: Collection[str] = ()) -> tuple[str, ...]:
        """Refuse what would take the template's lines back: all that TinyQ has."""
        lines = enumerate(header.split("\n"), 1)
        return tuple(f"line {n}: TinyQ takes no more options." for n, line in lines if line.startswith("#TQ"))

    def submit_command(self) -> Command:
        """``tq submit`` prints the id; the job inherits nothing."""
        return Command(("tq", "submit", "./script"))

    def read_submit(self, completed: Completed) -> JobId:
        """Exit status 2 is a refusal. All else without an id may have made a job."""
        printed = completed.stdout.strip()
        if completed.status == 0 and _is_id(printed):
            return JobId(printed)
        if completed.status == 2:
            words = one_line(completed.stderr)
            raise SubmitRefused(f"tq submit: {words}", f"The cluster did not accept the job: {words}.")
        raise SubmitOutcomeUnknown(_detail("submit", completed))

    def dry_run_command(self) -> Command | None:
        """TinyQ has none."""
        return None

    def read_dry_run(self, completed: Completed) -> None:
        """Nothing is known before a submit."""

    def status_commands(
        self, asked: Collection[Asked], mark: str, *, ended: bool = True
    ) -> Sequence[Command]:
        """One command for all jobs. TinyQ prints notes without tabs and line breaks: no mark is needed."""
        checked_mark(mark)
        return (Command(("tq", "list", *checked_names(asked))),)

    def read_status(self, completed: Sequence[Completed], asked: Collection[Asked], mark: str) -> Listing:
        """A listing is whole if its last line counts the others."""
        return Listing(tuple(map(_job, _rows("list", completed[0]))))

    def cancel_command(self, job_id: JobId) -> Command:
        """``tq kill``."""
        return Command(("tq", "kill", _checked(job_id)))

    def read_cancel(self, completed: Completed) -> None:
        """Exit status 0 also for a job that is not there, 2 for another one's."""
        if completed.status == 2:
            words = one_line(completed.stderr)
            raise CancelRefused(f"tq kill: {words}", f"The cluster will not stop the job: {words}.")
        if completed.status != 0:
            raise QueueUnreachable(_detail("kill", completed))

    def accounting_command(self, job: Asked) -> Command:
        """``tq ended`` knows the jobs of the last week."""
        return Command(("tq", "ended", _checked(job.job_id)))

    def read_accounting(self, completed: Completed, job: Asked) -> JobEnd | None:
        """One row, or none."""
        found = [row for row in map(_job, _rows("ended", completed)) if row.name == job.name]
        if found and not found[0].state.ended:
            raise QueueUnreachable(f"tq ended: job {job.job_id} is {found[0].native} still")
        return JobEnd(found[0].state, native=found[0].native) if found else None

    def discovery_commands(self, instance: str, mark: str) -> Sequence[Command]:
        """``tq queues``, and all jobs of this gateway."""
        checked_mark(mark)
        return (Command(("tq", "queues")), Command(("tq", "list", f"{checked_instance(instance)}*")))

    def read_discovery(self, completed: Sequence[Completed], instance: str, mark: str) -> Discovery:
        """Each part stands for itself."""
        queues, jobs = (None if no_answer(one) or one.status else one for one in completed)
        if queues is None and jobs is None:
            raise QueueUnreachable(_detail("queues", completed[0]))
        rooms = _rows("queues", queues) if queues else []
        return Discovery(
            rooms=tuple(
                Room(name, max_walltime=int(most), max_cores=int(cores)) for name, most, cores in rooms
            ),
            ours=tuple(map(_job, _rows("list", jobs))) if jobs else None,
        )

    def why(self, status: JobStatus) -> str:
        """What happened, what it means, what to do next."""
        if status.state is JobState.CANCELLED:
            return "The job was cancelled. If it was not you, ask the cluster's administrators why."
        if status.state is JobState.FAILED:
            return "The application ended with an error. Its log says more."
        reason = one_line(status.reason).rstrip(".")
        return f"The scheduler gives a reason of its own: {reason}." if reason else ""


def _rows(verb: str, completed: Completed) -> list[list[str]]:
    """Return the rows' fields; the last line is ``end COUNT``."""
    *lines, end, rest = ["", "", *completed.stdout.split("\n")][-completed.stdout.count("\n") - 2 :]
    rows = [line.split("\t") for line in lines if line]
    width = 3 if verb == "queues" else 7
    good = end == f"end {len(rows)}" and not rest and all(len(row) == width for row in rows)
    if completed.status != 0 or not good or not all(row[1].isdecimal() for row in rows if width == 3):
        raise QueueUnreachable(_detail(verb, completed))
    return rows


def _job(row: Sequence[str]) -> JobStatus:
    job_id, name, user, native, host, reason, note = row
    state = STATES.get(native, JobState.UNKNOWN)
    where = host if state.on_node else None
    return JobStatus(JobId(job_id), name, user, state, where, comment=note, reason=reason, native=native)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and not text.startswith("0")


def _checked(job_id: JobId | None) -> str:
    if job_id is None or not _is_id(job_id):
        raise ValueError(f"not a TinyQ job id: {job_id!r}")
    return job_id


def _detail(verb: str, completed: Completed) -> str:
    return f"tq {verb}: exit status {completed.status}: {one_line(completed.stderr or completed.stdout)}"
