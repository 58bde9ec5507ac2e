"""Slurm with its accounting in the lab: slurmdbd over a MariaDB, on nodes of their own."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tests.lab import gateway
from tests.lab.clusters import ACCOUNTING
from tests.lab.daemons import Daemon
from tests.lab.nodes import wait_until
from tests.lab.ondemand import OnDemand

SITE_CONFIG = gateway.site_config(
    ACCOUNTING,
    "The lab's Slurm with accounting",
    "slurm",
    "The lab's Slurm with accounting: partitions, accounts and QOS are the scheduler's own.",
)
_CGROUPS = Path("/sys/fs/cgroup/memory")
_FILES = Path(__file__).with_name("files")
#: MariaDB's own tables: slurmdbd's stored procedures are kept there.
_SYSTEM_TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")
#: slurmdbd comes by the socket that MariaDB's library takes by itself, and needs no account.
_DATABASE = (
    "/usr/sbin/mariadbd",
    "--no-defaults",
    "--datadir=/run/mysqld/data",  # in memory
    "--socket=/run/mysqld/mysqld.sock",
    "--skip-networking",
    "--skip-grant-tables",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=0",
)


class AccountingCluster(OnDemand):
    """Slurm: slurmctld, slurmdbd and MariaDB on ``acctlogin``, slurmd on three nodes, each a partition."""

    cluster = ACCOUNTING
    site_config = SITE_CONFIG

    @property
    def has_cgroups(self) -> bool:
        """Whether the kernel limits what memory jobs have: then Slurm can say that one ran out of it.

        That needs cgroups of version 1 that the lab may make. Without them Slurm looks itself
        (OverMemoryKill): a job that has too much has FAILED by signal 9, to squeue and sacct alike.
        """
        return self._cgroup.exists()

    def start(self) -> None:
        """Start the nodes and the daemons; what runs is left alone.

        It writes the site config ``labacct`` too: a gateway that runs has to be started again for it.
        """
        self.lab.add_cluster(ACCOUNTING)
        if self.login.run(["test", "-e", "/run/mysqld/data"]).returncode:
            self._configure()
        for name in ACCOUNTING.nodes:
            self.lab.daemon(f"munged-{name}").launch()
        self.database.start()
        for name in ACCOUNTING.nodes:
            self.lab.daemon(f"munged-{name}").wait()
        self.slurmdbd.start()
        if not self.sacctmgr("-n", "show", "cluster"):
            self.sacctmgr("add", "qos", "cheap,urgent", "set", "preemptmode=cancel")
            self.sacctmgr("add", "qos", "again", "set", "preemptmode=requeue")
            self.sacctmgr("modify", "qos", "urgent", "set", "preempt=cheap,again")
            self.sacctmgr("load", "file=/etc/slurm/accounts")
            self.sacctmgr("add", "cluster", "elsewhere")
            self.sacctmgr("add", "account", "theirs", "cluster=elsewhere")
            self.sacctmgr("add", "user", "alice", "account=theirs", "cluster=elsewhere")
        self.slurmctld.start()
        for name in ACCOUNTING.compute:
            self.slurmd(name).start()
        wait_until(self._is_ready, "the compute nodes are idle", 30)
        self.write_site_config()

    def stop(self) -> None:
        """End jobs and daemons, and take the site config away; start() brings all back."""
        self.clear_jobs()
        nodes = (self.slurmd(name) for name in ACCOUNTING.compute)
        for daemon in (*nodes, self.slurmctld, self.slurmdbd, self.database):
            daemon.stop()
        for name in ACCOUNTING.nodes:
            self.lab.daemon(f"munged-{name}").stop()
        self.remove_site_config()

    def _configure(self) -> None:
        """Write what this Slurm has otherwise than the lab's other one, and a place for the database."""
        with suppress(OSError):
            self._cgroup.mkdir()
        limits = "TaskPlugin=task/cgroup" if self.has_cgroups else "JobAcctGatherParams=OverMemoryKill"
        own = f"{(_FILES / 'accounting/slurm.conf').read_text()}{limits}\n"
        for name in ACCOUNTING.nodes:
            self._install(name, "slurm.conf", changed((_FILES / "slurm.conf").read_text(), own))
            self._install(name, "cgroup.conf", (_FILES / "accounting/cgroup.conf").read_text())
        for name in ACCOUNTING.compute if self.has_cgroups else ():
            (self._cgroup / name).mkdir()
            self.lab.run(name, ["mount", "--bind", str(self._cgroup / name), str(_CGROUPS)], check=True)
        login = self.login
        login.run(["install", "-d", "-o", "slurm", "/run/mysqld", "/run/mysqld/data"], check=True)
        tables = f"create database mysql;\nuse mysql;\n{_SYSTEM_TABLES.read_text()}"
        login.run([*_DATABASE, "--bootstrap"], user="slurm", input=tables, check=True)
        self._install(login.name, "accounts", (_FILES / "accounting/accounts").read_text())
        text = (_FILES / "accounting/slurmdbd.conf").read_text()
        self._install(login.name, "slurmdbd.conf", text, "-o", "slurm", "-m", "600")

    def _install(self, node: str, name: str, text: str, *options: str) -> None:
        words = ["install", *(options or ("-m", "644")), "/dev/stdin", f"/etc/slurm/{name}"]
        self.lab.run(node, words, input=text, check=True)

    @property
    def _cgroup(self) -> Path:
        """This lab's own part of the machine's memory: its nodes see nothing above."""
        return _CGROUPS / self.lab.mark

    def _is_ready(self) -> bool:
        return self.login.run(["sinfo", "-h", "-o", "%t %D"]).stdout.strip() == "idle 3"

    @property
    def database(self) -> Daemon:
        """What slurmdbd keeps its records in."""
        answers = ["test", "-S", "/run/mysqld/mysqld.sock"]
        login = self.login
        return self.lab.make_daemon(
            "mariadbd",
            login.name,
            _DATABASE,
            user="slurm",
            ready=lambda: not login.run(answers).returncode,
        )

    @property
    def slurmdbd(self) -> Daemon:
        """The accounting."""
        return self.lab.make_daemon(
            "slurmdbd", self.login.name, ["/usr/sbin/slurmdbd", "-D"], user="slurm", port=6819
        )

    @property
    def slurmctld(self) -> Daemon:
        """The scheduler's controller."""
        words = ["/usr/sbin/slurmctld", "-D"]
        return self.lab.make_daemon("slurmctld-accounting", self.login.name, words, port=6817)

    def slurmd(self, node: str) -> Daemon:
        """What starts jobs on a node."""
        return self.lab.daemon(f"slurmd-{node}")

    def sacctmgr(self, *words: str) -> str:
        """Run it as an administrator, and return what it prints."""
        return self.login.run(["sacctmgr", "-i", *words], check=True).stdout

    def clear_jobs(self, timeout: float = 30.0) -> None:
        """Cancel every job and wait until the scheduler shows none."""
        for state in ("PENDING", "RUNNING", "SUSPENDED"):
            self.login.run(["scancel", f"--state={state}"])
        wait_until(
            lambda: not self.login.run(["squeue", "-h"], check=True).stdout, "no job is left", timeout, 0.1
        )


def changed(text: str, own: str) -> str:
    """Return a slurm.conf with other lines for the settings that they name; an empty one is taken out."""
    settings = {line.partition("=")[0] for line in own.splitlines()}
    kept = (line for line in text.splitlines() if line.partition("=")[0] not in settings)
    new = (line for line in own.splitlines() if not line.endswith("="))
    return "".join(f"{line}\n" for line in (*kept, *new))


def remove_cgroups(mark: str) -> None:
    """Remove what a lab of this mark has made of cgroups; its processes have been killed."""
    tree = _CGROUPS / mark

    def gone() -> bool:
        with suppress(OSError):  # one whose last process has not been waited for yet
            for path in sorted(tree.rglob("*/"), reverse=True):
                path.rmdir()
            tree.rmdir()
        return not tree.exists()

    wait_until(gone, f"{tree} is removed")
