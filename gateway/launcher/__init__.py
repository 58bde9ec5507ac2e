"""The launcher: the one program that a site installs on a login node for the mode ``sudo``.

``gateway-launcher`` beside this file is that program; ``wire`` is its standard input and output.
"""

from __future__ import annotations

from enum import IntEnum
from importlib.resources import files


class LauncherStatus(IntEnum):
    """The launcher's exit statuses, after sysexits.h where it has them."""

    DONE = 0
    USAGE = 64
    CUT_SHORT = 65
    NO_PROGRAM = 69
    STATE_DIR = 73
    BUSY = 75
    REFUSED = 77


def launcher_text() -> str:
    """Return the program, as it is to be installed (owned by root, mode 0755)."""
    return files(__name__).joinpath("gateway-launcher").read_text(encoding="ascii")


def sudoers_text(account: str, group: str, launcher: str) -> str:
    """Return what a site puts into /etc/sudoers.d (owned by root, mode 0440).

    Args:
        account: The service account with which the gateway logs in.
        group: The Unix group of the people it may act for; never ALL, and without ``account`` in it.
        launcher: The absolute path of the installed launcher.
    """
    return (
        f"# {account} may run this one program, as a member of the group {group} only.\n"
        f"Defaults:{account} !requiretty, !lecture, env_reset\n"
        # The launcher's standard input carries keys: sudo must not log it.
        f"Defaults!{launcher} !log_input, !log_output\n"
        f"{account} ALL=(%{group}) NOPASSWD: {launcher}\n"
    )
