"""Masters that are to be left: a drained login node, other settings, a renewed certificate."""

from __future__ import annotations

import asyncio
import getpass
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.dataplane import drain
from gateway.dataplane.masters import Duty, Masters
from gateway.dataplane.tunnel import TunnelSettings
from tests.proxy.sshd import Sshd
from tests.proxy.tunnels import ALICE, BOB, echoes, gone, pid_of

pytestmark = pytest.mark.proxy
FIRST, SECOND = "127.0.0.1", "127.0.0.2"


@pytest.fixture
async def settings(login_node: Sshd) -> AsyncIterator[TunnelSettings]:
    """A tunnel by two login nodes, with one master to each."""
    login_node.listen_too(SECOND)
    settings = replace(login_node.settings(count=2), hosts=(FIRST, SECOND))
    yield settings
    await Masters(settings).stop()


async def open_at(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection through a forward that has already carried something."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    return reader, writer


async def test_a_drained_login_node_is_left_when_nothing_is_open_there_any_more(
    settings: TunnelSettings, echo_port: int
) -> None:
    keeper, hub = Masters(settings, Duty.KEEP), Masters(settings, Duty.CARRY)
    await keeper.tend()
    await hub.tend()
    old = await hub.forward(ALICE, 0, "127.0.0.1", echo_port)
    assert hub.carrier(ALICE, 0) == (0, FIRST)
    reader, writer = await open_at(old)
    drain.mark(settings.directory, FIRST)
    await keeper.tend()
    assert dict(await hub.forwards()) == {(ALICE, 0): old}
    assert hub.draining(ALICE, 0)
    new = await hub.forward(ALICE, 1, "127.0.0.1", echo_port)
    assert hub.carrier(ALICE, 1)[1] == SECOND  # type: ignore[index]
    assert not hub.draining(ALICE, 1)
    await keeper.tend()
    writer.write(b"two")
    assert await reader.readexactly(3) == b"two"
    left = pid_of(settings)
    writer.close()
    for _ in range(50):
        await keeper.tend()
        if await gone(left, within=0):
            break
        await asyncio.sleep(0.05)
    assert dict(await hub.forwards()) == {(ALICE, 1): new}
    assert await echoes(new)
    assert {each.host for each in keeper._fresh(bulk=False)} == {SECOND}
    drain.unmark(settings.directory, FIRST)
    assert not drain.marked(settings.directory)


async def test_after_the_deadline_it_is_left_with_what_is_open(
    settings: TunnelSettings, echo_port: int
) -> None:
    settings = replace(settings, drain=0.5)
    masters = Masters(settings)
    path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    reader, writer = await open_at(path)
    drain.mark(settings.directory, FIRST)
    await masters.tend()
    assert not await gone(pid_of(settings), within=0)
    await asyncio.sleep(0.6)
    await masters.tend()
    assert await reader.read(1) == b""
    writer.close()
    assert masters.carrier(ALICE, 0) == (
        0,
        SECOND,
    )  # nobody has made another way: the same goes by another host
    assert await echoes(path)


async def test_a_login_node_that_comes_back_from_maintenance_is_used_again(
    settings: TunnelSettings, echo_port: int
) -> None:
    masters = Masters(settings)
    drain.mark(settings.directory, FIRST)
    await masters.tend()
    assert {each.host for each in masters._alive.values()} == {SECOND}
    drain.unmark(settings.directory, FIRST)
    drain.mark(settings.directory, SECOND)
    for _ in range(2):
        await masters.tend()
    assert {each.host for each in masters._alive.values()} == {FIRST}


async def test_the_last_login_node_is_not_left(settings: TunnelSettings, echo_port: int) -> None:
    masters = Masters(settings)
    path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    for host in (FIRST, SECOND):
        drain.mark(settings.directory, host)
    await masters.tend()
    assert not masters.draining(ALICE, 0)
    assert await echoes(path)


async def test_a_master_of_other_settings_gets_no_new_forwards(
    masters: Masters, login_node: Sshd, echo_port: int
) -> None:
    old = await masters.forward(ALICE, 1, "127.0.0.1", echo_port)
    _, writer = await open_at(old)
    other = Masters(replace(login_node.settings(), hosts=("localhost",)))
    login_node.known_hosts.write_text(
        login_node.known_hosts.read_text().replace(
            "[127.0.0.*]", f"[localhost]:{login_node.port},[127.0.0.*]"
        )
    )
    await other.tend()
    assert other.draining(ALICE, 1)
    new = await other.forward(BOB, 1, "127.0.0.1", echo_port)
    assert new.parent != old.parent
    await other.tend()
    assert await echoes(old)
    writer.close()


def certify(sshd: Sshd) -> Path:
    """Sign the user's key anew with the CA that sshd trusts; return the certificate."""
    words = [
        "ssh-keygen",
        "-q",
        "-s",
        str(sshd.directory / "user_ca"),
        "-I",
        "tunnel",
        "-n",
        getpass.getuser(),
    ]
    subprocess.run([*words, "-V", "-1m:+1h", str(sshd.directory / "user_key.pub")], check=True, timeout=20)
    return sshd.directory / "user_key-cert.pub"


async def test_a_renewed_certificate_is_taken_up_by_a_new_master(login_node: Sshd, echo_port: int) -> None:
    login_node.make_key("user_ca")
    login_node.configure(f"TrustedUserCAKeys {login_node.directory}/user_ca.pub")
    (login_node.directory / "authorized_keys").write_text("")
    settings = replace(login_node.settings(), certificate=certify(login_node))
    masters = Masters(settings)
    try:
        await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
        old = pid_of(settings)
        await masters.tend()
        assert not masters.draining(ALICE, 0)
        certify(login_node)
        await masters.tend()
        assert masters.draining(ALICE, 0)
        assert await echoes(await masters.forward(ALICE, 1, "127.0.0.1", echo_port))
        await masters.tend()
        assert await gone(old)
        assert await masters.confirmed(ALICE, 1)
    finally:
        await masters.stop()
