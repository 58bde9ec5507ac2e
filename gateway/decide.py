"""What to do next with a server that has a job, from what the scheduler says of it. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from typing import Any

from gateway.endpoint import parse
from gateway.lifecycle import Event, Phase
from gateway.model import USER_NAME, EndReason, JobEnd, JobState, JobStatus, Server
from gateway.script import Exit, ExitWord

#: Successive good listings that must lack a job, or show it preempted, before it counts as gone.
LISTINGS_TO_BELIEVE = 2
#: Seconds for which a scheduler must say that a job can never start: it may say so only while nodes are down,
#: or while its administrators change something.
REFUSAL_TO_BELIEVE = 60.0
#: Seconds that an application may take from its job's start until it says where it listens. One that has said
#: so and does not answer by then is not ended, for that may be the network's fault: its owner is told.
START_PATIENCE = 600.0
#: By how much the end of a job's walltime must have moved to be written anew.
ENDS_MOVED = timedelta(seconds=90)


class Act(Enum):
    """What kind of thing comes next."""

    WAIT = auto()
    """Nothing, until there is news; ``changes`` may say something new about the waiting."""
    MOVE = auto()
    """One step along the lifecycle's table: ``event``, with ``changes``."""
    REACH = auto()
    """Write ``changes``, then open the way to host and port and ask for an answer."""
    ENDING = auto()
    """The job has ended: find out how, then move by ``Event.GONE``."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What comes next, and which fields of the server change with it."""

    act: Act
    event: Event | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the latest good listing says of a server's job.

    ``job`` is None when the job is not there; ``repeated`` counts the successive good listings that said the
    same (not there, ended, or that it can never start), ``lasting`` is the seconds since the first of them;
    ``why`` is a sentence on why a pending job waits.
    """

    job: JobStatus | None
    repeated: int = 1
    lasting: float = 0.0
    why: str = ""


def decide(server: Server, sighting: Sighting, *, ports: tuple[int, int], age: float) -> Decision:
    """Return what comes next for a server that has a job.

    Args:
        server: As the database holds it; its phase is one of ``lifecycle.WITH_JOB``.
        sighting: What the latest good listing says.
        ports: The site's range, first and last, in which applications listen.
        age: Seconds since the server's phase last changed.
    """
    job = sighting.job
    if job is None or job.state is JobState.PREEMPTED:
        return Decision(Act.ENDING if sighting.repeated >= LISTINGS_TO_BELIEVE else Act.WAIT)
    if job.state.ended:
        return Decision(Act.ENDING)
    if job.state in (JobState.UNKNOWN, JobState.STOPPING) or server.phase is Phase.STOPPING:
        return Decision(Act.WAIT)
    if job.state is JobState.CANNOT_START and _is_believed(sighting):
        changes: dict[str, Any] = {
            "reason": EndReason.REFUSED,
            "message": sighting.why,
            "native_reason": job.reason,
        }
        return Decision(Act.MOVE, Event.STOP, changes)
    if server.phase is Phase.QUEUED:
        return _while_queued(server, job, sighting.why)
    if not job.state.on_node or job.restarts != server.restarts:
        changes = {
            "restarts": job.restarts,
            "host": None,
            "port": None,
            "ends": None,
            "generation": server.generation + 1,  # the present forward leads to where the job was
            "message": sighting.why,
        }
        return Decision(Act.MOVE, Event.REQUEUED, changes)
    found = parse(job.comment, run=server.run, restarts=job.restarts, host=job.host, ports=ports)
    if found is not None:
        return Decision(Act.REACH, changes=where(server, found.host, found.port) | _ends(server, job))
    if server.phase is Phase.STARTING and server.port is None:
        return _not_listening(age, _ends(server, job))
    return Decision(Act.REACH, changes=_ends(server, job))


def _is_believed(sighting: Sighting) -> bool:
    return sighting.repeated >= LISTINGS_TO_BELIEVE and sighting.lasting >= REFUSAL_TO_BELIEVE


def _while_queued(server: Server, job: JobStatus, why: str) -> Decision:
    if job.state.on_node:
        changes = {
            "host": job.host,
            "restarts": job.restarts,
            "message": f"Starting on {job.host}.",
            "starts": None,
            "ends": job.ends,
            "native_reason": "",
        }
        return Decision(Act.MOVE, Event.STARTED, changes)
    news = {"message": why, "native_reason": job.reason, "starts": job.starts, "restarts": job.restarts}
    return Decision(Act.WAIT, changes={key: new for key, new in news.items() if getattr(server, key) != new})


def where(server: Server, host: str, port: int) -> dict[str, Any]:
    """Return what changes with a server that listens there: nothing if that is known."""
    if (server.host, server.port) == (host, port):
        return {}
    changes: dict[str, Any] = {"host": host, "port": port}
    if server.port is not None:  # the present forward leads to where the application was, or never got
        changes["generation"] = server.generation + 1
    return changes


def where_it_says(server: Server, text: str, ports: tuple[int, int]) -> dict[str, Any] | None:
    """Return what changes by the endpoint file of a starting server; None if it says nothing that is true.

    Args:
        server: As the database holds it; its host is the scheduler's word.
        text: What the file holds.
        ports: The site's range.
    """
    found = parse(text, run=server.run, restarts=server.restarts, host=server.host, ports=ports)
    starting = server.phase is Phase.STARTING and server.wanted
    return where(server, found.host, found.port) if found and starting else None


def where_it_calls_from(server: Server, port: int, ports: tuple[int, int]) -> dict[str, Any] | None:
    """Return what changes when a starting server's job calls in its port; None if that cannot be true.

    Args:
        server: As the database holds it; the host is the scheduler's, whoever called from wherever.
        port: The port.
        ports: The site's range.
    """
    starting = server.phase is Phase.STARTING and server.wanted
    if not starting or server.host is None or not ports[0] <= port <= ports[1]:
        return None
    return where(server, server.host, port)


def _ends(server: Server, job: JobStatus) -> dict[str, Any]:
    """Return when the walltime is over, where the scheduler says so and it is news."""
    known = server.ends is not None and job.ends is not None and abs(job.ends - server.ends) < ENDS_MOVED
    return {} if job.ends is None or known else {"ends": job.ends}


def _not_listening(age: float, changes: dict[str, Any]) -> Decision:
    if age > START_PATIENCE:
        minutes = f"{START_PATIENCE / 60:.0f} minutes"
        text = f"The application was not ready after {minutes}, so the gateway ended its job. {_LOG}"
        return Decision(Act.MOVE, Event.STOP, {"reason": EndReason.FAILED, "message": text})
    return Decision(Act.WAIT, changes=changes)


_LOG = "Its log says more: if that does not help you, show it to the cluster's administrators."

#: What is said of servers that have ended: what happened, what it means, what to do next.
ENDS: Mapping[EndReason, str] = {
    EndReason.STOPPED: "It was stopped on request. Your files are untouched: start it when you need it.",
    EndReason.FINISHED: "The application ended by itself, and its job with it. Start it when you need it.",
    EndReason.WALLTIME: "The walltime that you chose is over, so the scheduler ended the job. "
    "Start it again, with a longer walltime if you need more.",
    EndReason.CANCELLED: "The job was cancelled on the cluster, so the application has ended. "
    "If it was not you, ask the cluster's administrators why.",
    EndReason.OUT_OF_MEMORY: "The application needed more memory than the job had, so it was ended. "
    "Start again with more.",
    EndReason.NODE_FAILED: "The node that ran the job has failed, so the job has ended. Your files are "
    "untouched: start it again.",
    EndReason.FAILED: f"The job failed, and the application with it. {_LOG}",
    EndReason.REFUSED: "The cluster did not take the job, so nothing was started. "
    "Start again with other choices.",
    EndReason.PREEMPTED: "The scheduler took the node for a job of higher priority, so yours has ended. "
    "Start it again: it waits until there is room.",
    EndReason.IDLE: "Nothing had run in it for as long as this cluster allows, so it was stopped. "
    "Your files are untouched: start it when you need it.",
    EndReason.LOST: "The job is no longer there, and the scheduler does not say why. Start it again; if that "
    "happens again, tell the cluster's administrators the job's number.",
}

_TERMINATED = (
    "The job was ended from outside, and the scheduler does not say by whom or why. Start it again; if that "
    "happens again, tell the cluster's administrators the job's number."
)
_HOW = {
    JobState.COMPLETED: EndReason.FINISHED,
    JobState.CANCELLED: EndReason.CANCELLED,
    JobState.WALLTIME: EndReason.WALLTIME,
    JobState.PREEMPTED: EndReason.PREEMPTED,
    JobState.OUT_OF_MEMORY: EndReason.OUT_OF_MEMORY,
    JobState.NODE_FAILED: EndReason.NODE_FAILED,
    JobState.FAILED: EndReason.FAILED,
}

_WORDS = {
    ExitWord.FINISHED: (EndReason.FINISHED, ENDS[EndReason.FINISHED]),
    ExitWord.FAILED: (EndReason.FAILED, f"The application failed, so its job has ended. {_LOG}"),
    ExitWord.WALLTIME: (EndReason.WALLTIME, ENDS[EndReason.WALLTIME]),
    ExitWord.NO_PORT: (
        EndReason.FAILED,
        (
            "The compute node had no free port for the application, so it did not start. Start it again: "
            "it may get another node."
        ),
    ),
    ExitWord.SILENT: (EndReason.FAILED, f"The application did not get ready, so its job has ended. {_LOG}"),
    ExitWord.NO_STATE: (
        EndReason.FAILED,
        (
            "The compute node does not see the gateway's files in your home, so nothing could be started. "
            "Tell the cluster's administrators the job's number."
        ),
    ),
}


#: Where the last lines of the log help.
_SHOWS_LOG = frozenset({EndReason.FAILED, EndReason.OUT_OF_MEMORY, EndReason.NODE_FAILED, EndReason.LOST})
#: What a shell makes of a program that signal KILL ended.
_KILLED = 128 + 9


def how_it_ended(
    server: Server, end: JobEnd | None, left: Exit | None, log_tail: str
) -> tuple[EndReason, str]:
    """Return why a server whose job is gone has ended, and what to say of it.

    Args:
        server: As the database holds it; a reason that it already has is kept.
        end: The accounting's or the last listing's word on the job, None if neither knows.
        left: The job's own word, None if it left none. That of a run before a requeue says nothing.
        log_tail: The last lines of the job's log, shown where they help.
    """
    if server.reason is EndReason.IDLE:
        return server.reason, ENDS[server.reason]
    if server.reason is not None:
        return server.reason, _with_log(server.message, log_tail, server.reason)
    if not server.wanted:
        return EndReason.STOPPED, "Stopped."
    if left is not None and left.restarts < server.restarts:
        left = None
    # A job that ended by itself knows best how: to the scheduler it has completed, or failed, all the same.
    # Some schedulers end a job whose walltime is over as if somebody had cancelled it.
    by_itself = end is None or end.state in (JobState.COMPLETED, JobState.FAILED)
    cut_off = end is not None and end.state is JobState.CANCELLED and not end.by
    if left and left.word in _WORDS and (by_itself or (cut_off and left.word is ExitWord.WALLTIME)):
        reason, text = _WORDS[left.word]
        if left.word is ExitWord.FAILED:
            text = _failed("application", left.status)
    elif end is None or end.state not in _HOW:
        reason, text = EndReason.LOST, _TERMINATED if left else ENDS[EndReason.LOST]
    else:
        reason = _HOW[end.state]
        text = _in_words(server, end, reason)
    return reason, _with_log(text, log_tail, reason)


def _in_words(server: Server, end: JobEnd, reason: EndReason) -> str:
    """Return what is said of an end that the scheduler tells."""
    if reason is EndReason.CANCELLED and (by := _canceller(end.by, server.user)):
        return by
    if reason is not EndReason.FAILED:
        return ENDS[reason]
    if end.signal:
        return _failed("job", 128 + end.signal)
    return _failed("job", end.exit_status) if end.exit_status else ENDS[reason]


def _canceller(by: str, user: str) -> str:
    """Return who cancelled the job and what to do; empty where that cannot be told.

    PBS puts the host behind the account: ``alice@login``.
    """
    by = by.partition("@")[0]
    if by == user:
        return (
            "You cancelled the job on the cluster, so the application has ended. Start it when you need it."
        )
    if by in ("root", "0"):
        return (
            "An administrator of the cluster cancelled the job, so the application has ended. "
            "Ask the cluster's administrators why before you start it again."
        )
    if by.isdecimal():  # Slurm's accounting knows who it was by the uid alone
        return (
            f"Somebody else (uid {by}) cancelled the job on the cluster, so the application has ended. "
            "Ask the cluster's administrators who and why, or start again."
        )
    if not USER_NAME.fullmatch(by):
        return ""
    return (
        f"{by} cancelled the job on the cluster, so the application has ended. Ask {by} why, or start again."
    )


def _failed(what: str, status: int) -> str:
    """Return what is said of an exit status, as a shell gives it: 128 and the signal's number."""
    if status == _KILLED:
        return (
            f"The {what} was killed (signal 9), mostly because it needed more memory than the job had. "
            f"Start again with more; the log may say more."
        )
    how = f"was ended by signal {status - 128}" if 128 < status < 160 else f"failed with exit status {status}"
    so = ", so its job has ended" if what == "application" else ", and the application with it"
    return f"The {what} {how}{so}. {_LOG}"


def _with_log(text: str, log_tail: str, reason: EndReason) -> str:
    if reason not in _SHOWS_LOG or not log_tail.strip():
        return text
    return f"{text}\n{log_tail.strip()}"
