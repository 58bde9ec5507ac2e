"""Whether a process is still there."""

from __future__ import annotations

import psutil


def lives(pid: int) -> bool:
    """Return whether a process is there and has not ended; a zombie has."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
