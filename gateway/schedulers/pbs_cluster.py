"""What PBS says of its cluster: queues, nodes, and the jobs that are there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from gateway.discovery import MOST_ROOMS, Discovery, Downtime, Room
from gateway.errors import QueueUnreachable
from gateway.model import Command, Completed, JobId, JobState, JobStatus
from gateway.schedulers import pbs_reservations
from gateway.schedulers.pbs_rows import number, read_job, rows, seconds
from gateway.schedulers.text import checked_instance, one_line

_SIZE = re.compile(r"(\d{1,18})([kmgtp]?)([bw]?)", re.ASCII | re.I)
_SCALE = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_WORD = 8
#: Words of a node's state (pbsnodes(8B)) in which it runs nothing new.
_AWAY = frozenset(
    {"down", "offline", "stale", "state-unknown", "unknown", "provisioning", "wait-provisioning", "sleep"}
)
_Row = tuple[str, Mapping[str, str]]


def discovery_commands(instance: str) -> Sequence[Command]:
    """Return the commands for queues, nodes, the server, the jobs that are not over, and the reservations."""
    checked_instance(instance)
    return (
        Command(("qstat", "-Q", "-f", "-F", "dsv")),
        Command(("pbsnodes", "-a", "-F", "dsv")),
        Command(("qstat", "-B", "-f", "-F", "dsv")),
        Command(("qstat", "-f", "-F", "dsv")),
        Command(("pbs_rstat", "-f")),
    )


def read_discovery(completed: Sequence[Completed], instance: str) -> Discovery:
    """Return what they showed. The reservations may be missing.

    Raises:
        QueueUnreachable: None of the others did.
    """
    faults: list[str] = []
    kinds = ("Queue: ", "Name=", "Server: ", "Job Id: ")
    parts = [_read(answer, kind, faults) for answer, kind in zip(completed, kinds, strict=False)]
    if all(part is None for part in parts):
        raise QueueUnreachable(f"PBS: {one_line('; '.join(faults))}")
    queues, nodes, server, present = parts
    jobs = None if present is None else [read_job(*row) for row in present]
    settings = server[0][1] if server else {}
    hidden = None if jobs is None or not server else not sees_all(completed[2], jobs)
    ours = checked_instance(instance)
    own = islice((queue for queue in queues or () if _takes_jobs(queue)), MOST_ROOMS)
    return Discovery(
        rooms=tuple(_room(queue, nodes, settings) for queue in own),
        downtimes=_downtimes(completed[len(kinds) :], queues or [], nodes or [], faults),
        positions={} if jobs is None or hidden else _positions(jobs, present or [], ours),
        ours=None if jobs is None else tuple(job for job in jobs if job.name.startswith(ours)),
        hidden=hidden,
        faults=tuple(faults),
    )


def sees_all(server: Completed, jobs: Collection[JobStatus]) -> bool:
    """Return whether the account that asked is shown other people's jobs.

    Args:
        server: What ``qstat -B -f -F dsv`` did: query_other_jobs is True, or only operators see others' jobs.
        jobs: The jobs that it is shown: an account that is not shown others' sees those of one owner.
    """
    if len({job.user for job in jobs}) > 1:
        return True
    try:
        shown = rows(server.stdout, "Server: ") if server.status == 0 else []
    except QueueUnreachable:
        return False
    return bool(shown) and all(values.get("query_other_jobs") == "True" for _, values in shown)


def _read(completed: Completed, kind: str, faults: list[str]) -> list[_Row] | None:
    if completed.status == 0:
        try:
            return rows(completed.stdout, kind)
        except QueueUnreachable as error:
            faults.append(str(error))
            return None
    faults.append(f"exit status {completed.status}: {one_line(completed.stderr)}")
    return None


def _downtimes(
    completed: Sequence[Completed], queues: Sequence[_Row], nodes: Sequence[_Row], faults: list[str]
) -> tuple[Downtime, ...]:
    """Return the reservations; a maintenance that takes no queue's nodes whole is in nobody's way."""
    open_queues = [queue for queue in queues if _takes_jobs(queue)]
    own = {name: {node[0] for node in nodes if _serves(node, name, has)} for name, has in open_queues}
    known = frozenset(name for name, _ in queues)
    found = []
    for each in pbs_reservations.read(completed, known, faults):
        if not each.maintenance:
            found.append(each.downtime(frozenset()))
        elif within := frozenset(name for name, theirs in own.items() if theirs and theirs <= each.nodes):
            found.append(each.downtime(frozenset() if len(within) == len(own) else within))
    return tuple(found)


def _takes_jobs(queue: _Row) -> bool:
    """Whether a queue is one to submit to: a reservation's is not everybody's."""
    return not re.fullmatch(r"[RSM]\d+", queue[0])


def _room(queue: _Row, nodes: Sequence[_Row] | None, server: Mapping[str, str]) -> Room:
    name, values = queue
    limit = seconds(values.get("resources_max.walltime") or server.get("resources_max.walltime"))
    usual = seconds(values.get("resources_default.walltime") or server.get("resources_default.walltime"))
    groups = values.get("acl_groups") if values.get("acl_group_enable") == "True" else None
    closed = [f"{key}=False" for key in ("enabled", "started") if values.get(key) == "False"]
    room = Room(
        name,
        default=server.get("default_queue") == name,
        max_walltime=limit // 60 if limit else None,
        default_walltime=usual // 60 if usual else None,
        waiting=_waiting(values),
        groups=None if groups is None else frozenset(group.partition("@")[0] for group in groups.split(",")),
        closed=", ".join(closed),
    )
    own = [node for node in nodes or () if _serves(node, name, values)]
    return _furnished(room, own, values) if own else room


def _serves(node: _Row, queue: str, values: Mapping[str, str]) -> bool:
    """Whether a node runs jobs of a queue: one of its own, or any where the queue has none of its own."""
    bound = node[1].get("queue")
    return bound == queue if bound or values.get("hasnodes") == "True" else True


def _furnished(room: Room, nodes: Sequence[_Row], values: Mapping[str, str]) -> Room:
    """Return the partition with the sizes of its nodes, of which there are some, and what is free of them."""
    up = [has for _, has in nodes if not _AWAY.intersection(has.get("state", "").split(","))]
    every = [has for _, has in nodes]
    cores = max(_amount(has, "available", "ncpus") for has in every)
    memory = max(_memory(has.get("resources_available.mem")) or 0 for has in every)
    gpus = max(_amount(has, "available", "ngpus") for has in every)
    cap, memory_cap = number(values.get("resources_max.ncpus")), _memory(values.get("resources_max.mem"))
    return replace(
        room,
        max_cores=min(cores, cap or cores) or None,
        max_memory=min(memory, memory_cap or memory) or None,
        gpus={"": gpus} if gpus else {},
        nodes=len(every),
        free_nodes=sum(not _amount(has, "assigned", "ncpus") for has in up),
        cores=sum(_amount(has, "available", "ncpus") for has in every),
        free_cores=sum(_free(has, "ncpus") for has in up),
        free_gpus={"": sum(_free(has, "ngpus") for has in up)} if gpus else None,
    )


def _amount(has: Mapping[str, str], kind: str, resource: str) -> int:
    return max(0, number(has.get(f"resources_{kind}.{resource}")) or 0)


def _free(has: Mapping[str, str], resource: str) -> int:
    return max(0, _amount(has, "available", resource) - _amount(has, "assigned", resource))


def _memory(text: str | None) -> int | None:
    """Return a size such as 8388608kb in megabytes."""
    found = _SIZE.fullmatch(text or "")
    if not found:
        return None
    size = int(found[1]) << _SCALE[found[2].lower()]
    return (size * _WORD if found[3].lower() == "w" else size) >> 20


def _waiting(values: Mapping[str, str]) -> int | None:
    found = re.search(r"\bQueued:(\d{1,9})", values.get("state_count", ""), re.ASCII)
    return int(found[1]) if found else None


def _positions(jobs: Sequence[JobStatus], present: Sequence[_Row], ours: str) -> Mapping[JobId, int]:
    """Return the places of our waiting jobs: PBS lists jobs in the order in which they came."""
    counted: dict[str | None, int] = defaultdict(int)
    found = {}
    for job, (_, values) in zip(jobs, present, strict=True):
        if job.state is JobState.QUEUED:
            queue = values.get("queue")
            counted[queue] += 1
            if job.name.startswith(ours):
                found[job.job_id] = counted[queue]
    return found
