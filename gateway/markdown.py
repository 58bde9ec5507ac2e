"""A small subset of Markdown, for what a cluster's administrators say to people: text to safe HTML. Pure.

There are paragraphs, line breaks, ``**bold**``, ``*italic*``, `` `code` ``, lists (``- ``, ``1. ``) and
``[links](https://…)`` with http or https. Everything else, HTML and images too, is shown as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from itertools import groupby
from urllib.parse import urlsplit

_INLINE = re.compile(
    r"`(?P<code>[^`\n]+)`"
    r"|(?<!!)\[(?P<text>[^\[\]\n]+)\]\((?P<url>https?://[!#-'*-;=?-~]+)\)"
    r"|\*\*(?P<bold>(?=\S)[^*\n]+(?:\*[^*\n]+\*[^*\n]*)?)\*\*"
    r"|\*(?P<italic>(?=\S)[^*\n]+)\*"
)
_BULLET = re.compile(r"[-*] +(?=\S)")
_NUMBERED = re.compile(r"[0-9]{1,3}[.)] +(?=\S)")


def to_html(text: str) -> str:
    """Return HTML that shows ``text``: of p, br, strong, em, code, ul, ol, li and a, and nothing else."""
    blocks = re.split(r"\n[ \t]*(?:\n[ \t]*)+", text.strip("\n"))
    return "\n".join(html for block in blocks for html in _block(block))


def _block(block: str) -> Iterator[str]:
    lines = [line.strip() for line in block.split("\n") if line.strip()]
    for tag, group in groupby(lines, _kind):
        if tag == "p":
            yield f"<p>{'<br>'.join(_inline(line) for line in group)}</p>"
        else:
            mark = _BULLET if tag == "ul" else _NUMBERED
            items = "".join(f"<li>{_inline(mark.sub('', line, count=1))}</li>" for line in group)
            yield f"<{tag}>{items}</{tag}>"


def _kind(line: str) -> str:
    return "ul" if _BULLET.match(line) else "ol" if _NUMBERED.match(line) else "p"


def _inline(text: str) -> str:
    parts, at = [], 0
    for found in _INLINE.finditer(text):
        parts += [escape(text[at : found.start()]), _styled(found)]
        at = found.end()
    return "".join([*parts, escape(text[at:])])


def _styled(found: re.Match[str]) -> str:
    match found.lastgroup:
        case "code":
            return f"<code>{escape(found['code'])}</code>"
        case "bold":
            return f"<strong>{_inline(found['bold'])}</strong>"
        case "italic":
            return f"<em>{_inline(found['italic'])}</em>"
        case _:
            if not _is_plain(found["url"]):
                return escape(found[0])
            href = escape(found["url"])
            return f'<a href="{href}" rel="noopener noreferrer">{_inline(found["text"])}</a>'


def _is_plain(url: str) -> bool:
    """Return whether an address leads where it seems to lead: no name and password stand before the host."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False
