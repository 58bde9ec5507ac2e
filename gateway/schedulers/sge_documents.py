"""What Grid Engine's qstat and qhost print as XML, as far as it is to be trusted. Measured with 8.1.9."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from gateway.errors import QueueUnreachable
from gateway.model import Completed, JobId, JobState, JobStatus
from gateway.schedulers.text import one_line

#: Characters that no XML document may have: one job with such a name makes all of it unreadable.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
#: A tag that no XML document may have: so a qmaster that was started again calls the tasks it has read back.
_ODD_TAG = re.compile(r"<(/?)JATASK:[^<>]*>")
#: Parts of a job that nobody asks for; half of the text.
_BALLAST = (
    "JB_hard_queue_list",
    "JB_env_list",
    "JB_mail_list",
    "JB_binding",
    "JB_shell_list",
    "JB_stdout_path_list",
    "JB_ja_structure",
)
_COMPLAINT = re.compile(
    r"^(?:error|critical|denied)\b|commlib|unable to (?:send|contact|receive)", re.M | re.I
)
_LETTERS = re.compile(r"[dhrtRsSTwqEzN]+", re.ASCII)
_JOB_ID = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
#: What stands before an error's own words: when and for which process.
_STAMP = re.compile(r"^\d\d/\d\d/\d{4} [\d:]+ \[\d+:\d+\]: (?:error: )?", re.ASCII)
_EPOCH = re.compile(r"[1-9][0-9]{8,10}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,9}\.[0-9]+", re.ASCII)
_NOTHING = ET.Element("nothing")
#: Characters; 10,000 jobs are a tenth of that.
_LONGEST_DOCUMENT = 64 * 2**20
#: Characters of what a job has published, which its owner may make as long as Grid Engine takes it.
_LONGEST_CONTEXT = 4096
#: The variable of a job's context in which it publishes where its application listens.
CONTEXT = "gw"


@dataclass(frozen=True, slots=True)
class Row:
    """A job in ``qstat -u``: its state's letters and its node, and what it asked for (with ``-r``)."""

    job_id: str
    name: str
    user: str
    letters: str
    host: str
    queues: frozenset[str] = frozenset()
    requests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Details:
    """A job in ``qstat -j``: what it published, why it waits, what went wrong, when it started, its h_rt."""

    job_id: str
    name: str
    user: str
    comment: str = ""
    error: str = ""
    started: int = 0
    walltime: float = 0.0
    reasons: list[str] = field(default_factory=list)


#: Of a job that only ``qstat -u`` has, which says the rest.
_NO_DETAILS = Details("", "", "")


def answered(completed: Completed, program: str) -> str:
    """Return what a program printed, if it answered.

    Raises:
        QueueUnreachable: It did not. An exit status of 0 says nothing where it complains (qstat -j -xml).
    """
    if completed.status != 0 or _COMPLAINT.search(completed.stderr):
        words = one_line(completed.stderr or completed.stdout)
        raise QueueUnreachable(f"{program}: exit status {completed.status}: {words}")
    return completed.stdout


def document(completed: Completed, program: str, *roots: str) -> ET.Element:
    """Return the XML that a program printed, if its root is one of those given.

    Raises:
        QueueUnreachable: It did not answer, it is no whole document, or it is about something else, as
            ``comunication_error`` (with one m).
    """
    if len(completed.stdout) > _LONGEST_DOCUMENT:
        raise QueueUnreachable(f"{program}: {len(completed.stdout)} characters are too many to read")
    text = _ODD_TAG.sub(r"<\1ulong_sublist>", _CONTROL.sub("", answered(completed, program)))
    for tag in _BALLAST:
        head, *rest = text.split(f"<{tag}>")
        text = head + "".join(part.partition(f"</{tag}>")[2] for part in rest)
    try:
        if "<!" in text:  # no entities: Grid Engine writes none, and %lt; for <
            raise ET.ParseError("a declaration")
        root = ET.fromstring(text)  # noqa: S314  without a declaration there is nothing to expand
    except ET.ParseError as error:
        raise QueueUnreachable(f"{program}: not readable: {error}: {one_line(text[:400])}") from None
    if root.tag not in roots:
        raise QueueUnreachable(f"{program}: {root.tag}: {one_line(' '.join(root.itertext()))}")
    return root


def text_of(element: ET.Element, tag: str) -> str:
    """Return the text of a child, "" if there is none; Grid Engine writes %lt; for <."""
    return _text(element.find(tag))


def _text(element: ET.Element | None) -> str:
    text = "" if element is None else element.text or ""
    return text.replace("%lt;", "<").strip()


def rows(completed: Completed) -> Iterator[Row]:
    """Yield the jobs of ``qstat -u ... -xml``, in its order: those that wait by their priority.

    A user's or a site's ``sge_qstat`` may put them below their queues (-f): that shape is read too.
    """
    root = document(completed, "qstat", "job_info")
    above = {job: queue for queue in root.iter("Queue-List") for job in queue.iter("job_list")}
    for job in root.iter("job_list"):
        queue = text_of(job, "queue_name") or (text_of(above[job], "name") if job in above else "")
        asked = frozenset(
            text for found in job.iter("hard_req_queue") if (text := (found.text or "").strip())
        )
        yield Row(
            _checked(text_of(job, "JB_job_number")),
            text_of(job, "JB_name"),
            text_of(job, "JB_owner"),
            text_of(job, "state"),
            queue.partition("@")[2],
            asked,
            {found.get("name", ""): (found.text or "").strip() for found in job.iterfind("hard_request")},
        )


def details(completed: Completed) -> Mapping[str, Details]:
    """Return the jobs of ``qstat -j ... -xml`` by their ids."""
    root = document(completed, "qstat -j", "detailed_job_info", "unknown_jobs")
    found: dict[str, Details] = {}
    for element in root.iterfind("djob_info/element"):
        job = _read_details(element)
        if job.job_id in found:
            raise QueueUnreachable(f"qstat -j: job {job.job_id} is there twice")
        found[job.job_id] = job
    for message in root.iterfind("messages/element/SME_message_list/element"):
        words = text_of(message, "MES_message")
        if "not contained in its hard queue list" in words:
            continue  # said of every queue that was not asked for
        for number in message.iter("ULNG_value"):
            if (job_or_none := found.get((number.text or "").strip())) is not None:
                job_or_none.reasons.append(words)
    return found


def _read_details(element: ET.Element) -> Details:
    parts = {child.tag: child for child in element}
    tasks, limits = parts.get("JB_ja_tasks", _NOTHING), parts.get("JB_hard_resource_list", _NOTHING)
    errors = [text for item in tasks.iterfind("*/JAT_message_list/*/QIM_message") if (text := _text(item))]
    started = next((_text(item) for item in tasks.iterfind("*/JAT_start_time")), "")
    walltime = next(
        (text_of(item, "CE_doubleval") for item in limits if item.findtext("CE_name") == "h_rt"), ""
    )
    return Details(
        _checked(_text(parts.get("JB_job_number"))),
        _text(parts.get("JB_job_name")),
        _text(parts.get("JB_owner")),
        _published(parts.get("JB_context", _NOTHING)),
        one_line(_STAMP.sub("", errors[-1])) if errors else "",
        int(started) if _EPOCH.fullmatch(started) else 0,
        float(walltime) if _SECONDS.fullmatch(walltime) else 0.0,
    )


def _published(context: ET.Element) -> str:
    said = [text_of(item, "VA_value") for item in context if item.findtext("VA_variable") == CONTEXT]
    return said[-1][-_LONGEST_CONTEXT:] if said else ""


def state(letters: str) -> JobState:
    """Return what a state's letters mean, of which several may be there: an error counts first (qstat(1))."""
    if not _LETTERS.fullmatch(letters):
        return JobState.UNKNOWN
    given = frozenset(letters)
    waits = given & {"q", "w"}
    for meaning, found in (
        (JobState.CANNOT_START, "E" in given),
        (JobState.STOPPING, "d" in given),
        (JobState.SUSPENDED, given & {"s", "S", "T"} and not waits),
        (JobState.HELD, "h" in given and waits),
        (JobState.QUEUED, waits or "t" in given),
        (JobState.RUNNING, "r" in given),
        (JobState.COMPLETED, "z" in given),
    ):
        if found:
            return meaning
    return JobState.UNKNOWN


def status(row: Row, more: Details | None) -> JobStatus:
    """Return a job from both listings; ``more`` is None where the first did not have it yet."""
    meaning = state(row.letters)
    more = more or _NO_DETAILS
    ends = None
    if meaning.on_node and more.started and more.walltime:
        ends = datetime.fromtimestamp(more.started, UTC) + timedelta(seconds=more.walltime)
    waits = meaning in (JobState.QUEUED, JobState.HELD)
    reason = more.error if meaning is JobState.CANNOT_START else "; ".join(more.reasons) if waits else ""
    return JobStatus(
        JobId(row.job_id),
        row.name,
        row.user,
        meaning,
        host=(row.host or None) if meaning.on_node or meaning is JobState.STOPPING else None,
        comment=more.comment,
        restarts=1 if "R" in row.letters else 0,
        reason=one_line(reason),
        native=row.letters,
        ends=ends,
    )


def not_listed(job: Details) -> JobStatus:
    """Return a job that only the first listing has: it ended in between, or it is another account's."""
    return JobStatus(JobId(job.job_id), job.name, job.user, JobState.UNKNOWN, comment=job.comment)


def _checked(job_id: str) -> str:
    if not _JOB_ID.fullmatch(job_id):
        raise QueueUnreachable(f"qstat: {one_line(job_id)!r} is no job id")
    return job_id
