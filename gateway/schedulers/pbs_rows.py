"""What PBS's ``-F dsv`` prints: one thing in a line, and a job among them. Measured with OpenPBS 23.06.

Values have every delimiter after a backslash, and no line break. A backslash is not always doubled
(``escape_delimiter`` in OpenPBS's client library), so what stands after one is never a delimiter: nobody's
value can begin a field. JSON is not for reading: a backslash in one job's environment spoils all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from gateway.errors import QueueUnreachable
from gateway.model import JobEnd, JobId, JobState, JobStatus
from gateway.schedulers.text import one_line

#: qstat(1B), JOB STATES; what is with a job in state F is in its substate and Exit_status.
STATES = {
    "Q": JobState.QUEUED,
    "T": JobState.QUEUED,
    "W": JobState.QUEUED,
    "H": JobState.HELD,
    "R": JobState.RUNNING,
    "S": JobState.SUSPENDED,
    "U": JobState.SUSPENDED,
    "E": JobState.STOPPING,
    "B": JobState.UNKNOWN,
    "M": JobState.UNKNOWN,
    "X": JobState.UNKNOWN,
}
#: Substates of a finished job (job.h): TERMINATED, FINISHED, FAILED.
_SUBSTATES = {"91": JobState.CANCELLED, "92": JobState.COMPLETED, "93": JobState.FAILED}
#: Negative exit statuses (JOB_EXEC_… in job.h) that say more than the substate.
_STATUSES = {
    -29: JobState.WALLTIME,
    -27: JobState.OUT_OF_MEMORY,
    -26: JobState.OUT_OF_MEMORY,
    -20: JobState.NODE_FAILED,
    -4: JobState.NODE_FAILED,
}
_SIGNALS = range(257, 257 + 64)

JOB_ID = re.compile(r"[0-9]{1,12}\.[A-Za-z0-9][A-Za-z0-9.-]{0,252}", re.ASCII)
_PUBLISHED = re.compile(
    r"(gw-[a-z2-7]{6}-[a-z2-7]{10})\.([0-9a-f]{16})\.([0-9]{1,6})\.([0-9]{1,5})\.([A-Za-z0-9][A-Za-z0-9.-]{0,150})",
    re.ASCII,
)
#: Stand for two backslashes, and for a delimiter after one, in a line; no C program prints them.
_PAIR, _BAR = "\0\0", "\0\1"
_TIME = re.compile(r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) {1,2}(\d{1,2}) (\d\d):(\d\d):(\d\d) ([12]\d{3})", re.ASCII)
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()  # noqa: SIM905
_BY = re.compile(r" and terminated by ([^@\s]+)@")
_LONGEST_WALLTIME = 10 * 365 * 24 * 3600


def rows(text: str, kind: str) -> list[tuple[str, Mapping[str, str]]]:
    """Return what ``qstat -f -F dsv`` or ``pbsnodes -F dsv`` printed: names or ids, and their attributes.

    Args:
        text: Standard output.
        kind: What each line begins with: ``Job Id: ``, ``Queue: ``, ``Server: ``, ``Name=``.

    Raises:
        QueueUnreachable: The text is cut short, or something else.
    """
    if text and not text.endswith("\n"):
        raise QueueUnreachable(f"PBS: the answer ends in the middle of a line: {one_line(text[-200:])}")
    found: list[tuple[str, Mapping[str, str]]] = []
    for line in text.split("\n")[:-1]:
        head, bar, _ = line.partition("|")
        if not head.startswith(kind) or not bar:
            raise QueueUnreachable(f"PBS: a line that cannot be read: {one_line(line)}")
        found.append((head.removeprefix(kind), _Line(line)))
    return found


class _Line(Mapping[str, str]):
    """The attributes of a line, of two of a name the first. Of sixty a dozen is wanted: each is looked for.

    A delimiter is one after an even number of backslashes: qstat puts one before each delimiter in a value
    and doubles those at a value's end (escape_delimiter()).
    """

    __slots__ = ("_line",)

    def __init__(self, line: str) -> None:
        plain = line.replace("\\\\", _PAIR).replace("\\|", _BAR) if "\\|" in line else line
        self._line = f"{plain}|"

    def __getitem__(self, key: str) -> str:
        start = self._line.find(f"|{key}=") + 1
        if not start:
            raise KeyError(key)
        value = self._line[start + len(key) + 1 : self._line.index("|", start)]
        return value.replace(_BAR, "\\|").replace(_PAIR, "\\\\") if "\0" in value else value

    def get(self, key: str, default: str | None = None) -> str | None:  # type: ignore[override]
        """Return an attribute; `Mapping` would raise and catch an error for each that is missing."""
        return self[key] if f"|{key}=" in self._line else default

    def __iter__(self) -> Iterator[str]:
        cells = self._line.split("|")[1:]
        return iter(dict.fromkeys(cell.partition("=")[0] for cell in cells if "=" in cell))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def read_job(identifier: str, values: Mapping[str, str], *, settled: bool = False) -> JobStatus:
    """Return a job from its row; of a settled one not when it ends, which is known.

    Raises:
        QueueUnreachable: It has no name, owner or state, as no job.
    """
    letter, name, owner = (values.get(key) for key in ("job_state", "Job_Name", "Job_Owner"))
    if not (letter and name and owner):
        raise QueueUnreachable(f"PBS: job {one_line(identifier)} without a name, an owner or a state")
    state, comment = _state(values), _plain(values.get("comment", ""))
    name, token = _published(name)
    waits = state in (JobState.QUEUED, JobState.HELD, JobState.CANNOT_START)
    starts = values.get("Execution_Time") if letter == "W" else values.get("estimated.start_time")
    return JobStatus(
        JobId(identifier),
        name,
        owner.partition("@")[0],
        state,
        host=_host(values.get("exec_host", "")) if state.on_node or letter == "E" else None,
        comment=token,
        restarts=_restarts(values.get("run_count"), ran=letter not in "QTWH"),
        reason=one_line(comment) if waits or state.ended else "",
        native=f"{letter} {values.get('substate', '')}".strip(),
        starts=time(starts) if state is JobState.QUEUED else None,
        ends=_end(values) if state is JobState.RUNNING and not settled else None,
    )


def read_end(values: Mapping[str, str]) -> JobEnd:
    """Return how a finished job ended. The exit status is good for that in state F alone."""
    status = number(values.get("Exit_status"))
    who = _BY.search(values.get("comment", ""))
    words = [f"{key}={values[key]}" for key in ("job_state", "substate", "Exit_status") if key in values]
    return JobEnd(
        _state(values),
        exit_status=status if status is not None and 0 <= status <= 255 else None,
        signal=status - 256 if status in _SIGNALS and status is not None else None,
        by=one_line(who[1]) if who else "",
        native=one_line(" ".join([*words, _plain(values.get("comment", ""))])),
    )


def _state(values: Mapping[str, str]) -> JobState:
    letter, comment = values["job_state"], values.get("comment", "")
    if letter == "F":
        return _ended(values)
    state = STATES.get(letter, JobState.UNKNOWN)
    never = comment.startswith("Can Never Run") or "too many failed attempts" in comment
    return JobState.CANNOT_START if never and state in (JobState.QUEUED, JobState.HELD) else state


def _ended(values: Mapping[str, str]) -> JobState:
    """Return how a job in state F ended: one that was finished without an exit status never ran."""
    status = number(values.get("Exit_status"))
    state = _SUBSTATES.get(values.get("substate", ""), JobState.UNKNOWN)
    if state is JobState.CANCELLED:
        return state
    if status in _STATUSES:
        return _STATUSES[status]
    if state is JobState.COMPLETED and status != 0:
        return JobState.FAILED
    return state


def _published(name: str) -> tuple[str, str]:
    """Return the name that the job was given, and the endpoint that its job appended."""
    found = _PUBLISHED.fullmatch(name)
    if not found:
        return name, ""
    own, run, restarts, port, host = found.groups()
    return own, f"gw1:{run}:{restarts}:{host}:{port}"


def _host(exec_host: str) -> str | None:
    """Return the first node of ``pbsn1/1*2+pbsn2/0*2``: there the script runs."""
    return exec_host.partition("+")[0].partition("/")[0] or None


def _restarts(run_count: str | None, *, ran: bool) -> int:
    """Return how often the job was put back, from how often it was started (now too, if it ``ran``)."""
    return max(0, (number(run_count) or 0) - (1 if ran else 0))


def _end(values: Mapping[str, str]) -> datetime | None:
    began, limit = time(values.get("stime")), seconds(values.get("Resource_List.walltime"))
    if began is None or limit is None:
        return None
    return began + timedelta(seconds=limit)


def time(text: str | None) -> datetime | None:
    """Return a time as ctime(3) prints it in UTC, which the clients do with TZ=UTC; None if it is none."""
    found = _TIME.fullmatch(text) if text else None
    if not found or found[1] not in _MONTHS:
        return None
    day, hour, minute, second, year = (int(part) for part in found.groups()[1:])
    try:
        return datetime(year, _MONTHS.index(found[1]) + 1, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def seconds(text: str | None) -> int | None:
    """Return a duration ``[[HH:]MM:]SS`` in seconds; None if it is none, or more than ten years."""
    if not text or not re.fullmatch(r"\d{1,9}(?::\d{1,9}){0,2}", text, re.ASCII):
        return None
    total = 0
    for part in text.split(":"):
        total = total * 60 + int(part)
    return total if total <= _LONGEST_WALLTIME else None


def number(text: str | None) -> int | None:
    """Return a whole number; None if it is none."""
    return int(text) if text and re.fullmatch(r"-?\d{1,9}", text, re.ASCII) else None


def _plain(value: str) -> str:
    return re.sub(r"\\([\\|])", r"\1", value)
