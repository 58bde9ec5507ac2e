"""A backup is whole under its name, or has no name; one that is killed does not stop the next one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.errors import ConfigError
from gateway.store import backup
from gateway.store.backup import UNFINISHED, back_up

_KILLED = """
import os, signal, sys
from pathlib import Path
from gateway.store import backup

backup._kept = lambda _: os.kill(os.getpid(), signal.SIGKILL)
backup.back_up(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.fixture
def state(tmp_path: Path, empty_database: Path) -> Path:
    state = tmp_path / "state"
    state.mkdir()
    shutil.copy(empty_database, state)
    (state / "secret.key").write_bytes(b"key")
    return state


@pytest.fixture
def url(state: Path) -> str:
    return f"sqlite+aiosqlite:///{state}/gateway.sqlite"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "backups").mkdir()
    return tmp_path / "backups/monday.tar.gz"


def ended(words: list[str]) -> object:
    """Return the exit status of a command."""
    try:
        return main(words)
    except SystemExit as end:
        return end.code


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def left(archive: Path) -> list[str]:
    return [path.name for path in archive.parent.iterdir()]


def test_it_holds_database_and_keys_and_is_nobody_elses(url: str, state: Path, archive: Path) -> None:
    assert back_up(url, state, archive)
    assert names(archive) == ["gateway.sqlite", "secret.key"]
    assert (archive.stat().st_mode & 0o777, left(archive)) == (0o600, [archive.name])


def test_one_that_was_killed_has_no_name_and_does_not_stop_the_next(
    url: str, state: Path, archive: Path
) -> None:
    words = [sys.executable, "-c", _KILLED, url, str(state), str(archive)]
    assert subprocess.run(words, timeout=30, check=False).returncode == -signal.SIGKILL
    (unfinished,) = left(archive)
    assert unfinished.startswith(f".{archive.name}.")
    assert unfinished.endswith(UNFINISHED)
    assert back_up(url, state, archive)
    assert names(archive) == ["gateway.sqlite", "secret.key"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_that_is_told_to_end_leaves_nothing(
    state: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    config = archive.parent.parent / "gateway_config.py"
    config.write_text(f"c.Gateway.state_dir = '{state}'\n")
    monkeypatch.setattr(backup, "_kept", lambda _: signal.raise_signal(number))
    umask = os.umask(0o022)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert ended(["backup", "-f", str(config), str(archive)]) == status
    finally:
        os.umask(umask)
    assert signal.getsignal(signal.SIGTERM) == before
    assert left(archive) == []


def test_what_has_the_name_already_is_left_alone(
    url: str, state: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write_text("other")
    with pytest.raises(ConfigError, match="cannot be made: File exists"):
        back_up(url, state, archive)
    archive.unlink()

    def meanwhile(_: Path) -> list[Path]:
        archive.write_text("other")
        return []

    monkeypatch.setattr(backup, "_kept", meanwhile)
    with pytest.raises(ConfigError, match="File exists"):
        back_up(url, state, archive)
    assert (archive.read_text(), left(archive)) == ("other", [archive.name])


def test_a_disk_without_hard_links_can_hold_it(
    url: str, state: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert back_up(url, state, archive)
    assert (len(names(archive)), left(archive)) == (2, [archive.name])
    with pytest.raises(ConfigError, match="File exists"):
        back_up(url, state, archive)
