"""The gateway as an SSH CA: it acts as anybody of the site's group by certificate, and as nobody else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_private_key,
)

from gateway.cli import main
from gateway.errors import LoginNodeRefused
from tests.lab import Lab
from tests.lab.accounts import BY_NAME, write_private
from tests.lab.clusters import HUB_ADDRESS
from tests.lab.nodes import wait_until
from tests.lab.staging import CA_FILE, LAUNCHER_PATH
from tests.live.client import CHOICES, Answer, Person

CLUSTER = {**CHOICES, "cluster": "labcert", "memory": "400M"}
FRAME = "gw1 frame 0a1b 5\n"


@dataclass(frozen=True)
class Admin:
    """carol, by the REST API: she starts and stops anybody's server."""

    lab: Lab
    token: str

    def call(self, method: str, user: str, **body: str) -> Answer:
        person = Person(self.lab, "carol")
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        url = f"{person.hub}/hub/api/users/{user}"
        return person.request(method, f"{url}/server" if method != "GET" else url, json.dumps(body), headers)

    def start(self, user: str) -> None:
        answer = self.call("POST", user, **CLUSTER)
        assert answer.status == 202, f"{answer.status} {answer.text}"

    def phase(self, user: str) -> str:
        servers = self.call("GET", user).json["servers"]
        return str(servers[""]["state"]["phase"]) if servers else "ended"

    def wait(self, user: str, *phases: str, timeout: float = 60.0) -> None:
        wait_until(lambda: self.phase(user) in phases, f"{user}'s server is {phases}", timeout, 0.2)

    def stop(self, *users: str) -> None:
        for user in users:
            assert self.call("DELETE", user).status in (202, 204)
        for user in users:
            self.wait(user, "ended")


@pytest.fixture(scope="module")
def admin(lab: Lab) -> Iterator[Admin]:
    lab.start_gateway()
    yield Admin(lab, lab.variables()["GATEWAY_ADMIN_TOKEN"])
    lab.clear_jobs()


# --- certificates made by hand --------------------------------------------------------------------


class Hand:
    """Makes certificates with the CA's key that the gateway would never make, and tries them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.key = ec.generate_private_key(ec.SECP256R1())
        keys = json.loads((lab.state / "nodes/hub/lib/gateway/ssh-ca/keys.json").read_text())
        ca = load_ssh_private_key(keys["current"]["private"].encode(), None)
        assert isinstance(ca, ec.EllipticCurvePrivateKey)
        self.ca = ca

    def certificate(
        self,
        *principals: str,
        ca: ec.EllipticCurvePrivateKey | None = None,
        address: str = HUB_ADDRESS,
        begins: float = -60,
        ends: float = 300,
        kind: SSHCertificateType = SSHCertificateType.USER,
    ) -> str:
        """Return one that allows as much as a certificate can: its limits are sshd's, not its own."""
        now = datetime.now(UTC)
        builder = (
            SSHCertificateBuilder()
            .public_key(self.key.public_key())
            .serial(1)
            .type(kind)
            .key_id(b"by hand")
            .valid_after(int((now + timedelta(seconds=begins)).timestamp()))
            .valid_before(int((now + timedelta(seconds=ends)).timestamp()))
        )
        names = [name.encode() for name in principals]
        for_all = builder.valid_for_all_principals
        builder = builder.valid_principals(names) if names else for_all()  # type: ignore[no-untyped-call]
        if kind is SSHCertificateType.USER:
            for extension in (b"permit-port-forwarding", b"permit-pty", b"permit-agent-forwarding"):
                builder = builder.add_extension(extension, b"")
            if address:
                builder = builder.add_critical_option(b"source-address", address.encode())
        return builder.sign(ca or self.ca).public_bytes().decode()

    def ssh(
        self, certificate: str, user: str, *words: str, options: tuple[str, ...] = (), node: str = "hub"
    ) -> subprocess.CompletedProcess[str]:
        """Run ssh with a certificate, as the gateway's user on the hub or as alice on the login node."""
        if node == "hub":
            account, outside, inside = "gateway", self.lab.state / "hub/ssh", "/etc/gateway/ssh"
        else:
            account, outside, inside = "alice", self.lab.state / "home/alice", "/home/alice"
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
        files = {"by-hand": private, "by-hand-cert.pub": certificate + "\n"}
        for name, text in files.items():
            write_private(outside / name, text, BY_NAME[account].uid)
        trust = "-oUserKnownHostsFile=/etc/gateway/ssh/known_hosts"
        trust = trust if node == "hub" else "-oStrictHostKeyChecking=no"
        argv = ["ssh", "-F/dev/null", "-oBatchMode=yes", "-oIdentitiesOnly=yes", trust, *options]
        argv += ["-i", f"{inside}/by-hand", f"-oCertificateFile={inside}/by-hand-cert.pub"]
        try:
            return self.lab.run(node, [*argv, f"{user}@login", *words], user=account, input=FRAME)
        finally:
            for name in files:
                (outside / name).unlink()

    def opens(self, certificate: str, user: str = "alice", node: str = "hub") -> bool:
        """Return whether a certificate lets its holder ask the launcher for its version."""
        done = self.ssh(certificate, user, "version", node=node)
        if done.returncode == 0:
            assert "gateway-launcher 3\n" in done.stdout
            return True
        assert "Permission denied" in done.stderr, done.stderr
        return False


@pytest.fixture
def hand(lab: Lab) -> Hand:
    return Hand(lab)


# --- what works -----------------------------------------------------------------------------------


def test_people_with_any_login_shell_start_and_stop_a_server_as_themselves(lab: Lab, admin: Admin) -> None:
    people = ("alice", "tess", "finn", "nora")
    for user in people:
        admin.start(user)
    for user in people:
        admin.wait(user, "ready")
    running = lab.login.run(["squeue", "-h", "-t", "running", "-o", "%u"], check=True).stdout.split()
    assert sorted(running) == sorted(people)
    admin.stop(*people)
    log = lab.gateway_log.read_text()
    for user in people:
        assert f' labcert {user}", principal {user}, cluster labcert, valid until ' in log
        assert f"connected to {user}@login\n" in log


def test_the_login_node_has_the_lines_that_the_command_prints(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["launcher", "--sshd", "--group", "cluster", "--address", HUB_ADDRESS])
    printed = capsys.readouterr().out
    assert printed in lab.login.run(["cat", "/etc/ssh/sshd_config"], check=True).stdout
    (member, other) = [line[1:].split("|")[0].split() for line in printed.splitlines() if "sshd -T" in line]
    trusted = f"trustedusercakeys {CA_FILE}\n"
    words = [word.replace("MEMBER", "alice") for word in member]
    assert trusted in lab.login.run(["/usr/sbin/sshd", *words[1:]], check=True).stdout
    for user in ("root", "slurm", "dave", "svc"):
        words = [word.replace("user=root", f"user={user}") for word in other]
        shown = lab.login.run(["/usr/sbin/sshd", *words[1:]], check=True).stdout
        assert "trustedusercakeys none\n" in shown
        assert "forcecommand none\n" in shown


# --- what is refused ------------------------------------------------------------------------------


def test_sshd_lets_nobody_in_but_whom_the_certificate_names_now_and_from_the_hub(hand: Hand) -> None:
    assert hand.opens(hand.certificate("alice"))
    assert not hand.opens(hand.certificate("alice"), "bob")
    assert not hand.opens(hand.certificate("alice", ends=-1))
    assert not hand.opens(hand.certificate("alice", begins=60))
    assert not hand.opens(hand.certificate("alice", address="192.0.2.1"))
    assert not hand.opens(hand.certificate("alice", ca=ec.generate_private_key(ec.SECP256R1())))
    assert not hand.opens(hand.certificate("alice", kind=SSHCertificateType.HOST))
    assert not hand.opens(hand.certificate())


@pytest.mark.parametrize("user", ["root", "slurm", "svc", "dave"])
def test_sshd_lets_nobody_in_who_is_not_in_the_sites_group(hand: Hand, user: str) -> None:
    assert not hand.opens(hand.certificate(user), user)


def test_sshd_lets_nobody_in_by_certificate_from_another_address(hand: Hand) -> None:
    certificate = hand.certificate("alice", address="")
    assert not hand.opens(certificate, node="login")
    assert hand.opens(certificate)


def test_a_certificate_runs_the_launcher_and_nothing_else(hand: Hand) -> None:
    certificate = hand.certificate("alice")
    for words in (("id",), (), ("sh", "-c", "id"), ("version; id",), ("submit", "x; id"), (LAUNCHER_PATH,)):
        done = hand.ssh(certificate, "alice", *words)
        assert done.returncode == 77, words
        assert "refused" in done.stderr
        assert done.stdout == ""
    done = hand.ssh(certificate, "alice", options=("-tt",))
    assert "PTY allocation request failed" in done.stderr
    assert (done.returncode, done.stdout) == (255, "")
    done = hand.ssh(certificate, "alice", "sftp", options=("-s",))
    assert (done.returncode, done.stdout) == (77, "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-W", "127.0.0.1:22"), "stdio forwarding failed"),
        (("-W", "cn1:6818"), "stdio forwarding failed"),
        (("-R", "0:127.0.0.1:22", "-oExitOnForwardFailure=yes"), "remote port forwarding failed"),
        (("-R", "/tmp/socket:127.0.0.1:22", "-oExitOnForwardFailure=yes"), "remote port forwarding failed"),
    ],
)
def test_a_certificate_forwards_nothing(hand: Hand, options: tuple[str, ...], said: str) -> None:
    words = () if options[0] == "-W" else ("version",)
    done = hand.ssh(hand.certificate("alice"), "alice", *words, options=options)
    assert done.returncode == 255
    assert said in done.stderr


@pytest.mark.parametrize("user", ["root", "slurm"])
def test_the_launcher_and_the_hub_refuse_system_accounts_too(lab: Lab, admin: Admin, user: str) -> None:
    request = {"SSH_ORIGINAL_COMMAND": "version"}
    done = lab.login.run(
        [LAUNCHER_PATH, "--ssh"], user=user if user != "root" else None, input=FRAME, env=request
    )
    assert (done.returncode, done.stdout) == (77, "")
    assert admin.call("POST", user, **CLUSTER).status == 403
    assert f"principal {user}," not in lab.gateway_log.read_text()


def test_a_person_outside_of_the_sites_group_is_told_that_the_cluster_refuses(lab: Lab, admin: Admin) -> None:
    admin.start("dave")
    admin.wait("dave", "ended", timeout=20)
    assert LoginNodeRefused.default_public in progress(admin, "dave")
    assert lab.login.run(["squeue", "-h", "-u", "dave"], check=True).stdout == ""


@pytest.mark.parametrize(
    ("bashrc", "sentence"),
    [
        ("cat >/dev/null\n", "A start-up file of your shell on the cluster, such as ~/.bashrc, reads"),
        ("exit 3\n", "Your shell on the cluster ended with status 3 before the gateway began."),
    ],
)
def test_a_start_up_file_in_the_way_is_told_to_its_owner_and_nothing_starts(
    lab: Lab, admin: Admin, bashrc: str, sentence: str
) -> None:
    path = lab.state / "home/bob/.bashrc"
    write_private(path, bashrc, BY_NAME["bob"].uid)
    try:
        admin.start("bob")
        admin.wait("bob", "ended", timeout=20)
    finally:
        path.unlink()
    assert sentence in progress(admin, "bob")
    assert lab.login.run(["squeue", "-h", "-u", "bob"], check=True).stdout == ""
    assert not list(Path(lab.state / "home/bob/.gateway").glob("*"))


def progress(admin: Admin, user: str) -> str:
    """Return what the API tells of the last start of a server."""
    person = Person(admin.lab, "carol")
    url = f"{person.hub}/hub/api/users/{user}/server/progress"
    return person.request("GET", url, headers={"Authorization": f"token {admin.token}"}).text


# --- another key ----------------------------------------------------------------------------------


def test_the_cas_key_is_replaced_while_the_gateway_runs(lab: Lab, admin: Admin, hand: Hand) -> None:
    old = hand.certificate("alice")
    lab.trust_authority(lab.gateway_ca("rotate"))
    assert hand.opens(old)
    finished = lab.gateway_ca("rotate", "--finish")
    new = Hand(lab).certificate("carol")
    assert new.split()[1] != old.split()[1]
    admin.start("carol")
    admin.wait("carol", "queued", "starting", "ready")
    signed = [line for line in lab.gateway_log.read_text().splitlines() if "principal carol," in line][-1]
    assert finished.splitlines()[0].endswith(signed.rpartition("CA ")[2])
    assert hand.opens(old)
    lab.trust_authority("".join(finished.splitlines(keepends=True)[:2]))
    assert not hand.opens(old)
    admin.stop("carol")
