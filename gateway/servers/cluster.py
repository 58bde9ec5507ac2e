"""A cluster as the conductor sees it: its parts, and the newest that its scheduler has said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from gateway.dataplane.tunnel import Tunnel
from gateway.errors import GatewayError
from gateway.model import Listing
from gateway.poller import Poller
from gateway.queue import Queue
from gateway.schedulers import Scheduler
from gateway.siteconfig import SiteConfig


@dataclass(frozen=True, slots=True)
class Cluster:
    """The parts that act on one cluster."""

    site: SiteConfig
    scheduler: Scheduler
    queue: Queue
    poller: Poller
    tunnel: Tunnel


class News:
    """The newest good listing of one cluster and its number; or why there is none.

    Listings are numbered when they begin, so that one that was under way when something was done is not
    taken for one that came after it.

    Args:
        names: Returns the names to ask for.
        heard: Called after each poll.
    """

    def __init__(self, names: Callable[[], Awaitable[Collection[str]]], heard: Callable[[], None]) -> None:
        self.listing: Listing | None = None
        self.number = 0
        self.begun = 0
        self.trouble = self.detail = ""
        self._names = names
        self._heard = heard

    async def begin(self) -> Collection[str]:
        """Return the names that the next listing asks for, which begins now."""
        self.begun += 1
        return await self._names()

    async def take(self, news: Listing | GatewayError) -> None:
        """Take what a poll brought. No answer is no news: the last listing stands."""
        if isinstance(news, Listing):
            self.listing, self.trouble, self.detail = news, "", ""
            self.number = self.begun
        else:
            self.trouble, self.detail = news.public, f"{type(news).__name__}: {news}"
        self._heard()
