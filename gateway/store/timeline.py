"""What happened to the servers, beside the steps of their lives: put down at once, written a little later."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.lifecycle import Phase
from gateway.model import Server
from gateway.store.database import Database, whole
from gateway.store.tables import servers, timeline
from gateway.timeline import FIRST, LAST, MOST, Entry, Happening, kept

log = logging.getLogger(__name__)

#: Entries in one transaction: a step of a server's life waits for no more than this.
_AT_ONCE = 200
#: Entries that wait for a database that does not answer; further ones are lost.
_WAITING = 10_000


class Timeline:
    """The timelines of all servers.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._new: list[tuple[str, Entry]] = []
        self._grown: set[str] = set()
        self._lost = 0

    def __repr__(self) -> str:
        return f"<Timeline, {len(self._new)} entries not yet written>"

    def add(
        self,
        server: Server,
        what: Happening,
        text: str,
        detail: str = "",
        *,
        seconds: float | None = None,
        times: int = 1,
        at: datetime | None = None,
    ) -> None:
        """Put down that something happened. It is in the database after the next :meth:`write`.

        Args:
            server: As it is now.
            what: What kind of thing.
            text: A sentence that the server's owner may read.
            detail: More, for administrators; secrets are hidden.
            seconds: How long it took.
            times: How often in a row.
            at: When, for the last time; None for now.
        """
        if len(self._new) >= _WAITING:
            self._lost += 1
            return
        entry = Entry(at or datetime.now(UTC), what, server.phase, kept(text), kept(detail), seconds, times)
        self._new.append((server.id, entry))

    def grown(self, server_id: str) -> None:
        """Look at the length of this server's timeline with the next :meth:`write`."""
        self._grown.add(server_id)

    @whole
    async def write(self) -> None:
        """Write what was put down. What tells the same as the newest row makes that one count further.

        Raises:
            DatabaseUnreachable: It stays put down, for the next time.
        """
        while self._new or self._grown:
            batch, ids = self._new[:_AT_ONCE], set(list(self._grown)[:_AT_ONCE])
            async with self._database.writing() as connection:
                ids |= {server_id for server_id, _ in batch}
                there = select(servers.c.id).where(servers.c.id.in_(ids))
                ids_there = set((await connection.execute(there)).scalars())
                for server_id, entry in batch:
                    if server_id in ids_there:
                        await _append(connection, server_id, entry)
                for server_id in ids_there:
                    await _shorten(connection, server_id)
            del self._new[: len(batch)]
            self._grown -= ids
        if self._lost:
            log.error("%d entries of timelines are lost: the database did not answer", self._lost)
            self._lost = 0

    async def of(self, server_id: str) -> Sequence[Entry]:
        """Return what happened to a server, in order, without what has not been written yet."""
        return await read(self._database, server_id)


async def read(database: Database, server_id: str) -> Sequence[Entry]:
    """Return a server's timeline, in order."""
    query = select(timeline).where(timeline.c.server_id == server_id)
    return [_entry(row) for row in await database.rows(query.order_by(timeline.c.at, timeline.c.number))]


async def write_entry(connection: AsyncConnection, server_id: str, entry: Entry) -> None:
    """Write an entry in a transaction that writes something else too."""
    await connection.execute(insert(timeline).values(server_id=server_id, **_row(entry)))


async def _append(connection: AsyncConnection, server_id: str, entry: Entry) -> None:
    newest = select(timeline).where(timeline.c.server_id == server_id).order_by(timeline.c.number.desc())
    last = (await connection.execute(newest.limit(1))).first()
    if last is None or not (before := _entry(last)).same(entry):
        await write_entry(connection, server_id, entry)
        return
    changed = update(timeline).where(timeline.c.number == last.number)
    await connection.execute(changed.values(**_row(before.again(entry))))


async def _shorten(connection: AsyncConnection, server_id: str) -> None:
    """Drop the middle of a timeline that has grown too long, and say so in one row."""
    mine = timeline.c.server_id == server_id
    rows = (await connection.execute(select(func.count()).select_from(timeline).where(mine))).scalar_one()
    if rows <= MOST:
        return
    ordered = select(timeline).where(mine).order_by(timeline.c.at, timeline.c.number)
    middle = (await connection.execute(ordered)).all()[FIRST:-LAST]
    numbers = [row.number for row in middle]
    await connection.execute(delete(timeline).where(timeline.c.number.in_(numbers)))
    entries = [_entry(row) for row in middle]
    dropped = Entry(entries[0].at, Happening.LEFT_OUT, entries[0].phase, "Rows of before were left out here.")
    times = sum(entry.times for entry in entries)
    await write_entry(connection, server_id, replace(dropped, times=times, until=entries[-1].at))


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "at": entry.at,
        "event": str(entry.event),
        "phase": entry.phase.value,
        "text": kept(entry.text),
        "detail": entry.detail,
        "seconds": entry.seconds,
        "times": entry.times,
        "until": entry.until,
    }


def _entry(row: Row[Any]) -> Entry:
    return Entry(row.at, row.event, Phase(row.phase), row.text, row.detail, row.seconds, row.times, row.until)
