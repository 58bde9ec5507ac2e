"""The command ``gateway``."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.app import private_directory, serve, stores
from gateway.config import Settings, load_settings
from gateway.errors import BadRequest, ConfigError, GatewayError
from gateway.launcher import launcher_text, sudoers_text
from gateway.model import USER_NAME, User
from gateway.options import check, from_strings
from gateway.script import JobFacts, render_script
from gateway.sites import load_site, load_sites
from gateway.store import upgrade
from gateway.urls import check_server_name, server_path

DEFAULT_CONFIG = Path("/etc/gateway/gateway_config.py")
#: What a line of sudoers(5) may be made of, without quoting.
_SUDOERS_NAME = re.compile(r"(?!ALL$)[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_SUDOERS_PATH = re.compile(r"/[A-Za-z0-9_./-]+", re.ASCII)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after ``gateway``; by default the process's own.

    Returns:
        The exit status: 0, or 1 after one clear sentence on standard error.
    """
    options = _parser().parse_args(arguments)
    call: Callable[[argparse.Namespace], int] = options.call
    try:
        return call(options)
    except GatewayError as error:
        print(error.public if isinstance(error, BadRequest) else error, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway",
        description="Jupyter as batch jobs on an HPC cluster, in the browser.",
    )
    parser.add_argument("--version", action="version", version=f"gateway {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _add_check(commands)
    _add_render(commands)
    _add_launcher(commands)
    _add_token(commands)
    _add_db(commands)
    return parser


if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  it has no public name


def _add(
    commands: _Commands, name: str, call: Callable[[argparse.Namespace], int], about: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(call=call)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f",
        "--config",
        type=Path,
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help="the gateway's configuration (default: %(default)s)",
    )


def _private_settings(options: argparse.Namespace) -> Settings:
    """Return the settings for a command that works on the gateway's state: its files are nobody else's."""
    os.umask(0o077)
    return load_settings(options.config)


# --- run ------------------------------------------------------------------------------------------------


def _add_run(commands: _Commands) -> None:
    parser = _add(commands, "run", _run, "Run the hub.")
    _add_config(parser)
    parser.add_argument(
        "--dataplane",
        choices=["own", "external"],
        default="external",
        help="external: HAProxy and the SSH masters go on when the hub ends, and are found again (default); "
        "own: they end with it (demonstrations, tests)",
    )


def _run(options: argparse.Namespace) -> int:
    settings = _private_settings(options)
    logging.basicConfig(
        level=settings.gateway.log_level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("aiosqlite").setLevel(logging.INFO)  # at DEBUG it logs statements with their values
    asyncio.run(serve(settings, own_data_plane=options.dataplane == "own"))
    return 0


# --- check, render --------------------------------------------------------------------------------------


def _add_check(commands: _Commands) -> None:
    parser = _add(commands, "check", _check, "Check site configs: file:line: where: what; exit 1 on a fault.")
    parser.add_argument("sites", type=Path, nargs="+", metavar="SITE.yaml")


def _check(options: argparse.Namespace) -> int:
    status = 0
    for path in options.sites:
        try:
            site = load_site(path)
        except ConfigError as error:
            _print(error)
            status = 1
            continue
        _print(f"{path}: ok: {site.title} ({site.name}, {site.scheduler}), {len(site.partitions)} partitions")
    return status


def _add_render(commands: _Commands) -> None:
    about = "Print exactly the script that would be submitted. The id and the run nonce are examples."
    parser = _add(commands, "render", _render, about)
    _add_config(parser)
    parser.add_argument("cluster", metavar="CLUSTER", help="a cluster's name, or a site config's file")
    parser.add_argument("--user", required=True, metavar="NAME")
    parser.add_argument("--server", default="", metavar="NAME", help="a further server of this name")
    parser.add_argument(
        "-o", "--option", action="append", default=[], metavar="KEY=VALUE", help="a field of the form"
    )


def _render(options: argparse.Namespace) -> int:
    if not USER_NAME.fullmatch(options.user):
        raise BadRequest(public=f"{options.user!r} is not an account's name.")
    if options.cluster.endswith((".yaml", ".yml")):
        site = load_site(Path(options.cluster))
    else:
        sites = load_sites(Path(load_settings(options.config).gateway.site_dir))
        if options.cluster not in sites:
            raise BadRequest(
                "", f"There is no cluster {options.cluster}; there is {', '.join(sorted(sites))}."
            )
        site = sites[options.cluster]
    choices = check({site.name: site}, from_strings(site.name, options.option))
    name = check_server_name(options.server) if options.server else ""
    facts = JobFacts(
        instance="a" * 6,
        server_id="a" * 10,
        run="0" * 16,
        user=site.login.owner(options.user),
        server_name=name,
        base_url=server_path(options.user, name),
        node_tls=site.tunnel.node_security == "tls",
    )
    sys.stdout.write(render_script(site, choices, facts))
    return 0


# --- launcher -------------------------------------------------------------------------------------------


def _add_launcher(commands: _Commands) -> None:
    about = "Print the launcher, which a site with act_as: sudo installs on its login nodes."
    parser = _add(commands, "launcher", _launcher, about)
    parser.add_argument("--sudoers", action="store_true", help="print the lines for /etc/sudoers.d instead")
    parser.add_argument("--account", default="gateway", help="the service account (default: %(default)s)")
    parser.add_argument("--group", default="gateway-users", help="whom it may act for (default: %(default)s)")
    parser.add_argument("--path", default="/usr/local/sbin/gateway-launcher", help="where it is installed")


def _launcher(options: argparse.Namespace) -> int:
    for pattern, word in (
        (_SUDOERS_NAME, options.account),
        (_SUDOERS_NAME, options.group),
        (_SUDOERS_PATH, options.path),
    ):
        if not pattern.fullmatch(word):
            raise BadRequest(public=f"{word!r} cannot stand in a sudoers file.")
    if options.sudoers:
        sys.stdout.write(sudoers_text(options.account, options.group, options.path))
    else:
        sys.stdout.write(launcher_text())
    return 0


# --- token, db ------------------------------------------------------------------------------------------


def _add_token(commands: _Commands) -> None:
    parser = _add(commands, "token", _token, "Make a token for the REST API and print it, once.")
    _add_config(parser)
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
    asyncio.run(_write_token(_private_settings(options), options, token))
    _print(token)
    return 0


async def _write_token(settings: Settings, options: argparse.Namespace, token: str) -> None:
    user = User(options.name, admin=options.admin)
    expires = datetime.now(UTC) + timedelta(days=options.days)
    async with stores(settings) as (_, sessions, _):
        await sessions.add_token(user, hashlib.sha256(token.encode()).hexdigest(), options.note, expires)


def _add_db(commands: _Commands) -> None:
    parser = commands.add_parser("db", help="The database.", description="The database.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_config(_add(actions, "upgrade", _db_upgrade, "Bring the schema to the one that this version needs."))


def _db_upgrade(options: argparse.Namespace) -> int:
    settings = _private_settings(options)
    private_directory(settings.state_dir)
    before, after = asyncio.run(upgrade(settings.database_url))
    _print(f"the schema was {before or 'empty'} and is {after}")
    return 0


def _print(what: object) -> None:
    print(what)  # noqa: T201  this is what the command is for


if __name__ == "__main__":
    raise SystemExit(main())
