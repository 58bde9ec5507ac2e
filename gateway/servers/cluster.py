"""A cluster as the conductor sees it: its parts, and the newest that its scheduler has said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.dataplane.tunnel import Tunnel
from gateway.errors import GatewayError
from gateway.model import Asked, Listing
from gateway.poller import Poller
from gateway.queue import Queue
from gateway.schedulers import Scheduler
from gateway.siteconfig import SiteConfig
from gateway.siteview import SiteView


@dataclass(frozen=True, slots=True)
class Cluster:
    """The parts that act on one cluster. Its site config is what the view shows at that moment."""

    view: SiteView
    scheduler: Scheduler
    queue: Queue
    poller: Poller
    tunnel: Tunnel

    @property
    def site(self) -> SiteConfig:
        """The site config as it is now."""
        return self.view.config


class News:
    """The newest good listing of one cluster and its number; or why there is none.

    Listings are numbered when they begin, so that one that was under way when something was done is not
    taken for one that came after it. ``at`` is when the newest came.

    Args:
        jobs: Returns the jobs to ask for.
        heard: Called after each poll.
    """

    def __init__(self, jobs: Callable[[], Awaitable[Collection[Asked]]], heard: Callable[[], None]) -> None:
        self.listing: Listing | None = None
        self.number = 0
        self.begun = 0
        self.trouble = self.detail = ""
        self.at: datetime | None = None
        self._jobs = jobs
        self._heard = heard

    async def begin(self) -> Collection[Asked]:
        """Return the jobs that the next listing asks for, which begins now."""
        self.begun += 1
        return await self._jobs()

    async def take(self, news: Listing | GatewayError) -> None:
        """Take what a poll brought. No answer is no news: the last listing stands."""
        if isinstance(news, Listing):
            self.listing, self.trouble, self.detail = news, "", ""
            self.number, self.at = self.begun, datetime.now(UTC)
        else:
            self.trouble, self.detail = news.public, f"{type(news).__name__}: {news}"
        self._heard()
