"""Secrets at rest: encrypted with a key that lies beside the database, in a 0600 file, never in it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from gateway.errors import ConfigError
from gateway.model import Secrets


class Seal:
    """Encrypts a server's secrets for the database.

    Args:
        key: A Fernet key: 32 bytes in URL-safe base64.

    Raises:
        ConfigError: The key is not one.
    """

    def __init__(self, key: bytes) -> None:
        try:
            self._fernet = Fernet(key)
        except ValueError as error:
            raise ConfigError(f"the key for the database's secrets is damaged: {error}") from None

    @classmethod
    def open(cls, path: Path) -> Seal:
        """Return the seal whose key is in ``path``; make the file (0600) if there is none.

        Raises:
            ConfigError: The file cannot be read or made, or holds no key.
        """
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(_read(path))
        except OSError as error:
            raise ConfigError(f"{path} cannot be made: {error.strerror}") from None
        key = Fernet.generate_key()
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        return cls(key)

    def close(self, secrets: Secrets) -> bytes:
        """Return ``secrets``, encrypted."""
        return self._fernet.encrypt(json.dumps(asdict(secrets)).encode())

    def unseal(self, sealed: bytes) -> Secrets:
        """Return what :meth:`close` was given.

        Raises:
            ConfigError: It was sealed with another key.
        """
        try:
            return Secrets(**json.loads(self._fernet.decrypt(sealed)))
        except InvalidToken:
            raise ConfigError("the database's secrets were written with another secret.key") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
