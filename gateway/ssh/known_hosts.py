"""Whether a host key may be trusted, by an OpenSSH known_hosts file (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").

paramiko 5.1 refuses a whole file for one ``@cert-authority`` line and matches no patterns, so the file that
OpenSSH reads for the tunnels is read here by the same rules.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Self

from gateway.errors import HostKeyRefused
from gateway.ssh import hostcert

_MARKERS = ("", "@revoked", "@cert-authority")


@dataclass(frozen=True, slots=True)
class HostKey:
    """A host key as known_hosts writes it: its type and its base64 text.

    ``certificate`` is what vouches for it, if the host showed one, written in the same way.
    """

    type: str
    base64: str
    certificate: str = field(default="", compare=False)

    @property
    def fingerprint(self) -> str:
        """The fingerprint as ``ssh-keygen -l`` prints it."""
        digest = hashlib.sha256(binascii.a2b_base64(self.base64)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def address(host: str, port: int) -> str:
    """Return the name under which known_hosts knows a host: ``host``, or ``[host]:port`` if it is not 22."""
    return host if port == 22 else f"[{host}]:{port}"


@dataclass(frozen=True, slots=True)
class _Line:
    names: tuple[str, ...]
    key: HostKey
    marker: str

    @property
    def revoked(self) -> bool:
        return self.marker == "@revoked"

    @property
    def authority(self) -> bool:
        return self.marker == "@cert-authority"

    def matches(self, name: str) -> bool:
        if any(n.startswith("!") and _name_matches(n[1:], name) for n in self.names):
            return False
        return any(_name_matches(n, name) for n in self.names)


def _name_matches(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        salt, _, digest = pattern[3:].partition("|")
        try:
            sought = hmac.new(binascii.a2b_base64(salt), name.encode(), "sha1").digest()
            return hmac.compare_digest(sought, binascii.a2b_base64(digest))
        except binascii.Error:
            return False
    # fnmatch reads [] as a set of characters, known_hosts as itself.
    return fnmatchcase(name.lower(), re.sub(r"\[", "[[]", pattern.lower()))


class KnownHosts:
    """The host keys in one known_hosts file.

    Args:
        lines: The lines that could be read.
        source: The file's name, for errors.
    """

    def __init__(self, lines: tuple[_Line, ...], source: str) -> None:
        self._lines = lines
        self._source = source

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Return the keys in ``text``. Lines that make no sense are skipped, as ssh(1) does."""
        found = []
        for line in text.splitlines():
            words = line.split()
            marker = words.pop(0) if words and words[0].startswith("@") else ""
            if len(words) < 3 or words[0].startswith("#") or marker not in _MARKERS:
                continue
            found.append(_Line(tuple(words[0].split(",")), HostKey(words[1], words[2]), marker))
        return cls(tuple(found), source)

    def types(self, name: str) -> tuple[str, ...]:
        """Return the key types known for a host, so that it is asked for one of these."""
        lines = [line for line in self._lines if line.matches(name)]
        certified = hostcert.TYPES if any(line.authority for line in lines) else ()
        return (*certified, *dict.fromkeys(line.key.type for line in lines if not line.marker))

    def check(self, name: str, key: HostKey) -> None:
        """Return if ``key`` is the known key of the host ``name`` (see ``address``), or certified for it.

        Raises:
            HostKeyRefused: It is unknown, another one, or revoked. The detail says what to do.
        """
        lines = [line for line in self._lines if line.matches(name)]
        if any(line.revoked and line.key == key for line in lines):
            raise HostKeyRefused(
                f"{name} shows the host key {key.fingerprint} ({key.type}), which is marked @revoked in "
                f"{self._source}"
            )
        known = [line.key for line in lines if not line.marker]
        if key in known or self._is_certified(name, key, lines):
            return
        add = f"{name} {key.type} {key.base64}"
        if not known:
            raise HostKeyRefused(
                f"the host key of {name}, {key.fingerprint} ({key.type}), is not in {self._source}. "
                f"If its administrators confirm this fingerprint, add this line there: {add}"
            )
        raise HostKeyRefused(
            f"the host key of {name} has CHANGED: it shows {key.fingerprint} ({key.type}), and "
            f"{self._source} knows {', '.join(k.fingerprint for k in known)}. Somebody may be listening. "
            f"If its administrators confirm the new one, replace the old line there by: {add}"
        )

    def _is_certified(self, name: str, key: HostKey, lines: Sequence[_Line]) -> bool:
        """Return whether an authority for this host vouches for its key.

        Raises:
            HostKeyRefused: One does, but not for this host, or not now; or the authority is revoked.
        """
        if not key.certificate:
            return False
        try:
            signed_by = HostKey(*hostcert.authority_of(key.certificate))
        except ValueError as error:
            raise HostKeyRefused(f"{name} shows {error}") from None
        by = [line for line in lines if line.key == signed_by]
        if any(line.revoked for line in by):
            raise HostKeyRefused(
                f"{name} shows a certificate of {signed_by.fingerprint}, which is marked @revoked in "
                f"{self._source}"
            )
        if not any(line.authority for line in by):
            return False
        host = name[1:].partition("]")[0] if name.startswith("[") else name
        if why := hostcert.fault(key.certificate, host):
            raise HostKeyRefused(
                f"{name} shows a host certificate that is not good: {why}. Its administrators have to sign "
                "its key anew (ssh-keygen -s CA -h -n NAME)"
            )
        return True

    def __repr__(self) -> str:
        return f"<KnownHosts {self._source}: {len(self._lines)} keys>"
