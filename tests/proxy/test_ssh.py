"""A login node, really: paramiko against an sshd on loopback, and a relay that can break and stall."""

from __future__ import annotations

import asyncio
import getpass
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import GatewayError, HostKeyRefused, LoginNodeRefused, LoginNodeUnreachable
from gateway.model import Command, Completed
from gateway.siteconfig import Login
from gateway.ssh.connection import LoginNode
from gateway.ssh.runner import AnswerLost
from gateway.ssh.transport import Limits, quiet_library_log
from tests.proxy.relay import Relay
from tests.proxy.sshd import Sshd

pytestmark = pytest.mark.proxy
QUICK = Limits(connect=5.0, grace=1.0)


def login_to(sshd: Sshd, port: int | None = None, **changes: object) -> Login:
    return Login.model_validate(
        {
            "hosts": ["127.0.0.1"],
            "port": port or sshd.port,
            "user": getpass.getuser(),
            "key": sshd.directory / "user_key",
            "known_hosts": sshd.known_hosts,
            "act_as": "service",
            **changes,
        }
    )


def know(sshd: Sshd, *ports: int) -> None:
    """Write known_hosts, with a line that paramiko cannot read."""
    public = " ".join((sshd.directory / "host_key.pub").read_text().split()[:2])
    lines = ["@cert-authority * ssh-ed25519 AAAA", *(f"[127.0.0.1]:{port} {public}" for port in ports)]
    sshd.known_hosts.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    quiet_library_log()


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
async def node(sshd: Sshd) -> AsyncIterator[LoginNode]:
    know(sshd, sshd.port)
    async with LoginNode(login_to(sshd), QUICK) as opened:
        yield opened


@asynccontextmanager
async def relayed(sshd: Sshd, limits: Limits = QUICK) -> AsyncIterator[tuple[LoginNode, Relay]]:
    async with Relay(sshd.port) as relay:
        know(sshd, sshd.port, relay.port)
        async with LoginNode(login_to(sshd, relay.port), limits) as node:
            yield node, relay


def sh(text: str) -> Command:
    return Command(("/bin/sh", "-c", text))


async def test_a_command_runs_and_both_streams_come_back(node: LoginNode) -> None:
    done = await node.run(sh("cat; echo err >&2; exit 3"), stdin=b"in\n", timeout=10)
    assert done == Completed(3, "in\n", "err\n")
    assert repr(node).endswith(" connected>")


async def test_large_output_on_both_streams_and_large_input_do_not_block(node: LoginNode) -> None:
    text = "wc -c; head -c 3000000 /dev/zero | tr '\\0' e >&2; head -c 3000000 /dev/zero | tr '\\0' o"
    done = await node.run(sh(text), stdin=b"x" * 999_999 + b"\n", timeout=20)
    assert done.stdout == "1000000\n" + "o" * 3_000_000
    assert len(done.stderr) == 3_000_000


async def test_one_connection_serves_many_runs_and_no_more_sessions_than_allowed(node: LoginNode) -> None:
    await node.run(sh("true"), timeout=10)
    before = threading.active_count()
    # $PPID is timeout(1); its parent is the shell, whose parent is the connection's sshd.
    text = "for i in 1 2; do p=${p:-$PPID}; p=$(ps -o ppid= -p $p); done; echo $p; sleep 0.1"
    done = await asyncio.gather(*(node.run(sh(text), timeout=20) for _ in range(20)))
    assert {d.status for d in done} == {0}
    assert len({d.stdout for d in done}) == 1
    assert threading.active_count() <= before + 8 + 8


async def test_a_host_that_allows_fewer_sessions_serves_all_the_same(tmp_path: Path) -> None:
    narrow = Sshd(tmp_path)
    with (tmp_path / "sshd_config").open("a") as config:
        config.write("MaxSessions 2\n")
    with narrow:
        async with LoginNode(login_to(narrow), QUICK) as node:
            done = await asyncio.gather(*(node.run(sh("sleep 0.1; echo ok"), timeout=20) for _ in range(10)))
    assert [d.stdout for d in done] == ["ok\n"] * 10


async def test_the_remote_side_ends_a_command_at_its_limit(node: LoginNode) -> None:
    began = time.monotonic()
    assert (await node.run(sh("sleep 30"), timeout=1)).status == 124
    assert time.monotonic() - began < 2.5


async def test_a_run_that_does_not_answer_in_time_is_given_up_and_the_next_connects_anew(sshd: Sshd) -> None:
    async with relayed(sshd) as (node, relay):
        await node.run(sh("true"), timeout=5)
        relay.stall()
        began = time.monotonic()
        with pytest.raises(LoginNodeUnreachable):
            await node.run(sh("true"), timeout=1)
        assert time.monotonic() - began < 6
        relay.flow()
        assert (await node.run(sh("echo back"), timeout=5)).stdout == "back\n"


@pytest.mark.parametrize(
    ("happens", "says"), [(Relay.drop, "connection was lost"), (Relay.stall, "did not answer within 2 s")]
)
async def test_a_connection_that_breaks_or_falls_silent_is_a_failure_and_no_empty_success(
    sshd: Sshd, happens: Callable[[Relay], None], says: str
) -> None:
    async with relayed(sshd) as (node, relay):
        run = asyncio.create_task(node.run(sh("echo part; sleep 5"), timeout=1))
        await asyncio.sleep(0.8)
        happens(relay)
        with pytest.raises(AnswerLost, match=says):
            await asyncio.wait_for(run, 3)
        relay.flow()
        assert (await node.run(sh("echo back"), timeout=5)).stdout == "back\n"
        assert relay.accepted == 2


async def test_a_cancelled_run_frees_its_session_at_once(node: LoginNode) -> None:
    await node.run(sh("true"), timeout=10)
    runs = [asyncio.create_task(node.run(sh("sleep 20"), timeout=30)) for _ in range(8)]
    await asyncio.sleep(0.5)
    for run in runs:
        run.cancel()
    await asyncio.gather(*runs, return_exceptions=True)
    began = time.monotonic()
    assert (await node.run(sh("echo free"), timeout=5)).stdout == "free\n"
    assert time.monotonic() - began < 2


async def test_an_unknown_host_key_stops_with_the_line_to_add(sshd: Sshd) -> None:
    know(sshd)
    async with LoginNode(login_to(sshd), QUICK) as node:
        with pytest.raises(HostKeyRefused) as caught:
            await node.run(sh("true"), timeout=5)
    line = str(caught.value).rpartition("add this line there: ")[2]
    assert line.startswith(f"[127.0.0.1]:{sshd.port} ssh-ed25519 ")
    sshd.known_hosts.write_text(line + "\n")
    async with LoginNode(login_to(sshd), QUICK) as node:
        assert (await node.run(sh("true"), timeout=5)).status == 0


async def test_a_changed_host_key_stops_it(sshd: Sshd) -> None:
    other = " ".join((sshd.directory / "user_key.pub").read_text().split()[:2])
    sshd.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {other}\n")
    async with LoginNode(login_to(sshd), QUICK) as node:
        with pytest.raises(HostKeyRefused, match="CHANGED"):
            await node.run(sh("true"), timeout=5)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"user": "nosuchuser"}, LoginNodeRefused),
        ({"key": "/no/such/key"}, LoginNodeRefused),
        ({"known_hosts": "/no/such/file"}, HostKeyRefused),
        ({"port": 1}, LoginNodeUnreachable),
        ({"hosts": ["no-such-host.invalid"]}, LoginNodeUnreachable),
    ],
)
async def test_who_does_not_get_in_is_told_why(
    sshd: Sshd, changes: dict[str, object], error: type[GatewayError]
) -> None:
    know(sshd, sshd.port)
    login = Login.model_validate(login_to(sshd).model_dump() | changes)
    async with LoginNode(login, QUICK) as node:
        with pytest.raises(error) as caught:
            await node.run(sh("true"), timeout=5)
        assert not isinstance(caught.value, AnswerLost)
        assert repr(node).endswith("not connected>")


async def test_hosts_are_tried_in_turn(sshd: Sshd) -> None:
    know(sshd, sshd.port)
    login = login_to(sshd, hosts=["no-such-host.invalid", "127.0.0.1"])
    async with LoginNode(login, QUICK) as node:
        assert (await node.run(sh("true"), timeout=5)).status == 0


async def test_a_host_that_is_too_busy_to_greet_is_tried_again(sshd: Sshd) -> None:
    async with relayed(sshd) as (node, relay):
        relay.refuse(2)
        assert (await node.run(sh("echo in"), timeout=5)).stdout == "in\n"
        assert relay.accepted == 3


async def test_when_nobody_answers_all_waiting_runs_share_the_failure(sshd: Sshd) -> None:
    async with relayed(sshd, Limits(connect=1.0)) as (node, relay):
        relay.stall()
        began = time.monotonic()
        runs = [node.run(sh("true"), timeout=5) for _ in range(8)]
        done = await asyncio.gather(*runs, return_exceptions=True)
        assert all(isinstance(error, LoginNodeUnreachable) for error in done)
        assert time.monotonic() - began < 16


async def test_closing_ends_what_runs_and_twice_is_once(sshd: Sshd) -> None:
    know(sshd, sshd.port)
    node = LoginNode(login_to(sshd), QUICK)
    runs = [asyncio.create_task(node.run(sh("sleep 20"), timeout=30)) for _ in range(12)]
    await asyncio.sleep(0.5)
    began = time.monotonic()
    await node.aclose()
    await node.aclose()
    done = await asyncio.gather(*runs, return_exceptions=True)
    assert all(isinstance(error, LoginNodeUnreachable) for error in done), done
    assert time.monotonic() - began < 3
    assert repr(node).endswith(" closed>")
    with pytest.raises(LoginNodeUnreachable):
        await node.run(sh("true"), timeout=5)


async def test_the_socket_sends_at_once_and_notices_a_dead_peer(node: LoginNode) -> None:
    await node.run(sh("true"), timeout=5)
    assert node._link is not None
    kept = node._link.transport.sock
    assert isinstance(kept, socket.socket)
    assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
