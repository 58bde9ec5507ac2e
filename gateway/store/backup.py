"""A copy of all that the gateway must keep, in one archive: the database, its key, and the CAs."""

from __future__ import annotations

import errno
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import make_url

from gateway.errors import ConfigError

#: The database's name in an archive, and in a state directory.
DATABASE = "gateway.sqlite"
#: How an archive that is not whole is called: hidden, beside its place. A backup that was killed leaves it.
UNFINISHED = ".unfinished"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
_PASSING = ("hub.lock", DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal")


def back_up(url: str, state_dir: Path, archive: Path) -> bool:
    """Write an archive of the state directory, also while the hub runs: the database in it is whole.

    It gets its name when it is complete and on the disk.

    Args:
        url: The database.
        state_dir: Where the keys and the CAs are.
        archive: A new file, ``.tar.gz``; it is as secret as what is in it (0600).

    Returns:
        Whether the database is in it; one that is not SQLite has its own tools.

    Raises:
        ConfigError: Something cannot be read or written; there is no archive then.
    """
    try:
        if os.path.lexists(archive):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        descriptor, name = tempfile.mkstemp(UNFINISHED, f".{archive.name}.", archive.absolute().parent)
    except OSError as error:
        raise ConfigError(f"{archive} cannot be made: {error.strerror}") from None
    unfinished = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as tar:
                held = _add_database(tar, url)
                for path in _kept(state_dir):
                    tar.add(path, arcname=str(path.relative_to(state_dir)), recursive=False)
            file.flush()
            os.fsync(descriptor)
        _name(unfinished, archive)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{state_dir} could not be backed up: {error}") from error
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()
    return held


def _name(unfinished: Path, archive: Path) -> None:
    """Give a whole archive its name, which nothing may have."""
    try:
        os.link(unfinished, archive)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # a disk without hard links
        unfinished.replace(archive)
    with suppress(OSError):  # some file systems cannot: the archive is there all the same
        directory = os.open(archive.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _add_database(tar: tarfile.TarFile, url: str) -> bool:
    database = make_url(url)
    if database.get_backend_name() != "sqlite" or not database.database:
        return False
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / DATABASE
        with closing(sqlite3.connect(f"file:{database.database}?mode=ro", uri=True)) as source:
            with closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        copy.chmod(0o600)
        tar.add(copy, arcname=DATABASE)
    return True


def _kept(state_dir: Path) -> Iterator[Path]:
    """Yield what is to be kept: directories before their files; no hidden ones, and nothing of a moment."""
    for path in sorted(state_dir.rglob("*")):
        parts = path.relative_to(state_dir).parts
        hidden = any(part.startswith(".") for part in parts)
        if not hidden and parts[0] not in _PASSING and (path.is_file() or path.is_dir()):
            yield path
