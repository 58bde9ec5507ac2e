"""The whole path with a job of the doctor's own, from the submit to the last of its files.

It is another gateway to the cluster: its jobs bear a word of its own, which no hub touches, and its tunnel is
in a directory of its own. Whatever happens, the job is cancelled and its files are removed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from gateway.address import Address
from gateway.dataplane.probe import Outcome, client_context, probe
from gateway.doctor.check import Finding, not_ok, ok
from gateway.doctor.kinds import kind_of
from gateway.doctor.patient import STRANGER, Patient
from gateway.doctor.said import Said
from gateway.doctor.walk import Step
from gateway.endpoint import parse
from gateway.errors import GatewayError, StateDirUnwritable, SubmitRefused
from gateway.launcher import relay_files
from gateway.model import Asked, Choices, Endpoint, JobEnd, JobId, JobState, JobStatus, Listing, job_name
from gateway.pki import Authority, server_name
from gateway.poller import News, Poller, Tempo
from gateway.rendering import render
from gateway.script import JobFacts
from gateway.servers import Cluster
from gateway.store.database import random_word
from gateway.urls import server_path

log = logging.getLogger(__name__)

#: Seconds that each phase may take.
SUBMIT, START, PUBLISH, TUNNEL, ANSWER, CANCEL, GONE = 60.0, 120.0, 90.0, 20.0, 30.0, 60.0, 60.0
#: Good listings in a row without the job, after which it is believed not to be shown.
_ABSENT = 3
_LOG_EVERY = 2.0
#: How often, a second apart, the job of a submit without an answer is looked for.
_LATE_LISTINGS = 8
#: What the job's wrapper writes into its log, after what the scheduler's program wrote.
NOT_TAKEN = "the scheduler did not take where the application listens"
#: Of such an "end" nobody asks the accounting.
_STILL_RUNS = JobEnd(JobState.RUNNING)
_APPLICATIONS_LINE = re.compile(r"\[[A-Z] ")


@dataclass(frozen=True, slots=True)
class _Ticket:
    """What the doctor's own server is called."""

    instance: str
    server_id: str
    run: str
    token: str

    @classmethod
    def new(cls) -> _Ticket:
        return cls(random_word(6), random_word(10), secrets.token_hex(8), secrets.token_urlsafe(32))

    @property
    def name(self) -> str:
        return job_name(self.instance, self.server_id)


class JobWalk:
    """One job and its steps; an async context manager that takes away what is left of it.

    Args:
        patient: The cluster.
        cluster: The parts that act on it.
        choices: What is submitted.
        said: What is known of the cluster.
    """

    def __init__(self, patient: Patient, cluster: Cluster, choices: Choices, said: Said) -> None:
        self._patient = patient
        self._everything = said
        self._kind = kind_of(patient.site.scheduler)
        self._queue, self._tunnel = cluster.queue, cluster.tunnel
        self._scheduler = cluster.scheduler
        self._choices = choices
        self._user = patient.user or STRANGER
        self._ticket = _Ticket.new()
        self._authority = Authority.open(patient.scratch / "ca")
        self._poller = Poller(cluster.queue, Tempo(busy=1.0, busy_for=600.0))
        self._polling: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()
        self._seen: JobStatus | None = None
        self._absent = 0
        self._hidden = False
        self._trouble: GatewayError | None = None
        self._job_id: JobId | None = None
        self._submitted = datetime.now(UTC)
        self._left = False
        self._endpoint: Endpoint | None = None
        self._address: Address | None = None

    def steps(self, needs: Iterable[str]) -> list[Step]:
        """Return the phases as steps, in their order.

        Args:
            needs: The names of the steps without which no job can be submitted.
        """
        name = self._name
        path = ["submitted", "started", "published", "tunnelled", "answered"]
        steps = [
            Step(name("submitted"), self.submitted, tuple(needs), SUBMIT),
            Step(name("started"), self.started, (name("submitted"),), START + 5),
            Step(name("published"), self.published, (name("started"),), PUBLISH + 5),
            Step(name("tunnelled"), self.tunnelled, (name("published"),), TUNNEL),
            Step(name("answered"), self.answered, (name("tunnelled"),), ANSWER + 5),
            Step(name("cancelled"), self.cancelled, (name("submitted"),), CANCEL, tuple(map(name, path))),
            Step(name("gone"), self.gone, (name("cancelled"),), GONE + 30),
        ]
        return [replace(step, timed=True) for step in steps]

    def _name(self, phase: str) -> str:
        return f"{self._patient.site.name}: job {phase}"

    async def __aenter__(self) -> Self:
        self._polling = asyncio.create_task(self._poller.run(self._wanted, self._take))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._polling is not None:
            self._polling.cancel()
        try:
            await self._take_away()
        except (GatewayError, OSError) as trouble:
            log.error(
                "job %s of %s is left behind: %s", self._job_id or self._ticket.name, self._user, trouble
            )
        try:
            await self._tunnel.stop()
        except (GatewayError, OSError) as trouble:
            log.error("the tunnel of %s is left behind: %s", self._job_id or self._ticket.name, trouble)

    async def _take_away(self) -> None:
        """End what may be there of the job, after a step was interrupted or got no answer."""
        if not self._left:
            return
        for job_id in [self._job_id] if self._job_id else await self._come_late():
            await self._queue.cancel(self._user, self._ticket.server_id, job_id)
        await self._queue.remove(self._user, self._ticket.server_id)

    async def _come_late(self) -> list[JobId]:
        """Return the job of a submit that gave no answer, if it comes of it within some seconds."""
        for _ in range(_LATE_LISTINGS):
            listing = await self._queue.listing([self._asked])
            if jobs := [job.job_id for job in listing.jobs if not job.state.ended]:
                return jobs
            await asyncio.sleep(1)
        return []

    # --- what the poller brings -----------------------------------------------------------------------

    @property
    def _asked(self) -> Asked:
        owner = self._queue.owner(self._user)
        return Asked(self._ticket.name, owner, self._job_id, self._submitted)

    async def _wanted(self) -> Collection[Asked]:
        return [self._asked] if self._job_id else []

    async def _take(self, news: News) -> None:
        async with self._news:
            if isinstance(news, Listing):
                if self._ticket.name in news.silent:
                    return
                jobs = news.named(self._ticket.name, self._queue.owner(self._user))
                self._seen = next((job for job in jobs if job.job_id == self._job_id), None)
                self._absent = 0 if self._seen else self._absent + 1
                self._trouble = None
            else:
                self._trouble = news
            self._news.notify_all()

    async def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Return whether ``done()`` after so many seconds; asked anew with each poll."""
        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(done)
        except TimeoutError:
            return done()
        return True

    @property
    def _over(self) -> bool:
        """Whether the job has ended, or is not shown (any more)."""
        return self._absent >= _ABSENT or (self._seen is not None and self._seen.state.ended)

    # --- the phases -----------------------------------------------------------------------------------

    async def submitted(self) -> Finding:
        """Hand the job to the scheduler."""
        self._left = True
        self._submitted = datetime.now(UTC)
        choices = self._choices
        with suppress(GatewayError):  # where others' jobs are hidden, the queue learns it by this
            self._hidden = bool((await self._queue.discover(self._ticket.instance)).hidden)
        files = await self._files()
        try:
            self._job_id = await self._queue.submit(self._user, self._ticket.server_id, files)
        except SubmitRefused as error:
            self._left = False
            await self._queue.remove(self._user, self._ticket.server_id)
            return not_ok(error.public, "Choose what the cluster takes: -o partition=... -o account=...")
        except StateDirUnwritable as error:
            self._left = False
            return not_ok(str(error), "See the step state directory.")
        self._poller.hurry()
        return ok(f"job {self._job_id} of {self._queue.owner(self._user)} in {choices.partition}")

    async def _files(self) -> dict[str, bytes]:
        site, ticket = await self._everything.whole(), self._ticket
        ends = datetime.now(UTC) + timedelta(hours=24)
        key, certificate = self._authority.issue(ticket.server_id, ends)
        facts = JobFacts(
            instance=ticket.instance,
            server_id=ticket.server_id,
            run=ticket.run,
            user=self._queue.owner(self._user),
            server_name="",
            base_url=server_path(self._user, ""),
            node_tls=self._tls,
        )
        return {
            "script": (await render(site, self._choices, facts)).encode(),
            "token": ticket.token.encode(),
            "key.pem": key.encode(),
            "cert.pem": certificate.encode(),
            "client-ca.pem": self._authority.client_ca.read_bytes(),
            **relay_files(site.application(self._choices.application)),
        }

    @property
    def _tls(self) -> bool:
        return self._patient.site.tunnel.node_security == "tls"

    async def started(self) -> Finding:
        """Wait until the job runs."""
        await self._until(lambda: self._over or bool(self._seen and self._seen.state.on_node), START)
        job = self._seen
        if job is None:
            if self._trouble is not None:
                return not_ok(f"the scheduler does not say: {self._trouble}", "See the step scheduler.")
            return not_ok(
                f"job {self._job_id} was accepted, but the service account does not see it",
                f"Let {self._patient.site.login.user} see all jobs: see the step other users' jobs.",
            )
        if job.state.on_node:
            return ok(f"on {job.host}")
        if job.state.ended:
            return await self._ended(job)
        why = self._scheduler.why(job)
        return not_ok(
            f"it still waits after {START:g} s: {why} ({job.native} {job.reason})",
            f"Where nodes are free it starts at once: -o partition=...   ({self._kind.partitions})",
        )

    async def published(self) -> Finding:
        """Wait until the job says where its application listens."""
        end = asyncio.get_running_loop().time() + PUBLISH
        while asyncio.get_running_loop().time() < end:
            if await self._until(lambda: self._over or self._said() is not None, _LOG_EVERY):
                break
            if self._seen is not None and (words := refusal(await self._log())):
                return self._unpublished(words)
        self._endpoint = self._said()
        if self._endpoint is not None:
            return ok(f"{self._endpoint.host}:{self._endpoint.port}")
        if self._seen is None or self._over:
            return await self._ended(self._seen)
        return not_ok(
            f"the application does not listen after {PUBLISH:g} s; its log ends: {_last(await self._log())}",
            f"See applications in {self._patient.file}, or give it longer: -o walltime=10m",
        )

    def _said(self) -> Endpoint | None:
        job = self._seen
        if job is None:
            return None
        ports = self._patient.site.tunnel.ports
        return parse(job.comment, run=self._ticket.run, restarts=job.restarts, host=job.host, ports=ports)

    def _unpublished(self, words: str) -> Finding:
        return not_ok(
            f"the application listens, but the scheduler does not take the job's comment: {words}",
            f"{self._kind.publishing}, as {self._user} in a job. Or login.callback: true in "
            f"{self._patient.file}, where compute nodes reach the hub.",
        )

    async def _ended(self, job: JobStatus | None) -> Finding:
        state = job.state if job else None
        seen = JobEnd(job.state, native=job.native) if job and job.state.ended else None
        try:
            ending = await self._queue.ending(self._user, self._ticket.server_id, self._asked, seen)
        except GatewayError as error:
            words = f"the job has ended ({state or 'unknown'}), and its log cannot be read: {error}"
            return not_ok(words, self._kind.job.format(self._job_id))
        return not_ok(
            f"the job has ended: {ending.words}; the end of its log: {_last(ending.log_tail)}",
            f"gateway render {self._patient.site.name} --user {self._user}   prints the script; "
            f"applications: prologue and command are in {self._patient.file}.",
        )

    async def _log(self) -> str:
        ending = await self._queue.ending(self._user, self._ticket.server_id, self._asked, _STILL_RUNS)
        return ending.log_tail

    def _job(self) -> JobId:
        assert self._job_id is not None  # noqa: S101  every phase needs the first
        return self._job_id

    async def tunnelled(self) -> Finding:
        """Make the way to the application."""
        assert self._endpoint is not None  # noqa: S101
        await self._tunnel.tend()
        where = self._endpoint
        owner = self._queue.owner(self._user)
        self._address = await self._tunnel.forward(self._ticket.server_id, 0, where.host, where.port, owner)
        return ok(f"{self._patient.site.tunnel.kind} to {where.host}:{where.port}")

    async def answered(self) -> Finding:
        """Ask the application for an answer."""
        assert self._endpoint is not None  # noqa: S101
        assert self._address is not None  # noqa: S101
        context = client_context(self._authority) if self._tls else None
        end = asyncio.get_running_loop().time() + ANSWER
        while True:
            answer = await probe(
                self._address,
                server_path(self._user, "") + "api",
                token=self._ticket.token,
                tls=context,
                server_name=server_name(self._ticket.server_id),
                timeout=5.0,
            )
            if answer.ready:
                return ok(answer.detail + (", TLS verified on both ends" if context else ""))
            if asyncio.get_running_loop().time() > end or answer.outcome is Outcome.WRONG_PROCESS:
                break
            await asyncio.sleep(0.2)
        where = f"{self._endpoint.host} {self._endpoint.port}"
        return not_ok(
            f"the application does not answer through the tunnel: {answer.detail}",
            f"On {self._patient.where} while it runs: nc -vz {where}   (the firewall of the compute nodes "
            "has to let tunnel.ports through)",
        )

    async def cancelled(self) -> Finding:
        """Cancel the job."""
        await self._tunnel.stop()
        await self._queue.cancel(self._user, self._ticket.server_id, self._job())
        self._poller.hurry()
        return ok(f"job {self._job_id}")

    async def _owner_sees_none(self) -> bool:
        """Return whether the job's owner sees it end: where jobs are hidden the poller asks too seldom."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GONE):
                while True:
                    listing = await self._queue.own_listing(self._user, self._ticket.server_id, self._asked)
                    jobs = listing.named(self._ticket.name, self._queue.owner(self._user))
                    if all(job.state.ended for job in jobs):
                        return True
                    await asyncio.sleep(2)
        return False

    async def gone(self) -> Finding:
        """Wait until the job has ended, and remove its files."""
        self._absent = 0
        over = await (self._owner_sees_none() if self._hidden else self._until(lambda: self._over, GONE))
        await self._queue.remove(self._user, self._ticket.server_id)
        self._left = False
        if not over:
            return not_ok(
                f"it is still there {GONE:g} s after it was cancelled", self._kind.job.format(self._job_id)
            )
        return ok("ended, and its files are removed")


def refusal(log_tail: str) -> str:
    """Return why the scheduler did not take the endpoint, by the job's log; empty if it did. Pure."""
    before, found, _ = log_tail.rpartition(NOT_TAKEN)
    said = [line.strip() for line in before.splitlines()[:-1] if not _APPLICATIONS_LINE.match(line)]
    return (said[-1] if said else "no words") if found else ""


def _last(text: str, lines: int = 3) -> str:
    """Return the last lines of a log as one."""
    return (
        " / ".join(line.strip() for line in text.strip().splitlines()[-lines:] if line.strip())[-400:]
        or "empty"
    )
