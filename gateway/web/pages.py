"""A person's own pages: home, waiting for a server, stopping it. The form is in ``forms``."""

from __future__ import annotations

import logging

from gateway.errors import NotFound
from gateway.lifecycle import Phase
from gateway.web.base import Page
from gateway.web.enter import wait_path, wanted_page
from gateway.web.words import describe, is_open, is_over, label, story

log = logging.getLogger(__name__)


class Root(Page):
    """The hub's front door."""

    def get(self) -> None:
        """Lead home."""
        self.redirect(self.origins.hub_url())


class Home(Page):
    """One's servers."""

    async def get(self) -> None:
        """Show them: the default one always, further ones by name."""
        await self.show()

    async def show(self, error: str = "", typed: str = "") -> None:
        """Write the page, with a sentence beside the field for a further server's name."""
        servers = {server.name: server for server in await self.services.records.servers_of(self.user.name)}
        rows = [(name, servers.get(name)) for name in ["", *sorted(name for name in servers if name)]]
        self.render_page(
            "home.html",
            rows=rows,
            sites=self.services.sites(),
            error=error,
            typed=typed,
        )


class Wait(Page):
    """What a server is doing, until it is ready."""

    async def get(self, name: str | None = None) -> None:
        """Lead on to a server that is ready; else show where it stands, why it waits, or how it ended."""
        server = await self.services.records.latest(self.user.name, name or "")
        if server is None:
            raise NotFound(
                f"[{self.user.name}/{name}] never started",
                "You have no server of this name.",
                "Choose one from the list of your servers, or start it.",
            )
        wanted = wanted_page(self.origins, self.get_query_argument("to", ""), self.user.name)
        if is_open(server) and server.phase is Phase.READY:
            self.redirect(wanted or self.services.open_url(server), status=303)
            return
        over = is_over(server)
        self.render_page(
            "ended.html" if over else "wait.html",
            story=story(await self.services.records.timeline.of(server.id)) if over else (),
            server=server,
            words=describe(server),
            label=label(server.name),
            site=self.services.sites().get(server.cluster),
            wanted=wanted or "",
        )


class Stop(Page):
    """Stops a server, or cancels one that waits."""

    async def post(self, name: str | None = None) -> None:
        """Ask for the server's end, and show it. One that has ended already is as it should be."""
        try:
            await self.services.servers.stop(self.user.name, name or "")
        except NotFound as error:
            log.info("[%s/%s] stop: %s", self.user.name, name or "", error)
        self.redirect(self.origins.hub_url(wait_path(name or "")), status=303)


class Keep(Page):
    """Keeps a server that would be stopped for being idle."""

    async def post(self, name: str | None = None) -> None:
        """Count its idle time anew, and show one's servers."""
        try:
            await self.services.servers.keep(self.user.name, name or "")
        except NotFound as error:
            log.info("[%s/%s] keep: %s", self.user.name, name or "", error)
        self.redirect(self.origins.hub_url(), status=303)
