"""The lab as one resource: brought up, used, taken over by another process, and taken down."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab import certificates, directory, environment, gateway, network, staging
from tests.lab.accounting import AccountingCluster, remove_cgroups
from tests.lab.accounts import BY_NAME, write_private
from tests.lab.clusters import SECOND, SLURM, Cluster
from tests.lab.daemons import Daemon
from tests.lab.nodes import LabError, Node, Process, end_processes, start_node, wait_until
from tests.lab.pbs import PbsCluster
from tests.lab.sge import SgeCluster

LAUNCHER = environment.REPOSITORY / "gateway/launcher/gateway-launcher"
_STATE_PATH = re.compile(r"/[A-Za-z0-9_./-]+")


@dataclass(frozen=True)
class Keys:
    """Where the hub's SSH keys are on this machine (inside the hub's node: under /etc/gateway/ssh)."""

    svc: Path
    tunnel: Path
    known_hosts: Path


class Lab:
    """A running lab. As a context manager it takes itself down.

    ``port`` is the gateway's HTTPS port on 127.0.0.1 of this machine, ``passwords`` the people's passwords,
    ``authority`` the certificate authority of the gateway's and the directory's certificates.
    """

    def __init__(self, state: Path, mark: str, port: int, nodes: Mapping[str, int]) -> None:
        self.state = state
        self.mark = mark
        self.port = port
        self.nodes = {name: Node(name, pid, f"{mark}-{name}") for name, pid in nodes.items()}
        self.authority = state / "ca.pem"
        self.keys = Keys(*(state / "hub/ssh" / name for name in ("svc", "tunnel", "known_hosts")))
        self.passwords: dict[str, str] = {}
        self.venv = environment.DEFAULT

    # ---- up, attach, down

    @classmethod
    def up(cls, state: Path | None = None, venv: Path | None = None) -> Self:
        """Bring a new lab up and return it; on any failure nothing of it stays.

        Args:
            state: An empty or not yet existing directory; by default a fresh one, /var/tmp/gateway-lab-*.
            venv: The lab's Python environment, made where it is missing; see environment.prepare().

        Raises:
            LabError: The machine lacks something, or a part did not start.
        """
        if lacks := environment.missing():
            raise LabError(f"the lab needs {', '.join(lacks)}")
        venv = environment.prepare(venv)
        state = (state or Path(tempfile.mkdtemp(prefix="gateway-lab-", dir="/var/tmp"))).absolute()
        if not _STATE_PATH.fullmatch(str(state)):
            raise LabError(f"{state}: letters, digits, . _ - and / only")
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(state.iterdir()):
            raise LabError(f"{state} is not empty")
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
            lab = cls(state, f"gateway-lab-{secrets.token_hex(8)}", listening.getsockname()[1], {})
            try:
                lab._start(venv, listening)
            except BaseException:
                lab.down()
                raise
        return lab

    @classmethod
    def attach(cls, state: Path) -> Self:
        """Return the lab whose state directory this is.

        Raises:
            LabError: There is none.
        """
        try:
            saved = json.loads((state / "lab.json").read_text())
        except FileNotFoundError:
            raise LabError(f"{state} is not a lab's state directory") from None
        lab = cls(state.absolute(), saved["mark"], saved["port"], saved["nodes"])
        lab.venv = Path(saved["venv"])
        lab._read_passwords()
        return lab

    def down(self, *, keep: bool = False) -> None:
        """End exactly the lab's processes and, unless ``keep``, remove its state directory. Twice is fine."""
        end_processes(self.mark)
        remove_cgroups(self.mark)
        if keep:
            return
        if self.state.exists():
            shutil.rmtree(self.state)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def __str__(self) -> str:
        return f"<Lab {self.state} {self.url}>"

    def _save(self) -> None:
        nodes = {name: node.pid for name, node in self.nodes.items()}
        saved = {"mark": self.mark, "port": self.port, "nodes": nodes, "venv": str(self.venv)}
        (self.state / "lab.json").write_text(json.dumps(saved) + "\n")

    def _read_passwords(self) -> None:
        self.passwords = json.loads((self.state / "passwords.json").read_text())

    def _start(self, venv: Path, listening: socket.socket) -> None:
        self._save()
        staging.stage(self.state)
        self._read_passwords()
        self.write_gateway_config()
        self.venv = venv
        self._start_nodes(list(staging.NODES))
        network.connect(self.nodes, SLURM)
        self.install_launcher()
        with ThreadPoolExecutor() as pool:
            starts = (self._start_cluster, self._start_directory, self._make_authority)
            parts = [pool.submit(part) for part in starts]
            self._start_forwarder(listening)
            for part in parts:
                part.result()

    def _start_nodes(self, names: Sequence[str]) -> None:
        def start(name: str) -> Node:
            role = staging.NODES.get(name, "cluster")
            return start_node(
                role, name, self.state, f"{self.mark}-{name}", self.venv, environment.REPOSITORY
            )

        with ThreadPoolExecutor() as pool:
            self.nodes |= {node.name: node for node in pool.map(start, names)}
        self._save()

    def add_cluster(self, cluster: Cluster) -> Node:
        """Start the nodes of another cluster, and sshd on its login node; return that. Twice is fine.

        The login node has what the first one has: accounts, homes, sshd's configuration, the launcher, sudo's
        rules, the gateway's SSH CA. A host key is its own, and the gateway's known_hosts has it.
        """
        if cluster.login not in self.nodes:
            staging.stage_nodes(self.state, cluster.nodes)
            self._start_nodes(cluster.nodes)
            network.connect(self.nodes, cluster)
            network.only_sshd(self.nodes[cluster.login])
            self.install_launcher(node=cluster.login)
            authority = self.login.run(["cat", staging.CA_FILE], check=True).stdout
            self._install(authority, staging.CA_FILE, "644", cluster.login)
            key = self.state / "nodes" / cluster.login / "host_key"
            certificates.make_ssh_key(key, cluster.login)
            self._install(key.read_text(), "/etc/ssh/lab_host_key", "600", cluster.login)
            self.trust_host_key()
        self.daemon(f"sshd-{cluster.login}").start()
        return self.nodes[cluster.login]

    def add_login_node(self) -> Node:
        """Start another login node of Slurm's cluster and return it. Twice is fine."""
        fresh = SECOND.login not in self.nodes
        node = self.add_cluster(SECOND)
        if fresh:
            network.join(self.nodes, SLURM, SECOND)
        self.daemon(f"munged-{node.name}").start()
        return node

    @property
    def pbs(self) -> PbsCluster:
        """PBS, on nodes of its own; its start() makes them."""
        return PbsCluster(self)

    @property
    def sge(self) -> SgeCluster:
        """Grid Engine, on nodes of its own; its start() makes them."""
        return SgeCluster(self)

    @property
    def accounting(self) -> AccountingCluster:
        """Slurm with slurmdbd, on nodes of its own; its start() makes them."""
        return AccountingCluster(self)

    def _start_cluster(self) -> None:
        for name in ("login", *staging.COMPUTE_NODES):
            self.daemon(f"munged-{name}").launch()
        self.sshd.launch()
        for name in ("login", *staging.COMPUTE_NODES):
            self.daemon(f"munged-{name}").wait()
        self.slurmctld.start()  # slurmd waits a second where the controller does not listen yet
        for name in staging.COMPUTE_NODES:
            self.daemon(f"slurmd-{name}").launch()
        self.sshd.wait()
        wait_until(self._nodes_are_idle, "both compute nodes are idle", 30)

    def _nodes_are_idle(self) -> bool:
        return self.login.run(["sinfo", "-h", "-p", "debug", "-o", "%t %D"]).stdout.strip() == "idle 2"

    def _start_directory(self) -> None:
        reader = (self.state / "hub/ldap-password").read_text().strip()
        for number, content in (
            ("0", directory.CONFIG.read_text()),
            ("1", directory.data(self.passwords, reader)),
        ):
            words = ["slapadd", "-n", number, "-F", "/var/lib/slapd.d"]
            self.hub.run(words, user="openldap", input=content, check=True)
        self.slapd.start()

    def _make_authority(self) -> None:
        """Make the gateway's SSH CA; sshd reads its public key at each login."""
        self.trust_authority(self.gateway_ca("init"))

    def _start_forwarder(self, listening: socket.socket) -> None:
        reserve = f"net.ipv4.ip_local_reserved_ports={self.port}"  # no outgoing connection may take it
        self.hub.run(["sysctl", "-qw", reserve], check=True)
        script = f"{gateway.SOURCE}/tests/lab/forward.py"
        words = [gateway.PYTHON, "-I", script, str(listening.fileno()), str(self.port)]
        self.make_daemon("forwarder", "hub", words, pass_fds=(listening.fileno(),)).launch()

    # ---- nodes

    @property
    def login(self) -> Node:
        """The login node: sshd and slurmctld."""
        return self.nodes["login"]

    @property
    def hub(self) -> Node:
        """The gateway's host; the directory is there too."""
        return self.nodes["hub"]

    def run(
        self,
        node: str,
        argv: Sequence[str],
        user: str | None = None,
        input: str | None = None,  # noqa: A002  # as subprocess.run calls it
        timeout: float = 30.0,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` on a node; see Node.run()."""
        return self.nodes[node].run(argv, user, input, timeout, **options)

    def popen(
        self, node: str, argv: Sequence[str], user: str | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start ``argv`` on a node; see Node.popen()."""
        return self.nodes[node].popen(argv, user, **options)

    # ---- daemons

    def daemon(self, name: str) -> Daemon:
        """Return a daemon by name: slurmctld, slurmd-NODE, munged-NODE, sshd, sshd-LOGIN, slapd."""
        kind, _, place = name.partition("-")
        if kind == "munged":
            node = self.nodes[place]
            words = ["/usr/sbin/munged", "--foreground"]
            socket_path = ["test", "-S", "/run/munge/munge.socket.2"]
            return self.make_daemon(
                name, place, words, user="munge", ready=lambda: not node.run(socket_path).returncode
            )
        if kind == "slurmd":
            return self.make_daemon(name, place, ["/usr/sbin/slurmd", "-D", "-N", place], port=6818)
        if name == "slurmctld":
            return self.make_daemon(name, "login", ["/usr/sbin/slurmctld", "-D"], port=6817)
        if kind == "sshd":
            words = ["/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/sshd_config"]
            return self.make_daemon(name, place or "login", words, port=22)
        if name == "slapd":
            listeners = "ldap://127.0.0.1/ ldaps://127.0.0.1/ ldapi:///"
            words = ["/usr/sbin/slapd", "-d", "stats", "-F", "/var/lib/slapd.d", "-h", listeners]
            return self.make_daemon(name, "hub", [*words, "-u", "openldap", "-g", "openldap"], port=636)
        raise LabError(f"there is no daemon {name}")

    def make_daemon(
        self, name: str, node: str, argv: Sequence[str], *, port: int | None = None, **options: Any
    ) -> Daemon:
        """Return a daemon of a node; with ``port`` it serves once something listens there. See Daemon."""
        where = self.nodes[node]
        if port is not None:
            options["ready"] = lambda: where.listens(port)
        log = self.state / "nodes" / node / "log" / f"{name}.out"
        return Daemon(name, where, argv, self.state / "pids" / name, log, **options)

    @property
    def slurmctld(self) -> Daemon:
        """The scheduler's controller, on the login node."""
        return self.daemon("slurmctld")

    @property
    def sshd(self) -> Daemon:
        """The login node's SSH daemon; its stop leaves open connections alone (end_ssh_connections)."""
        return self.daemon("sshd")

    @property
    def slapd(self) -> Daemon:
        """The directory, on the hub's node."""
        return self.daemon("slapd")

    # ---- what a test may do to the cluster

    def install_launcher(self, path: Path | None = None, *, node: str = "login") -> bool:
        """Install the launcher on a login node as its administrator would; False if there is none."""
        source = path or LAUNCHER
        if not source.exists():
            return False
        self._install(source.read_text(), staging.LAUNCHER_PATH, "755", node)
        return True

    def change_host_key(self) -> str:
        """Give the login node another host key, restart sshd, and return the key's line for known_hosts."""
        staged = self.state / "etc/cluster/ssh/lab_host_key"
        public = certificates.make_ssh_key(staged, "login")
        self._install(staged.read_text(), "/etc/ssh/lab_host_key", "600")
        self.sshd.stop()
        self.sshd.start()
        return f"login {public}"

    def _install(self, text: str, path: str, mode: str, node: str = "login") -> None:
        self.nodes[node].run(["install", "-m", mode, "/dev/stdin", path], input=text, check=True)

    def gateway_ca(self, *words: str) -> str:
        """Run ``gateway ca WORDS…`` on the hub's node and return what it prints.

        Raises:
            LabError: It failed.
        """
        done = self.gateway_command("ca", *words, "-f", gateway.CONFIG)
        if done.returncode:
            raise LabError(f"gateway ca {' '.join(words)}: {done.stderr}")
        return done.stdout

    def trust_authority(self, keys: str) -> None:
        """Install the public keys of the gateway's SSH CA on the login node."""
        self._install(keys, staging.CA_FILE, "644")

    def trust_host_key(self) -> None:
        """Write the login nodes' present host keys into the gateway's known_hosts."""
        staging.write_known_hosts(self.state)

    def end_ssh_connections(self) -> None:
        """Kill every open SSH connection's process on the login node; the listening sshd stays."""
        listening = self.sshd.pid
        for process in self.login.processes():
            if process.argv[0].startswith("sshd:") and process.pid != listening:
                process.kill()

    def unplug(self) -> None:
        """Cut the link between hub and login node: packets get lost, no connection is closed."""
        self.hub.run(["ip", "link", "set", "eth0", "down"], check=True)

    def plug(self) -> None:
        """Mend the link."""
        self.hub.run(["ip", "link", "set", "eth0", "up"], check=True)

    def requeue(self, job_id: str, timeout: float = 20.0) -> None:
        """Requeue a job and let it start at once: Slurm holds a requeued job back for two minutes."""
        self.login.run(["scontrol", "requeue", job_id], check=True)
        shown = ["squeue", "-h", "-j", job_id, "-t", "all", "-o", "%T %r"]
        wait_until(
            lambda: self.login.run(shown).stdout.strip() == "PENDING BeginTime",
            f"job {job_id} waits again",
            timeout,
            0.1,
        )
        # slurmd refuses a job with a credential of the second in which it was killed there (22.05).
        killed = int(time.time())
        wait_until(lambda: int(time.time()) > killed, "the next second", 5)
        self.login.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"], check=True)

    def clear_jobs(self, timeout: float = 30.0) -> None:
        """Cancel every job and wait until the scheduler shows none."""
        for state in ("PENDING", "RUNNING", "SUSPENDED"):
            self.login.run(["scancel", f"--state={state}"])
        wait_until(
            lambda: not self.login.run(["squeue", "-h"], check=True).stdout, "no job is left", timeout, 0.1
        )

    # ---- the gateway

    @property
    def url(self) -> str:
        """The gateway's public address, as a browser on this machine uses it."""
        return f"https://{staging.HOST}:{self.port}/"

    @property
    def gateway_log(self) -> Path:
        """What the gateway's process wrote."""
        return self.state / "hub/gateway.log"

    def write_gateway_config(self, site: str = gateway.SITE_CONFIG) -> None:
        """Write the gateway's config and the cluster's site configs; ``site`` is the one for ``sudo``."""
        uid = BY_NAME["gateway"].uid
        write_private(self.state / "hub/gateway_config.py", gateway.gateway_config(self.port), uid)
        write_private(self.state / "hub/sites/lab.yaml", site, uid)
        write_private(self.state / "hub/sites/labcert.yaml", gateway.CERTIFICATE_CONFIG, uid)

    def gateway_command(self, *words: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run ``gateway WORDS…`` on the hub's node as the gateway's user."""
        argv = [gateway.PYTHON, "-m", "gateway.cli", *words]
        return self.hub.run(argv, user="gateway", timeout=timeout, env={"PYTHONPATH": gateway.SOURCE})

    def gateway_daemon(self, *, dataplane: str = "external", wrapper: Sequence[str] = ()) -> Daemon:
        """Return the hub's process as a daemon.

        Args:
            dataplane: ``external``: HAProxy and the tunnels outlive the hub; ``own``: they end with it.
            wrapper: Words before the command, as ``("strace", "-f")``.
        """
        words = [*wrapper, gateway.PYTHON, "-m", "gateway.cli", "run", "-f", gateway.CONFIG]
        return Daemon(
            "gateway",
            self.hub,
            [*words, "--dataplane", dataplane],
            self.state / "pids/gateway",
            self.gateway_log,
            ready=lambda: gateway.answers(self.port, self.authority),
            user="gateway",
            env={"PYTHONPATH": gateway.SOURCE},
        )

    def start_gateway(
        self, *, dataplane: str = "external", wrapper: Sequence[str] = (), timeout: float = 30.0
    ) -> Daemon:
        """Start the gateway on the hub's node and wait until it answers over HTTPS.

        Raises:
            LabError: It does not after ``timeout`` seconds; the error holds the end of its log.
        """
        daemon = self.gateway_daemon(dataplane=dataplane, wrapper=wrapper)
        try:
            daemon.start(timeout)
        except LabError as error:
            log = self.gateway_log.read_text()[-4000:] if self.gateway_log.exists() else ""
            raise LabError(f"{error}\n{log}") from None
        return daemon

    def stop_gateway(self, sig: int = signal.SIGTERM) -> None:
        """End the hub's process with ``sig`` and wait for it; an external data plane stays."""
        self.gateway_daemon().stop(sig)

    def end_gateway_processes(self) -> None:
        """Kill all that runs as the gateway's user, the data plane too."""

        def gone() -> bool:
            running = self.gateway_processes()
            for process in running:
                process.kill()
            return not running

        wait_until(gone, "the gateway's processes end")

    def gateway_processes(self) -> list[Process]:
        """Return what runs as the gateway's user: the hub, HAProxy, the masters."""
        return self.hub.processes("gateway")

    def variables(self) -> dict[str, str]:
        """Return what a client needs to know: addresses, passwords and, with a gateway, carol's token."""
        known = {"GATEWAY_URL": self.url, "GATEWAY_CA": str(self.authority), "LAB_STATE": str(self.state)}
        if self.gateway_daemon().pid is not None:
            done = self.gateway_command("token", "carol", "--admin", "-f", gateway.CONFIG)
            if done.returncode:
                raise LabError(f"gateway token carol: {done.stderr}")
            known["GATEWAY_ADMIN_TOKEN"] = done.stdout.split()[-1]
        return known | {f"PASSWORD_{name}": word for name, word in self.passwords.items()}

    def write_variables(self, path: Path) -> None:
        """Write variables() as a shell can read them, for the owner only."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        write_private(new, "".join(f"{name}={value}\n" for name, value in self.variables().items()))
        new.replace(path)
