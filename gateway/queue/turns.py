"""Whose turn it is where jobs are hidden, so that each user's are asked for alone. No I/O."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gateway.errors import GatewayError
from gateway.model import Listing

#: Seconds between two questions for one user's jobs.
EVERY = 30.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """When somebody's jobs were last asked for, which, and the answer or why there was none."""

    at: float
    error: GatewayError | None = None
    names: frozenset[str] = frozenset()
    answer: Listing | None = None


class Turns:
    """Remembers whose jobs were asked for when. Who waits longest comes first; a new one waits for nobody."""

    def __init__(self) -> None:
        self._asked: dict[str, _Asked] = {}

    def due(self, owners: Collection[str], now: float) -> list[str]:
        """Return those whose turn it is, in order; forget those who were asked for long ago and have no job.

        Args:
            owners: All who have a job.
            now: Seconds, of a clock that only grows.
        """
        for owner in [*self._asked]:
            if owner not in owners and now - self._asked[owner].at >= EVERY:
                del self._asked[owner]
        waiting = {owner: self._last(owner) for owner in owners if now - self._last(owner) >= EVERY}
        return sorted(waiting, key=lambda owner: (waiting[owner], owner))

    def _last(self, owner: str) -> float:
        known = self._asked.get(owner)
        return known.at if known else float("-inf")

    def note(self, owner: str, now: float, error: GatewayError | None = None) -> None:
        """Remember that somebody's jobs are asked for now, or why there was no answer."""
        self._asked[owner] = _Asked(now, error)

    def answered(self, owner: str, names: Collection[str], answer: Listing, now: float) -> None:
        """Remember what somebody's own account shows of these jobs."""
        self._asked[owner] = _Asked(now, names=frozenset(names), answer=answer)

    def answer(self, owner: str, name: str, now: float) -> Listing | None:
        """Return what somebody's own account has shown of a job, if it was asked too lately to ask again."""
        known = self._asked.get(owner)
        return known.answer if known and now - known.at < EVERY and name in known.names else None

    def trouble(self, owners: Collection[str]) -> GatewayError | None:
        """Return why nothing is known: the last answers for all of these failed, and may not next time."""
        errors = [known.error for owner in owners if (known := self._asked.get(owner)) and known.error]
        transient = [error for error in errors if error.transient]
        return transient[-1] if owners and len(transient) == len(owners) else None
