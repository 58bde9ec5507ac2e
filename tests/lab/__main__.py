"""The lab on the command line: ``python -m tests.lab up|down|run|in|gateway|env``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab import environment, gateway
from tests.lab.lab import Lab
from tests.lab.nodes import LabError, Node

ENV_FILE = environment.REPOSITORY / "var" / "lab.env"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    options = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        status: int = options.command(options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def up(options: argparse.Namespace) -> int:
    """Bring a lab up and leave it in the background."""
    lab = _bring_up(options)
    print(f"{lab}\nwhat a client needs to know is in {options.env}; python -m tests.lab down ends it")
    return 0


def run(options: argparse.Namespace) -> int:
    """Bring a lab up, say how to use it, wait for Ctrl-C or SIGTERM, take it down."""
    lab = _bring_up(options)
    try:
        print(f"The gateway: {lab.url}\nIts certificate authority: {lab.authority}")
        for name in ("alice", "bob", "carol"):
            print(f"  {name}  {lab.passwords[name]}")
        print(f"Its commands: {sys.executable} -m tests.lab gateway doctor lab --user alice --job")
        print("Ctrl-C ends it.", flush=True)
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("ending")
    finally:
        lab.down()
        _forget(options.env, lab)
    return 0


def down(options: argparse.Namespace) -> int:
    """Take a lab down."""
    lab = _attach(options)
    lab.down(keep=options.keep)
    _forget(options.env, lab)
    return 0


def inside(options: argparse.Namespace) -> int:
    """Run a command on a node, on this terminal."""
    lab = _attach(options)
    node = lab.nodes.get(options.node)
    if node is None:
        raise LabError(f"there is no node {options.node}; there are {', '.join(lab.nodes)}")
    _become(node, options.words or ["bash"], options.user)
    return 0


def gateway_command(options: argparse.Namespace) -> int:
    """Run a command of the gateway where the lab's gateway runs, as its user."""
    words = [gateway.PYTHON, "-m", "gateway.cli", *options.words]
    _become(_attach(options).hub, words, "gateway", {"PYTHONPATH": gateway.SOURCE})
    return 0


def _become(
    node: Node, words: Sequence[str], user: str | None, more: Mapping[str, str] | None = None
) -> None:
    variables = node.environment(user, {"TERM": os.environ.get("TERM", "dumb"), **(more or {})})
    command = node.command(words, user, variables["HOME"])
    os.execvpe(command[0], command, variables)


def env(options: argparse.Namespace) -> int:
    """Print what a client of the lab needs to know."""
    for name, value in _attach(options).variables().items():
        print(f"{name}={value}")
    return 0


def _bring_up(options: argparse.Namespace) -> Lab:
    known = _variables(options.env).get("LAB_STATE")
    if known and Path(known).exists():
        raise LabError(f"there is a lab already, in {known}; python -m tests.lab down ends it")
    lab = Lab.up(options.state, options.venv)
    try:
        if options.gateway:
            lab.start_gateway()
        lab.write_variables(options.env)
    except BaseException:
        lab.down()
        raise
    return lab


def _attach(options: argparse.Namespace) -> Lab:
    state = options.state or os.environ.get("LAB_STATE") or _variables(options.env).get("LAB_STATE")
    if not state:
        raise LabError(f"which lab? --state DIR, LAB_STATE or {options.env} say it")
    return Lab.attach(Path(state))


def _variables(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(line.split("=", 1) for line in lines)


def _forget(path: Path, lab: Lab) -> None:
    if _variables(path).get("LAB_STATE") == str(lab.state):
        path.unlink()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state", type=Path, help="the lab's state directory")
    common.add_argument("--env", type=Path, default=ENV_FILE, help="where its variables are written")
    new = argparse.ArgumentParser(add_help=False)
    new.add_argument("--venv", type=Path, help="the lab's Python environment")
    new.add_argument("--gateway", action="store_true", help="start the gateway too")
    commands = parser.add_subparsers(required=True)
    for name, command, parents in (
        ("up", up, [common, new]),
        ("run", run, [common, new]),
        ("down", down, [common]),
        ("in", inside, [common]),
        ("gateway", gateway_command, [common]),
        ("env", env, [common]),
    ):
        one = commands.add_parser(name, help=command.__doc__, parents=parents)
        one.set_defaults(command=command)
        if command is down:
            one.add_argument("--keep", action="store_true", help="keep the state directory, for its logs")
        if command is gateway_command:
            one.add_argument("words", nargs=argparse.REMAINDER, help="as in: doctor lab --user alice")
        if command is inside:
            one.add_argument("--user", help="whom to run it as; root by default")
            one.add_argument("node", help="login, cn1, cn2 or hub")
            one.add_argument("words", nargs=argparse.REMAINDER, help="the command; bash by default")
    return parser


if __name__ == "__main__":
    sys.exit(main())
