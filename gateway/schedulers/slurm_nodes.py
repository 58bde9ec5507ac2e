"""Slurm's lists of nodes, ``cn[1-3,07],gpu1``, compared without writing out the names that they stand for."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

#: The most ranges and names that are looked at of one text.
MOST = 100_000
#: What stands between commas that are in no brackets. It fails nowhere far from where it began.
_PART = re.compile(r"(?:[^\[\],]|\[[^\[\]]*\])++")
_RANGES = re.compile(r"([^\[\],]+)\[([0-9,-]+)\]", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)
_NAME = re.compile(r"(.*?[^0-9])([0-9]{1,9})", re.ASCII)

#: By what stands before the numbers and by how many digits they are printed with: from where to where, in
#: order and without gaps that are none. A name without a number has 0 digits.
Nodes = Mapping[tuple[str, int], Sequence[tuple[int, int]]]


class Budget:
    """How much may still be read of one text, which may hold many lists."""

    def __init__(self, left: int = MOST) -> None:
        self.left = left

    def take(self, count: int) -> bool:
        """Return whether there is so much left, and take it."""
        self.left = max(self.left - count, -1)
        return self.left >= 0


def read(text: str, budget: Budget) -> Nodes:
    """Return the nodes of a list; none if nobody says, or if the list is longer than the budget allows.

    Args:
        text: As scontrol prints it. A part that is not understood is a node of that name.
        budget: What is left for the text that the list is from.
    """
    if text in ("", "(null)") or not budget.take(text.count(",") + 1):
        return {}
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for prefix, digits, first, last in _spans(text):
        found.setdefault((prefix, digits), []).append((first, last))
    return {key: _joined(spans) for key, spans in found.items()}


def within(nodes: Nodes, others: Nodes) -> bool:
    """Return whether all of some nodes, at least one, are among others."""
    return bool(nodes) and all(
        key in others and all(_is_in(span, others[key]) for span in spans) for key, spans in nodes.items()
    )


def _spans(text: str) -> Iterator[tuple[str, int, int, int]]:
    for part in _PART.findall(text):
        several = _RANGES.fullmatch(part)
        if several is None:
            yield _one(part)
            continue
        prefix, ranges = several.groups()
        for each in ranges.split(","):
            if bounds := _RANGE.fullmatch(each):
                yield from _by_digits(prefix, bounds[1], bounds[2] or bounds[1])
            else:
                yield f"{prefix}[{each}]", 0, 0, 0


def _one(name: str) -> tuple[str, int, int, int]:
    numbered = _NAME.fullmatch(name)
    if numbered is None:
        return name, 0, 0, 0
    prefix, number = numbered.groups()
    return prefix, len(number), int(number), int(number)


def _by_digits(prefix: str, first: str, last: str) -> Iterator[tuple[str, int, int, int]]:
    """Yield a range in pieces whose numbers are printed alike: ``8-12`` is 8 to 9 and 10 to 12."""
    low, high = int(first), int(last)
    while low <= high:
        digits = max(len(str(low)), len(first))
        yield prefix, digits, low, min(high, 10**digits - 1)
        low = 10**digits


def _joined(spans: list[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found


def _is_in(span: tuple[int, int], spans: Sequence[tuple[int, int]]) -> bool:
    place = bisect_right(spans, span[0], key=lambda each: each[0])
    return place > 0 and span[1] <= spans[place - 1][1]
