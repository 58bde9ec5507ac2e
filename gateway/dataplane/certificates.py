"""HAProxy's certificates: read, checked, compared with what it has, and taken up while it runs.

HAProxy 2.6 takes a new one for its listeners and for servers added at run time alike, without a reload; open
connections go on (measured with 2.6.12).
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from gateway.dataplane.runtime import CommandLine
from gateway.errors import ConfigError, DataPlaneError

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n(?:[A-Za-z0-9+/=]+\n)+-----END \1-----")
_FINGERPRINT = re.compile(r"^SHA1 FingerPrint: ([0-9A-F]{40})$", re.MULTILINE)
#: A command fits into one of HAProxy's buffers, of 16 KiB by default.
_MOST_BYTES = 15_000


@dataclass(frozen=True, slots=True)
class Certificate:
    """A file with a certificate.

    Args:
        path: Where the site, or the gateway, puts a new one.
        copy: HAProxy's copy, by whose name it knows it.
        is_authority: Whether it is of a CA, without a key.
    """

    path: Path
    copy: Path
    is_authority: bool

    def read(self) -> bytes:
        """Return what the file holds.

        Raises:
            ConfigError: It cannot be read, or is of no use.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}") from error
        (_check_authority if self.is_authority else _check_pair)(self.path, content)
        return content

    def is_copied(self, content: bytes) -> bool:
        """Return whether the copy holds this."""
        try:
            return self.copy.read_bytes() == content
        except FileNotFoundError:
            return False

    async def is_used(self, line: CommandLine, content: bytes) -> bool:
        """Return whether the worker has this certificate, by its fingerprint.

        Raises:
            DataPlaneError: It gives no answer.
        """
        found = _FINGERPRINT.findall(await line.ask("show", "ssl", self._kind, str(self.copy)))
        wanted = [
            hashlib.sha1(ssl.PEM_cert_to_DER_cert(each[0]), usedforsecurity=False).hexdigest().upper()
            for each in _BLOCK.finditer(_pem(content))
            if each[1] == "CERTIFICATE"
        ]
        return sorted(found) == sorted(wanted if self.is_authority else wanted[:1])

    async def take_up(self, line: CommandLine, content: bytes) -> bool:
        """Have the worker use what `read` has returned; return False if only a reload can.

        Raises:
            DataPlaneError: HAProxy refuses it and goes on with the one that it has, or gives no answer.
        """
        payload = _pem(content)
        if len(payload) > _MOST_BYTES:
            return False
        try:
            await line.order("set", "ssl", self._kind, str(self.copy), payload=payload)
            answer = await line.ask("commit", "ssl", self._kind, str(self.copy))
            if not answer.endswith("Success!"):
                raise DataPlaneError(f"HAProxy refused 'commit ssl': {answer}")
        except DataPlaneError:
            await line.ask("abort", "ssl", self._kind, str(self.copy))
            raise
        return True

    @property
    def _kind(self) -> str:
        return "ca-file" if self.is_authority else "cert"


def _check_pair(path: Path, content: bytes) -> None:
    handle = os.memfd_create("pair")  # the ssl module takes a path only, and the key belongs on no disk
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(f"/proc/self/fd/{handle}", password="")
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"{path}: not a certificate, its chain and its key in one file: {error.strerror or error}"
            ) from error


def _check_authority(path: Path, content: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode())
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{path}: not the certificate of a CA: {error}") from error


def _pem(content: bytes) -> str:
    """Return the PEM blocks and nothing between them: an empty line would end the command they go with."""
    text = re.sub(r"[ \t\r]*\n", "\n", content.decode(errors="replace"))
    return "".join(f"{found[0]}\n" for found in _BLOCK.finditer(text))
