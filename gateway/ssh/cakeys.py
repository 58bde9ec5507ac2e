"""The keys of the gateway's SSH user CA, and how one follows another. No I/O.

A new key is *next* first: login nodes learn to trust it while the current one still signs. Then it becomes
the current one, and the old one is *previous*: until the next rotation it is kept, so that the step can be
taken back, and its public half shown, so that everybody sees which line the login nodes no longer need.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from gateway.errors import ConfigError
from gateway.ssh.known_hosts import HostKey

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
#: The kinds of key that the CA may have.
KEY_KINDS: dict[str, Callable[[], PrivateKey]] = {
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


@dataclass(frozen=True, slots=True)
class CaKey:
    """One key of the CA.

    ``public`` is its line for sshd's TrustedUserCAKeys, without a comment; ``private`` is in OpenSSH's
    format, and may be empty of a previous key.
    """

    public: str
    private: str = field(repr=False)
    created: datetime

    @classmethod
    def make(cls, kind: str, now: datetime) -> CaKey:
        """Return a new key of one of the ``KEY_KINDS``."""
        key = KEY_KINDS[kind]()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        return cls(public_line(key), private.decode(), now)

    @property
    def fingerprint(self) -> str:
        """The fingerprint as ssh-keygen(1) and sshd's log print it."""
        return fingerprint(self.public)


@dataclass(frozen=True, slots=True)
class Keys:
    """The CA's keys: the one that signs, the one that will, and the one that did."""

    current: CaKey
    next: CaKey | None = None
    previous: CaKey | None = None

    def prepared(self, new: CaKey) -> Keys:
        """Return the keys with another one that login nodes learn to trust before it signs.

        Raises:
            ConfigError: There is one already.
        """
        if self.next is not None:
            raise ConfigError(
                "There is a next key already. Install its line on the login nodes, then run "
                "gateway ca rotate --finish (or --cancel, to give it up)."
            )
        return Keys(self.current, new)

    def finished(self) -> Keys:
        """Return the keys with the next one as the one that signs; the old one can be brought back.

        Raises:
            ConfigError: There is no next one.
        """
        if self.next is None:
            raise ConfigError("There is no next key. Make one first: gateway ca rotate")
        return Keys(self.next, None, self.current)

    def taken_back(self) -> Keys:
        """Return the keys as they were before the last step: the previous one signs, the present is next.

        Raises:
            ConfigError: There is no previous one, or its private half is gone.
        """
        if self.previous is None or not self.previous.private:
            raise ConfigError("There is no previous key to go back to.")
        return Keys(self.previous, self.current)

    def cancelled(self) -> Keys:
        """Return the keys without the next one.

        Raises:
            ConfigError: There is none.
        """
        if self.next is None:
            raise ConfigError("There is no next key to give up.")
        return Keys(self.current, None, self.previous)


def public_line(key: PrivateKey) -> str:
    """Return a key's public half as OpenSSH writes it, without a comment."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def fingerprint(line: str) -> str:
    """Return the fingerprint of a public line."""
    kind, base64, *_ = line.split()
    return HostKey(kind, base64).fingerprint


def trusted_keys(keys: Keys) -> str:
    """Return the file for sshd's TrustedUserCAKeys: a line for each key, with a comment that says which."""
    parts = (
        ("signs", keys.current),
        ("next: signs after gateway ca rotate --finish", keys.next),
        ("previous: signs no more (unless gateway ca rotate --back), its line can be removed", keys.previous),
    )
    return "".join(
        f"# {what}; made {key.created:%Y-%m-%d %H:%M} UTC; {key.fingerprint}\n{key.public} gateway\n"
        for what, key in parts
        if key is not None
    )


def printed(keys: Keys) -> bytes:
    """Return the keys, private ones too, as their file holds them."""

    def one(key: CaKey | None) -> dict[str, str] | None:
        if key is None:
            return None
        return {"public": key.public, "private": key.private, "created": key.created.isoformat()}

    named = {"current": one(keys.current), "next": one(keys.next), "previous": one(keys.previous)}
    return json.dumps(named, indent=1).encode() + b"\n"


def parsed(content: bytes) -> Keys:
    """Return the keys that a file holds.

    Raises:
        ValueError, KeyError, TypeError, UnsupportedAlgorithm: It is damaged.
    """

    def one(data: Any) -> CaKey | None:
        if data is None:
            return None
        return CaKey(data["public"], data["private"], datetime.fromisoformat(data["created"]))

    named = json.loads(content)
    current, following, previous = (one(named[name]) for name in ("current", "next", "previous"))
    if current is None:
        raise ValueError("there is no current key")
    can_sign = (current, following, previous if previous and previous.private else None)
    for key in can_sign:
        if key is not None and public_line(loaded(key.private)) != key.public:
            raise ValueError(f"the private key of {key.fingerprint} is another one")
    return Keys(current, following, previous)


def loaded(private: str) -> PrivateKey:
    """Return a private key from OpenSSH's format."""
    key = load_ssh_private_key(private.encode(), password=None)
    if not isinstance(key, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)):
        raise TypeError("a key of an unexpected kind")
    return key
