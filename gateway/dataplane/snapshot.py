"""HAProxy's files: written so that at any moment, also after a crash, it finds whole ones of one kind."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from gateway.dataplane import pages
from gateway.dataplane.access import share_directory, share_file
from gateway.dataplane.haproxyconfig import (
    HAProxySettings,
    ProxyServer,
    digest,
    read_servers,
    render,
    server_lines,
)
from gateway.dataplane.runtime import map_path
from gateway.errors import ConfigError, DataPlaneError
from gateway.routes import Desired, Map, Route

log = logging.getLogger(__name__)


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
        self._lines: dict[str, tuple[Route, str]] = {}

    def servers(self) -> tuple[ProxyServer, ...]:
        """Return the servers in the last snapshot, none if there is none."""
        try:
            return read_servers(self.config.read_text())
        except FileNotFoundError:
            return ()

    def is_current(self) -> bool:
        """Return whether the configuration is there and made with the settings of today."""
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
        self._put(self._texts(self._lines_of(desired.routes), maps))

    def copy_certificates(self) -> None:
        """Copy the certificates for HAProxy to start with; one that is of no use replaces no other.

        Raises:
            DataPlaneError: The copies cannot be written.
            ConfigError: One is of no use, and there is none of before.
        """
        copies = {}
        for certificate in self._settings.certificates:
            try:
                copies[certificate.copy] = certificate.read()
            except ConfigError as error:
                if not certificate.copy.exists():
                    raise
                log.error("%s; HAProxy goes on with the one of before", error)
        self._put(copies)

    def keep(self, copy: Path, content: bytes) -> None:
        """Keep a copy of a certificate that HAProxy has taken up, for its next start.

        Raises:
            DataPlaneError: It cannot be written.
        """
        self._put({copy: content})

    def rewrite(self) -> None:
        """Write all that HAProxy starts with anew: the servers are those of the last snapshot.

        Raises:
            DataPlaneError: It cannot be written.
            ConfigError: A certificate is of no use, and there is none of before.
        """
        self.copy_certificates()
        missing = [map_ for map_ in Map if not Path(map_path(self._settings.directory, map_)).exists()]
        lines = {server.name: server_lines(self._settings, [server]) for server in self.servers()}
        texts = self._texts(lines, dict.fromkeys(missing, ""))
        directory = self._settings.directory
        self._put({directory / name: text.encode() for name, text in pages.files().items()} | texts)

    def _lines_of(self, routes: Iterable[Route]) -> dict[str, str]:
        """Return the lines of the routes' servers; those of a route that was there the last time are kept."""
        lines = {}
        for route in routes:
            known = self._lines.get(route.server)
            if known is None or known[0] is not route:
                known = route, server_lines(self._settings, ProxyServer.all_of(route))
            lines[route.server] = known
        self._lines = lines
        return {name: text for name, (_, text) in lines.items()}

    def _texts(self, lines: Mapping[str, str], maps: Mapping[Map, str]) -> dict[Path, bytes]:
        texts = {Path(map_path(self._settings.directory, map_)): text for map_, text in maps.items()}
        texts[self.config] = render(self._settings, lines, digest(self._settings))
        return {path: text.encode() for path, text in texts.items()}

    def _put(self, files: Mapping[Path, bytes]) -> None:
        directory, group = self._settings.directory, self._settings.group
        try:
            _make_directory(directory, group)
            if group is not None:
                _make_directory(self._settings.sockets, group, writable=True)
            changed = [path for path, content in files.items() if _replace(path, content, group)]
            if changed:
                _sync(directory)
        except OSError as error:
            raise DataPlaneError(f"{error.filename or directory}: {error.strerror}") from error


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
