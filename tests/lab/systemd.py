"""A systemd of its own inside a node, which runs units as they are: with their users, sandboxes and order."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab.nodes import PATH, LabError, detach, wait_until

PROGRAM = Path("/lib/systemd/systemd")
_SCRIPT = Path(__file__).with_name("files") / "systemd.sh"


@dataclass(frozen=True)
class Systemd:
    """A running systemd; ``pid`` is its process as the machine sees it."""

    pid: int

    def run(
        self,
        *words: str,
        check: bool = True,
        timeout: float = 60.0,
        input: str = "",  # noqa: A002  # as subprocess.run calls it
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as root where systemd runs, with its view of the machine.

        Raises:
            LabError: It failed, and ``check`` was asked for; the error holds what it said.
        """
        done = subprocess.run(
            ["nsenter", f"--target={self.pid}", "--all", "--wd=/", "--", *words],
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **(env or {})},
        )
        if check and done.returncode:
            raise LabError(f"{shlex.join(words)[:200]}: {done.stdout}{done.stderr}\n{self.journal()}")
        return done

    def shell(self, script: str, timeout: float = 60.0, env: Mapping[str, str] | None = None) -> str:
        """Run a script with ``sh -eu``; return what it printed."""
        return self.run("sh", "-eu", input=script, timeout=timeout, env=env).stdout

    def journal(self) -> str:
        """Return the end of the journal."""
        return self.run("journalctl", "--no-pager", "--quiet", "-o", "cat", "-n", "60", check=False).stdout

    def main_pid(self, unit: str) -> int:
        """Return a unit's main process as systemd numbers it, 0 if there is none."""
        return int(self.run("systemctl", "show", "-P", "MainPID", unit).stdout)

    def processes(self, unit: str) -> set[int]:
        """Return all processes in a unit's control group."""
        path = f"/sys/fs/cgroup/system.slice/{unit}/cgroup.procs"
        return {int(line) for line in self.run("cat", path, check=False).stdout.split()}

    def is_active(self, unit: str) -> bool:
        return not self.run("systemctl", "--quiet", "is-active", unit, check=False).returncode


def missing() -> str:
    """Return why no systemd can be started here, "" if one can."""
    if os.geteuid() != 0:
        return "root is needed to start a systemd"
    return "" if PROGRAM.exists() else "systemd is not installed"


@contextmanager
def booted(enter: Sequence[str], mark: str, log: Path, writable: str = "etc") -> Iterator[Systemd]:
    """Boot a systemd and kill it, with all that it started, when the block has been left.

    Args:
        enter: Words that enter the namespaces in which it is to run.
        mark: Names its mounts and its control group.
        log: Where it says why it does not start.
        writable: Directories of which it has a copy of its own, without the first slash.

    Raises:
        LabError: It does not start.
    """
    pid = detach(["sh", str(_SCRIPT), "start", mark, writable, *enter], log, env={"PATH": PATH})
    inner = 0

    def up() -> bool:
        nonlocal inner
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        inner = int(children[0]) if children else 0
        return (
            bool(inner) and not Systemd(inner).run("systemctl", "is-system-running", check=False).returncode
        )

    try:
        wait_until(up, f"systemd is up ({log})", 20, 0.05)
        yield Systemd(inner)
    finally:
        for each in (inner, pid):
            if each:
                with suppress(ProcessLookupError):
                    os.kill(each, 9)
        _remove_groups(mark)


def _remove_groups(mark: str) -> None:
    """Remove the control group, which must be empty first."""
    script = (
        'd=$(mktemp -d); mount -t cgroup2 cgroup2 "$d"; '
        'find "$d/$1" -depth -type d -exec rmdir {} + 2>/dev/null; status=0; [ ! -e "$d/$1" ] || status=1; '
        'umount "$d"; rmdir "$d"; exit $status'
    )
    words = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", mark]
    wait_until(
        lambda: not subprocess.run(words, check=False, capture_output=True, timeout=10).returncode,
        f"the control group {mark} is empty",
    )
