"""Grid Engine's queues as partitions: qconf -sq, qhost -q -F, and the jobs that wait."""

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from gateway.discovery import MOST_ROOMS, Room
from gateway.model import Completed, JobId, JobState
from gateway.schedulers.sge_documents import Row, answered, document, state
from gateway.schedulers.sge_qconf import listed, records

_GPU = re.compile(r"(?:n?gpus?|gpu_\w+|\w+_gpus?)", re.ASCII)
#: Seconds; who allows more limits nothing.
_LONGEST_WALLTIME = 10 * 365 * 24 * 3600
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
    all_gpus: Mapping[str, int]


#: By kind and node, how many GPUs jobs hold.
Held = Mapping[str, Mapping[str, int]]


def rooms(
    queues: Completed, hosts: Completed, jobs: Sequence[Row] | None, held: Held | None
) -> tuple[Room, ...]:
    """Return the batch queues, with what their nodes have and what is free there.

    Args:
        queues: ``qconf -sq *``.
        hosts: ``qhost -q -F -xml``.
        jobs: All that are there, None if nobody knows.
        held: What `held_gpus` returned, None if nobody knows: then nor does anybody what nodes have.
    """
    instances = _instances(document(hosts, "qhost", "qhost"), held or {}) if hosts.status == 0 else {}
    waiting = (
        None if jobs is None else Counter(name for job in _waiting(jobs) for name in _wanted(job) or [""])
    )
    found = (_room(queue, instances.get(queue["qname"], []), waiting) for queue in _batch_queues(queues))
    return tuple(islice(found, MOST_ROOMS))


def calendars(queues: Completed) -> Mapping[str, str]:
    """Return what ``qconf -sq *`` says of the batch queues' calendars, by queue."""
    return {queue["qname"]: queue.get("calendar", "NONE") for queue in _batch_queues(queues)}


def positions(jobs: Iterable[Row], prefix: str) -> Mapping[JobId, int]:
    """Return the places of our jobs, in the queue where they are first; qstat sorts by priority.

    A job that names no queue is in every queue's line, and every job that waits is in its line.
    """
    found: dict[JobId, int] = {}
    ahead: Counter[str] = Counter()
    anywhere = 0
    for place, job in enumerate(_waiting(jobs), 1):
        queues = _wanted(job)
        ahead.update(queues)
        anywhere += not queues
        if job.name.startswith(prefix):
            found[JobId(job.job_id)] = anywhere + min(ahead[name] for name in queues) if queues else place
    return found


def features(completed: Completed) -> tuple[str, ...]:
    """Return the complexes that a job may ask for by their name alone: BOOL and requestable (complex(5))."""
    return tuple(words[0] for words in _complexes(completed) if words[2] == "BOOL" and words[4] != "NO")


def _complexes(completed: Completed) -> Iterator[list[str]]:
    """Yield the lines of ``qconf -sc``: name, shortcut, type, relation, requestable, consumable, ..."""
    lines = (line.split() for line in answered(completed, "qconf").splitlines() if not line.startswith("#"))
    return (words for words in lines if len(words) == 8)


def held_gpus(completed: Completed, jobs: Iterable[Row]) -> Held:
    """Return how many GPUs jobs hold, of the kinds that are counted for each job (JOB).

    qhost shows what is left of them; no one command shows what all nodes have.

    Args:
        completed: ``qconf -sc``.
        jobs: All that are there, with what they asked for.
    """
    kinds = {words[0] for words in _complexes(completed) if words[5] == "JOB" and _GPU.fullmatch(words[0])}
    held: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    for job in jobs:
        for kind in kinds & job.requests.keys() if job.host else ():
            held[kind][job.host] += _count(job.requests[kind])
    return held


def _batch_queues(queues: Completed) -> Iterator[Mapping[str, str]]:
    found = records(answered(queues, "qconf"), "qname")
    return (queue for queue in found if "BATCH" in queue.get("qtype", ""))


def _room(queue: Mapping[str, str], nodes: Sequence[_Instance], waiting: Mapping[str, int] | None) -> Room:
    name = queue["qname"]
    open_nodes = [node for node in nodes if not node.closed]
    memory = [node.memory for node in nodes if node.memory is not None]
    gpus: dict[str, int] = {}
    for node in nodes:
        gpus |= {kind: max(count, gpus.get(kind, 0)) for kind, count in node.all_gpus.items()}
    free_gpus: Counter[str] = Counter()
    for node in open_nodes:
        free_gpus.update(node.gpus)
    return Room(
        name,
        max_walltime=_minutes(queue.get("h_rt", "")),
        max_cores=max((node.cores for node in nodes), default=None),
        max_memory=max(memory, default=None),
        gpus=gpus,
        nodes=len(nodes) if nodes else None,
        free_nodes=sum(1 for node in open_nodes if not node.used) if nodes else None,
        cores=sum(node.cores for node in nodes) if nodes else None,
        free_cores=sum(max(0, node.cores - node.used) for node in open_nodes) if nodes else None,
        free_gpus=dict(free_gpus) or None,
        waiting=None if waiting is None else waiting.get(name, 0) + waiting.get("", 0),
        accounts=frozenset(listed(queue.get("projects", "").partition(",[")[0])) or None,
        closed="" if open_nodes or not nodes else f"queue state {nodes[0].closed}",
    )


def _instances(root: ET.Element, held: Held) -> Mapping[str, list[_Instance]]:
    found: dict[str, list[_Instance]] = {}
    for host in root.iter("host"):
        values = {value.get("name", ""): (value.text or "").strip() for value in host.iter("resourcevalue")}
        memory = _megabytes(values.get("mem_total", ""))
        gpus = {
            name: int(float(text))
            for name, text in values.items()
            if _GPU.fullmatch(name) and re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]+)?", text, re.ASCII)
        }
        name = host.get("name", "")
        all_gpus = {kind: count + held[kind].get(name, 0) for kind, count in gpus.items() if kind in held}
        for queue in host.iter("queue"):
            fields = {value.get("name", ""): (value.text or "").strip() for value in queue.iter("queuevalue")}
            slots, used, kept = (_count(fields.get(key, "")) for key in ("slots", "slots_used", "slots_resv"))
            closed = "".join(_CLOSED.findall(fields.get("state_string", "")))
            found.setdefault(queue.get("name", ""), []).append(
                _Instance(slots, used + kept, closed, memory, gpus, all_gpus)
            )
    return found


def _waiting(jobs: Iterable[Row]) -> list[Row]:
    return [job for job in jobs if state(job.letters) is JobState.QUEUED and "q" in job.letters]


def _wanted(job: Row) -> frozenset[str]:
    """Return the queues that a job names: who names none takes any; ``q@node`` is of ``q``."""
    return frozenset(name.partition("@")[0] for name in job.queues)


def _minutes(text: str) -> int | None:
    """Return a time limit, ``H:M:S`` or seconds, without what single nodes have; None for INFINITY."""
    parts = text.partition(",")[0].strip().split(":")
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"[0-9]{1,9}", part, re.ASCII) for part in parts):
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return seconds // 60 if seconds <= _LONGEST_WALLTIME else None


def _megabytes(text: str) -> int | None:
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]+)?)([KkMmGgT]?)", text, re.ASCII)
    return int(float(found[1]) * _UNITS[found[2]] / 2**20) if found else None


def _count(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) else 0
