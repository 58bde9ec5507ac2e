"""The local queue: the program ``gateway-queue``, a scheduler for one account on one machine.

It runs job scripts as processes, first come, first served, within the machine's cores and memory. Each job
has a supervisor, a process of its own: there is no daemon. The program needs Linux, Python's standard library
and nothing else: this package must not import any other part of the gateway.

A queue is a directory, and its program's own path says which one::

    DIR/bin/gateway-queue   the program
    DIR/queue.json          what may be given out, if not all of the machine: {"cores": 4, "memory": 8192}
    DIR/spool/              the jobs (0700)

Source of the /proc formats: proc(5). Measured with Linux 6.18 and Python 3.11.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

#: The program's name, and its file's in ``DIR/bin``.
PROGRAM = "gateway-queue"


def install(directory: Path, python: str) -> Path:
    """Make a queue, or bring the program of one up to date; its jobs stay.

    Args:
        directory: Where the queue is to be; it belongs to the account whose jobs it runs.
        python: The absolute path of a Python 3.11 or later, of this machine or of any virtual environment.

    Returns:
        The program. ``login.bin`` of the site config is the directory that it is in.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = directory / "bin" / PROGRAM
    program.parent.mkdir(mode=0o700, exist_ok=True)
    (directory / "spool").mkdir(mode=0o700, exist_ok=True)
    words = (python, "-I", "-S", str(Path(__file__).resolve().parent / "__main__.py"))
    new = program.with_name(f".{PROGRAM}.new")
    new.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$0" "$@"\n', encoding="utf-8")
    new.chmod(0o755)
    os.replace(new, program)  # noqa: PTH105  a running one keeps its file
    return program
