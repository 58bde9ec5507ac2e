"""Grid Engine, by its own commands: qsub, qstat, qdel, qacct, qconf, qhost. Measured with 8.1.9 (Debian 12).

What is said of a job needs two listings: ``qstat -j`` has what it published, why it waits and when it
started, ``qstat -u`` its state and its node. The second one decides who is there; of settled jobs it says all
that is wanted.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, islice, repeat
from typing import ClassVar, TypeVar

from gateway.discovery import Discovery, Downtime
from gateway.errors import CancelRefused, QueueUnreachable, SubmitOutcomeUnknown, SubmitRefused
from gateway.model import Asked, Command, Completed, JobEnd, JobId, JobState, JobStatus, Listing
from gateway.schedulers import sge_closings, sge_discovery, sge_projects, sge_why
from gateway.schedulers.sge_documents import Details, details, not_listed, rows, status
from gateway.schedulers.text import (
    CHOSEN,
    FORM,
    checked_instance,
    checked_mark,
    checked_names,
    no_answer,
    one_line,
)

_T = TypeVar("_T")

_JOB_ID = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
#: Names, and owners, that are asked for one by one; where there are more, all are.
_ONE_BY_ONE = 500

# Here the request never left this side.
_NOT_SENT = re.compile(r"Connection refused|can't (?:resolve|connect)|unresolvable|No route to host", re.I)
# After these the qmaster may have taken it.
_UNCLEAR = re.compile(
    r"unable to (?:send|receive|contact)|commlib|reading answer list|got \w+ error|time-?out", re.I
)
_ONE_LINE = ("SGE_SINGLE_LINE=1",)
#: Said of each queue that was not asked for.
_OTHER_QUEUE = "not contained in its hard queue list"

#: Options of a directive line that would take the gateway's own back, or make several jobs of one.
_NOT_FOR_SITES: Mapping[str, str] = {
    **dict.fromkeys(("-t", "-tc", "-hold_jid_ad"), "makes an array of the job, which the gateway cannot run"),
    "-N": "changes the job's name, by which the gateway finds it again",
    **dict.fromkeys(("-o", "-e", "-j", "-i"), "moves the job's log, which the gateway reads"),
    **dict.fromkeys(("-cwd", "-wd"), "moves the job away from its directory"),
    **dict.fromkeys(("-S", "-shell", "-b", "-C"), "changes how the job's script is read"),
    **dict.fromkeys(("-r", "-ckpt"), "decides on starting the job again: say requeue of the application"),
    **dict.fromkeys(("-ac", "-dc", "-sc"), "changes the context in which the job says where it listens"),
    **dict.fromkeys(("-clear", "-@"), "takes back the directives before it"),
    **dict.fromkeys(("-V", "-v"), "brings the gateway's environment into the job: use export in the header"),
    **dict.fromkeys(("-sync", "-now", "-terse", "-w", "-verify", "-help"), "changes what qsub answers"),
    "-notify": "sends the signals that the gateway uses for the end of the walltime",
    "-h": "holds the job, so that it never starts",
    "-a": "puts the job off, which starts as soon as it can",
}
#: What says the form's fields: options, and what -l asks for.
_CHOSEN: Mapping[str, tuple[str, ...]] = {
    "partition": ("-q", "-masterq"),
    "walltime": ("h_rt", "s_rt"),
    "cores": ("-pe",),
    "memory": ("mem_free", "mf"),
    "gpus": ("gpu",),
    "account": ("-P",),
    "reservation": ("-ar",),
    "exclusive": ("exclusive",),
}

# accounting(5), "failed".
_BEFORE_JOB = frozenset({*range(1, 17), 18, 19, 26, 27, 28, 29, 30, 31, 36, 38})
_RESCHEDULED, _LOST_ON_NODE, _BY_LIMIT, _BY_SIGNAL = 25, frozenset({20, 21, 22, 24}), 37, frozenset({17, 100})
_KILLED = 9
#: How much before a job's submission, as the gateway knows it, the qmaster's clock may have it.
_CLOCKS = timedelta(hours=1)


class Sge:
    """Grid Engine: see :class:`gateway.schedulers.Scheduler` for what each method promises."""

    name: ClassVar[str] = "sge"
    template: ClassVar[str] = "sge.sh.j2"
    programs: ClassVar[tuple[str, ...]] = (
        *("qsub", "qstat", "qdel", "qalter"),
        *("qacct", "qconf", "qhost", "qrstat"),
    )
    directive: ClassVar[str] = "#$"
    resources: ClassVar[Mapping[str, str]] = {
        "pe": "smp",
        "memory": "mem_free",
        "gpus": "gpu",
        "exclusive": "exclusive",
    }
    accounting_lag: ClassVar[float] = 20.0

    def header_faults(self, header: str, chosen: Collection[str] = FORM) -> tuple[str, ...]:
        """Return a sentence for each line with an option that sites may not set."""
        said = {word: CHOSEN for field in chosen for word in _CHOSEN.get(field, ())}
        refused = {**_NOT_FOR_SITES, **said}
        return tuple(
            f"line {number}: {word} {refused[word]}."
            for number, line in enumerate(header.split("\n"), 1)
            if (word := next(_forbidden(line, refused), None)) is not None
        )

    def submit_command(self) -> Command:
        """Return the qsub command. The script's own first directive, ``-clear``, forgets ~/.sge_request.

        On the command line ``-clear`` would forget the script's directives too. ``-w e`` is there as well: a
        job that could never run is taken otherwise, and waits for ever.
        """
        return Command(("qsub", "-terse", "./script"))

    def read_submit(self, completed: Completed) -> JobId:
        """Return the id, which is the last line."""
        last = completed.stdout.strip().rpartition("\n")[2].strip()
        if completed.status == 0 and _JOB_ID.fullmatch(last):
            return JobId(last)
        detail = f"qsub: exit status {completed.status}: {one_line(completed.stderr or completed.stdout)}"
        if no_answer(completed):
            raise SubmitOutcomeUnknown(detail)
        if _NOT_SENT.search(completed.stderr):
            raise QueueUnreachable(detail)
        words = _words_of(completed.stderr)
        if completed.status == 0 or not words or _UNCLEAR.search(completed.stderr):
            raise SubmitOutcomeUnknown(detail)
        raise SubmitRefused(detail, f"The cluster did not accept the job: {words}.")

    def dry_run_command(self) -> Command | None:
        """Return the qsub command that only verifies: whether the job could run if the cluster were empty."""
        return Command(("qsub", "-w", "v", "./script"))

    def read_dry_run(self, completed: Completed) -> None:
        """Raise what qsub says of a job that no queue can run; exit status 1 may be many other things."""
        if (
            completed.status == 1
            and not _UNCLEAR.search(completed.stderr)
            and (words := _words_of(completed.stderr))
        ):
            raise SubmitRefused(
                f"qsub -w v: {one_line(completed.stderr)}", f"The cluster did not accept the job: {words}."
            )

    def status_commands(
        self, asked: Collection[Asked], mark: str, *, ended: bool = True
    ) -> Sequence[Command]:
        """Return ``qstat -j``, if a job is not settled, and ``qstat -u``.

        XML needs no mark, and ended jobs are not asked for. Names and owners are asked for by patterns where
        there are many (a word has 128 KiB at most).
        """
        checked_names(asked)
        checked_mark(mark)
        owners = sorted({job.owner for job in asked})
        who = ",".join(owners) if len(owners) <= _ONE_BY_ONE else "*"
        states = Command(("qstat", "-u", who, "-s", "prs", "-xml"))
        if not (unsettled := [job for job in asked if not job.settled]):
            return (states,)
        names = checked_names(unsettled)
        if len(names) > _ONE_BY_ONE:
            names = sorted({f"{name.rpartition('-')[0]}-*" for name in names})
        return Command(("qstat", "-j", ",".join(names), "-xml")), states

    def read_status(self, completed: Sequence[Completed], asked: Collection[Asked], mark: str) -> Listing:
        """Return the jobs of the second listing, with what the first one says of them.

        A job that the first listing alone has is not gone: nothing is known of its state.
        """
        *first, second = completed
        names = {job.name for job in asked}
        return Listing(tuple(_joined(details(first[0]) if first else {}, second, names.__contains__)))

    def cancel_command(self, job_id: JobId) -> Command:
        """Return the qdel command, which kills at once; ``qdel '*'`` would end all that a user has."""
        return Command(("qdel", _checked(job_id)))

    def read_cancel(self, completed: Completed) -> None:
        """Return if the job ends or is not there; qdel says all that on standard output."""
        said = f"{completed.stdout}\n{completed.stderr}"
        detail = f"qdel: exit status {completed.status}: {one_line(said)}"
        if no_answer(completed) or _UNCLEAR.search(said) or _NOT_SENT.search(said):
            raise QueueUnreachable(detail)
        if re.search(r"has (?:deleted|registered)|already in deletion|does not exist", said):
            return
        if completed.status == 1 and re.search(r"privileges|denied", said):
            raise CancelRefused(
                detail, f"The cluster will not stop the job: {one_line(completed.stdout).rstrip('.')}."
            )
        raise QueueUnreachable(detail)

    def accounting_command(self, job: Asked) -> Command:
        """Return the qacct command. It reads a file on the login node: the qmaster is not asked."""
        return Command(("qacct", "-j", _checked(job.job_id)))

    def read_accounting(self, completed: Completed, job: Asked) -> JobEnd | None:
        """Return this job's last record: ids come again after a crash, and each requeue leaves a record."""
        if no_answer(completed):
            raise QueueUnreachable(f"qacct: exit status {completed.status}: {one_line(completed.stderr)}")
        if completed.status != 0:
            missing = re.search(r"not found|No such file", completed.stderr)
            if missing:
                return None
            raise QueueUnreachable(f"qacct: exit status {completed.status}: {one_line(completed.stderr)}")
        ends = [end for record in _records(completed.stdout) if _is_of(record, job) and (end := _end(record))]
        return ends[-1] if ends else None

    def discovery_commands(self, instance: str, mark: str) -> Sequence[Command]:
        """Return what shows queues, nodes, complexes, our jobs and the waiting ones; then who and when.

        Calendars are in the qmaster's time, which is taken to be the login node's.
        """
        ours = checked_instance(instance)
        checked_mark(mark)
        return (
            Command(("qconf", "-sq", "*"), _ONE_LINE),
            Command(("qhost", "-q", "-F", "-xml")),
            Command(("qconf", "-sc")),
            Command(("qstat", "-j", f"{ours}*", "-xml")),
            Command(("qstat", "-u", "*", "-s", "prs", "-r", "-xml")),
            Command(("qconf", "-sprj"), _ONE_LINE, each=("qconf", "-sprjl")),
            Command(("qconf", "-su"), _ONE_LINE, each=("qconf", "-sul")),
            Command(("qconf", "-scal"), _ONE_LINE, each=("qconf", "-scall")),
            Command(("qconf", "-ssconf")),
            Command(("qrstat", "-u", "*", "-xml")),
            Command(("/bin/date", "+%s")),
            Command(("/usr/bin/base64", "/etc/localtime")),
        )

    def read_discovery(self, completed: Sequence[Completed], instance: str, mark: str) -> Discovery:
        """Return what they showed; Grid Engine hides nobody's jobs. What is not there was not answered."""
        if all(one.status != 0 for one in completed):
            raise QueueUnreachable(
                f"qconf: exit status {completed[0].status}: {one_line(completed[0].stderr)}"
            )
        queues, hosts, complexes, first, second, *more = completed
        projects, lists, *when = islice(chain(more, repeat(Completed(-1))), 7)
        prefix = checked_instance(instance)
        ours = _try(lambda: tuple(_joined(details(first), second, lambda name: name.startswith(prefix))))
        jobs = _try(lambda: tuple(rows(second)))
        held = None if jobs is None else _try(lambda: sge_discovery.held_gpus(complexes, jobs))
        found = _try(lambda: sge_discovery.rooms(queues, hosts, jobs, held))
        if found is None and ours is None and jobs is None:
            raise QueueUnreachable("Grid Engine: nothing that was asked was answered")
        faults: list[str] = []
        return Discovery(
            rooms=found or (),
            accounts=_told(lambda: sge_projects.accounts(projects, lists), faults),
            downtimes=_told(lambda: _downtimes(queues, when, faults), faults) or (),
            positions=sge_discovery.positions(jobs or (), prefix),
            ours=ours,
            hidden=False if jobs is not None else None,
            features=_try(lambda: sge_discovery.features(complexes)) or (),
            faults=tuple(faults),
        )

    def why(self, status: JobStatus) -> str:
        """Return the sentence for the scheduler's messages, or for the error."""
        return sge_why.sentence(status)


def _joined(
    more: Mapping[str, Details], second: Completed, wanted: Callable[[str], bool]
) -> Iterator[JobStatus]:
    """Yield the jobs of both listings whose names are wanted."""
    seen: set[str] = set()
    for row in rows(second):
        if wanted(row.name) and row.job_id not in seen:  # each task of an array has a row
            seen.add(row.job_id)
            yield status(row, more.get(row.job_id))
    for job in more.values():
        if wanted(job.name) and job.job_id not in seen:
            yield not_listed(job)


def _try(read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except QueueUnreachable:
        return None


def _told(read: Callable[[], _T], faults: list[str]) -> _T | None:
    try:
        return read()
    except QueueUnreachable as error:
        faults.append(str(error))
        return None


def _downtimes(queues: Completed, when: Sequence[Completed], faults: list[str]) -> tuple[Downtime, ...]:
    """Return when queues are closed, and the advance reservations; ``faults`` gets what is not known."""
    shown, settings, reserved, *clock = when
    reservations = _told(lambda: sge_closings.reservations(reserved), faults) or ()
    known = sge_closings.calendars(shown, faults)
    of_queues = sge_discovery.calendars(queues)
    if not known or not of_queues:
        return reservations
    ahead = _told(lambda: sge_closings.looks_ahead(settings, reservations), faults) or False
    at = sge_closings.clock(*clock)
    return (*reservations, *sge_closings.closings(of_queues, known, at, ahead=ahead, faults=faults))


def _forbidden(line: str, refused: Collection[str]) -> Iterator[str]:
    """Yield what sites may not set in a line, which may stand anywhere: options, and names after -l.

    One with blanks before its ``#$`` is none to qsub (8.1.9), whatever it says; it is refused all the same.
    """
    text = line.strip()
    words = text.removeprefix("#$").split() if text.startswith("#$") else []
    for option, word in zip(["", *words], words, strict=False):
        if option == "-l":
            names = (part.strip("\"'").partition("=")[0] for part in word.split(","))
            yield from (name for name in names if name in refused)
        elif word in refused and word.startswith("-"):
            yield word


def _records(stdout: str) -> Iterator[Mapping[str, str]]:
    """Yield the records that qacct printed, each after a line of ``=``."""
    for block in re.split(r"^={10,}$", stdout, flags=re.M)[1:]:
        pairs = (line.partition(" ") for line in block.strip().splitlines())
        yield {key: value.strip() for key, _, value in pairs}


def _is_of(record: Mapping[str, str], job: Asked) -> bool:
    """Whether a record is this job's. The time is 1970 where it was requeued, and later in the next run."""
    if (record.get("jobname"), record.get("owner")) != (job.name, job.owner):
        return False
    try:
        submitted = datetime.strptime(record.get("qsub_time", ""), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    except ValueError:
        return True
    return job.submitted is None or submitted.timestamp() == 0 or submitted > job.submitted - _CLOCKS


def _end(record: Mapping[str, str]) -> JobEnd | None:
    """Return how a run ended, None if the job was to run again, or if that cannot be read."""
    failed, exit_status = (_number(record.get(key, "")) for key in ("failed", "exit_status"))
    if failed is None or exit_status is None or failed == _RESCHEDULED:
        return None
    native = one_line(f"failed {record['failed']}; exit_status {record['exit_status']}")
    signal = exit_status - 128 if failed in _BY_SIGNAL and exit_status > 128 else None
    if failed == 0:
        state = JobState.FAILED if exit_status else JobState.COMPLETED
    elif failed == _BY_LIMIT:
        state = _which_limit(record)
    elif failed in _LOST_ON_NODE:
        state = JobState.NODE_FAILED
    elif failed in _BY_SIGNAL and signal == _KILLED:
        state = JobState.CANCELLED
    else:
        state = JobState.FAILED if failed in _BEFORE_JOB | _BY_SIGNAL else JobState.UNKNOWN
    return JobEnd(state, exit_status if failed == 0 else None, signal, native=native)


def _which_limit(record: Mapping[str, str]) -> JobState:
    """Return which limit it was: Grid Engine has one number for h_rt, h_cpu and h_vmem."""
    asked = record.get("category", "")
    limit = re.search(r"\bh_rt=([0-9]{1,9})\b", asked)
    ran = _number(record.get("ru_wallclock", ""))
    early = limit is not None and ran is not None and ran + 60 < int(limit[1])
    return JobState.OUT_OF_MEMORY if early and "h_vmem=" in asked else JobState.WALLTIME


def _number(text: str) -> int | None:
    found = re.match(r"[0-9]{1,9}", text)
    return int(found[0]) if found else None


def _words_of(stderr: str) -> str:
    """Return what qsub complained about, each sentence once; empty if it is not qsub that speaks."""
    if not re.search(r"^(?:Unable to (?:run job|read script)|qsub: )", stderr, re.M):
        return ""
    lines = (re.sub(r"^(?:Unable to run job|qsub|error|warning): ", "", line) for line in stderr.splitlines())
    lines = (re.sub(r"^(?:error|warning): ", "", line).strip(" .") for line in lines)
    said = [line for line in lines if line and line != "Exiting" and _OTHER_QUEUE not in line]
    return one_line("; ".join(dict.fromkeys(said)))


def _checked(job_id: JobId | None) -> str:
    if job_id is None or not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"not a Grid Engine job id: {job_id!r}")
    return job_id
