"""``gateway demo``: the gateway on this machine, with all that it needs."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.commands.base import add_command
from gateway.demo.run import Wishes, run

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Try it on this machine, without root: two people, a small queue, JupyterLab. Ctrl-C ends it all."
    parser = add_command(commands, "demo", _demo, about)
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="keep everything in DIR (default: a temporary directory)"
    )
    parser.add_argument(
        "--port", type=_port, metavar="PORT", help="listen there (default: 8443, or another if it is taken)"
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1024 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r}: a port is a number from 1024 to 65535")
    return int(text)


def _demo(options: argparse.Namespace) -> int:
    return run(Wishes(options.dir, options.port, not options.no_browser), _say_at_once)


def _say_at_once(line: str) -> None:
    """Print a line now; a terminal that has been closed must not keep the demo from ending."""
    with suppress(OSError):
        print(line, flush=True)  # noqa: T201  a command's own output
