"""A server's life as a table. It has no clock and does nothing: it says what may follow what."""

from enum import StrEnum

from gateway.errors import GatewayError


class Phase(StrEnum):
    """Where a server is in its life."""

    INTENT = "intent"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    STARTING = "starting"
    READY = "ready"
    UNREACHABLE = "unreachable"
    STOPPING = "stopping"
    ENDED = "ended"


class Event(StrEnum):
    """What can happen to a server."""

    SUBMIT = "submit"  # the intent is written; the submit command is about to run
    ACCEPTED = "accepted"  # the scheduler gave a job id, or the job was found by its name
    REFUSED = "refused"  # the scheduler, or the launcher, said no
    NOT_FOUND = "not-found"  # an unknown outcome was settled: there is no such job
    STARTED = "started"  # the job runs
    ANSWERED = "answered"  # an HTTP answer came through the tunnel
    SILENT = "silent"  # no HTTP answer comes through the tunnel
    REQUEUED = "requeued"  # the scheduler put the job back into the queue, or restarted it
    STOP = "stop"  # somebody asked to stop it
    GONE = "gone"  # the job has ended, by two good listings or the accounting's word


class UnexpectedEvent(GatewayError):
    """An event came in a phase that the table has no answer for."""


NEXT: dict[tuple[Phase, Event], Phase] = {
    (Phase.INTENT, Event.SUBMIT): Phase.SUBMITTING,
    (Phase.INTENT, Event.REFUSED): Phase.ENDED,
    (Phase.INTENT, Event.STOP): Phase.ENDED,
    (Phase.SUBMITTING, Event.ACCEPTED): Phase.QUEUED,
    (Phase.SUBMITTING, Event.REFUSED): Phase.ENDED,
    (Phase.SUBMITTING, Event.NOT_FOUND): Phase.INTENT,
    (Phase.QUEUED, Event.STARTED): Phase.STARTING,
    (Phase.QUEUED, Event.STOP): Phase.STOPPING,
    (Phase.QUEUED, Event.GONE): Phase.ENDED,
    (Phase.STARTING, Event.ANSWERED): Phase.READY,
    (Phase.STARTING, Event.REQUEUED): Phase.QUEUED,
    (Phase.STARTING, Event.STOP): Phase.STOPPING,
    (Phase.STARTING, Event.GONE): Phase.ENDED,
    (Phase.READY, Event.SILENT): Phase.UNREACHABLE,
    (Phase.READY, Event.REQUEUED): Phase.QUEUED,
    (Phase.READY, Event.STOP): Phase.STOPPING,
    (Phase.READY, Event.GONE): Phase.ENDED,
    (Phase.UNREACHABLE, Event.ANSWERED): Phase.READY,
    (Phase.UNREACHABLE, Event.REQUEUED): Phase.QUEUED,
    (Phase.UNREACHABLE, Event.STOP): Phase.STOPPING,
    (Phase.UNREACHABLE, Event.GONE): Phase.ENDED,
    (Phase.STOPPING, Event.GONE): Phase.ENDED,
}
"""Every cell that is allowed. A stop asked for while the outcome of a submit is unknown waits, as the
server's ``wanted`` flag, until it is settled: only then is it known whether there is something to cancel."""

#: Phases in which the server has a job that the scheduler knows.
WITH_JOB = frozenset({Phase.QUEUED, Phase.STARTING, Phase.READY, Phase.UNREACHABLE, Phase.STOPPING})
#: Phases in which the server has a route. An unreachable one keeps its route.
ROUTED = frozenset({Phase.READY, Phase.UNREACHABLE})


def after(phase: Phase, event: Event) -> Phase:
    """Return the phase that follows when ``event`` happens in ``phase``.

    Raises:
        UnexpectedEvent: The table has no such cell.
    """
    try:
        return NEXT[phase, event]
    except KeyError:
        raise UnexpectedEvent(f"{event} cannot happen while {phase}") from None
