"""The demonstration's directory: what is in it, who has it, and where it can be."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import ConfigError

_PREFIX, _LOCK = "gateway-demo-", "demo.lock"
#: Into which HAProxy's configuration and a job script can name a directory, and where sockets fit (unix(7)).
_PLAIN = re.compile(r"/[A-Za-z0-9_./-]{1,60}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of the demonstration's own, 0700, and what is in it."""

    root: Path

    @property
    def config(self) -> Path:
        """The gateway's configuration."""
        return self.root / "gateway_config.py"

    @property
    def sites(self) -> Path:
        """The site config."""
        return self.root / "sites"

    @property
    def state(self) -> Path:
        """The gateway's database, keys and CAs."""
        return self.root / "state"

    @property
    def run(self) -> Path:
        """Its sockets and HAProxy's."""
        return self.root / "run"

    @property
    def certificate(self) -> Path:
        """The certificate that browsers see, and its key."""
        return self.root / "tls.pem"

    @property
    def reader_password(self) -> Path:
        """The password with which the gateway asks the directory of people."""
        return self.root / "ldap-password"

    @property
    def queue(self) -> Path:
        """The local queue."""
        return self.root / "queue"

    @property
    def servers(self) -> Path:
        """The jobs' state directories."""
        return self.root / "servers"

    @property
    def home(self) -> Path:
        """Where the jobs are at home: notebooks, Jupyter's settings."""
        return self.root / "home"

    @property
    def log(self) -> Path:
        """What the gateway says."""
        return self.root / "gateway.log"

    def remove(self) -> None:
        """Remove it all; it is no error if it is gone."""
        shutil.rmtree(self.root, ignore_errors=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory against another demonstration, until this one ends, however it ends.

        Raises:
            ConfigError: Another one has it.
        """
        try:
            descriptor = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"{self.root} cannot be used: {error.strerror}.") from None
        try:
            if not _lock(descriptor):
                raise ConfigError(f"Another demo is running in {self.root}: end it, or name another --dir.")
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def named(directory: Path) -> Place:
    """Return the place that somebody names with ``--dir``; made if it is not there.

    Raises:
        ConfigError: It cannot serve.
    """
    root = directory.absolute()
    if not _PLAIN.fullmatch(str(root)):
        raise ConfigError(
            f"--dir {root}: sockets need a path of at most 61 letters, digits and / _ . -, as /var/tmp/demo"
        )
    try:
        _take(root)
    except OSError as error:
        raise ConfigError(f"--dir {root}: {error.strerror}: name another directory.") from None
    return Place(root)


def _take(root: Path) -> None:
    if root.exists() and any(root.iterdir()) and not (root / _LOCK).exists():
        raise ConfigError(
            f"--dir {root} holds other things: name a directory that is empty or not there yet."
        )
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise ConfigError(f"--dir {root} belongs to somebody else: name another directory.")
    root.chmod(0o700)
    if not _can_run(root):
        raise ConfigError(
            f"--dir {root}: no program may run there (noexec): name a directory on another disk."
        )


def temporary() -> Place:
    """Return a new place that nobody needs to keep.

    Raises:
        ConfigError: No directory for temporary files can serve.
    """
    for parent in _parents():
        try:
            root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        except OSError:
            continue
        if _PLAIN.fullmatch(str(root)) and _can_run(root):
            return Place(root)
        root.rmdir()
    raise ConfigError(f"None of {', '.join(map(str, _parents()))} can serve: name a directory with --dir.")


def left_behind() -> Iterator[Place]:
    """Give the temporary places of demonstrations that were killed; each is held while it is looked at."""
    for parent in _parents():
        for root in parent.glob(f"{_PREFIX}*"):
            try:
                if root.lstat().st_uid != os.getuid() or root.is_symlink():
                    continue
                if not (root / _LOCK).exists():  # one that is just being made
                    continue
                with Place(root).held():
                    yield Place(root)
            except (ConfigError, OSError):
                continue


def _parents() -> list[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    words = (tempfile.gettempdir(), "/tmp", "/var/tmp", runtime)  # noqa: S108  mkdtemp makes a private one there
    return list(dict.fromkeys(Path(word) for word in words if word.startswith("/")))


def _can_run(directory: Path) -> bool:
    return not os.statvfs(directory).f_flag & os.ST_NOEXEC
