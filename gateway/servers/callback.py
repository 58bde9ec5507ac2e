"""Where a job calls in its port if its scheduler does not take it, and how it proves that it is that job."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Callback:
    """The hub's address for jobs.

    ``url`` is what a server's id is put behind; empty for none. ``ca`` is the CA of the hub's certificate, in
    PEM, where it is not one that compute nodes know.
    """

    url: str = ""
    ca: bytes = b""

    def files(self, token: str) -> Mapping[str, bytes]:
        """Return what a job needs to call: files for its state directory.

        Args:
            token: The server's.
        """
        files = {"callback": f"Authorization: Bearer {proof(token)}\n".encode()}
        return {**files, "hub-ca.pem": self.ca} if self.ca else files


def proof(token: str) -> str:
    """Return what the job of a server with this token shows: worth nothing but for its one call."""
    return hmac.new(token.encode(), b"callback", hashlib.sha256).hexdigest()


def is_proof(shown: str, token: str) -> bool:
    """Return whether that is the proof, in a time that says nothing about it."""
    return hmac.compare_digest(shown.encode(), proof(token).encode())
