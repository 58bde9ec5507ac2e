"""``gateway why``: what happened to a server."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, add_config, private_settings, say
from gateway.config import Settings
from gateway.errors import BadRequest, NotFound
from gateway.model import SERVER_NAME, USER_NAME
from gateway.store import History
from gateway.support.past import history
from gateway.timeline import as_data, rendered

if TYPE_CHECKING:
    from gateway.commands.base import Commands

#: Former starts that ``--all`` shows at most.
_ALL = 50


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "why", _why, "Tell what happened to a server, step by step.")
    add_config(parser)
    parser.add_argument(
        "server",
        metavar="USER[/SERVER]",
        help="USER: the newest of all their servers; USER/: the default server; USER/NAME: another one",
    )
    parser.add_argument(
        "--all", action="store_true", help=f"former ones too, at most {_ALL}; the newest last"
    )
    parser.add_argument("--json", action="store_true", help="as a JSON list, for programs")


def _why(options: argparse.Namespace) -> int:
    user, slash, name = options.server.partition("/")
    if not USER_NAME.fullmatch(user) or (name and not SERVER_NAME.fullmatch(name)):
        raise BadRequest(public=f"{options.server!r} names no server: write USER, USER/ or USER/NAME.")
    wanted = name if slash else None
    asyncio.run(_tell(private_settings(options), user, wanted, options))
    return 0


async def _tell(settings: Settings, user: str, name: str | None, options: argparse.Namespace) -> None:
    async with history(settings) as past:
        starts = await past.starts(user, name, _ALL if options.all else 1)
        if not starts:
            raise await _unknown(past, user, name, settings.gateway.history_days)
        told = [(server, await past.timeline(server.id)) for server in reversed(starts)]
    if options.json:
        say(json.dumps([as_data(server, entries) for server, entries in told], indent=2))
    else:
        say("\n".join(rendered(server, entries) for server, entries in told).rstrip())


async def _unknown(past: History, user: str, name: str | None, days: int) -> NotFound:
    names = await past.names(user)
    if not names:
        return NotFound(f"{user} has started no server here, or none that ended less than {days} days ago.")
    others = ", ".join(f"{user}/{other}" for other in names)
    return NotFound(f"{user}/{name or ''} is not there; {user} has {others}.")
