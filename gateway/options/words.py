"""Amounts as people read them, and as they type them."""

from __future__ import annotations


def format_walltime(minutes: int) -> str:
    """Return a walltime in words: ``90`` minutes are ``1 hour 30 minutes``."""
    days, rest = divmod(minutes, 24 * 60)
    hours, left = divmod(rest, 60)
    parts = [(days, "day"), (hours, "hour"), (left, "minute")]
    return " ".join(f"{n} {unit}{'' if n == 1 else 's'}" for n, unit in parts if n) or "0 minutes"


def format_memory(megabytes: int) -> str:
    """Return an amount of memory in words: ``1536`` megabytes are ``1.5 GB``."""
    for size, unit in ((1024 * 1024, "TB"), (1024, "GB")):
        if megabytes >= size and megabytes * 10 % size == 0:
            return f"{megabytes / size:g} {unit}"
    return f"{megabytes} MB"


def type_walltime(minutes: int) -> str:
    """Return a walltime as one types it: ``90m``."""
    for size, unit in ((24 * 60, "d"), (60, "h")):
        if minutes % size == 0:
            return f"{minutes // size}{unit}"
    return f"{minutes}m"


def type_memory(megabytes: int) -> str:
    """Return an amount of memory as one types it: ``4G``."""
    return f"{megabytes // 1024}G" if megabytes % 1024 == 0 else f"{megabytes}M"


def count(number: int, noun: str) -> str:
    """Return a number of things: ``1 core``, ``2 cores``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def count_gpus(number: int, kind: str) -> str:
    """Return a number of GPUs: ``2 a100 GPUs``; a type that only says that they are (``gpu``) is left out."""
    plain = kind.casefold() in ("gpu", "gpus", "ngpu", "ngpus")
    return count(number, "GPU" if plain else f"{kind} GPU".strip())


def sentence(error: ValueError) -> str:
    """Return an error's words as a sentence."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def shown(text: str) -> str:
    """Return text from outside as one short line within a sentence."""
    return repr(text[:60])


def within(label: str) -> str:
    """Return a field's label as it stands within a sentence: ``GPU type`` keeps its capitals."""
    return label if label[:2].isupper() else label[:1].lower() + label[1:]
