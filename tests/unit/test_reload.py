"""``gateway reload``: who is told, what is said, and when nobody is there."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gateway import reload
from gateway.commands import reload as command
from gateway.errors import ConfigError
from gateway.reload import Answer, Outcome, ask_hub, write_pid


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    """The hub's lock, taken, without a pid."""
    descriptor = os.open(tmp_path / "hub.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def hub(tmp_path: Path, lock: int) -> Iterator[Callable[[Answer], None]]:
    """This process as the hub: it answers SIGHUP."""
    answers: list[Answer] = []

    def answer(*_: Any) -> None:
        said = asdict(answers[0]) | {"began": time.time_ns()}
        (tmp_path / "reload.json").write_text(json.dumps(said))

    os.pwrite(lock, b"999999999999\n", 0)
    write_pid(lock)
    before = signal.signal(signal.SIGHUP, answer)
    yield answers.append
    signal.signal(signal.SIGHUP, before)


def run(tmp_path: Path) -> int:
    config = tmp_path / "gateway_config.py"
    config.write_text(f"c = get_config()\nc.Gateway.run_dir = {str(tmp_path)!r}\n")
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    options = parser.parse_args(["reload", "-f", str(config)])
    status: int = options.call(options)
    return status


def test_what_is_in_use_is_told(
    tmp_path: Path, hub: Callable[[Answer], None], capsys: pytest.CaptureFixture[str]
) -> None:
    good = Outcome("lab", ("/s/lab.yaml", "login:/d/a.yaml"), notes=("login nodes disagree",), partitions=3)
    hub(Answer(0, (good,), ("/s/lab.yaml: has changed",)))
    assert run(tmp_path) == 0
    assert capsys.readouterr().out == (
        "lab: ok: 3 partitions, from /s/lab.yaml, login:/d/a.yaml\n"
        "  note: login nodes disagree\n"
        "/s/lab.yaml: has changed: restart the hub: trusted site configs are read at its start\n"
    )


def test_a_fault_is_told_and_is_the_exit_status(
    tmp_path: Path, hub: Callable[[Answer], None], capsys: pytest.CaptureFixture[str]
) -> None:
    hub(Answer(0, (Outcome("a"), Outcome("b", ("/s/b.yaml",), ("login:/d/a.yaml:3: x",)))))
    assert run(tmp_path) == 1
    assert "b: the last good version stays in use" in (said := capsys.readouterr().out)
    assert "  fault: login:/d/a.yaml:3: x\n" in said


def test_an_answer_of_before_is_no_answer(
    tmp_path: Path, lock: int, hub: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reload.json").write_text(json.dumps(asdict(Answer(time.time_ns()))))
    monkeypatch.setattr(reload, "PATIENCE", 0.3)
    signal.signal(signal.SIGHUP, lambda *_: None)
    with pytest.raises(ConfigError, match=r"has not answered within 0.3 s"):
        ask_hub(tmp_path)


def test_where_no_hub_runs_nobody_is_told(tmp_path: Path, lock: int) -> None:
    with pytest.raises(ConfigError, match="no hub has run"):
        ask_hub(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is starting, or runs with --dataplane own"):
        ask_hub(tmp_path)
    os.pwrite(lock, b"1\n", 0)
    fcntl.flock(lock, fcntl.LOCK_UN)
    with pytest.raises(ConfigError, match="no hub runs"):
        ask_hub(tmp_path)
