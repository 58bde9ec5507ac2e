"""``gateway backup``: all that the gateway must keep, in one archive."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, add_config, private_settings, say
from gateway.store.backup import back_up

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Write the database, its key and the CAs into a new archive; the hub may go on."
    parser = add_command(commands, "backup", _backup, about)
    add_config(parser)
    parser.add_argument("archive", type=Path, metavar="FILE.tar.gz", help="as secret as what is in it")


def _backup(options: argparse.Namespace) -> int:
    settings = private_settings(options)
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        held = back_up(settings.database_url, settings.state_dir, options.archive)
    finally:
        signal.signal(signal.SIGTERM, before)
    say(options.archive if held else f"{options.archive}: without the database, which pg_dump is for")
    return 0
