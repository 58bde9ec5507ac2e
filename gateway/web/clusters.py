"""The administrators' page of clusters: what is in use on each, what is wrong, what is free."""

from __future__ import annotations

import asyncio

from gateway.errors import Forbidden
from gateway.web.base import Page
from gateway.web.moments import ago, clock_time


class Clusters(Page):
    """What is in use on each cluster."""

    async def get(self) -> None:
        """Show it; the schedulers and login nodes are not asked."""
        self._check_admin()
        now, orphans = self.now(), self.services.orphans
        views = [view for _, view in sorted(self.services.views.items())]
        self.render_page(
            "clusters.html",
            views=views,
            news=self.services.news,
            orphans=await orphans.all() if orphans else (),
            not_looked=[view.config.title for view in views if view.discovery.hidden],
            cancelled_after=orphans.cancelled_after if orphans else None,
            ago=lambda then: ago(then, now),
            when=lambda then: clock_time(then, now),
        )

    async def post(self) -> None:
        """Ask login nodes and schedulers now, and show what they say."""
        self._check_admin()
        await asyncio.gather(*(view.refresh() for view in self.services.views.values()))
        self.redirect(self.origins.hub_url("/hub/clusters"), status=303)

    def _check_admin(self) -> None:
        if not self.user.admin:
            raise Forbidden(
                f"[{self.user.name}/] may not see the clusters",
                "This page is for the gateway's administrators, so it is not shown.",
                "Go on from the list of your servers.",
            )
