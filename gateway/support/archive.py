"""An archive of texts without secrets, and on request without people's names."""

from __future__ import annotations

import io
import os
import re
import tarfile
import time
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from gateway.errors import ConfigError
from gateway.masking import HIDDEN, masked
from gateway.origins import label_of

#: The most characters of one text: of a longer one the end is kept.
LONGEST = 512 * 1024
#: Where names of people stand in a log, known to the database or not.
_NAME = r"([a-z_][a-z0-9_.-]{0,31})"
_NAMES = tuple(
    re.compile(form)
    for form in (
        rf"(?:/user/|/home/|/users/|\buid=|\bprincipal ['\"]?){_NAME}(?=[/,\s\"'\]]|$)",
        rf"\[{_NAME}/",
        rf"(?<![\w.@/:-]){_NAME}@(?=[A-Za-z0-9\[])",
        rf"\blogin of {_NAME} from\b",
        rf"\blogin (?:of \S{{1,64}} )?from \S{{1,64}} refused: {_NAME}(?=: )",
        rf"\b(?:account|acts for) '?{_NAME}(?=[':])",
    )
)
#: What was typed in place of a name, which may be a password.
_TYPED = re.compile(r"(?<=\blogin of )(['\"])(.{0,300}?)\1(?= from )")
_NOBODY = frozenset({"gateway", "root", "user"})
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)", re.ASCII)
#: With what a port would look like after it, and with an IPv4 address at its end.
_IPV6 = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,5}){2,8}(?:\.\d{1,3}){0,3}(?![\w:])", re.ASCII
)


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
        """Call people ``user-1`` and so on, everywhere the same: these, and those whom the texts show.

        Addresses, all but this host's own to itself, become ``address-1`` and so on in the same way.
        """
        texts = self._texts.values()
        shown = {name for form in _NAMES for text in texts for name in form.findall(text)}
        names = sorted({*people, *shown} - _NOBODY)
        new = {name: f"user-{number}" for number, name in enumerate(names, 1)}
        new |= {label_of(name): pseudonym for name, pseudonym in new.items() if label_of(name) != name}
        addresses = _Addresses()
        for path, text in self._texts.items():
            text = _TYPED.sub(lambda found: repr(new.get(found[2].lower(), HIDDEN)), text)
            self._texts[path] = addresses.forgotten(_replaced(text, new))

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


def _replaced(text: str, new: Mapping[str, str]) -> str:
    """Return a text with other words for some."""
    if not new:
        return text
    longest_first = sorted(new, key=len, reverse=True)
    words = re.compile(rf"(?<![A-Za-z0-9_-])({'|'.join(map(re.escape, longest_first))})(?![A-Za-z0-9_-])")
    return words.sub(lambda found: new[found[1]], text)


class _Addresses:
    """Calls each IP address by a number."""

    def __init__(self) -> None:
        self._new: dict[IPv4Address | IPv6Address, str] = {}

    def forgotten(self, text: str) -> str:
        return _IPV4.sub(self._of, _IPV6.sub(self._of, text))

    def _of(self, found: re.Match[str]) -> str:
        written, port = found[0], ""
        while True:
            try:
                address = ip_address(written)
                break
            except ValueError:
                if port or ":" not in written:
                    return found[0]
                written, colon, number = written.rpartition(":")
                port = colon + number
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_loopback or address.is_unspecified:
            return found[0]
        return self._new.setdefault(address, f"address-{len(self._new) + 1}") + port


def _put(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(content))
