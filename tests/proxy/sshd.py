"""A real sshd on a free loopback port, run as whoever runs the tests."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from gateway.dataplane.tunnel import TunnelSettings

_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
StrictModes no
UsePAM no
UseDNS no
PidFile none
MaxStartups 100
"""


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Sshd:
    """A login node: its sshd, its host key and one user's key.

    Args:
        directory: For its files; short enough for the masters' sockets.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.known_hosts = directory / "known_hosts"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("host_key", "user_key"):
            self.make_key(name)
        shutil.copy(directory / "user_key.pub", directory / "authorized_keys")
        self.know("host_key")
        (directory / "sshd_config").write_text(_CONFIG.format(port=self.port, directory=directory))

    def make_key(self, name: str) -> Path:
        """Make a key pair."""
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.directory / name)]
        subprocess.run(words, check=True, timeout=20)
        return self.directory / name

    def know(self, name: str, port: int | None = None) -> None:
        """Write this key into known_hosts as the login node's."""
        kind, key, *_ = (self.directory / f"{name}.pub").read_text().split()
        self.known_hosts.write_text(f"[127.0.0.*]:{port or self.port} {kind} {key}\n")

    def configure(self, line: str) -> None:
        """Have sshd say so in its configuration, from now on; connections that are open stay."""
        config = self.directory / "sshd_config"
        keyword = line.split(maxsplit=1)[0]
        others = [
            each
            for each in config.read_text().splitlines()
            if keyword == "ListenAddress" or not each.startswith(f"{keyword} ")
        ]
        config.write_text("\n".join([line, *others]) + "\n")
        self.stop()
        self.start()

    def listen_too(self, host: str) -> None:
        """Answer at another address of loopback too, with the same key."""
        self.configure(f"ListenAddress {host}")

    def listen_only(self, host: str) -> None:
        """Answer at this address alone, from the next start on."""
        config = self.directory / "sshd_config"
        lines = [line for line in config.read_text().splitlines() if not line.startswith("ListenAddress")]
        config.write_text("\n".join([*lines, f"ListenAddress {host}"]) + "\n")

    def sessions(self) -> list[int]:
        """Return the processes of the connections that are open."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def crash(self) -> None:
        """Stop listening, and cut all connections that are open."""
        sessions = self.sessions()
        self.stop()
        for pid in sessions:
            os.kill(pid, signal.SIGKILL)

    def start(self) -> None:
        """Start sshd and wait until it answers."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its privilege separation directory
        words = ["/usr/sbin/sshd", "-f", str(self.directory / "sshd_config"), "-D", "-e"]
        with (self.directory / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.directory / "sshd.log").read_text())

    def stop(self) -> None:
        """Stop listening; as with a real sshd, connections that are open stay."""
        if self._process:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    @property
    def connections(self) -> int:
        """How many connections are open: each has a process."""
        return len(self.sessions())

    def settings(self, count: int = 1) -> TunnelSettings:
        """Return the settings of a tunnel through it."""
        return TunnelSettings(
            cluster="test",
            hosts=("127.0.0.1",),
            port=self.port,
            user=getpass.getuser(),
            key=self.directory / "user_key",
            known_hosts=self.known_hosts,
            count=count,
            directory=self.directory / "t",
            retry=(0.01, 0.1),
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
