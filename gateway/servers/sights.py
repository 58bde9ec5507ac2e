"""What is seen of one server's job: in the cluster's listings, and by its owner."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from gateway.decide import LISTINGS_TO_BELIEVE, Sighting
from gateway.errors import GatewayError
from gateway.model import JobId, JobState, JobStatus, Listing, Server, job_name
from gateway.servers.cluster import Cluster, News
from gateway.waiting import why_it_waits

log = logging.getLogger(__name__)


class _Streak:
    """How often in a row listings have said the same, and for how many seconds."""

    def __init__(self) -> None:
        self.times = 0
        self._since = 0.0

    def count(self, *, said: bool) -> None:
        """Count one more listing."""
        if said and not self.times:
            self._since = time.monotonic()
        self.times = self.times + 1 if said else 0

    @property
    def lasting(self) -> float:
        """Seconds since the first of them."""
        return time.monotonic() - self._since if self.times else 0.0


class Sights:
    """Looks for one server's job, and counts how often the same was seen.

    Args:
        server: Whose job.
        instance: This gateway's name in the names of its jobs.
        cluster: Where it runs.
        news: What the cluster's scheduler says.
    """

    def __init__(self, server: Server, instance: str, cluster: Cluster, news: News) -> None:
        self._instance = instance
        self._name = job_name(instance, server.id)
        self._owner = cluster.queue.owner(server.user)
        self._cluster = cluster
        self._news = news
        self._judged = news.begun
        self._absent, self._ended, self._never = _Streak(), _Streak(), _Streak()

    def forget(self) -> None:
        """Count only listings that begin from now on."""
        self._judged = self._news.begun
        self._absent, self._ended, self._never = _Streak(), _Streak(), _Streak()

    def listing(self) -> Listing | None:
        """Return the newest good listing if it has not been looked at, and is not from before `forget`.

        One that says nothing of this job is none.
        """
        if self._news.number <= self._judged:
            return None
        self._judged = self._news.number
        listing = self._news.listing
        return None if listing is None or self._name in listing.silent else listing

    def found(self, listing: Listing) -> JobId | None:
        """Return the job of a submit whose outcome is unknown, if a listing has it."""
        jobs = listing.named(self._name, self._owner)
        return jobs[0].job_id if jobs else None

    def absent_for(self, seconds: float) -> bool:
        """Count one more listing without the job; return whether there are enough, far enough apart."""
        self._absent.count(said=True)
        return self._absent.times >= LISTINGS_TO_BELIEVE and self._absent.lasting >= seconds

    async def of(self, server: Server, listing: Listing) -> Sighting:
        """Return what a listing says of the server's job; another one of its name is cancelled.

        Raises:
            GatewayError: The other one cannot be cancelled.
        """
        jobs = listing.named(self._name, self._owner)
        job = next((job for job in jobs if job.job_id == server.job_id), None)
        for other in jobs:
            if other.job_id != server.job_id and not other.state.ended:
                log.warning("%s job %s has the same name and is cancelled", server, other.job_id)
                await self._cluster.queue.cancel(server.user, server.id, other.job_id)
        self._absent.count(said=job is None)
        self._ended.count(said=job is not None and job.state.ended)
        if job is not None:  # else its owner may see it: `seen_after_all`
            self._never.count(said=job.state is JobState.CANNOT_START)
        same = self._absent if job is None else self._ended if job.state.ended else self._never
        return Sighting(job, max(same.times, 1), same.lasting, self._why(server, job) if job else "")

    def _why(self, server: Server, job: JobStatus) -> str:
        said = self._cluster.scheduler.why(job)
        return why_it_waits(job, said, server.choices, self._cluster.view.discovery, datetime.now(UTC))

    async def by_its_owner(self, server: Server, *, listed: bool = True) -> JobStatus | None:
        """Return an unlisted job as its owner sees it: a site may hide it from the service account.

        Args:
            server: As the database holds it.
            listed: Whether it is about what the last listing said, or about now.

        Raises:
            GatewayError: Nothing is known; it can be tried again.
        """
        try:
            job = self._cluster.queue.asked(self._instance, server)
            listing = await self._cluster.queue.own_listing(server.user, server.id, job, listed=listed)
        except GatewayError as error:
            if error.transient:
                raise
            log.warning("%s its owner cannot be asked for the job: %s", server, error)
            return None
        jobs = listing.named(self._name, self._owner)
        found = next((job for job in jobs if server.job_id in (None, job.job_id)), None)
        if found is not None and not found.state.ended:
            log.error("%s the service account cannot see the job: let it see all jobs (PrivateData)", server)
        return found

    def seen_after_all(self, server: Server, job: JobStatus) -> Sighting:
        """Return the sighting of a job that only its owner sees."""
        self._absent.count(said=False)
        self._never.count(said=job.state is JobState.CANNOT_START)
        same = max(self._never.times, LISTINGS_TO_BELIEVE)
        return Sighting(job, same, self._never.lasting, self._why(server, job))
