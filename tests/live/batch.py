"""The lab's three clusters by what all of them have: a scheduler and nodes that can fail, jobs, holds."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from tests.lab import Lab, gateway, pbs, sge
from tests.lab.daemons import Daemon
from tests.lab.nodes import LabError, Node, wait_until

#: A small application, in a directory that all nodes share; it may be started again after a requeue.
SMALL = "small"
_PROGRAM = "/srv/stand-in"
_APPLICATION = f"""\
  - name: {SMALL}
    title: A small application
    command: [{_PROGRAM}]
    requeue: true
"""
#: The SSH sessions of the account that asks and submits, not those of the tunnels.
_SESSION = re.compile(r"sshd: svc( |@|$)")


class Batch:
    """A cluster of the lab. ``programs`` submit and list, ``closing`` is a partition that can be closed."""

    name: ClassVar[str]
    partition: ClassVar[str]
    closing: ClassVar[str]
    programs: ClassVar[tuple[str, str]]
    #: What says on a page that a job is on hold.
    held: ClassVar[str] = r"\bon hold\b|\bheld\b"

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def prepare(self) -> None:
        """Start it, with the small application."""
        raise NotImplementedError

    def restore(self) -> None:
        """End its jobs, and leave it as it was."""
        raise NotImplementedError

    @property
    def login(self) -> Node:
        raise NotImplementedError

    @property
    def scheduler(self) -> Daemon:
        raise NotImplementedError

    @property
    def sshd(self) -> Daemon:
        """The login node's sshd."""
        return self.lab.daemon("sshd" if self.login.name == "login" else f"sshd-{self.login.name}")

    def node_daemon(self, node: str) -> Daemon:
        """What starts jobs on a node."""
        raise NotImplementedError

    def stop(self) -> None:
        """Kill the scheduler."""
        self.scheduler.stop(signal.SIGKILL)

    def start(self) -> None:
        """Start the scheduler again."""
        self.scheduler.start()

    def taken(self) -> set[str]:
        """Return the ids of all jobs that the scheduler has ever taken."""
        raise NotImplementedError

    def run(self, *words: str) -> str:
        """Run one of its programs on the login node, as an administrator."""
        return self.login.run(words, check=True).stdout

    def close(self) -> None:
        """Have the partition ``closing`` take jobs and start none."""
        raise NotImplementedError

    def open(self) -> None:
        """Let the partition ``closing`` start jobs."""
        raise NotImplementedError

    def hold(self, job: str) -> None:
        raise NotImplementedError

    def release(self, job: str) -> None:
        raise NotImplementedError

    def busy_with(self, program: str) -> bool:
        """Return whether one of ``programs`` runs on the login node."""
        return any(program in map(_name, process.argv[:3]) for process in self.login.processes())

    def cut_sessions(self) -> None:
        """Kill the login node's sshd, and with it the sessions of the service account; tunnels stay."""
        self.sshd.stop(signal.SIGKILL)
        for process in self.login.processes():
            if _SESSION.match(process.argv[0]):
                process.kill()

    def cut_node(self, node: str) -> None:
        """Take a node off: what starts jobs there is killed, and nobody reaches it. Its jobs go on."""
        self.node_daemon(node).stop(signal.SIGKILL)
        self.lab.run(node, ["ip", "link", "set", "eth0", "down"], check=True)

    def join_node(self, node: str) -> None:
        """Bring the node back."""
        self.lab.run(node, ["ip", "link", "set", "eth0", "up"], check=True)
        self.node_daemon(node).start()

    def __str__(self) -> str:
        return self.name


def _name(word: str) -> str:
    return Path(word).name


class SlurmBatch(Batch):
    """The lab's Slurm; it is always there."""

    name, partition, closing = "lab", "debug", "short"
    programs = ("sbatch", "squeue")

    def prepare(self) -> None:
        self.lab.write_gateway_config(gateway.SITE_CONFIG + _APPLICATION)

    def restore(self) -> None:
        self.lab.clear_jobs()
        self.lab.write_gateway_config()

    @property
    def login(self) -> Node:
        return self.lab.login

    @property
    def scheduler(self) -> Daemon:
        return self.lab.slurmctld

    def node_daemon(self, node: str) -> Daemon:
        return self.lab.daemon(f"slurmd-{node}")

    def taken(self) -> set[str]:
        log = self.lab.state / "nodes/login/log/slurmctld.log"
        found = re.findall(r"_slurm_rpc_submit_batch_job: JobId=(\d+)", log.read_text(errors="replace"))
        return set(found)

    def close(self) -> None:
        self.run("scontrol", "update", f"PartitionName={self.closing}", "State=DOWN")

    def open(self) -> None:
        self.run("scontrol", "update", f"PartitionName={self.closing}", "State=UP")

    def hold(self, job: str) -> None:
        self.run("scontrol", "hold", job)

    def release(self, job: str) -> None:
        self.run("scontrol", "release", job)
        self.start_now(job)

    def start_now(self, job: str) -> None:
        """Let a job start that was requeued: Slurm holds it back for two minutes."""
        second = int(time.time())  # slurmd refuses a job's credential of the second in which it was killed
        wait_until(lambda: int(time.time()) > second, "the next second", 5)
        with suppress(LabError):  # it has started by itself
            self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def set_node(self, node: str, state: str) -> None:
        """Declare what a node is: DRAIN, DOWN, RESUME."""
        self.run("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")

    @contextmanager
    def drained(self, node: str) -> Iterator[None]:
        """Have a node start nothing new."""
        self.set_node(node, "DRAIN")
        try:
            yield
        finally:
            self.set_node(node, "RESUME")

    def is_up(self, node: str) -> bool:
        """Return whether a node may start jobs."""
        return self.run("sinfo", "-h", "-n", node, "-o", "%t").split()[0] in ("idle", "mix", "alloc")

    @contextmanager
    def configured(self, setting: str) -> Iterator[None]:
        """Have the scheduler run with another line in its slurm.conf."""
        conf, kept = "/etc/slurm/slurm.conf", "/etc/slurm/kept.conf"
        key = setting.partition("=")[0]
        change = f"cp {conf} {kept} && sed -i '/^{key}=/d' {conf} && echo {setting} >>{conf}"
        self.run("sh", "-c", f"{change} && scontrol reconfigure")
        try:
            yield
        finally:
            self.run("sh", "-c", f"cat {kept} >{conf} && rm {kept} && scontrol reconfigure")

    def requeue_held(self, job: str) -> None:
        """Have a running job go back to the queue, where it stays."""
        self.run("scontrol", "requeuehold", job)


class SgeBatch(Batch):
    """The lab's Grid Engine."""

    name, partition, closing = "labsge", "long.q", "short.q"
    programs = ("qsub", "qstat")

    def prepare(self) -> None:
        self.lab.sge.start()
        self.lab.sge.write_site_config(sge.SITE_CONFIG + _APPLICATION)

    def restore(self) -> None:
        self.lab.sge.stop()

    @property
    def login(self) -> Node:
        return self.lab.sge.login

    @property
    def scheduler(self) -> Daemon:
        return self.lab.sge.qmaster

    def node_daemon(self, node: str) -> Daemon:
        return self.lab.sge.execd

    def start(self) -> None:
        self.lab.sge.restart()

    def taken(self) -> set[str]:
        past = self.login.run(["qacct", "-o", "alice", "-j"]).stdout  # fails where no job has ended so far
        present = self.run("qstat", "-u", "*").splitlines()[2:]
        return {*re.findall(r"^jobnumber +(\d+)", past, re.M), *(line.split()[0] for line in present)}

    def close(self) -> None:
        self.run("qmod", "-d", self.closing)

    def open(self) -> None:
        self.run("qmod", "-e", self.closing)

    def hold(self, job: str) -> None:
        self.run("qhold", job)

    def release(self, job: str) -> None:
        self.run("qrls", job)

    def requeue_held(self, job: str) -> None:
        """Have a running job go back to the queue, where it stays."""
        self.run("qhold", job)
        self.run("qmod", "-rj", job)


class PbsBatch(Batch):
    """The lab's PBS."""

    name, partition, closing = "labpbs", "workq", "short"
    programs = ("qsub", "qstat")

    def prepare(self) -> None:
        self.lab.pbs.start()
        self.lab.pbs.write_site_config(pbs.SITE_CONFIG + _APPLICATION)

    def restore(self) -> None:
        self.lab.pbs.stop()

    @property
    def login(self) -> Node:
        return self.lab.pbs.login

    @property
    def scheduler(self) -> Daemon:
        return self.lab.pbs.server

    def node_daemon(self, node: str) -> Daemon:
        return self.lab.pbs.mom

    def taken(self) -> set[str]:
        return set(self.lab.pbs.run("qselect", "-x").split())

    def cut_node(self, node: str) -> None:
        # What runs jobs stays: it would not know them again. The server does not hear it.
        self.lab.pbs.control(down=[node])
        self.lab.run(node, ["ip", "link", "set", "eth0", "down"], check=True)

    def join_node(self, node: str) -> None:
        self.lab.run(node, ["ip", "link", "set", "eth0", "up"], check=True)
        self.lab.pbs.control(down=[])

    def close(self) -> None:
        self.lab.pbs.control(scheduling=False)

    def open(self) -> None:
        self.lab.pbs.control(scheduling=True)

    def hold(self, job: str) -> None:
        self._forge(job, "job_state=H", "substate=20", "Hold_Types=u")

    def release(self, job: str) -> None:
        self._forge(job, "job_state=Q", "substate=10", "Hold_Types=n")
        self.lab.pbs.control(scheduling=True)

    def _forge(self, job: str, *attributes: str) -> None:
        self.run(f"{pbs.PREFIX}/bin/fakepbs", "forge", job, *attributes)


def install_small(lab: Lab) -> None:
    """Install the small application for all nodes."""
    path = lab.state / "srv" / Path(_PROGRAM).name
    path.write_text(Path(__file__).with_name("standin.py").read_text())
    path.chmod(0o755)


def every(lab: Lab) -> Sequence[Batch]:
    """Return all three."""
    return (SlurmBatch(lab), SgeBatch(lab), PbsBatch(lab))
