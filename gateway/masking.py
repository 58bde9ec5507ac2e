"""Hides what looks like a secret in text that is kept or shown. No I/O."""

from __future__ import annotations

import re

HIDDEN = "[hidden]"

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL)
#: ``scheme://user:password@host``; the password may hold an @.
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):[^\s/]*@")
#: A word that says what follows it: ``token=…``, ``Authorization: Bearer …``, ``"password": "…"``.
_NAMED = re.compile(
    r"(?i)\b([\w-]*(?:token|passw(?:or)?d|secret|cookie|authorization|api-?key))(\"?\s*[=:]\s*)"
    r"(?:(?:bearer|token|basic)\s+)?[^\s,;&]+"
)
#: The gateway's own tokens, cookies and codes (43 characters: secrets.token_urlsafe(32)), Fernet's keys (the
#: same and an equals sign) and tokens, and hashes (SHA-256 in hex). Not what ssh calls a key's fingerprint.
_BARE = re.compile(
    r"(?<![\w/+-])(?<!SHA256:)(?:[A-Za-z0-9_-]{43}=?|gAAAAA[A-Za-z0-9_=-]{60,}|[0-9a-f]{64})(?![\w/+=-])",
    re.ASCII,
)


def masked(text: str) -> str:
    """Return ``text`` without private keys, passwords in URLs, and the gateway's tokens and their hashes."""
    text = _PEM.sub(HIDDEN, text)
    text = _URL_PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    text = _NAMED.sub(rf"\1\2{HIDDEN}", text)
    return _BARE.sub(HIDDEN, text)
