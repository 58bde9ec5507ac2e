"""``gateway tunnels``: keeps the SSH connections to the clusters, as a unit of its own."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, add_config, log_to_stderr, private_settings, say
from gateway.managed import drain_host, end_tunnels, keep_tunnels

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Keep the SSH connections to the clusters for a hub with --dataplane managed."
    parser = add_command(commands, "tunnels", _tunnels, about)
    add_config(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--drain",
        metavar="HOST",
        help="leave this login node instead: what is new goes by others, what is open may stay a while",
    )
    instead.add_argument("--undrain", metavar="HOST", help="use it again instead")
    instead.add_argument(
        "--end",
        action="store_true",
        help="end them instead, once nobody keeps them: they outlive the command that started them",
    )


def _tunnels(options: argparse.Namespace) -> int:
    settings = private_settings(options)
    log_to_stderr(settings)
    if options.end:
        end_tunnels(settings)
    elif host := options.drain or options.undrain:
        clusters = ", ".join(drain_host(settings, host, away=bool(options.drain)))
        say(f"{host} is {'left by' if options.drain else 'used again by'} the tunnels to {clusters}")
    else:
        asyncio.run(keep_tunnels(settings))
    return 0
