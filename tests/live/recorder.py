"""A neighbour's server on a compute node: takes a port as soon as it can, and records every byte it gets."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab import Lab
from tests.lab.nodes import wait_until

PYTHON = "/opt/gateway-lab/bin/python3"
#: What it answers to everybody.
LURE = "a page of the neighbour's"

_PROGRAM = r"""
import glob, json, re, socket, ssl, sys, tempfile, threading, time

wanted = json.loads(sys.stdin.readline())

def say(*words):
    print(*words, flush=True)

def ports_of_victim():
    # Every user of a node sees the others' command lines.
    known = []
    while True:
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                words = open(path, "rb").read().decode(errors="replace")
            except OSError:
                continue
            if wanted["victim"] in words and (found := re.search(r"ServerApp\.port=(\d+)", words)):
                if found[1] not in known:
                    known.append(found[1])
                    yield int(found[1])
        time.sleep(0.02)

def listen():
    port, why = wanted["port"], None
    if port is None:
        for number, port in enumerate(ports_of_victim(), 1):
            if number == wanted["nth"]:
                break
    family = socket.AF_INET6 if wanted["six"] else socket.AF_INET
    while True:
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if wanted["six"]:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listening.bind(("::" if wanted["six"] else "0.0.0.0", port))
            listening.listen(64)
        except OSError as error:
            listening.close()
            if why != (why := str(error)):
                say("waits", port, why)
            time.sleep(0.005)
            continue
        say("bound", port)
        return listening

def serve(connection):
    kind = "raw"
    try:
        connection.settimeout(5)
        if context:
            connection = context.wrap_socket(connection, server_side=True)
            kind = "decrypted"
            say("handshake")
        page = wanted["lure"].encode()
        while received := connection.recv(65536):
            say(kind, received.hex())
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page))
    except OSError as error:
        say("error", error)
    finally:
        connection.close()

context = None
if wanted["pem"]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(wanted["pem"])
        file.flush()
        context.load_cert_chain(file.name)
listening = listen()
while True:
    connection = listening.accept()[0]
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
"""


class Recorder:
    """The server, run by a user of the node; as a context manager it ends.

    Args:
        lab: Where.
        node: The compute node.
        log: Where it writes what it got.
        user: Whose it is.
        port: The port to take, tried until it is free; None to read it from a victim's command line.
        victim: Text of the command line of the victim's application, where ``port`` is None.
        nth: Which of the victim's ports to take, from 1.
        six: IPv6 only, instead of IPv4 only.
        pem: A key and certificate in PEM: it speaks TLS; "": it does not.
    """

    def __init__(
        self,
        lab: Lab,
        node: str,
        log: Path,
        *,
        user: str = "bob",
        port: int | None = None,
        victim: str = "",
        nth: int = 1,
        six: bool = False,
        pem: str = "",
    ) -> None:
        self._log = log
        wanted = {"port": port, "victim": victim, "nth": nth, "six": six, "pem": pem, "lure": LURE}
        with log.open("wb") as file:
            self._process: subprocess.Popen[Any] = lab.popen(
                node,
                [PYTHON, "-I", "-c", _PROGRAM],
                user=user,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        assert self._process.stdin
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def lines(self, word: str) -> list[str]:
        """Return what follows ``word`` on the lines of its log that begin with it."""
        lines = self._log.read_text().splitlines()
        return [line.partition(" ")[2] for line in lines if line.split(" ")[0] == word]

    @property
    def port(self) -> int | None:
        """The port it has, None as long as it waits for one."""
        bound = self.lines("bound")
        return int(bound[0]) if bound else None

    def wait(self, timeout: float = 20.0) -> int:
        """Wait until it has its port, and return that."""
        wait_until(
            lambda: self.port is not None, f"the neighbour has a port: {self._log.read_text()}", timeout
        )
        assert self.port
        return self.port

    def got_nothing(self) -> bool:
        """Return whether it got no byte but the first message of a TLS handshake, which holds no secret."""
        firsts = [bytes.fromhex(line) for line in self.lines("raw")]
        return not self.lines("decrypted") and all(first.startswith(b"\x16\x03") for first in firsts)

    def was_tried(self) -> bool:
        """Return whether anybody connected at all."""
        return bool(self.lines("raw") or self.lines("error") or self.lines("handshake"))
