"""The database: the schema, the writes that must come before acts, and what may not happen twice."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import AlreadyRunning, ConfigError, NotFound
from gateway.lifecycle import Event, Phase, UnexpectedEvent
from gateway.model import Choices, EndReason, JobId, Secrets, Server, User
from gateway.store import Code, Database, ServerStore, SessionStore, SiteViewStore, tables, upgrade
from gateway.store.database import DatabaseUnreachable
from gateway.store.sealed import Seal
from gateway.store.tables import metadata

NOW = datetime.now(UTC)
SECRETS = Secrets("token-in-clear", "key-in-clear", "certificate")
SERVER = Server(
    id="abcdefghij",
    user="alice",
    name="",
    cluster="lab",
    application="lab",
    choices=Choices("lab", "lab", "short", 5, 1, 500),
    run="0123456789abcdef",
    phase=Phase.INTENT,
    wanted=True,
    created=NOW,
    changed=NOW,
)


@pytest.fixture
async def database(tmp_path: Path, empty_database: Path) -> AsyncIterator[Database]:
    shutil.copy(empty_database, tmp_path)
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/gateway.sqlite") as database:
        yield database


@pytest.fixture
def servers(database: Database, tmp_path: Path) -> ServerStore:
    return ServerStore(database, Seal.open(tmp_path / "secret.key"))


@pytest.fixture
def sessions(database: Database) -> SessionStore:
    return SessionStore(database)


async def test_migrations_make_exactly_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/gateway.sqlite"
    assert await upgrade(url) == (None, "0004")
    assert await upgrade(url) == ("0004", "0004")
    engine = create_engine(f"sqlite:///{tmp_path}/gateway.sqlite")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


async def test_the_instance_is_random_and_stays(database: Database) -> None:
    first = await database.instance()
    assert len(first) == 6
    assert await database.instance() == first


async def test_a_server_comes_back_as_it_was_written(servers: ServerStore) -> None:
    await servers.create(SERVER, SECRETS)
    assert await servers.get(SERVER.id) == SERVER
    assert await servers.secrets([SERVER.id]) == {SERVER.id: SECRETS}


async def test_secrets_are_not_in_the_file_in_clear(servers: ServerStore, tmp_path: Path) -> None:
    await servers.create(SERVER, SECRETS)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"abcdefghij" in written
    assert b"in-clear" not in written
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600


async def test_secrets_of_another_key_are_a_clear_error(servers: ServerStore, database: Database) -> None:
    await servers.create(SERVER, SECRETS)
    other = ServerStore(database, Seal(b"A" * 43 + b"="))
    with pytest.raises(ConfigError, match=r"another secret\.key"):
        await other.secrets([SERVER.id])


async def test_two_starts_at_the_same_moment_make_one_server(servers: ServerStore) -> None:
    starts = [servers.create(replace(SERVER, id=f"abcdefghi{n}"), SECRETS) for n in "abcde"]
    results = await asyncio.gather(*starts, return_exceptions=True)
    assert sum(isinstance(result, Server) for result in results) == 1
    assert sum(isinstance(result, AlreadyRunning) for result in results) == 4


async def test_moving_follows_the_table_and_keeps_a_timeline(servers: ServerStore) -> None:
    await servers.create(SERVER, SECRETS)
    await servers.move(SERVER.id, Event.SUBMIT, attempts=1)
    moved = await servers.move(SERVER.id, Event.ACCEPTED, "Waiting.", job_id=JobId("42"))
    assert (moved.phase, moved.job_id, moved.message) == (Phase.QUEUED, "42", "Waiting.")
    with pytest.raises(UnexpectedEvent):
        await servers.move(SERVER.id, Event.ANSWERED)
    assert (await servers.get(SERVER.id)).phase is Phase.QUEUED
    entries = await servers.timeline.of(SERVER.id)
    assert [(entry.event, entry.phase) for entry in entries] == [
        ("created", Phase.INTENT),
        ("submit", Phase.SUBMITTING),
        ("accepted", Phase.QUEUED),
    ]


async def test_an_ended_server_keeps_no_secrets_and_makes_room_for_the_next(servers: ServerStore) -> None:
    await servers.create(SERVER, SECRETS)
    ended = await servers.move(SERVER.id, Event.STOP, reason=EndReason.STOPPED)
    assert ended.reason is EndReason.STOPPED
    assert await servers.secrets([SERVER.id]) == {}
    assert await servers.live() == []
    assert [server.id for server in await servers.uncleaned(timedelta(hours=1))] == [SERVER.id]
    newer = replace(SERVER, id="bbbbbbbbbb", created=NOW + timedelta(seconds=1))
    await servers.create(newer, SECRETS)
    assert await servers.latest("alice", "") == newer
    assert [server.id for server in await servers.servers_of("alice")] == ["bbbbbbbbbb"]
    with pytest.raises(NotFound):
        await servers.get("cccccccccc")


async def test_an_expired_session_is_none(sessions: SessionStore) -> None:
    alice = User("alice", admin=True)
    await sessions.login(alice, "s1", NOW + timedelta(hours=1))
    found = await sessions.session("s1")
    assert found is not None
    assert found.user == alice
    await sessions.login(alice, "s2", NOW - timedelta(seconds=1))
    assert await sessions.session("s2") is None
    assert await sessions.session("nosuch") is None


async def test_who_has_logged_in_is_known_from_then_on(sessions: SessionStore) -> None:
    assert not await sessions.knows("alice")
    await sessions.login(User("alice"), "s1", NOW - timedelta(seconds=1))
    assert await sessions.knows("alice")
    assert not await sessions.knows("hunter2")


async def test_a_code_is_taken_once(sessions: SessionStore) -> None:
    await sessions.login(User("alice"), "s1", NOW + timedelta(hours=1))
    await sessions.save_code("c1", Code("s1", "/user/alice/", "state", "host"), NOW + timedelta(hours=1))
    codes = await asyncio.gather(*(sessions.take_code("c1") for _ in range(5)))
    assert sum(code is not None for code in codes) == 1
    await sessions.save_code("c2", Code("s1", "/user/alice/", "state", "host"), NOW - timedelta(seconds=1))
    assert await sessions.take_code("c2") is None


async def test_grants_end_with_their_session_and_their_server(
    sessions: SessionStore, servers: ServerStore
) -> None:
    later = NOW + timedelta(hours=1)
    await servers.create(SERVER, SECRETS)
    for name in ("s1", "s2"):
        await sessions.login(User("alice"), name, later)
        await sessions.add_grants(f"cookie-{name}", name, [SERVER.id], later)
    assert sorted(grant.cookie_hash for grant in await sessions.grants()) == ["cookie-s1", "cookie-s2"]
    assert await sessions.granted("cookie-s1", SERVER.id)
    assert not await sessions.granted("cookie-s1", "bbbbbbbbbb")
    await sessions.end_session("s1")
    assert not await sessions.granted("cookie-s1", SERVER.id)
    assert await sessions.revocations() == [SERVER.id]
    await sessions.end_session("s1")
    await sessions.settle_revocations([SERVER.id])
    assert await sessions.revocations() == []
    assert [grant.cookie_hash for grant in await sessions.grants()] == ["cookie-s2"]
    await servers.move(SERVER.id, Event.STOP)
    assert await sessions.grants() == []
    assert not await sessions.granted("cookie-s2", SERVER.id)


async def test_a_token_says_whose_it_is_until_it_expires(sessions: SessionStore) -> None:
    await sessions.add_token(User("carol", admin=True), "t1", "lab", NOW + timedelta(hours=1))
    await sessions.add_token(User("carol", admin=True), "t2", "lab", NOW - timedelta(hours=1))
    assert await sessions.token_user("t1") == User("carol", admin=True)
    assert await sessions.token_user("t2") is None


async def test_a_damaged_database_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "gateway.sqlite").write_bytes(b"not a database" * 100)
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/gateway.sqlite") as database:
        with pytest.raises((DatabaseUnreachable, sqlite3.DatabaseError)):
            await database.instance()


async def test_a_write_whose_caller_is_cancelled_is_whole_and_leaves_nothing_locked(
    servers: ServerStore, database: Database
) -> None:
    await servers.create(SERVER, SECRETS)
    began, writing = asyncio.Event(), database.writing

    @asynccontextmanager
    async def slow() -> AsyncIterator[AsyncConnection]:
        async with writing() as connection:
            began.set()
            await asyncio.sleep(0.05)
            yield connection

    database.writing = slow  # type: ignore[method-assign]
    step = asyncio.create_task(servers.move(SERVER.id, Event.SUBMIT, attempts=1))
    await began.wait()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert (await servers.get(SERVER.id)).phase is Phase.SUBMITTING


async def test_choices_of_an_older_version_are_read_with_what_has_come_since(
    servers: ServerStore, database: Database
) -> None:
    chosen = replace(SERVER.choices, qos="normal", exclusive=True, extra={"image": "a"})
    await servers.create(replace(SERVER, choices=chosen), SECRETS)
    assert (await servers.get(SERVER.id)).choices == chosen
    old: dict[str, object] = {"cluster": "lab", "application": "lab", "partition": "short"}
    old |= {"walltime": 5, "cores": 1, "memory": 500}
    async with database.writing() as connection:
        await connection.execute(update(tables.servers).values(choices=old))
    assert (await servers.get(SERVER.id)).choices == SERVER.choices


async def test_the_last_good_view_of_a_site_outlives_the_hub(database: Database) -> None:
    views = SiteViewStore(database)
    assert await views.load("lab") is None
    await views.save("lab", {"files": ["a"]})
    await views.save("other", {})
    await views.save("lab", {"files": ["b"]})
    found = await views.load("lab")
    assert found is not None
    assert found[0] == {"files": ["b"]}
    assert datetime.now(UTC) - found[1] < timedelta(minutes=1)


async def test_a_persons_groups_are_those_of_the_last_login(sessions: SessionStore) -> None:
    later = NOW + timedelta(hours=1)
    await sessions.add_token(User("alice"), "t1", "lab", later)
    assert await sessions.token_user("t1") == User("alice")
    assert await sessions.person("bob") is None
    for groups in ({"staff", "gpu"}, {"gpu"}):
        alice = User("alice", groups=frozenset(groups))
        await sessions.login(alice, f"s{len(groups)}", later)
        found = await sessions.session("s2")
        assert found is not None
        assert [found.user, await sessions.person("alice"), await sessions.token_user("t1")] == [alice] * 3
