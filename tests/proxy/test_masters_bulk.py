"""A way of its own for what is large, on masters that carry nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gateway.dataplane.masters import Masters
from tests.proxy.sshd import Sshd
from tests.proxy.tunnels import ALICE, BOB, echoes, gone, pid_of

pytestmark = pytest.mark.proxy


@pytest.fixture
async def two_ways(login_node: Sshd) -> AsyncIterator[Masters]:
    masters = Masters(replace(login_node.settings(), bulk=1))
    yield masters
    await masters.stop()


async def test_a_way_has_a_second_beginning_on_another_connection(
    two_ways: Masters, login_node: Sshd, echo_port: int
) -> None:
    path = await two_ways.forward(ALICE, 3, "127.0.0.1", echo_port)
    large = two_ways.bulk(ALICE, 3)
    assert large == login_node.settings().directory / f"80/{ALICE}.3b.sock"
    assert pid_of(login_node.settings(), 80) != pid_of(login_node.settings(), 0)
    assert await echoes(path)
    assert await echoes(large)
    assert dict(await two_ways.forwards()) == {(ALICE, 3): path}
    heir = Masters(replace(login_node.settings(), bulk=1))
    await heir.tend()
    assert heir.bulk(ALICE, 3) == large
    await two_ways.cancel(ALICE, 3)
    assert not large.exists()
    assert two_ways.bulk(ALICE, 3) is None


async def test_while_its_master_is_away_there_is_the_one_way_only(
    two_ways: Masters, login_node: Sshd, echo_port: int
) -> None:
    path = await two_ways.forward(ALICE, 0, "127.0.0.1", echo_port)
    large = two_ways.bulk(ALICE, 0)
    assert large
    os.kill(pid_of(login_node.settings(), 80), signal.SIGKILL)
    assert await gone(pid_of(login_node.settings(), 80))
    assert dict(await two_ways.forwards()) == {(ALICE, 0): path}
    assert two_ways.bulk(ALICE, 0) is None
    other = await two_ways.forward(BOB, 0, "127.0.0.1", echo_port)
    assert (await echoes(other), two_ways.bulk(BOB, 0)) == (True, None)
    await two_ways.tend()
    assert two_ways.bulk(ALICE, 0) == large
    assert await echoes(large)
    made_up_for = two_ways.bulk(BOB, 0)
    assert made_up_for
    assert await echoes(made_up_for)


async def test_servers_of_before_get_theirs_and_lose_it_with_the_setting(
    login_node: Sshd, echo_port: int
) -> None:
    before = Masters(login_node.settings())
    await before.forward(ALICE, 0, "127.0.0.1", echo_port)
    after = Masters(replace(login_node.settings(), bulk=1))
    try:
        await after.tend()
        assert after.bulk(ALICE, 0)
        again = Masters(login_node.settings())
        await again.tend()
        assert again.bulk(ALICE, 0) is None
        await again.tend()
        assert [each.name for each in login_node.settings().directory.iterdir()] == ["0"]
    finally:
        await after.stop()
