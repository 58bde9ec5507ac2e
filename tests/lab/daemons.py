"""A daemon on a node: started as nobody's child, so that it can be stopped, frozen, killed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.nodes import LabError, Node, Process, detach, find, wait_until

#: Prints the pid that the program will have, then becomes the program.
_BECOME = 'echo $$; exec "$@" >&2'


@dataclass
class Daemon:
    """A long-running program on a node.

    ``argv`` keeps it in the foreground; ``ready`` says whether it serves; ``pid_file`` and ``log`` are
    outside of the node, so that another process can take the lab over.
    """

    name: str
    node: Node
    argv: Sequence[str]
    pid_file: Path
    log: Path
    ready: Callable[[], bool] = lambda: True
    user: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    pass_fds: Sequence[int] = ()

    @property
    def pid(self) -> int | None:
        """The pid of the running daemon, None where it does not run."""
        running = self._process()
        return running.pid if running else None

    def launch(self) -> None:
        """Start it and do not wait until it serves."""
        environment = self.node.environment(self.user, self.env)
        words = ["sh", "-c", _BECOME, "sh", *self.argv]
        where = environment["HOME"] if self.user else "/"
        command = self.node.command(words, self.user, where)
        pid = detach(command, self.log, env=environment, pass_fds=self.pass_fds)
        self.pid_file.write_text(f"{pid}\n")

    def start(self, timeout: float = 20.0) -> None:
        """Start it and wait until it serves; a running one is left alone.

        Raises:
            LabError: It has ended, or does not serve after ``timeout`` seconds.
        """
        if self.pid is None:
            self.launch()
        self.wait(timeout)

    def wait(self, timeout: float = 20.0) -> None:
        """Wait until it serves.

        Raises:
            LabError: It has ended, or does not serve after ``timeout`` seconds.
        """

        def serves() -> bool:
            if self.pid is None:
                raise LabError(f"{self.name} has ended; see {self.log}")
            return self.ready()

        wait_until(serves, f"{self.name} serves", timeout)

    def stop(self, sig: int = signal.SIGTERM, timeout: float = 20.0) -> None:
        """Send it ``sig`` and wait until it has gone."""
        running = self._process()
        if running is not None:
            running.kill(sig)
            running.kill(signal.SIGCONT)  # a frozen one takes no other signal
            wait_until(lambda: self.pid is None, f"{self.name} ends", timeout)

    def freeze(self) -> None:
        """Stop it where it stands (SIGSTOP): it holds its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, sig: int) -> None:
        running = self._process()
        if running is None:
            raise LabError(f"{self.name} does not run")
        running.kill(sig)

    def _process(self) -> Process | None:
        if not self.pid_file.exists():
            return None
        pid = int(self.pid_file.read_text())
        return find(pid, self.node.mark)

    def __str__(self) -> str:
        return f"<{self.name} on {self.node.name}: {f'pid {self.pid}' if self.pid else 'not running'}>"
