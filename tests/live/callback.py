"""Jobs that call the hub: the way from their node to it, and what they, or others, can say there."""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import Lab, gateway
from tests.lab import forward as forward_module
from tests.lab.nodes import Node, wait_until
from tests.lab.staging import HOST
from tests.live.calls import Admin

_NEW_NET = 0x40000000  # CLONE_NEWNET, setns(2)
#: The hub's CA, as the nodes find it.
_AUTHORITY = "/srv/hub-ca.pem"


@contextmanager
def calling(lab: Lab, *nodes: str) -> Iterator[dict[str, subprocess.Popen[Any]]]:
    """Let jobs on compute nodes reach the hub, as they may on many clusters; yield what carries their calls.

    The gateway's config, which has to be written before, says with which CA they trust it.
    """
    (lab.state / "srv/hub-ca.pem").write_text(lab.authority.read_text())
    with (lab.state / "hub/gateway_config.py").open("a") as config:
        config.write(f'c.Gateway.callback_ca = "{gateway.ETC}/ca.pem"\n')
    running = {node: _relay(lab, node) for node in nodes}
    try:
        yield running
    finally:
        for each in running.values():
            each.kill()
            each.wait()


def _relay(lab: Lab, node: str) -> subprocess.Popen[Any]:
    with _listening_inside(lab.nodes[node], lab.port) as listening:
        fd = listening.fileno()
        script = Path(forward_module.__file__).read_text()
        words = [gateway.PYTHON, "-I", "-c", script, str(fd), str(lab.port)]
        return lab.popen("hub", words, pass_fds=(fd,), stdin=subprocess.DEVNULL)


def _listening_inside(node: Node, port: int) -> socket.socket:
    """Return a socket that listens on a node's own loopback: sockets stay where they were made."""
    made: list[socket.socket] = []

    def make() -> None:
        descriptor = os.open(f"/proc/{node.pid}/ns/net", os.O_RDONLY)
        try:
            if not ctypes.CDLL(None, use_errno=True).setns(descriptor, _NEW_NET):
                made.append(socket.create_server(("127.0.0.1", port)))
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=make)  # setns moves one thread, which ends
    thread.start()
    thread.join()
    return made[0]


def told(admin: Admin, server_id: str) -> list[str]:
    """Return what the timeline says of how a server's place was learnt; it is written a little later."""
    wait_until(lambda: "endpoint" in admin.story(server_id), "the timeline is written", 5)
    return admin.story(server_id)["endpoint"]


class Calls:
    """Somebody on a compute node, who calls the hub."""

    def __init__(self, lab: Lab, node: str = "cn1") -> None:
        self._lab = lab
        self._node = node

    def proof(self, server_id: str, user: str = "alice") -> str:
        """Return what the job of a server shows, from its own file."""
        path = self._lab.state / f"home/{user}/.gateway/{server_id}"
        header = (path / "callback").read_text()
        token = (path / "token").read_text()
        expected = hmac.new(token.encode(), b"callback", hashlib.sha256).hexdigest()
        assert header == f"Authorization: Bearer {expected}\n"
        return expected

    def call(self, server_id: str, proof: str | None, body: str) -> int:
        """Call from the node; return the status."""
        words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", _AUTHORITY]
        words += ["-H", f"Authorization: Bearer {proof}"] if proof is not None else []
        url = f"https://{HOST}:{self._lab.port}/hub/api/callback/{server_id}"
        words += ["-H", "Content-Type: text/plain", "--data-binary", body, url]
        done = self._lab.run(self._node, words, user="bob", check=True)
        return int(done.stdout)
