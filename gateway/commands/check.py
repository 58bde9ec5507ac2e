"""``gateway check``: site configs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, say
from gateway.errors import ConfigError
from gateway.sites import faults_together, load_site

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "check", _check, "Check site configs: file:line: where: what; exit 1 on a fault."
    )
    parser.add_argument("sites", type=Path, nargs="+", metavar="SITE.yaml")


def _check(options: argparse.Namespace) -> int:
    status, sites = 0, {}
    for path in options.sites:
        try:
            site = load_site(path)
        except ConfigError as error:
            say(error)
            status = 1
            continue
        sites[site.name] = site
        say(f"{path}: ok: {site.title} ({site.name}, {site.scheduler}), {len(site.partitions)} partitions")
        if site.login.act_as == "certificate" and not site.login.source_addresses:
            say(f"{path}: warning: set login.source_addresses, or a stolen certificate is good from anywhere")
    for fault in faults_together(sites.values()):
        say(fault)
        status = 1
    return status
