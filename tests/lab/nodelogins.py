"""The compute nodes' own sshd, which lets in who has a job there, and the site config that goes by it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import certificates, gateway
from tests.lab.accounts import BY_NAME, CLUSTER_GROUP, write_private
from tests.lab.clusters import SLURM
from tests.lab.nodes import wait_until
from tests.lab.staging import CA_FILE

if TYPE_CHECKING:
    from tests.lab.lab import Lab

NAME = "labnodes"
_KNOWN_HOSTS = "ssh/nodes"
#: What docs/site-configs.rst tells a site to write.
_SSHD = f"""\
Match User *,!root Group {CLUSTER_GROUP[0]} Address {SLURM.inside[SLURM.login]}
    TrustedUserCAKeys {CA_FILE}
    AuthenticationMethods publickey
    AllowTcpForwarding local
    AllowStreamLocalForwarding local
    PermitTTY no
Match all
"""
_PAM = """\
account required pam_nologin.so
account required pam_slurm_adopt.so
account required pam_unix.so
session required pam_unix.so
"""
SITE_CONFIG = (
    gateway.SITE_CONFIG.replace("name: lab\n", f"name: {NAME}\n", 1)
    .replace("title: The lab's cluster", "title: The lab's cluster, by its nodes' sshd", 1)
    .replace(
        "tunnel:",
        f"""\
tunnel:
  node_security: ssh
  nodes:
    known_hosts: {gateway.ETC}/{_KNOWN_HOSTS}
    source_addresses: [{SLURM.inside[SLURM.login]}]""",
        1,
    )
)


class NodeLogins:
    """sshd on the compute nodes of the lab's Slurm."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def start(self) -> None:
        """Start them, and write the site config ``labnodes``: a gateway that runs is to be started again."""
        authority = self.lab.login.run(["cat", CA_FILE], check=True).stdout
        base = self.lab.login.run(["cat", "/etc/ssh/sshd_config"], check=True).stdout.partition("Match ")[0]
        self._configure_slurm("PrologFlags=contain\n")  # pam_slurm_adopt knows jobs by their extern steps
        known = ""
        for name in SLURM.compute:
            key = self.lab.state / "nodes" / name / "host_key"
            known += f"{name} {certificates.make_ssh_key(key, name)}\n"
            for text, path, mode in (
                (authority, CA_FILE, "644"),
                (key.read_text(), "/etc/ssh/lab_host_key", "600"),
                (base + _SSHD, "/etc/ssh/sshd_config", "644"),
                (_PAM, "/etc/pam.d/sshd", "644"),
            ):
                self.lab.run(name, ["install", "-m", mode, "/dev/stdin", path], input=text, check=True)
            self.lab.daemon(f"sshd-{name}").start()
        uid = BY_NAME["gateway"].uid
        write_private(self.lab.state / "hub" / _KNOWN_HOSTS, known, uid)
        write_private(self._site_file, SITE_CONFIG, uid)

    def stop(self) -> None:
        """End them, and take the site config away."""
        self._site_file.unlink(missing_ok=True)
        for name in SLURM.compute:
            self.lab.daemon(f"sshd-{name}").stop()
            self.end_connections(name)
        self._configure_slurm("")

    def _configure_slurm(self, more: str) -> None:
        """Start Slurm anew with further lines in slurm.conf; no job may be there."""
        lab, text = self.lab, (Path(__file__).with_name("files") / "slurm.conf").read_text() + more
        daemons = [lab.slurmctld, *(lab.daemon(f"slurmd-{name}") for name in SLURM.compute)]
        for daemon in daemons:
            daemon.stop()
        for name in SLURM.nodes:
            lab.run(
                name, ["install", "-m", "644", "/dev/stdin", "/etc/slurm/slurm.conf"], input=text, check=True
            )
        for daemon in daemons:
            daemon.start()
        ready = ["sinfo", "-h", "-p", "debug", "-o", "%t %D"]
        wait_until(lambda: lab.login.run(ready).stdout.strip() == "idle 2", "the compute nodes are idle", 30)

    def end_connections(self, node: str) -> int:
        """Kill every open SSH connection's process on a node, and return how many there were."""
        listening = self.lab.daemon(f"sshd-{node}").pid
        found = [
            process
            for process in self.lab.nodes[node].processes()
            if process.argv[0].startswith("sshd:") and process.pid != listening
        ]
        for process in found:
            process.kill()
        return len(found)

    @property
    def _site_file(self) -> Path:
        return self.lab.state / "hub/sites" / f"{NAME}.yaml"
