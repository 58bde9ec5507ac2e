"""What is written of one server: the steps of its life, what is noted meanwhile, what happens on the way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.errors import GatewayError
from gateway.lifecycle import ROUTED, Event
from gateway.model import JobStatus, Server
from gateway.servers import patience
from gateway.servers.cluster import News
from gateway.servers.tools import Tools
from gateway.store.timeline import Timeline
from gateway.timeline import Happening

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Done:
    """What an act came to, for the timeline: a sentence for the server's owner, more for administrators."""

    text: str = ""
    detail: str = ""


class Record:
    """Writes one server's steps and notes, tells those who watch, and keeps its timeline.

    Args:
        tools: What it works with.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._seen = ""
        self._outcome = ""
        self._trouble = ""
        self._trouble_since = 0.0
        self._told: GatewayError | None = None
        self._said: tuple[Server, Happening, str, str] | None = None
        self._said_at = 0.0
        self._unsaid, self._unsaid_at = 0, datetime.now(UTC)

    async def move(self, server: Server, event: Event, text: str = "", **changes: Any) -> Server:
        """Take the server one step along the lifecycle's table; see to its route where it gets or loses one.

        Raises:
            GatewayError: It could not be written, or the route could not be seen to.
        """
        moved = await self._tools.store.move(server.id, event, text, **changes)
        log.info("%s %s -> %s (%s)", moved, server.phase, moved.phase, event)
        self._tools.feed.publish(moved)
        self._tools.metrics.moved(server.phase, moved, event)
        if (server.phase in ROUTED) != (moved.phase in ROUTED):
            await self.route(moved)
        return moved

    async def note(self, server: Server, **changes: Any) -> Server:
        """Write those of the changes that are none yet."""
        news = {key: value for key, value in changes.items() if getattr(server, key) != value}
        if not news:
            return server
        noted = await self._tools.store.note(server.id, **news)
        self._tools.feed.publish(noted)
        return noted

    async def route(self, server: Server) -> None:
        """See that the proxy has the server's route, or has it no longer."""
        async with self.act(server, Happening.ROUTE) as done:
            await self._tools.routing.sync(server.user)
            why_not = self._tools.routing.failure(server.id)
            done.text = "Browsers are led to it."
            if server.phase not in ROUTED:
                done.text = "Browsers are not led to it any more."
            elif why_not:
                done.text, done.detail = "The proxy does not lead to it yet.", why_not

    # --- the timeline -------------------------------------------------------------------------------

    def tell(
        self, server: Server, what: Happening, text: str, detail: str = "", seconds: float | None = None
    ) -> None:
        """Put something into the timeline. What is said again and again is counted, and written now and then.

        Args:
            server: As it is now.
            what: What kind of thing.
            text: A sentence that the server's owner may read.
            detail: More, for administrators.
            seconds: How long it took.
        """
        said, now = (server, what, text, detail), time.monotonic()
        same = self._said is not None and self._said[1:] == said[1:] and self._said[0].phase is server.phase
        if same and now - self._said_at < patience.SAME_AGAIN:
            self._unsaid += 1
            self._unsaid_at = datetime.now(UTC)
            return
        self._say_unsaid()
        self._tools.store.timeline.add(*said, seconds=seconds)
        self._said, self._said_at = said, now

    def _say_unsaid(self) -> None:
        if self._said and self._unsaid:
            self._tools.store.timeline.add(*self._said, times=self._unsaid, at=self._unsaid_at)
        self._unsaid = 0

    @asynccontextmanager
    async def act(self, server: Server, what: Happening) -> AsyncIterator[Done]:
        """Do something outside, and tell what came of it and how long it took.

        Raises:
            GatewayError: What the act raises.
        """
        done, began = Done(), time.monotonic()
        try:
            yield done
        except GatewayError as error:
            self._told = error
            seconds = time.monotonic() - began
            self.tell(server, what, error.public, detail=f"{type(error).__name__}: {error}", seconds=seconds)
            raise
        if done.text:
            self.tell(server, what, done.text, detail=done.detail, seconds=time.monotonic() - began)

    def trouble(self, server: Server, error: GatewayError) -> None:
        """Tell that a step failed, unless the act that failed has told it."""
        if error is not self._told:
            self.tell(server, Happening.TROUBLE, error.public, detail=f"{type(error).__name__}: {error}")
        self._told = None

    def saw(self, server: Server, job: JobStatus | None) -> None:
        """Tell what the scheduler says of the job, in its own words, when they have changed."""
        seen = _in_its_words(job) if job else f"The scheduler does not list job {server.job_id}."
        if seen != self._seen:
            self._seen = seen
            self.tell(server, Happening.SCHEDULER, seen)

    def listened(self, server: Server, news: News) -> None:
        """Tell when the scheduler has fallen silent, and when it speaks again."""
        if news.trouble == self._trouble:
            return
        now = time.monotonic()
        if news.trouble:
            self._trouble_since = now if not self._trouble else self._trouble_since
            self.tell(server, Happening.LISTING, news.trouble, detail=news.detail)
        else:
            text = "The scheduler answers again, after a silence."
            self.tell(server, Happening.LISTING, text, seconds=now - self._trouble_since)
        self._trouble = news.trouble

    def answered(self, server: Server, outcome: str, detail: str) -> None:
        """Tell what comes back through the forward, when it is something else than before."""
        if outcome != self._outcome:
            self._outcome = outcome
            self.tell(server, Happening.PROBE, f"Asked for an answer: {outcome}.", detail=detail)


def _in_its_words(job: JobStatus) -> str:
    reason = f" ({job.reason})" if job.reason else ""
    where = f" on {job.host}" if job.host else ""
    again = f", requeued {job.restarts} times" if job.restarts else ""
    return f"The scheduler says of job {job.job_id}: {job.native or job.state}{reason}{where}{again}."


async def keep_written(timeline: Timeline) -> None:
    """Write what happens into the database, a little later than it happens, until cancelled."""
    try:
        while True:
            await asyncio.sleep(patience.TIMELINE_EVERY)
            await _write(timeline)
    finally:
        await _write(timeline)


async def _write(timeline: Timeline) -> None:
    try:
        await timeline.write()
    except GatewayError as error:
        log.warning("the timelines are written later: %s", error)
    except Exception:
        log.exception("the timelines could not be written")
