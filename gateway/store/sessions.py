"""Who is logged in, with which browser, and which servers that browser was granted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import Select

from gateway.model import User
from gateway.store.database import Database
from gateway.store.tables import codes, grants, revocations, servers, sessions, tokens, users


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has logged in. ``hash`` is the SHA-256 of its cookie."""

    hash: str
    user: User
    expires: datetime


@dataclass(frozen=True, slots=True)
class Code:
    """What a one-time code stands for: it carries a login from the hub's origin to a user's."""

    session_hash: str
    server_path: str
    state_hash: str
    host: str


@dataclass(frozen=True, slots=True)
class GrantRow:
    """A browser's right to reach one server. ``cookie_hash`` is the SHA-256 of its grant cookie."""

    cookie_hash: str
    server_id: str
    expires: datetime


class SessionStore:
    """Sessions, one-time codes, grants and API tokens.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def login(self, user: User, session_hash: str, expires: datetime) -> None:
        """Remember that ``user`` has logged in with a browser, and what the directory says of them."""
        async with self._database.writing() as connection:
            await _upsert_user(connection, user)
            await connection.execute(delete(sessions).where(sessions.c.expires <= _now()))
            await connection.execute(delete(codes).where(codes.c.expires <= _now()))
            await connection.execute(
                insert(sessions).values(hash=session_hash, user=user.name, created=_now(), expires=expires)
            )

    async def session(self, session_hash: str) -> Session | None:
        """Return the session of this cookie hash, unless it has expired."""
        query = (
            select(users.c.name, users.c.admin, users.c.groups, sessions.c.expires)
            .join_from(sessions, users)
            .where(sessions.c.hash == session_hash, sessions.c.expires > _now())
        )
        row = await self._database.row(query)
        return None if row is None else Session(session_hash, _user(row, row.admin), row.expires)

    async def knows(self, name: str) -> bool:
        """Return whether somebody of this name has logged in before, or has got a token."""
        return await self._database.row(select(users.c.name).where(users.c.name == name)) is not None

    async def person(self, name: str) -> User | None:
        """Return somebody as the directory had them at their last login; None if nothing is known."""
        row = await self._database.row(
            select(users.c.name, users.c.admin, users.c.groups).where(users.c.name == name)
        )
        return None if row is None else _user(row, row.admin)

    async def end_session(self, session_hash: str) -> None:
        """Forget a session; its grants and codes go with it.

        What it was granted is kept as revocations, until the open connections have been ended.
        """
        granted = select(grants.c.server_id).where(grants.c.session_hash == session_hash).distinct()
        known = select(revocations.c.server_id)
        async with self._database.writing() as connection:
            ids = granted.where(grants.c.server_id.not_in(known))
            await connection.execute(insert(revocations).from_select(["server_id"], ids))
            await connection.execute(delete(sessions).where(sessions.c.hash == session_hash))

    async def revocations(self) -> Sequence[str]:
        """Return the ids of servers that lost a grant and whose open connections are still to be ended."""
        return [row.server_id for row in await self._database.rows(select(revocations.c.server_id))]

    async def settle_revocations(self, server_ids: Sequence[str]) -> None:
        """Forget revocations: the connections have been ended."""
        async with self._database.writing() as connection:
            await connection.execute(delete(revocations).where(revocations.c.server_id.in_(server_ids)))

    async def save_code(self, code_hash: str, code: Code, expires: datetime) -> None:
        """Remember a one-time code."""
        row = {**asdict(code), "hash": code_hash, "expires": expires}
        async with self._database.writing() as connection:
            await connection.execute(insert(codes).values(row))

    async def take_code(self, code_hash: str) -> Code | None:
        """Return what a code stands for and forget it: a second taker gets nothing."""
        async with self._database.writing() as connection:
            row = (await connection.execute(select(codes).where(codes.c.hash == code_hash))).first()
            await connection.execute(delete(codes).where(codes.c.hash == code_hash))
        if row is None or row.expires <= _now():
            return None
        return Code(row.session_hash, row.server_path, row.state_hash, row.host)

    async def add_grants(
        self, cookie_hash: str, session_hash: str, server_ids: Sequence[str], expires: datetime
    ) -> None:
        """Let the browser with this new grant cookie reach servers, for as long as its session lasts."""
        row = {"cookie_hash": cookie_hash, "session_hash": session_hash, "expires": expires}
        rows = [{**row, "server_id": server_id} for server_id in server_ids]
        async with self._database.writing() as connection:
            await connection.execute(insert(grants), rows)

    async def grants(self, server_ids: Collection[str] | None = None) -> Sequence[GrantRow]:
        """Return every grant that holds now: its session lives and its server has not ended.

        Args:
            server_ids: Only those for these starts of servers.
        """
        query = _holding_grants()
        if server_ids is not None:
            query = query.where(grants.c.server_id.in_(server_ids))
        rows = await self._database.rows(query)
        return [GrantRow(row.cookie_hash, row.server_id, row.expires) for row in rows]

    async def granted(self, cookie_hash: str, server_id: str) -> bool:
        """Return whether the browser with this grant cookie may reach this start of a server now."""
        query = _holding_grants().where(grants.c.cookie_hash == cookie_hash, grants.c.server_id == server_id)
        return await self._database.row(query) is not None

    async def add_token(self, user: User, token_hash: str, note: str, expires: datetime) -> None:
        """Remember an API token. It holds for ``user``, and for an administrator's acts if ``user`` is one.

        Whether the person is an administrator at the pages stays the directory's word.
        """
        row = {"hash": token_hash, "user": user.name, "note": note, "admin": user.admin}
        times = {"created": _now(), "expires": expires}
        async with self._database.writing() as connection:
            known = await connection.execute(select(users.c.name).where(users.c.name == user.name))
            if known.first() is None:
                await connection.execute(insert(users).values(name=user.name, admin=False, created=_now()))
            await connection.execute(delete(tokens).where(tokens.c.expires <= _now()))
            await connection.execute(insert(tokens).values(**row, **times))

    async def token_user(self, token_hash: str) -> User | None:
        """Return for whom this token holds, unless it has expired."""
        query = (
            select(users.c.name, users.c.groups, tokens.c.admin)
            .join_from(tokens, users)
            .where(tokens.c.hash == token_hash, tokens.c.expires > _now())
        )
        row = await self._database.row(query)
        return None if row is None else _user(row, row.admin)


def _holding_grants() -> Select[Any]:
    return (
        select(grants.c.cookie_hash, grants.c.server_id, grants.c.expires)
        .join(sessions, sessions.c.hash == grants.c.session_hash)
        .join(servers, servers.c.id == grants.c.server_id)
        .where(grants.c.expires > _now(), sessions.c.expires > _now(), servers.c.phase != "ended")
    )


async def _upsert_user(connection: AsyncConnection, user: User) -> None:
    values: dict[str, Any] = {"admin": user.admin, "groups": sorted(user.groups), "last_login": _now()}
    changed = await connection.execute(update(users).where(users.c.name == user.name).values(values))
    if not changed.rowcount:
        await connection.execute(insert(users).values(name=user.name, created=_now(), **values))


def _user(row: Row[Any], admin: bool) -> User:
    return User(row.name, admin, frozenset(row.groups))


def _now() -> datetime:
    return datetime.now(UTC)
