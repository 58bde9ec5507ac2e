"""What the doctor found, as text and as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gateway import __version__
from gateway.doctor.check import Check, Status

_WORDS = {
    Status.OK: "ok",
    Status.WARNING: "warning",
    Status.NOT_OK: "NOT OK",
    Status.SKIPPED: "skipped",
}
_WIDTH = max(map(len, _WORDS.values()))
#: Seconds from which on it is said how long a step took.
_SLOW = 1.0


def line(check: Check) -> str:
    """Return a step as lines of text: what was seen, and below it what to type."""
    finding = check.finding
    taken = finding.status is not Status.SKIPPED
    took = f" ({check.seconds:.2f} s)" if taken and (check.timed or check.seconds >= _SLOW) else ""
    head = f"{_WORDS[finding.status]:<{_WIDTH}} {check.name}: {finding.seen}{took}"
    mend = [
        f"{' ' * _WIDTH} {'→' if not n else ' '} {text}" for n, text in enumerate(finding.mend.splitlines())
    ]
    return "\n".join([head, *mend])


def summary(checks: Sequence[Check], seconds: float) -> str:
    """Return the last line."""
    counts = {status: sum(check.finding.status is status for check in checks) for status in Status}
    parts = [f"{count} {status}" for status, count in counts.items() if count or status is Status.OK]
    return f"{', '.join(parts)}; {seconds:.1f} s"


def document(checks: Sequence[Check], seconds: float) -> str:
    """Return all steps as one JSON document: ``version``, ``ok``, ``seconds`` and the list ``checks``."""
    return json.dumps(
        {
            "version": __version__,
            "ok": all_ok(checks),
            "seconds": round(seconds, 3),
            "checks": [_entry(check) for check in checks],
        },
        ensure_ascii=False,
        indent=1,
    )


def all_ok(checks: Sequence[Check]) -> bool:
    """Return whether nothing is not ok."""
    return not any(check.finding.status is Status.NOT_OK for check in checks)


def _entry(check: Check) -> dict[str, Any]:
    finding = check.finding
    return {
        "name": check.name,
        "status": finding.status.value,
        "seen": finding.seen,
        "mend": finding.mend,
        "seconds": round(check.seconds, 3),
    }
