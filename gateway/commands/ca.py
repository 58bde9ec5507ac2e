"""``gateway ca``: the SSH CA with which the gateway logs in as users (act_as: certificate)."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway import parts
from gateway.commands.base import add_command, add_config, private_settings, say
from gateway.ssh.authority import UserAuthority
from gateway.ssh.cakeys import KEY_KINDS, Keys, trusted_keys

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Make, show or replace the SSH CA that login nodes trust, for act_as: certificate."
    verbs = add_command(commands, "ca", _show, about).add_subparsers(metavar="WHAT", required=True)
    init = add_command(verbs, "init", _init, "Make the CA; print its public key for the login nodes.")
    show = add_command(verbs, "show", _show, "Print the public keys: a file for sshd's TrustedUserCAKeys.")
    about = "Make the next key and print it, for the login nodes, beside the present one. --finish switches."
    rotate = add_command(verbs, "rotate", _rotate, about)
    how = rotate.add_mutually_exclusive_group()
    how.add_argument("--finish", action="store_true", help="sign with the next key from now on")
    how.add_argument("--back", action="store_true", help="undo --finish: sign with the previous key again")
    how.add_argument("--cancel", action="store_true", help="give the next key up")
    for verb in (init, show, rotate):
        add_config(verb)
    for verb in (init, rotate):
        verb.add_argument(
            "--type",
            choices=list(KEY_KINDS),
            default="ecdsa",
            help="of a new key (default: %(default)s, P-256)",
        )


def _init(options: argparse.Namespace) -> int:
    return _print(options, lambda authority: authority.make(options.type))


def _show(options: argparse.Namespace) -> int:
    return _print(options, lambda authority: authority.keys())


def _rotate(options: argparse.Namespace) -> int:
    if options.finish:
        return _print(options, lambda authority: authority.finish())
    if options.back:
        return _print(options, lambda authority: authority.back())
    if options.cancel:
        return _print(options, lambda authority: authority.cancel())
    return _print(options, lambda authority: authority.prepare(options.type))


def _print(options: argparse.Namespace, act: Callable[[UserAuthority], Keys]) -> int:
    state_dir = parts.private_directory(private_settings(options).state_dir)
    say(trusted_keys(act(parts.user_authority(state_dir))).rstrip())
    return 0
