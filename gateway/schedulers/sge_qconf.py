"""What Grid Engine's qconf shows of queues, projects, lists and calendars: lines of a key and its value."""

import re
from collections.abc import Iterator, Mapping


def records(text: str, first: str) -> Iterator[Mapping[str, str]]:
    """Yield what it shows of several things, each of which begins with the key ``first``.

    A backslash at a line's end joins it to the next.
    """
    for block in re.split(rf"^(?={first}\s)", text.replace("\\\n", " "), flags=re.M):
        pairs = (line.split(None, 1) for line in block.splitlines())
        fields = {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
        if first in fields:
            yield fields


def listed(text: str) -> list[str]:
    """Return the words of a value, which are separated by blanks or commas; NONE is none."""
    words = [word for word in re.split(r"[\s,]+", text) if word]
    return [] if words in (["NONE"], ["none"]) else words
