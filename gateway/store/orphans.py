"""Jobs with names of this instance that no server knows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, insert, select, update

from gateway.lifecycle import Phase
from gateway.model import JobId
from gateway.store.database import Database, whole
from gateway.store.tables import orphans, servers


@dataclass(frozen=True, slots=True)
class Orphan:
    """A job that nobody answers for: it was first seen, and perhaps cancelled, then."""

    cluster: str
    job_id: JobId
    name: str
    owner: str
    first_seen: datetime
    cancelled: datetime | None = None


def batched(ids: Sequence[str], size: int = 1000) -> Iterator[Sequence[str]]:
    """Yield the ids in parts that a statement can hold."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


class OrphanStore:
    """The rows of the orphans; and what the servers' rows say of jobs.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> Sequence[Orphan]:
        """Return all orphans, the oldest first."""
        query = select(orphans).order_by(orphans.c.first_seen, orphans.c.cluster, orphans.c.job_id)
        return [Orphan(**row._asdict()) for row in await self._database.rows(query)]

    async def of(self, cluster: str) -> Sequence[Orphan]:
        """Return those of one cluster."""
        query = select(orphans).where(orphans.c.cluster == cluster)
        return [Orphan(**row._asdict()) for row in await self._database.rows(query)]

    @whole
    async def replace(self, cluster: str, known: Sequence[Orphan]) -> None:
        """Write which orphans a cluster has: these and no others."""
        async with self._database.writing() as connection:
            await connection.execute(delete(orphans).where(orphans.c.cluster == cluster))
            if known:
                await connection.execute(insert(orphans), [asdict(orphan) for orphan in known])

    @whole
    async def cancelled(self, orphan: Orphan) -> None:
        """Write that an orphan was cancelled now."""
        this = (orphans.c.cluster == orphan.cluster) & (orphans.c.job_id == orphan.job_id)
        async with self._database.writing() as connection:
            await connection.execute(update(orphans).where(this).values(cancelled=datetime.now(UTC)))

    async def answered_for(self, server_ids: Collection[str], ended_after: datetime) -> frozenset[str]:
        """Return those of the ids whose server has not ended, or ended only after that moment."""
        lives = (servers.c.phase != Phase.ENDED.value) | (servers.c.changed > ended_after)
        found: set[str] = set()
        for some in batched(list(server_ids)):
            query = select(servers.c.id).where(servers.c.id.in_(some), lives)
            found.update(row.id for row in await self._database.rows(query))
        return frozenset(found)
