"""What was: former servers and their timelines, for commands that only read; and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select

from gateway.errors import GatewayError
from gateway.lifecycle import Phase
from gateway.model import Server
from gateway.store import tables, timeline
from gateway.store.database import Database, whole
from gateway.store.servers import COLUMNS, server_of
from gateway.store.tables import servers
from gateway.timeline import Entry

log = logging.getLogger(__name__)

#: Seconds from a hub's start until old history is forgotten, and from then on.
_FIRST, _AGAIN = 60.0, 86_400.0
#: Servers in one transaction of :meth:`History.forget`, and the seconds between two.
_AT_ONCE, _PAUSE = 100, 0.2


class History:
    """Reads what happened. No secret of a server is read with it.

    Args:
        database: Where it is kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def starts(self, user: str | None, name: str | None, limit: int) -> Sequence[Server]:
        """Return the latest starts of servers, the newest first.

        Args:
            user: Whose; None for everybody's.
            name: Of which of the person's servers, "" for the default one; None for all.
            limit: How many at most.
        """
        query = select(*COLUMNS).order_by(servers.c.created.desc(), servers.c.id).limit(limit)
        if user is not None:
            query = query.where(servers.c.user == user)
        if name is not None:
            query = query.where(servers.c.name == name)
        return [server_of(row) for row in await self._database.rows(query)]

    async def names(self, user: str) -> Sequence[str]:
        """Return the names of a person's servers that are known, in order."""
        query = select(servers.c.name).distinct().where(servers.c.user == user).order_by(servers.c.name)
        return [row.name for row in await self._database.rows(query)]

    async def people(self) -> Sequence[str]:
        """Return the names of all who are known, in order."""
        asked = select(tables.users.c.name).union(select(servers.c.user)).order_by("name")
        return [row.name for row in await self._database.rows(asked)]

    async def timeline(self, server_id: str) -> Sequence[Entry]:
        """Return what happened to a server, in order."""
        return await timeline.read(self._database, server_id)

    async def counts(self) -> Mapping[str, int]:
        """Return how many rows each table has, and how many servers are in each phase."""
        counts = {}
        for table in tables.metadata.sorted_tables:
            row = await self._database.row(select(func.count().label("rows")).select_from(table))
            counts[table.name] = row.rows if row else 0
        phases = select(servers.c.phase, func.count().label("rows")).group_by(servers.c.phase)
        counts |= {f"servers {row.phase}": row.rows for row in await self._database.rows(phases)}
        return counts

    async def forget(self, before: datetime) -> int:
        """Delete the servers that ended before a moment, with their timelines; return how many.

        It is done in small transactions, between which others have their turn.
        """
        forgotten = 0
        while some := await self._forget_some(before):
            forgotten += some
            await asyncio.sleep(_PAUSE)
        return forgotten

    @whole
    async def _forget_some(self, before: datetime) -> int:
        old = select(servers.c.id).where(servers.c.phase == Phase.ENDED.value, servers.c.changed < before)
        async with self._database.writing() as connection:
            ids = list((await connection.execute(old.limit(_AT_ONCE))).scalars())
            await connection.execute(delete(servers).where(servers.c.id.in_(ids)))
        return len(ids)


async def keep_short(history: History, days: int) -> None:
    """Forget servers that ended long ago, once a day, until cancelled.

    Args:
        history: Theirs.
        days: How long what has ended is remembered.
    """
    await asyncio.sleep(_FIRST)
    while True:
        try:
            forgotten = await history.forget(datetime.now(UTC) - timedelta(days=days))
            log.info("%d servers that ended more than %d days ago are forgotten", forgotten, days)
        except GatewayError as error:
            log.warning("old history is forgotten another day: %s", error)
        except Exception:
            log.exception("old history could not be forgotten")
        await asyncio.sleep(_AGAIN)
