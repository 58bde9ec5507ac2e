"""The local queue, by its program ``gateway-queue``: jobs are processes of one account on one machine.

See :mod:`gateway.localqueue.verbs` for the program's output and exit statuses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from gateway.discovery import Discovery, Room
from gateway.errors import (
    CancelRefused,
    NotEndedYet,
    QueueUnreachable,
    SubmitOutcomeUnknown,
    SubmitRefused,
)
from gateway.model import Asked, Command, Completed, JobEnd, JobId, JobState, JobStatus, Listing
from gateway.schedulers.text import FORM, checked_instance, checked_mark, checked_names, one_line

#: The program's own states, :class:`gateway.localqueue.jobs.State`.
STATES = {
    "QUEUED": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "ENDING": JobState.STOPPING,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "TIMEOUT": JobState.WALLTIME,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
}

# What happened, what it means, and what to do next, or that there is nothing to do.
_WHY: tuple[tuple[str, str], ...] = (
    (r"", "The queue has not looked at your job yet. It will in a moment."),
    (r"Resources", "The machine is busy. Your job is next: it starts as soon as enough is free."),
    (r"Priority", "The machine is busy, and other jobs came before yours. It starts by itself after them."),
    (
        r"TooLarge",
        "This machine gives less than your job asks for, so it can never start. Start again with less.",
    ),
    (r"ExitStatus:[0-9]+", "The application ended with an error. Its log says more."),
    (
        r"CannotStart",
        "The queue could not write to your job's directory, so it did not start. Start it again.",
    ),
    (
        r"SupervisorDied",
        "The machine was restarted, or your job's supervisor killed, so the job has ended. Start it again.",
    ),
)
_ENDED_WHY = {
    "OUT_OF_MEMORY": (
        "The application needed more memory than the job had, so it was ended. Start again with more."
    ),
    "TIMEOUT": "The walltime is used up. Start it again, with a longer one if you need more.",
    "CANCELLED": "The job was cancelled. If it was not you, ask who looks after this machine.",
}

_PROGRAM = "gateway-queue"
_REFUSED, _UNAVAILABLE, _NEVER_RAN = 65, 75, (126, 127)
_SENTENCE = re.compile(rf"^{_PROGRAM}: (.+)$", re.M)
_JOB_ID = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_FIELDS = frozenset({"id", "name", "user", "state", "reason", "host", "comment", "ends"})
_MACHINE = frozenset({"cores", "memory", "free_cores", "waiting"})
_STATUS = re.compile(r"ExitStatus:([0-9]{1,3})", re.ASCII)
_LINE = re.compile(r"#GATEWAY.*")


class Local:
    """The local queue: see :class:`gateway.schedulers.Scheduler` for what each method promises."""

    name: ClassVar[str] = "local"
    template: ClassVar[str] = "local.sh.j2"
    programs: ClassVar[tuple[str, ...]] = (_PROGRAM,)
    directive: ClassVar[str] = "#GATEWAY"
    resources: ClassVar[Mapping[str, str]] = {}
    accounting_lag: ClassVar[float] = 0.0

    def header_faults(self, header: str, chosen: Collection[str] = FORM) -> tuple[str, ...]:
        """Return a sentence for each directive line: the template has all the options that there are."""
        return tuple(
            f"line {number}: the local queue has no options for a site to add, take the line out."
            for number, line in enumerate(header.split("\n"), 1)
            if _LINE.match(line)
        )

    def dry_run_command(self) -> Command | None:
        """Return None: the queue says no at once when a job is handed in."""
        return None

    def read_dry_run(self, completed: Completed) -> None:
        """Do nothing: there is no dry run."""

    def discovery_commands(self, instance: str, mark: str) -> Sequence[Command]:
        """Return the survey command."""
        checked_mark(mark)
        return (Command((_PROGRAM, "survey", checked_instance(instance))),)

    def read_discovery(self, completed: Sequence[Completed], instance: str, mark: str) -> Discovery:
        """Return the machine as the one partition "local", and our jobs."""
        machine, *rows = _read_rows("survey", completed[0]) or [None]
        if not _is_machine(machine):
            raise QueueUnreachable(f"{_PROGRAM} survey: not a machine: {one_line(repr(machine))}")
        jobs = [job for job in map(_read_row, rows) if not job.state.ended]
        room = Room(
            "local",
            default=True,
            max_cores=machine["cores"],
            max_memory=machine["memory"],
            nodes=1,
            cores=machine["cores"],
            free_cores=machine["free_cores"],
            free_gpus={},
            waiting=len(machine["waiting"]),
        )
        places = {job_id: place for place, job_id in enumerate(machine["waiting"], 1)}
        positions = {job.job_id: places[job.job_id] for job in jobs if job.job_id in places}
        return Discovery(rooms=(room,), positions=positions, ours=tuple(jobs), hidden=False)

    def submit_command(self) -> Command:
        """Return the submit command. The program hands nothing of its environment on."""
        return Command((_PROGRAM, "submit", "./script"))

    def read_submit(self, completed: Completed) -> JobId:
        """Return the id, which is all that is printed."""
        printed = completed.stdout.removesuffix("\n")
        if completed.status == 0 and _JOB_ID.fullmatch(printed):
            return JobId(printed)
        detail = _detail("submit", completed)
        sentence = _SENTENCE.search(completed.stderr)
        if completed.status == _REFUSED and sentence:
            raise SubmitRefused(detail, f"The cluster did not accept the job: {one_line(sentence[1])}.")
        if completed.status in (_UNAVAILABLE, *_NEVER_RAN):
            raise QueueUnreachable(detail)
        raise SubmitOutcomeUnknown(detail)

    def status_commands(
        self, asked: Collection[Asked], mark: str, *, ended: bool = True
    ) -> Sequence[Command]:
        """Return the list command. It needs no mark: in JSON no value can look like a separator."""
        checked_mark(mark)
        return (Command((_PROGRAM, "list", *checked_names(asked))),)

    def read_status(self, completed: Sequence[Completed], asked: Collection[Asked], mark: str) -> Listing:
        """Return the jobs, if as many are there as the last line says."""
        rows = _read_rows("list", completed[0])
        jobs = tuple(_read_row(row) for row in rows)
        if len({job.job_id for job in jobs}) != len(jobs):
            raise QueueUnreachable("gateway-queue list: a job is there twice")
        return Listing(jobs)

    def cancel_command(self, job_id: JobId) -> Command:
        """Return the cancel command: TERM to all the job's processes, KILL after 5 s."""
        return Command((_PROGRAM, "cancel", _checked(job_id)))

    def read_cancel(self, completed: Completed) -> None:
        """Return if the exit status is 0, as it is also for a job that the program does not know."""
        if completed.status == 0:
            return
        sentence = _SENTENCE.search(completed.stderr)
        if completed.status == _REFUSED and sentence:
            raise CancelRefused(
                _detail("cancel", completed), f"The cluster will not stop the job: {one_line(sentence[1])}."
            )
        raise QueueUnreachable(_detail("cancel", completed))

    def accounting_command(self, job: Asked) -> Command:
        """Return the how command. The program knows a job for an hour after its end."""
        return Command((_PROGRAM, "how", _checked(job.job_id)))

    def read_accounting(self, completed: Completed, job: Asked) -> JobEnd | None:
        """Return the job's end, None if the program does not know it any more."""
        rows = _read_rows("how", completed)
        if not rows:
            return None
        found = _read_row(rows[-1])
        if found.state is not JobState.UNKNOWN and not found.state.ended:
            raise NotEndedYet(f"{_PROGRAM} how: job {found.job_id} is {found.native} still")
        status = _STATUS.fullmatch(found.reason)
        return JobEnd(found.state, int(status[1]) if status else None, native=found.native)

    def why(self, status: JobStatus) -> str:
        """Return the sentence for the job's reason, or its state where that says more."""
        if sentence := _ENDED_WHY.get(status.native):
            return sentence
        if status.state in (JobState.RUNNING, JobState.STOPPING, JobState.COMPLETED):
            return ""
        for pattern, sentence in _WHY:
            if re.fullmatch(pattern, status.reason):
                return sentence
        return (
            f"The scheduler gives a reason of its own: {one_line(status.reason).rstrip('.')}. "
            "If your job does not start, ask who looks after this machine."
        )


def _read_rows(verb: str, completed: Completed) -> list[Any]:
    """Return the rows that the program printed; the last line counts them."""
    if completed.status != 0 or not completed.stdout.endswith("\n"):
        raise QueueUnreachable(_detail(verb, completed))
    try:
        *rows, end = [json.loads(line) for line in completed.stdout.split("\n")[:-1]]
    except (ValueError, RecursionError):
        raise QueueUnreachable(_detail(verb, completed)) from None
    if end != {"end": len(rows)}:
        raise QueueUnreachable(_detail(verb, completed))
    return rows


def _read_row(row: Any) -> JobStatus:
    if not _is_row(row):
        raise QueueUnreachable(f"{_PROGRAM}: a row that cannot be read: {one_line(repr(row))}")
    state = STATES.get(row["state"], JobState.UNKNOWN)
    if state is JobState.QUEUED and row["reason"] == "TooLarge":
        state = JobState.CANNOT_START
    return JobStatus(
        JobId(row["id"]),
        row["name"],
        row["user"],
        state,
        host=row["host"] if state.on_node or state is JobState.STOPPING else None,
        comment=row["comment"],
        reason=row["reason"],
        native=row["state"],
        ends=datetime.fromtimestamp(row["ends"], UTC) if row["ends"] is not None else None,
    )


def _is_row(row: Any) -> bool:
    """Whether this is a job as the program prints it: so many texts, all printable."""
    if not isinstance(row, Mapping) or row.keys() != _FIELDS:
        return False
    if row["ends"] is not None and not (type(row["ends"]) is int and 0 < row["ends"] < 10**11):
        return False
    texts = [row[field] for field in _FIELDS - {"ends"} if field != "host" or row[field] is not None]
    return all(isinstance(text, str) and text.isprintable() for text in texts) and bool(
        _JOB_ID.fullmatch(row["id"])
    )


def _is_machine(row: Any) -> bool:
    """Whether this is what the program says of its machine."""
    if not isinstance(row, Mapping) or row.keys() != _MACHINE or not isinstance(row["waiting"], list):
        return False
    return all(type(row[field]) is int for field in _MACHINE - {"waiting"}) and all(
        isinstance(job_id, str) and _JOB_ID.fullmatch(job_id) for job_id in row["waiting"]
    )


def _detail(verb: str, completed: Completed) -> str:
    words = completed.stderr.strip() or completed.stdout
    return f"{_PROGRAM} {verb}: exit status {completed.status}: {one_line(words)}"


def _checked(job_id: JobId | None) -> str:
    if job_id is None or not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"not a job id of the local queue: {job_id!r}")
    return job_id
