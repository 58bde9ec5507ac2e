"""``gateway token``: a token for the REST API."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gateway.app import stores
from gateway.commands.base import add_command, add_config, private_settings, say
from gateway.config import Settings
from gateway.errors import BadRequest
from gateway.model import USER_NAME, User

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "token", _token, "Make a token for the REST API and print it, once.")
    add_config(parser)
    parser.add_argument("name", metavar="NAME", help="whose")
    parser.add_argument("--admin", action="store_true", help="may act on everybody's servers")
    parser.add_argument("--days", type=_days, default=30, help="how long it holds (default: %(default)s)")
    parser.add_argument("--note", default="made on the command line", help="what it is for")


def _days(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= 3660:
        raise argparse.ArgumentTypeError(f"{text!r}: a token holds for 1 to 3660 days")
    return int(text)


def _token(options: argparse.Namespace) -> int:
    if not USER_NAME.fullmatch(options.name):
        raise BadRequest(public=f"{options.name!r} is not an account's name.")
    token = secrets.token_urlsafe(32)
    asyncio.run(_write_token(private_settings(options), options, token))
    say(token)
    return 0


async def _write_token(settings: Settings, options: argparse.Namespace, token: str) -> None:
    user = User(options.name, admin=options.admin)
    expires = datetime.now(UTC) + timedelta(days=options.days)
    async with stores(settings) as (_, sessions, _):
        await sessions.add_token(user, hashlib.sha256(token.encode()).hexdigest(), options.note, expires)
