"""Bob on alice's compute node: whatever port he takes, whenever, however, nothing of hers comes to him."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.nodes import wait_until
from tests.live.client import Person
from tests.live.recorder import LURE, PYTHON, Recorder


@dataclass(frozen=True)
class Stage:
    """Two people logged in; bob has a running server, whose certificate is his to use."""

    lab: Lab
    alice: Person
    bob: Person

    def comment(self, person: Person, server: str = "") -> str:
        """Return the comment of a person's job, which everybody sees."""
        words = ["squeue", "-h", "-j", person.state(server)["job_id"], "-o", "%k"]
        return self.lab.run("login", words, user="dave").stdout

    def port(self, person: Person, server: str = "") -> int:
        """Return where a person's application listens."""
        found = re.search(r"gw1:[0-9a-f]{16}:\d+:\w+:(\d+)", self.comment(person, server))
        assert found
        return int(found[1])

    def state_dir(self, person: Person, server: str = "") -> Path:
        return self.lab.state / "home" / person.name / ".gateway" / str(person.state(server)["id"])

    def pem(self, person: Person) -> str:
        """Return the key and the certificate of a person's own server."""
        directory = self.state_dir(person)
        return (directory / "key.pem").read_text() + (directory / "cert.pem").read_text()


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Iterator[Stage]:
    lab.start_gateway()
    alice, bob = Person(lab, "alice").login(), Person(lab, "bob").login()
    bob.start()
    try:
        yield Stage(lab, alice, bob)
    finally:
        bob.stop()


@pytest.fixture
def alice(stage: Stage) -> Iterator[Person]:
    """Alice, without a server at the beginning and at the end."""
    yield stage.alice
    for server in stage.alice.servers():
        stage.alice.stop(server)


def self_signed(directory: Path) -> str:
    """Return a new key and a self-signed certificate."""
    key, certificate = directory / "self.key", directory / "self.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv = [*words, "-days", "2", "-subj", "/CN=cn1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    return key.read_text() + certificate.read_text()


def leave_a_note(person: Person, server: str = "") -> str:
    """Write a file that only this person's server can tell; return its content."""
    secret = f"secret-{secrets.token_hex(8)}"
    note = {"type": "file", "format": "text", "content": secret}
    assert person.call("PUT", "api/contents/note.txt", note, server).status in (200, 201)
    return secret


def works(person: Person, secret: str, server: str = "") -> bool:
    return secret in person.call("GET", "api/contents/note.txt", server=server).text


def check_answers_503(person: Person) -> None:
    """What her browser sends is refused by the gateway itself, in all its forms."""
    body = {"type": "file", "format": "text", "content": "a body of hers"}
    answers = [
        person.call("GET", "api/contents/note.txt"),
        person.call("PUT", "api/contents/note.txt", body),
        person.open(person.url("lab")),
    ]
    assert [answer.status for answer in answers] == [503, 503, 503]
    assert not any(LURE in answer.text for answer in answers)


def test_she_goes_elsewhere_where_he_takes_her_port_first_or_beside(
    stage: Stage, alice: Person, tmp_path: Path
) -> None:
    server = f"race-{secrets.token_hex(4)}"

    def watch(node: str, nth: int) -> Recorder:
        log = tmp_path / f"{node}.{nth}"
        return Recorder(stage.lab, node, log, victim=f"/user/alice/{server}/", nth=nth, six=nth == 2)

    with ExitStack() as running:
        places = [(node, nth) for node in ("cn1", "cn2") for nth in (1, 2)]
        watchers = {place: running.enter_context(watch(*place)) for place in places}
        node = alice.start(server)["host"]
        alice.enter(server)
        secret = leave_a_note(alice, server)
        port = stage.port(alice, server)
        taken = [watchers[node, nth].wait() for nth in (1, 2)]
        assert len({port, *taken}) == 3
        log = (stage.state_dir(alice, server) / "log").read_text()
        assert all(f"somebody else has port {each}" in log for each in taken), log
        with Recorder(stage.lab, node, tmp_path / "beside", port=port, six=True) as beside:
            beside.wait()
            assert all(works(alice, secret, server) for _ in range(5))
            assert not beside.was_tried()
        assert all(watcher.got_nothing() for watcher in watchers.values())


def test_he_gets_nothing_where_he_takes_the_port_of_her_dead_application(
    stage: Stage, alice: Person, tmp_path: Path
) -> None:
    lab = stage.lab
    node = alice.start()["host"]
    alice.enter()
    secret, port = leave_a_note(alice), stage.port(alice)
    with alice.kernel() as kernel:
        assert kernel.run("print(6 * 7)") == "42\n"
    with dead_application(stage, alice):
        for name, pem in (
            ("plain", ""),
            ("self-signed", self_signed(tmp_path)),
            ("his own certificate", stage.pem(stage.bob)),
        ):
            with Recorder(lab, node, tmp_path / name, port=port, pem=pem) as recorder:
                recorder.wait()
                check_answers_503(alice)
                wait_until(recorder.was_tried, f"the gateway meets the neighbour, {name}")
                if name == "his own certificate":  # a hub that starts asks the application with its token
                    lab.stop_gateway()
                    lab.start_gateway()
                    alice.wait_for("unreachable")
                    check_answers_503(alice)
                assert recorder.got_nothing()
        assert not works(alice, secret)


@contextmanager
def dead_application(stage: Stage, person: Person) -> Iterator[None]:
    """Kill a person's Jupyter and hold the job's script, so that the job lives on and does not notice."""
    mine = stage.lab.nodes[person.state()["host"]].processes(person.name)
    script = [process for process in mine if any("slurm_script" in word for word in process.argv)]
    jupyter = [process for process in mine if any("jupyterlab" in word for word in process.argv)]
    assert script
    assert jupyter
    for process in script:
        process.kill(signal.SIGSTOP)
    for process in jupyter:
        process.kill()
    try:
        yield
    finally:
        for process in script:
            process.kill(signal.SIGCONT)


class Browsing(threading.Thread):
    """Somebody whose browser goes on asking, whatever happens to the server."""

    def __init__(self, person: Person) -> None:
        super().__init__(daemon=True)
        self._person = Person(person.lab, person.name, {host: dict(jar) for host, jar in person.jar.items()})
        self._over = threading.Event()
        self.lured = False
        self.statuses: set[int] = set()

    def run(self) -> None:
        while not self._over.wait(0.05):
            try:
                answer = self._person.call("GET", "api/contents/note.txt")
            except (OSError, http.client.HTTPException):
                continue  # what is under way when a server loses its route is cut off: a browser asks again
            self.statuses.add(answer.status)
            self.lured |= LURE in answer.text

    def __enter__(self) -> Browsing:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self.join(30)


def test_he_gets_nothing_by_waiting_on_her_old_port_or_by_forging_where_she_is(
    stage: Stage, alice: Person, tmp_path: Path
) -> None:
    lab = stage.lab
    state = alice.start(application="lab-requeue")
    node, job_id = state["host"], state["job_id"]
    alice.enter()
    secret, port = leave_a_note(alice), stage.port(alice)
    run = stage.comment(alice).split(":")[1]
    with ExitStack() as running:
        pem = stage.pem(stage.bob)
        old = running.enter_context(Recorder(lab, node, tmp_path / "old", port=port, pem=pem))
        ports = {each: 20_000 + secrets.randbelow(9_000) for each in ("cn1", "cn2")}
        lures = [
            running.enter_context(Recorder(lab, each, tmp_path / f"lure-{each}", port=ports[each], pem=pem))
            for each in ports
        ]
        forged = [f"gw1:{run}:1:{each}:{ports[each]}" for each in ports]
        name = lab.run("login", ["squeue", "-h", "-j", job_id, "-o", "%j"], user="bob").stdout.strip()
        for forged_name, comment in (
            *((name, each) for each in forged),
            (f"{name}\n{name}", "\n".join(forged)),
            (f"{name},x~{name}|\x1f{name}", f"{forged[0]}\n{job_id}~RUNNING~{forged[1]}"),
        ):
            running.callback(cancel, lab, forge(lab, forged_name, comment))
        words = ["scontrol", "update", f"JobId={job_id}", f"Comment={forged[0]}"]
        assert lab.run("login", words, user="bob").returncode != 0
        with Browsing(alice) as browsing:
            lab.requeue(job_id)
            wait_until(lambda: alice.state()["phase"] != "ready", "the gateway notices", 20)
            new = alice.wait_for("ready")
            # Right at that moment the proxy may not know the route yet: then a page comes that tries again.
            wait_until(lambda: alice.open(alice.url("")).status == 200, "she is let in", 10)
            assert works(alice, secret)
            wait_until(lambda: 200 in browsing.statuses, "so is her browser that went on asking", 10)
        assert new["job_id"] == job_id
        assert old.port == port
        words = ["sh", "-c", f"cat /run/gateway/t/lab/*/{new['id']}.*[0-9].to"]
        leads_to = lab.run("hub", words, user="gateway", check=True).stdout
        assert leads_to.strip().replace(" ", ":") == f"{new['host']}:{stage.port(alice)}"
        assert old.got_nothing()
        assert not any(lure.was_tried() for lure in lures)
        assert not browsing.lured


def forge(lab: Lab, name: str, comment: str) -> str:
    """Submit a job of bob's with this name and comment; return its id."""
    words = ["sbatch", "--parsable", "--export=NIL", "-t", "5", "--mem=10", "-o", "/dev/null"]
    argv = [*words, f"--job-name={name}", f"--comment={comment}", "--wrap", "sleep 300"]
    return lab.run("login", argv, user="bob", check=True).stdout.strip()


def cancel(lab: Lab, job_id: str) -> None:
    lab.run("login", ["scancel", job_id], user="bob", check=True)


_ASK = r"""
import json, socket, ssl, sys, tempfile
wanted = json.load(sys.stdin)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
if wanted["pem"]:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(wanted["pem"])
        file.flush()
        context.load_cert_chain(file.name)
try:
    with socket.create_connection(("127.0.0.1", wanted["port"]), 5) as plain:
        with context.wrap_socket(plain) as connection:
            head = f"GET {wanted['path']} HTTP/1.0\r\nAuthorization: token {wanted['token']}\r\n\r\n"
            connection.sendall(head.encode())
            print((connection.recv(65536) or b"nothing").split(b"\r\n")[0].decode())
except OSError as error:
    print("refused:", error)
"""


def test_an_application_answers_the_gateway_and_nobody_else_on_its_node(stage: Stage, alice: Person) -> None:
    """Even with the right token, which only the gateway and bob's job have."""
    lab = stage.lab
    alice.start()
    alice.enter()
    node, port = stage.bob.state()["host"], stage.port(stage.bob)
    token = (stage.state_dir(stage.bob) / "token").read_text()

    def ask(pem: str, user: str) -> str:
        wanted = {"port": port, "pem": pem, "path": "/user/bob/api/status", "token": token}
        done = lab.run(node, [PYTHON, "-I", "-c", _ASK], user=user, input=json.dumps(wanted), check=True)
        return done.stdout.strip()

    assert ask("", "alice").startswith("refused:")
    assert ask(stage.pem(alice), "alice").startswith("refused:")
    assert ask(stage.pem(stage.bob), "bob").startswith("refused:")
    client = lab.run("hub", ["cat", "/var/lib/gateway/ca/client.pem"], user="gateway", check=True).stdout
    assert ask(client, "alice") == "HTTP/1.1 200 OK"  # so it is the certificate that was missing


_GREET = r"""
import socket, sys
for port in sys.argv[1:]:
    with socket.create_connection(("127.0.0.1", int(port)), 5) as connection:
        connection.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00")
        theirs = b""
        while len(theirs) < 32 and (part := connection.recv(32 - len(theirs))):
            theirs += part
        print(theirs[12:].rstrip(b"\0").decode())
"""


def test_he_cannot_listen_to_her_kernels(stage: Stage, alice: Person) -> None:
    """A kernel's ports are open to the node. ZMTP 3.0's greeting says if they want a key: CURVE, not NULL."""
    alice.start()
    alice.enter()
    with alice.kernel() as kernel:
        kernel.run("print(1)")
        (file,) = (stage.state_dir(alice) / "runtime").glob("kernel-*.json")
        assert file.stat().st_mode & 0o077 == 0
        connection = json.loads(file.read_text())
        ports = [str(connection[f"{name}_port"]) for name in ("shell", "iopub", "stdin", "control", "hb")]
        node = alice.state()["host"]
        greeted = stage.lab.run(node, [PYTHON, "-I", "-c", _GREET, *ports], user="bob", check=True).stdout
        assert greeted.split() == ["CURVE"] * len(ports)
