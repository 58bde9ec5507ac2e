"""The secrets that the gateway's files hold, so that none of them goes into an archive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

from gateway.config import Settings
from gateway.store.database import secrets_in

#: Shorter ones are words that stand everywhere.
_SHORTEST = 4
_PRIVATE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", re.DOTALL)


def known_secrets(settings: Settings) -> frozenset[str]:
    """Return the passwords and keys that the configuration leads to. What cannot be read is no secret."""
    found = {*_words(settings), *_keys(settings)}
    return frozenset(secret for secret in found if len(secret) >= _SHORTEST)


def _words(settings: Settings) -> Iterator[str]:
    words = [
        *secrets_in(settings.database_url),
        _read(Path(settings.ldap.reader_password_file or "/dev/null")),
        _read(settings.state_dir / "secret.key"),
    ]
    for word in words:
        yield from (word, word.strip(), quote(word.strip(), safe=""), quote_plus(word.strip()))


def _keys(settings: Settings) -> Iterator[str]:
    """Yield each line of the private keys: a line alone is a good part of one."""
    certificate = Path(settings.gateway.tls_certificate or "/dev/null")
    directories = [settings.state_dir / "ca", settings.state_dir / "ssh-ca", settings.run_dir]
    files = [certificate, *(path for place in directories if place.is_dir() for path in place.rglob("*"))]
    for path in files:
        text = _read(path).replace("\\n", "\n")  # as JSON writes it
        for block in _PRIVATE.findall(text):
            yield from (line.strip() for line in block.splitlines())


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace") if path.is_file() else ""
    except OSError:
        return ""
