"""``gateway db``: the database."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, add_config, private_settings, say
from gateway.parts import private_directory
from gateway.store import upgrade

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("db", help="The database.", description="The database.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add_config(
        add_command(actions, "upgrade", _db_upgrade, "Bring the schema to the one that this version needs.")
    )


def _db_upgrade(options: argparse.Namespace) -> int:
    settings = private_settings(options)
    private_directory(settings.state_dir)
    before, after = asyncio.run(upgrade(settings.database_url))
    say(f"the schema was {before or 'empty'} and is {after}")
    return 0
