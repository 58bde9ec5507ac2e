"""Jobs, what they ask for, and whose turn it is. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class QueueError(Exception):
    """The program says one sentence and does nothing; ``status`` is its exit status, after sysexits.h."""

    status = 1


class Usage(QueueError):
    """These words are no command."""

    status = 64


class Refused(QueueError):
    """The queue will not do this as things are; the sentence is for whoever asked."""

    status = 65


class Unavailable(QueueError):
    """Nothing was done; it can be tried again when the cause is gone."""

    status = 75


class State(StrEnum):
    """What a job is doing."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    ENDING = "ENDING"  # what is left of it is being ended
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"

    @property
    def ended(self) -> bool:
        """Whether no process of the job is left."""
        return self not in (State.QUEUED, State.RUNNING, State.ENDING)

    @property
    def holds(self) -> bool:
        """Whether the job holds its cores and its memory."""
        return self in (State.RUNNING, State.ENDING)


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks for.

    Args:
        name: The job's name; several jobs may have the same.
        walltime: Seconds.
        cores: How many it counts for; the job is not bound to them.
        memory: Megabytes (2**20 bytes) that all its processes together may use.
        warning: Seconds before the end of the walltime when the script's shell gets USR1; 0 for never.
    """

    name: str
    walltime: float
    cores: int
    memory: int
    warning: float = 0


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its id, and its start in clock ticks since the boot. Ids are used again, both are not."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the spool holds it.

    Args:
        id: Never given to another job of this queue.
        request: What it asks for.
        mark: In the environment of all its processes: by it they are found if the supervisor is dead.
        supervisor: The process that waits for the job's turn, runs it and ends it.
        boot: The machine's boot in which the supervisor was started.
        changed: When the state last changed, seconds since 1970.
        state: What it is doing.
        ending: What the state will be once it has ended, if that is known already.
        reason: A word on why it failed.
        comment: Whatever the job said of itself.
    """

    id: int
    request: Request
    mark: str
    supervisor: Process
    boot: str
    changed: float
    state: State = State.QUEUED
    ending: State | None = None
    reason: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the queue gives out: cores, and megabytes of memory."""

    cores: int
    memory: int

    def too_much(self, request: Request) -> str:
        """Return a sentence on why a job could never run here; empty if it could."""
        if request.cores > self.cores:
            return f"the job asks for {request.cores} cores and this machine gives out {self.cores}"
        if request.memory > self.memory:
            return (
                f"the job asks for {request.memory} MB of memory and this machine gives out {self.memory} MB"
            )
        return ""

    def fits(self, request: Request, jobs: Sequence[Job]) -> bool:
        """Return whether there is room beside the jobs that run."""
        running = [job.request for job in jobs if job.state.holds]
        cores, memory = sum(other.cores for other in running), sum(other.memory for other in running)
        return cores + request.cores <= self.cores and memory + request.memory <= self.memory


#: Jobs that may be in a queue, waiting or running: each has a process of its own all the while.
MOST_JOBS = 500


def full(jobs: Sequence[Job]) -> str:
    """Return a sentence on why the queue takes no more jobs; empty if it does."""
    if sum(not job.state.ended for job in jobs) < MOST_JOBS:
        return ""
    return f"{MOST_JOBS} jobs wait or run here already, and no more are taken: try again when some have ended"


def waits_for(job: Job, jobs: Sequence[Job], limits: Limits) -> str:
    """Return why a queued job does not run: ``TooLarge``, ``Priority``, ``Resources``, or "": it can start.

    First come, first served: a small job does not overtake a large one. One that could never run, because
    less is given out than when it came, holds nobody up.

    Args:
        job: The job, queued.
        jobs: All jobs, by id.
        limits: What the queue gives out now.
    """
    if limits.too_much(job.request):
        return "TooLarge"
    before = (other for other in jobs if other.state is State.QUEUED and other.id < job.id)
    if not all(limits.too_much(other.request) for other in before):
        return "Priority"
    return "" if limits.fits(job.request, jobs) else "Resources"


_WORDS = {
    "name": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}", re.ASCII),
    "walltime": re.compile(r"[1-9][0-9]{0,6}", re.ASCII),
    "cores": re.compile(r"[1-9][0-9]{0,5}", re.ASCII),
    "memory": re.compile(r"[1-9][0-9]{0,8}", re.ASCII),
    "gpus": re.compile(r"[0-9]{1,4}", re.ASCII),
    "warning": re.compile(r"[1-9][0-9]{0,4}", re.ASCII),
}
_NEEDED = ("name", "walltime", "cores", "memory")


def read_request(script: str) -> Request:
    """Return what a job script asks for, in the lines ``#GATEWAY KEY=VALUE`` before its first command.

    The keys: name, walltime (minutes), cores, memory (megabytes), and if wanted warning (seconds).

    Raises:
        Refused: The script is no shell script, or a line says something else.
    """
    first, *lines = script.split("\n")
    if not first.startswith("#!/bin/sh"):
        raise Refused("the script does not start with #!/bin/sh")
    said: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith("#"):
            break
        if not line.startswith("#GATEWAY"):
            continue
        key, _, value = line.removeprefix("#GATEWAY ").partition("=")
        if key not in _WORDS or not _WORDS[key].fullmatch(value):
            raise Refused(f"the script's line {line[:80]!r} is not understood")
        if key in said:
            raise Refused(f"the script says {key} twice")
        said[key] = value
    if missing := [key for key in _NEEDED if key not in said]:
        raise Refused(f"the script does not say its {missing[0]}")
    if int(said.get("gpus", "0")):
        raise Refused("this queue gives out no GPUs")
    return Request(
        said["name"],
        int(said["walltime"]) * 60.0,
        int(said["cores"]),
        int(said["memory"]),
        float(said.get("warning", "0")),
    )
