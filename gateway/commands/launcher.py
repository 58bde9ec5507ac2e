"""``gateway launcher``: what a cluster installs on its login nodes."""

from __future__ import annotations

import argparse
import ipaddress
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway import schedulers
from gateway.commands.base import add_command
from gateway.errors import BadRequest
from gateway.launcher import launcher_text, sshd_text, sudoers_text

if TYPE_CHECKING:
    from gateway.commands.base import Commands

#: What a line of sudoers(5) or sshd_config(5) may be made of, without quoting.
_SUDOERS_NAME = re.compile(r"(?!ALL$)[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_SUDOERS_PATH = re.compile(r"/[A-Za-z0-9_./-]+", re.ASCII)


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Print the launcher, which a site with act_as: sudo or certificate installs on its login nodes."
    parser = add_command(commands, "launcher", _launcher, about)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--sudoers", action="store_true", help="print the lines for /etc/sudoers.d instead")
    instead.add_argument("--sshd", action="store_true", help="print the lines for sshd_config instead")
    parser.add_argument("--account", default="gateway", help="the service account (default: %(default)s)")
    parser.add_argument("--group", default="gateway-users", help="whom it may act for (default: %(default)s)")
    parser.add_argument("--path", default="/usr/local/sbin/gateway-launcher", help="where it is installed")
    instead.add_argument(
        "--scheduler",
        metavar="NAME",
        help="let it run the programs of this scheduler too: one of another package",
    )
    parser.add_argument(
        "--address",
        action="append",
        default=[],
        metavar="IP",
        help="with --sshd: the gateway's address as the login nodes see it; may be given again",
    )
    parser.add_argument(
        "--ca-file",
        default="/etc/ssh/gateway-ca.pub",
        metavar="PATH",
        help='with --sshd: where what "gateway ca show" prints is installed (default: %(default)s)',
    )


def _launcher(options: argparse.Namespace) -> int:
    for pattern, word in (
        (_SUDOERS_NAME, options.account),
        (_SUDOERS_NAME, options.group),
        (_SUDOERS_PATH, options.path),
        (_SUDOERS_PATH, options.ca_file),
    ):
        if not pattern.fullmatch(word):
            file = "sshd's configuration" if options.sshd else "a sudoers file"
            raise BadRequest(public=f"{word!r} cannot stand in {file}.")
    if options.sshd:
        sys.stdout.write(sshd_text(options.group, _networks(options.address), options.path, options.ca_file))
    elif options.sudoers:
        sys.stdout.write(sudoers_text(options.account, options.group, options.path))
    else:
        programs = schedulers.get(options.scheduler).programs if options.scheduler else ()
        sys.stdout.write(launcher_text(programs))
    return 0


def _networks(addresses: Sequence[str]) -> list[str]:
    if not addresses:
        raise BadRequest(public="Name the gateway's address, as the login nodes see it: --address 192.0.2.10")
    for address in addresses:
        try:
            ipaddress.ip_network(address)
        except ValueError as error:
            raise BadRequest(public=f"--address {address}: {error}.") from None
    return list(addresses)
