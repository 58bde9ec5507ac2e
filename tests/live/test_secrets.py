"""Where secrets are: in the 0600 files, encrypted in the database, in HAProxy's snapshot. Nowhere else."""

from __future__ import annotations

import base64
import json
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.lab import Lab
from tests.lab.accounts import BY_NAME
from tests.lab.nodes import processes, wait_until
from tests.lab.staging import HOST
from tests.live.client import Person
from tests.live.recorder import PYTHON

NODES = ("login", "cn1", "cn2", "hub")


def private_part(pem: str) -> str:
    """Return of a PEM key what no certificate shares with it: the line in the middle of the key's bytes."""
    lines = [line for line in pem.splitlines() if line and "-----" not in line]
    assert lines
    return lines[0][-40:] if len(lines) < 3 else lines[1]


class Watch(threading.Thread):
    """Keeps the command line and environment of every process of the lab, from now until it is stopped."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        self._lab = lab
        self._over = threading.Event()
        self.seen: dict[bytes, str] = {}

    def run(self) -> None:
        while not self._over.is_set():
            self.look()

    def look(self) -> None:
        for process in processes(self._lab.mark):
            for name in ("cmdline", "environ"):
                try:
                    content = Path(f"/proc/{process.pid}/{name}").read_bytes()
                except OSError:
                    continue
                self.seen[content] = f"{name} of {process.uid} {' '.join(process.argv)[:200]}"

    def stop(self) -> None:
        self._over.set()
        self.join(30)


@dataclass
class Scene:
    """A server of alice's that she has entered, and every secret of it and of the gateway, by name."""

    lab: Lab
    alice: Person
    job_id: str
    state_dir: Path
    watch: Watch
    secrets: dict[str, str] = field(default_factory=dict)

    def found_in(self, content: bytes) -> list[str]:
        """Return the names of the secrets that are in some bytes: as they are, in base64 or in hex."""
        return [
            name for name, secret in self.secrets.items() if any(form in content for form in forms(secret))
        ]


def forms(secret: str) -> list[bytes]:
    """Return how a secret may be written. Base64 depends on where in a group of three bytes it begins."""
    plain = secret.encode()
    encoded = [base64.b64encode(b"x" * shift + plain)[4:-4] for shift in range(3)]
    return [plain, plain.hex().encode(), plain.hex().upper().encode(), *encoded]


@pytest.fixture(scope="module")
def scene(lab: Lab) -> Iterator[Scene]:
    lab.start_gateway()
    alice = Person(lab, "alice")
    watch = Watch(lab)
    watch.start()
    try:
        alice.login()
        submit_slowly(lab, alice, watch)
        state = alice.wait_for("ready")
        alice.enter()
        code = parse_qs(urlsplit(alice.code_url()).query)["code"][0]
        with alice.kernel() as kernel:
            kernel.run("print(1)")
    finally:
        watch.stop()
    directory = lab.state / "home/alice/.gateway" / str(state["id"])
    scene = Scene(lab, alice, str(state["job_id"]), directory, watch)
    gateway = lab.state / "nodes/hub/lib/gateway"
    scene.secrets = {
        "token": (directory / "token").read_text().strip(),
        "key": private_part((directory / "key.pem").read_text()),
        "session cookie": alice.jar[HOST]["__Host-gateway-session"],
        "grant cookie": alice.jar[alice.host]["__Host-gateway-route"],
        "state cookie": alice.jar[alice.host]["__Host-gateway-state"],
        "code": code,
        "password": lab.passwords["alice"],
        "database's key": (gateway / "secret.key").read_text().strip(),
        "node CA's key": private_part((gateway / "ca/node-ca.key").read_text()),
        "client CA's key": private_part((gateway / "ca/client-ca.key").read_text()),
        "client key": private_part((gateway / "ca/client.pem").read_text()),
        "svc's key": private_part((lab.state / "hub/ssh/svc").read_text()),
        "API token": lab.variables()["GATEWAY_ADMIN_TOKEN"],
    }
    assert all(len(secret) >= 12 for secret in scene.secrets.values())
    yield scene
    if alice.state()["phase"] != "ended":
        alice.stop()


def submit_slowly(lab: Lab, person: Person, watch: Watch) -> None:
    """Start a server; hold the scheduler until the watch has seen the command that submits it."""
    lab.slurmctld.freeze()
    try:
        assert person.spawn().status == 303
        wait_until(lambda: any(b"sbatch\0" in content for content in tuple(watch.seen)), "sbatch is seen")
    finally:
        lab.slurmctld.thaw()


def allowed(scene: Scene) -> Mapping[str, set[str]]:
    """Return the files below the lab's state directory that may hold a secret: patterns, and which."""
    state = re.escape(str(scene.state_dir.relative_to(scene.lab.state)))
    return {
        rf"{state}/token": {"token"},
        rf"{state}/key\.pem": {"key"},
        rf"{state}/runtime/jpserver-\d+(\.json|-open\.html)": {"token"},
        r"nodes/hub/lib/gateway/secret\.key": {"database's key"},
        r"nodes/hub/lib/gateway/ca/node-ca\.key": {"node CA's key"},
        r"nodes/hub/lib/gateway/ca/client-ca\.key": {"client CA's key"},
        r"nodes/hub/lib/gateway/ca/client\.pem": {"client key"},
        r"hub/ssh/svc": {"svc's key"},
        r"passwords\.json": {"password"},  # the lab's own
    }


def check_disk(scene: Scene) -> set[str]:
    """Search every file of the lab: homes, spools, logs, the database with its write-ahead log."""
    patterns = allowed(scene)
    met = set()
    for path in scene.lab.state.rglob("*"):
        try:
            if path.is_symlink() or not path.is_file():
                continue
            content, mode = path.read_bytes(), path.stat().st_mode & 0o777
        except FileNotFoundError:
            continue
        if found := set(scene.found_in(content)):
            name = str(path.relative_to(scene.lab.state))
            may = next((names for pattern, names in patterns.items() if re.fullmatch(pattern, name)), set())
            assert found <= may, f"{found} in {name}"
            assert mode == 0o600, f"{name} {mode:o}"
            met |= found
    return met


def test_on_disk_secrets_are_in_their_own_files_only(scene: Scene) -> None:
    met = check_disk(scene)
    kept_nowhere = {"session cookie", "grant cookie", "state cookie", "code", "API token"}
    assert met == scene.secrets.keys() - kept_nowhere


_SEARCH = r"""
import json, os, sys

forms = {name: [form.encode() for form in each] for name, each in json.load(sys.stdin).items()}
for root in ("/run", "/dev/shm", "/tmp", "/var/log", "/var/spool"):
    for directory, _, files in os.walk(root):
        for name in files:
            path = os.path.join(directory, name)
            if not os.path.isfile(path) or os.path.islink(path):
                continue
            content = open(path, "rb").read()
            for secret, each in forms.items():
                if any(form in content for form in each):
                    print(secret, oct(os.stat(path).st_mode & 0o777), path, sep="|")
"""


@pytest.mark.parametrize("node", NODES)
def test_in_the_nodes_memory_file_systems_only_the_proxys_snapshot_has_a_secret(
    scene: Scene, node: str
) -> None:
    given = {name: [form.decode() for form in forms(secret)] for name, secret in scene.secrets.items()}
    words = [PYTHON, "-I", "-c", _SEARCH]
    done = scene.lab.run(node, words, input=json.dumps(given), check=True)
    snapshot = [
        "client key|0o600|/run/gateway/haproxy/client.pem",
        "token|0o600|/run/gateway/haproxy/secrets.map",
    ]
    assert sorted(done.stdout.splitlines()) == (snapshot if node == "hub" else [])


def test_no_command_line_and_no_environment_has_a_secret(scene: Scene) -> None:
    """Of any process of the lab, looked at as root all the time from login to a kernel's first answer."""
    scene.watch.look()
    everything = b"\n".join(scene.watch.seen)
    for word in (b"sbatch", b"gateway-launcher\0submit", b"JUPYTER_TOKEN_FILE=", b"jupyterlab"):
        assert word in everything, f"the watch has not seen {word!r}"
    leaks = {
        where: found for content, where in scene.watch.seen.items() if (found := scene.found_in(content))
    }
    assert leaks == {}


@pytest.mark.parametrize("user", ["bob", "dave", None])
def test_the_scheduler_shows_no_secret(scene: Scene, user: str | None) -> None:
    job = scene.job_id
    shown = b""
    for words in (
        ["squeue", "-o", "%all"],
        ["squeue", "-j", job, "-o", "%i %j %k %Z %o %V %all"],
        ["scontrol", "show", "job", "-dd", job],
        ["scontrol", "show", "config"],
        ["scontrol", "show", "assoc_mgr"],
        ["scontrol", "listpids", job],
        ["scontrol", "write", "batch_script", job, "-"],
        ["sacct", "-o", "ALL"],
        ["sprio", "-l"],
        ["ps", "auxeww"],
    ):
        for node in ("login", "cn1", "cn2"):
            done = scene.lab.run(node, words, user=user)
            shown += (done.stdout + done.stderr).encode()
    assert b"gw1:" in shown
    assert (b"gw_publish" in shown) == (user is None)  # only the owner and root see the script
    assert scene.found_in(shown) == []


@pytest.mark.parametrize("user", ["mallory", None])
def test_the_hubs_processes_show_no_secret(scene: Scene, user: str | None) -> None:
    done = scene.lab.run("hub", ["ps", "auxeww"], user=user, check=True)
    assert "gateway.cli" in done.stdout
    assert scene.found_in(done.stdout.encode()) == []


def test_the_state_directory_is_its_owners_alone(scene: Scene) -> None:
    for file in (scene.state_dir.parent, scene.state_dir, *scene.state_dir.rglob("*")):
        assert file.stat().st_uid == BY_NAME["alice"].uid
        assert file.stat().st_mode & 0o777 == (0o700 if file.is_dir() else 0o600), file
    home = scene.lab.state / "home/alice"
    home.chmod(0o755)  # as on many clusters
    try:
        for path in (
            ".gateway",
            f".gateway/{scene.state_dir.name}",
            f".gateway/{scene.state_dir.name}/token",
        ):
            for program in ("ls", "cat"):
                assert scene.lab.run("cn1", [program, f"/home/alice/{path}"], user="bob").returncode != 0
    finally:
        home.chmod(0o700)


class Terminal:
    """A shell that somebody opened in JupyterLab."""

    def __init__(self, person: Person) -> None:
        self._person = person
        self.name = person.call("POST", "api/terminals").json["name"]
        self._socket = person.websocket(f"terminals/websocket/{self.name}")

    def type(self, line: str, timeout: float = 20.0) -> str:
        """Type a line and return what the terminal shows until the shell has done it."""
        mark = secrets.token_hex(4)
        self._socket.send(json.dumps(["stdin", f"{line}; echo {mark[:4]}''{mark[4:]}\r"]))
        shown, end = "", time.monotonic() + timeout
        while mark not in shown:
            assert time.monotonic() < end, shown
            kind, *content = json.loads(self._socket.recv())
            shown += content[0] if kind == "stdout" else ""
        return shown

    def close(self) -> None:
        self._socket.close()
        self._person.call("DELETE", f"api/terminals/{self.name}")


def test_a_job_submitted_in_a_terminal_with_its_whole_environment_takes_no_secret_along(scene: Scene) -> None:
    lab = scene.lab
    with closing(Terminal(scene.alice)) as terminal:
        shown = terminal.type(
            "env; sbatch --parsable --export=ALL -t 2 --mem=50 -o exported.%j --wrap 'env; echo over'"
        )
    found = re.search(r"^(\d+)\r?$", shown, re.M)
    assert found, shown
    output = lab.state / f"home/alice/exported.{found[1]}"
    wait_until(lambda: output.exists() and output.read_text().endswith("over\n"), "the job has ended", 30)
    environment = output.read_text()
    assert "USER=alice" in environment
    assert scene.found_in(environment.encode() + shown.encode()) == []
    for words in (
        ["scontrol", "show", "job", "-dd", found[1]],
        ["scontrol", "write", "batch_script", found[1], "-"],
    ):
        assert scene.found_in(lab.run("login", words).stdout.encode()) == []
    check_disk(scene)
    output.unlink()


def test_after_a_stop_nothing_is_left_of_the_servers_secrets(scene: Scene) -> None:
    lab, server_id = scene.lab, scene.state_dir.name

    def sealed() -> bytes | None:
        database = lab.state / "nodes/hub/lib/gateway/gateway.sqlite"
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            (found,) = connection.execute("select secrets from servers where id = ?", (server_id,)).fetchone()
        return bytes(found) if found is not None else None

    kept = sealed()
    assert kept
    assert scene.found_in(kept) == []
    scene.alice.stop()
    wait_until(lambda: not scene.state_dir.exists(), "the state directory is removed", 20)
    wait_until(lambda: sealed() is None, "the database forgets the secrets", 10)
    secrets_map = ["cat", "/run/gateway/haproxy/secrets.map"]
    wait_until(
        lambda: scene.found_in(lab.run("hub", secrets_map).stdout.encode()) == [], "the proxy forgets", 10
    )
    assert check_disk(scene).isdisjoint({"token", "key"})
