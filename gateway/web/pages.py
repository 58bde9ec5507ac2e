"""A person's own pages: home, the form, waiting for a server, stopping it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from gateway import options
from gateway.errors import GatewayError, InvalidChoice, NotFound
from gateway.lifecycle import Phase
from gateway.siteconfig import SiteConfig
from gateway.urls import check_server_name
from gateway.web.base import Page
from gateway.web.enter import wait_path
from gateway.web.words import describe, is_open, is_over, label, story

log = logging.getLogger(__name__)

#: Fields of the form that are the page's own, not choices.
_OWN_FIELDS = frozenset({"_xsrf", "next"})


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


class Spawn(Home):
    """The form."""

    async def get(self, name: str | None = None) -> None:
        """Show the form of a server that is not there; a waiting or running one's own page otherwise.

        The name comes in the path, or from the field on the home page, which leads on to the path.
        """
        typed = self.get_query_argument("name", "")
        try:
            check_server_name(name or typed)
        except GatewayError as error:
            self.set_status(error.status)
            await self.show(error.text, typed or name or "")
            return
        if typed:
            self.redirect(self.origins.hub_url(f"/hub/spawn/{typed}"), status=303)
            return
        latest = await self.services.records.latest(self.user.name, name or "")
        if not is_over(latest):
            self.redirect(self.origins.hub_url(wait_path(name or "")), status=303)
            return
        site = self._site(self.get_query_argument("cluster", latest.cluster if latest else ""))
        chosen = options.typed(latest.choices) if latest and latest.cluster == site.name else {}
        self._show_form(name or "", site, chosen)

    async def post(self, name: str | None = None) -> None:
        """Start the server, or show the form again with what was typed and a sentence on what is wrong."""
        server_name = check_server_name(name or "")
        typed = {
            field: self.get_body_arguments(field)
            for field in self.request.body_arguments
            if field not in _OWN_FIELDS
        }
        values = {field: texts[0] for field, texts in typed.items() if texts}
        site = self._site(values.get("cluster", ""))
        try:
            choices = options.check(self.services.sites(), typed)
            server = await self.services.servers.start(self.user, server_name, choices)
        except GatewayError as error:
            log.info("[%s/%s] not started: %s", self.user.name, server_name, error)
            self.set_status(error.status)
            field = error.field if isinstance(error, InvalidChoice) else ""
            self._show_form(server_name, site, values, field, error)
            return
        self.redirect(self.origins.hub_url(wait_path(server.name)), status=303)

    def _site(self, wanted: str) -> SiteConfig:
        sites = self.services.sites()
        if not sites:
            raise NotFound(
                "no site configs",
                "No cluster is set up, so nothing can be started.",
                "Tell the gateway's administrators.",
            )
        return sites.get(wanted) or next(iter(sites.values()))

    def _show_form(
        self,
        name: str,
        site: SiteConfig,
        values: Mapping[str, str],
        wrong: str = "",
        error: GatewayError | None = None,
    ) -> None:
        fields = options.fields(site, self.user)
        shown = {field.name for field in fields if field.kind is not options.Kind.HIDDEN}
        self.render_page(
            "spawn.html",
            name=name,
            site=site,
            sites=self.services.sites(),
            fields=fields,
            values=values,
            wrong=wrong if wrong in shown else "",
            error=error,
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
        if is_open(server) and server.phase is Phase.READY:
            self.redirect(self.services.open_url(server), status=303)
            return
        over = is_over(server)
        self.render_page(
            "ended.html" if over else "wait.html",
            story=story(await self.services.records.timeline.of(server.id)) if over else (),
            server=server,
            words=describe(server),
            label=label(server.name),
            site=self.services.sites().get(server.cluster),
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
