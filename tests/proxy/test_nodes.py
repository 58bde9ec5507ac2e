"""The way to a compute node by SSH as the user: two real sshd, one behind the other."""

from __future__ import annotations

import asyncio
import dataclasses
import getpass
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.dataplane.masters import Duty, Masters
from gateway.dataplane.nodemaster import Credentials, NodeMaster, Nodes, owned
from gateway.dataplane.nodes import NodeTunnel
from gateway.dataplane.orphans import clear
from gateway.errors import HostKeyRefused, LoginNodeRefused, LoginNodeUnreachable
from tests.proxy.sshd import Sshd

ALICE, BOB = "a" * 10, "b" * 10
ME = getpass.getuser()
NODE = "127.0.0.1"


class ComputeNode(Sshd):
    """A node whose sshd trusts a CA for users, and nothing else."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        super().__init__(directory)
        self.make_key("ca")
        self.sockets = directory / "s-%u"
        self.issued: list[str] = []
        self.principal = ME
        (directory / "authorized_keys").write_text("")
        with (directory / "sshd_config").open("a") as config:
            config.write(f"TrustedUserCAKeys {directory}/ca.pub\nAllowTcpForwarding local\n")

    @property
    def own(self) -> Path:
        """The directory of this user's sockets."""
        return Path(str(self.sockets).replace("%u", ME))

    def certify(self, user: str, command: str) -> Credentials:
        """Sign a key of a moment, as the gateway's CA does."""
        key = self.directory / f"k{len(self.issued)}"
        self.issued.append(command)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=20
        )
        words = [
            "-s",
            str(self.directory / "ca"),
            "-I",
            "test",
            "-n",
            self.principal,
            "-V",
            "+1m",
            "-O",
            "clear",
        ]
        more = ["-O", f"force-command={command}", "-O", "permit-port-forwarding"]
        subprocess.run(["ssh-keygen", "-q", *words, *more, f"{key}.pub"], check=True, timeout=20)
        certificate = Path(f"{key}-cert.pub").read_text().strip()
        return Credentials(key.read_bytes(), certificate)

    def nodes(self) -> Nodes:
        """Return how it is reached."""
        directory = str(self.sockets)
        return Nodes(self.known_hosts, self.port, lambda user: directory.replace("%u", user), self.certify)


@dataclasses.dataclass
class Cluster:
    """A login node, a compute node, and applications that say who they are."""

    login: Sshd
    node: ComputeNode
    servers: list[asyncio.Server] = dataclasses.field(default_factory=list)

    def tunnel(self, duty: Duty = Duty.ALL, nodes: Nodes | None = None) -> NodeTunnel:
        settings = dataclasses.replace(self.login.settings(), timeout=5.0)
        return NodeTunnel(Masters(settings, duty), settings, nodes or self.node.nodes(), duty)

    async def serve(self, server_id: str, number: int, answer: bytes) -> None:
        """Have an application listen in this user's directory."""

        async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            await writer.drain()
            writer.close()

        path = self.node.own / f"{server_id}.{number}"
        self.servers.append(await asyncio.start_unix_server(say, path))

    def close(self) -> None:
        for server in self.servers:
            server.close()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="gw-n-", dir="/tmp") as name:
        with Sshd(Path(name)) as login, ComputeNode(Path(name) / "n") as node:
            node.own.mkdir(mode=0o700)
            found = Cluster(login, node)
            yield found
            found.close()
            for master in (Path(name) / "t").glob("[0-9]*"):  # of a test that has failed
                clear(master)


async def said(path: Path) -> bytes:
    """Return what the application at the other end says, b"" if nobody does."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return await reader.read()
            finally:
                writer.close()
    except OSError:
        return b""


def processes(directory: Path) -> list[int]:
    """Return the ssh processes of the masters in a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"-M" in words and any(word.startswith(os.fsencode(directory) + b"/1") for word in words):
                found.append(int(entry.name))
    return found


async def test_one_connection_carries_all_of_a_users_servers_on_a_node(cluster: Cluster) -> None:
    tunnel = cluster.tunnel()
    await tunnel.tend()
    await cluster.serve(ALICE, 20001, b"alice")
    await cluster.serve(BOB, 20002, b"bob")
    first, second = await asyncio.gather(
        tunnel.forward(ALICE, 0, NODE, 20001, ME), tunnel.forward(BOB, 3, NODE, 20002, ME)
    )
    assert (await said(first), await said(second)) == (b"alice", b"bob")
    assert len(processes(cluster.login.directory / "t")) == 1
    assert cluster.node.connections == 1
    assert await tunnel.forwards() == {(ALICE, 0): first, (BOB, 3): second}
    assert tunnel.carrier(ALICE, 0) == (1000, NODE)
    left = [entry.name for entry in first.parent.iterdir() if entry.name.startswith("key")]
    assert not left, "the key is good for a minute, and nobody needs it any more"
    heir = cluster.tunnel()
    assert heir.address(ALICE, 0) == await heir.confirmed(ALICE, 0) == first
    await heir.cancel(ALICE, 0)
    assert await said(second) == b"bob"
    await heir.cancel(BOB, 3)
    assert not first.parent.exists()
    assert not processes(cluster.login.directory / "t"), "it ends with its last server"
    await tunnel.stop()


async def test_a_killed_connection_comes_back_at_the_same_paths(cluster: Cluster) -> None:
    tunnel = cluster.tunnel()
    await tunnel.tend()
    await cluster.serve(ALICE, 20001, b"alice")
    path = await tunnel.forward(ALICE, 0, NODE, 20001, ME)
    (pid,) = processes(cluster.login.directory / "t")
    waiting = asyncio.create_task(tunnel.pause(60))
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        await waiting
    await tunnel.tend()
    assert await said(path) == b"alice"
    assert len(cluster.node.issued) == 2, "each connection has a certificate of its own"
    await tunnel.tend()
    (sample,) = (each for each in tunnel.masters() if each.kind == "node")
    assert (sample.host, sample.alive, sample.forwards, sample.reconnects) == (NODE, True, 1, 1)
    await tunnel.stop()
    assert not processes(cluster.login.directory / "t")


async def test_the_way_by_another_login_master_is_taken_when_one_dies(cluster: Cluster) -> None:
    tunnel = cluster.tunnel()
    await tunnel.tend()
    await cluster.serve(ALICE, 20001, b"alice")
    path = await tunnel.forward(ALICE, 0, NODE, 20001, ME)
    os.kill(int((cluster.login.directory / "t/0/pid").read_text()), signal.SIGKILL)
    for _ in range(50):
        await tunnel.pause(0.2)
        await tunnel.tend()
        if await said(path) == b"alice":
            break
    assert await said(path) == b"alice"
    await tunnel.stop()


async def test_nothing_is_forwarded_into_a_directory_of_somebody_else(cluster: Cluster) -> None:
    """Who finds the directory gone could make one: the node is asked whose it is before a forward."""
    tunnel = cluster.tunnel()
    await tunnel.tend()
    await cluster.serve(ALICE, 20001, b"alice")
    elsewhere = cluster.node.own.with_name("elsewhere")
    cluster.node.own.rename(elsewhere)
    cluster.node.own.symlink_to(elsewhere)
    with pytest.raises(LoginNodeRefused, match=r"is not a directory of .*'s own there"):
        await tunnel.forward(ALICE, 0, NODE, 20001, ME)
    assert await tunnel.forwards() == {}
    assert not processes(cluster.login.directory / "t")
    await tunnel.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes two users")
def test_the_command_of_the_certificate_sees_another_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    assert subprocess.run(owned(str(tmp_path)), shell=True, check=False, timeout=10).returncode == 1
    os.chown(tmp_path, 0, 0)
    for shell in ("sh", "bash", "tcsh", "fish"):
        done = subprocess.run([shell, "-c", owned(str(tmp_path))], check=False, timeout=10)
        assert done.returncode == 0, shell


async def test_a_node_that_refuses_or_is_not_known_is_named(cluster: Cluster) -> None:
    tunnel = cluster.tunnel()
    await tunnel.tend()
    cluster.node.principal = "somebody-else"
    with pytest.raises(LoginNodeRefused, match=r"does not let .* in with the gateway's certificate"):
        await tunnel.forward(ALICE, 0, NODE, 20001, ME)
    cluster.node.principal = ME
    cluster.node.make_key("other")
    cluster.node.know("other")
    with pytest.raises(HostKeyRefused, match="host key of the compute node"):
        await tunnel.forward(ALICE, 0, NODE, 20001, ME)
    cluster.node.stop()
    with pytest.raises(LoginNodeUnreachable, match="by way of the login node"):
        await tunnel.forward(ALICE, 0, NODE, 20001, ME)
    assert await tunnel.forwards() == {}
    await tunnel.stop()


async def test_a_forward_leads_to_its_own_servers_socket_and_nowhere_else(cluster: Cluster) -> None:
    tunnel = cluster.tunnel()
    await tunnel.tend()
    await cluster.serve(BOB, 20001, b"bob")
    path = await tunnel.forward(ALICE, 0, NODE, 20001, ME)
    assert await said(path) == b"", "the number of another's socket leads nowhere"
    for host, user in (("-oProxyCommand=x", ME), (NODE, "../../etc"), (NODE, "-l"), (NODE, "")):
        with pytest.raises(ValueError, match="not a"):
            await tunnel.forward(ALICE, 1, host, 20001, user)
    await tunnel.stop()


async def test_a_keeper_connects_what_the_hub_wants(cluster: Cluster) -> None:
    keeper, hub = cluster.tunnel(Duty.KEEP), cluster.tunnel(Duty.CARRY)
    await keeper.tend()
    await hub.tend()
    await cluster.serve(ALICE, 20001, b"alice")

    async def keep() -> None:
        while True:
            await keeper.pause(5)
            await keeper.tend()

    keeping = asyncio.create_task(keep())
    async with asyncio.timeout(5):
        path = await hub.forward(ALICE, 0, NODE, 20001, ME)
    assert await said(path) == b"alice"
    (pid,) = processes(cluster.login.directory / "t")
    os.kill(pid, signal.SIGKILL)
    for _ in range(50):
        await asyncio.sleep(0.1)
        if await said(path) == b"alice":
            break
    assert await said(path) == b"alice"
    await hub.cancel(ALICE, 0)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert not processes(cluster.login.directory / "t")
    await keeper.stop()


async def test_a_hub_that_was_killed_while_it_connected_leaves_nothing_doubled(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wanted is on disk, without an answer: the next one makes it, once."""
    tunnel = cluster.tunnel()
    await tunnel.tend()
    await cluster.serve(ALICE, 20001, b"alice")
    started = asyncio.Event()

    async def hang(_: NodeMaster) -> None:
        started.set()
        await asyncio.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr(NodeMaster, "_open_session", hang)
        task = asyncio.create_task(tunnel.forward(ALICE, 0, NODE, 20001, ME))
        await started.wait()
    (pid,) = processes(cluster.login.directory / "t")
    heir = cluster.tunnel()
    await heir.tend()
    path = heir.address(ALICE, 0)
    assert path is not None or await heir.forward(ALICE, 0, NODE, 20001, ME)
    assert len(processes(cluster.login.directory / "t")) == 1, pid
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await heir.stop()
    assert not processes(cluster.login.directory / "t")
