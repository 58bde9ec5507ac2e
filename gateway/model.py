"""The nouns: small frozen values that the stages hand to one another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType

from gateway.lifecycle import Phase

JobId = NewType("JobId", str)
"""A scheduler's own id of a job, as it prints it."""

#: A POSIX account name, as narrow as useradd(8) of shadow-utils allows, plus inner dots.
USER_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,30}[a-z0-9_$-]|[a-z_]", re.ASCII)
#: The name of a person's further server; the default one is called "".
SERVER_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
#: The id of one start of a server: ten characters of a 32-letter alphabet.
SERVER_ID = re.compile(r"[a-z2-7]{10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class User:
    """A person who has logged in; the name is the canonical one from the directory, as are the groups."""

    name: str
    admin: bool = False
    groups: frozenset[str] = frozenset()


class JobState(StrEnum):
    """What a scheduler says of a job, in the words that all schedulers share."""

    QUEUED = "queued"
    HELD = "held"
    CANNOT_START = "cannot-start"
    RUNNING = "running"
    SUSPENDED = "suspended"
    STOPPING = "stopping"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    WALLTIME = "walltime"
    OUT_OF_MEMORY = "out-of-memory"
    NODE_FAILED = "node-failed"
    FAILED = "failed"
    PREEMPTED = "preempted"
    UNKNOWN = "unknown"

    @property
    def ended(self) -> bool:
        """Whether a job in this state never runs again."""
        return self in _ENDED

    @property
    def on_node(self) -> bool:
        """Whether a job in this state holds its node and its application may be answering."""
        return self in (JobState.RUNNING, JobState.SUSPENDED)


_ENDED = frozenset(
    {
        JobState.COMPLETED,
        JobState.CANCELLED,
        JobState.WALLTIME,
        JobState.OUT_OF_MEMORY,
        JobState.NODE_FAILED,
        JobState.FAILED,
        JobState.PREEMPTED,
    }
)


@dataclass(frozen=True, slots=True)
class Command:
    """Words to run on a login node: the first is a program's name, none is ever read by a shell.

    ``environment`` holds NAME=VALUE words for the program. ``each``, of a discovery's commands alone, are the
    words of a program that is run first and prints names: the one option in ``words`` then comes once for
    each of them (``qconf -sprj A -sprj B``). Where that program fails, its failure is the command's.
    """

    words: tuple[str, ...]
    environment: tuple[str, ...] = ()
    each: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completed:
    """What a command on a login node did. ``status`` is the exit status, 124 if ``timeout`` ended it."""

    status: int
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A job that is asked for: its name, the account that owns it, and its id where it is known.

    ``submitted`` is when it was handed in, as the gateway knows it: Grid Engine uses ids again. ``settled``:
    its endpoint and its end are known, only its state and its restarts are asked for.
    """

    name: str
    owner: str
    job_id: JobId | None = None
    submitted: datetime | None = None
    settled: bool = False


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended, by its scheduler's word.

    ``exit_status`` is the script's, ``signal`` the number of the one that ended it, ``by`` the account that
    cancelled it (a name or a uid), ``native`` the scheduler's own words.
    """

    state: JobState
    exit_status: int | None = None
    signal: int | None = None
    by: str = ""
    native: str = ""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job as one listing shows it.

    ``host`` is the scheduler's own name of the node that runs the job's script, ``comment`` the text the
    job's owner may have attached, ``restarts`` how often the job was requeued, ``reason`` the scheduler's
    native word for why it waits or ended, ``native`` its native state, ``starts`` its expected start,
    ``ends`` when its walltime is over, if it runs.
    """

    job_id: JobId
    name: str
    user: str
    state: JobState
    host: str | None = None
    comment: str = ""
    restarts: int = 0
    reason: str = ""
    native: str = ""
    starts: datetime | None = None
    ends: datetime | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A successful answer of the scheduler about jobs with the names asked for. Absence means "not there".

    Of the names in ``silent`` nothing is known: neither that they are there, nor that they are not.
    """

    jobs: tuple[JobStatus, ...]
    silent: frozenset[str] = frozenset()

    def named(self, name: str, user: str) -> tuple[JobStatus, ...]:
        """Return the jobs with this name that belong to this user: another user's are forgeries."""
        return tuple(job for job in self.jobs if job.name == name and job.user == user)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a running application says that it listens."""

    run: str
    restarts: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Secrets:
    """What only the gateway and the job know: Jupyter's token and the job's own TLS key and certificate."""

    token: str = field(repr=False)
    key_pem: str = field(repr=False)
    certificate_pem: str


@dataclass(frozen=True, slots=True)
class Choices:
    """What a person chose on the form, checked against the site config.

    ``walltime`` is in minutes, ``memory`` in megabytes (2**20 bytes); without GPUs ``gpus`` is 0 and
    ``gpu_type`` None. ``extra`` holds the values of the fields that the site added.
    """

    cluster: str
    application: str
    partition: str
    walltime: int
    cores: int
    memory: int
    gpus: int = 0
    gpu_type: str | None = None
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    constraint: str | None = None
    exclusive: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)


class EndReason(StrEnum):
    """Why a server ended."""

    STOPPED = "stopped"
    FINISHED = "finished"
    WALLTIME = "walltime"
    CANCELLED = "cancelled"
    OUT_OF_MEMORY = "out-of-memory"
    NODE_FAILED = "node-failed"
    FAILED = "failed"
    REFUSED = "refused"
    PREEMPTED = "preempted"
    LOST = "lost"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Server:
    """One start of a user's application, as the database holds it.

    ``id`` names the job, the state directory, the certificate and the route; ``name`` is "" for the default
    server. ``wanted`` is False from the moment somebody asks to stop it. ``generation`` counts the
    forwards made for it; ``attempts`` counts submits. ``message`` is the sentence the person sees. ``ends``
    is when the walltime of the running job is over. ``active`` is when it was last seen in use, ``idle_end``
    when it will be stopped if it stays idle; both only where the site stops idle servers.
    """

    id: str
    user: str
    name: str
    cluster: str
    application: str
    choices: Choices
    run: str
    phase: Phase
    wanted: bool
    created: datetime
    changed: datetime
    job_id: JobId | None = None
    host: str | None = None
    port: int | None = None
    restarts: int = 0
    generation: int = 0
    attempts: int = 0
    reason: EndReason | None = None
    message: str = ""
    native_reason: str = ""
    starts: datetime | None = None
    ends: datetime | None = None
    active: datetime | None = None
    idle_end: datetime | None = None
    cleaned: bool = False

    def __str__(self) -> str:
        """Return the prefix of this server's log lines."""
        job = f" job {self.job_id}" if self.job_id else ""
        return f"[{self.user}/{self.name} {self.cluster}{job}]"


def job_name(instance: str, server_id: str) -> str:
    """Return the name under which a server's job is known to the scheduler, ``gw-INSTANCE-ID``."""
    return f"gw-{instance}-{server_id}"
