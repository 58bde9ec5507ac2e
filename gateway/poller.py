"""Asks one cluster for the jobs of all its servers, over and over, at a tempo that fits what is expected."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from gateway.errors import GatewayError
from gateway.model import Asked, Listing

_log = logging.getLogger(__name__)

#: What a poll brings: a good listing, or why there is no news.
News = Listing | GatewayError
#: Returns all jobs to ask for.
Jobs = Callable[[], Awaitable[Collection[Asked]]]
#: Takes the news.
OnNews = Callable[[News], Awaitable[None]]


class Lister(Protocol):
    """What a poller asks: the cluster's ``Queue``."""

    async def listing(self, asked: Collection[Asked]) -> Listing:
        """Return all these jobs; raise a GatewayError if they are not known."""
        ...


@dataclass(frozen=True, slots=True)
class Tempo:
    """Seconds between polls.

    ``busy`` while a start or an end is expected, which is for ``busy_for`` around it; else ``idle``. After
    failures twice as long each time, from ``busy`` to ``slowest``; a hurry may break each of these pauses
    once, which is then made up for. ``spread`` is the share by which idle pauses and those after failures
    vary, so that clusters and gateways do not march in step.
    """

    busy: float = 2.0
    busy_for: float = 60.0
    idle: float = 15.0
    spread: float = 0.2
    slowest: float = 60.0


class Poller:
    """Polls one cluster, never twice at once.

    Args:
        queue: Whom to ask.
        tempo: How often.
        clock: Seconds, only ever growing.
        spread: Returns a number between its two arguments.
    """

    def __init__(
        self,
        queue: Lister,
        tempo: Tempo | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._queue = queue
        self._tempo = tempo or Tempo()
        self._clock = clock
        self._spread = spread
        self._busy_until = clock()
        self._expected: float | None = None
        self._failures = 0
        self._sooner: float | None = None
        self._may_break = True
        self._silent_since: datetime | None = None
        self._woken = asyncio.Event()
        self._asking = asyncio.Lock()
        self._next: asyncio.Task[News] | None = None
        self._polls: set[asyncio.Task[News]] = set()
        self._jobs: Jobs | None = None
        self._on_news: OnNews | None = None

    def __repr__(self) -> str:
        state = "no news" if self._failures else "busy" if self._clock() < self._busy_until else "idle"
        return f"<Poller {self._queue!r} {state}>"

    @property
    def silent_since(self) -> datetime | None:
        """Since when there is no news, None if the last poll was good."""
        return self._silent_since

    def hurry(self) -> None:
        """Something is about to change: poll fast from now on for a while.

        After failures there is one poll soon, and then the pause that it broke: what does not answer is not
        asked more often because many people want something of it.
        """
        now = self._clock()
        self._busy_until = now + self._tempo.busy_for
        if self._failures and self._may_break:
            self._sooner, self._may_break = now + self._tempo.busy, False
        self._woken.set()

    def expect(self, seconds: float) -> None:
        """The scheduler expects to start a job in so many seconds: poll fast around then.

        Only the earliest of several counts; after it the next is expected anew.
        """
        start = self._clock() + max(0.0, seconds) - self._tempo.busy_for / 2
        if self._expected is None or start < self._expected:
            self._expected = start
            self._woken.set()

    async def run(self, jobs: Jobs, on_news: OnNews) -> None:
        """Poll until cancelled.

        Args:
            jobs: Returns the jobs of all live servers of the cluster. For none, nothing is run.
            on_news: Takes what each poll brought, one after the other. It must not wait for ``now``.
        """
        self._jobs, self._on_news = jobs, on_news
        try:
            while True:
                try:
                    await self.now()
                except Exception:
                    self._failures += 1
                    _log.exception("%r: a poll failed", self)
                await self._sleep()
        finally:
            self._jobs = self._on_news = None
            for poll in self._polls:
                poll.cancel()
            await asyncio.gather(*self._polls, return_exceptions=True)

    async def now(self) -> News:
        """Poll at once and return the news, which is also given to ``on_news``.

        The poll begins after this call, so it shows what was done before; those who wait for the same one
        share it. Only while ``run`` runs.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._turn())
            self._polls.add(self._next)
            self._next.add_done_callback(self._polls.discard)
        return await asyncio.shield(self._next)

    async def _turn(self) -> News:
        try:
            await self._asking.acquire()
        finally:
            self._next = None  # whoever comes from here on wants a newer one
        try:
            if self._jobs is None or self._on_news is None:
                raise RuntimeError(f"{self!r} does not run")
            broken, self._sooner = self._sooner is not None, None
            jobs = await self._jobs()
            if not jobs:
                self._note(None)
                return Listing(())
            news = await self._ask(jobs, broken)
            await self._on_news(news)
            return news
        finally:
            self._asking.release()

    async def _ask(self, jobs: Collection[Asked], broken: bool) -> News:
        try:
            listing = await self._queue.listing(jobs)
        except GatewayError as error:
            self._note(error, broken)
            return error
        self._note(None)
        return listing

    def _note(self, error: GatewayError | None, broken: bool = False) -> None:
        """Count failures, but of polls that broke a pause; log the first of a row and its end."""
        if error is None:
            if self._failures:
                _log.info("%r: there is news again, after %d polls without", self, self._failures)
            self._failures, self._silent_since, self._sooner, self._may_break = 0, None, None, True
            return
        if self._silent_since is None:
            self._silent_since = datetime.now(UTC)
            _log.warning("%r: %s", self, error)
        if not broken:
            self._failures += 1
            self._may_break = self._sooner is None

    def _pause(self) -> float:
        """Return how many seconds should lie between the last poll and the next."""
        tempo, now = self._tempo, self._clock()
        if self._failures:
            slow = tempo.busy * 2.0 ** min(self._failures, 16)
            return min(tempo.slowest, slow) * self._spread(1 - tempo.spread, 1 + tempo.spread)
        if self._expected is not None and now >= self._expected:
            self._busy_until = max(self._busy_until, self._expected + tempo.busy_for)
            self._expected = None
        if now < self._busy_until:
            return tempo.busy
        pause = tempo.idle * self._spread(1 - tempo.spread, 1 + tempo.spread)
        return pause if self._expected is None else min(pause, max(tempo.busy, self._expected - now))

    async def _sleep(self) -> None:
        """Wait for the next poll's time. ``hurry`` and ``expect`` may bring it as near as ``busy``."""
        polled = self._clock()
        while True:
            self._woken.clear()
            due = polled + self._pause()
            left = min(due, self._sooner or due) - self._clock()
            if left <= 0:
                return
            try:
                # Not wait_for: before Python 3.12 it can swallow a cancellation that comes with the wakening.
                async with asyncio.timeout(left):
                    await self._woken.wait()
            except TimeoutError:
                return
