"""Grid Engine's queues as partitions: qconf -sq, qhost -q -F, and the jobs that wait."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.discovery import Room
from gateway.model import Completed, JobId, JobState
from gateway.schedulers.sge_documents import Row, answered, document, state

_GPU = re.compile(r"(?:n?gpus?|gpu_\w+|\w+_gpus?)", re.ASCII)
_UNITS = {"": 1, "K": 2**10, "k": 1000, "M": 2**20, "m": 1000**2, "G": 2**30, "g": 1000**3, "T": 2**40}
#: Letters of a queue instance's state with which nothing starts there (qstat(1)).
_CLOSED = re.compile(r"[acdosuACDESN]")


@dataclass(frozen=True, slots=True)
class _Instance:
    """A queue on one node."""

    cores: int
    used: int
    closed: str
    memory: int | None
    gpus: Mapping[str, int]


def rooms(queues: Completed, hosts: Completed, waiting: Sequence[Row] | None) -> tuple[Room, ...]:
    """Return the batch queues, with what their nodes have and what is free there.

    Args:
        queues: ``qconf -sq *``.
        hosts: ``qhost -q -F -xml``.
        waiting: The jobs, None if nobody knows.
    """
    instances = _instances(document(hosts, "qhost", "qhost")) if hosts.status == 0 else {}
    return tuple(
        _room(queue, instances.get(queue["qname"], []), waiting)
        for queue in _queues(answered(queues, "qconf"))
        if "BATCH" in queue.get("qtype", "")
    )


def positions(jobs: Iterable[Row], prefix: str) -> Mapping[JobId, int]:
    """Return the places of our jobs among those that wait for a queue of theirs; qstat sorts by priority."""
    waiting = _waiting(jobs)
    return {
        JobId(job.job_id): 1 + sum(1 for before in waiting[:place] if _same(job.queues, before.queues))
        for place, job in enumerate(waiting)
        if job.name.startswith(prefix)
    }


def features(completed: Completed) -> tuple[str, ...]:
    """Return the complexes that a job may ask for by their name alone: BOOL and requestable (complex(5))."""
    lines = (line.split() for line in answered(completed, "qconf").splitlines() if not line.startswith("#"))
    return tuple(words[0] for words in lines if len(words) == 8 and words[2] == "BOOL" and words[4] != "NO")


def _queues(text: str) -> Iterator[dict[str, str]]:
    for block in re.split(r"^(?=qname\s)", text.replace("\\\n", " "), flags=re.M):
        pairs = (line.split(None, 1) for line in block.splitlines())
        fields = {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
        if "qname" in fields:
            yield fields


def _room(queue: Mapping[str, str], nodes: Sequence[_Instance], jobs: Sequence[Row] | None) -> Room:
    name = queue["qname"]
    open_nodes = [node for node in nodes if not node.closed]
    memory = [node.memory for node in nodes if node.memory is not None]
    free_gpus: dict[str, int] = {}
    for node in open_nodes:
        for kind, count in node.gpus.items():
            free_gpus[kind] = free_gpus.get(kind, 0) + count
    return Room(
        name,
        max_walltime=_minutes(queue.get("h_rt", "")),
        max_cores=max((node.cores for node in nodes), default=None),
        max_memory=max(memory, default=None),
        nodes=len(nodes) if nodes else None,
        free_nodes=sum(1 for node in open_nodes if not node.used) if nodes else None,
        cores=sum(node.cores for node in nodes) if nodes else None,
        free_cores=sum(max(0, node.cores - node.used) for node in open_nodes) if nodes else None,
        free_gpus=free_gpus or None,
        waiting=None if jobs is None else sum(1 for job in _waiting(jobs) if _same(job.queues, {name})),
        accounts=_words(queue.get("projects", "")),
        closed="" if open_nodes or not nodes else f"queue state {nodes[0].closed}",
    )


def _instances(root: ET.Element) -> Mapping[str, list[_Instance]]:
    found: dict[str, list[_Instance]] = {}
    for host in root.iter("host"):
        values = {value.get("name", ""): (value.text or "").strip() for value in host.iter("resourcevalue")}
        memory = _megabytes(values.get("mem_total", ""))
        gpus = {
            name: int(float(text))
            for name, text in values.items()
            if _GPU.fullmatch(name) and re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]+)?", text, re.ASCII)
        }
        for queue in host.iter("queue"):
            fields = {value.get("name", ""): (value.text or "").strip() for value in queue.iter("queuevalue")}
            slots, used, kept = (_count(fields.get(key, "")) for key in ("slots", "slots_used", "slots_resv"))
            closed = "".join(_CLOSED.findall(fields.get("state_string", "")))
            found.setdefault(queue.get("name", ""), []).append(
                _Instance(slots, used + kept, closed, memory, gpus)
            )
    return found


def _waiting(jobs: Iterable[Row]) -> list[Row]:
    return [job for job in jobs if state(job.letters) is JobState.QUEUED and "q" in job.letters]


def _same(one: Iterable[str], other: Iterable[str]) -> bool:
    """Whether two jobs may want the same queue: who names none takes any; ``q@node`` is of ``q``."""
    first, second = ({name.partition("@")[0] for name in names} for names in (one, other))
    return not first or not second or bool(first & second)


def _minutes(text: str) -> int | None:
    """Return a time limit, ``H:M:S`` or seconds, without what single nodes have; None for INFINITY."""
    parts = text.partition(",")[0].strip().split(":")
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"[0-9]{1,6}", part, re.ASCII) for part in parts):
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return seconds // 60


def _megabytes(text: str) -> int | None:
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]+)?)([KkMmGgT]?)", text, re.ASCII)
    return int(float(found[1]) * _UNITS[found[2]] / 2**20) if found else None


def _count(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) else 0


def _words(text: str) -> frozenset[str] | None:
    words = frozenset(re.split(r"[\s,]+", text.partition(",[")[0])) - {""}
    return None if not words or words == {"NONE"} else words
