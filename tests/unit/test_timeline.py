"""A server's timeline: what is kept and what is hidden, how it is told, and that it stays short."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from alembic import command
from alembic.config import Config
from cryptography.fernet import Fernet
from sqlalchemy import create_engine, text

from gateway.lifecycle import Event, Phase
from gateway.masking import HIDDEN, masked
from gateway.model import EndReason, JobId
from gateway.servers.record import Record
from gateway.servers.tools import Tools
from gateway.store import Database, History, ServerStore, keep_short, upgrade
from gateway.store.database import DatabaseUnreachable
from gateway.store.sealed import Seal
from gateway.store.upgrade import head
from gateway.support.archive import Archive
from gateway.timeline import FIRST, LAST, LONGEST, MOST, Entry, Happening, as_data, kept, rendered
from tests.unit.test_store import SECRETS, SERVER

MIGRATIONS = Path(upgrade.__code__.co_filename).parent / "migrations"
NOW = datetime(2026, 3, 1, 11, 0, tzinfo=UTC)
PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----"


@pytest.fixture
async def database(tmp_path: Path, empty_database: Path) -> AsyncIterator[Database]:
    shutil.copy(empty_database, tmp_path)
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/gateway.sqlite") as database:
        yield database


@pytest.fixture
def store(database: Database, tmp_path: Path) -> ServerStore:
    return ServerStore(database, Seal.open(tmp_path / "secret.key"))


# --- what is hidden ---

OWN = secrets.token_urlsafe(32)


@pytest.mark.parametrize(
    ("said", "secret"),
    [
        (f"GET /lab?token={OWN} 200", OWN),
        (f"cookie {OWN}.", OWN),
        (f"'{OWN}'", OWN),
        ("Authorization: Bearer abc.def", "abc.def"),
        ("Authorization: token 12345678", "12345678"),
        ('"password": "hunter2"', "hunter2"),
        ("reader_password=hunter2, next", "hunter2"),
        ("postgresql+asyncpg://gw:p@ss:w0rd@db.example.org/gw", "p@ss:w0rd"),
        (f"before\n{PEM}\nafter", "MIGHAgEAMBMGByqGSM49"),
        (PEM[:40], "MIGH"),
        (f"hash {'0a' * 32}", "0a" * 32),
        (f"key {Fernet.generate_key().decode()}", "="),
        (Fernet(Fernet.generate_key()).encrypt(b"x").decode(), "gAAAAA"),
        ("WANDB_API_KEY=abc123", "abc123"),
        ("OPENAI_API_KEY: sk-abc", "sk-abc"),
        ("export AWS_SECRET_ACCESS_KEY=ab/c+d", "ab/c+d"),
        ("os.environ['SECRET_KEY'] = 'abc def'", "def"),
        ('declare -x HF_TOKEN="abc def"', "def"),
        ("DB_PASS=hunter2", "hunter2"),
        ("passphrase: correct horse battery", "battery"),
        ("bindpw hunter2", "hunter2"),
        ("bindpw: hunter2", "hunter2"),
        ("curl -u zoe:hunter2 https://example.org", "hunter2"),
        ("curl --user 'zoe:my hunter2' https://example.org", "hunter2"),
        ("wget --password hunter2 x", "hunter2"),
        ("password: 'my long hunter2'", "hunter2"),
        ('{"password": "my \\"long\\" hunter2"}', "hunter2"),
        ('"{\\"password\\": \\"my hunter2\\"}"', "hunter2"),
        ("password: 'my hunter2, cut off", "hunter2"),
        ("Cookie: a=b; sessionid=hunter2", "hunter2"),
        ("Authorization: Negotiate hunter2", "hunter2"),
        ("MIGHAgEAMBMG\nhunter2hunter2=\n-----END PRIVATE KEY-----", "hunter2"),
    ],
    ids=range(32),
)
def test_a_secret_is_hidden_in_any_of_its_shapes(said: str, secret: str) -> None:
    assert HIDDEN in masked(said)
    assert secret not in masked(said).replace("password=", "").replace("token=", "")


@pytest.mark.parametrize(
    "said",
    [
        "PENDING (Resources), job 4242 on cn042:43127",
        "it shows SHA256:0SU9qtQjXV6RXA+8VzkSGYcYmCJGcbR2pCZmOcTcNo0. If",
        "gw-abcdef-bcdefghijk",
        "/home/alice/.local/share/gateway/abcdefghij/key.pem: Permission denied",
        "https://gateway.example.org:8443/user/alice/lab",
        "LoginNodeUnreachable: login1: no connection within 10.0 s",
        "KeyError: 'WANDB_API_KEY'",
        "key: /etc/gateway/ssh/cascade",
        "host_key: SHA256:abc, public_key=ssh-ed25519",
        "/etc/passwd: Permission denied",
        "/home/alice/.gateway/abcdefghij/token: No such file or directory",
        "PWD=/home/alice max_tokens=100 AWS_REGION=eu",
        "docker run -u 1000:1000 image",
        "journalctl -u gateway-hub; sudo -u alice true",
        "Enter passphrase for key '/home/alice/.ssh/id_ed25519': ",
    ],
)
def test_what_an_administrator_needs_is_not_hidden(said: str) -> None:
    assert masked(said) == said


def test_what_follows_a_value_in_quotes_stays() -> None:
    assert masked("password: 'my long secret' in /etc/x") == f"password: {HIDDEN} in /etc/x"


NASTY = [
    "a-",
    "a-token-",
    "a_key-",
    "-",
    " ",
    "\n",
    "\\",
    "A",
    "AAAA\n",
    "://a:",
    "=gAAAAA",
    "token ",
    "token= ",
    "token=bearer ",
    'token="',
    "token=\"'",
    'token=\\"',
    "--token ",
    "--a",
    "-u ",
    '-u "a:',
    "passphrase=",
    "cookie: ",
    "-----BEGIN A",
    "-----BEGIN A-----\n-----END ",
]


@pytest.mark.parametrize("piece", NASTY)
@pytest.mark.parametrize("step", [masked, lambda text: Archive(()).add("a", text)], ids=["masked", "archive"])
def test_no_text_takes_longer_than_its_length_allows(piece: str, step: Callable[[str], object]) -> None:
    def seconds(length: int) -> float:
        text = (piece * length)[:length] + "/"
        begun = time.thread_time()
        step(text)
        return time.thread_time() - begun

    step("")
    # Eight times is linear, 64 times quadratic. Other programs make a measurement too long or too short.
    assert any(seconds(16_000) < 24 * seconds(2_000) for _ in range(5))


def test_however_much_is_said_only_so_much_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def looking(text: str) -> str:
        seen.append(len(text))
        return masked(text)

    monkeypatch.setattr("gateway.timeline.masked", looking)
    assert len(kept("a-" * 4_000_000)) <= LONGEST
    assert max(seen) <= 16_000


def test_a_key_whose_beginning_is_not_kept_is_hidden() -> None:
    key = (
        "-----BEGIN RSA PRIVATE KEY-----\n" + ("hunter2a" * 8 + "\n") * 50 + "-----END RSA PRIVATE KEY-----\n"
    )
    assert "hunter2" not in kept("x " * 5_000 + key + "y" * 900)


def test_a_text_is_kept_without_controls_and_not_too_long() -> None:
    assert kept(" a\x1b[31mb\x00 \n") == "a[31mb"
    long = kept("begin" + "x " * 5000 + "end")
    assert len(long) <= LONGEST
    assert long.startswith("begin")
    assert long.endswith("end")


# --- how it is told ---

LIFE = replace(
    SERVER,
    name="exp1",
    created=NOW,
    phase=Phase.ENDED,
    job_id=JobId("4242"),
    host="cn1",
    port=20001,
    reason=EndReason.FAILED,
    message="The application failed.\nTraceback:",
    attempts=2,
)
ENTRIES = [
    Entry(NOW, "created", Phase.INTENT, "lab on lab"),
    Entry(
        NOW + timedelta(seconds=61.5),
        "submission",
        Phase.SUBMITTING,
        "It did not answer.",
        "LoginNodeUnreachable: login1: timed out",
        10.04,
        35,
        NOW + timedelta(seconds=90),
    ),
    Entry(NOW + timedelta(hours=14), "gone", Phase.ENDED, "The application failed.\nTraceback:"),
    Entry(NOW + timedelta(days=3), "cleaning", Phase.ENDED, ""),
]


def test_a_timeline_is_told_with_local_times_and_times_since_the_start() -> None:
    said = rendered(LIFE, ENTRIES, timezone(timedelta(hours=1), "CET"))
    assert (
        said
        == """\
alice/exp1 on lab: ended, failed: The application failed.
  id abcdefghij, job 4242, at cn1:20001, submits 2

2026-03-01, times are CET
  12:00:00      +0.0s  intent       created     lab on lab
  12:01:01     +1m01s  submitting   submission  It did not answer. (10.04 s, 35 times, until 12:01:30)
                                                LoginNodeUnreachable: login1: timed out
2026-03-02
  02:00:00    +14h00m  ended        gone        The application failed.
                                                Traceback:
2026-03-04
  12:00:00     +3d00h  ended        cleaning
"""
    )


def test_the_same_as_json_for_programs() -> None:
    data = json.loads(json.dumps(as_data(LIFE, ENTRIES)))
    assert (data["user"], data["name"], data["phase"], data["job_id"]) == ("alice", "exp1", "ended", "4242")
    assert "run" not in data
    second = data["timeline"][1]
    assert second == {
        "at": "2026-03-01T11:01:01.500000+00:00",
        "since_start": 61.5,
        "event": "submission",
        "phase": "submitting",
        "text": "It did not answer.",
        "detail": "LoginNodeUnreachable: login1: timed out",
        "seconds": 10.04,
        "times": 35,
        "until": "2026-03-01T11:01:30+00:00",
    }


def test_no_word_means_both_a_step_and_a_happening() -> None:
    assert not {*Event} & {*Happening}
    assert all(len(word) <= 16 for word in (*Event, *Happening))


# --- how it is written ---


async def test_what_is_said_again_is_one_row_that_counts(store: ServerStore) -> None:
    await store.create(SERVER, SECRETS)
    for _ in range(35):
        store.timeline.add(SERVER, Happening.TROUBLE, "No answer.", "timed out", seconds=1.5)
    await store.timeline.write()
    store.timeline.add(SERVER, Happening.TROUBLE, "No answer.", "timed out", seconds=2.5, times=4)
    store.timeline.add(SERVER, Happening.TROUBLE, "No answer.", "refused")
    await store.timeline.write()
    _, many, one = await store.timeline.of(SERVER.id)
    assert (many.times, many.seconds, one.times) == (39, 2.5, 1)
    assert many.until is not None
    assert many.until >= many.at


async def test_what_fails_again_and_again_does_not_keep_the_database_busy(store: ServerStore) -> None:
    await store.create(SERVER, SECRETS)
    record = Record(cast("Tools", SimpleNamespace(store=store)))
    for _ in range(50):
        record.tell(SERVER, Happening.TROUBLE, "No answer.", "timed out")
    assert len(store.timeline._new) == 1
    record.tell(SERVER, Happening.PROBE, "ready")
    await store.timeline.write()
    _, trouble, probe = await store.timeline.of(SERVER.id)
    assert (trouble.times, probe.times) == (50, 1)


async def test_a_secret_never_reaches_the_database(store: ServerStore, tmp_path: Path) -> None:
    await store.create(SERVER, SECRETS)
    store.timeline.add(SERVER, Happening.TROUBLE, f"cookie {OWN}", f"?token={OWN}\n{PEM}")
    await store.timeline.write()
    await store.move(SERVER.id, Event.STOP, f"Stopped: {OWN}")
    (_, trouble, step) = await store.timeline.of(SERVER.id)
    for said in (trouble.text, trouble.detail, step.text):
        assert OWN not in said
        assert HIDDEN in said


async def test_entries_stand_in_the_order_in_which_things_happened(store: ServerStore) -> None:
    await store.create(SERVER, SECRETS)
    store.timeline.add(SERVER, Happening.SUBMISSION, "job 42")
    await store.move(SERVER.id, Event.SUBMIT, "Handing it over.")  # written before what was put down
    await store.timeline.write()
    assert [entry.event for entry in await store.timeline.of(SERVER.id)] == [
        "created",
        "submission",
        "submit",
    ]


async def test_a_database_that_fails_loses_no_entry(
    store: ServerStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create(SERVER, SECRETS)
    writing = Database.writing

    def failing(_: Database) -> None:
        raise DatabaseUnreachable("database is locked")

    store.timeline.add(SERVER, Happening.PROBE, "ready")
    monkeypatch.setattr(Database, "writing", failing)
    with pytest.raises(DatabaseUnreachable):
        await store.timeline.write()
    monkeypatch.setattr(Database, "writing", writing)
    await store.timeline.write()
    assert [entry.event for entry in await store.timeline.of(SERVER.id)] == ["created", "probe"]


async def test_a_server_that_is_gone_holds_up_nobody_elses_entries(store: ServerStore) -> None:
    await store.create(SERVER, SECRETS)
    store.timeline.add(replace(SERVER, id="zzzzzzzzzz"), Happening.PROBE, "ready")
    store.timeline.add(SERVER, Happening.PROBE, "ready")
    await store.timeline.write()
    assert len(await store.timeline.of(SERVER.id)) == 2


async def test_a_long_timeline_loses_its_middle_and_says_so(store: ServerStore) -> None:
    await store.create(SERVER, SECRETS)
    for number in range(700):
        store.timeline.add(SERVER, Happening.PROBE, f"answer {number}")
    await store.timeline.write()
    entries = await store.timeline.of(SERVER.id)
    assert FIRST + LAST <= len(entries) <= MOST
    assert entries[0].event == "created"
    assert entries[-1].text == "answer 699"
    (left_out,) = [entry for entry in entries if entry.event == "left-out"]
    assert left_out.times + len(entries) - 1 == 701


async def test_a_server_that_flaps_fills_no_database(store: ServerStore) -> None:
    await store.create(SERVER, SECRETS)
    for event in (Event.SUBMIT, Event.ACCEPTED, Event.STARTED, Event.ANSWERED):
        await store.move(SERVER.id, event)
    for _ in range(120):
        await store.move(SERVER.id, Event.SILENT, "It does not answer.")
        await store.move(SERVER.id, Event.ANSWERED, "It answers.")
    await store.timeline.write()
    assert len(await store.timeline.of(SERVER.id)) <= MOST


# --- what is forgotten, and what was there before ---


async def test_what_ended_long_ago_is_forgotten_with_its_timeline(
    store: ServerStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.history._AT_ONCE", 2)
    monkeypatch.setattr("gateway.store.history._PAUSE", 0)
    instance = await database.instance()
    ids = ["aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc", "dddddddddd"]
    for server_id in ids:
        await store.create(replace(SERVER, id=server_id, name=server_id[0]), SECRETS)
    for server_id in ids[:3]:
        await store.move(server_id, Event.STOP, reason=EndReason.STOPPED)
    history, now = History(database), datetime.now(UTC)
    assert await history.forget(now - timedelta(days=1)) == 0
    assert await history.forget(now + timedelta(seconds=1)) == 3
    assert [server.id for server in await history.starts("alice", None, 9)] == ["dddddddddd"]
    counts = await history.counts()
    assert (counts["servers"], counts["timeline"], counts["servers intent"]) == (1, 1, 1)
    assert await database.instance() == instance


async def test_the_hub_forgets_by_itself_and_goes_on_after_a_failure(
    store: ServerStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.history._FIRST", 0)
    monkeypatch.setattr("gateway.store.history._AGAIN", 0.01)
    await store.create(replace(SERVER, id="aaaaaaaaaa"), SECRETS)
    await store.move("aaaaaaaaaa", Event.STOP, reason=EndReason.STOPPED)
    history, forget, calls = History(database), History.forget, 0

    async def old(self: History, before: datetime) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise DatabaseUnreachable("database is locked")
        assert timedelta(days=29) < datetime.now(UTC) - before < timedelta(days=31)
        return await forget(self, before + timedelta(days=31))

    monkeypatch.setattr(History, "forget", old)
    forgetting = asyncio.create_task(keep_short(history, 30))
    async with asyncio.timeout(5):
        while await history.starts("alice", None, 1):
            await asyncio.sleep(0.01)
    forgetting.cancel()
    assert calls > 1


async def test_a_database_of_the_first_schema_is_upgraded_with_all_that_it_holds(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/gateway.sqlite")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        columns = "id, user, name, cluster, application, choices, run, phase, wanted, created, changed"
        values = "'abcdefghij', 'alice', '', 'lab', 'lab', '{}', 'r', 'ended', 0, '2026-03-01', '2026-03-01'"
        connection.execute(text(f"INSERT INTO servers ({columns}) VALUES ({values})"))
        row = "1, 'abcdefghij', '2026-03-01 11:00:00', 'gone', 'ended', 'Stopped.'"
        connection.execute(text(f"INSERT INTO timeline VALUES ({row})"))
    engine.dispose()
    url = f"sqlite+aiosqlite:///{tmp_path}/gateway.sqlite"
    assert await upgrade(url) == ("0001", head())
    async with Database(url) as database:
        (entry,) = await History(database).timeline("abcdefghij")
    assert entry == Entry(NOW, "gone", Phase.ENDED, "Stopped.")
