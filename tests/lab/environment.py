"""The lab's Python environment: JupyterLab and what the gateway needs, made with the machine's python3."""

from __future__ import annotations

import configparser
import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

from tests.lab.nodes import LabError

PYTHON = "/usr/bin/python3"
REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT = REPOSITORY / "var" / "lab-venv"
#: The programs that the lab starts, and the Debian packages that they come with.
PROGRAMS = {
    "/usr/sbin/slurmctld": "slurmctld",
    "/usr/sbin/slurmd": "slurmd",
    "/usr/sbin/slurmdbd": "slurmdbd",
    "/usr/sbin/mariadbd": "mariadb-server-core",
    "/usr/sbin/munged": "munge",
    "/usr/sbin/sge_qmaster": "gridengine-master",
    "/usr/sbin/sge_execd": "gridengine-exec",
    "/usr/lib/gridengine/qsub": "gridengine-client",
    "/usr/sbin/sshd": "openssh-server",
    "/usr/sbin/slapd": "slapd",
    "/usr/bin/ldapsearch": "ldap-utils",
    "/usr/sbin/haproxy": "haproxy",
    "/usr/bin/sudo": "sudo",
    "/usr/bin/tcsh": "tcsh",
    "/usr/bin/fish": "fish",
    "/usr/bin/ssh": "openssh-client",
    "/usr/bin/openssl": "openssl",
    "/usr/sbin/ip": "iproute2",
    PYTHON: "python3-venv",
}


def missing() -> list[str]:
    """Return what this machine lacks for the lab: "root", or names of Debian packages."""
    lacks = [] if os.geteuid() == 0 else ["root"]
    return lacks + [package for program, package in PROGRAMS.items() if not Path(program).exists()]


def requirements() -> list[str]:
    """Return what setup.cfg asks for to run the gateway, and its ``lab`` extra."""
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    wanted = config["options"]["install_requires"] + config["options.extras_require"]["lab"]
    return [line.strip() for line in wanted.splitlines() if line.strip()]


def prepare(venv: Path | None = None) -> Path:
    """Return the environment's directory; make or renew it where setup.cfg has changed.

    Args:
        venv: Where it is; ``LAB_VENV`` or ``var/lab-venv`` by default.

    Raises:
        LabError: pip failed; the error holds what it said.
    """
    venv = (venv or Path(os.environ.get("LAB_VENV") or DEFAULT)).absolute()
    venv.mkdir(parents=True, exist_ok=True)
    wanted = requirements()
    stamp, mark = venv / "requirements.sha256", hashlib.sha256("\n".join(wanted).encode()).hexdigest()
    with (venv / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != mark:
            _call([PYTHON, "-m", "venv", str(venv)])
            _call([str(venv / "bin/python3"), "-m", "pip", "install", "--quiet", *wanted])
            stamp.write_text(mark)
    return venv


def _call(argv: list[str]) -> None:
    done = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        umask=0o022,
        check=False,
    )
    if done.returncode:
        raise LabError(f"{' '.join(argv[:4])}: {done.stdout[-3000:]}")
