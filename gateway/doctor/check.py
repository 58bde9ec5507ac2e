"""What a step of the doctor's finds. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a step went. Only ``NOT_OK`` makes the whole not ok."""

    OK = "ok"
    WARNING = "warning"
    NOT_OK = "not ok"
    SKIPPED = "skipped"

    @property
    def bears(self) -> bool:
        """Whether steps that need this one can be taken."""
        return self in (Status.OK, Status.WARNING)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen, in one sentence, and what to type against it: one line or several. Neither is secret."""

    status: Status
    seen: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A step that was taken: its name, what it found, how many seconds it took, and whether they matter."""

    name: str
    finding: Finding
    seconds: float = 0.0
    timed: bool = False


def ok(seen: str) -> Finding:
    """Return that all is well."""
    return Finding(Status.OK, seen)


def warning(seen: str, mend: str) -> Finding:
    """Return what works, but not as it should."""
    return Finding(Status.WARNING, seen, mend)


def not_ok(seen: str, mend: str) -> Finding:
    """Return what does not work."""
    return Finding(Status.NOT_OK, seen, mend)


def skipped(why: str) -> Finding:
    """Return why a step was not taken."""
    return Finding(Status.SKIPPED, why)


def worst(findings: Iterable[Finding]) -> Finding:
    """Return several findings of one step as one: what is wrong with any, or else all that is well."""
    found = list(findings)
    for status in (Status.NOT_OK, Status.WARNING):
        if bad := [finding for finding in found if finding.status is status]:
            seen = "; ".join(dict.fromkeys(finding.seen for finding in bad))
            return Finding(status, seen, "\n".join(dict.fromkeys(f.mend for f in bad if f.mend)))
    return ok("; ".join(dict.fromkeys(finding.seen for finding in found)))


def any_of(findings: Iterable[Finding]) -> Finding:
    """Return as one the findings on things of which one is enough: if one is ok, the others are a warning."""
    found = list(findings)
    together = worst(found)
    if together.status is Status.NOT_OK and any(finding.status.bears for finding in found):
        return warning(together.seen, together.mend)
    return together
