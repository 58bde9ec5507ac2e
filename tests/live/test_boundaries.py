"""What the gateway's neighbours on its own host, and its service account on the login node, cannot do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.launcher.wire import sections
from tests.lab import Lab
from tests.lab.accounts import BY_NAME
from tests.live.client import Person
from tests.live.recorder import PYTHON

LAUNCHER = "/usr/local/sbin/gateway-launcher"
ID = "abcdefgh23"

# --- another user of the gateway's host ---

_TRY = r"""
import json, os, socket, sys

wanted = json.load(sys.stdin)
done = []

def attempt(what, call):
    try:
        call()
    except PermissionError:
        return
    except OSError as error:
        done.append(f"{what}: not refused, but {error}")
    else:
        done.append(f"{what}: possible")

def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)

for path in wanted["paths"]:
    attempt(f"read {path}", lambda: os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)))
    attempt(f"write {path}", lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)))
for path in wanted["directories"]:
    attempt(f"list {path}", lambda: os.listdir(path))
    attempt(f"write into {path}", lambda: os.mkdir(f"{path}/x"))
for path in wanted["sockets"]:
    attempt(f"connect to {path}", lambda: connect(path))
for pid in wanted["pids"]:
    for name in ("environ", "mem", "maps", "io", "stack", "syscall"):
        attempt(f"read {name} of {pid}", lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
    for name in ("fd", "root/run/gateway", "root/var/lib/gateway", "map_files"):
        attempt(f"list {name} of {pid}", lambda: os.listdir(f"/proc/{pid}/{name}"))
    attempt(f"signal {pid}", lambda: os.kill(pid, 0))
print("\n".join(done))
"""


@pytest.fixture(scope="module")
def serving(lab: Lab) -> Iterator[Lab]:
    """The lab with a gateway that carries somebody's server, so that all its files and sockets are there."""
    lab.start_gateway()
    person = Person(lab, "alice").login()
    person.start()
    person.enter()
    yield lab
    person.stop()


def found(lab: Lab, *words: str) -> list[str]:
    argv = ["find", "/run/gateway", "/var/lib/gateway", "/etc/gateway", *words, "-print"]
    return lab.run("hub", argv, check=True).stdout.split()


def test_another_user_of_the_hubs_host_opens_nothing_of_the_gateways(serving: Lab) -> None:
    wanted: dict[str, list[Any]] = {
        "paths": found(serving, "-type", "f"),
        "directories": found(serving, "-type", "d"),
        "sockets": found(serving, "-type", "s"),
        "pids": [process.pid for process in serving.gateway_processes()],
    }
    names = {Path(path).name for path in wanted["sockets"]}
    assert {"hub.sock", "admin.sock", "master.sock", "ctl"} <= names
    assert any(re.fullmatch(r"[a-z2-7]{10}\.\d+\.sock", name) for name in names)
    assert {"gateway.sqlite", "secret.key", "secrets.map", "haproxy.cfg", "client.pem", "ldap-password"} <= {
        Path(path).name for path in wanted["paths"]
    }
    assert len(wanted["pids"]) >= 4  # the hub, HAProxy's master and worker, an SSH master
    words = [PYTHON, "-I", "-c", _TRY]
    done = serving.run("hub", words, user="mallory", input=json.dumps(wanted), check=True)
    assert done.stdout.splitlines() == [""]
    wanted |= {"paths": [], "directories": [], "pids": []}
    control = serving.run("hub", words, user="gateway", input=json.dumps(wanted), check=True)
    assert all(f"connect to {path}: possible" in control.stdout for path in wanted["sockets"])


def test_every_file_of_the_gateways_is_its_own_and_private(serving: Lab) -> None:
    lines = serving.run(
        "hub", ["find", "/run/gateway", "/var/lib/gateway", "-printf", "%u %m %y %p\n"], check=True
    ).stdout.splitlines()
    odd = [line for line in lines if not re.match(r"gateway (700 d|600 [fs]) ", line)]
    assert odd == []


def test_the_gateway_listens_on_its_public_port_and_nowhere_else(serving: Lab) -> None:
    rows = [line.split() for line in serving.hub.tcp_tables().splitlines()]
    uid = str(BY_NAME["gateway"].uid)
    ports = {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and row[7] == uid}
    assert ports == {serving.port}
    sockets = Path(f"/proc/{serving.hub.pid}/net/unix").read_text()
    assert "@" not in sockets  # none in the abstract namespace, which knows no permissions


# --- the service account on the login node ---


REFUSED_USERS = [
    [],
    ["-u", "root"],
    ["-u", "#0"],
    ["-u", "slurm"],
    ["-u", "munge"],
    ["-u", "daemon"],
    ["-u", "nobody"],
    ["-u", "svc-tunnel"],
    ["-u", "svc"],
    ["-u", "dave"],
    ["-u", "#-1"],
    ["-u", "#4294967295"],
    ["-u", "%cluster"],
    ["-g", "cluster"],
    ["-g", "root"],
    ["-u", "alice", "-g", "root"],
    ["-u", "alice", "-g", "slurm"],
    ["-u", "alice", "-g", "bob"],
    ["-u", "alice", "-i"],
    ["-u", "alice", "-E"],
    ["-u", "alice", "-D", "/tmp"],
    ["-u", "alice", "-R", "/tmp"],
    ["-u", "alice", "-e"],
    ["-u", "alice", "LD_PRELOAD=/tmp/x.so"],
    ["-u", "alice", "PATH=/tmp"],
    ["-u", "alice", "ENV=/tmp/x"],
    ["-u", "alice", "SUDO_USER=nobody"],
]


@pytest.mark.parametrize("options", REFUSED_USERS, ids=" ".join)
def test_sudo_lets_the_service_account_be_members_of_the_group_only(lab: Lab, options: list[str]) -> None:
    assert lab.install_launcher()
    done = lab.run("login", ["sudo", "-n", *options, LAUNCHER, "version"], user="svc")
    assert done.returncode != 0
    assert done.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ["/bin/sh", "-c", "id"],
        ["/usr/bin/id"],
        ["/tmp/gateway-launcher", "version"],
        ["/usr/local/sbin/../../../tmp/gateway-launcher", "version"],
        ["gateway-launcher/../../../bin/sh"],
        ["sh", LAUNCHER, "version"],
        [f"{LAUNCHER} version"],
        ["sudoedit", LAUNCHER],
        ["-l", "-U", "root"],
    ],
    ids=" ".join,
)
def test_sudo_lets_the_service_account_run_the_launcher_only(lab: Lab, words: list[str]) -> None:
    lab.run("login", ["cp", "/bin/id", "/tmp/gateway-launcher"], user="svc", check=True)
    done = lab.run("login", ["sudo", "-n", "-u", "alice", *words], user="svc")
    lab.run("login", ["rm", "/tmp/gateway-launcher"], user="svc", check=True)
    assert done.returncode != 0
    assert done.stdout == ""


def launch(lab: Lab, *words: str, given: bytes = b"", **environment: str) -> tuple[int, str]:
    """Run the launcher for alice as the gateway does; return the status and all that it said."""
    assert lab.install_launcher()
    own = [f"{name}={value}" for name, value in environment.items()]
    argv = ["env", *own, "sudo", "-n", "-H", "-u", "alice", LAUNCHER, *words]
    done = lab.run("login", argv, user="svc", input=given.decode())
    return done.returncode, done.stdout + done.stderr


def test_the_launcher_works_in_the_way_that_the_gateway_uses(lab: Lab) -> None:
    given = sections([("bin", b"/usr/bin"), ("limit", b"20"), ("word", b"sinfo"), ("word", b"--version")])
    status, said = launch(lab, "run", ID, given=given)
    assert status == 0
    assert said.startswith("slurm")


@pytest.mark.parametrize(
    "words",
    [
        ["run", "../abcdefg"],
        ["run", "abcdefgh2/"],
        ["run", "abcdefgh2"],
        ["run", "abcdefgh234"],
        ["run", "ABCDEFGH23"],
        ["run", "abcdefgh2\n"],
        ["run", ""],
        ["run", "-rf"],
        ["run", ID, "more"],
        ["sh", ID],
        ["run;id", ID],
        ["--help", ID],
        ["-c", "id"],
        [],
    ],
    ids=repr,
)
def test_the_launcher_takes_no_odd_words(lab: Lab, words: list[str]) -> None:
    given = sections([("bin", b"/usr/bin"), ("limit", b"20"), ("word", b"sinfo")])
    assert launch(lab, *words, given=given)[0] in (64, 77)


@pytest.fixture
def evil(lab: Lab) -> Iterator[str]:
    """A directory of the service account's, with programs that leave a trace when somebody else runs them."""
    program = '#!/bin/sh\n[ "$(/usr/bin/id -un)" = svc ] || echo got you\n'
    names = "squeue sinfo sbatch id stat cat sed dd timeout mkdir readlink"
    script = f"mkdir -p /tmp/evil && cd /tmp/evil && for n in {names}; do cat >$n && chmod 755 $n; done"
    script = script.replace("cat >$n", 'printf %s "$0" >$n')
    lab.run("login", ["sh", "-c", script, program], user="svc", check=True)
    yield "/tmp/evil"
    lab.run("login", ["rm", "-rf", "/tmp/evil"], user="svc", check=True)


@pytest.mark.parametrize(
    ("directory", "program"),
    [
        ("/tmp/evil", "squeue"),
        ("/usr/bin/../../tmp/evil", "squeue"),
        ("/tmp/evil/", "sinfo"),
        ("tmp/evil", "squeue"),
        ("/proc/self/cwd/tmp/evil", "squeue"),
        ("/usr/bin", "sh"),
        ("/usr/bin", "../../tmp/evil/squeue"),
        ("/usr/bin", "/tmp/evil/squeue"),
        ("/bin", "env"),
        ("/usr/bin", "srun"),
        ("/usr/bin", ""),
        ("", "squeue"),
        ("/tmp/link", "squeue"),
    ],
)
def test_the_launcher_runs_no_program_but_the_systems_own(
    lab: Lab, evil: str, directory: str, program: str
) -> None:
    lab.run("login", ["ln", "-sfn", evil, "/tmp/link"], user="svc", check=True)
    words = [("word", program.encode()), ("word", b"--version")]
    given = sections([("bin", directory.encode()), ("limit", b"20"), *words])
    status, said = launch(lab, "run", ID, given=given)
    submitted = sections([("statedir", b"~/.gateway"), ("bin", directory.encode()), ("limit", b"20"), *words])
    more = sections([("file:script", b"#!/bin/sh\n")])
    status_of_submit, said_of_submit = launch(
        lab, "submit", ID, given=submitted.removesuffix(b"gw1 end 0\n") + more
    )
    lab.run("login", ["rm", "/tmp/link"], user="svc", check=True)
    assert status in (64, 69, 77), said
    assert status_of_submit in (64, 69, 77), said_of_submit
    assert "got you" not in said + said_of_submit


def test_the_service_accounts_environment_does_not_reach_the_launcher(lab: Lab, evil: str) -> None:
    given = sections([("bin", b"/usr/bin"), ("limit", b"20"), ("word", b"sinfo"), ("word", b"--version")])
    traps = {
        "PATH": f"{evil}:/usr/bin:/bin",
        "ENV": f"{evil}/id",
        "BASH_ENV": f"{evil}/id",
        "IFS": "/",
        "SHELLOPTS": "xtrace",
        "PS4": f"$({evil}/id)",
        "BASH_FUNC_id%%": "() { echo got you; }",
        "SLURM_CONF": f"{evil}/slurm.conf",
        "LD_LIBRARY_PATH": evil,
        "CDPATH": evil,
        "HOME": evil,
    }
    status, said = launch(lab, "run", ID, given=given, **traps)
    assert status == 0, said
    assert "got you" not in said
    assert said.startswith("slurm")


@pytest.fixture
def precious(lab: Lab) -> Iterator[str]:
    """A directory of alice's with a file in it, which nobody may touch by way of the launcher."""
    lab.run(
        "login", ["sh", "-c", "mkdir -p ~/precious && echo mine >~/precious/log"], user="alice", check=True
    )
    yield "/home/alice/precious"
    left = lab.run("login", ["cat", "precious/log"], user="alice")
    lab.run("login", ["rm", "-rf", "precious", f".gateway/{ID}"], user="alice", check=True)
    assert left.stdout == "mine\n"


STATE_DIRS = {
    "a link of the service account's": "/tmp/trap/link",
    "a directory of the service account's": "/tmp/trap",
    "somebody else's home": "/home/bob",
    "up and down": "/home/alice/../bob",
    "not absolute": "precious",
    "the root": "/",
    "the system's": "/etc",
    "a placeholder": "/home/%x",
    "empty": "",
}


@pytest.mark.parametrize("verb", ["read", "remove", "submit"])
@pytest.mark.parametrize("directory", STATE_DIRS.values(), ids=STATE_DIRS)
def test_the_launcher_goes_only_where_its_user_already_rules(
    lab: Lab, precious: str, verb: str, directory: str
) -> None:
    lay = f"mkdir -p /tmp/trap && ln -sfn /home/alice /tmp/trap/link && ln -sfn {precious} /tmp/trap/{ID}"
    lab.run("login", ["sh", "-c", lay], user="svc", check=True)
    given = [("statedir", directory.encode())]
    if verb == "read":
        given += [("name", b"log")]
    if verb == "submit":
        given += [("bin", b"/usr/bin"), ("limit", b"20"), ("word", b"sinfo"), ("file:log", b"overwritten")]
    status, said = launch(lab, verb, ID, given=sections(given))
    lab.run("login", ["rm", "-rf", "/tmp/trap"], user="svc", check=True)
    assert "mine" not in said
    # What is not there is nothing to read and nothing to remove; everything else is refused.
    assert status in (64, 73) or (verb != "submit" and said == "gw1 end\n"), said


def test_a_state_directory_that_is_a_link_is_not_followed(lab: Lab, precious: str) -> None:
    """Even alice's own link: what the gateway would write or remove there is not what it thinks it is."""
    lay = f"mkdir -p ~/.gateway && ln -sfn {precious} ~/.gateway/{ID}"
    lab.run("login", ["sh", "-c", lay], user="alice", check=True)
    base = ("statedir", b"~/.gateway")
    scheduler = [("bin", b"/usr/bin"), ("limit", b"20"), ("word", b"sinfo")]
    for verb, more in (
        ("read", [("name", b"log")]),
        ("remove", []),
        ("submit", [*scheduler, ("file:log", b"overwritten")]),
    ):
        status, said = launch(lab, verb, ID, given=sections([base, *more]))
        assert status == 73, said


@pytest.mark.parametrize(
    "name", ["../log", "/etc/passwd", ".bashrc", "a/b", "", "..", "-x", "token", "key.pem"]
)
def test_the_launcher_reads_no_secret_and_no_file_elsewhere(lab: Lab, precious: str, name: str) -> None:
    lay = f"mkdir -p ~/.gateway/{ID} && echo hidden | tee ~/.gateway/{ID}/token ~/.gateway/{ID}/key.pem"
    lab.run("login", ["sh", "-c", lay], user="alice", check=True)
    status, said = launch(
        lab, "read", ID, given=sections([("statedir", b"~/.gateway"), ("name", name.encode())])
    )
    assert status in (64, 77), said
    assert "hidden" not in said


@pytest.mark.parametrize(
    "name", ["../log", "/tmp/x", ".bashrc", "a/b", "", "..", "-x", "authorized_keys", "A"]
)
def test_the_launcher_writes_no_file_elsewhere(lab: Lab, precious: str, name: str) -> None:
    scheduler = [("bin", b"/usr/bin"), ("limit", b"20"), ("word", b"sinfo")]
    given = sections([("statedir", b"~/.gateway"), *scheduler, (f"file:{name}", b"overwritten")])
    assert launch(lab, "submit", ID, given=given)[0] == 64
