"""One server's life: reads what is and what is wanted, and takes one step towards it. Over and over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.decide import LISTINGS_TO_BELIEVE, Act, Decision, Sighting, decide, how_it_ended
from gateway.errors import GatewayError, SubmitOutcomeUnknown
from gateway.lifecycle import ROUTED, WITH_JOB, Event, Phase
from gateway.model import EndReason, JobId, JobState, JobStatus, Server, job_name
from gateway.queue import Ending
from gateway.script import JobFacts, render_script
from gateway.servers.tools import Tools
from gateway.servers.way import Way
from gateway.urls import server_path

log = logging.getLogger(__name__)

#: Seconds for which a cluster that does not answer is asked again to take a job.
SUBMIT_PATIENCE = 600.0
#: Seconds between two listings that must both lack a job before a submit of unknown outcome is tried again.
SETTLE_GAP = 5.0
#: Seconds for which a submit may still be under way on the login node after its answer was lost.
SUBMIT_MAY_TAKE = 75.0
#: Seconds after which a start that was expected, and did not come, is no longer waited for with fast polls.
OVERDUE = 60.0
#: Seconds between two cancels of a job that is still there.
CANCEL_AGAIN = 15.0
#: Seconds between two requests that ask whether a ready server still answers.
PROBE_READY = 30.0
#: Seconds until a silent server is asked again: the first time, and at most.
PROBE_WAITING, PROBE_SLOWEST = 1.0, 5.0
#: How many requests in a row must fail before a ready server counts as unreachable.
SILENCES_TO_BELIEVE = 2
#: How often, and how many seconds apart, the removal of an ended server's files is tried.
CLEAN_TRIES, CLEAN_AGAIN = 10, 30.0


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
        self._name = job_name(tools.instance, server.id)
        self._owner = self._cluster.queue.owner(server.user)
        self._woken = asyncio.Event()
        self._judged = self._news.begun
        self._absent = 0
        self._absent_since = 0.0
        self._ended_sightings = 0
        self._cancelled_at = -CANCEL_AGAIN
        self._answered_at = 0.0
        self._silences = 0
        self._way = Way(tools)
        self._cleaned = 0
        #: Until when a job may come of a submit that gave no answer, to this hub or to the one before it.
        unknown = server.phase is Phase.SUBMITTING
        self._may_come_until = time.monotonic() + SUBMIT_MAY_TAKE if unknown else 0.0
        self._said_trouble = ""
        self._troubles = 0

    def __repr__(self) -> str:
        return f"<Life of {self._id} on {self._cluster.site.name}>"

    @property
    def cluster(self) -> str:
        """The name of the cluster that its server is on."""
        return self._cluster.site.name

    def wake(self) -> None:
        """Make it look again now: something else is wanted."""
        self._woken.set()

    def heard(self) -> None:
        """Make it look again if it waits for news of its job."""
        if self._server.phase in WITH_JOB or self._server.phase is Phase.SUBMITTING:
            self._woken.set()

    def lost(self) -> None:
        """Make it see at once whether there still is a way to the server."""
        self._answered_at = -PROBE_READY
        self._woken.set()

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
                return await self._intend(server)
            case Phase.SUBMITTING:
                return await self._settle(server)
            case Phase.ENDED:
                return await self._clean(server)
            case _:
                return await self._with_job(server)

    async def _move(self, server: Server, event: Event, text: str = "", **changes: Any) -> Server:
        moved = await self._tools.store.move(server.id, event, text, **changes)
        log.info("%s %s -> %s (%s)", moved, server.phase, moved.phase, event)
        self._tools.feed.publish(moved)
        self._tools.metrics.moved(server.phase, moved, event)
        if (server.phase in ROUTED) != (moved.phase in ROUTED):
            await self._tools.routing.sync()
        return moved

    async def _note(self, server: Server, **changes: Any) -> Server:
        news = {key: value for key, value in changes.items() if getattr(server, key) != value}
        if not news:
            return server
        noted = await self._tools.store.note(server.id, **news)
        self._tools.feed.publish(noted)
        return noted

    # --- before there is a job ----------------------------------------------------------------------

    async def _intend(self, server: Server) -> float:
        given_up = not server.wanted or (server.attempts and _age(server.created) > SUBMIT_PATIENCE)
        if given_up and self._may_come_until:
            if time.monotonic() < self._may_come_until:
                return SETTLE_GAP  # nobody would look for a job that is submitted only now
            if job := await self._own_sight(server):
                server = await self._move(server, Event.SUBMIT, server.message)
                await self._accepted(server, job.job_id)
                return 0
        if not server.wanted:
            await self._move(server, Event.STOP, "Stopped.", reason=EndReason.STOPPED)
            return 0
        if server.attempts and _age(server.created) > SUBMIT_PATIENCE:
            text = f"{server.message} The gateway has stopped trying; nothing was started."
            await self._move(server, Event.REFUSED, text, reason=EndReason.FAILED)
            return 0
        text = server.message or "Handing your job to the scheduler."
        server = await self._move(server, Event.SUBMIT, text, attempts=server.attempts + 1)
        return await self._submit(server)

    async def _submit(self, server: Server) -> float:
        self._forget_sightings()
        try:
            files = await self._files(server)
            job_id = await self._cluster.queue.submit(server.user, server.id, files)
        except SubmitOutcomeUnknown as error:
            log.warning("%s %s", server, error)
            self._may_come_until = time.monotonic() + SUBMIT_MAY_TAKE
            await self._note(server, message=error.public)
            return 0
        except GatewayError as error:
            log.warning("%s %s", server, error)
            if error.transient:
                await self._move(server, Event.NOT_FOUND, error.public)
                raise
            await self._move(server, Event.REFUSED, error.public, reason=EndReason.REFUSED)
            return 0
        await self._accepted(server, job_id)
        return 0

    async def _accepted(self, server: Server, job_id: JobId) -> None:
        self._forget_sightings()
        await self._move(server, Event.ACCEPTED, "Waiting in the queue.", job_id=job_id)
        self._cluster.poller.hurry()

    async def _files(self, server: Server) -> Mapping[str, bytes]:
        site = self._cluster.site
        secrets = await self._tools.secrets(server)
        facts = JobFacts(
            instance=self._tools.instance,
            server_id=server.id,
            run=server.run,
            user=self._owner,
            server_name=server.name,
            base_url=server_path(server.user, server.name),
            node_tls=site.tunnel.node_security == "tls",
        )
        return {
            "script": render_script(site, server.choices, facts).encode(),
            "token": secrets.token.encode(),
            "key.pem": secrets.key_pem.encode(),
            "cert.pem": secrets.certificate_pem.encode(),
            "client-ca.pem": await asyncio.to_thread(Path(self._tools.authority.client_ca).read_bytes),
        }

    async def _settle(self, server: Server) -> float:
        """Find out by its name whether a job of unknown outcome exists. Only then is anything done."""
        if (listing := self._new_listing()) is None:
            self._cluster.poller.hurry()
            return SETTLE_GAP
        if jobs := listing.named(self._name, self._owner):
            await self._accepted(server, jobs[0].job_id)
            return 0
        self._absent += 1
        if self._absent == 1:
            self._absent_since = time.monotonic()
        if self._absent < LISTINGS_TO_BELIEVE or time.monotonic() - self._absent_since < SETTLE_GAP:
            self._cluster.poller.hurry()
            return SETTLE_GAP
        if job := await self._own_sight(server):
            await self._accepted(server, job.job_id)
            return 0
        await self._move(server, Event.NOT_FOUND, "The cluster did not take your job; trying again.")
        return 0

    def _forget_sightings(self) -> None:
        """Count only listings that begin from now on."""
        self._judged = self._news.begun
        self._absent = self._ended_sightings = 0

    def _new_listing(self) -> Any:
        if self._news.number <= self._judged:
            return None
        self._judged = self._news.number
        return self._news.listing

    # --- with a job ---------------------------------------------------------------------------------

    async def _with_job(self, server: Server) -> float:
        if not server.wanted and server.phase is not Phase.STOPPING:
            server = await self._move(server, Event.STOP, "Stopping.")
        if server.phase is Phase.STOPPING:
            await self._cancel(server)
        server = await self._say_trouble(server)
        if (listing := self._new_listing()) is not None:
            sighting = await self._sight(server, listing.named(self._name, self._owner))
            site = self._cluster.site
            decision = decide(server, sighting, ports=site.tunnel.ports, age=_age(server.changed))
            if decision.act is Act.ENDING and sighting.job is None and (job := await self._own_sight(server)):
                self._absent = 0
                sighting = Sighting(job, LISTINGS_TO_BELIEVE, self._cluster.scheduler.why(job))
                decision = decide(server, sighting, ports=site.tunnel.ports, age=_age(server.changed))
            return await self._carry_out(server, decision, sighting.job)
        if server.phase in ROUTED or (server.phase is Phase.STARTING and server.port):
            return await self._reach(server)
        return PROBE_READY

    async def _say_trouble(self, server: Server) -> Server:
        """Tell a person who waits that the scheduler is silent, and take it back when it speaks again."""
        usual = {Phase.STARTING: f"Starting on {server.host}.", Phase.STOPPING: "Stopping."}
        trouble = self._news.trouble
        if trouble and server.reason is None and (server.phase in usual or server.phase is Phase.QUEUED):
            self._said_trouble = trouble
            return await self._note(server, message=trouble)
        if not trouble and self._said_trouble and server.message == self._said_trouble:
            self._said_trouble = ""
            return await self._note(server, message=usual.get(server.phase, server.message))
        return server

    async def _sight(self, server: Server, jobs: tuple[JobStatus, ...]) -> Sighting:
        job = next((job for job in jobs if job.job_id == server.job_id), None)
        for other in jobs:
            if other.job_id != server.job_id and not other.state.ended:
                log.warning("%s job %s has the same name and is cancelled", server, other.job_id)
                await self._cluster.queue.cancel(server.user, server.id, other.job_id)
        self._absent = self._absent + 1 if job is None else 0
        ended = job is not None and job.state.ended
        self._ended_sightings = self._ended_sightings + 1 if ended else 0
        return Sighting(
            job, max(self._absent, self._ended_sightings, 1), self._cluster.scheduler.why(job) if job else ""
        )

    async def _own_sight(self, server: Server) -> JobStatus | None:
        """Return an unlisted job as its owner sees it: a site may hide it from the service account."""
        try:
            listing = await self._cluster.queue.own_listing(server.user, server.id, self._name)
        except GatewayError as error:
            if error.transient:
                raise
            log.warning("%s its owner cannot be asked for the job: %s", server, error)
            return None
        jobs = listing.named(self._name, self._owner)
        job = next((job for job in jobs if server.job_id in (None, job.job_id)), None)
        if job is not None and not job.state.ended:
            log.error("%s the service account cannot see the job: let it see all jobs (PrivateData)", server)
        return job

    async def _carry_out(self, server: Server, decision: Decision, job: JobStatus | None) -> float:
        changes = dict(decision.changes)
        match decision.act:
            case Act.ENDING:
                await self._end(server, job.state if job else None)
            case Act.MOVE:
                assert decision.event is not None  # noqa: S101  a move has an event
                await self._move(server, decision.event, changes.pop("message", ""), **changes)
                self._cluster.poller.hurry()
            case Act.REACH:
                return await self._reach(await self._note(server, **changes))
            case Act.WAIT:
                noted = await self._note(server, **changes)
                if noted.phase is Phase.QUEUED and noted.starts and _age(noted.starts) < OVERDUE:
                    self._cluster.poller.expect(-_age(noted.starts))
                return PROBE_READY
        return 0

    async def _cancel(self, server: Server) -> None:
        """Cancel the job, again every while: a cancel may be lost, and a job may be slow to go."""
        if time.monotonic() - self._cancelled_at < CANCEL_AGAIN or server.job_id is None:
            return
        self._cancelled_at = time.monotonic()
        self._cluster.poller.hurry()
        await self._cluster.queue.cancel(server.user, server.id, server.job_id)

    async def _end(self, server: Server, state: JobState | None) -> None:
        assert server.job_id is not None  # noqa: S101  lifecycle.WITH_JOB
        try:
            ending = await self._cluster.queue.ending(server.user, server.id, server.job_id, state)
        except GatewayError as error:
            if error.transient:
                raise
            log.warning("%s nobody says how it ended: %s", server, error)
            ending = Ending(state, None, "")
        reason, text = how_it_ended(server, ending.state, ending.exit, ending.log_tail)
        await self._move(server, Event.GONE, text, reason=reason)

    # --- the way to it ------------------------------------------------------------------------------

    async def _reach(self, server: Server) -> float:
        """See that there is a way to the application, and ask whether it answers."""
        since = time.monotonic() - self._answered_at
        if server.phase is Phase.READY and not self._silences and since < PROBE_READY:
            return PROBE_READY - since
        try:
            answer = await self._way.ask(server)
        except GatewayError as error:
            return await self._silent(server, str(error))
        return await (self._answered(server) if answer.ready else self._silent(server, answer.detail))

    async def _answered(self, server: Server) -> float:
        self._silences, self._answered_at = 0, time.monotonic()
        if server.phase is Phase.READY:
            return PROBE_READY
        await self._move(server, Event.ANSWERED, f"Running on {server.host}.")
        return PROBE_READY

    async def _silent(self, server: Server, reason: str) -> float:
        self._silences += 1
        if self._silences == SILENCES_TO_BELIEVE:
            log.warning("%s does not answer: %s", server, reason)
            self._cluster.poller.hurry()
        if self._silences >= SILENCES_TO_BELIEVE:
            if server.phase is Phase.READY:
                await self._move(server, Event.SILENT, "The server does not answer at the moment.")
            elif server.phase is Phase.STARTING:
                await self._note(server, message=f"It runs on {server.host}, but does not answer yet.")
        return min(PROBE_WAITING * self._silences, PROBE_SLOWEST)

    # --- after it -----------------------------------------------------------------------------------

    async def _clean(self, server: Server) -> float | None:
        """Remove an ended server's files from the cluster; its secrets are worth nothing any more."""
        if server.cleaned or not server.attempts:
            return None
        self._cleaned += 1
        try:
            await self._cluster.queue.remove(server.user, server.id)
        except GatewayError as error:
            log.info("%s its files could not be removed: %s", server, error)
            return CLEAN_AGAIN if error.transient and self._cleaned < CLEAN_TRIES else None
        await self._tools.store.note(server.id, cleaned=True)
        return None


def _age(then: datetime) -> float:
    return (datetime.now(UTC) - then).total_seconds()
