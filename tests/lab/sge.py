"""Grid Engine in the lab: its own two nodes, its cell made from files before the first start."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from tests.lab import gateway
from tests.lab.clusters import SGE
from tests.lab.daemons import Daemon
from tests.lab.nodes import PATH, LabError, wait_until
from tests.lab.ondemand import OnDemand

#: The queues, and the longest walltime of each (h_rt).
QUEUES = {"long.q": "2:0:0", "short.q": "0:10:0"}
QMASTER_PORT, EXECD_PORT = 6444, 6445

_PARTITIONS = """\
partitions:
  - name: long.q
    title: Long (two hours at most)
    max_walltime: 2h
    default_walltime: 30m
    max_cores: 4
    max_memory: 2000M
    gpus: {gpu: 2}
    default: true
  - name: short.q
    title: Short (ten minutes at most)
    max_walltime: 10m
    default_walltime: 5m
    max_cores: 4
    max_memory: 2000M
"""
SITE_CONFIG = gateway.site_config(
    SGE,
    "The lab's Grid Engine",
    "sge",
    "The lab's Grid Engine; the limits are those of its queues.",
    form=_PARTITIONS,
)
_FILES = Path(__file__).with_name("files") / "sge"


class SgeCluster(OnDemand):
    """Grid Engine: qmaster on ``sgelogin``, execd on ``sgen1``; both are administrative and submit hosts."""

    cluster = SGE
    site_config = SITE_CONFIG

    def start(self) -> None:
        """Start the nodes and the daemons; what runs is left alone.

        It writes the site config ``labsge`` too: a gateway that runs has to be started again for it.
        """
        self.lab.add_cluster(SGE)
        share = self.lab.state / "srv/sge"
        if not share.exists():
            self._make_cell(share)
        self.qmaster.start()
        if not self.login.run(["qconf", "-sql"]).stdout:
            self._configure()
        self.execd.start()
        wait_until(self._node_reports, "sgen1 reports its load", 20, 0.05)
        self.write_site_config()

    def restart(self) -> None:
        """Start a qmaster that was stopped, and execd anew: it would look for it after 30 s only."""
        self.qmaster.start()
        self.execd.stop()
        self.execd.start()

    def stop(self) -> None:
        """End jobs and daemons, and take the site config away; start() brings all back."""
        self.qmaster.thaw()
        self.clear_jobs()
        self.execd.stop()
        self.qmaster.stop(signal.SIGKILL)  # asked to end, it takes seven seconds
        self.remove_site_config()

    def _make_cell(self, share: Path) -> None:
        for name in ("default", "spool"):
            (share / name).mkdir(parents=True)
        shutil.copytree(_FILES, share / "files")
        # execd kills what bears a group id of its job, wherever it is: labs see each other's processes
        first = 1_000_000 + 100 * self.lab.port
        configuration = share / "files/configuration"
        configuration.write_text(configuration.read_text().replace("GIDS", f"{first}-{first + 99}"))
        for node in (self.login, self.node):
            node.run(["mount", "--bind", "/srv/sge/default", "/var/lib/gridengine/default"], check=True)
            node.run(["mount", "--bind", "/srv/sge/spool", "/var/spool/gridengine"], check=True)
        self.login.run(["sh", "/srv/sge/files/cell.sh", "/srv/sge/files"], check=True)

    def _configure(self) -> None:
        """Say what a qmaster takes only while it runs: the scheduler's settings and the queues."""
        self.login.run(["qconf", "-Msconf", "/srv/sge/files/scheduler"], check=True)
        template = (_FILES / "queue").read_text()
        for name, limit in QUEUES.items():
            path = self.lab.state / "srv/sge/files" / name
            path.write_text(template.replace("QUEUE", name).replace("LIMIT", limit))
            self._add_queue(name)

    def _add_queue(self, name: str) -> None:
        """Add a queue. qconf asks again where the answer is late, and is told then that there is one."""
        done = self.login.run(["qconf", "-Aq", f"/srv/sge/files/{name}"])
        if done.returncode and "already exists" not in done.stdout + done.stderr:
            raise LabError(f"the queue {name}: {done.stdout}{done.stderr}")

    def _node_reports(self) -> bool:
        """Return whether the queues have their slots: the node has been heard."""
        shown = self.login.run(["qstat", "-f", "-q", "long.q"]).stdout
        return "long.q@sgen1" in shown and "-NA-" not in shown

    @property
    def qmaster(self) -> Daemon:
        """The scheduler."""
        return self._daemon("sge_qmaster", SGE.login, QMASTER_PORT)

    @property
    def execd(self) -> Daemon:
        """What starts jobs on the compute node."""
        return self._daemon("sge_execd", SGE.compute[0], EXECD_PORT)

    def _daemon(self, name: str, node: str, port: int) -> Daemon:
        # execd's environment is every job's; SGE_ND keeps both in the foreground
        words = ["env", "-i", f"PATH={PATH}", "SGE_ND=1", f"/usr/sbin/{name}"]
        return self.lab.make_daemon(name, node, words, port=port)

    def clear_jobs(self, timeout: float = 30.0) -> None:
        """Delete every job and wait until the scheduler shows none."""

        def cleared() -> bool:
            self.login.run(["qdel", "-f", "-u", "*"])
            return not self.login.run(["qstat", "-u", "*"], check=True).stdout

        wait_until(cleared, "no job is left", timeout, 0.2)
