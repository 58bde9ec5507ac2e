"""``gateway run``: the hub."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from typing import TYPE_CHECKING

from gateway.app import serve
from gateway.commands.base import add_command, add_config, private_settings

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "run", _run, "Run the hub.")
    add_config(parser)
    parser.add_argument(
        "--dataplane",
        choices=["own", "external"],
        default="external",
        help="external: HAProxy and the SSH masters go on when the hub ends, and are found again (default); "
        "own: they end with it (demonstrations, tests)",
    )


def _run(options: argparse.Namespace) -> int:
    settings = private_settings(options)
    logging.basicConfig(
        level=settings.gateway.log_level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("aiosqlite").setLevel(logging.INFO)  # at DEBUG it logs statements with their values
    asyncio.run(serve(settings, own_data_plane=options.dataplane == "own"))
    return 0
