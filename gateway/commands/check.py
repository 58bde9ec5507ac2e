"""``gateway check``: site configs, and drop-ins."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, say
from gateway.errors import BadRequest, ConfigError
from gateway.siteconfig import SiteConfig
from gateway.sitemerge import Source, merge, merge_drop_ins
from gateway.sites import faults_together, read_source

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "check", _check, "Check site configs: file:line: where: what; exit 1 on a fault."
    )
    parser.add_argument("sites", type=Path, nargs="*", metavar="SITE.yaml")
    parser.add_argument(
        "--drop-in",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="files for a cluster's login node, or their directory: with that cluster's SITE.yaml, or alone",
    )


def _check(options: argparse.Namespace) -> int:
    if not options.sites and not options.drop_in:
        raise BadRequest("", "Name the site configs to check, or drop-ins: --drop-in FILE.")
    if options.drop_in and len(options.sites) > 1:
        raise BadRequest("", "Drop-ins are one cluster's: name one SITE.yaml, or none.")
    if not options.sites:
        return _check_drop_ins(options.drop_in)
    status, sites = 0, {}
    for path in options.sites:
        try:
            site = merge(read_source(path), _sources(options.drop_in))
        except ConfigError as error:
            say(error)
            status = 1
            continue
        sites[site.name] = site
        say(f"{path}: ok: {site.title} ({site.name}, {site.scheduler}), {_partitions(site)}")
        for words in _warnings(site):
            say(f"{path}: warning: {words}")
    for fault in faults_together(sites.values()):
        say(fault)
        status = 1
    return status


def _check_drop_ins(paths: Sequence[Path]) -> int:
    try:
        sources = _sources(paths)
        merge_drop_ins(sources)
    except ConfigError as error:
        say(error)
        return 1
    say(f"{', '.join(source for _, source in sources) or 'no file'}: ok")
    return 0


def _sources(paths: Iterable[Path]) -> list[Source]:
    """Return the drop-ins in the order in which the hub reads them."""
    files = [file for path in paths for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    return [read_source(file) for file in files]


def _partitions(site: SiteConfig) -> str:
    count = len(site.partitions)
    return f"{count} partition{'s' * (count > 1)}" if count else "the scheduler's partitions"


def _warnings(site: SiteConfig) -> Iterable[str]:
    if site.login.act_as == "certificate" and not site.login.source_addresses:
        yield "set login.source_addresses, or a stolen certificate is good from anywhere"
    if not site.applications:
        yield "there is no application: nobody can start anything unless a drop-in names one"
