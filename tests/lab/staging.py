"""Writes the state directory: what the nodes find under /etc, /home and their own directories."""

from __future__ import annotations

import grp
import json
import os
import pwd
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.launcher import sshd_text
from tests.lab import accounts, certificates, directory
from tests.lab.accounts import HUB, PEOPLE, SERVICES, own, write_private
from tests.lab.clusters import CLUSTERS, HUB_ADDRESS, SLURM, hosts_inside, hosts_outside

#: The nodes that are always there, and of which kind they are.
NODES = dict.fromkeys(SLURM.nodes, "cluster") | {"hub": "hub"}
COMPUTE_NODES = SLURM.compute
HOST = "gw.localhost"
#: What a login node has of the gateway.
LAUNCHER_PATH = "/usr/local/sbin/gateway-launcher"
CA_FILE = "/etc/ssh/gateway-ca.pub"
_FILES = Path(__file__).with_name("files")
_GATEWAY = accounts.BY_NAME["gateway"].uid
#: On the login node the key of the tunnel opens a session that does nothing, and forwards to compute nodes.
_FORWARD_ONLY = 'restrict,port-forwarding,{},command="/bin/true"'.format(
    ",".join(f'permitopen="{node}:*"' for cluster in CLUSTERS for node in cluster.compute)
)


def stage(state: Path) -> None:
    """Fill an empty state directory: keys, certificates, accounts, homes, and /etc of both kinds of node."""
    passwords = {person.name: secrets.token_urlsafe(12) for person in directory.entries()}
    write_private(state / "passwords.json", json.dumps(passwords, indent=1) + "\n")
    for path in ("etc/cluster", "etc/hub", "hub", "home", "srv", "tls", "pids", "nodes"):
        (state / path).mkdir(parents=True, mode=0o755)
    stage_nodes(state, list(NODES))
    _stage_services(state)
    _stage_hub(state)
    _stage_cluster(state, passwords)
    write_known_hosts(state)


def write_known_hosts(state: Path) -> None:
    """Make the gateway trust the present host keys of the login nodes that there are."""
    keys = {cluster.login: state / "nodes" / cluster.login / "host_key.pub" for cluster in CLUSTERS}
    keys[SLURM.login] = state / "etc/cluster/ssh/lab_host_key.pub"
    lines = (
        f"{name} {' '.join(key.read_text().split()[:2])}\n" for name, key in keys.items() if key.exists()
    )
    write_private(state / "hub/ssh/known_hosts", "".join(lines), _GATEWAY)


def stage_nodes(state: Path, nodes: Sequence[str]) -> None:
    """Make the directories that are these nodes' own."""
    for node in nodes:
        base = state / "nodes" / node
        for name in ("etc", "etc.work", "log", "sbin", "opt", "home", "lib", "munge", "slurm", "tmp"):
            (base / name).mkdir(parents=True)
        (base / "tmp").chmod(0o1777)
        _give(base / "munge", "munge", 0o700)
        for name in ("slurmctld", "slurmd"):
            (base / "slurm" / name).mkdir()
        _give(base / "slurm/slurmctld", "slurm", 0o700)


def _stage_services(state: Path) -> None:
    lib = state / "nodes/hub/lib"
    for name in ("ldap", "slapd.d"):
        (lib / name).mkdir()
        _give(lib / name, "openldap", 0o700)
    (lib / "gateway").mkdir(mode=0o700)
    own(lib / "gateway", _GATEWAY)
    accounts.make_homes(state / "nodes/hub/home", [a for a in HUB if not a.home])


def _stage_cluster(state: Path, passwords: Mapping[str, str]) -> None:
    etc = state / "etc/cluster"
    everybody = [*PEOPLE, *SERVICES]
    people = {person.name: passwords[person.name] for person in PEOPLE}
    accounts.write_accounts(etc, everybody, people, cluster_group=True)
    accounts.make_homes(state / "home", everybody)
    _copy(etc, "ssh", ["sshd_config"])
    with (etc / "ssh/sshd_config").open("a") as config:
        config.write(sshd_text(accounts.CLUSTER_GROUP[0], [HUB_ADDRESS], LAUNCHER_PATH, CA_FILE))
    _copy(etc, "slurm", ["slurm.conf", "gres.conf", "job_submit.lua"])
    (etc / "sudoers.d").mkdir()
    shutil.copyfile(_FILES / "sudoers", etc / "sudoers.d/lab")
    (etc / "sudoers.d/lab").chmod(0o440)
    (etc / "munge").mkdir()
    (etc / "munge/munge.key").write_bytes(secrets.token_bytes(128))
    _give(etc / "munge/munge.key", "munge", 0o400)
    _give(etc / "munge", "munge", 0o700)
    (etc / "hosts").write_text(hosts_inside())
    (etc / "resolv.conf").write_text("")
    certificates.make_ssh_key(etc / "ssh/lab_host_key", "login")
    for name, key, options in (("svc", "svc", ""), ("svc-tunnel", "tunnel", f"{_FORWARD_ONLY} ")):
        public = certificates.make_ssh_key(state / "hub/ssh" / key, f"{name}@hub")
        home = state / "home" / name
        (home / ".ssh").mkdir(mode=0o700)
        write_private(home / ".ssh/authorized_keys", f"{options}{public}\n")
        own(home, accounts.BY_NAME[name].uid)
    own(state / "hub", _GATEWAY)


def _stage_hub(state: Path) -> None:
    etc, tls, hub = state / "etc/hub", state / "tls", state / "hub"
    accounts.write_accounts(etc, HUB, {}, cluster_group=False)
    for name in ("ssh", "sites"):
        (hub / name).mkdir()
    (etc / "gateway").mkdir()
    names = [HOST, *(f"{person.name}.{HOST}" for person in PEOPLE)]
    (etc / "hosts").write_text(f"127.0.0.1 localhost {directory.NAME} {' '.join(names)}\n{hosts_outside()}")
    (etc / "resolv.conf").write_text("")
    certificates.make_authority(tls)
    shutil.copy(tls / "ca.pem", state / "ca.pem")
    shutil.copy(tls / "ca.pem", hub / "ca.pem")
    certificate, key = certificates.issue(tls, "ldap", [f"DNS:{directory.NAME}"])
    served = etc / "ldap/tls"
    served.mkdir(parents=True)
    for source, name in ((certificate, "server.pem"), (key, "server.key"), (tls / "ca.pem", "ca.pem")):
        shutil.copyfile(source, served / name)
        _give(served / name, "openldap", 0o400)
    certificate, key = certificates.issue(tls, "gateway", [f"DNS:{HOST}", f"DNS:*.{HOST}", "IP:127.0.0.1"])
    write_private(hub / "tls.pem", certificate.read_text() + key.read_text())
    write_private(hub / "ldap-password", secrets.token_urlsafe(24) + "\n")
    hub.chmod(0o700)


def _copy(etc: Path, name: str, files: Sequence[str]) -> None:
    (etc / name).mkdir()
    for file in files:
        shutil.copyfile(_FILES / file, etc / name / file)


def _give(path: Path, user: str, mode: int) -> None:
    group = grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_gid
    os.chown(path, pwd.getpwnam(user).pw_uid, group)
    path.chmod(mode)
