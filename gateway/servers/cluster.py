"""A cluster as the conductor sees it: its parts, and the newest that its scheduler has said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.dataplane.masters import Masters
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
    masters: Masters


class News:
    """The newest good listing of one cluster and how many there have been; or why there is none.

    Args:
        heard: Called after each poll.
    """

    def __init__(self, heard: Callable[[], None]) -> None:
        self.listing: Listing | None = None
        self.count = 0
        self.trouble = ""
        self._heard = heard

    async def take(self, news: Listing | GatewayError) -> None:
        """Take what a poll brought. No answer is no news: the last listing stands."""
        if isinstance(news, Listing):
            self.listing, self.trouble = news, ""
            self.count += 1
        else:
            self.trouble = news.public
        self._heard()
