"""The command ``gateway``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence

from gateway import __version__
from gateway.commands import (
    backup,
    bundle,
    ca,
    check,
    db,
    demo,
    doctor,
    generate_config,
    launcher,
    prepare,
    reload,
    render,
    run,
    schema,
    token,
    tunnels,
    units,
    why,
)
from gateway.errors import BadRequest, GatewayError

#: In the order of ``gateway --help``.
_COMMANDS = (
    run,
    reload,
    demo,
    check,
    schema,
    doctor,
    render,
    why,
    bundle,
    launcher,
    ca,
    token,
    db,
    backup,
    generate_config,
    units,
    prepare,
    tunnels,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after ``gateway``; by default the process's own.

    Returns:
        The exit status: 0, or 1 after one clear sentence (or two lines) on standard error.
    """
    options = _parser().parse_args(arguments)
    call: Callable[[argparse.Namespace], int] = options.call
    try:
        return call(options)
    except GatewayError as error:
        print(_told(error), file=sys.stderr)  # noqa: T201  it is for who typed the command
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who reads it has seen enough, as in: gateway schema | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the end is silent too
        return 128 + signal.SIGPIPE


def _told(error: GatewayError) -> str:
    """Return what a command says of an error: one line, and what to do next if the error was given that.

    A class's own advice is for pages.
    """
    if isinstance(error, BadRequest):
        return error.public
    said = str(error)
    if error.advice == error.default_advice or error.advice in said:
        return said
    return f"{said}\n{error.advice}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway",
        description="Jupyter as batch jobs on an HPC cluster, in the browser.",
    )
    parser.add_argument("--version", action="version", version=f"gateway {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
