"""The doctor's own directory for one examination, and what became of those that had no time to clear up."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.dataplane.orphans import clear_all_but

_PREFIX = "gw-doctor-"
#: Below it, the masters of the tunnels that the steps make.
_MASTERS = ("m", "t")
#: Seconds within which a directory that nobody has locked may be one that somebody just makes.
_YOUNG = 10.0
#: Seconds that no examination takes.
_OLD = 3600.0


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a new private directory with a short name, which goes with the block."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(descriptor)


def clear_up() -> None:
    """Remove what killed doctors of this user left, and end their SSH masters. Blocking."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another doctor clears it up too, or it is not ours
            if _is_left(path):
                for name in _MASTERS:
                    if (path / name).is_dir():
                        clear_all_but(path / name, ())
                shutil.rmtree(path, ignore_errors=True)


def _is_left(path: Path) -> bool:
    """Return whether a directory is our user's, and the doctor that made it is there no more.

    Its lock tells, which goes with the process: a number in the name may be another process's, or one of
    another container's that has the same /tmp.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        age = time.time() - found.st_mtime
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700 or age < _YOUNG:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return age > _OLD
    finally:
        os.close(descriptor)
    return True
