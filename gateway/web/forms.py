"""The form on which a server is started, the job script that would come of it, and the same for clients."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway import options
from gateway.discovery import Discovery, Room
from gateway.errors import Forbidden, GatewayError, InvalidChoice, NotFound
from gateway.model import Choices
from gateway.script import preview_facts
from gateway.siteconfig import Partition, SiteConfig
from gateway.urls import check_server_name
from gateway.web.api import Api
from gateway.web.enter import wait_path
from gateway.web.moments import ago
from gateway.web.pages import Home
from gateway.web.words import is_over

log = logging.getLogger(__name__)

#: Fields of the form that are the page's own, not choices. No site can have fields of these names.
_OWN_FIELDS = frozenset({"_xsrf", "_show"})
Typed = Mapping[str, Sequence[str]]


class NotHeardFrom(GatewayError):
    """Nothing is known yet of a cluster's partitions."""

    default_public = "The gateway has not heard from the cluster yet, so it has no form to show."
    default_advice = "Wait a minute and load the page again."
    transient = True
    status = 503


@dataclass(frozen=True, slots=True)
class Place:
    """A partition as the form's table shows it: what is free at the moment, and how many jobs wait."""

    partition: Partition
    free: tuple[str, ...] = ()
    waiting: int | None = None
    closed: str = ""


def places(form: options.Form) -> tuple[Place, ...]:
    """Return what a form's table shows."""
    rooms = form.offered.rooms
    return tuple(_place(each, rooms.get(each.name)) for each in form.offered.partitions)


def _place(partition: Partition, room: Room | None) -> Place:
    return Place(partition, tuple(_free(room)), room.waiting, room.closed) if room else Place(partition)


def _free(room: Room) -> Iterator[str]:
    for free, all_of_them, noun in (
        (room.free_nodes, room.nodes, "nodes"),
        (room.free_cores, room.cores, "cores"),
    ):
        if free is not None:
            yield f"{free} {noun}" if all_of_them is None else f"{free} of {all_of_them} {noun}"
    yield from (options.count_gpus(count, kind) for kind, count in (room.free_gpus or {}).items())


class Spawn(Home):
    """The form."""

    async def get(self, name: str | None = None) -> None:
        """Show the form of a server that is not there; a waiting or running one's own page otherwise.

        The name comes in the path, or from the field on the home page, which leads on to the path.
        ``?preset=NAME`` fills it in as the site's preset of this name says.
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
        self._show_form(name or "", site, chosen, preset=self.get_query_argument("preset", ""))

    async def post(self, name: str | None = None) -> None:
        """Start the server, or show the job script, or the form again: with what is wrong, if anything is."""
        server_name = check_server_name(name or "")
        typed = {
            field: self.get_body_arguments(field)
            for field in self.request.body_arguments
            if field not in _OWN_FIELDS
        }
        values = {field: texts[-1] for field, texts in typed.items() if texts}
        wanted = self.get_body_argument("_show", "")
        if wanted == "form":
            self._show_form(server_name, self._site(values.get("cluster", "")), values)
            return
        try:
            choices = options.check(self.services.sites(), typed, self.user, self.services.discoveries())
            if wanted == "script":
                await self._show_script(server_name, choices, typed)
                return
            server = await self.services.servers.start(self.user, server_name, choices)
        except GatewayError as error:
            log.info("[%s/%s] not started: %s", self.user.name, server_name, error)
            self.set_status(error.status)
            site = self._site(values.get("cluster", ""))
            self._show_form(server_name, site, values, self._wrong(site, typed, error), error)
            return
        self.redirect(self.origins.hub_url(wait_path(server.name)), status=303)

    def _usable(self) -> dict[str, SiteConfig]:
        """Return the clusters on which this person may start something. What else they offer is not asked."""
        return {
            name: site
            for name, site in self.services.sites().items()
            if options.offer(site, self.user).usable
        }

    def _site(self, wanted: str) -> SiteConfig:
        sites, usable = self.services.sites(), self._usable()
        if not sites:
            raise NotFound(
                "no site configs",
                "No cluster is set up, so nothing can be started.",
                "Tell the gateway's administrators.",
            )
        if not usable and not all(site.partitions for site in sites.values()):
            raise NotHeardFrom("no partitions are known")
        if not usable:
            raise Forbidden(
                f"[{self.user.name}/] sees no partition and application",
                "No cluster here is open to your account, so nothing can be started.",
                "Ask the gateway's administrators which group you have to be in.",
            )
        return usable.get(wanted) or next(iter(usable.values()))

    def _wrong(self, site: SiteConfig, typed: Typed, error: GatewayError) -> dict[str, str]:
        """Return every field that cannot stay as it is, with its sentence."""
        if not isinstance(error, InvalidChoice):
            return {}
        found = options.faults(site, typed, self.user, self.services.discoveries().get(site.name))
        return {error.field: error.public} | found

    def _show_form(
        self,
        name: str,
        site: SiteConfig,
        typed: Mapping[str, str],
        wrong: Mapping[str, str] | None = None,
        error: GatewayError | None = None,
        preset: str = "",
    ) -> None:
        discovery = self.services.discoveries().get(site.name) or Discovery()
        form = options.form(site, self.user, discovery)
        filled = next((each.values for each in form.presets if each.name == preset), {})
        shown = [field.name for field in form.fields if field.kind is not options.Kind.HIDDEN]
        faults = wrong or {}
        self.render_page(
            "spawn.html",
            name=name,
            site=site,
            sites=self._usable(),
            form=form,
            values=form.values({**typed, **filled}),
            wrong={field: faults[field] for field in shown if field in faults},
            error=error,
            places=places(form),
            age=ago(discovery.at, self.now()) if discovery.at and discovery.rooms else "",
            description=options.as_json(form),
        )

    async def _show_script(self, name: str, choices: Choices, typed: Typed) -> None:
        site = self.services.sites()[choices.cluster]
        prefix = self.services.callback_url if site.login.callback else ""
        callback = f"{prefix}{'a' * 10}" if prefix else ""
        base = self.origins.base
        facts = preview_facts(self.user.name, name, self.services.instance, site, callback, base)
        script = await self.services.renderer.preview(self.user.name, site, choices, facts)
        self.render_page("script.html", name=name, site=site, script=script, typed=typed)


class ClusterForm(Api):
    """``/hub/api/clusters/NAME/form``: the fields, rules and presets of a cluster's form for who asks."""

    def get(self, name: str) -> None:
        """Tell the form."""
        site = self.services.sites().get(name)
        if site is None:
            raise NotFound(
                f"no cluster {name!r}",
                "There is no cluster of this name.",
                "Look at the form for those that there are.",
            )
        self.finish(options.form_description(site, self.user, self.services.discoveries().get(name)))
