"""What the commands have in common."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import Settings, load_settings

DEFAULT_CONFIG = Path("/etc/gateway/gateway_config.py")

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  it has no public name


def add_command(
    commands: Commands, name: str, call: Callable[[argparse.Namespace], int], about: str
) -> argparse.ArgumentParser:
    """Add a command and return its parser.

    Args:
        commands: Where.
        name: The word after ``gateway``.
        call: What it does; returns the exit status.
        about: One line for the list of commands, and the first of its own help.
    """
    parser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(call=call)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``-f FILE``, the gateway's configuration."""
    parser.add_argument(
        "-f",
        "--config",
        type=Path,
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help="the gateway's configuration (default: %(default)s)",
    )


def private_settings(options: argparse.Namespace) -> Settings:
    """Return the settings for a command that works on the gateway's state: its files are nobody else's."""
    os.umask(0o077)
    return load_settings(options.config)


def log_to_stderr(settings: Settings) -> None:
    """Have what is logged written to standard error, as much of it as the configuration asks for."""
    logging.basicConfig(
        level=settings.gateway.log_level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("aiosqlite").setLevel(logging.INFO)  # at DEBUG it logs statements with their values
    keep_audit()


def keep_audit() -> None:
    """Have audit lines (who was certified as whom) written wherever a log goes, whatever its level is."""
    logging.getLogger("gateway.audit").setLevel(logging.INFO)


def say(what: object) -> None:
    """Print what a command is for."""
    print(what)  # noqa: T201  a command's own output
