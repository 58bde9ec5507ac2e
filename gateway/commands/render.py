"""``gateway render``: the script that would be submitted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, add_config
from gateway.config import load_settings
from gateway.errors import BadRequest
from gateway.model import USER_NAME
from gateway.options import check, from_strings
from gateway.script import JobFacts, render_script
from gateway.sites import load_site, load_sites
from gateway.urls import check_server_name, server_path

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Print exactly the script that would be submitted. The id and the run nonce are examples."
    parser = add_command(commands, "render", _render, about)
    add_config(parser)
    parser.add_argument("cluster", metavar="CLUSTER", help="a cluster's name, or a site config's file")
    parser.add_argument("--user", required=True, metavar="NAME")
    parser.add_argument("--server", default="", metavar="NAME", help="a further server of this name")
    parser.add_argument(
        "-o", "--option", action="append", default=[], metavar="KEY=VALUE", help="a field of the form"
    )


def _render(options: argparse.Namespace) -> int:
    if not USER_NAME.fullmatch(options.user):
        raise BadRequest(public=f"{options.user!r} is not an account's name.")
    if options.cluster.endswith((".yaml", ".yml")):
        site = load_site(Path(options.cluster))
    else:
        sites = load_sites(Path(load_settings(options.config).gateway.site_dir))
        if options.cluster not in sites:
            raise BadRequest(
                "", f"There is no cluster {options.cluster}; there is {', '.join(sorted(sites))}."
            )
        site = sites[options.cluster]
    choices = check({site.name: site}, from_strings(site.name, options.option))
    name = check_server_name(options.server) if options.server else ""
    facts = JobFacts(
        instance="a" * 6,
        server_id="a" * 10,
        run="0" * 16,
        user=site.login.owner(options.user),
        server_name=name,
        base_url=server_path(options.user, name),
        node_tls=site.tunnel.node_security == "tls",
    )
    sys.stdout.write(render_script(site, choices, facts))
    return 0
