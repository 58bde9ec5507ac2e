"""PBS in the lab: the programs of ``fakepbs``, which behave as OpenPBS was seen to, on their own nodes."""

from __future__ import annotations

import compileall
import json
import shutil
from pathlib import Path
from typing import Any

from tests.lab import gateway
from tests.lab.clusters import PBS
from tests.lab.daemons import Daemon
from tests.lab.nodes import wait_until
from tests.lab.ondemand import OnDemand

PROGRAMS = ("qsub", "qstat", "qdel", "qalter", "qselect", "pbsnodes", "pbs_rstat")
#: Where the cluster's nodes find it.
PREFIX = "/srv/pbs"
_SOURCE = Path(__file__).with_name("fakepbs")
_NODES = {PBS.compute[0]: {"ncpus": "4", "mem": "4194304kb", "ngpus": "2"}}
_QUEUES = {
    "workq": {"queue_type": "Execution", "resources_max.walltime": "02:00:00"},
    "short": {"queue_type": "Execution", "resources_max.walltime": "00:10:00"},
    "gpu": {"queue_type": "Execution", "acl_user_enable": "True", "acl_users": "bob,carol"},
}

_PARTITIONS = """\
partitions:
  - name: workq
    title: Work (two hours at most)
    max_walltime: 2h
    default_walltime: 30m
    max_cores: 4
    max_memory: 2000M
    gpus: {gpu: 2}
    default: true
  - name: short
    title: Short (ten minutes at most)
    max_walltime: 10m
    default_walltime: 5m
    max_cores: 4
    max_memory: 2000M
"""
SITE_CONFIG = gateway.site_config(
    PBS,
    "The lab's PBS",
    "pbs",
    "The lab's PBS; the limits are those of its queues.",
    more=f"  bin: {PREFIX}/bin\n",
    form=_PARTITIONS,
)


def install(prefix: Path, *, seen_as: str | None = None, server: str, host: str) -> Path:
    """Install the programs under ``prefix`` and return the directory that they are in.

    Args:
        prefix: An existing directory that all users can reach.
        seen_as: How those who run the programs see it.
        server: The server's name, the end of every job's id.
        host: The submit host's full name.
    """
    place = seen_as or str(prefix)
    for name in ("bin", "lib", "etc", "home"):
        (prefix / name).mkdir()
        (prefix / name).chmod(0o755)
    shutil.copytree(_SOURCE, prefix / "lib/fakepbs", ignore=shutil.ignore_patterns("__pycache__"))
    (prefix / "lib/fakepbs/fakepbs").rename(prefix / "bin/fakepbs")
    compileall.compile_dir(prefix / "lib", quiet=2)
    for path in prefix.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
    for name in PROGRAMS:
        (prefix / "bin" / name).symlink_to("fakepbs")
    (prefix / "etc/pbs.conf").write_text(f"PBS_HOME={place}/home\nPBS_SERVER={server}\nPBS_HOST={host}\n")
    return prefix / "bin"


class PbsCluster(OnDemand):
    """PBS: the server on ``pbslogin``, what runs jobs on ``pbsn1``."""

    cluster = PBS
    site_config = SITE_CONFIG

    def start(self) -> None:
        """Start the nodes and the daemons; what runs is left alone.

        The first start writes the site config ``labpbs`` too: a gateway that runs has to be started again.
        """
        self.lab.add_cluster(PBS)
        prefix = self.lab.state / "srv/pbs"
        fresh = not prefix.exists()
        if fresh:
            prefix.mkdir(mode=0o755)
            install(prefix, seen_as=PREFIX, server=PBS.login, host=PBS.login)
        self.server.start()
        if fresh:
            self.control(nodes=_NODES, queues=_QUEUES)
        self.mom.start()
        self.write_site_config()

    def stop(self) -> None:
        """End jobs and daemons, and take the faults and the site config away; start() brings all back."""
        self.server.thaw()
        self.control(history=True, query_other_jobs=True, lose_submits=False)
        self.control(nodes=_NODES, queues=_QUEUES, reservations=[])
        self.clear_jobs()
        self.mom.stop()
        self.server.stop()
        self.remove_site_config()

    @property
    def server(self) -> Daemon:
        """The scheduler: stopped, nobody answers; frozen, the programs wait for ever."""
        answers = [f"{PREFIX}/bin/qselect"]
        return self.lab.make_daemon(
            "pbs_server",
            PBS.login,
            [f"{PREFIX}/bin/fakepbs", "server"],
            ready=lambda: not self.login.run(answers).returncode,
        )

    @property
    def mom(self) -> Daemon:
        """What starts jobs on the compute node."""
        node = PBS.compute[0]
        return self.lab.make_daemon("pbs_mom", node, [f"{PREFIX}/bin/fakepbs", "mom", node])

    def control(self, **settings: Any) -> None:
        """Change how the server behaves: see fakepbs.server.SETTINGS."""
        words = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
        self.login.run([f"{PREFIX}/bin/fakepbs", "control", *words], check=True)

    def run(self, program: str, *words: str, user: str | None = None) -> str:
        """Run one of PBS's programs on the login node and return what it prints."""
        return self.login.run([f"{PREFIX}/bin/{program}", *words], user, check=True).stdout

    def clear_jobs(self, timeout: float = 30.0) -> None:
        """Delete every job and wait until the scheduler shows none."""

        def cleared() -> bool:
            left = self.run("qselect").split()
            if left:
                self.login.run([f"{PREFIX}/bin/qdel", *left])
            return not left

        wait_until(cleared, "no job is left", timeout, 0.2)
