"""The local queue, by its program ``gateway-queue``: jobs are processes of one account on one machine.

See :mod:`gateway.localqueue.verbs` for the program's output and exit statuses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from gateway.errors import CancelRefused, QueueUnreachable, SubmitOutcomeUnknown, SubmitRefused
from gateway.model import Command, Completed, JobId, JobState, JobStatus, Listing
from gateway.schedulers.text import one_line

#: The program's own states, :class:`gateway.localqueue.jobs.State`.
STATES = {
    "QUEUED": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "ENDING": JobState.STOPPING,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "TIMEOUT": JobState.WALLTIME,
    "OUT_OF_MEMORY": JobState.FAILED,
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
_NAME = re.compile(r"gw-[a-z2-7]{6}-[a-z2-7]{10}", re.ASCII)
_JOB_ID = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_MARK = re.compile(r"[0-9a-f]{16,64}", re.ASCII)
_FIELDS = frozenset({"id", "name", "user", "state", "reason", "host", "comment"})


class Local:
    """The local queue: see :class:`gateway.schedulers.Scheduler` for what each method promises."""

    name: ClassVar[str] = "local"
    template: ClassVar[str] = "local.sh.j2"

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

    def status_command(self, names: Collection[str], mark: str) -> Command:
        """Return the list command. It needs no mark: in JSON no value can look like a separator."""
        if not names or not all(_NAME.fullmatch(name) for name in names):
            raise ValueError(f"not job names: {sorted(names)!r}")
        if not _MARK.fullmatch(mark):
            raise ValueError(f"not a mark: {mark!r}")
        return Command((_PROGRAM, "list", *sorted(names)))

    def read_status(self, completed: Completed, mark: str) -> Listing:
        """Return the jobs, if as many are there as the last line says."""
        rows = _read_rows("list", completed)
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

    def accounting_command(self, job_id: JobId) -> Command:
        """Return the how command. The program knows a job for an hour after its end."""
        return Command((_PROGRAM, "how", _checked(job_id)))

    def read_accounting(self, completed: Completed) -> JobState | None:
        """Return the job's state, None if the program does not know it any more."""
        rows = _read_rows("how", completed)
        return _read_row(rows[-1]).state if rows else None

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
    )


def _is_row(row: Any) -> bool:
    """Whether this is a job as the program prints it: so many texts, all printable."""
    if not isinstance(row, Mapping) or row.keys() != _FIELDS:
        return False
    texts = [row[field] for field in _FIELDS if field != "host" or row[field] is not None]
    return all(isinstance(text, str) and text.isprintable() for text in texts) and bool(
        _JOB_ID.fullmatch(row["id"])
    )


def _detail(verb: str, completed: Completed) -> str:
    words = completed.stderr.strip() or completed.stdout
    return f"{_PROGRAM} {verb}: exit status {completed.status}: {one_line(words)}"


def _checked(job_id: JobId) -> str:
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"not a job id of the local queue: {job_id!r}")
    return job_id
