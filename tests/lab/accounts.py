"""The lab's people and service accounts, and the files under /etc and /home that make them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CLUSTER_GROUP = ("cluster", 10100)


@dataclass(frozen=True)
class Account:
    """A POSIX account; ``cluster`` says whether it is a member of the group whose members may run jobs."""

    name: str
    uid: int
    full_name: str
    shell: str = "/bin/bash"
    cluster: bool = False
    home: str = ""

    @property
    def directory(self) -> str:
        """The home directory."""
        return self.home or f"/home/{self.name}"


PEOPLE = (
    Account("alice", 10001, "Alice Adams", cluster=True),
    Account("bob", 10002, "Bob Brown", cluster=True),
    Account("carol", 10003, "Carol Clark", cluster=True),
    Account("tess", 10004, "Tess Tcsh", "/usr/bin/tcsh", cluster=True),
    Account("finn", 10005, "Finn Fish", "/usr/bin/fish", cluster=True),
    Account("nora", 10006, "Nora Noise", cluster=True),
    Account("rory", 10007, "Rory Readonly", cluster=True),
    Account("dave", 10008, "Dave Outside"),
)
SERVICES = (
    Account("svc-tunnel", 10098, "forwards to the compute nodes", "/bin/sh"),
    Account("svc", 10099, "acts for the gateway on the login node", "/bin/sh"),
)
HUB = (
    Account("gateway", 10050, "the gateway", home="/var/lib/gateway"),
    Account("mallory", 10060, "another user of the gateway's host"),
)
BY_NAME: Mapping[str, Account] = {account.name: account for account in (*PEOPLE, *SERVICES, *HUB)}

#: nora's shell talks and sleeps in every mode, as some real ones do.
NOISY_BASHRC = """\
echo "Welcome to the lab, $USER!"
echo "module: command not found" >&2
sleep 2
"""


def write_accounts(
    etc: Path, accounts: Sequence[Account], passwords: Mapping[str, str], *, cluster_group: bool
) -> None:
    """Write passwd, shadow and group into ``etc``: the machine's own lines and the lab's."""
    for name in ("passwd", "group", "shadow", "gshadow"):
        shutil.copy2(f"/etc/{name}", etc / name)
        shadow = name.endswith("shadow")
        os.chown(etc / name, 0, (etc / name).stat().st_gid if shadow else 0)
    names = {account.name for account in accounts} | ({CLUSTER_GROUP[0]} if cluster_group else set())
    for name in ("passwd", "group", "shadow", "gshadow"):
        kept = [line for line in (etc / name).read_text().splitlines() if line.split(":")[0] not in names]
        (etc / name).write_text("".join(f"{line}\n" for line in kept))
    hashes = _crypt(
        {account.name: passwords[account.name] for account in accounts if account.name in passwords}
    )
    with (etc / "passwd").open("a") as passwd, (etc / "shadow").open("a") as shadows:
        for a in accounts:
            passwd.write(f"{a.name}:x:{a.uid}:{a.uid}:{a.full_name}:{a.directory}:{a.shell}\n")
            shadows.write(f"{a.name}:{hashes.get(a.name, '*')}:19000:0:99999:7:::\n")
    with (etc / "group").open("a") as group:
        group.writelines(f"{a.name}:x:{a.uid}:\n" for a in accounts)
        if cluster_group:
            members = ",".join(a.name for a in accounts if a.cluster)
            group.write(f"{CLUSTER_GROUP[0]}:x:{CLUSTER_GROUP[1]}:{members}\n")


def make_homes(root: Path, accounts: Iterable[Account]) -> None:
    """Make the home directories (0700) of the accounts that live under /home."""
    for account in accounts:
        home = root / account.name
        home.mkdir(mode=0o700)
        if account.name == "nora":
            (home / ".bashrc").write_text(NOISY_BASHRC)
            (home / ".bash_profile").write_text(". ~/.bashrc\n")
        own(home, account.uid)


def own(path: Path, uid: int, gid: int | None = None) -> None:
    """Give ``path`` and all below it to ``uid``."""
    gid = uid if gid is None else gid
    os.chown(path, uid, gid, follow_symlinks=False)
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            os.chown(Path(directory, name), uid, gid, follow_symlinks=False)


def write_private(path: Path, text: str, uid: int = 0) -> None:
    """Write a file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchown(descriptor, uid, uid)
        os.fchmod(descriptor, 0o600)
        file.write(text)


def _crypt(passwords: Mapping[str, str]) -> dict[str, str]:
    """Return SHA-512 crypt hashes; the passwords go by standard input."""
    if not passwords:
        return {}
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"],
        input="\n".join(passwords.values()),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout.split()
    return dict(zip(passwords, hashed, strict=True))
