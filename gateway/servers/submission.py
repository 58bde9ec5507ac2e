"""How a server that is wanted gets a job: one, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from gateway.errors import GatewayError, SubmitOutcomeUnknown
from gateway.launcher import relay_files
from gateway.lifecycle import Event, Phase
from gateway.model import EndReason, JobId, Server
from gateway.script import JobFacts
from gateway.servers import patience
from gateway.servers.cluster import Cluster
from gateway.servers.record import Record
from gateway.servers.sights import Sights
from gateway.servers.tools import Tools
from gateway.timeline import Happening
from gateway.urls import server_path

log = logging.getLogger(__name__)

#: Ends what a person is told while a submit is tried again and again.
_TRYING = " The gateway goes on trying by itself."


class Submission:
    """Takes one server from the intent to a job in the queue.

    Args:
        server: As the database holds it.
        tools: What it works with.
        record: Where it is written.
        sights: Looks for the job.
    """

    def __init__(self, server: Server, tools: Tools, record: Record, sights: Sights) -> None:
        self._tools = tools
        self._record = record
        self._sights = sights
        #: Until when a job may come of a submit that gave no answer, to this hub or to the one before it.
        unknown = server.phase is Phase.SUBMITTING
        self._may_come_until = time.monotonic() + patience.SUBMIT_MAY_TAKE if unknown else 0.0

    def _cluster(self, server: Server) -> Cluster:
        return self._tools.clusters[server.cluster]

    async def intend(self, server: Server) -> float:
        """Submit a server's job, or give it up; return the seconds until the next step."""
        tried_long = server.attempts and _age(server.created) > patience.SUBMIT_PATIENCE
        if (not server.wanted or tried_long) and self._may_come_until:
            if time.monotonic() < self._may_come_until:
                return patience.SETTLE_GAP  # nobody would look for a job that is submitted only now
            if job := await self._sights.by_its_owner(server, listed=False):
                server = await self._record.move(server, Event.SUBMIT, server.message)
                await self._accepted(server, job.job_id)
                return 0
        if not server.wanted:
            await self._record.move(server, Event.STOP, "Stopped.", reason=EndReason.STOPPED)
            return 0
        if tried_long:
            tried = server.message.removesuffix(_TRYING)
            text = f"{tried} The gateway has stopped trying, and nothing was started. Start again later."
            await self._record.move(server, Event.REFUSED, text, reason=EndReason.FAILED)
            return 0
        text = server.message or "Handing your job to the scheduler."
        server = await self._record.move(server, Event.SUBMIT, text, attempts=server.attempts + 1)
        return await self._submit(server)

    async def _submit(self, server: Server) -> float:
        self._sights.forget()
        try:
            files = await self._files(server)
            async with self._record.act(server, Happening.SUBMISSION) as done:
                job_id = await self._cluster(server).queue.submit(server.user, server.id, files)
                done.text = f"The scheduler took it as job {job_id}."
        except SubmitOutcomeUnknown as error:
            log.warning("%s %s", server, error)
            self._may_come_until = time.monotonic() + patience.SUBMIT_MAY_TAKE
            await self._record.note(server, message=error.text)
            return 0
        except GatewayError as error:
            log.warning("%s %s", server, error)
            if error.transient:
                await self._record.move(server, Event.NOT_FOUND, error.public + _TRYING)
                raise
            await self._record.move(server, Event.REFUSED, error.text, reason=EndReason.REFUSED)
            return 0
        await self._accepted(server, job_id)
        return 0

    async def _accepted(self, server: Server, job_id: JobId) -> None:
        self._sights.forget()
        await self._record.move(server, Event.ACCEPTED, "Waiting in the queue.", job_id=job_id)
        self._cluster(server).poller.hurry()

    async def _files(self, server: Server) -> Mapping[str, bytes]:
        site = self._cluster(server).site
        secrets = await self._tools.secrets(server)
        callback = self._tools.callback if site.login.callback and self._tools.callback.url else None
        facts = JobFacts(
            instance=self._tools.instance,
            server_id=server.id,
            run=server.run,
            user=self._cluster(server).queue.owner(server.user),
            server_name=server.name,
            base_url=server_path(server.user, server.name, self._tools.base),
            node_tls=site.tunnel.node_security == "tls",
            callback_url=f"{callback.url}{server.id}" if callback else "",
        )
        script = await self._tools.renderer.render(site, server.choices, facts)
        return {
            "script": script.encode(),
            "token": secrets.token.encode(),
            "key.pem": secrets.key_pem.encode(),
            "cert.pem": secrets.certificate_pem.encode(),
            "client-ca.pem": await asyncio.to_thread(Path(self._tools.authority.client_ca).read_bytes),
            **(callback.files(secrets.token) if callback else {}),
            **relay_files(site.application(server.application)),
        }

    async def settle(self, server: Server) -> float:
        """Find out by its name whether a job of unknown outcome exists. Only then is anything done."""
        if (listing := self._sights.listing()) is None:
            self._cluster(server).poller.hurry()
            return patience.SETTLE_GAP
        if job_id := self._sights.found(listing):
            await self._accepted(server, job_id)
            return 0
        if not self._sights.absent_for(patience.SETTLE_GAP):
            self._cluster(server).poller.hurry()
            return patience.SETTLE_GAP
        if job := await self._sights.by_its_owner(server):
            await self._accepted(server, job.job_id)
            return 0
        text = "The cluster did not take your job." + _TRYING
        await self._record.move(server, Event.NOT_FOUND, text)
        return 0


def _age(then: datetime) -> float:
    return (datetime.now(UTC) - then).total_seconds()
