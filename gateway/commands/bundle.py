"""``gateway bundle``: an archive for those who help, without secrets."""

from __future__ import annotations

import argparse
import asyncio
import logging
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, add_config, private_settings, say
from gateway.config import Settings
from gateway.errors import BadRequest, ConfigError
from gateway.model import SERVER_NAME, USER_NAME
from gateway.support.archive import Archive
from gateway.support.contents import Contents, Wanted
from gateway.support.past import check_owner, history
from gateway.support.secrets import known_secrets

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Write an archive for those who help: versions, settings, states, logs, timelines; no secrets."
    parser = add_command(commands, "bundle", _bundle, about)
    add_config(parser)
    parser.add_argument(
        "--server", metavar="USER/NAME", help="the starts of this server, in place of the last of all"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE.tar.gz", help="a new file (default: here, by date)"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="the hub's log (default: the journal's)")
    parser.add_argument(
        "--anonymous", action="store_true", help="call people user-1 and so on, addresses address-1"
    )
    parser.add_argument("--no-doctor", action="store_true", help="leave out what `gateway doctor` finds")


def _bundle(options: argparse.Namespace) -> int:
    user, slash, name = (options.server or "").partition("/")
    if options.server and not (
        slash and USER_NAME.fullmatch(user) and (not name or SERVER_NAME.fullmatch(name))
    ):
        raise BadRequest(public=f"{options.server!r} names no server: write USER/ or USER/NAME.")
    settings = private_settings(options)
    check_owner(settings)
    path = options.output or Path(f"gateway-bundle-{datetime.now().astimezone():%Y%m%d-%H%M%S}.tar.gz")
    wanted = Wanted(
        server=(user, name) if options.server else None,
        log=options.log,
        doctor=not options.no_doctor,
    )
    archive = Archive(known_secrets(settings))
    logging.disable()  # what is wrong is in the archive
    try:
        asyncio.run(_fill(archive, settings, wanted, anonymous=options.anonymous))
    finally:
        logging.disable(logging.NOTSET)
    size = archive.write(path)
    say(f"{path}: {len(archive.names)} files, {size / 1024:.0f} kB. See what is in it before you send it:")
    say(f"tar -xzf {path} && less gateway-bundle/*")
    return 0


async def _fill(archive: Archive, settings: Settings, wanted: Wanted, *, anonymous: bool) -> None:
    await Contents(settings, wanted).fill(archive)
    if anonymous:
        archive.forget_names(await _people(settings))


async def _people(settings: Settings) -> list[str]:
    try:
        async with history(settings) as past:
            return list(await past.people())
    except ConfigError:
        return []  # then nobody is known but from the texts
