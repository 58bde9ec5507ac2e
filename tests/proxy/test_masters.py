"""The tunnel on a real sshd: it carries, it is adopted, it is spread, it ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.dataplane import orphans, sshclient
from gateway.dataplane.ciphers import fastest_first
from gateway.dataplane.masters import Masters
from gateway.dataplane.tunnel import FORWARDS_MAX
from gateway.dataplane.turns import Turns
from gateway.errors import DataPlaneError, LoginNodeUnreachable
from tests.proxy.sshd import Sshd, free_port
from tests.proxy.tunnels import ALICE, BOB, echoes, gone, pid_of

pytestmark = pytest.mark.proxy


async def test_a_forward_carries_bytes_and_nobody_else_may_use_it(masters: Masters, echo_port: int) -> None:
    path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    assert path.name == f"{ALICE}.0.sock"
    assert await echoes(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert dict(await masters.forwards()) == {(ALICE, 0): path}


async def test_a_forward_is_made_once(masters: Masters, echo_port: int) -> None:
    paths = [await masters.forward(ALICE, 0, "127.0.0.1", echo_port) for _ in range(2)]
    together = await asyncio.gather(*(masters.forward(BOB, 1, "127.0.0.1", echo_port) for _ in range(4)))
    assert paths[0] == paths[1]
    assert len(set(together)) == 1
    assert len(await masters.forwards()) == 2


async def test_a_generation_never_changes_its_endpoint(masters: Masters, echo_port: int) -> None:
    await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    with pytest.raises(DataPlaneError, match="leads elsewhere"):
        await masters.forward(ALICE, 0, "127.0.0.1", free_port())


async def test_a_session_is_opened_on_a_connection_before_it_is_used(
    masters: Masters, login_node: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []
    run = sshclient.run

    async def watch(words: list[str], *rest: object) -> object:
        ran.append(tuple(words))
        return await run(words, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sshclient, "run", watch)
    await masters.forward(ALICE, 0, "127.0.0.1", 9)
    assert ran[-1][-1] == "true"
    assert not any(word for words in ran for word in words if "PRIVATE" in word)


async def test_the_cipher_is_the_fastest_one_here(masters: Masters, login_node: Sshd) -> None:
    with (login_node.directory / "sshd_config").open("a") as config:
        config.write("LogLevel DEBUG1\n")
    login_node.stop()
    login_node.start()
    await masters.tend()
    first = fastest_first().partition(",")[0]
    assert f"cipher: {first}" in (login_node.directory / "sshd.log").read_text()


async def test_another_object_adopts_masters_and_forwards(
    masters: Masters, login_node: Sshd, echo_port: int
) -> None:
    path = await masters.forward(ALICE, 3, "127.0.0.1", echo_port)
    pid = pid_of(login_node.settings())
    heir = Masters(login_node.settings())
    await heir.tend()
    assert dict(await heir.forwards()) == {(ALICE, 3): path}
    assert await heir.forward(ALICE, 3, "127.0.0.1", echo_port) == path
    assert pid_of(login_node.settings()) == pid
    assert await echoes(path)
    await heir.cancel(ALICE, 3)
    assert not await heir.forwards()


async def test_a_master_is_no_child_of_the_hub(masters: Masters, login_node: Sshd) -> None:
    await masters.tend()
    pid = pid_of(login_node.settings())
    assert os.getsid(pid) not in {os.getsid(0), os.getpid()}
    assert os.getpgid(pid) != os.getpgid(0)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


async def test_cancel_removes_the_socket_and_the_others_stay(masters: Masters, echo_port: int) -> None:
    alice = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    bob = await masters.forward(BOB, 0, "127.0.0.1", echo_port)
    await masters.cancel(ALICE, 0)
    await masters.cancel(ALICE, 0)
    assert not alice.exists()
    assert dict(await masters.forwards()) == {(BOB, 0): bob}
    assert await echoes(bob)
    assert [file.name for file in alice.parent.glob(f"{ALICE}*")] == []


async def test_an_open_connection_survives_cancel(masters: Masters, echo_port: int) -> None:
    path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"one")
    assert await asyncio.wait_for(reader.read(3), 5) == b"one"
    await masters.cancel(ALICE, 0)
    writer.write(b"two")
    assert await asyncio.wait_for(reader.read(3), 5) == b"two"
    writer.close()


async def test_forwards_are_spread_and_full_masters_get_company(
    login_node: Sshd, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FORWARDS_MAX == 256
    monkeypatch.setattr("gateway.dataplane.masters.FORWARDS_MAX", 2)
    masters = Masters(login_node.settings(count=2))
    try:
        for generation in range(5):
            await masters.forward(ALICE, generation, "127.0.0.1", echo_port)
        paths = await masters.forwards()
        assert [path.parent.name for path in paths.values()].count("0") == 2
        assert [path.parent.name for path in paths.values()].count("1") == 2
        assert [path.parent.name for path in paths.values()].count("2") == 1
        assert repr(masters) == "<Masters test: 3 of 2 alive, 5 forwards>"
        os.kill(pid_of(login_node.settings(), 2), signal.SIGKILL)
        assert await gone(pid_of(login_node.settings(), 2))
        await masters.tend()
        assert await echoes(await masters.forward(ALICE, 5, "127.0.0.1", echo_port))
    finally:
        await masters.stop()


async def test_only_masters_of_this_very_directory_are_ended(
    masters: Masters, login_node: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    await masters.tend()
    pid = pid_of(login_node.settings())
    here = login_node.settings().directory / "0"
    assert orphans._is_master(pid, here)
    assert not orphans._is_master(pid, here.with_name("1"))
    assert not orphans._is_master(os.getpid(), here)
    monkeypatch.setattr(Path, "samefile", lambda *_: False)  # the same path in another mount namespace
    assert not orphans._is_master(pid, here)
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert not orphans._is_master(pid, here)


async def test_stop_ends_everything_twice_safely(login_node: Sshd, echo_port: int) -> None:
    settings = login_node.settings(count=2)
    masters = Masters(settings)
    await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    pids = [pid_of(settings, index) for index in range(2)]
    await masters.stop()
    await masters.stop()
    assert all([await gone(pid) for pid in pids])
    assert list(settings.directory.iterdir()) == []
    shutil.rmtree(settings.directory)
    assert not await masters.forwards()


async def test_a_master_that_is_needed_no_more_is_ended(
    login_node: Sshd, monkeypatch: pytest.MonkeyPatch, echo_port: int
) -> None:
    monkeypatch.setattr("gateway.dataplane.masters.FORWARDS_MAX", 2)
    masters = Masters(login_node.settings(count=1))
    try:
        for generation in range(3):
            await masters.forward(ALICE, generation, "127.0.0.1", echo_port)
        pid = pid_of(login_node.settings(), 1)
        await masters.cancel(ALICE, 2)
        await masters.tend()
        assert not await gone(pid, within=0)  # the other one is full
        await masters.cancel(ALICE, 1)
        await masters.tend()
        assert await gone(pid)
    finally:
        await masters.stop()


async def test_connections_to_one_sshd_are_made_one_after_the_other(login_node: Sshd) -> None:
    login_node.configure("MaxStartups 1:100:1")
    await asyncio.sleep(0.3)  # it forgets who looked whether it was up
    turns = Turns()
    tunnels = [
        Masters(
            replace(login_node.settings(count=3), cluster=name, directory=login_node.directory / name),
            turns=turns,
        )
        for name in ("one", "two")
    ]
    try:
        with socket.create_connection(("127.0.0.1", login_node.port)):  # somebody who never logs in
            with pytest.raises(LoginNodeUnreachable):
                await tunnels[0].tend()
        for _ in range(3):  # sshd may not have seen yet that the one before has logged in
            await asyncio.sleep(0.2)
            await asyncio.gather(*(tunnel.tend() for tunnel in tunnels))
        assert [len(tunnel._alive) for tunnel in tunnels] == [3, 3]
    finally:
        for tunnel in tunnels:
            await tunnel.stop()
