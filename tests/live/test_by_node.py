"""JupyterLab on a Unix socket of its user's, reached by SSH to the compute node as the user."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.lab import Lab, gateway
from tests.lab.accounts import BY_NAME, write_private
from tests.lab.clusters import SLURM
from tests.lab.nodelogins import NAME, NodeLogins
from tests.lab.nodes import wait_until
from tests.live.client import Person
from tests.live.test_certificate import Hand

_CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


@pytest.fixture(scope="module")
def logins(lab: Lab) -> Iterator[NodeLogins]:
    """The lab whose compute nodes let people in, and a gateway that goes that way."""
    lab.stop_gateway()
    lab.clear_jobs()
    found = NodeLogins(lab)
    found.start()
    lab.start_gateway()
    try:
        yield found
    finally:
        lab.stop_gateway()
        lab.end_gateway_processes()
        lab.clear_jobs()
        found.stop()
        lab.start_gateway()


@pytest.fixture(scope="module")
def alice(logins: NodeLogins) -> Iterator[Person]:
    """alice, with JupyterLab."""
    person = Person(logins.lab, "alice").login()
    begun = time.monotonic()
    person.start(cluster=NAME)
    print(f"ready after {time.monotonic() - begun:.1f} s")
    person.enter()
    yield person
    if person.state()["phase"] != "ended":
        person.stop()


def connections(lab: Lab) -> list[Path]:
    """Return the connections to nodes that the hub has, by their directories."""
    tunnels = Path(f"/proc/{lab.hub.pid}/root/run/gateway/t/{NAME}")
    return [path for path in tunnels.glob("*") if path.name.isdecimal() and int(path.name) >= 1000]


def number_of(person: Person) -> int:
    """Return the number of the socket of a person's server, which the job has published as its port."""
    (known,) = connections(person.lab)
    (leads_to,) = known.glob(f"{person.state()['id']}.*.to")
    return int(leads_to.read_text().split()[1])


def socket_of(person: Person) -> str:
    """Return where a person's server listens, on its node."""
    return f"/tmp/gateway-{person.name}/{person.state()['id']}.{number_of(person)}"


def ssh(lab: Lab, user: str, node: str, command: str) -> subprocess.CompletedProcess[str]:
    """Try the node's sshd from the login node, with a certificate that allows as much as one can."""
    hand = Hand(lab)
    address = SLURM.inside[SLURM.login]
    private = hand.key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    files = {"by-hand": private, "by-hand-cert.pub": hand.certificate(user, address=address) + "\n"}
    for name, text in files.items():
        write_private(lab.state / "home/svc" / name, text, BY_NAME["svc"].uid)
    options = ["-F/dev/null", "-oBatchMode=yes", "-oIdentitiesOnly=yes", "-oStrictHostKeyChecking=no"]
    options += ["-oUserKnownHostsFile=/dev/null", "-i", "/home/svc/by-hand"]
    argv = ["ssh", *options, "-oCertificateFile=/home/svc/by-hand-cert.pub", f"{user}@{node}", command]
    try:
        return lab.run("login", argv, user="svc")
    finally:
        for name in files:
            (lab.state / "home/svc" / name).unlink()


def test_a_terminal_works_and_nothing_listens_on_a_port(alice: Person) -> None:
    name = alice.call("POST", "api/terminals").json["name"]
    terminal = alice.websocket(f"terminals/websocket/{name}")
    terminal.send(json.dumps(["stdin", "echo $((600 * 7))\r"]))
    seen = ""
    while "4200" not in seen:
        kind, *rest = json.loads(terminal.recv())
        seen += str(rest[0]) if kind == "stdout" else ""
    terminal.close()
    state = alice.state()
    node = alice.lab.nodes[state["host"]]
    assert not node.listens(number_of(alice))
    assert node.run(["stat", "-c", "%U %a", socket_of(alice)], check=True).stdout == "alice 600\n"
    assert len(connections(alice.lab)) == 1


def test_another_user_of_the_node_cannot_reach_the_socket(alice: Person) -> None:
    node = alice.lab.nodes[alice.state()["host"]]
    words = [gateway.PYTHON, "-c", _CONNECT, socket_of(alice)]
    assert node.run(words, user="alice").returncode == 0
    assert "PermissionError" in node.run(words, user="bob").stderr


def test_the_node_lets_in_who_has_a_job_there_and_nobody_else(alice: Person) -> None:
    node = alice.state()["host"]
    assert ssh(alice.lab, "alice", node, "id -un").stdout == "alice\n"
    assert "you have no active jobs on this node" in ssh(alice.lab, "bob", node, "id -un").stderr


def test_a_connection_to_a_node_that_breaks_comes_back(alice: Person, logins: NodeLogins) -> None:
    assert logins.end_connections(alice.state()["host"])
    begun = time.monotonic()
    wait_until(lambda: alice.call("GET", "api/status").status == 200, "she is let in again", 20, 0.1)
    print(f"back after {time.monotonic() - begun:.2f} s")
    assert alice.state()["phase"] == "ready"


def test_the_hub_comes_back_to_the_same_connection(alice: Person) -> None:
    lab = alice.lab
    pids = {(path / "pid").read_text() for path in connections(lab)}
    lab.gateway_daemon().stop(9)
    assert alice.call("GET", "api/status").status == 200
    lab.start_gateway()
    wait_until(lambda: alice.state()["phase"] == "ready", "the hub knows her server", 20)
    assert alice.call("GET", "api/status").status == 200
    assert {(path / "pid").read_text() for path in connections(lab)} == pids


def test_with_the_last_server_socket_and_connection_end(alice: Person) -> None:
    lab, node, path = alice.lab, alice.lab.nodes[alice.state()["host"]], socket_of(alice)
    alice.stop()
    wait_until(lambda: connections(lab) == [], "the connection to the node has ended", 15)
    wait_until(lambda: node.run(["test", "-e", path]).returncode == 1, "the socket is gone", 15)
    assert node.run(["stat", "-c", "%U %a", str(Path(path).parent)], check=True).stdout == "alice 700\n"


def test_doctor_goes_the_same_way(logins: NodeLogins) -> None:
    words = ("doctor", NAME, "-f", gateway.CONFIG, "--user", "bob", "--job", "--json")
    done = logins.lab.gateway_command(*words, timeout=150)
    checks = {
        check["name"]: check for check in json.loads(done.stdout)["checks"] if ": job " in check["name"]
    }
    assert {check["status"] for check in checks.values()} == {"ok"}, checks
