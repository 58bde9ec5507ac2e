"""What schedulers share: text that comes from them, for people; and what may stand on their command lines."""

import re
from collections.abc import Collection

from gateway.model import Asked, Completed

#: Fields of the form that each job has: what a site adds to its scripts may not say them again.
FORM = frozenset({"partition", "walltime", "cores", "memory", "gpus"})
#: Why not.
CHOSEN = "is chosen on the form: fix the field there, or give it a default"

_NAME = re.compile(r"gw-[a-z2-7]{6}-[a-z2-7]{10}", re.ASCII)
_INSTANCE = re.compile(r"[a-z2-7]{6}", re.ASCII)
_MARK = re.compile(r"[0-9a-f]{16,64}", re.ASCII)


def one_line(text: str) -> str:
    """Return text from outside as one line of at most 400 characters that is fit for a log or a page."""
    return re.sub(r"[\x00-\x20\x7f]+", " ", text).strip()[:400]


def no_answer(completed: Completed) -> bool:
    """Whether a time limit (124, or 137 if it had to kill) or the connection's end cut the command off."""
    return completed.status < 0 or completed.status in (124, 137)


def checked_names(asked: Collection[Asked]) -> list[str]:
    """Return the names of the jobs asked for, in order, each once.

    Raises:
        ValueError: There are none, or one is not a job's name as :func:`gateway.model.job_name` makes them.
    """
    names = sorted({job.name for job in asked})
    if not names or not all(_NAME.fullmatch(name) for name in names):
        raise ValueError(f"not job names: {names!r}")
    return names


def checked_instance(instance: str) -> str:
    """Return what the names of an instance's jobs begin with: ``gw-INSTANCE-``.

    Raises:
        ValueError: These are not an instance's six letters.
    """
    if not _INSTANCE.fullmatch(instance):
        raise ValueError(f"not an instance: {instance!r}")
    return f"gw-{instance}-"


def checked_mark(mark: str) -> str:
    """Return the mark.

    Raises:
        ValueError: It could be guessed, or would be syntax.
    """
    if not _MARK.fullmatch(mark):
        raise ValueError(f"not a mark: {mark!r}")
    return mark
