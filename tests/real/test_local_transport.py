"""A login node that is this host, with the real /bin/sh: answers are whole, and nothing given up goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import ConfigError, LoginNodeUnreachable
from gateway.model import Command, Completed
from gateway.siteconfig import Login
from gateway.ssh import local
from gateway.ssh.local import LocalNode, own_account
from gateway.ssh.runner import AnswerLost, NotBegun

#: Seconds that nobody else's sleep takes.
LONG = f"60.{os.getpid()}"


def login(user: str | None = None) -> Login:
    words = {"transport": "local", "user": user or own_account().pw_name, "act_as": "service"}
    return Login.model_validate(words)


@pytest.fixture
async def node() -> AsyncIterator[LocalNode]:
    async with LocalNode(login(), grace=1.0, at_once=3, output=100_000) as node:
        yield node


def sh(text: str) -> Command:
    return Command(("/bin/sh", "-c", text))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def ended(marker: str) -> None:
    """Wait until no process has the marker on its command line."""
    async with asyncio.timeout(5):
        while any(marker in line for line in command_lines()):
            await asyncio.sleep(0.02)


def command_lines() -> list[str]:
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and entry.name != str(os.getpid()):
            try:
                lines.append((entry / "cmdline").read_bytes().decode("utf-8", "replace"))
            except OSError:
                continue
    return lines


async def test_status_output_and_input_come_and_go_whole(node: LocalNode) -> None:
    stdin = bytes(range(1, 256)) * 300 + b"\n"
    done = await node.run(sh("wc -c; echo err >&2; exit 3"), stdin=stdin, timeout=10)
    assert done == Completed(3, f"{len(stdin)}\n", "err\n")
    said = await node.run(Command(("echo", "it's", "$HOME", "a\nb")), timeout=10)
    assert said.stdout == "it's $HOME a\nb\n"
    assert (await node.run(Command(("no-such-program",)), timeout=10)).status == 127


async def test_much_input_that_is_echoed_does_not_block(node: LocalNode) -> None:
    stdin = b"x" * 90_000 + b"\n"
    done = await node.run(sh("cat"), stdin=stdin, timeout=10)
    assert done.stdout.encode() == stdin


async def test_the_command_sees_its_account_and_nothing_else_of_the_hub(
    node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "s3cret")
    done = await node.run(Command(("env",)), timeout=10)
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert names - {"_", "OLDPWD", "SHLVL"} == {"HOME", "USER", "LOGNAME", "PATH", "LC_ALL", "PWD"}
    assert f"HOME={own_account().pw_dir}\n" in done.stdout
    assert (await node.run(sh("ulimit -n; pwd"), timeout=10)).stdout == "1024\n/\n"
    # The session is the shell's, whose child timeout(1) is.
    own_session = "[ $(ps -o sid= -p $PPID) = $(ps -o ppid= -p $PPID) ]"
    assert await node.run(sh(own_session), timeout=10) == Completed(0)


async def test_what_a_command_leaves_running_does_not_hold_up_its_answer(node: LocalNode) -> None:
    began = time.monotonic()
    done = await node.run(sh("sleep 7.4747 & echo $!"), timeout=10)
    assert time.monotonic() - began < 2
    os.kill(int(done.stdout), signal.SIGKILL)  # it is there


async def test_a_command_is_ended_at_its_limit_and_said_to_be(node: LocalNode) -> None:
    began = time.monotonic()
    assert (await node.run(sh("echo part; sleep 30"), timeout=1)).status == 124
    assert time.monotonic() - began < 3


async def test_one_that_minds_no_limit_is_killed_with_all_that_it_started(node: LocalNode) -> None:
    with pytest.raises(AnswerLost, match="did not answer within 2 s"):
        await node.run(sh(f"trap '' TERM; (trap '' TERM; sleep {LONG}) & sleep {LONG}"), timeout=1)
    await ended(LONG)


async def test_a_cancelled_run_leaves_no_process_and_no_descriptor(node: LocalNode) -> None:
    await node.run(sh("true"), timeout=10)
    before = descriptors()
    runs = [asyncio.create_task(node.run(sh(f"sleep {LONG} & sleep {LONG}"), timeout=90)) for _ in range(6)]
    await asyncio.sleep(0.3)
    assert sum(LONG in line for line in command_lines()) >= 3
    for run in runs:
        run.cancel()
    done = await asyncio.gather(*runs, return_exceptions=True)
    assert all(isinstance(error, asyncio.CancelledError) for error in done)
    await ended(LONG)
    assert (await node.run(sh("echo free"), timeout=5)).stdout == "free\n"
    assert descriptors() <= before


async def test_no_more_run_at_once_than_allowed(node: LocalNode, tmp_path: Path) -> None:
    text = f"cd {tmp_path}; touch $$; ls | wc -l; sleep 0.2; rm $$"
    done = await asyncio.gather(*(node.run(sh(text), timeout=10) for _ in range(7)))
    assert {d.status for d in done} == {0}
    assert max(int(d.stdout) for d in done) <= 3


async def test_noise_before_the_frame_is_none_of_the_answer(
    node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_LIMITS", b"echo welcome; echo gw1-begin-0 >&2\n")
    assert await node.run(Command(("echo", "x")), timeout=5) == Completed(0, "x\n", "")


async def test_too_much_output_is_refused_and_its_source_killed(node: LocalNode) -> None:
    with pytest.raises(AnswerLost, match="more than 100000 bytes"):
        await node.run(sh(f"yes {LONG}"), timeout=10)
    await ended(LONG)


async def test_a_shell_that_is_killed_is_a_lost_answer_and_no_empty_success(node: LocalNode) -> None:
    with pytest.raises(AnswerLost):
        await node.run(sh("kill -9 $(ps -o ppid= -p $PPID); exit 0"), timeout=5)


async def test_a_shell_that_ends_before_it_begins_has_run_nothing_and_says_why(
    node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_LIMITS", b"echo no thanks >&2; exit 7\n")
    with pytest.raises(NotBegun, match=r"exit status 7\): no thanks"):
        await node.run(sh("true"), timeout=5)


async def test_closing_ends_what_runs_and_twice_is_once() -> None:
    node = LocalNode(login(), at_once=2)
    runs = [asyncio.create_task(node.run(sh(f"sleep {LONG}"), timeout=90)) for _ in range(5)]
    await asyncio.sleep(0.2)
    await node.aclose()
    await node.aclose()
    done = await asyncio.gather(*runs, return_exceptions=True)
    assert all(isinstance(error, LoginNodeUnreachable) for error in done), done
    await ended(LONG)
    with pytest.raises(LoginNodeUnreachable):
        await node.run(sh("true"), timeout=5)


async def test_without_a_shell_nothing_ran(node: LocalNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_SHELL", "/no/such/shell")
    with pytest.raises(LoginNodeUnreachable, match="cannot be started") as caught:
        await node.run(sh("true"), timeout=5)
    assert not isinstance(caught.value, AnswerLost)


_HUB = """
import asyncio, sys
from gateway.model import Command
from gateway.ssh.local import LocalNode
from tests.real.test_local_transport import login

async def main():
    async with LocalNode(login()) as node:
        words = ("/bin/sh", "-c", 'echo begun >"$1"; sleep 0.5; echo done >"$1"', "sh", sys.argv[1])
        await node.run(Command(words), timeout=20)

asyncio.run(main())
"""


def test_a_command_that_has_begun_is_finished_when_the_hub_dies(tmp_path: Path) -> None:
    """So that a submit is whole or never was; the next hub finds the job by its name."""
    said = tmp_path / "said"
    hub = subprocess.Popen([sys.executable, "-c", _HUB, str(said)], start_new_session=True)
    deadline = time.monotonic() + 10
    while not said.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(hub.pid, signal.SIGKILL)
    hub.wait()
    while said.read_text() != "done\n" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert said.read_text() == "done\n"


def test_the_gateway_runs_as_the_account_that_it_acts_as() -> None:
    with pytest.raises(ConfigError) as caught:
        LocalNode(login("somebody"))
    own = own_account().pw_name
    assert f"login.user is somebody, but the gateway runs as {own}" in str(caught.value)
