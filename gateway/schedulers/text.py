"""Text that comes from a scheduler, for people."""

import re


def one_line(text: str) -> str:
    """Return text from outside as one line of at most 400 characters that is fit for a log or a page."""
    return re.sub(r"[\x00-\x20\x7f]+", " ", text).strip()[:400]
