"""The connection to the database: one engine, one writer at a time."""

from __future__ import annotations

import asyncio
import functools
import re
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, Self, TypeVar
from urllib.parse import unquote

from sqlalchemy import Row, event, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql import CompoundSelect, Select

from gateway.errors import GatewayError
from gateway.store import tables

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


P = ParamSpec("P")
R = TypeVar("R")


class DatabaseUnreachable(GatewayError):
    """The database did not answer, or not as it should."""

    default_public = "The gateway's database is not answering. Your jobs are untouched."
    default_advice = "Wait a minute and load the page again."
    transient = True
    status = 503


def random_word(length: int) -> str:
    """Return ``length`` random characters of the alphabet that ids are written in (five bits each)."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def shown(url: str) -> str:
    """Return a database's URL without what may be secret in it: the password and the options."""
    try:
        return make_url(url).set(query={}).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return "not a database's URL"


def secrets_in(url: str) -> list[str]:
    """Return what may be secret in a database's URL: the password, and the values of the options."""
    found = re.findall(r"(?<=://)[^/:]*:(.*)@|[?&][^=&]*=([^&]*)", url)
    return [unquote(secret) for pair in found for secret in pair if secret]


def whole(write: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Have a method that writes go on to its end when its caller is cancelled, who waits for that.

    A transaction that is cut off can leave SQLite locked until the garbage collector comes by (seen with
    aiosqlite 0.22: the closed connection lives on in its cursor).
    """

    @functools.wraps(write)
    async def call(*words: P.args, **named: P.kwargs) -> R:
        task = asyncio.create_task(write(*words, **named))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    return call


class Database:
    """An engine, and the rule that writes come one after the other.

    Args:
        url: An SQLAlchemy URL, ``sqlite+aiosqlite:///…`` or ``postgresql+asyncpg://…``.
    """

    def __init__(self, url: str) -> None:
        self._engine: AsyncEngine = create_async_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        self._writing = asyncio.Lock()
        if make_url(url).get_backend_name() == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _sqlite_pragmas)

    def __repr__(self) -> str:
        return f"<Database {self._engine.url.render_as_string(hide_password=True)}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._engine.dispose()

    async def rows(self, query: Select[Any] | CompoundSelect[Any]) -> Sequence[Row[Any]]:
        """Return all rows of ``query``.

        Raises:
            DatabaseUnreachable: The database failed.
        """
        try:
            async with self._engine.connect() as connection:
                rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
                return rows
        except (DBAPIError, PoolTimeoutError, OSError) as error:
            raise _unreachable(error) from error

    async def row(self, query: Select[Any]) -> Row[Any] | None:
        """Return the first row of ``query``, if there is one."""
        return next(iter(await self.rows(query)), None)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction, the only one that writes. It is durable when the block has been left."""
        async with self._writing:
            try:
                async with self._engine.begin() as connection:
                    yield connection
            except IntegrityError:
                raise  # a fact about the data, for the caller to understand
            except (DBAPIError, PoolTimeoutError, OSError) as error:
                raise _unreachable(error) from error

    async def instance(self) -> str:
        """Return this database's own random name, made when it is first asked for."""
        query = select(tables.meta.c.value).where(tables.meta.c.key == "instance")
        async with self.writing() as connection:
            found = (await connection.execute(query)).scalar()
            if found:
                return str(found)
            made = random_word(6)
            await connection.execute(insert(tables.meta).values(key="instance", value=made))
            return made


def _unreachable(error: DBAPIError | PoolTimeoutError | OSError) -> DatabaseUnreachable:
    """Return our error, without the statement's values, which SQLAlchemy's own would show."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return DatabaseUnreachable(f"{type(cause).__name__}: {cause}")


def _sqlite_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
