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

NODES = {"login": "cluster", "cn1": "cluster", "cn2": "cluster", "hub": "hub"}
COMPUTE_NODES = ("cn1", "cn2")
HOST = "gw.localhost"
#: The hub, as the login node sees it, and what the login node has of the gateway.
HUB_ADDRESS = "10.77.0.1"
LAUNCHER_PATH = "/usr/local/sbin/gateway-launcher"
CA_FILE = "/etc/ssh/gateway-ca.pub"
_FILES = Path(__file__).with_name("files")
_GATEWAY = accounts.BY_NAME["gateway"].uid
_CLUSTER_HOSTS = """\
127.0.0.1 localhost
10.78.0.1 login
10.78.0.11 cn1
10.78.0.12 cn2
"""
#: On the login node the key of the tunnel opens a session that does nothing, and forwards to compute nodes.
_FORWARD_ONLY = 'restrict,port-forwarding,{},command="/bin/true"'.format(
    ",".join(f'permitopen="{node}:*"' for node in COMPUTE_NODES)
)


def stage(state: Path) -> None:
    """Fill an empty state directory: keys, certificates, accounts, homes, and /etc of both kinds of node."""
    passwords = {person.name: secrets.token_urlsafe(12) for person in directory.entries()}
    write_private(state / "passwords.json", json.dumps(passwords, indent=1) + "\n")
    for path in ("etc/cluster", "etc/hub", "hub", "home", "tls", "pids", "nodes"):
        (state / path).mkdir(parents=True, mode=0o755)
    _stage_nodes(state)
    _stage_hub(state)
    _stage_cluster(state, passwords)
    write_known_hosts(state)


def write_known_hosts(state: Path) -> None:
    """Make the gateway trust the login node's present host key."""
    key = (state / "etc/cluster/ssh/lab_host_key.pub").read_text().split()[:2]
    path = state / "hub/ssh/known_hosts"
    write_private(path, f"login {' '.join(key)}\n", _GATEWAY)


def _stage_nodes(state: Path) -> None:
    for node in NODES:
        base = state / "nodes" / node
        for name in ("etc", "etc.work", "log", "sbin", "opt", "home", "lib", "munge", "slurm", "tmp"):
            (base / name).mkdir(parents=True)
        (base / "tmp").chmod(0o1777)
        _give(base / "munge", "munge", 0o700)
        for name in ("slurmctld", "slurmd"):
            (base / "slurm" / name).mkdir()
        _give(base / "slurm/slurmctld", "slurm", 0o700)
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
    (etc / "hosts").write_text(_CLUSTER_HOSTS)
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
    (etc / "hosts").write_text(f"127.0.0.1 localhost {directory.NAME} {' '.join(names)}\n10.77.0.2 login\n")
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
