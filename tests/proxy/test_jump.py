"""Login nodes behind a jump host, really: two sshds, of which only one is to be reached."""

from __future__ import annotations

import asyncio
import getpass
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from traitlets.config import Config

from gateway.config import Settings
from gateway.dataplane.masters import Masters
from gateway.dataplane.tunnel import TunnelSettings
from gateway.doctor.check import Status
from gateway.doctor.logins import Logins
from gateway.doctor.patient import Patient
from gateway.errors import GatewayError, HostKeyRefused, LoginNodeRefused, LoginNodeUnreachable
from gateway.model import Command
from gateway.siteconfig import Jump, Login, SiteConfig
from gateway.ssh.connection import LoginNode
from gateway.ssh.hostkey import Trust, shown_key
from gateway.ssh.runner import Replay
from gateway.ssh.transport import Limits, quiet_library_log
from tests.proxy.sshd import Sshd

pytestmark = pytest.mark.proxy
QUICK = Limits(connect=5.0, grace=1.0)
ALICE = "aaaaaaaaaa"


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    quiet_library_log()


def running() -> Iterator[Sshd]:
    with tempfile.TemporaryDirectory(prefix="gw") as directory, Sshd(Path(directory)) as sshd:
        yield sshd


gate = pytest.fixture(running, name="gate")
login = pytest.fixture(running, name="login")


def hop(gate: Sshd, **changes: object) -> Jump:
    said = {"host": "127.0.0.1", "port": gate.port, "user": getpass.getuser()}
    files = {"key": gate.directory / "user_key", "known_hosts": gate.known_hosts}
    return Jump.model_validate({**said, **files, **changes})


def behind(login: Sshd, jump: Jump) -> Login:
    said = {"hosts": ["127.0.0.1"], "port": login.port, "user": getpass.getuser(), "act_as": "service"}
    files = {"key": login.directory / "user_key", "known_hosts": login.known_hosts}
    return Login.model_validate({**said, **files, "jump": jump})


def tunnel(login: Sshd, jump: Jump) -> TunnelSettings:
    return replace(login.settings(), jump=jump)


async def until_left(sshd: Sshd) -> None:
    async with asyncio.timeout(5):
        while sshd.connections:
            await asyncio.sleep(0.05)


# --- commands ---------------------------------------------------------------------------------------------


async def test_commands_go_through_a_jump_host_and_leave_it_at_the_end(gate: Sshd, login: Sshd) -> None:
    async with LoginNode(behind(login, hop(gate)), QUICK) as node:
        done = await asyncio.gather(*(node.run(Command(("echo", "here")), timeout=10) for _ in range(5)))
        assert {d.stdout for d in done} == {"here\n"}
        assert (gate.connections, login.connections) == (1, 1)
    await until_left(gate)
    await until_left(login)


async def test_a_connection_that_dies_behind_the_jump_host_leaves_it_and_is_made_anew(
    gate: Sshd, login: Sshd
) -> None:
    async with LoginNode(behind(login, hop(gate)), QUICK) as node:
        # timeout(1)'s parent's parent is the shell's sshd.
        text = "for i in 1 2; do p=${p:-$PPID}; p=$(ps -o ppid= -p $p); done; echo $p"
        done = await node.run(Command(("/bin/sh", "-c", text)), timeout=10)
        os.kill(int(done.stdout), signal.SIGKILL)
        await until_left(gate)
        assert (await node.run(Command(("echo", "again")), timeout=10)).stdout == "again\n"


async def test_a_host_key_is_seen_through_the_jump_host(gate: Sshd, login: Sshd) -> None:
    shown = await asyncio.to_thread(shown_key, "127.0.0.1", login.port, login.known_hosts, QUICK, hop(gate))
    assert shown.trust is Trust.KNOWN
    await until_left(gate)


async def test_doctor_goes_through_the_jump_host_and_looks_at_its_key(
    gate: Sshd, login: Sshd, tmp_path: Path
) -> None:
    own = (login.directory / "user_key.pub").read_text()
    (gate.directory / "authorized_keys").write_text(own)  # the jump host takes the login's key
    said = behind(login, hop(gate, key=None))
    site = SiteConfig(version=1, name="lab", title="Lab", scheduler="slurm", login=said)
    patient = Patient(site, "site.yaml", Replay(()), None, tmp_path, Settings(Config(), "c"))
    steps = Logins(patient)
    assert f"127.0.0.1:{gate.port} takes connections" in (await steps.connection()).seen
    gate.know("user_key")
    finding = await steps.host_key()
    assert finding.status is Status.NOT_OK
    assert f"[127.0.0.1]:{gate.port} shows" in finding.seen
    gate.know("host_key")
    assert (await steps.host_key()).status is Status.OK
    await until_left(gate)


def refusals(gate: Sshd, login: Sshd, what: str) -> tuple[Jump, type[GatewayError], str]:
    """Return a jump host that does not lead on, and the error that says so."""
    name = f"[127.0.0.1]:{gate.port}"
    match what:
        case "an unknown key":
            gate.known_hosts.write_text("")
            return hop(gate), HostKeyRefused, str(gate.port)
        case "a key that is not let in":
            return hop(gate, key=gate.make_key("other")), LoginNodeRefused, name
        case "no forwarding":
            return hop(gate), LoginNodeRefused, name
    login.stop()
    return hop(gate), LoginNodeUnreachable, name


WHAT = ["an unknown key", "a key that is not let in", "no forwarding", "nothing behind it"]


@pytest.mark.parametrize("what", WHAT)
async def test_a_jump_host_that_does_not_lead_on_is_named(gate: Sshd, login: Sshd, what: str) -> None:
    if what == "no forwarding":
        gate.stop()
        with (gate.directory / "sshd_config").open("a") as config:
            config.write("AllowTcpForwarding no\n")
        gate.start()
    jump, kind, words = refusals(gate, login, what)
    async with LoginNode(behind(login, jump), QUICK) as node:
        with pytest.raises(kind) as by_command:
            await node.run(Command(("true",)), timeout=5)
    masters = Masters(tunnel(login, jump))
    try:
        with pytest.raises(kind) as by_tunnel:
            await masters.tend()
    finally:
        await masters.stop()
    print(by_command.value, "\n", by_tunnel.value)
    assert words in str(by_command.value)
    assert words in str(by_tunnel.value)


# --- the tunnel -------------------------------------------------------------------------------------------


async def round_trips(path: Path, count: int) -> float:
    """Return seconds for one small request and its answer, of as many one after the other."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_unix_connection(path)
        begun = time.monotonic()
        for _ in range(count):
            # Two writes and one read: Nagle's algorithm would keep the second one back.
            writer.write(b"a" * 100)
            await asyncio.sleep(0)
            writer.write(b"b" * 100)
            await reader.readexactly(200)
        seconds = time.monotonic() - begun
        writer.close()
        return seconds / count


async def test_the_tunnel_goes_through_a_jump_host_without_waiting_and_leaves_it_at_the_end(
    gate: Sshd, login: Sshd, echo_port: int
) -> None:
    masters = Masters(tunnel(login, hop(gate)))
    try:
        await masters.tend()
        path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
        seconds = await round_trips(path, 50)
        print(f"{seconds * 1000:.2f} ms")
        assert seconds < 0.02
        assert (gate.connections, login.connections) == (1, 1)
    finally:
        await masters.stop()
    await until_left(gate)
    assert not list((login.directory / "t").glob("*"))


async def test_a_killed_master_takes_its_connection_to_the_jump_host_along(gate: Sshd, login: Sshd) -> None:
    masters = Masters(tunnel(login, hop(gate)))
    try:
        await masters.tend()
        os.kill(int((login.directory / "t/0/pid").read_text()), signal.SIGKILL)
        await until_left(gate)
        await masters.tend()
        assert gate.connections == 1
    finally:
        await masters.stop()
