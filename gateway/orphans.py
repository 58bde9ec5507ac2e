"""Jobs of this instance that no server answers for: shown to administrators, and cancelled after a while.

They are there after the database was restored from before they were started, or where a job that was believed
gone comes back. Those of other instances are never touched, nor is a job of a server that has not ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from gateway.discovery import Discovery
from gateway.errors import GatewayError
from gateway.model import SERVER_ID, Asked, JobId, JobStatus, Listing, job_name
from gateway.store.orphans import Orphan, OrphanStore

log = logging.getLogger(__name__)

#: Seconds between two looks at what the clusters have.
LOOK_AGAIN = 2.0
#: How long a job may still be listed after its server has ended.
MAY_LINGER = timedelta(minutes=10)
#: Between two tries to cancel the same.
TRY_AGAIN = timedelta(hours=1)
#: The most that are kept of a cluster: anybody there may give jobs such names.
MOST = 500
#: The most of one owner, so that what one person forges does not push out others' real ones.
MOST_OF_OWNER = 50


class Cluster(Protocol):
    """What acts on a cluster: `gateway.queue.Queue`."""

    async def own_listing(self, user: str, server_id: str, job: Asked) -> Listing:
        """Return a job as its owner sees it."""

    async def cancel(self, user: str, server_id: str, job_id: JobId) -> None:
        """End a job."""


class Orphans:
    """Looks for them.

    Args:
        instance: This gateway's name in the names of its jobs.
        store: Where they are kept.
        clusters: By name.
        discoveries: Returns what the schedulers have said of their clusters.
        grace: After which an orphan is cancelled.
    """

    def __init__(
        self,
        instance: str,
        store: OrphanStore,
        clusters: Mapping[str, Cluster],
        discoveries: Callable[[], Mapping[str, Discovery]],
        grace: timedelta,
    ) -> None:
        self._instance = instance
        self._store = store
        self._clusters = clusters
        self._discoveries = discoveries
        self.grace = grace
        self._looked: dict[str, datetime] = {}
        self._tried: dict[tuple[str, JobId], datetime] = {}

    async def all(self) -> Sequence[Orphan]:
        """Return those that are known, the oldest first."""
        return await self._store.all()

    def cancelled_after(self, orphan: Orphan) -> datetime:
        """Return when an orphan is cancelled, if it is still there."""
        return orphan.first_seen + self.grace

    async def run(self) -> None:
        """Look, again and again, until cancelled."""
        while True:
            for cluster in self._clusters:
                try:
                    await self.look(cluster)
                except GatewayError as error:
                    log.warning("%s: orphans are looked for later: %s", cluster, error)
                except Exception:
                    log.exception("%s: orphans could not be looked for", cluster)
            await asyncio.sleep(LOOK_AGAIN)

    async def look(self, cluster: str) -> None:
        """Compare what a cluster has with what the database knows; cancel what has been unknown for long.

        Raises:
            GatewayError: The database did not answer.
        """
        found = self._discoveries().get(cluster)
        if found is None or found.at is None or found.ours is None or found.hidden:
            return  # nothing is known, or not of everybody's jobs
        if self._looked.get(cluster) == found.at:
            return
        jobs = named_by(self._instance, found.ours)
        answered = await self._store.answered_for(list(jobs), datetime.now(UTC) - MAY_LINGER)
        known, elsewhere = await self._store.of(cluster), await self._known_elsewhere(cluster)
        unknown = [
            job
            for server_id, there in jobs.items()
            if server_id not in answered
            for job in there
            if (job.job_id, job.name, job.user) not in elsewhere
        ]
        now_there = merged(cluster, known, kept(known, unknown), datetime.now(UTC))
        if set(now_there) != set(known):
            await self._store.replace(cluster, now_there)
            self._tell(now_there, known)
        self._looked[cluster] = found.at
        for orphan in now_there:
            if self._is_due(orphan):
                await self._cancel(orphan)

    async def _known_elsewhere(self, cluster: str) -> set[tuple[str, str, str]]:
        """Return what other site configs have found: where two are of one scheduler, each shows its jobs."""
        others = self._clusters.keys() - {cluster}
        found = await self._store.all() if others else ()
        return {(each.job_id, each.name, each.owner) for each in found if each.cluster in others}

    def _tell(self, now_there: Sequence[Orphan], known: Sequence[Orphan]) -> None:
        told = {orphan.job_id for orphan in known}
        for orphan in now_there:
            if orphan.job_id not in told:
                log.warning(
                    "%s: job %s (%s) of %s is one of this gateway's that no server answers for; it is "
                    "cancelled after %s",
                    *(orphan.cluster, orphan.job_id, orphan.name, orphan.owner),
                    f"{self.cancelled_after(orphan):%Y-%m-%d %H:%M UTC}",
                )

    def _is_due(self, orphan: Orphan) -> bool:
        now, key = datetime.now(UTC), (orphan.cluster, orphan.job_id)
        tried = self._tried.get(key, orphan.cancelled)
        return self.cancelled_after(orphan) <= now and (tried is None or now - tried > TRY_AGAIN)

    async def _cancel(self, orphan: Orphan) -> None:
        """Cancel an orphan as its owner, if it is still the same job and still nobody's."""
        self._tried[orphan.cluster, orphan.job_id] = datetime.now(UTC)
        queue, server_id = self._clusters[orphan.cluster], orphan.name[-10:]
        asked = Asked(orphan.name, orphan.owner, orphan.job_id)
        try:
            listing = await queue.own_listing(orphan.owner, server_id, asked)
            there = [job.job_id for job in listing.named(orphan.name, orphan.owner) if not job.state.ended]
            if orphan.job_id not in there:
                return
            if await self._store.answered_for([server_id], datetime.now(UTC) - MAY_LINGER):
                return
            await queue.cancel(orphan.owner, server_id, orphan.job_id)
            await self._store.cancelled(orphan)
        except GatewayError as error:
            log.warning("%s: job %s of %s stays: %s", orphan.cluster, orphan.job_id, orphan.owner, error)
            return
        log.warning(
            "%s: job %s of %s, which no server answers for, is cancelled",
            orphan.cluster,
            orphan.job_id,
            orphan.owner,
        )


def named_by(instance: str, jobs: Iterable[JobStatus]) -> dict[str, list[JobStatus]]:
    """Return those of the jobs that have not ended and have a name of this instance, by server id."""
    found: dict[str, list[JobStatus]] = {}
    for job in jobs:
        server_id = job.name[-10:]
        if (
            SERVER_ID.fullmatch(server_id)
            and job.name == job_name(instance, server_id)
            and not job.state.ended
        ):
            found.setdefault(server_id, []).append(job)
    return found


def kept(known: Iterable[Orphan], unknown: Iterable[JobStatus]) -> list[JobStatus]:
    """Return those that are looked after, the known ones first: anybody may forge as many as they like."""
    before = {(orphan.job_id, orphan.name, orphan.owner) for orphan in known}
    of_owner: Counter[str] = Counter()
    found = []
    for job in sorted(unknown, key=lambda job: (job.job_id, job.name, job.user) not in before):
        of_owner[job.user] += 1
        if of_owner[job.user] <= MOST_OF_OWNER:
            found.append(job)
    return found[:MOST]


def merged(
    cluster: str, known: Iterable[Orphan], unknown: Iterable[JobStatus], now: datetime
) -> list[Orphan]:
    """Return the orphans that there are: those that were known stay as they were written."""
    before = {(orphan.job_id, orphan.name, orphan.owner): orphan for orphan in known}
    there = {
        (job.job_id, job.name, job.user): Orphan(cluster, job.job_id, job.name, job.user, now)
        for job in unknown
    }
    by_id = {orphan.job_id: before.get(key, orphan) for key, orphan in there.items()}
    return list(by_id.values())
