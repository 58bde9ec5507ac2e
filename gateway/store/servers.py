"""Servers: what is and what is wanted, written before anything is done about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import AlreadyRunning, NotFound
from gateway.lifecycle import Event, Phase, after
from gateway.model import Choices, EndReason, JobId, Secrets, Server
from gateway.store.database import Database, whole
from gateway.store.sealed import Seal
from gateway.store.tables import servers
from gateway.store.timeline import Timeline, write_entry
from gateway.timeline import Entry, Happening, chosen

COLUMNS = [column for column in servers.columns if column.name != "secrets"]


class ServerStore:
    """The rows of the servers, moved along the lifecycle's table and in no other way.

    Args:
        database: Where they are kept.
        seal: Encrypts their secrets.

    Attributes:
        timeline: What happens to them. The steps of their lives are written with the steps themselves.
    """

    def __init__(self, database: Database, seal: Seal) -> None:
        self._database = database
        self._seal = seal
        self.timeline = Timeline(database)

    @whole
    async def create(self, server: Server, secrets: Secrets) -> Server:
        """Write a new server, before anything is done for it.

        Raises:
            AlreadyRunning: The person has a server of this name that has not ended.
        """
        row = {**_row(asdict(server)), "secrets": self._seal.close(secrets)}
        try:
            async with self._database.writing() as connection:
                await connection.execute(insert(servers).values(row))
                asked = Entry(_now(), Happening.CREATED, server.phase, chosen(server))
                await write_entry(connection, server.id, asked)
        except IntegrityError:
            raise AlreadyRunning(f"{server} has not ended") from None
        return server

    @whole
    async def move(self, server_id: str, event: Event, text: str = "", **changes: Any) -> Server:
        """Take a server one step along the lifecycle's table, with other changes in the same transaction.

        Args:
            server_id: Which.
            event: What happened.
            text: For the timeline.
            changes: Further fields of :class:`~gateway.model.Server`.

        Returns:
            The server as it is now.

        Raises:
            UnexpectedEvent: The table has no such step; nothing is written.
        """
        async with self._database.writing() as connection:
            server = await _one(connection, server_id)
            changes = {"message": text, **changes, "phase": after(server.phase, event), "changed": _now()}
            if changes["phase"] is Phase.ENDED:
                changes["secrets"] = None
            await connection.execute(update(servers).where(servers.c.id == server_id).values(_row(changes)))
            server = await _one(connection, server_id)
            await write_entry(connection, server_id, Entry(_now(), event, server.phase, text))
        self.timeline.grown(server_id)
        return server

    @whole
    async def note(self, server_id: str, **changes: Any) -> Server:
        """Change fields of a server that are not its phase, and return it as it is now."""
        assert "phase" not in changes  # noqa: S101  a phase changes by move() alone
        async with self._database.writing() as connection:
            await connection.execute(update(servers).where(servers.c.id == server_id).values(_row(changes)))
            return await _one(connection, server_id)

    async def get(self, server_id: str) -> Server:
        """Return a server.

        Raises:
            NotFound: There is none of this id.
        """
        row = await self._database.row(select(*COLUMNS).where(servers.c.id == server_id))
        if row is None:
            raise NotFound(f"there is no server {server_id}")
        return server_of(row)

    async def secrets(self, server_ids: Collection[str]) -> Mapping[str, Secrets]:
        """Return the secrets of those of the given servers that have not ended."""
        query = select(servers.c.id, servers.c.secrets).where(
            servers.c.id.in_(server_ids), servers.c.secrets.is_not(None)
        )
        return {row.id: self._seal.unseal(row.secrets) for row in await self._database.rows(query)}

    async def latest(self, user: str, name: str) -> Server | None:
        """Return the latest start of a person's server, whether or not it has ended."""
        query = (
            select(*COLUMNS)
            .where(servers.c.user == user, servers.c.name == name)
            .order_by(servers.c.created.desc())
            .limit(1)
        )
        row = await self._database.row(query)
        return None if row is None else server_of(row)

    async def servers_of(self, user: str) -> Sequence[Server]:
        """Return the latest start of each of a person's servers, by name."""
        newest = (
            select(servers.c.name, func.max(servers.c.created).label("created"))
            .where(servers.c.user == user)
            .group_by(servers.c.name)
            .subquery()
        )
        query = (
            select(*COLUMNS)
            .join(newest, (servers.c.name == newest.c.name) & (servers.c.created == newest.c.created))
            .where(servers.c.user == user)
            .order_by(servers.c.name)
        )
        return [server_of(row) for row in await self._database.rows(query)]

    async def named_servers(self, users: Collection[str], within: timedelta) -> Sequence[tuple[str, str]]:
        """Return (user, name) of these people's servers that changed lately, but for the default ones."""
        query = select(servers.c.user, servers.c.name).distinct()
        lately = servers.c.changed > _now() - within
        rows = await self._database.rows(query.where(servers.c.user.in_(users), servers.c.name != "", lately))
        return [(row.user, row.name) for row in rows]

    async def live(self, cluster: str | None = None) -> Sequence[Server]:
        """Return the servers that have not ended, of one cluster or of all."""
        query = select(*COLUMNS).where(servers.c.phase != Phase.ENDED.value)
        if cluster is not None:
            query = query.where(servers.c.cluster == cluster)
        return [server_of(row) for row in await self._database.rows(query)]

    async def live_of(self, users: Collection[str]) -> Sequence[Server]:
        """Return these people's servers that have not ended."""
        query = select(*COLUMNS).where(servers.c.phase != Phase.ENDED.value, servers.c.user.in_(users))
        return [server_of(row) for row in await self._database.rows(query)]

    async def uncleaned(self, within: timedelta) -> Sequence[Server]:
        """Return the servers that ended less than ``within`` ago and whose files are still on the cluster."""
        query = select(*COLUMNS).where(
            servers.c.phase == Phase.ENDED.value,
            servers.c.cleaned.is_(False),
            servers.c.changed > _now() - within,
        )
        return [server_of(row) for row in await self._database.rows(query)]


async def _one(connection: AsyncConnection, server_id: str) -> Server:
    row = (await connection.execute(select(*COLUMNS).where(servers.c.id == server_id))).first()
    if row is None:
        raise NotFound(f"there is no server {server_id}")
    return server_of(row)


def _row(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` as columns take them: enumerations by their words."""
    words = {key: value.value for key, value in values.items() if isinstance(value, Phase | EndReason)}
    return {**values, **words}


def server_of(row: Row[Any]) -> Server:
    """Return the server in a row of ``COLUMNS``."""
    fields = dict(zip((column.name for column in COLUMNS), row, strict=True))
    fields["choices"] = Choices(**fields["choices"])
    fields["phase"] = Phase(fields["phase"])
    fields["reason"] = EndReason(fields["reason"]) if fields["reason"] else None
    fields["job_id"] = JobId(fields["job_id"]) if fields["job_id"] else None
    return Server(**fields)


def _now() -> datetime:
    return datetime.now(UTC)
