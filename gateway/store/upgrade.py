"""Brings a database's schema to the one that this version of the gateway needs."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.errors import ConfigError

_MIGRATIONS = str(Path(__file__).parent / "migrations")
#: Milliseconds that one upgrade waits for another to end.
_PATIENCE = 60_000
#: The lock that two upgrades of one PostgreSQL database have in common.
_POSTGRESQL_LOCK = 0x67617465


async def upgrade(url: str) -> tuple[str | None, str]:
    """Run the migrations that a database still needs: all of them or, however it ends, none.

    Args:
        url: The database, as :class:`~gateway.store.database.Database` takes it.

    Returns:
        The revision it had (None for an empty database) and the one it has now.

    Raises:
        ConfigError: The database cannot be used, or is of a newer version.
    """
    config = Config()
    config.set_main_option("script_location", _MIGRATIONS)

    def run(connection: Connection) -> str | None:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"select pg_advisory_xact_lock({_POSTGRESQL_LOCK})"))
        before = MigrationContext.configure(connection).get_current_revision()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before

    with _translated():
        engine = create_async_engine(url)
        _check_file(url)
        _make_transactional(engine)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(run), head()
        finally:
            await engine.dispose()


def _make_transactional(engine: AsyncEngine) -> None:
    """Have SQLite change a schema in one transaction, for which another upgrade waits.

    Python's driver commits before each such statement unless it is told to leave transactions alone; see
    "Serializable isolation / Savepoints / Transactional DDL" in SQLAlchemy's chapter on SQLite.
    """
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine.sync_engine, "connect")
    def leave_transactions_alone(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_PATIENCE}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


async def current(url: str) -> str | None:
    """Return the revision of a database's schema, None if it is empty.

    Raises:
        ConfigError: The database cannot be used.
    """
    with _translated():
        engine = create_async_engine(url)
        _check_file(url)
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(
                    lambda sync: MigrationContext.configure(sync).get_current_revision()
                )
        finally:
            await engine.dispose()


def _check_file(url: str) -> None:
    """See that SQLite can read its file, here: aiosqlite's thread would die noisily of a failure."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        with closing(sqlite3.connect(parsed.database)) as connection:
            connection.execute("PRAGMA schema_version")


@contextmanager
def _translated() -> Iterator[None]:
    """Say in one sentence why the database cannot be used; never its URL, which may hold a password."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"database_url: the driver {error.name} is not installed") from error
    except (SQLAlchemyError, CommandError, sqlite3.Error, OSError) as error:
        words = error.orig if isinstance(error, DBAPIError) else error
        raise ConfigError(f"the database cannot be used: {words}") from error


def head() -> str:
    """Return the revision that this version of the gateway needs."""
    found = ScriptDirectory(_MIGRATIONS).get_current_head()
    assert found is not None  # noqa: S101  there is at least one migration
    return found
