"""The newest lines of a unit's journal."""

from __future__ import annotations

import asyncio
import os
import pwd
import tempfile
from collections.abc import Sequence
from typing import IO

from gateway.errors import ConfigError

#: Lines that are asked for, and seconds that journalctl may take.
_LINES, _WITHIN = 2000, 15.0


async def newest(unit: str, size: int) -> str:
    """Return the newest lines of a unit, in their order.

    Args:
        unit: Its name, without ``.service``.
        size: The most bytes that are read.

    Raises:
        ConfigError: The journal shows nothing of it; the sentence says what to do.
    """
    # Backwards: what is too much is then the oldest. Files take what it says: a pipe would fill.
    words = f"--unit={unit} --no-pager --output=short-iso --reverse --lines={_LINES}".split()
    with tempfile.TemporaryFile() as lines, tempfile.TemporaryFile() as complaints:
        status = await _status(unit, words, lines, complaints)
        lines.seek(0)
        complaints.seek(0)
        said = lines.read(size)
        complaint = complaints.read(500).decode(errors="replace")
        whole = not lines.read(1)
    newest_first = said.decode(errors="replace").splitlines()
    if not whole:
        newest_first.pop()
    if status != 0 or newest_first in ([], ["-- No entries --"]):
        raise _nothing(unit, " ".join(complaint.split()) or f"no entries, exit status {status}")
    return "".join(f"{line}\n" for line in reversed(newest_first))


async def _status(unit: str, words: Sequence[str], stdout: IO[bytes], stderr: IO[bytes]) -> int:
    """Run journalctl and return its exit status."""
    try:
        process = await asyncio.create_subprocess_exec(
            "journalctl",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except OSError as error:
        raise _nothing(unit, f"journalctl: {error.strerror}") from None
    try:
        async with asyncio.timeout(_WITHIN):
            return await process.wait()
    except TimeoutError:
        raise _nothing(unit, f"journalctl did not end in {_WITHIN:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _nothing(unit: str, why: str) -> ConfigError:
    account = pwd.getpwuid(os.getuid()).pw_name
    return ConfigError(
        f"the journal shows nothing of {unit} ({why}). If it runs here as a unit, let this account see the "
        f"journal: usermod --append --groups systemd-journal {account}; if the hub logs to a file, name it: "
        "gateway bundle --log FILE"
    )
