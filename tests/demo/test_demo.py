"""``gateway demo`` as an ordinary user starts it: it works in a browser, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import sync_playwright

from tests.demo.started import User, demo
from tests.lab.nodes import wait_until
from tests.live import chromium
from tests.live.chromium import Stopwatch, Visitor, run_first_cell

JOB = """#!/bin/sh
#GATEWAY name=sleeper
#GATEWAY walltime=5
#GATEWAY cores=1
#GATEWAY memory=100
exec sleep 250
"""

pytestmark = [
    pytest.mark.skipif(
        not shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin"), reason="needs haproxy"
    ),
    pytest.mark.xdist_group("demo"),  # demonstrations of one account that start together may choose one port
]


@pytest.fixture
def user() -> Iterator[User]:
    # Not tmp_path: that is below a directory that only root may enter, and too long for sockets.
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        user = User(Path(name))
        yield user
        left = user.processes()
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5)


@pytest.mark.browser
@pytest.mark.skipif(not chromium.PROGRAM.exists(), reason="needs Debian's package chromium")
def test_from_the_printed_address_to_a_cell_and_ctrl_c_leaves_nothing(user: User) -> None:
    with demo(user) as running, sync_playwright() as playwright:
        root = running.root
        with chromium.launch(playwright, root / "tls.pem") as browser:
            ada = Visitor(browser, running.url, "ada", running.passwords["ada"])
            watch = Stopwatch()
            ada.page.goto(running.url)
            watch.lap("the login page")
            ada.log_in()
            ada.start("short", "30m")
            ada.page.locator("#title").wait_for()
            ada.arrive()
            watch.lap("JupyterLab's address")
            assert run_first_cell(ada.page, "import os; os.getcwd()").strip("'") == str(root / "home")
            watch.lap("the first cell's output")
            ada.stop()
            ada.wait_until_ended()
            assert ada.complaints == []
            ada.start("long")
            ada.arrive()
            ada.page.get_by_role("menuitem", name="File").wait_for()
            assert len(user.processes()) > 3, "the jobs are seen, if they are there"
        began = time.monotonic()
        assert running.end() == 0
        print(f"{time.monotonic() - began:6.2f} s  from Ctrl-C to the end, with a server that runs")
        assert user.processes() == []
        assert list((user.base / "tmp").iterdir()) == []
        assert list((user.base / "home").iterdir()) == [], "nothing is written to the person's own home"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_that_closes_ends_it_like_ctrl_c(user: User, number: int) -> None:
    with demo(user) as running:
        assert "the gateway's own account" in (running.root / "gateway.log").read_text()
        assert "WARNING" not in running.said, "the welcome says it already"
        assert running.end(number) == 0
    assert user.processes() == []
    assert list((user.base / "tmp").iterdir()) == []


def named(user: User, name: str) -> list[psutil.Process]:
    """The user's processes of this name; others may end while they are looked at."""
    found = []
    for process in user.processes():
        with suppress(psutil.NoSuchProcess):
            if process.name() == name:
                found.append(process)
    return found


def sleepers(user: User) -> list[psutil.Process]:
    return named(user, "sleep")


def start_sleeper(user: User, root: Path) -> psutil.Process:
    """Give the demo's queue a job, and return its process."""
    script = user.base / "job"
    script.write_text(JOB)
    script.chmod(0o644)
    user.run("/bin/sh", "-c", f"cd {root}/home && exec {root}/queue/bin/gateway-queue submit {script}")
    wait_until(lambda: bool(sleepers(user)), "the job runs")
    return sleepers(user)[0]


def test_what_a_killed_demo_leaves_is_ended_by_the_next_one(user: User) -> None:
    with demo(user) as first:
        old = first.root
        start_sleeper(user, old)
        first.end(signal.SIGKILL)
        assert named(user, "haproxy")
        assert named(user, "sleep")
    with demo(user) as second:
        assert f"removing {old}" in second.said
        assert not old.exists()
        assert sleepers(user) == []
        assert second.end() == 0
    assert user.processes() == []


def test_a_directory_that_is_kept_is_gone_on_with(user: User) -> None:
    kept = user.base / "home/kept"
    with demo(user, "--dir", str(kept)) as first:
        assert first.root == kept
        job = start_sleeper(user, kept)
        fingerprint, address = first.fingerprint, first.url
        (kept / "home/notebook").touch()
        first.end(signal.SIGKILL)
    with demo(user, "--dir", str(kept)) as second:
        assert (second.fingerprint, second.url) == (fingerprint, address), "the browser need not ask again"
        assert job.is_running(), "a running job is taken over"
        assert second.end() == 0
    assert user.processes() == []
    assert (kept / "home/notebook").exists()


def test_two_at_once_do_not_meet(user: User) -> None:
    with demo(user) as first, demo(user) as second:
        assert first.url != second.url
        assert first.root.exists()
        first.end()
        assert second.root.exists()
        assert named(user, "haproxy")


@pytest.mark.skipif(os.getuid() != 0, reason="root is told something else")
def test_root_is_told_to_be_somebody_else() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "demo"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "run the demo as an ordinary user" in done.stderr
