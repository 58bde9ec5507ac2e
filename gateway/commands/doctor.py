"""``gateway doctor``: walks the path, and says for each step ok, not ok, or what to type."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.commands.base import add_command, add_config, keep_audit, say
from gateway.config import Settings, load_settings
from gateway.doctor.check import Check, not_ok, skipped
from gateway.doctor.examination import Question, examine
from gateway.doctor.show import all_ok, document, line, summary
from gateway.errors import BadRequest, ConfigError
from gateway.model import USER_NAME
from gateway.ssh.transport import quiet_library_log

if TYPE_CHECKING:
    from gateway.commands.base import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Walk the path from here to a job, and say for each step ok, not ok, or what to type."
    parser = add_command(commands, "doctor", _doctor, about)
    add_config(parser)
    parser.add_argument("cluster", metavar="CLUSTER", nargs="?", help="this one alone (default: all)")
    parser.add_argument("--user", metavar="NAME", help="somebody who may use the gateway: act for them")
    parser.add_argument(
        "--job", action="store_true", help="submit a one-minute job as NAME and go all the way"
    )
    parser.add_argument(
        "-o",
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="the job's: a field of the form",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _doctor(options: argparse.Namespace) -> int:
    if options.user is not None and not USER_NAME.fullmatch(options.user):
        raise BadRequest(public=f"{options.user!r} is not an account's name.")
    os.umask(0o077)
    _quiet()
    begun = time.monotonic()
    told = _Told()
    try:
        checks = _examine(options, _ignore if options.json else lambda check: say(line(check)), told)
    except asyncio.CancelledError:
        return 128 + (told.signal or signal.SIGTERM)
    seconds = time.monotonic() - begun
    say(document(checks, seconds) if options.json else summary(checks, seconds))
    return 0 if all_ok(checks) else 1


def _examine(options: argparse.Namespace, report: Callable[[Check], None], told: _Told) -> list[Check]:
    try:
        settings = load_settings(options.config)
    except ConfigError as error:
        mend = f"Correct {options.config}, or name another one with -f; gateway generate-config prints one."
        checks = [
            Check("configuration", not_ok(str(error), mend)),
            Check("everything else", skipped("because configuration is not ok")),
        ]
        for check in checks:
            report(check)
        return checks
    question = Question(options.cluster, options.user, options.job, tuple(options.option))
    return asyncio.run(_until_told(settings, question, report, told))


class _Told:
    """The signal that ended the examination, None if none did."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def end(self, task: asyncio.Task[object], number: signal.Signals) -> None:
        """End a task, once: a closed terminal says it twice, and a job is to be taken away in peace."""
        if self.signal is None:
            self.signal = number
            task.cancel()


async def _until_told(
    settings: Settings, question: Question, report: Callable[[Check], None], told: _Told
) -> list[Check]:
    """Examine until SIGTERM or a closed terminal; these too take away what there is of a job."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine runs in one
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            asyncio.get_running_loop().add_signal_handler(number, told.end, task, number)
    return await examine(settings, question, report)


def _ignore(_: Check) -> None:
    """Report nothing before the end."""


def _quiet() -> None:
    """Log audit lines alone: what is wrong is said by the steps, but for what they leave behind."""
    quiet_library_log()
    logging.basicConfig(format="%(message)s", level=logging.CRITICAL)
    logging.getLogger("gateway").setLevel(logging.CRITICAL)
    logging.getLogger("gateway.doctor").setLevel(logging.ERROR)
    keep_audit()
