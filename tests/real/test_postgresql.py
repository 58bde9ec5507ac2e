"""The database is PostgreSQL: the same cases as with SQLite, and the migrations, on a server of our own."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from gateway.store import Database, upgrade
from gateway.store.database import DatabaseUnreachable
from gateway.store.tables import metadata
from gateway.store.upgrade import head
from tests.unit import test_store
from tests.unit.test_store import servers, sessions

__all__ = ["servers", "sessions"]
pytestmark = pytest.mark.xdist_group("postgresql")

#: What only SQLite has: a file.
_OF_SQLITE = {
    "test_migrations_make_exactly_the_tables_that_the_code_uses",
    "test_secrets_are_not_in_the_file_in_clear",
    "test_a_damaged_database_is_an_error_of_ours",
}
globals().update(
    {
        name: value
        for name, value in vars(test_store).items()
        if name.startswith("test_") and name not in _OF_SQLITE
    }
)


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server on a Unix socket alone. ``gateway`` is the template of each database."""

    directory: Path
    programs: Path

    def run(self, program: str, *words: str) -> None:
        """Run one of PostgreSQL's programs as the server's user; root may not."""
        argv = [str(self.programs / program), *words]
        if os.geteuid() == 0:
            argv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--", *argv]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr

    def url(self, name: str) -> str:
        return f"postgresql+asyncpg://gateway@/{name}?host={self.directory}"

    def create(self, name: str, template: str = "template0") -> str:
        """Make a database and return its URL."""
        words = ("--host", str(self.directory), "--username=gateway", "--template", template)
        self.run("createdb", *words, name)
        return self.url(name)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not places:
        pytest.skip("PostgreSQL's server is not installed")
    pytest.importorskip("asyncpg")
    directory = Path(tempfile.mkdtemp(prefix="gw-pg-", dir="/tmp"))  # short: a socket's path goes into it
    if os.geteuid() == 0:
        shutil.chown(directory, "postgres", "postgres")
    server = Server(directory, places[-1].parent)
    data = str(directory / "data")
    try:
        server.run("initdb", "--no-sync", "--username=gateway", "--auth=trust", "--pgdata", data)
        options = f"-F -c listen_addresses= -c unix_socket_directories={directory}"
        words = ("--pgdata", data, "--log", str(directory / "log"))
        server.run("pg_ctl", "start", "--wait", "--silent", "--options", options, *words)
        try:
            asyncio.run(upgrade(server.create("gateway")))
            yield server
        finally:
            server.run("pg_ctl", "stop", "--mode=immediate", "--silent", "--pgdata", data)
    finally:
        shutil.rmtree(directory)


_numbers = itertools.count()


@pytest.fixture
async def database(server: Server) -> AsyncIterator[Database]:
    """A fresh database, in place of the one of SQLite."""
    url = await asyncio.to_thread(server.create, f"case{next(_numbers)}", "gateway")
    async with Database(url) as database:
        yield database


async def test_migrations_make_exactly_the_tables_that_the_code_uses(server: Server) -> None:
    url = await asyncio.to_thread(server.create, "migrated")
    assert await upgrade(url) == (None, head())
    assert await upgrade(url) == (head(), head())

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    engine = create_async_engine(url)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_of_two_upgrades_at_once_one_waits_and_finds_nothing_to_do(server: Server) -> None:
    url = await asyncio.to_thread(server.create, "twice")
    found = await asyncio.gather(upgrade(url), upgrade(url))
    assert sorted(found, key=str) == [(head(), head()), (None, head())]


async def test_a_server_that_is_gone_is_an_error_of_ours(server: Server) -> None:
    async with Database(server.url("none").replace(str(server.directory), "/nowhere")) as database:
        with pytest.raises(DatabaseUnreachable):
            await database.instance()
    async with Database(server.url("nosuch")) as database:
        with pytest.raises(DatabaseUnreachable, match="nosuch"):
            await database.instance()
