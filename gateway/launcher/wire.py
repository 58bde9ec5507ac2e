"""The launcher's standard input (sections) and output. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from gateway.model import Completed

_EXITED = re.compile(r"(?:\A|\n)gw1 exited (\d{1,3})\n\Z")
_TRIED = re.compile(r"(?:\A|\n)gw1 tried (\d{1,3})\n\Z")
#: What timeout(1) makes of a command that it had to kill, and of one that it ended.
_KILLED, _ENDED_BY_LIMIT = 137, 124


def sections(items: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the launcher's standard input: for each section its name and its bytes."""
    parts = [b"gw1 %s %d\n%s" % (name.encode("ascii"), len(data), data) for name, data in items]
    return b"".join(parts) + b"gw1 end 0\n"


def read_exited(completed: Completed) -> Completed | None:
    """Return what the scheduler's command did, from what the launcher did.

    Args:
        completed: The launcher's own exit status and output, after the verb ``submit``, or ``run`` of one
            command without a mark.

    Returns:
        None if the launcher did not get as far as running the command.
    """
    return _last_line(_EXITED, completed)


def read_tried(completed: Completed) -> Completed | None:
    """Return what the command that was to be tried did, if nothing was submitted for that reason."""
    return _last_line(_TRIED, completed)


def _last_line(pattern: re.Pattern[str], completed: Completed) -> Completed | None:
    found = pattern.search(completed.stdout)
    if completed.status != 0 or not found:
        return None
    return replace(completed, status=int(found[1]), stdout=completed.stdout[: found.start()])


def read_marked(completed: Completed, mark: str, count: int) -> tuple[Completed, ...] | None:
    """Return what each of several commands did that ran in one exec. One that was killed counts as ended.

    Args:
        completed: What the exec did: each command's output on both streams, then a line with its exit status
            and the mark.
        mark: What nobody could know who has a word in that output.
        count: How many commands there were.

    Returns:
        None if the answer is not whole.
    """
    line = re.compile(rf"\ngw1 exited (\d{{1,3}}) {mark}\n")
    stdout, stderr = line.split(completed.stdout), line.split(completed.stderr)
    whole = len(stdout) == len(stderr) == 2 * count + 1 and not stdout[-1] and stdout[1::2] == stderr[1::2]
    if completed.status != 0 or not whole:
        return None
    statuses = (_ENDED_BY_LIMIT if int(status) == _KILLED else int(status) for status in stdout[1::2])
    return tuple(map(Completed, statuses, stdout[::2], stderr[::2]))


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
