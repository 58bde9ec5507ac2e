"""What Slurm says of its cluster: partitions, nodes, jobs, reservations, accounts. Measured with 22.05.

Only a job's name is other people's text: it is the last field of its row, between marks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

from gateway.discovery import MOST_ROOMS, Discovery, Downtime, Room
from gateway.errors import QueueUnreachable
from gateway.model import Command, Completed, JobId, JobState, JobStatus
from gateway.schedulers import slurm_nodes
from gateway.schedulers.text import checked_instance, checked_mark, no_answer, one_line

_NODES = ("PartitionName", "CPUsState", "Gres", "GresUsed", "Memory", "CPUs", "NodeAIOT", "Features")
_JOBS = ("JobID", "State", "Partition", "PriorityLong", "UserName", "Reason", "Name")
_PEOPLE = ("cluster", "user", "admin", "account", "partition", "qos")
_SECONDS = ("SLURM_TIME_FORMAT=%s",)
#: Waiting for these a job is not before others.
_NOT_IN_LINE = re.compile(r"JobHeld|Dependency|BeginTime|.*held|Partition(TimeLimit|NodeLimit|Config)", re.I)
_TIME = re.compile(r"(?:(\d{1,5})-)?(?:(\d{1,6}):)?(\d{1,8}):(\d{1,9})|(\d{1,8})", re.ASCII)
_GPU = re.compile(r"(?:^|,)gpu(?::([^:,()]+))?:(\d{1,9})(?![^,(])", re.ASCII)
_COUNTS = re.compile(r"\d{1,9}(?:/\d{1,9}){3}", re.ASCII)
_UINT32 = re.compile(r"\d{1,10}", re.ASCII)
#: Seconds since 1970 of at most 10 digits, which is until 2286.
_EPOCH = re.compile(r"\d{1,10}", re.ASCII)
#: Characters of a line; a longer one is of no scheduler and is left out.
_LONGEST_LINE = 65_536
#: The most reservations that are looked at.
_MOST_RESERVATIONS = 1_000


def commands(instance: str, mark: str) -> Sequence[Command]:
    """Return the commands, in the order in which they are read.

    -a shows partitions whose groups the asking account is not in. Hidden ones are left
    out: a site config may name them.
    """
    checked_instance(instance)
    checked_mark(mark)
    nodes = ",".join(f"{name}:|" for name in _NODES)
    jobs = ",".join(f"{name}:|" for name in _JOBS[:-2])
    return (
        Command(("scontrol", "-a", "-o", "show", "partition"), _SECONDS),
        Command(("sinfo", "-h", "-a", "-O", nodes), _SECONDS),
        Command(("squeue", "-h", "-a", "-O", f"{jobs},Reason:~{mark}~,Name:~{mark}."), _SECONDS),
        Command(("scontrol", "-o", "show", "reservation"), _SECONDS),
        Command(("sacctmgr", "-nP", "show", "user", "withassoc", f"format={','.join(_PEOPLE)}")),
        Command(("scontrol", "show", "config")),
    )


def read(
    completed: Sequence[Completed], instance: str, mark: str, state: Callable[[str, str], JobState]
) -> Discovery:
    """Return what the commands showed.

    Args:
        completed: What they did.
        instance: This gateway's six letters.
        mark: The one they were made with.
        state: Reads a job's native state and reason.

    Raises:
        QueueUnreachable: Not one of the first three answered.
    """
    partitions, nodes, jobs, reservations, accounts, config = map(_answer, completed)
    if partitions is None and nodes is None and jobs is None:
        raise QueueUnreachable(f"discovery: {one_line(completed[0].stderr) or 'no answer'}")
    rows = None if jobs is None else _jobs(jobs, mark)
    words = [_words(line) for line in _lines(partitions or "")]
    words = [line for line in words if line.get("PartitionName") and line.get("Hidden") != "YES"]
    words = words[:MOST_ROOMS]
    slices = list(_slices(nodes or ""))
    own: dict[str, list[_Slice]] = {}
    for part in slices:
        own.setdefault(part.partition, []).append(part)
    in_line = (
        None if rows is None else Counter(name for row in rows if row.in_line for name in row.partitions)
    )
    people = [row for line in _lines(accounts or "") if len(row := line.split("|")) == len(_PEOPLE)]
    associations = _associations(people, _setting(config or "", "ClusterName"))
    return Discovery(
        rooms=tuple(_room(line, own.get(line["PartitionName"], []), in_line) for line in words),
        accounts=_by_user(associations, 3),
        qos=_by_user(associations, 5),
        downtimes=tuple(_downtimes(reservations or "", words)),
        positions=_positions(rows or (), checked_instance(instance)),
        ours=None if rows is None else tuple(_ours(rows, checked_instance(instance), state)),
        hidden=_hidden(_setting(config or "", "PrivateData"), rows),
        operators=frozenset(row[1] for row in people if row[2] in ("Operator", "Administrator")),
        features=tuple(sorted({word for part in slices for word in part.features})),
        faults=(
            *_faults(completed),
            *(["jobs: not as asked for"] if jobs is not None and rows is None else []),
        ),
    )


def _answer(completed: Completed) -> str | None:
    """Return what a command printed, or None if that is no answer."""
    if (
        no_answer(completed)
        or completed.status != 0
        or re.search(r"^slurm_\w+ error", completed.stderr, re.M)
    ):
        return None
    return of_one_cluster(completed.stdout)


def of_one_cluster(text: str) -> str:
    """Return what a program printed without the name of the cluster, which comes first with SLURM_CLUSTERS.

    squeue and sinfo say it in spite of -h, in some versions.
    """
    return re.sub(r"\ACLUSTER: [^\n]{1,100}\n", "", text)


def _faults(completed: Sequence[Completed]) -> Iterator[str]:
    """Return what went wrong, but for the accounts: a site without slurmdbd has none."""
    for name, one in zip(("partitions", "nodes", "jobs", "reservations"), completed, strict=False):
        if _answer(one) is None:
            yield f"{name}: exit status {one.status}: {one_line(one.stderr)}"


def _lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if len(line) <= _LONGEST_LINE)


def _words(line: str) -> dict[str, str]:
    """Return what a line of scontrol's says, ``KEY=VALUE KEY=VALUE``."""
    pairs = (word.partition("=") for word in line.split())
    return {key: value for key, separator, value in pairs if separator}


def _setting(text: str, name: str) -> str | None:
    """Return a line's value of ``scontrol show config``, None if there is none."""
    pairs = (line.partition("=") for line in _lines(text) if line.startswith(name))
    return next((value.strip() for key, separator, value in pairs if separator and key.strip() == name), None)


# --- partitions and nodes -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Slice:
    """The nodes of one partition that are alike, as a row of sinfo has them."""

    partition: str
    idle_cores: int
    all_cores: int
    gpus: Mapping[str, int]
    gpus_used: Mapping[str, int]
    memory: int
    cores: int
    usable: int
    idle: int
    nodes: int
    features: tuple[str, ...] = field(default=())


def _slices(text: str) -> Iterator[_Slice]:
    """Return the rows of sinfo; those that cannot be read are left out.

    A/I/O/T counts cores or nodes that are allocated, idle, of no use now, and all of them.
    """
    for line in _lines(text):
        values = line.split("|")
        cores, nodes = (
            ([int(word) for word in value.split("/")] if _COUNTS.fullmatch(value) else None)
            for value in (values[1:2] or [""]) + (values[6:7] or [""])
        )
        if len(values) != len(_NODES) + 1 or cores is None or nodes is None:
            continue
        yield _Slice(
            values[0],
            idle_cores=cores[1],
            all_cores=cores[3],
            gpus=_gpus(values[2]),
            gpus_used=_gpus(values[3]),
            memory=_number(values[4]) or 0,
            cores=_number(values[5]) or 0,
            usable=nodes[0] + nodes[1],
            idle=nodes[1],
            nodes=nodes[3],
            features=tuple(word for word in values[7].split(",") if re.fullmatch(r"[\w.-]+", word)),
        )


def _room(words: Mapping[str, str], found: Sequence[_Slice], in_line: Mapping[str, int] | None) -> Room:
    name = words["PartitionName"]
    state = words.get("State", "UP")
    return Room(
        name,
        default=words.get("Default") == "YES",
        max_walltime=minutes(words.get("MaxTime", "")),
        default_walltime=minutes(words.get("DefaultTime", "")),
        max_cores=_least(max((part.cores for part in found), default=None), words.get("MaxCPUsPerNode")),
        max_memory=_least(max((part.memory for part in found), default=None), words.get("MaxMemPerNode")),
        gpus={kind: max(part.gpus.get(kind, 0) for part in found) for kind in _kinds(found)},
        nodes=sum(part.nodes for part in found) if found else None,
        free_nodes=sum(part.idle for part in found) if found else None,
        cores=sum(part.all_cores for part in found) if found else None,
        free_cores=sum(part.idle_cores for part in found) if found else None,
        free_gpus=_free_gpus(found) if found else None,
        waiting=None if in_line is None else in_line.get(name, 0),
        groups=frozenset() if words.get("RootOnly") == "YES" else _names(words.get("AllowGroups", "ALL")),
        accounts=_names(words.get("AllowAccounts", "ALL")),
        qos=_names(words.get("AllowQos", "ALL")),
        closed="" if state == "UP" else state,
    )


def _kinds(slices: Iterable[_Slice]) -> list[str]:
    return sorted({kind for part in slices for kind in part.gpus})


def _free_gpus(slices: Sequence[_Slice]) -> Mapping[str, int]:
    """Return the GPUs that are free on nodes that are up. GresUsed may lack types that Gres has."""
    return {
        kind: sum(
            part.usable * max(0, part.gpus.get(kind, 0) - part.gpus_used.get(kind, 0)) for part in slices
        )
        for kind in _kinds(slices)
    }


def _gpus(text: str) -> dict[str, int]:
    """Return the GPUs of ``gpu:a100:4(S:0-1),gpu:h100:2,nvme:1`` by type; "" is one without."""
    found: dict[str, int] = {}
    for kind, count in _GPU.findall(text):
        found[kind] = found.get(kind, 0) + int(count)
    return {kind: count for kind, count in found.items() if count}


def minutes(text: str) -> int | None:
    """Return minutes, rounded down, of ``D-HH:MM:SS``, ``HH:MM:SS`` or ``MM:SS``; None for ``UNLIMITED``."""
    found = _TIME.fullmatch(text)
    if not found:
        return None
    days, hours, minute, _, plain = found.groups()
    return int(plain) if plain else (int(days or 0) * 24 + int(hours or 0)) * 60 + int(minute)


def _number(text: str | None) -> int | None:
    found = re.match(r"\d{1,9}(?!\d)", text or "", re.ASCII)
    return int(found[0]) if found else None


def _least(nodes: int | None, limit: str | None) -> int | None:
    """Return the lower of what the largest node has and what the partition allows on a node."""
    return min((value for value in (nodes, _number(limit)) if value), default=None)


def _names(text: str) -> frozenset[str] | None:
    return None if text in ("ALL", "", "(null)") else frozenset(text.split(","))


# --- jobs ---------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """A job that has not ended."""

    job_id: int
    native: str
    partitions: tuple[str, ...]
    priority: int
    reason: str
    user: str
    name: str

    @property
    def in_line(self) -> bool:
        """Whether it waits for room, as opposed to a date, another job or somebody's word."""
        return self.native == "PENDING" and not _NOT_IN_LINE.match(self.reason)


def _jobs(text: str, mark: str) -> list[_Row] | None:
    """Return the jobs, or None if one cannot be read: somebody forges them, or the answer is cut short."""
    *lines, rest = text.split(f"~{mark}.\n")
    rows = []
    for line in lines:
        values, separator, name = line.partition(f"~{mark}~")
        parts = values.split("|", len(_JOBS) - 2)
        if not separator or len(parts) != len(_JOBS) - 1:
            return None
        if not (_UINT32.fullmatch(parts[0]) and _UINT32.fullmatch(parts[3])):
            return None
        job_id, native, partitions, priority, user, reason = parts
        rows.append(
            _Row(int(job_id), native, tuple(partitions.split(",")), int(priority), reason, user, name)
        )
    return None if rest else rows


def _positions(rows: Sequence[_Row], ours: str) -> Mapping[JobId, int]:
    """Return the places of our jobs, in the partition where they are first: by priority, then by id."""
    found: dict[JobId, int] = {}
    ahead: dict[str, int] = {}
    for row in sorted((row for row in rows if row.in_line), key=lambda row: (-row.priority, row.job_id)):
        for partition in row.partitions:
            ahead[partition] = ahead.get(partition, 0) + 1
        if row.name.startswith(ours):
            found[JobId(str(row.job_id))] = min(ahead[partition] for partition in row.partitions)
    return found


def _ours(rows: Iterable[_Row], ours: str, state: Callable[[str, str], JobState]) -> Iterator[JobStatus]:
    for row in rows:
        if row.name.startswith(ours):
            reason = "" if row.reason == "None" else one_line(row.reason)
            yield JobStatus(
                JobId(str(row.job_id)),
                row.name,
                row.user,
                state(row.native, row.reason),
                reason=reason,
                native=row.native,
            )


def _hidden(private_data: str | None, rows: Sequence[_Row] | None) -> bool | None:
    """Return whether others' jobs are hidden from us, unless we are one of Slurm's operators.

    Without accounting there is no list of these: they are known by what they see.
    """
    if private_data is None:
        return None
    private = {word.strip() for word in private_data.split(",")} & {"jobs", "all"}
    return bool(private) and len({row.user for row in rows or ()}) < 2


# --- reservations, accounts ---------------------------------------------------------------------------------


def _downtimes(text: str, partitions: Sequence[Mapping[str, str]]) -> Iterator[Downtime]:
    """Return the reservations. A maintenance that takes no partition whole is in nobody's way."""
    of_all, of_these = slurm_nodes.Budget(), slurm_nodes.Budget()
    nodes = {room["PartitionName"]: slurm_nodes.read(room.get("Nodes", ""), of_all) for room in partitions}
    for line in islice(_lines(text), _MOST_RESERVATIONS):
        words = _words(line)
        start, end = (words.get(key, "") for key in ("StartTime", "EndTime"))
        if not words.get("ReservationName") or not (_EPOCH.fullmatch(start) and _EPOCH.fullmatch(end)):
            continue
        maintenance = "MAINT" in words.get("Flags", "").split(",")
        reserved = slurm_nodes.read(words.get("Nodes", "") if maintenance else "", of_these)
        within = frozenset(name for name, own in nodes.items() if slurm_nodes.within(own, reserved))
        everywhere = len(within) == len(nodes)
        if maintenance and not within:
            continue
        named = _names(words.get("PartitionName", ""))
        yield Downtime(
            words["ReservationName"],
            datetime.fromtimestamp(int(start), UTC),
            datetime.fromtimestamp(int(end), UTC),
            partitions=(frozenset() if everywhere else within) if maintenance else named or frozenset(),
            maintenance=maintenance,
            users=_allowed(words.get("Users", "")),
            accounts=_allowed(words.get("Accounts", "")),
        )


def _allowed(text: str) -> frozenset[str]:
    """Return those named; with a minus they are those who may not."""
    return frozenset(word for word in (_names(text) or ()) if not word.startswith("-"))


def _associations(people: Sequence[list[str]], cluster: str | None) -> Sequence[list[str]] | None:
    """Return the rows of this cluster, None if they are not all told.

    slurmdbd has those of other clusters too, whatever SLURM_CLUSTERS says. With PrivateData=accounts it shows
    to who is no operator their own; all of them are root's and at least somebody's.
    """
    clusters = {row[0] for row in people}
    here = {cluster} if cluster else clusters if len(clusters) == 1 else set()
    own = [row for row in people if row[0] in here]
    return own if len({row[1] for row in own}) > 1 else None


def _by_user(rows: Sequence[Sequence[str]] | None, column: int) -> Mapping[str, tuple[str, ...]] | None:
    if rows is None:
        return None
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        found.setdefault(row[1], {}).update(dict.fromkeys(word for word in row[column].split(",") if word))
    return {user: tuple(words) for user, words in found.items()}
