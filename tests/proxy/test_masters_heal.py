"""A master that dies comes back with all its forwards, at the same paths, whether there is a hub or not."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.dataplane import openssh, sshclient
from gateway.dataplane.masters import Duty, Masters
from gateway.dataplane.mux import Control
from tests.proxy.relay import Relay
from tests.proxy.sshd import Sshd
from tests.proxy.tunnels import ALICE, BOB, echoes, gone, kept, pid_of, seconds_until

pytestmark = pytest.mark.proxy


@pytest.fixture
async def keeper(login_node: Sshd) -> AsyncIterator[Masters]:
    """What starts masters and makes no forwards, as ``gateway tunnels``."""
    keeper = Masters(login_node.settings(), Duty.KEEP)
    await keeper.tend()
    yield keeper
    await keeper.stop()


@pytest.fixture
async def path(login_node: Sshd, keeper: Masters, echo_port: int) -> Path:
    """The socket of a way that a hub has made, which is no more."""
    return await Masters(login_node.settings(), Duty.CARRY).forward(ALICE, 0, "127.0.0.1", echo_port)


async def test_a_killed_master_is_noticed_and_made_anew(
    masters: Masters, login_node: Sshd, echo_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    old = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    pid = pid_of(login_node.settings())
    os.kill(pid, signal.SIGKILL)
    assert await gone(pid)
    with caplog.at_level(logging.WARNING):
        assert dict(await masters.forwards()) == {(ALICE, 0): old}  # it is about to come back
        assert await masters.confirmed(ALICE, 0) is None
    assert "[test] master 0 is gone, with 1 forwards" in caplog.text
    await masters.tend()
    assert pid_of(login_node.settings()) != pid
    assert await masters.confirmed(ALICE, 0) == old
    assert await echoes(old)


async def test_a_forward_after_an_unnoticed_death_still_works(
    masters: Masters, login_node: Sshd, echo_port: int
) -> None:
    await masters.tend()
    pid = pid_of(login_node.settings())
    os.kill(pid, signal.SIGKILL)
    assert await gone(pid)
    assert await echoes(await masters.forward(ALICE, 1, "127.0.0.1", echo_port))


async def test_a_master_that_owes_an_answer_keeps_its_forwards_and_gets_no_new_ones(
    login_node: Sshd, echo_port: int
) -> None:
    settings = dataclasses.replace(login_node.settings(), timeout=1.0)
    masters = Masters(settings)
    try:
        old = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
        silent = pid_of(settings)
        os.kill(silent, signal.SIGSTOP)
        for _ in range(openssh.SILENCES_TO_BELIEVE):
            assert dict(await masters.forwards()) == {(ALICE, 0): old}
        new = await masters.forward(BOB, 0, "127.0.0.1", echo_port)
        assert new.parent != old.parent
        assert await echoes(new)
        os.kill(silent, signal.SIGCONT)
        assert dict(await masters.forwards()) == {(ALICE, 0): old, (BOB, 0): new}
        assert await echoes(old)
        assert pid_of(settings) == silent
    finally:
        await masters.stop()


async def test_a_master_that_stays_silent_is_killed_and_replaced(
    login_node: Sshd, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (openssh.SILENCES_TO_BELIEVE, openssh.SILENT_FOR) == (3, 30)
    monkeypatch.setattr(openssh, "SILENT_FOR", 1.0)
    settings = dataclasses.replace(login_node.settings(), timeout=0.5)
    masters = Masters(settings)
    try:
        await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
        hung = pid_of(settings)
        os.kill(hung, signal.SIGSTOP)
        for _ in range(2):
            assert len(await masters.forwards()) == 1
        assert await masters.confirmed(ALICE, 0) is None
        await masters.tend()
        assert await gone(hung)
        assert pid_of(settings) != hung
        assert await echoes(await masters.forward(ALICE, 0, "127.0.0.1", echo_port))
    finally:
        await masters.stop()


async def test_an_interrupted_start_is_completed_at_the_next_look(masters: Masters, login_node: Sshd) -> None:
    await masters.tend()
    pid = pid_of(login_node.settings())
    (login_node.settings().directory / "0" / "pid").unlink()
    await masters.forwards()
    assert pid_of(login_node.settings()) == pid


async def test_an_interrupted_cancel_is_finished(masters: Masters, echo_port: int) -> None:
    path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    path.with_suffix(".to").rename(path.with_suffix(".gone"))
    assert not await masters.forwards()
    assert not list(path.parent.glob(f"{ALICE}*"))
    assert await echoes(await masters.forward(ALICE, 0, "127.0.0.1", echo_port))


async def test_what_is_open_outlives_the_listening_sshd(
    masters: Masters, login_node: Sshd, echo_port: int
) -> None:
    path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    login_node.stop()
    await masters.tend()
    assert await echoes(path)


async def test_a_silent_master_without_a_pid_file_is_ended_too(login_node: Sshd) -> None:
    masters = Masters(dataclasses.replace(login_node.settings(), timeout=0.5))
    await masters.tend()
    pid = pid_of(login_node.settings())
    (login_node.settings().directory / "0" / "pid").unlink()
    os.kill(pid, signal.SIGSTOP)
    await masters.stop()
    assert await gone(pid)


@pytest.mark.parametrize("victim", ["ssh", "sshd"])
async def test_without_a_hub_a_killed_connection_is_back_within_2_s(
    login_node: Sshd, keeper: Masters, path: Path, victim: str
) -> None:
    async with kept(keeper):
        await asyncio.sleep(0.3)  # it waits for something to happen
        os.kill(
            pid_of(login_node.settings()) if victim == "ssh" else login_node.sessions()[0], signal.SIGKILL
        )
        before = path.stat().st_mtime_ns
        await seconds_until(lambda: _is_new(path, before), 2.0)
        assert await echoes(path)


async def _is_new(path: Path, made: int) -> bool:
    return path.stat().st_mtime_ns != made and await echoes(path)


async def test_all_forwards_of_a_full_master_are_back_within_2_s(
    login_node: Sshd, keeper: Masters, echo_port: int
) -> None:
    hub = Masters(login_node.settings(), Duty.CARRY)
    await hub.tend()
    paths = [await hub.forward(ALICE, number, "127.0.0.1", echo_port) for number in range(256)]
    made = [path.stat().st_mtime_ns for path in paths]
    async with kept(keeper):
        await asyncio.sleep(0.3)
        os.kill(pid_of(login_node.settings()), signal.SIGKILL)
        await seconds_until(lambda: _is_new(paths[-1], made[-1]), 2.0)
    assert all([await echoes(path) for path in paths])
    assert not {path.stat().st_mtime_ns for path in paths} & set(made)


async def test_a_login_node_that_comes_back_is_used_within_2_s(
    login_node: Sshd, keeper: Masters, path: Path
) -> None:
    async with kept(keeper):
        login_node.crash()
        await asyncio.sleep(3.0)
        login_node.start()
        await seconds_until(lambda: echoes(path), 2.0)


async def test_a_connection_over_which_nothing_comes_any_more_is_noticed(
    login_node: Sshd, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = dict(option.split("=", 1) for option in sshclient.OPTIONS)
    wait, count = int(said["ServerAliveInterval"]), int(said["ServerAliveCountMax"])
    assert wait * (count + 1) <= 15
    faster = (option.replace(f"Interval={wait}", "Interval=1") for option in sshclient.OPTIONS)
    monkeypatch.setattr(sshclient, "OPTIONS", tuple(faster))
    async with Relay(login_node.port) as relay:
        login_node.know("host_key", relay.port)
        masters = Masters(dataclasses.replace(login_node.settings(), port=relay.port))
        try:
            path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
            relay.stall()
            assert await gone(pid_of(login_node.settings()), within=count + 3)
            relay.flow()
            async with kept(masters):
                await seconds_until(lambda: echoes(path), 5.0)
        finally:
            await masters.stop()


async def test_another_login_node_takes_over_at_the_same_path(login_node: Sshd, echo_port: int) -> None:
    login_node.listen_too("127.0.0.2")
    settings = dataclasses.replace(login_node.settings(), hosts=("127.0.0.2", "127.0.0.1"))
    masters = Masters(settings)
    try:
        path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
        assert masters.carrier(ALICE, 0) == (0, "127.0.0.2")
        login_node.crash()
        login_node.listen_only("127.0.0.1")
        login_node.start()
        async with kept(masters):
            await seconds_until(lambda: echoes(path), 5.0)
            await masters.tend()
        assert masters.carrier(ALICE, 0) == (0, "127.0.0.1")
    finally:
        await masters.stop()


async def test_a_way_that_does_not_come_back_is_given_up_where_there_is_another_master(
    login_node: Sshd, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.dataplane.masters.HEALING", 0.2)
    settings = login_node.settings(count=2)
    keeper, hub = Masters(settings, Duty.KEEP), Masters(settings, Duty.CARRY)
    try:
        await keeper.tend()
        await hub.tend()
        old = await hub.forward(ALICE, 0, "127.0.0.1", echo_port)
        os.kill(pid_of(settings), signal.SIGKILL)
        assert await gone(pid_of(settings))
        assert dict(await hub.forwards()) == {(ALICE, 0): old}
        await asyncio.sleep(0.3)
        assert await hub.forwards() == {}
        assert hub.address(ALICE, 0) is None
        assert (await hub.forward(ALICE, 1, "127.0.0.1", echo_port)).parent != old.parent
        await hub.cancel(ALICE, 0)
        await keeper.tend()
        assert not old.exists()
    finally:
        await keeper.stop()


async def test_what_was_cancelled_while_its_master_was_dead_does_not_come_back(
    login_node: Sshd, keeper: Masters, path: Path
) -> None:
    os.kill(pid_of(login_node.settings()), signal.SIGKILL)
    assert await gone(pid_of(login_node.settings()))
    await Masters(login_node.settings(), Duty.CARRY).cancel(ALICE, 0)
    await keeper.tend()
    assert await Masters(login_node.settings(), Duty.CARRY).forwards() == {}
    assert not list(path.parent.glob(f"{ALICE}*"))


async def test_what_was_cancelled_while_its_master_started_does_not_come_back(
    login_node: Sshd, path: Path, echo_port: int, tmp_path: Path
) -> None:
    slow = tmp_path / "slow-ssh"
    slow.write_text('#!/bin/sh\ncase "$*" in *-N*) sleep 0.7 ;; esac\nexec ssh "$@"\n')
    slow.chmod(0o755)
    settings = dataclasses.replace(login_node.settings(), program=str(slow))
    hub = Masters(login_node.settings(), Duty.CARRY)
    await hub.forward(BOB, 0, "127.0.0.1", echo_port)
    os.kill(pid_of(settings), signal.SIGKILL)
    assert await gone(pid_of(settings))
    starting = asyncio.create_task(Masters(settings, Duty.KEEP).tend())
    await asyncio.sleep(0.4)  # ssh has not read yet what it is to make, and it is written
    assert "LocalForward" in (path.parent / "config").read_text()
    await hub.cancel(ALICE, 0)
    await starting
    assert {each for each, _ in await hub.forwards()} == {BOB}
    assert not path.exists()
    assert not await Control(path.parent / "ctl", 5.0).close(path, "127.0.0.1", echo_port)
