"""The job where nodes are reached by SSH: its application is on a Unix socket of its user's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.model import Choices
from gateway.script import JobFacts, render_script
from gateway.siteconfig import parse_site_config
from tests.real.test_wrapper import RUN, SHELLS, Job

#: Listens where it is told: as Jupyter by its option, behind the relay by its last word.
APPLICATION = """
import socket, sys
words = [a.partition("=")[2] for a in sys.argv if a.startswith("--ServerApp.sock=")] or sys.argv[-1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(words[0])
listener.listen()
while True:
    peer, _ = listener.accept()
    try:
        peer.sendall(b"here")
    except OSError:  # who only looked whether somebody listens
        pass
    peer.close()
"""


@dataclass
class SocketJob(Job):
    """A job script of such a cluster."""

    sockets: str = ""

    def script(self) -> str:
        (self.home / "application.py").write_text(APPLICATION)
        more = ', "{socket}"' if self.tls == "relay" else ""
        if self.tls == "relay":
            relay = Path(__file__).parents[2] / "gateway/launcher/relay.py"
            shutil.copy(relay, self.state / "relay.py")
        site = parse_site_config(
            f"""
version: 1
name: lab
title: The lab
scheduler: slurm
login: {{hosts: [l], user: svc, key: /k, known_hosts: /h, act_as: sudo, bin: {self.home}/bin}}
tunnel:
  ports: 20000-29999
  node_security: ssh
  nodes: {{known_hosts: /h, sockets: "{self.sockets}"}}
partitions: [{{name: short, max_walltime: 10m, max_memory: 1G}}]
applications:
  - name: lab
    title: Stub
    command: [{sys.executable}, -IS, {self.home}/application.py{more}]
    tls: {self.tls}
""",
            "lab.yaml",
        )
        facts = JobFacts("inst22", "abcdefghij", RUN, "alice", "", "/user/alice/", node_tls=False)
        return render_script(site, Choices("lab", "lab", "short", 5, 1, 100), facts)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gw-w-", dir="/tmp") as name:
        yield Path(name)


def job(place: Path, shell: str = "sh", tls: str = "jupyter") -> SocketJob:
    home = place / "home"
    home.mkdir()
    return SocketJob(home, shell, (20000, 29999), tls=tls, sockets=f"{place}/s-%u")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("tls", ["jupyter", "relay"])
def test_it_listens_on_its_own_socket_and_takes_it_away(place: Path, shell: str, tls: str) -> None:
    running = job(place, shell, tls).start()
    try:
        number = running.published().port
        path = place / "s-alice" / f"abcdefghij.{number}"
        assert (place / "s-alice").stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            assert peer.recv(10) == b"here"
        listening = subprocess.run(["ss", "-Hltn", f"sport = :{number}"], capture_output=True, check=True)
        assert not listening.stdout, "nobody listens on a port"
    finally:
        running.stop()
    assert not path.exists()
    assert (place / "s-alice").is_dir(), "who found it gone could make one of the same name"


@pytest.mark.parametrize(
    "how",
    [
        "open",
        "link",
        pytest.param("other", marks=pytest.mark.skipif(os.geteuid() != 0, reason="it takes two users")),
    ],
)
def test_a_directory_that_is_not_its_users_alone_is_not_used(place: Path, how: str) -> None:
    there = place / "s-alice"
    if how == "link":
        (place / "elsewhere").mkdir(mode=0o700)
        there.symlink_to(place / "elsewhere")
    else:
        there.mkdir()
        there.chmod(0o755 if how == "open" else 0o700)
        if how == "other":
            os.chown(there, 65534, 65534)
    running = job(place).start()
    ended = running.ended()
    assert ended is not None
    assert (ended.status, ended.word) == (1, "no-port")
    assert "is not a directory that belongs to this user alone" in (running.state / "log").read_text()
    assert not running.comment()
