"""Nodes: namespaces with a first process, how to run something inside, and which processes are theirs."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.accounts import BY_NAME

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LISTEN = "0A"


class LabError(Exception):
    """The lab could not do what it was asked to."""


def wait_until(ready: Callable[[], bool], what: str, timeout: float = 15.0, step: float = 0.02) -> None:
    """Wait until ``ready()``.

    Raises:
        LabError: It was not after ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > end:
            raise LabError(f"not after {timeout:g} s: {what}")
        time.sleep(step)


@dataclass(frozen=True)
class Process:
    """A process as /proc shows it."""

    pid: int
    uid: int
    argv: tuple[str, ...]

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a signal; a process that has gone is fine."""
        try:
            os.kill(self.pid, sig)
        except ProcessLookupError:
            return


def find(pid: int, mark: str) -> Process | None:
    """Return the process if it lives and sees a mount from ``mark``…, as only a node's does."""
    entry = Path("/proc", str(pid))
    try:
        mounts = (entry / "mountinfo").read_text().splitlines()
        if not any(line.split(" - ", 1)[1].split()[1].startswith(mark) for line in mounts):
            return None
        argv = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        return Process(pid, entry.stat().st_uid, tuple(argv))
    except (OSError, IndexError):
        return None  # it has ended, or is a zombie, which sees no mounts


def processes(mark: str) -> Iterator[Process]:
    """Yield the processes that find() knows by this beginning of a mark."""
    here = Path("/proc/self/ns/mnt").stat().st_ino
    for entry in os.scandir("/proc"):
        try:
            if not entry.name.isdigit() or Path(entry.path, "ns/mnt").stat().st_ino == here:
                continue
        except OSError:
            continue
        if found := find(int(entry.name), mark):
            yield found


@dataclass(frozen=True)
class Node:
    """A node of the lab; ``pid`` is its first process, ``mark`` the name of its /run mount."""

    name: str
    pid: int
    mark: str

    def command(self, argv: Sequence[str], user: str | None = None, cwd: str | None = None) -> list[str]:
        """Return the words that run ``argv`` inside, as root or as ``user`` with all of the user's groups.

        Raises:
            LabError: The node is gone; its pid may be another program's, on the machine itself.
        """
        if find(self.pid, self.mark) is None:
            raise LabError(f"node {self.name} is gone")
        words = ["nsenter", f"--target={self.pid}", "--net", "--uts", "--mount", f"--wdns={cwd or '/'}", "--"]
        if user is not None:
            words += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return [*words, *argv]

    def environment(self, user: str | None = None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return what a fresh login of ``user`` (None: root) would have; nothing of ours is inherited."""
        account = BY_NAME.get(user or "")
        home = account.directory if account else "/" if user else "/root"
        name = user or "root"
        shell = account.shell if account else "/bin/sh"
        own = {"PATH": PATH, "HOME": home, "USER": name, "LOGNAME": name, "SHELL": shell, "LANG": "C.UTF-8"}
        return own | dict(extra or {})

    def run(
        self,
        argv: Sequence[str],
        user: str | None = None,
        input: str | None = None,  # noqa: A002  # as subprocess.run calls it
        timeout: float = 30.0,
        *,
        check: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` inside and return what it did.

        Args:
            argv: The words; no shell reads them.
            user: Whom to run it as; None is root.
            input: Standard input; None is an empty one.
            timeout: Seconds until it is killed and subprocess.TimeoutExpired is raised.
            check: Raise LabError, with the output, where the status is not 0.
            env: Additions to the environment of a fresh login.
            cwd: The working directory; the user's home by default, / for root.
        """
        environment = self.environment(user, env)
        where = cwd or (environment["HOME"] if user else "/")
        done = subprocess.run(
            self.command(argv, user, where),
            input=input or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            umask=0o022,
            check=False,
        )
        if check and done.returncode:
            raise LabError(
                f"{self.name}: {' '.join(argv)}: status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def popen(
        self,
        argv: Sequence[str],
        user: str | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Start ``argv`` inside, in a session of its own, and return it; its pid is the program's own."""
        environment = self.environment(user, env)
        where = cwd or (environment["HOME"] if user else "/")
        options = {"stdin": subprocess.DEVNULL, "start_new_session": True, "umask": 0o022} | options
        return subprocess.Popen(self.command(argv, user, where), env=environment, **options)

    def processes(self, user: str | None = None) -> list[Process]:
        """Return what runs on this node, of one user or of all; the first process is not counted."""
        uid = None if user is None else _uid(user)
        found = (p for p in processes(self.mark) if p.pid != self.pid)
        return [p for p in found if uid is None or p.uid == uid]

    def listens(self, port: int) -> bool:
        """Return whether something listens on this TCP port, without connecting to it."""
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    return True
        return False

    def tcp_tables(self) -> str:
        """Return /proc/net/tcp and tcp6 as the node sees them."""
        return "".join(Path(f"/proc/{self.pid}/net/{table}").read_text() for table in ("tcp", "tcp6"))


def start_node(role: str, name: str, state: Path, mark: str, venv: Path, source: Path) -> Node:
    """Start a node's namespaces and return it once its mounts are made.

    Raises:
        LabError: Its first process failed; the error holds what it said.
    """
    script = Path(__file__).with_name("files") / "node.sh"
    words = (role, name, str(state), mark, str(venv), str(source))
    pid = detach(
        ["unshare", "--net", "--uts", "--mount", "--propagation=private", "--", "sh", str(script), *words],
        state / "nodes" / name / "init.log",
        env={"PATH": PATH, "LANG": "C.UTF-8"},
    )
    return Node(name, pid, mark)


def detach(
    argv: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    timeout: float = 20,
) -> int:
    """Start a program that prints its pid and closes its standard output, as nobody's child; return the pid.

    Raises:
        LabError: It printed none; the error holds the end of its log.
    """
    with log.open("a") as file:
        done = subprocess.run(
            ["setsid", "--fork", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            env=dict(env),
            pass_fds=pass_fds,
            umask=0o022,
            timeout=timeout,
            check=False,
        )
    if not done.stdout.strip().isdigit():
        raise LabError(f"{' '.join(argv)} did not start: {log.read_text()[-2000:]}")
    return int(done.stdout)


def end_processes(mark: str, timeout: float = 10.0) -> None:
    """Kill every process of a lab's node and wait until the last has gone.

    Raises:
        LabError: Some do not go.
    """
    end = time.monotonic() + timeout
    while found := list(processes(mark)):
        if time.monotonic() > end:
            raise LabError(f"still there: {found}")
        for process in found:
            process.kill()
        time.sleep(0.02)


def _uid(user: str) -> int:
    account = BY_NAME.get(user)
    return account.uid if account else pwd.getpwnam(user).pw_uid
