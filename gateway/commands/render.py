"""``gateway render``: the script that would be submitted."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, add_config
from gateway.config import Settings, load_settings
from gateway.discovery import Discovery
from gateway.errors import BadRequest, ConfigError
from gateway.model import USER_NAME, User
from gateway.options import check, from_strings
from gateway.origins import Origins
from gateway.rendering import preview_facts, render
from gateway.siteconfig import SiteConfig
from gateway.sites import load_site, read_sites, read_source
from gateway.siteview import SiteView
from gateway.store import SessionStore, SiteViewStore
from gateway.support.past import remembered
from gateway.urls import check_server_name

if TYPE_CHECKING:
    from gateway.commands.base import Commands

_CLUSTER = "a cluster's name, checked as its form is; or a site config's file, without what a hub knows of it"


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Print exactly the script that would be submitted. The id and the run nonce are examples."
    parser = add_command(commands, "render", _render, about)
    add_config(parser)
    parser.add_argument("cluster", metavar="CLUSTER", help=_CLUSTER)
    parser.add_argument("--user", required=True, metavar="NAME")
    parser.add_argument("--server", default="", metavar="NAME", help="a further server of this name")
    parser.add_argument(
        "-o", "--option", action="append", default=[], metavar="KEY=VALUE", help="a field of the form"
    )


def _render(options: argparse.Namespace) -> int:
    if not USER_NAME.fullmatch(options.user):
        raise BadRequest(public=f"{options.user!r} is not an account's name.")
    name = check_server_name(options.server) if options.server else ""
    if options.cluster.endswith((".yaml", ".yml")):
        known = _Known(load_site(Path(options.cluster)))
    else:
        known = asyncio.run(_known(load_settings(options.config), options.cluster, options.user))
    if known.note:
        sys.stderr.write(f"gateway render: {known.note}\n")
    site = known.site
    discoveries = {site.name: known.discovery} if known.discovery else {}
    choices = check({site.name: site}, from_strings(site.name, options.option), known.user, discoveries)
    facts = preview_facts(options.user, name, known.instance, known.site, known.callback, known.base)
    sys.stdout.write(asyncio.run(render(known.site, choices, facts)))
    return 0


@dataclass(frozen=True)
class _Known:
    """What is known of a cluster: its site config, and how the hub would have its jobs called and call.

    ``user`` and ``discovery`` are as the form has them; None where no hub has run. ``note`` says what is not
    known, and so not checked.
    """

    site: SiteConfig
    instance: str = "a" * 6
    callback: str = ""
    user: User | None = None
    discovery: Discovery | None = None
    note: str = ""
    base: str = "/"


async def _known(settings: Settings, name: str, user: str) -> _Known:
    """Return a cluster as a hub knew it last, with its drop-ins; without a hub, as its own file has it."""
    files, faults = read_sites(Path(settings.gateway.site_dir))
    if faults:
        raise ConfigError("\n".join(faults))
    if name not in files:
        raise BadRequest("", f"There is no cluster {name}; there is {', '.join(sorted(files))}.")
    site, path = files[name]
    callback, base = "", "/"
    if settings.gateway.public_url:
        origins = Origins.of(settings.gateway.public_url, settings.gateway.layout)
        base = origins.base
        callback = origins.hub_url(f"/hub/api/callback/{'a' * 10}") if site.login.callback else ""
    if not _has_run(settings):
        return _Known(site, callback=callback, base=base)
    async with remembered(settings) as database:
        view = SiteView(read_source(path), site, memory=SiteViewStore(database))
        await view.recall()
        person = await SessionStore(database).person(user)
        note = "" if person else f"{user} has never logged in: groups are not known, and none is asked for"
        person = person or _in_all_groups(user, view.config)
        instance = await database.instance()
        return _Known(view.config, instance, callback, person, view.discovery, note, base)


def _in_all_groups(name: str, site: SiteConfig) -> User:
    """Return somebody who sees all that a cluster has."""
    groups = [*(each.groups for each in site.partitions), *(each.groups for each in site.applications)]
    return User(name, groups=frozenset(chain(*groups)))


def _has_run(settings: Settings) -> bool:
    """Return whether a hub has remembered something, as far as this user may know."""
    try:
        return bool(settings.gateway.database_url) or (settings.state_dir / "gateway.sqlite").exists()
    except PermissionError:
        return True
