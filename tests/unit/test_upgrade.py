"""An upgrade of the schema happens whole or not at all, whatever ends it, and one at a time."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine

from gateway.store import upgrade
from gateway.store.upgrade import current, head

MIGRATIONS = Path(upgrade.__code__.co_filename).parent / "migrations"
_WRITES = ("CREATE", "INSERT", "DROP", "ALTER", "UPDATE")
#: Upgrades the database that is its first word, and is killed before the statement that holds the second.
_KILLED = """
import asyncio, os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from gateway.store import upgrade

def die(_connection, _cursor, statement, *_):
    if sys.argv[2] in statement:
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(Engine, "before_cursor_execute", die)
asyncio.run(upgrade(sys.argv[1]))
"""


class Interrupted(Exception):
    """Something ended an upgrade."""


@contextmanager
def interrupted_at(number: int) -> Iterator[None]:
    """Interrupt before the ``number``-th statement that writes."""
    seen = 0

    def interrupt(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal seen
        seen += statement.strip().startswith(_WRITES)
        if seen == number:
            raise Interrupted

    event.listen(Engine, "before_cursor_execute", interrupt)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", interrupt)


@pytest.fixture(params=[None, "0001", "0002"])
def before(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Return the revision of a database before; with a line in its timeline."""
    revision: str | None = request.param
    if revision:
        engine = create_engine(f"sqlite:///{tmp_path}/gateway.sqlite")
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.exec_driver_sql(
                "INSERT INTO timeline (number, server_id, at, event, phase, text) "
                "VALUES (1, 'x', '2026-03-01', 'gone', 'ended', '')"
            )
        engine.dispose()
    return revision


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/gateway.sqlite"


def lines(tmp_path: Path) -> int:
    connection = sqlite3.connect(tmp_path / "gateway.sqlite")
    ((found,),) = connection.execute("SELECT count(*) FROM timeline").fetchall()
    connection.close()
    return int(found)


async def test_one_that_is_interrupted_anywhere_has_changed_nothing_and_the_next_one_goes_through(
    before: str | None, url: str, tmp_path: Path
) -> None:
    number = 0
    while await current(url) != head():
        assert await current(url) == before
        number += 1
        with interrupted_at(number):
            try:
                assert await upgrade(url) == (before, head())
            except Interrupted:
                continue
    assert number >= 5
    assert lines(tmp_path) == (1 if before else 0)


@pytest.mark.parametrize("statement", ["INSERT INTO alembic_version", "CREATE TABLE orphans"])
async def test_one_that_is_killed_does_not_stop_the_next_one(
    before: str | None, url: str, tmp_path: Path, statement: str
) -> None:
    if before and "version" in statement:
        statement = "UPDATE alembic_version"
    words = [sys.executable, "-c", _KILLED, url, statement]
    done = await asyncio.to_thread(subprocess.run, words, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    assert await upgrade(url) == (before, head())
    assert lines(tmp_path) == (1 if before else 0)


async def test_of_two_at_once_one_waits_and_finds_nothing_to_do(before: str | None, url: str) -> None:
    assert sorted(await asyncio.gather(upgrade(url), upgrade(url)), key=str) == sorted(
        [(before, head()), (head(), head())], key=str
    )
