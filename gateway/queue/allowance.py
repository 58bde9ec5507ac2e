"""How long things may take on a login node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allowance:
    """Seconds that things may take on the login node.

    ``scheduler`` is for one command of the scheduler (below 300), ``discovery`` for one that shows the
    cluster, ``launcher`` for what the launcher, or a shell, does besides.
    """

    scheduler: int = 40
    launcher: int = 20
    discovery: int = 30

    def launch(self, commands: int) -> int:
        """Return what a launcher may take that runs so many commands of the scheduler."""
        return commands * self.scheduler + self.launcher
