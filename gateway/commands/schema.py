"""``gateway schema``: what site configs may say."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, say
from gateway.siteconfig.schema import schema, tables

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "schema", _schema, "Print the JSON Schema of site configs, for editors and other programs."
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--drop-in", action="store_true", help="of the files on a cluster's login node")
    which.add_argument(
        "--rst", action="store_true", help="instead: the keys of both, for docs/site-configs.rst"
    )


def _schema(options: argparse.Namespace) -> int:
    say(
        tables() if options.rst else json.dumps(schema(drop_in=options.drop_in), indent=2, ensure_ascii=False)
    )
    return 0
