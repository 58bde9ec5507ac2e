"""``gateway demo``, really started by an ordinary user, and what is left of it."""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gateway.auth import DENIED_NAMES
from tests.lab import environment
from tests.lab.nodes import wait_until

UID = 54322
#: Seconds in which the demo is there on a busy machine, and in which it has ended.
STARTS_WITHIN, ENDS_WITHIN = 30.0, 25.0
_ENTER = """set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$2" "$1/venv"
mount --bind "$3" "$1/source"
base=$1 uid=$4
shift 4
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"
"""


class User:
    """An account that may do nothing special. Root takes on another one, in a mount namespace."""

    def __init__(self, base: Path) -> None:
        self.base = base
        venv = environment.prepare()
        if os.getuid() != 0:
            entry = pwd.getpwuid(os.getuid())
            if entry.pw_uid < 1000 or entry.pw_name in DENIED_NAMES:
                pytest.skip("needs an account with a uid from 1000, or root")
            self.python, self.source = venv / "bin/python3", environment.REPOSITORY
            self._in_front: tuple[str, ...] = ()
        else:
            self.python, self.source = base / "venv/bin/python3", base / "source"
            self._in_front = self._become(venv)
        for name in ("tmp", "home"):
            (base / name).mkdir(mode=0o700)
            os.chown(base / name, self.uid, self.uid)

    @property
    def uid(self) -> int:
        return os.getuid() or UID

    def _become(self, venv: Path) -> tuple[str, ...]:
        self.base.chmod(0o755)
        for name in ("venv", "source"):
            (self.base / name).mkdir()
        entry = f"demi:x:{UID}:{UID}::{self.base}/home:/bin/sh\n"
        (self.base / "passwd").write_text(f"{Path('/etc/passwd').read_text()}{entry}")
        (self.base / "passwd").chmod(0o644)
        arguments = map(str, (self.base, venv, environment.REPOSITORY, UID))
        words = ("unshare", "--mount", "/bin/sh", "-c", _ENTER, "sh", *arguments)
        if subprocess.run([*words, "id", "-un"], capture_output=True, check=False).stdout != b"demi\n":
            pytest.skip("needs mount namespaces")
        return words

    def popen(self, words: Sequence[str | Path], output: Path) -> subprocess.Popen[bytes]:
        """Start a program as a terminal would: in a process group of its own, which Ctrl-C goes to."""
        with output.open("wb") as file:
            return subprocess.Popen(
                [*self._in_front, *map(str, words)],
                cwd="/",
                env={
                    "HOME": str(self.base / "home"),
                    "TMPDIR": str(self.base / "tmp"),
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(self.source),
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *words: str | Path) -> str:
        """Run a program to its end and return what it said."""
        output = self.base / "said"
        assert self.popen(words, output).wait(30) == 0, output.read_text()
        return output.read_text().strip()

    def processes(self) -> list[psutil.Process]:
        """Return the processes that have to do with this user's directory."""
        return [process for process in psutil.process_iter() if self._concerns(process)]

    def _concerns(self, process: psutil.Process) -> bool:
        try:
            if process.uids().real != self.uid or process.status() == psutil.STATUS_ZOMBIE:
                return False
            return str(self.base) in " ".join([*process.cmdline(), process.cwd()])
        except psutil.NoSuchProcess:
            return False


@dataclass
class Talk:
    """A demonstration that runs, and what it has told."""

    process: subprocess.Popen[bytes]
    output: Path

    def wait(self, timeout: float) -> None:
        """Wait until it has said where it is."""

        def told() -> bool:
            return "Ctrl-C ends" in self.said or self.process.poll() is not None

        wait_until(told, "the demo says where it is", timeout=timeout)
        assert self.process.poll() is None, self.said

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def url(self) -> str:
        return self._found(r"Open  (\S+)")

    @property
    def root(self) -> Path:
        return Path(self._found(r"Starting the gateway in (\S+),"))

    @property
    def passwords(self) -> dict[str, str]:
        return dict(re.findall(r"^ {6}(ada|grace) +(\S+)$", self.said, re.MULTILINE))

    @property
    def fingerprint(self) -> str:
        return "".join(re.findall(r"^ {6}((?:[0-9A-F]{2}:?){16})$", self.said, re.MULTILINE))

    def _found(self, pattern: str) -> str:
        found = re.search(pattern, self.said)
        assert found, self.said
        return found[1]

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal to the process group and return the exit status."""
        os.killpg(self.process.pid, number)
        return self.process.wait(ENDS_WITHIN)


@contextmanager
def demo(user: User, *options: str) -> Iterator[Talk]:
    """Start a demonstration; it is told to end at the end, if it still runs."""
    output = user.base / f"output-{time.monotonic_ns()}"
    began = time.monotonic()
    talk = Talk(user.popen([user.python, "-m", "gateway", "demo", "--no-browser", *options], output), output)
    try:
        talk.wait(STARTS_WITHIN)
        print(f"{time.monotonic() - began:6.2f} s  from gateway demo to its address")
        yield talk
    except BaseException:
        with suppress(AssertionError, OSError):
            print((talk.root / "gateway.log").read_text())
        raise
    finally:
        if talk.process.poll() is None:
            talk.end(signal.SIGTERM)
