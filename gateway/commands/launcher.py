"""``gateway launcher``: what a cluster installs on its login nodes."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from gateway.commands.base import add_command
from gateway.errors import BadRequest
from gateway.launcher import launcher_text, sudoers_text

if TYPE_CHECKING:
    from gateway.commands.base import Commands

#: What a line of sudoers(5) may be made of, without quoting.
_SUDOERS_NAME = re.compile(r"(?!ALL$)[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_SUDOERS_PATH = re.compile(r"/[A-Za-z0-9_./-]+", re.ASCII)


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Print the launcher, which a site with act_as: sudo installs on its login nodes."
    parser = add_command(commands, "launcher", _launcher, about)
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
