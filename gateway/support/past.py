"""The past, from a database that is only read, whether or not the hub runs."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.store import Database, History
from gateway.store.upgrade import current, head


@asynccontextmanager
async def history(settings: Settings) -> AsyncIterator[History]:
    """Open what happened. Raises as `remembered`."""
    async with remembered(settings) as database:
        yield History(database)


@asynccontextmanager
async def remembered(settings: Settings) -> AsyncIterator[Database]:
    """Open the database; nothing is made or changed.

    Raises:
        ConfigError: There is none, it is another user's, or of another version.
    """
    check_owner(settings)
    revision = await current(settings.database_url)
    if revision is None:
        raise ConfigError(f"{settings.source}: the database is empty: the gateway has never run with it")
    if revision != head():
        raise ConfigError(f"the database has schema {revision}, not {head()}: run gateway db upgrade")
    async with Database(settings.database_url) as database:
        yield database


def check_owner(settings: Settings) -> None:
    """See that reading leaves no file of another user beside the database, as SQLite would make it.

    Raises:
        ConfigError: The database's directory is not there, or another user's.
    """
    directory = settings.state_dir
    try:
        owner = directory.stat().st_uid
    except OSError as error:
        where = f"{settings.source}: c.Gateway.state_dir: {directory}"
        raise ConfigError(f"{where}: {error.strerror}") from None
    if owner != os.getuid():
        user = _user_name(owner)
        raise ConfigError(f"{directory} belongs to the user {user}: run this with sudo -u {user}")
    if not settings.gateway.database_url and not (directory / "gateway.sqlite").exists():
        raise ConfigError(f"{directory}: there is no database yet: the gateway has never run with it")


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
