"""One server's life: reads what is and what is wanted, and takes one step towards it. Over and over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.decide import (
    START_PATIENCE,
    Act,
    Decision,
    Sighting,
    decide,
    how_it_ended,
    where_it_calls_from,
    where_it_says,
)
from gateway.errors import GatewayError, StateDirUnwritable
from gateway.lifecycle import ROUTED, WITH_JOB, Event, Phase
from gateway.model import JobEnd, JobStatus, Server
from gateway.queue import Ending
from gateway.servers import patience
from gateway.servers.record import Record
from gateway.servers.sights import Sights
from gateway.servers.submission import Submission
from gateway.servers.tools import Tools
from gateway.servers.way import Way
from gateway.timeline import Happening

log = logging.getLogger(__name__)

_SILENT = "Your server does not answer at the moment. Your job goes on: wait until the gateway has it again."
_NOT_YET = "It does not answer yet. Wait a little: the gateway asks again."
_STILL_NOT = (
    f"The gateway has had no answer from it for {START_PATIENCE / 60:.0f} minutes, so you cannot use it. "
    "Your job goes on: stop it and start again. If that does not help, tell the gateway's administrators."
)


class Life:
    """Drives one server until it has ended and its files are gone.

    Args:
        server: As the database holds it.
        tools: What it works with.
    """

    def __init__(self, server: Server, tools: Tools) -> None:
        self._id = server.id
        self._server = server
        self._tools = tools
        self._cluster = tools.clusters[server.cluster]
        self._news = tools.news[server.cluster]
        self._woken = asyncio.Event()
        self._record = Record(tools)
        self._sights = Sights(server, tools.instance, self._cluster, self._news)
        self._submission = Submission(server, tools, self._record, self._sights)
        self._way = Way(tools, self._record)
        self._cancelled_at = -patience.CANCEL_AGAIN
        self._answered_at = 0.0
        self._silences = 0
        self._cleaned = 0
        self._called: tuple[int, asyncio.Future[bool]] | None = None
        self._file_read_at = -patience.FILE_LATER
        self._said_trouble = ""
        self._troubles = 0

    def __repr__(self) -> str:
        return f"<Life of {self._id} on {self._cluster.site.name}>"

    @property
    def cluster(self) -> str:
        """The name of the cluster that its server is on."""
        return self._cluster.site.name

    @property
    def takes_calls(self) -> bool:
        """Whether jobs on its cluster may call."""
        return self._cluster.site.login.callback

    def wake(self) -> None:
        """Make it look again now: something else is wanted."""
        self._woken.set()

    def heard(self) -> None:
        """Make it look again if it waits for news of its job."""
        if self._server.phase in WITH_JOB or self._server.phase is Phase.SUBMITTING:
            self._woken.set()

    def lost(self) -> None:
        """Make it see at once whether there still is a way to the server, and will be."""
        if not self._cluster.tunnel.draining(self._server.id, self._server.generation):
            text = "The way to it is lost: browsers wait until there is one again."
            self._record.tell(self._server, Happening.FORWARD, text)
        self._answered_at = -patience.PROBE_READY
        self._woken.set()

    async def called(self, port: int) -> bool:
        """Take the port that the server's job calls in.

        Returns:
            Whether it was taken and written: not if the job is not starting, or the port is not the site's.
        """
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._called = (port, answer)
        self._woken.set()
        try:
            async with asyncio.timeout(patience.CALL_MAY_WAIT):
                return await answer
        except TimeoutError:
            return False
        finally:
            if self._called is not None and self._called[1] is answer:
                self._called = None

    async def run(self) -> None:
        """Take step after step until nothing is left to do."""
        while True:
            self._woken.clear()
            try:
                self._server = await self._tools.store.get(self._id)
                pause = await self._step(self._server)
                self._troubles = 0
            except GatewayError as error:
                pause = self._back_off()
                self._record.trouble(self._server, error)
                log.log(logging.INFO if error.transient else logging.ERROR, "%s %s", self._server, error)
            except Exception:
                pause = self._back_off()
                log.exception("%s a step failed; it is tried again in %.0f s", self._server, pause)
            if pause is None:
                return
            if pause > 0:
                await self._sleep(pause)

    async def _sleep(self, seconds: float) -> None:
        try:
            # Not wait_for: before Python 3.12 it can swallow a cancellation that comes with the wakening.
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return

    def _back_off(self) -> float:
        self._troubles += 1
        return float(2 ** min(self._troubles, 6))

    async def _step(self, server: Server) -> float | None:
        """Take one step; return the seconds until the next, None when there is none."""
        match server.phase:
            case Phase.INTENT:
                return await self._submission.intend(server)
            case Phase.SUBMITTING:
                return await self._submission.settle(server)
            case Phase.ENDED:
                return await self._clean(server)
            case _:
                return await self._with_job(server)

    # --- with a job ---------------------------------------------------------------------------------

    async def _with_job(self, server: Server) -> float:
        if not server.wanted and server.phase is not Phase.STOPPING:
            server = await self._record.move(server, Event.STOP, "Stopping.")
        if server.phase is Phase.STOPPING:
            await self._cancel(server)
        server = await self._take_call(await self._say_trouble(server))
        if (listing := self._sights.listing()) is not None:
            sighting = await self._sights.of(server, listing)
            decision = self._decide(server, sighting)
            unseen = decision.act is Act.ENDING and sighting.job is None
            if unseen and (job := await self._sights.by_its_owner(server)):
                sighting = self._sights.seen_after_all(server, job)
                decision = self._decide(server, sighting)
            self._record.saw(server, sighting.job)
            return await self._carry_out(server, decision, sighting.job)
        if server.phase in ROUTED or (server.phase is Phase.STARTING and server.port):
            return await self._reach(server)
        return await self._wait(server)

    async def _wait(self, server: Server) -> float:
        """Return the seconds until there is something to do without news; look for the endpoint file."""
        if server.phase is Phase.STARTING and server.port is None and server.wanted:
            return await self._read_endpoint(server)
        return patience.PROBE_READY

    def _decide(self, server: Server, sighting: Sighting) -> Decision:
        ports = self._cluster.site.tunnel.ports
        return decide(server, sighting, ports=ports, age=_age(server.changed))

    async def _say_trouble(self, server: Server) -> Server:
        """Tell a person who waits that the scheduler is silent, and take it back when it speaks again."""
        usual = {Phase.STARTING: f"Starting on {server.host}.", Phase.STOPPING: "Stopping."}
        trouble = self._news.trouble
        self._record.listened(server, self._news)
        if trouble and server.reason is None and (server.phase in usual or server.phase is Phase.QUEUED):
            self._said_trouble = trouble
            return await self._record.note(server, message=trouble)
        if not trouble and self._said_trouble and server.message == self._said_trouble:
            self._said_trouble = ""
            return await self._record.note(server, message=usual.get(server.phase, server.message))
        return server

    async def _carry_out(self, server: Server, decision: Decision, job: JobStatus | None) -> float:
        changes = dict(decision.changes)
        match decision.act:
            case Act.ENDING:
                seen = JobEnd(job.state, native=job.native) if job else None
                await self._end(server, seen)
            case Act.MOVE:
                assert decision.event is not None  # noqa: S101  a move has an event
                if decision.event is Event.STARTED and changes["ends"] is None:
                    changes["ends"] = datetime.now(UTC) + timedelta(minutes=server.choices.walltime)
                await self._record.move(server, decision.event, changes.pop("message", ""), **changes)
                self._cluster.poller.hurry()
            case Act.REACH:
                if "port" in changes:  # whatever answered there is no longer asked
                    self._answered_at = -patience.PROBE_READY
                return await self._reach(await self._record.note(server, **changes))
            case Act.WAIT:
                noted = await self._record.note(server, **changes)
                if noted.phase is Phase.QUEUED and noted.starts and _age(noted.starts) < patience.OVERDUE:
                    self._cluster.poller.expect(-_age(noted.starts))
                return await self._wait(noted)
        return 0

    async def _cancel(self, server: Server) -> None:
        """Cancel the job, again every while: a cancel may be lost, and a job may be slow to go."""
        if time.monotonic() - self._cancelled_at < patience.CANCEL_AGAIN or server.job_id is None:
            return
        self._cancelled_at = time.monotonic()
        self._cluster.poller.hurry()
        async with self._record.act(server, Happening.CANCEL) as done:
            await self._cluster.queue.cancel(server.user, server.id, server.job_id)
            done.text = f"The scheduler was asked to cancel job {server.job_id}."

    async def _end(self, server: Server, seen: JobEnd | None) -> None:
        assert server.job_id is not None  # noqa: S101  lifecycle.WITH_JOB
        try:
            async with self._record.act(server, Happening.ENDING) as done:
                job = self._cluster.queue.asked(self._tools.instance, server)
                ending = await self._cluster.queue.ending(server.user, server.id, job, seen)
                done.text = f"How job {server.job_id} ended: {ending.words}."
        except GatewayError as error:
            if error.transient:
                raise
            log.warning("%s nobody says how it ended: %s", server, error)
            ending = Ending(seen, None, "")
        reason, text = how_it_ended(server, ending.end, ending.exit, ending.log_tail)
        await self._record.move(server, Event.GONE, text, reason=reason)

    # --- where it is, if the scheduler does not say -------------------------------------------------

    async def _take_call(self, server: Server) -> Server:
        """Take what the job has called in, once it is known to run; answer it."""
        if self._called is None:
            return server
        if server.phase is Phase.QUEUED and server.wanted:
            self._cluster.poller.hurry()  # it may run already
            return server
        (port, answer), self._called = self._called, None
        changes = where_it_calls_from(server, port, self._cluster.site.tunnel.ports)
        if changes is not None:
            server = await self._listens(server, changes, f"The job has called: it listens on port {port}.")
        if not answer.done():
            answer.set_result(changes is not None)
        return server

    async def _read_endpoint(self, server: Server) -> float:
        """Read a starting server's endpoint file, if nothing else has said for a while where it listens."""
        age = _age(server.changed)
        if age < patience.FILE_AFTER:
            return patience.FILE_AFTER - age
        gap = patience.FILE_AGAIN if age < 60 else patience.FILE_LATER
        if (since := time.monotonic() - self._file_read_at) < gap:
            return gap - since
        self._file_read_at = time.monotonic()
        try:
            text = await self._cluster.queue.endpoint(server.user, server.id)
        except GatewayError as error:
            self._record.trouble(server, error)
            return gap
        changes = where_it_says(server, text, self._cluster.site.tunnel.ports)
        if changes is None:
            return gap
        said = f"The job's endpoint file says that it listens on port {changes['port']}."
        return await self._reach(await self._listens(server, changes, said))

    async def _listens(self, server: Server, changes: Mapping[str, Any], text: str) -> Server:
        self._answered_at = -patience.PROBE_READY
        noted = await self._record.note(server, **changes)
        if changes:
            self._record.tell(noted, Happening.ENDPOINT, text)
        return noted

    # --- the way to it ------------------------------------------------------------------------------

    async def _reach(self, server: Server) -> float:
        """See that there is a way to the application, and ask whether it answers."""
        since = time.monotonic() - self._answered_at
        if server.phase is Phase.READY and not self._silences and since < patience.PROBE_READY:
            return patience.PROBE_READY - since
        try:
            answer = await self._way.ask(server)
        except GatewayError as error:
            self._record.trouble(server, error)
            return await self._silent(server, str(error))
        self._record.answered(server, answer.outcome, answer.detail)
        return await (self._answered(server) if answer.ready else self._silent(server, answer.detail))

    async def _answered(self, server: Server) -> float:
        self._silences, self._answered_at = 0, time.monotonic()
        if server.phase is Phase.READY:
            return patience.PROBE_READY
        await self._record.move(server, Event.ANSWERED, f"Running on {server.host}.")
        return patience.PROBE_READY

    async def _silent(self, server: Server, reason: str) -> float:
        self._silences += 1
        if self._silences == patience.SILENCES_TO_BELIEVE:
            log.warning("%s does not answer: %s", server, reason)
            self._cluster.poller.hurry()
        if self._silences >= patience.SILENCES_TO_BELIEVE:
            if server.phase is Phase.READY:
                await self._record.move(server, Event.SILENT, _SILENT)
            elif server.phase is Phase.STARTING:
                late = _age(server.changed) > START_PATIENCE
                message = f"It runs on {server.host}. {_STILL_NOT if late else _NOT_YET}"
                await self._record.note(server, message=message)
        return min(patience.PROBE_WAITING * self._silences, patience.PROBE_SLOWEST)

    # --- after it -----------------------------------------------------------------------------------

    async def _clean(self, server: Server) -> float | None:
        """Remove an ended server's files from the cluster; its secrets are worth nothing any more."""
        if server.cleaned or not server.attempts:
            return None
        self._cleaned += 1
        try:
            async with self._record.act(server, Happening.CLEANING) as done:
                await self._cluster.queue.remove(server.user, server.id)
                done.text = "Its files on the cluster are removed."
        except GatewayError as error:
            log.info("%s its files could not be removed: %s", server, error)
            # A job that is just ending may have made another one, or hold one open (NFS then keeps it).
            again = error.transient or isinstance(error, StateDirUnwritable)
            return patience.CLEAN_AGAIN if again and self._cleaned < patience.CLEAN_TRIES else None
        await self._tools.store.note(server.id, cleaned=True)
        return None


def _age(then: datetime) -> float:
    return (datetime.now(UTC) - then).total_seconds()
