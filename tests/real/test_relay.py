"""The relay of applications without TLS: real processes and real TLS, by two versions of Python."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.launcher import relay
from gateway.pki import Authority, server_name

SERVER = "abcdefghij"
LIMIT = 15.0
HOW = ("socket", "port")
#: What the application does with a connection, by its first byte.
APPLICATION = """
import json, os, signal, socket, sys, threading, time
how, where, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
if how == "late":
    time.sleep(1)
if where.startswith("/"):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
else:
    listener = socket.socket()
    listener.bind(("0.0.0.0" if how == "open" else "127.0.0.1", int(where)))
listener.listen(128)
print("listens", flush=True)
if how == "ends":
    sys.exit(7)

def all_of(peer):
    total = 0
    while data := peer.recv(1 << 20):
        total += len(data)
    return total

def serve(peer):
    what = peer.recv(1)
    if what == b"w":  # the words
        peer.sendall(json.dumps([where, *rest]).encode())
    elif what == b"e":  # an echo
        while data := peer.recv(65536):
            peer.sendall(data)
    elif what == b"c":  # answers only once the other has said its last
        peer.sendall(b"%d" % all_of(peer))
    elif what == b"b":  # bulk
        for _ in range(64):
            peer.sendall(bytes(1 << 20))
    elif what == b"r":  # refuses an upload, and closes with it unread
        peer.sendall(b"refused" + bytes(100000))
    elif what == b"q":
        os._exit(5)
    peer.close()

while True:
    peer, _ = listener.accept()
    threading.Thread(target=serve, args=(peer,), daemon=True).start()
"""


def old_python() -> str:
    """Return the oldest Python that there is of those that clusters still have, "" if there is none."""
    for name in ("python3.6", "python3.7", "python3.8", "python3.9"):
        found = shutil.which(name)
        if (
            found
            and subprocess.run([found, "-V"], capture_output=True, timeout=LIMIT, check=False).returncode == 0
        ):
            return found
    return ""


@dataclass
class Node:
    """The relay and its application, as a job starts them."""

    home: Path
    authority: Authority
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()

    def start(self, how: str = "serves", where: str = "socket", python: str = sys.executable) -> Node:
        state = self.home / SERVER
        state.mkdir()
        key, certificate = self.authority.issue(SERVER, datetime.now(UTC) + timedelta(days=1))
        for name, text in (("key.pem", key), ("cert.pem", certificate), ("token", "5ec2e7")):
            (state / name).write_text(text)
        shutil.copy(self.authority.client_ca, state / "client-ca.pem")
        (self.home / "application.py").write_text(APPLICATION)
        (self.home / "p").mkdir(mode=0o700)
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        words = [python, "-IS", relay.__file__, str(state), "127.0.0.1", str(self.port), "/user/alice/"]
        words += [
            str(self.home / "p"),
            "/bin/sh",
            "-c",
            'port=1; echo "${port}" >&2; exec "$@"',
            "gateway-app",
        ]
        words += [
            sys.executable,
            "-IS",
            str(self.home / "application.py"),
            how,
            f"{{{where}}}",
            "--base={path}",
        ]
        with (self.home / "log").open("ab") as log:
            environment = {**os.environ, "JUPYTER_TOKEN_FILE": f"{state}/token"}
            self.process = subprocess.Popen(
                [*words, "--token={token_file}", '{"json": {}}'],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def listening(self) -> Node:
        until(lambda: list(self._listeners()) != [], self)
        return self

    def _listeners(self) -> Iterator[str]:
        for line in Path("/proc/net/tcp").read_text().split("\n"):
            if f":{self.port:04X} 00000000:0000 0A" in line:
                yield line

    def context(self, certificate: Path | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.authority.node_ca)
        if certificate:
            context.load_cert_chain(certificate)
        return context

    def connect(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        context = context or self.context(self.authority.client_pem)
        plain = socket.create_connection(("127.0.0.1", self.port), LIMIT)
        return context.wrap_socket(plain, server_hostname=server_name(SERVER))

    def ask(self, what: bytes) -> bytes:
        with self.connect() as link:
            link.sendall(what)
            return everything(link)

    def ended(self) -> int:
        assert self.process
        return self.process.wait(LIMIT)

    def stop(self) -> None:
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(LIMIT)


def everything(link: socket.socket) -> bytes:
    found = bytearray()
    while data := link.recv(1 << 20):
        found += data
    return bytes(found)


def until(true: Callable[[], bool], node: Node) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, node.log
        time.sleep(0.02)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("ca") / "ca")


@pytest.fixture
def node(tmp_path: Path, authority: Authority) -> Iterator[Node]:
    made = Node(tmp_path, authority)
    yield made
    made.stop()


@pytest.mark.parametrize("where", HOW)
def test_the_command_is_told_where_and_as_whom_and_nothing_else_is_touched(node: Node, where: str) -> None:
    node.start(where=where).listening()
    answer = node.ask(b"w").decode()
    place = f"{node.home}/p/app.sock" if where == "socket" else ""
    assert place in answer
    assert f'"--base=/user/alice", "--token={node.home}/{SERVER}/token", "{{\\"json\\": {{}}}}"]' in answer
    assert node.log.startswith("1\n"), "the prologue's own ${port} stays the shell's"
    assert "5ec2e7" not in answer


def test_it_is_written_in_the_python_of_old_nodes() -> None:
    ast.parse(Path(relay.__file__).read_text(), feature_version=(3, 6))


@pytest.mark.parametrize("old", [False, True], ids=["this", "old"])
def test_bytes_go_both_ways_at_once_and_whole(node: Node, old: bool) -> None:
    python = old_python() if old else sys.executable
    if not python:
        pytest.skip("there is no old Python here")
    node.start(python=python).listening()
    sent, found = os.urandom(8 << 20), bytearray()
    with node.connect() as link:
        link.sendall(b"e")
        end = time.monotonic() + LIMIT
        link.setblocking(False)
        at = 0
        while len(found) < len(sent) and time.monotonic() < end:
            with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                at += link.send(sent[at : at + 65536]) if at < len(sent) else 0
            with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                found += link.recv(65536)
    assert found == sent


def test_half_a_close_is_passed_on_and_the_answer_still_comes(node: Node) -> None:
    """The client says its last as TLS does; the answer comes after it."""
    node.start().listening()
    context, plain = (
        node.context(node.authority.client_pem),
        socket.create_connection(("127.0.0.1", node.port)),
    )
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server_name(SERVER))
    plain.settimeout(LIMIT)
    with closing(plain):
        exchange(tls.do_handshake, plain, incoming, outgoing)
        tls.write(b"c" + bytes(1000))
        with suppress(ssl.SSLWantReadError):
            tls.unwrap()
        plain.sendall(outgoing.read())
        plain.shutdown(socket.SHUT_WR)
        assert exchange(lambda: tls.read(100), plain, incoming, outgoing) == b"1000"


def exchange(
    action: Callable[[], Any], plain: socket.socket, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
) -> Any:
    while True:
        try:
            return action()
        except ssl.SSLWantReadError:
            if outgoing.pending:
                plain.sendall(outgoing.read())
            data = plain.recv(65536)
            assert data, "cut"
            incoming.write(data)
        finally:
            if outgoing.pending:
                plain.sendall(outgoing.read())


@pytest.mark.parametrize("where", HOW)
def test_an_answer_to_an_unread_upload_arrives(node: Node, where: str) -> None:
    """Closing a socket with unread bytes resets the connection, and what was on its way is lost."""
    node.start(where=where).listening()
    with node.connect() as link:
        link.sendall(b"r")
        found = b""
        with suppress(OSError):
            for _ in range(20):
                link.sendall(bytes(10000))
        found = everything(link)
    assert found.startswith(b"refused")
    assert len(found) == 100007


def test_only_the_gateway_gets_in(node: Node, tmp_path: Path) -> None:
    """Nobody without its certificate; no server with its own; no other name of the same authority."""
    node.start().listening()
    other = Authority.open(tmp_path / "other")
    server = tmp_path / "server.pem"
    server.write_text("".join(node.authority.issue("bbbbbbbbbb", datetime.now(UTC) + timedelta(days=1))))
    for certificate in (None, other.client_pem, server):
        with pytest.raises((ssl.SSLError, ConnectionError)):  # noqa: PT012  by TLS 1.3 it is told later
            with node.connect(node.context(certificate)) as link:
                link.sendall(b"w")
                assert not link.recv(100), "an answer"
                raise ConnectionResetError
    with socket.create_connection(("127.0.0.1", node.port), LIMIT) as plain:
        plain.sendall(b"w" * 100)
        with suppress(ConnectionResetError):
            assert b"app.sock" not in plain.recv(100)
    assert node.ask(b"w")
    assert "a connection was not carried" in node.log


def test_the_certificate_is_for_the_gateways_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Front(ssl.SSLSocket):
        def __init__(self) -> None: ...
        def do_handshake(self, block: bool = False) -> None: ...
        def getpeercert(self, binary_form: bool = False) -> dict[str, object]:  # type: ignore[override]
            return {"subjectAltName": (("DNS", "other"),)}

    class Behind:
        family = socket.AF_UNIX

    link = relay.Link(Front(), Behind())
    with closing(link.back), pytest.raises(ConnectionAbortedError, match="not the gateway's"):
        link.run()


def test_who_only_connects_does_not_keep_others_out(node: Node) -> None:
    node.start().listening()
    idle = [socket.create_connection(("127.0.0.1", node.port), LIMIT) for _ in range(relay.MOST + 20)]
    try:
        began = time.monotonic()
        assert node.ask(b"w")
        assert time.monotonic() - began < relay.SHAKING / 2
    finally:
        for link in idle:
            link.close()


def test_many_at_once_and_one_that_reads_nothing_does_not_stop_the_others(node: Node) -> None:
    node.start().listening()
    with node.connect() as stuck:
        stuck.sendall(b"b")  # 64 MB that nobody takes
        answers: list[bytes] = []
        threads = [threading.Thread(target=lambda: answers.append(node.ask(b"w"))) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert len(answers) == 50
        assert len(set(answers)) == 1
        assert node.process
        status = Path(f"/proc/{node.process.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) < 60_000, "kB: what is not taken is not read"
        assert len(everything(stuck)) == 64 << 20


def test_it_listens_only_once_the_application_does(node: Node) -> None:
    node.start("late")
    time.sleep(0.5)
    assert not list(node._listeners())
    node.listening()
    assert "listens" in node.log


@pytest.mark.parametrize(("what", "status"), [("ends", 7), ("quits", 5)])
def test_its_end_is_the_applications(node: Node, what: str, status: int) -> None:
    if what == "ends":
        node.start("ends")
    else:
        node.start().listening()
        assert node.ask(b"q") == b""
    assert node.ended() == status


def test_a_signal_to_the_job_ends_both(node: Node) -> None:
    node.start().listening()
    assert node.process
    os.killpg(node.process.pid, signal.SIGTERM)
    assert node.ended() == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(node.process.pid, 0)


def test_an_application_that_the_network_can_reach_is_refused(node: Node) -> None:
    node.start("open", "port")
    assert node.ended() == 1
    assert "listens on 0.0.0.0 and not on 127.0.0.1 alone" in node.log


def test_a_port_of_another_job_is_not_taken_for_the_applications() -> None:
    """Of the same user: it is known by who holds the socket. Here the listener is no child of who asks."""
    script = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1]); "
    with subprocess.Popen(
        [sys.executable, "-uIc", script + "time.sleep(60)"], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        port = int(other.stdout.readline())
        try:
            here = relay.Loopback("JUPYTER_TOKEN_FILE=/none")
            here.port = port
            assert here.ready(), "a child's"
            ask = "import sys; from gateway.launcher.relay import Loopback; here = Loopback('X=/none'); "
            ask += "here.port = int(sys.argv[1]); print(here.ready())"
            done = subprocess.run(
                [sys.executable, "-c", ask, str(port)],
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
            assert "another job has taken port" in done.stderr
        finally:
            other.kill()


def test_another_users_listener_is_never_taken_for_the_applications(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor later: it is looked at again while the job runs."""
    here = relay.Loopback("JUPYTER_TOKEN_FILE=/none")
    assert not here.ready()
    with socket.create_server(("127.0.0.1", here.port)):
        assert here.ready()
        monkeypatch.setattr(relay, "RECHECK", 0.0)
        monkeypatch.setattr(os, "getuid", lambda: 54321)
        with pytest.raises(relay.Refusal, match="another user of the node has taken port"):
            here.ready()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", "0.0.0.0"),
        ("0" * 32, "::"),
        ("0000000000000000FFFF00000100007F", "127.0.0.1"),
    ],
)
@pytest.mark.skipif(sys.byteorder == "big", reason="the kernel prints them as the machine has them")
def test_addresses_of_the_kernels_table(text: str, address: str) -> None:
    assert relay.spelled(text) == address
