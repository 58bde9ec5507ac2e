"""Hides what looks like a secret in text that is kept or shown. No I/O.

Users write much of that text. So every pattern takes time in proportion to the text: it begins at a fixed
word, or where a run begins, and what it has run over it does not run over again.
"""

from __future__ import annotations

import re

HIDDEN = "[hidden]"

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL)
#: The end of a block whose beginning was cut off: lines of Base64 and what ends them, if it does.
_PEM_END = re.compile(r"^(?:[A-Za-z0-9+/=]{1,80}\r?\n)++(-----END [A-Z0-9 ]+-----)?", re.MULTILINE)
#: ``scheme://user:password@host``; the password may hold an @.
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):[^\s/]*@")
#: What a name ends with whose value is a secret. ``passwd`` is a file too, and some keys are public.
_NAMES = (
    r"token|(?<!/etc/)passwd|password|passphrase|secret|cookie|authorization|api[-_ ]?key"
    r"|(?<!host)(?<!public)(?<!pub)(?<!primary)(?<!foreign)[-_]key|[-_](?:pass|pwd|pw)|\b(?:bind|root)pw"
)
_SCHEME = r"(?:(?:bearer|token|basic|negotiate|digest|ntlm)\s+)?"
#: In quotes, up to the closing one or the line's end; quotes of a text in quotes have backslashes.
_QUOTED = r"""(?:"(?:[^"\\\n]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'?|\\++"[^"\n]*+"?|\\++'[^'\n]*+'?)"""
_WORD = r"[^\s,;&]++"
#: What a system says of a file; a file of a secret may be called by one of the names.
_ERROR_NEXT = r"(?!(?:Permission denied|No such file or directory|Is a directory|Not a directory)\b)"
#: A name and its value: ``token=…``, ``Authorization: Bearer …``, ``"password": "…"``,
#: ``environ['API_KEY'] = …``.
_NAMED = re.compile(
    rf"(?i)({_NAMES})(\\*+[\"']?\]?\s*+[=:]{{1,2}}>?\s*+){_ERROR_NEXT}{_SCHEME}(?:{_QUOTED}|{_WORD})"
)
#: Values of more than one word: headers of cookies, and what is called a phrase.
_TO_LINE_END = re.compile(r"(?i)\b((?:set-)?cookie: |passphrase\s*+[=:][ \t]*+(?=[^\s\"'\\]))[^\n\"']++")
#: ``bindpw …`` in the configuration of a directory's client, ``--password …`` on a command line.
_BLANK = re.compile(
    r"(?i)(\b(?:bind|root)pw|(?<![\w-])--[\w-]{0,40}?(?:token|passw(?:or)?d|passphrase|secret|[-_]key))"
    rf"([ \t]++)(?![=:]){_ERROR_NEXT}(?:{_QUOTED}|{_WORD})"
)
#: ``curl -u user:password``, and not ``docker run -u 1000:1000``.
_USER = re.compile(
    r"(?<!\S)(-u|--(?:proxy-)?user)([ \t=]++)(?!\d++:\d++(?!\S))"
    r"(?:\"[^\s:\"']++:[^\"\n]*+\"?|'[^\s:\"']++:[^'\n]*+'?|[^\s:\"']++:(?!//)\S++)"
)
#: The gateway's own tokens, cookies and codes (43 characters: secrets.token_urlsafe(32)), Fernet's keys (the
#: same and an equals sign) and tokens, and hashes (SHA-256 in hex). Not what ssh calls a key's fingerprint.
_BARE = re.compile(
    r"(?<![\w/+-])(?<!SHA256:)(?:[A-Za-z0-9_-]{43}=?|gAAAAA[A-Za-z0-9_-]{60,}+={0,2}|[0-9a-f]{64})(?![\w/+=-])",
    re.ASCII,
)


def masked(text: str) -> str:
    """Return ``text`` without private keys, passwords in URLs, and the gateway's tokens and their hashes.

    Nor does it hold the values of what is called a password, a token, a key and so on.
    """
    text = _PEM.sub(HIDDEN, text)
    text = _PEM_END.sub(lambda found: HIDDEN if found[1] else found[0], text)
    text = _URL_PASSWORD.sub(rf"\1:{HIDDEN}@", text)
    text = _TO_LINE_END.sub(rf"\1{HIDDEN}", text)
    text = _BLANK.sub(rf"\1\2{HIDDEN}", text)
    text = _NAMED.sub(rf"\1\2{HIDDEN}", text)
    text = _USER.sub(rf"\1\2{HIDDEN}", text)
    return _BARE.sub(HIDDEN, text)
