"""The processes that a benchmark starts, and ends whatever happens."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]


def output(*words: str, timeout: float = 60) -> str:
    """Return what a program prints, its errors with it.

    Raises:
        SystemExit: It is missing or fails; what it said.
    """
    try:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False
        )
    except FileNotFoundError:
        raise SystemExit(
            f"The benchmark needs {words[0]}. Debian: apt-get install wrk haproxy nginx-light npm"
        ) from None
    if done.returncode:
        raise SystemExit(f"{words[0]} failed: {done.stdout.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Sides:
    """The CPUs of the two sides: the proxy and the load on the one, the tunnel and the node on the other.

    In use the node and sshd are other machines. Where all compete for the same few CPUs the figure is only
    the sum of everybody's CPU time.
    """

    near: frozenset[int]
    far: frozenset[int]

    @classmethod
    def of_this_machine(cls, *, apart: bool) -> Sides:
        """Return half of the CPUs for each side, or all for both."""
        cpus = sorted(os.sched_getaffinity(0))
        half = len(cpus) // 2
        if not (apart and half):
            return cls(frozenset(cpus), frozenset(cpus))
        return cls(near=frozenset(cpus[half:]), far=frozenset(cpus[:half]))


def move(cpus: frozenset[int]) -> None:
    """Go to these CPUs with this thread and all that it starts from now on."""
    os.sched_setaffinity(0, cpus)


class Processes:
    """Programs that run in the background until the end of a ``with`` block."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str, port: int, env: dict[str, str] | None = None) -> None:
        """Start a program and wait until it listens on a loopback port.

        Raises:
            SystemExit: It does not within ten seconds.
        """
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, env=environment, start_new_session=True, cwd="/"
        )
        self._started.append(process)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise SystemExit(f"{words[0]} does not listen on port {port}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._started:
            process.terminate()
        for process in self._started:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
