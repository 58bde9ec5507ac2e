"""HAProxy's files: written so that at any moment, also after a crash, it finds whole ones of one kind."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from gateway.dataplane.access import share_directory, share_file
from gateway.dataplane.haproxyconfig import (
    HAProxySettings,
    ProxyServer,
    check_pair,
    digest,
    pages,
    read_certificate,
    read_servers,
    render,
)
from gateway.dataplane.runtime import map_path
from gateway.errors import DataPlaneError
from gateway.routes import Desired, Map


class Snapshot:
    """The files in HAProxy's directory, from which it comes back complete by itself.

    Any mixture of old and new files is safe: server ids are never used twice, so an entry of one file can
    only miss its counterpart in another, never find a wrong one.

    Args:
        settings: What HAProxy is told once.
    """

    def __init__(self, settings: HAProxySettings) -> None:
        self._settings = settings
        self.config = settings.directory / "haproxy.cfg"

    def servers(self) -> tuple[ProxyServer, ...]:
        """Return the servers in the last snapshot, none if there is none."""
        try:
            return read_servers(self.config.read_text())
        except FileNotFoundError:
            return ()

    def is_current(self) -> bool:
        """Return whether the files are there and made with the settings and certificates of today.

        Raises:
            ConfigError: A certificate cannot be read.
        """
        try:
            return f" gateway-{digest(self._settings)}\n" in self.config.read_text()
        except FileNotFoundError:
            return False

    def write(self, desired: Desired) -> None:
        """Write all that should be routed; files that are right already are left alone.

        Raises:
            DataPlaneError: They cannot be written.
            ConfigError: A certificate cannot be read.
        """
        maps = {map_: "".join(f"{k} {v}\n" for k, v in desired.entries(map_).items()) for map_ in Map}
        self._write(map(ProxyServer.of, desired.routes), maps)

    def rewrite(self) -> None:
        """Write the configuration anew with the servers of the last snapshot, and its maps if they miss.

        Raises:
            DataPlaneError: They cannot be written.
            ConfigError: A certificate cannot be read.
        """
        missing = [map_ for map_ in Map if not Path(map_path(self._settings.directory, map_)).exists()]
        self._write(self.servers(), dict.fromkeys(missing, ""))

    def _write(self, servers: Iterable[ProxyServer], maps: dict[Map, str]) -> None:
        directory, group = self._settings.directory, self._settings.group
        texts = {directory / name: page for name, page in pages().items()}
        texts |= {Path(map_path(directory, map_)): text for map_, text in maps.items()}
        texts[self.config] = render(self._settings, servers, digest(self._settings))
        files = self._certificates() | {path: text.encode() for path, text in texts.items()}
        try:
            _make_directory(directory, group)
            if group is not None:
                _make_directory(self._settings.sockets, group, writable=True)
            changed = [path for path, content in files.items() if _replace(path, content, group)]
            if changed:
                _sync(directory)
        except OSError as error:
            raise DataPlaneError(f"{error.filename or directory}: {error.strerror}") from error

    def _certificates(self) -> dict[Path, bytes]:
        """Return the copies of the certificates; a new one that is of no use does not replace an old one."""
        copies = {}
        for path, copy in self._settings.certificates.items():
            copies[copy] = read_certificate(path)
            if path != self._settings.node_ca and not _holds(copy, copies[copy]):
                check_pair(path)
        return copies


def is_whole(directory: Path) -> bool:
    """Return whether a configuration is there, and all the files in the directory that it names."""
    try:
        config = (directory / "haproxy.cfg").read_text()
    except OSError:
        return False
    named = re.findall(rf"{re.escape(str(directory))}/([\w.-]+)(?![\w./-])", config)
    return bool(named) and all((directory / name).exists() for name in named if not name.endswith(".sock"))


def _make_directory(directory: Path, group: int | None, *, writable: bool = False) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise DataPlaneError(f"{directory} is not a directory of the gateway's own account")
    share_directory(directory, group, writable=writable)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False


def _replace(path: Path, content: bytes, group: int | None) -> bool:
    """Give a file this content by rename, for us and ``group`` alone; return whether it had another."""
    if _holds(path, content):
        return False
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        share_file(handle, group)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    return True


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
