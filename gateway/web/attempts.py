"""How often somebody may try passwords: failures are counted in memory, for a while."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta


class FailedLogins:
    """Counts tries by key (a name and an address, or an address) within a window of time.

    A try counts from its beginning, so that many at once do not slip through; a good login wipes its key.

    Args:
        limit: Tries in a window, to a key.
        window: From the first of them.
        size: Keys kept at most; the oldest is forgotten first.
    """

    def __init__(self, limit: int, window: timedelta, size: int = 10_000) -> None:
        self._limit, self._window, self._size = limit, window, size
        self._tries: OrderedDict[str, tuple[int, datetime]] = OrderedDict()

    def begin(self, key: str, now: datetime) -> timedelta:
        """Count a try. Returns how long to wait before it: zero if it may be made now."""
        count, since = self._tries.get(key, (0, now))
        if now - since >= self._window:
            count, since = 0, now
        if count >= self._limit:
            return self._window - (now - since)
        self._tries[key] = (count + 1, since)
        while len(self._tries) > self._size:
            self._tries.popitem(last=False)
        return timedelta(0)

    def take_back(self, key: str) -> None:
        """Do not count a try after all: nobody looked at the password."""
        count, since = self._tries.get(key, (0, None))
        if since is not None and count:
            self._tries[key] = (count - 1, since)

    def forget(self, key: str) -> None:
        """Wipe a key: its password was right."""
        self._tries.pop(key, None)
