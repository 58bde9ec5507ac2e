"""``gateway why``: what happened to a server, told from the database alone."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.lifecycle import Event
from gateway.model import EndReason, JobId
from gateway.store import Database, ServerStore, upgrade
from gateway.store.sealed import Seal
from gateway.timeline import Happening
from tests.unit.test_store import SECRETS, SERVER


class Told:
    """Runs ``gateway why`` in this process."""

    def __init__(self, directory: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.state = directory / "state"
        self._config = directory / "gateway_config.py"
        self._config.write_text(f"c.Gateway.state_dir = '{self.state}'\n")
        self._capture = capture

    def __call__(self, *words: str, status: int = 0) -> str:
        """Return what it says, on standard error where it fails."""
        assert main(["why", "-f", str(self._config), *words]) == status
        out, err = self._capture.readouterr()
        assert (err if status == 0 else out) == ""
        assert status == 0 or err.count("\n") == 1
        return err.strip() if status else out


@pytest.fixture
def nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(tmp_path, capsys)


@pytest.fixture
def why(nothing: Told) -> Told:
    """The command where alice has had a default server twice and exp1 once."""
    nothing.state.mkdir(mode=0o700)
    asyncio.run(_fill(nothing.state))
    return nothing


async def _fill(state: Path) -> None:
    url = f"sqlite+aiosqlite:///{state}/gateway.sqlite"
    await upgrade(url)
    async with Database(url) as database:
        store = ServerStore(database, Seal.open(state / "secret.key"))
        await store.create(replace(SERVER, id="aaaaaaaaaa"), SECRETS)
        await store.move("aaaaaaaaaa", Event.STOP, "Stopped.", reason=EndReason.STOPPED)
        later = SERVER.created + timedelta(seconds=60)
        exp1 = replace(SERVER, id="eeeeeeeeee", name="exp1", created=later)
        await store.create(exp1, SECRETS)
        latest = replace(SERVER, id="bbbbbbbbbb", created=later + timedelta(seconds=60))
        await store.create(latest, SECRETS)
        await store.move(latest.id, Event.SUBMIT, "Handing your job to the scheduler.")
        store.timeline.add(latest, Happening.SUBMISSION, "The scheduler took it as job 42.", seconds=0.31)
        await store.move(latest.id, Event.ACCEPTED, "Waiting in the queue.", job_id=JobId("42"))
        await store.timeline.write()


def test_the_newest_server_is_told_step_by_step(why: Told) -> None:
    said = why("alice")
    assert said.startswith("alice/ on lab: queued: Waiting in the queue.\n  id bbbbbbbbbb, job 42\n")
    events = [line.split()[3] for line in said.splitlines()[4:]]
    assert events == ["created", "submit", "submission", "accepted"]
    assert "The scheduler took it as job 42. (0.31 s)" in said
    assert "in-clear" not in said


def test_a_server_is_named_by_user_and_name(why: Told) -> None:
    assert "id eeeeeeeeee" in why("alice/exp1")
    assert "id bbbbbbbbbb" in why("alice/")


def test_former_ones_are_told_on_request(why: Told) -> None:
    said = why("alice/", "--all")
    assert said.index("id aaaaaaaaaa") < said.index("id bbbbbbbbbb")
    assert "eeeeeeeeee" not in said
    assert [server["id"] for server in json.loads(why("alice", "--all", "--json"))] == [
        "aaaaaaaaaa",
        "eeeeeeeeee",
        "bbbbbbbbbb",
    ]


def test_what_is_not_there_is_one_sentence(why: Told) -> None:
    unknown = why("bob", status=1)
    assert unknown == "bob has started no server here, or none that ended less than 30 days ago."
    assert why("alice/exp2", status=1) == "alice/exp2 is not there; alice has alice/, alice/exp1."
    assert "names no server" in why("Alice!", status=1)


def test_where_the_gateway_has_never_run_nothing_is_made(nothing: Told) -> None:
    assert "No such file or directory" in nothing("alice", status=1)
    nothing.state.mkdir(mode=0o700)
    assert "there is no database yet" in nothing("alice", status=1)
    assert list(nothing.state.iterdir()) == []


def test_another_user_is_told_whom_to_be(why: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 65_123)
    assert "run this with sudo -u" in why("alice", status=1)
