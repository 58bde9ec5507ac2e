"""PBS, by its own commands: qsub, qstat, qdel, pbsnodes. Measured with OpenPBS 23.06 and clients of 22.05.

Exit statuses are ``pbs_errno % 256`` (pbs_error.h), and exit status 0 does not mean "answered".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from gateway.discovery import Discovery
from gateway.errors import (
    CancelRefused,
    EndedNotListed,
    QueueUnreachable,
    SubmitOutcomeUnknown,
    SubmitRefused,
)
from gateway.model import Asked, Command, Completed, JobEnd, JobId, JobStatus, Listing
from gateway.schedulers import pbs_words
from gateway.schedulers.pbs_cluster import discovery_commands, read_discovery, sees_all
from gateway.schedulers.pbs_header import header_faults
from gateway.schedulers.pbs_rows import JOB_ID, read_end, read_job, rows
from gateway.schedulers.text import FORM, checked_mark, checked_names, no_answer, one_line

_FINISHED, _UNKNOWN_ID, _NO_MOM = 35, 153, 222
#: Exit statuses and words of programs that did not reach the server.
_UNREACHED = frozenset({160, 162, 183, 185, 186, 212, 255})
_NO_SERVER = re.compile(r"cannot connect|[Cc]ouldn't connect|Connection refused|Unknown Host|^auth: ", re.M)
#: qsub's, after which the server cannot have the job: it is not there, refuses, or is going down.
_NOT_SENT = frozenset({160, 162, 186, 212})
_NO_HISTORY = "not configured to maintain job history"
_SERVER = Command(("qstat", "-B", "-f", "-F", "dsv"))
_FULL = ("-f", "-F", "dsv")


class Pbs:
    """PBS: see :class:`gateway.schedulers.Scheduler` for what each method promises.

    A job publishes its endpoint by its name, which its owner may change while it runs (a comment only
    operators may): ``gw-INSTANCE-ID.RUN.RESTART.PORT.HOST``.
    """

    name: ClassVar[str] = "pbs"
    template: ClassVar[str] = "pbs.sh.j2"
    programs: ClassVar[tuple[str, ...]] = (
        *("qsub", "qstat", "qdel", "qalter"),
        *("qselect", "pbsnodes", "pbs_rstat"),
    )
    directive: ClassVar[str] = "#PBS"
    resources: ClassVar[Mapping[str, str]] = {"gpus": "ngpus", "gpu_type": "gpu_type"}
    accounting_lag: ClassVar[float] = 0.0

    def header_faults(self, header: str, chosen: Collection[str] = FORM) -> tuple[str, ...]:
        """Return what is wrong with a site's directive lines."""
        return header_faults(header, chosen)

    def submit_command(self) -> Command:
        """Return the qsub command.

        Without -f a background process of qsub's keeps the first caller's working directory, and from one
        that cannot be entered every second call fails. -C beats PBS_DPREFIX in the environment.
        """
        return Command(("qsub", "-f", "-C", self.directive, "./script"))

    def read_submit(self, completed: Completed) -> JobId:
        """Return the id from the last line. An interrupted qsub may have left a job behind."""
        last = completed.stdout.strip().rpartition("\n")[2]
        if completed.status == 0 and JOB_ID.fullmatch(last):
            return JobId(last)
        detail = _detail("qsub", completed)
        if completed.status in _NOT_SENT and _NO_SERVER.search(completed.stderr):
            raise QueueUnreachable(detail)
        words = _words(completed.stderr, "qsub")
        if completed.status <= 0 or no_answer(completed) or completed.status in _UNREACHED or not words:
            raise SubmitOutcomeUnknown(detail)
        raise SubmitRefused(detail, f"The cluster did not accept the job: {words}.")

    def dry_run_command(self) -> Command | None:
        """Return None: PBS has none. What can never run is said soon after, in the job's comment."""
        return None

    def read_dry_run(self, completed: Completed) -> None:
        """Do nothing: there is no dry run."""

    def status_commands(
        self, asked: Collection[Asked], mark: str, *, ended: bool = True
    ) -> Sequence[Command]:
        """Return the qstat command, and the one that says whether others' jobs are shown at all.

        -E asks for all ids at once; those that are unknown are then left out without a word, as are hidden
        jobs. Nothing asks for names that begin with something: where an id is not known, all jobs are listed.
        No mark is needed: see `pbs_rows`.
        """
        checked_names(asked)
        checked_mark(mark)
        history = ("-x",) if ended else ()
        ids = [job.job_id for job in asked]
        if None in ids:
            return (Command(("qstat", *history, *_FULL)), _SERVER)
        words = dict.fromkeys(_checked(job_id) for job_id in ids)
        return (Command(("qstat", "-E", *history, *_FULL, *words)), _SERVER)

    def read_status(self, completed: Sequence[Completed], asked: Collection[Asked], mark: str) -> Listing:
        """Return the rows; who is not among them is absent only if they would be shown."""
        listed, server = completed
        if not _all_gone(listed):
            _check_listing(listed)
        ids = {job.job_id: job for job in asked if job.job_id}
        names = {job.name for job in asked}
        settled = {job.job_id for job in asked if job.settled}
        found = [
            _as_asked(read_job(job_id, values, settled=job_id in settled), ids)
            for job_id, values in rows(listed.stdout, "Job Id: ")
        ]
        if len({job.job_id for job in found}) != len(found):
            raise QueueUnreachable("qstat: a job is there twice")
        jobs = tuple(job for job in found if job.job_id in ids or job.name in names)
        if _all_gone(listed) or sees_all(server, found):
            return Listing(jobs)
        # Whose jobs are shown: an account that is shown one job of somebody's is shown all of theirs.
        owners = {job.user for job in found}
        shown = {job.name for job in jobs}
        silent = {job.name for job in asked if job.owner not in owners and job.name not in shown}
        return Listing(jobs, frozenset(silent))

    def cancel_command(self, job_id: JobId) -> Command:
        """Return the qdel command: TERM to the job's processes, KILL after the site's kill_delay."""
        return Command(("qdel", _checked(job_id)))

    def read_cancel(self, completed: Completed) -> None:
        """Return if the job ends. While its node does not answer it can only be asked again."""
        detail = _detail("qdel", completed)
        if completed.status in (0, _FINISHED, _UNKNOWN_ID) and not _NO_SERVER.search(completed.stderr):
            return
        if completed.status == _NO_MOM:
            raise QueueUnreachable(
                detail, "The node of your job is not answering, so the job is not stopped yet."
            )
        words = _words(completed.stderr, "qdel")
        if _unreached(completed) or not words:
            raise QueueUnreachable(detail)
        raise CancelRefused(detail, f"The cluster will not stop the job: {words}.")

    def accounting_command(self, job: Asked) -> Command:
        """Return the command that shows a past job: PBS keeps them for two weeks, if the site lets it."""
        return Command(("qstat", "-x", *_FULL, _checked(job.job_id)))

    def read_accounting(self, completed: Completed, job: Asked) -> JobEnd | None:
        """Return how it ended, None where the site keeps no ended jobs."""
        if not _unreached(completed) and (_NO_HISTORY in completed.stderr or completed.status == _UNKNOWN_ID):
            return None
        _check_listing(completed)
        for identifier, values in rows(completed.stdout, "Job Id: "):
            if identifier == job.job_id and values.get("job_state") == "F":
                return read_end(values)
        raise QueueUnreachable(_detail("qstat -x", completed))

    def discovery_commands(self, instance: str, mark: str) -> Sequence[Command]:
        """Return the commands for queues, nodes, the server, all present jobs and the reservations."""
        checked_mark(mark)
        return discovery_commands(instance)

    def read_discovery(self, completed: Sequence[Completed], instance: str, mark: str) -> Discovery:
        """Return what they showed."""
        return read_discovery(completed, instance)

    def why(self, status: JobStatus) -> str:
        """Return the sentence for the job's comment, or its state where that says more."""
        return pbs_words.why(status)


def _as_asked(job: JobStatus, ids: Mapping[JobId, Asked]) -> JobStatus:
    """Return a job that was asked for by its id under its first name: the owner may have changed that."""
    asked = ids.get(job.job_id)
    return replace(job, name=asked.name) if asked and asked.owner == job.user else job


def _all_gone(completed: Completed) -> bool:
    """Whether none of the ids is known, or all are of the past: a hidden job among them would make it 0."""
    return completed.status in (_UNKNOWN_ID, _FINISHED) and not _NO_SERVER.search(completed.stderr)


def _check_listing(completed: Completed) -> None:
    if _unreached(completed):
        raise QueueUnreachable(_detail("qstat", completed))
    if _NO_HISTORY in completed.stderr:
        raise EndedNotListed(_detail("qstat", completed))
    if completed.status != 0 or re.search(r"^qstat: ", completed.stderr, re.M):
        raise QueueUnreachable(_detail("qstat", completed))


def _unreached(completed: Completed) -> bool:
    return no_answer(completed) or completed.status in _UNREACHED or bool(_NO_SERVER.search(completed.stderr))


def _words(stderr: str, program: str) -> str:
    """Return what a program complained about, each sentence once, without its usage."""
    found = re.findall(rf"^{program}: (.*)$", stderr, re.M)
    return one_line("; ".join(dict.fromkeys(words.strip(" .") for words in found if words.strip(" ."))))


def _detail(program: str, completed: Completed) -> str:
    return f"{program}: exit status {completed.status}: {one_line(completed.stderr or completed.stdout)}"


def _checked(job_id: JobId | None) -> str:
    if job_id is None or not JOB_ID.fullmatch(job_id):
        raise ValueError(f"not a PBS job id: {job_id!r}")
    return job_id
