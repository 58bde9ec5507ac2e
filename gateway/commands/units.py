"""``gateway units``: the systemd units."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, add_config, say
from gateway.config import load_settings
from gateway.errors import BadRequest
from gateway.units import render_units

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Print the systemd units for this installation and this configuration, or install them."
    parser = add_command(commands, "units", _units, about)
    add_config(parser)
    parser.add_argument("--user", default="gateway", help="whom the hub runs as (default: %(default)s)")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="write them below this directory: / for this machine"
    )


def _units(options: argparse.Namespace) -> int:
    files = render_units(load_settings(options.config), options.config, options.user)
    for path, text in files.items():
        if options.root is None:
            say(f"# ----- /{path}\n{text}")
        else:
            _write(options.root / path, text)
            say(options.root / path)
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    except OSError as error:
        raise BadRequest("", f"{path} cannot be written: {error.strerror}.") from error
