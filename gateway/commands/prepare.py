"""``gateway prepare``: what HAProxy starts with, where a service manager starts it."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, add_config, log_to_stderr, private_settings
from gateway.managed import prepare_haproxy

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Write HAProxy's configuration for a service manager that starts it (gateway-haproxy.service)."
    add_config(add_command(commands, "prepare", _prepare, about))


def _prepare(options: argparse.Namespace) -> int:
    settings = private_settings(options)
    log_to_stderr(settings)
    asyncio.run(prepare_haproxy(settings))
    return 0
