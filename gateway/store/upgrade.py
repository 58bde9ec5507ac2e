"""Brings a database's schema to the one that this version of the gateway needs."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

_MIGRATIONS = str(Path(__file__).parent / "migrations")


async def upgrade(url: str) -> tuple[str | None, str]:
    """Run the migrations that a database still needs.

    Args:
        url: The database, as :class:`~gateway.store.database.Database` takes it.

    Returns:
        The revision it had (None for an empty database) and the one it has now.
    """
    config = Config()
    config.set_main_option("script_location", _MIGRATIONS)

    def run(connection: Connection) -> str | None:
        before = MigrationContext.configure(connection).get_current_revision()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before

    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(run), head()
    finally:
        await engine.dispose()


async def current(url: str) -> str | None:
    """Return the revision of a database's schema, None if it is empty."""
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(
                lambda sync: MigrationContext.configure(sync).get_current_revision()
            )
    finally:
        await engine.dispose()


def head() -> str:
    """Return the revision that this version of the gateway needs."""
    found = ScriptDirectory(_MIGRATIONS).get_current_head()
    assert found is not None  # noqa: S101  there is at least one migration
    return found
