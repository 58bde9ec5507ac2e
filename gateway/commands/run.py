"""``gateway run``: the hub."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from gateway.app import serve
from gateway.commands.base import add_command, add_config, log_to_stderr, private_settings

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "run", _run, "Run the hub.")
    add_config(parser)
    parser.add_argument(
        "--dataplane",
        choices=["own", "external", "managed"],
        default="external",
        help="external: HAProxy and the SSH masters go on when the hub ends, and are found again (default); "
        "managed: a service manager runs them (gateway units), and the hub never starts any; "
        "own: they end with it (demonstrations, tests)",
    )


def _run(options: argparse.Namespace) -> int:
    settings = private_settings(options)
    log_to_stderr(settings)
    own, managed = options.dataplane == "own", options.dataplane == "managed"
    asyncio.run(serve(settings, own_data_plane=own, managed=managed))
    return 0
