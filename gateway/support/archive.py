"""An archive of texts without secrets, and on request without people's names."""

from __future__ import annotations

import io
import os
import re
import tarfile
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from gateway.errors import ConfigError
from gateway.masking import HIDDEN, masked
from gateway.origins import label_of

#: The most characters of one text: of a longer one the end is kept.
LONGEST = 512 * 1024
#: Where names of people stand in a log, known to the database or not.
_NAME = r"([a-z_][a-z0-9_.-]{0,31})"
_NAMES = re.compile(rf"(?:\[|/user/|/home/|/users/|\buid=){_NAME}(?=[/,\s\"'\]]|$)")
_NOBODY = frozenset({"gateway", "root"})


class Archive:
    """Collects texts, and writes them once all are there.

    Args:
        known: Secrets that are hidden wherever they stand, beside all that looks like one.
    """

    def __init__(self, known: Collection[str]) -> None:
        self._known = sorted(known, key=len, reverse=True)
        self._texts: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Archive of {len(self._texts)} texts>"

    def add(self, name: str, text: str) -> None:
        """Take a text under a path in the archive. Secrets are hidden here, before anything else."""
        for secret in self._known:
            text = text.replace(secret, HIDDEN)
        self._texts[name] = masked(text)[-LONGEST:]

    @property
    def names(self) -> list[str]:
        """The paths of what is in it."""
        return sorted(self._texts)

    def forget_names(self, people: Iterable[str]) -> None:
        """Call people ``user-1`` and so on, everywhere the same: these, and those whom the texts show."""
        shown = {name for text in self._texts.values() for name in _NAMES.findall(text)}
        names = sorted({*people, *shown} - _NOBODY)
        new = {name: f"user-{number}" for number, name in enumerate(names, 1)}
        new |= {label_of(name): pseudonym for name, pseudonym in new.items() if label_of(name) != name}
        if not new:
            return
        longest_first = sorted(new, key=len, reverse=True)
        words = re.compile(rf"(?<![A-Za-z0-9_-])({'|'.join(map(re.escape, longest_first))})(?![A-Za-z0-9_-])")
        for path, text in self._texts.items():
            self._texts[path] = words.sub(lambda found: new[found[1]], text)

    def write(self, path: Path) -> int:
        """Write it to a new file of mode 0600; return its size in bytes.

        Raises:
            ConfigError: The file is there already, or cannot be made.
        """
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                with tarfile.open(fileobj=file, mode="w:gz") as archive:
                    for name in self.names:
                        _put(archive, f"gateway-bundle/{name}", self._texts[name].encode())
                return file.tell()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}: name another file with -o") from None


def _put(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(content))
