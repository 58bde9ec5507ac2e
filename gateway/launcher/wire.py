"""The launcher's standard input (sections) and output. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from gateway.model import Completed

_EXITED = re.compile(r"(?:\A|\n)gw1 exited (\d{1,3})\n\Z")


def sections(items: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the launcher's standard input: for each section its name and its bytes."""
    parts = [b"gw1 %s %d\n%s" % (name.encode("ascii"), len(data), data) for name, data in items]
    return b"".join(parts) + b"gw1 end 0\n"


def read_exited(completed: Completed) -> Completed | None:
    """Return what the scheduler's command did, from what the launcher did.

    Args:
        completed: The launcher's own exit status and output, after the verbs ``submit`` and ``run``.

    Returns:
        None if the launcher did not get as far as running the command.
    """
    found = _EXITED.search(completed.stdout)
    if completed.status != 0 or not found:
        return None
    return replace(completed, status=int(found[1]), stdout=completed.stdout[: found.start()])


def read_files(completed: Completed) -> dict[str, str] | None:
    """Return the files that the verb ``read`` printed, without those that are not there.

    Returns:
        None if its output is not complete.
    """
    lines = completed.stdout.split("\n")
    if completed.status != 0 or lines[-2:] != ["gw1 end", ""]:
        return None
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines[:-2]:
        if line.startswith("gw1 "):
            current = found.setdefault(line.removeprefix("gw1 "), [])
        elif line.startswith(" "):
            current.append(line[1:])
    return {name: "\n".join(text) for name, text in found.items()}
