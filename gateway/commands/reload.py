"""``gateway reload``: drop-ins and partitions, at once."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, add_config, say
from gateway.config import load_settings
from gateway.reload import Outcome, ask_hub

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Have the running hub read drop-ins and partitions now; say what is in use; exit 1 on a fault."
    add_config(add_command(commands, "reload", _reload, about))


def _reload(options: argparse.Namespace) -> int:
    answer = ask_hub(load_settings(options.config).run_dir)
    for outcome in answer.outcomes:
        _tell(outcome)
    for what in answer.restart:
        say(f"{what}: restart the hub: trusted site configs are read at its start")
    return 1 if any(outcome.faults for outcome in answer.outcomes) else 0


def _tell(outcome: Outcome) -> None:
    state = "the last good version stays in use" if outcome.faults else "ok"
    say(f"{outcome.cluster}: {state}: {outcome.partitions} partitions, from {', '.join(outcome.used)}")
    for fault in outcome.faults:
        say(f"  fault: {fault}")
    for note in outcome.notes:
        say(f"  note: {note}")
