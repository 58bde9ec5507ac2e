"""The faults. Each is a function that plants one in a trial, and takes it away again after its ``yield``."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.lab import certificates, gateway
from tests.lab.accounts import BY_NAME, own, write_private
from tests.lab.nodes import wait_until
from tests.lab.staging import CA_FILE, HOST, LAUNCHER_PATH
from tests.live.faults.trial import PORT, Trial

SLURM_CONF = "/etc/slurm/slurm.conf"
LUA = "/etc/slurm/job_submit.lua"
SSHD_CONFIG = "/etc/ssh/sshd_config"
SUDOERS = "/etc/sudoers.d/lab"


@dataclass(frozen=True)
class Fault:
    """A fault: its name, the one step that is not ok, what this says, and what is to be typed.

    ``alone`` says that it breaks the lab itself, for all.
    """

    name: str
    step: str
    says: str
    mend: str
    status: str
    alone: bool
    plant: Callable[[Trial], AbstractContextManager[None]]


CATALOGUE: list[Fault] = []
Plant = Callable[[Trial], Iterator[None]]


def fault(
    step: str, *, says: str, mend: str, status: str = "not ok", alone: bool = False
) -> Callable[[Plant], Plant]:
    """Put a function into the catalogue, under its own name."""

    def enter(plant: Plant) -> Plant:
        name = plant.__name__.replace("_", "-")
        CATALOGUE.append(Fault(name, step, says, mend, status, alone, contextmanager(plant)))
        return plant

    return enter


# --- the gateway's host -----------------------------------------------------------------------------------


@fault("state directory", says="belongs to root, and this runs as gateway", mend="chown -R gateway ")
def state_directory_of_somebody_else(trial: Trial) -> Iterator[None]:
    os.chown(trial.path / "state", 0, 0)
    yield


@fault(
    "run directory",
    says="longer than the 107 bytes of a Unix socket's path",
    mend="c.Gateway.run_dir = '/run/gateway'",
)
def run_directory_with_a_long_name(trial: Trial) -> Iterator[None]:
    trial.settings = f"c.Gateway.run_dir = '{trial.inside}/{'run' * 25}'\n"
    yield


@fault("database", says="it has schema 0001, and this version needs ", mend="gateway db upgrade -f ")
def database_of_an_older_version(trial: Trial) -> Iterator[None]:
    file = trial.path / "state/gateway.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('0001')")
        database.commit()
    own(file, BY_NAME["gateway"].uid)
    yield


@fault(
    "certificate file", says="does not belong to its first certificate", mend="fullchain.pem privkey.pem >"
)
def certificate_with_another_key(trial: Trial) -> Iterator[None]:
    certificate = trial.file("tls.pem").read_text().partition("-----BEGIN PRIVATE KEY-----")[0]
    trial.write("tls.pem", certificate + _pem(ec.generate_private_key(ec.SECP256R1())))
    yield


@fault("certificate names", says=f"not for *.{HOST}", mend=f"*.{HOST}")
def certificate_without_the_wildcard(trial: Trial) -> Iterator[None]:
    trial.write("tls.pem", _certificate([HOST], timedelta(days=30)))
    yield


@fault("certificate dates", says="has EXPIRED on ", mend="certbot renew")
def certificate_that_has_expired(trial: Trial) -> Iterator[None]:
    trial.write("tls.pem", _certificate([HOST, f"*.{HOST}"], timedelta(days=-1)))
    yield


@fault("haproxy", says="there is no program '/opt/haproxy/sbin/haproxy'", mend="apt install haproxy")
def haproxy_missing(trial: Trial) -> Iterator[None]:
    trial.settings = "c.Gateway.haproxy = '/opt/haproxy/sbin/haproxy'\n"
    yield


@fault("haproxy", says="is HAProxy 2.4.22-f8e3218, which is too old", mend="c.Gateway.haproxy = ")
def haproxy_too_old(trial: Trial) -> Iterator[None]:
    trial.write(
        "haproxy", "#!/bin/sh\necho 'HAProxy version 2.4.22-f8e3218 2023/02/14 - https://haproxy.org/'\n"
    )
    trial.file("haproxy").chmod(0o700)
    trial.settings = f"c.Gateway.haproxy = '{trial.inside}/haproxy'\n"
    yield


@fault("public port", says=f"127.0.0.1:{PORT + 1} is taken by a program of the user mallory", mend="ss -ltnp")
def public_port_taken_by_another_program(trial: Trial) -> Iterator[None]:
    trial.settings = f"c.Gateway.bind = ['127.0.0.1:{PORT + 1}']\n"
    words = [gateway.PYTHON, "-m", "http.server", "--bind", "127.0.0.1", str(PORT + 1)]
    with trial.lab.popen("hub", words, user="mallory", stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: trial.lab.hub.listens(PORT + 1), "the other program listens")
            yield
        finally:
            server.kill()


# --- the directory ----------------------------------------------------------------------------------------


@fault("directory TLS", says="CERTIFICATE_VERIFY_FAILED", mend="c.Ldap.ca_file")
def directory_of_another_authority(trial: Trial) -> Iterator[None]:
    trial.write("ca.pem", _certificate(["ca"], timedelta(days=30), key=False))
    yield


@fault("directory reader", says="refuses cn=gateway", mend="ldap-password")
def directory_reader_with_a_wrong_password(trial: Trial) -> Iterator[None]:
    trial.write("ldap-password", "not-the-password\n")
    yield


@fault("directory people", says="has nobody below ou=peoples,dc=example,dc=org", mend="c.Ldap.user_base")
def directory_base_that_is_not_there(trial: Trial) -> Iterator[None]:
    trial.settings = "c.Ldap.user_base = 'ou=peoples,dc=example,dc=org'\n"
    yield


@fault("directory people", says="ou=grups,dc=example,dc=org", mend="c.Ldap.group_base")
def groups_looked_for_in_the_wrong_place(trial: Trial) -> Iterator[None]:
    trial.settings += 'c.Ldap.group_base = "ou=grups,dc=example,dc=org"\n'
    yield


@fault(
    "directory connection", says="ldap.lab:636 refuses connections", mend="ss -ltn 'sport = :636'", alone=True
)
def directory_down(trial: Trial) -> Iterator[None]:
    trial.lab.slapd.stop()
    try:
        yield
    finally:
        trial.lab.slapd.start()


# --- logging in to the cluster ----------------------------------------------------------------------------


@fault("lab: names", says="logni has no address here", mend="getent hosts logni")
def login_node_with_a_wrong_name(trial: Trial) -> Iterator[None]:
    trial.change("hosts: [login]", "hosts: [logni]")
    yield


@fault("lab: connection", says="login:22 refuses connections", mend="ss -ltn 'sport = :22'", alone=True)
def sshd_down(trial: Trial) -> Iterator[None]:
    trial.lab.sshd.stop()
    try:
        yield
    finally:
        trial.lab.sshd.start()


@fault("lab: host key", says="(ssh-ed25519), which is not in ", mend="echo 'login ssh-ed25519 AAAA")
def host_key_unknown(trial: Trial) -> Iterator[None]:
    trial.write("known_hosts", "elsewhere ssh-ed25519 AAAA\n")
    yield


@fault("lab: host key", says="has ANOTHER key for it", mend="ssh-keygen -f ")
def host_key_changed(trial: Trial) -> Iterator[None]:
    other = certificates.make_ssh_key(trial.path / "other", "login")
    trial.write("known_hosts", f"login {other}\n")
    yield


@fault("lab: key file", says="has mode 0644: ssh refuses a key that others may read", mend="chmod 600 ")
def key_that_others_may_read(trial: Trial) -> Iterator[None]:
    trial.file("svc").chmod(0o644)
    yield


@fault("lab: login", says="is not accepted", mend="~svc/.ssh/authorized_keys on login")
def key_that_is_not_authorized(trial: Trial) -> Iterator[None]:
    _new_key(trial, "svc")
    yield


# --- acting for people ------------------------------------------------------------------------------------


@fault("lab: launcher", says=f"there is no {LAUNCHER_PATH} on login", mend="gateway launcher > ", alone=True)
def launcher_missing(trial: Trial) -> Iterator[None]:
    trial.lab.login.run(["rm", LAUNCHER_PATH], check=True)
    try:
        yield
    finally:
        trial.lab.install_launcher()


@fault("lab: launcher", says="is version 1, and this gateway needs ", mend="gateway launcher > ", alone=True)
def launcher_of_an_older_version(trial: Trial) -> Iterator[None]:
    trial.lab.login.run(["sed", "-i", "s/^VERSION=.*/VERSION=1/", LAUNCHER_PATH], check=True)
    try:
        yield
    finally:
        trial.lab.install_launcher()


@fault("lab: launcher", says="others than root can change", mend=f"chmod go-w {LAUNCHER_PATH}", alone=True)
def launcher_that_a_group_may_change(trial: Trial) -> Iterator[None]:
    trial.lab.login.run(["chmod", "g+w", LAUNCHER_PATH], check=True)
    try:
        yield
    finally:
        trial.lab.install_launcher()


@fault(
    "lab: sudo", says="sudo does not let svc run", mend="gateway launcher --sudoers --account svc", alone=True
)
def sudoers_file_missing(trial: Trial) -> Iterator[None]:
    trial.lab.login.run(["mv", SUDOERS, "/etc/lab-sudoers"], check=True)
    try:
        yield
    finally:
        trial.lab.login.run(["mv", "/etc/lab-sudoers", SUDOERS], check=True)


@fault("lab: sudo", says="any program as (%cluster)", mend="svc ALL=(%cluster) NOPASSWD: /", alone=True)
def sudoers_rule_for_any_program(trial: Trial) -> Iterator[None]:
    run = trial.lab.login.run
    run(["cp", "-p", SUDOERS, "/etc/lab-sudoers"], check=True)
    run(["sed", "-i", f"s,NOPASSWD: {LAUNCHER_PATH},NOPASSWD: ALL,", SUDOERS], check=True)
    try:
        yield
    finally:
        run(["mv", "/etc/lab-sudoers", SUDOERS], check=True)


@fault("lab: act as", says="dave, who is not in the group cluster", mend="usermod -aG cluster dave")
def person_outside_of_the_group(trial: Trial) -> Iterator[None]:
    trial.user = "dave"
    yield


@fault("lab: state directory", says="mounted read-only", mend="findmnt -T ~rory/.gateway")
def home_that_is_read_only(trial: Trial) -> Iterator[None]:
    trial.user = "rory"
    yield


@fault("lab: state directory", says="the file system is full", mend="df -h ~finn/.gateway")
def home_without_room(trial: Trial) -> Iterator[None]:
    trial.user, run = "finn", trial.lab.login.run
    place, uid = "/home/finn/.gateway", BY_NAME["finn"].uid
    run(["mkdir", "-p", place], user="finn", check=True)
    run(["mount", "-t", "tmpfs", "-o", f"size=8k,mode=700,uid={uid},gid={uid}", "tmpfs", place], check=True)
    try:
        yield
    finally:
        run(["umount", place], check=True)
        run(["rmdir", "--ignore-fail-on-non-empty", place], check=True)


@fault("lab: SSH CA", says="There is no SSH CA in ", mend="gateway ca init -f ")
def authority_that_was_never_made(trial: Trial) -> Iterator[None]:
    trial.change("act_as: sudo", "act_as: certificate")
    yield


@fault("lab: act as", says="a certificate for alice", mend="gateway launcher --sshd")
def authority_that_sshd_does_not_trust(trial: Trial) -> Iterator[None]:
    trial.change("act_as: sudo", "act_as: certificate")
    trial.run("ca", "init")
    yield


@fault("lab: next SSH CA key", says="login does not trust it yet", mend="gateway ca show", status="warning")
def next_key_that_sshd_does_not_trust(trial: Trial) -> Iterator[None]:
    with _trusted_authority(trial):
        trial.run("ca", "rotate")
        yield


@fault("lab: root", says="login lets root in with a certificate", mend="gateway launcher --sshd", alone=True)
def authority_that_sshd_trusts_for_root(trial: Trial) -> Iterator[None]:
    run, sshd = trial.lab.login.run, trial.lab.sshd
    before = run(["cat", SSHD_CONFIG], check=True).stdout
    block = f"Match User root\n    PermitRootLogin prohibit-password\n    TrustedUserCAKeys {CA_FILE}\n"

    def reconfigure(text: str) -> None:
        run(["cp", "/dev/stdin", SSHD_CONFIG], input=text, check=True)
        sshd.stop()
        sshd.start()

    with _trusted_authority(trial):
        reconfigure(before + block)
        try:
            yield
        finally:
            reconfigure(before)


# --- the scheduler ----------------------------------------------------------------------------------------


@fault("lab: programs", says="/opt/slurm/bin on login has no sbatch", mend="login.bin: /usr/bin")
def scheduler_in_another_place(trial: Trial) -> Iterator[None]:
    trial.change("  act_as: sudo\n", "  act_as: sudo\n  bin: /opt/slurm/bin\n")
    yield


@fault("lab: scheduler", says="is DOWN", mend="systemctl status slurmctld", alone=True)
def slurmctld_down(trial: Trial) -> Iterator[None]:
    trial.lab.slurmctld.stop()
    try:
        yield
    finally:
        trial.lab.slurmctld.start()
        shown = ["sinfo", "-h", "-p", "debug", "-o", "%t %D"]
        wait_until(
            lambda: trial.lab.login.run(shown).stdout.strip() == "idle 2", "the nodes are back", 30, 0.1
        )


@fault(
    "lab: other users' jobs",
    says="PrivateData = jobs hides",
    mend="AdminLevel=Operator",
    status="warning",
    alone=True,
)
def jobs_that_are_private(trial: Trial) -> Iterator[None]:
    with _changed(trial, SLURM_CONF, lambda text: f"{text}PrivateData=jobs\n"):
        yield


@fault("lab: partitions", says="Slurm has no partition debgu", mend="sinfo -a")
def partition_with_a_wrong_name(trial: Trial) -> Iterator[None]:
    trial.change("name: debug", "name: debgu")
    yield


@fault("lab: partitions", says="Slurm allows 10 minutes", mend="name: short: max_walltime: 10m in ")
def walltime_over_the_partitions(trial: Trial) -> Iterator[None]:
    trial.change("max_walltime: 10m", "max_walltime: 2h")
    yield


@fault("lab: job published", says="does not take the job's comment", mend="slurm_job_modify", alone=True)
def comments_that_may_not_be_changed(trial: Trial) -> Iterator[None]:
    trial.words = ("--job",)
    trial.site = trial.site.replace("ipykernel", "jupyterlab")

    def refuse(text: str) -> str:
        head, begins, body = text.partition("function slurm_job_modify(job, record, partitions, uid)\n")
        assert begins
        return head + begins + body.replace("return slurm.SUCCESS", "return slurm.ERROR", 1)

    with _changed(trial, LUA, refuse):
        yield


# --- the way to the nodes ---------------------------------------------------------------------------------


@fault("lab: forwarding", says="does not forward to cn1:20000 for dave", mend='permitopen="cn1:*"')
def tunnel_account_that_may_not_forward(trial: Trial) -> Iterator[None]:
    public = _new_key(trial, "tunnel")
    trial.change("user: svc-tunnel", "user: dave")
    home = trial.lab.state / "home/dave/.ssh"
    home.mkdir(mode=0o700)
    write_private(home / "authorized_keys", f"restrict {public}\n")
    own(home, BY_NAME["dave"].uid)
    try:
        yield
    finally:
        trial.lab.login.run(["rm", "-r", "/home/dave/.ssh"], check=True)


@fault("lab: forwarding", says="svc may forward everywhere", mend='permitopen="cn1:*"', status="warning")
def tunnel_account_that_may_forward_everywhere(trial: Trial) -> Iterator[None]:
    trial.change(f"  user: svc-tunnel\n  key: {trial.inside}/tunnel\n", "")
    yield


@fault(
    "lab: ports", says="30000-40000 overlaps 32768-60999", mend="tunnel.ports: 20000-29999", status="warning"
)
def ports_of_outgoing_connections(trial: Trial) -> Iterator[None]:
    trial.change("ports: 20000-29999", "ports: 30000-40000")
    yield


@fault(
    "lab: applications",
    says="jupyter-lab is not there",
    mend="prologue and command are in ",
    status="warning",
)
def jupyter_not_on_the_path(trial: Trial) -> Iterator[None]:
    trial.change(f"{gateway.PYTHON}, -m, ipykernel", "jupyter-lab")
    yield


# --- the drop-ins -----------------------------------------------------------------------------------------


@fault("lab: drop-ins", says="can be written by others than root", mend="gateway reload")
def drop_in_that_anybody_can_write(trial: Trial) -> Iterator[None]:
    with _drop_in(trial, "version: 1\\n", "0666"):
        yield


@fault("lab: drop-ins", says="a.yaml:2: login: this belongs into", mend="gateway check ")
def drop_in_that_says_how_to_log_in(trial: Trial) -> Iterator[None]:
    with _drop_in(trial, "version: 1\\nlogin: {user: root}\\n", "0644"):
        yield


@contextmanager
def _drop_in(trial: Trial, text: str, mode: str) -> Iterator[None]:
    """Put a file into a directory of drop-ins of the trial's own."""
    directory = f"/usr/local/etc/{trial.inside.rpartition('/')[2]}"
    trial.change("  act_as: sudo\n", f"  act_as: sudo\n  dropins: {directory}\n")
    made = (
        f"mkdir -m 755 {directory} && printf '{text}' > {directory}/a.yaml && chmod {mode} {directory}/a.yaml"
    )
    trial.lab.login.run(["sh", "-c", made], check=True)
    try:
        yield
    finally:
        trial.lab.login.run(["rm", "-r", directory], check=True)


# --- how they are made ------------------------------------------------------------------------------------


@contextmanager
def _changed(trial: Trial, path: str, change: Callable[[str], str]) -> Iterator[None]:
    """Change one of the scheduler's files on the login node, and have the controller read it."""
    login = trial.lab.login
    before = login.run(["cat", path], check=True).stdout

    def write(text: str) -> None:
        login.run(["cp", "/dev/stdin", path], input=text, check=True)
        login.run(["scontrol", "reconfigure"], check=True)

    write(change(before))
    try:
        yield
    finally:
        write(before)


@contextmanager
def _trusted_authority(trial: Trial) -> Iterator[None]:
    """Have the trial act by certificates of an SSH CA of its own, which the login node trusts as well."""
    trial.change("act_as: sudo", "act_as: certificate")
    run = trial.lab.login.run
    before = run(["cat", CA_FILE], check=True).stdout
    run(["cp", "/dev/stdin", CA_FILE], input=before + trial.run("ca", "init").stdout, check=True)
    try:
        yield
    finally:
        run(["cp", "/dev/stdin", CA_FILE], input=before, check=True)


def _new_key(trial: Trial, name: str) -> str:
    """Replace one of the trial's keys by a new one; return its public half."""
    public = certificates.make_ssh_key(trial.file(name), name)
    own(trial.path, BY_NAME["gateway"].uid)
    return public


def _certificate(names: list[str], ends_in: timedelta, *, key: bool = True) -> str:
    """Return a certificate that is signed by itself, and its key."""
    own_key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(own_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + ends_in)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(own_key, hashes.SHA256())
    )
    text = made.public_bytes(serialization.Encoding.PEM).decode()
    return text + (_pem(own_key) if key else "")


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*form).decode()
