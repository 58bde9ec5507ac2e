"""Regular expressions that a site may use: the same in Python and JavaScript, and never slow.

Both engines try one way after the other. A drop-in must not hold up the whole gateway, so the number of ways
in which a pattern can match a line is limited, and repetitions in repetitions are refused.
"""

from __future__ import annotations

import re

#: The longest line that a pattern is ever tried with.
_LINE = 200
#: The most ways: some milliseconds.
_WAYS = 100_000

_TOKEN = re.compile(
    r"""(?P<one> \[\^?(?:\\[dw\\\]\[^.-]|[^\\\[\]])+\] | \\[dw.^$*+?()\[\]{}|\\/-] | [^\\\[\]{}()*+?|^$] )
    | (?P<repeat> [*+?] | \{\d{1,3}(?:,\d{0,3})?\} )
    | (?P<open> \((?:\?:)? )
    | (?P<close> \) )
    | (?P<or> \| )""",
    re.VERBOSE | re.ASCII,
)


def pattern_fault(pattern: str) -> str:
    r"""Return what is wrong with a pattern, empty if nothing is.

    Characters, ``.``, classes, ``\d`` and ``\w``, ``|``, groups that are optional at most, and repetitions
    of one character or class.
    """
    rest = pattern.removeprefix("^")
    rest = rest[:-1] if rest.endswith("$") and not rest.endswith("\\$") else rest
    before, ways, place = "open", 1, 0
    while place < len(rest):
        token = _TOKEN.match(rest, place)
        if token is None:
            return f"{rest[place : place + 10]!r} cannot be used in a pattern here"
        kind, word, place = str(token.lastgroup), token[0], token.end()
        if kind == "repeat":
            if before != "one" and not (before == "close" and word == "?"):
                return f"{word} can only follow a character or a class"
            ways *= _choices(word)
        elif kind == "or":
            ways *= 2
        before = kind
    if ways > _WAYS:
        return "the pattern has too many repetitions and alternatives"
    try:
        re.compile(pattern, re.ASCII)
    except re.error as error:
        return f"the pattern is none: {error}"
    return ""


def _choices(repeat: str) -> int:
    """Return in how many ways a repetition can go."""
    if repeat == "?":
        return 2
    least, comma, most = repeat.strip("{}").partition(",")
    if repeat in "*+" or (comma and not most):
        return _LINE
    return max(1, int(most) - int(least) + 1) if comma else 1
