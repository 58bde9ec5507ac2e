"""What a poll costs: how many commands of the scheduler, and how long the hub reads what they print.

Run ``python benchmarks/poll.py [--rounds N] [--live SCHEDULER … [--jobs N]] [--json]``; README.rst says more.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a script from anywhere

from gateway.launcher import ENVIRONMENT
from gateway.model import Asked, Command, Completed
from gateway.queue import Queue
from gateway.schedulers import Scheduler, get
from gateway.siteconfig import SiteConfig
from tests.lab import Lab
from tests.unit.test_schedulers import MARK, NAME, SchedulerContract

if TYPE_CHECKING:
    from tests.lab.nodes import Node

SCHEDULERS = ("slurm", "sge", "pbs", "local")
COUNTS = (1, 100, 10_000)
LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
#: Goals: remote execs for one poll, and reading against what the scheduler itself takes.
EXECS, RATIO = 1, 1.0
#: How a job that never starts is submitted under a name, which xargs(1) puts in.
SUBMIT = {
    "slurm": ("sbatch", "-Q", "--hold", "-t", "5", "--mem=50M", "-o", "/dev/null", "--wrap=exit", "-J", "{}"),
    "sge": ("qsub", "-terse", "-h", "-b", "y", "-j", "y", "-o", "/dev/null", "-N", "{}", "/bin/true"),
}


@dataclass
class Replayed:
    """Stands for a login node where all commands have already run, and counts what is asked of it."""

    answers: Sequence[Completed]
    execs: int = 0
    commands: list[Command] = field(default_factory=list)

    async def run(
        self, command: Command, *, stdin: bytes = b"", timeout: float, output: int | None = None
    ) -> Completed:
        """Return all answers, as one exec prints them."""
        self.execs += 1
        self.commands = _several(command)
        mark = stdin.decode().strip()
        lines = [f"\ngw1 exited {answer.status} {mark}\n" for answer in self.answers]
        pairs = list(zip(self.answers, lines, strict=True))
        return Completed(
            0,
            "".join(answer.stdout + line for answer, line in pairs),
            "".join(answer.stderr + line for answer, line in pairs),
        )


def _several(command: Command) -> list[Command]:
    """Return the commands that one exec runs: see gateway.queue.asking."""
    words, found = list(command.words[5:]), []
    while words:
        count = int(words.pop(0))
        found.append(Command(tuple(words[:count])))
        del words[:count]
    return found


@dataclass(frozen=True)
class Listing:
    """What a scheduler printed of some jobs, and in how many seconds, if it really did."""

    scheduler: Scheduler
    asked: Sequence[Asked]
    answers: Sequence[Completed]
    mark: str
    took: Callable[[], float] | None = None


def name(number: int) -> str:
    """Return a job's name."""
    word = "".join(LETTERS[number >> shift & 31] for shift in range(45, -1, -5))
    return f"gw-aaaaaa-{word}"


def generated(scheduler: str, count: int) -> Listing:
    """Return the listing of so many running jobs, as the scheduler's recordings show them."""
    contract = _contract(scheduler)
    running = next(word for word, state in contract.states.items() if state == "running")
    asked = [Asked(name(number), "alice", contract.job_id(number + 1)) for number in range(count)]
    answers = [_renamed(answer, NAME, count) for answer in contract.listing([running] * count)]
    return Listing(contract.scheduler, asked, answers, MARK)


def settled(listing: Listing) -> Listing:
    """Return the listing as it is while all applications run, of whose jobs the state alone is asked for."""
    asked = [replace(job, settled=True) for job in listing.asked]
    commands = listing.scheduler.status_commands(asked, listing.mark)
    return replace(listing, asked=asked, answers=listing.answers[-len(commands) :])


def _contract(scheduler: str) -> SchedulerContract:
    module = vars(importlib.import_module(f"tests.unit.test_{scheduler}"))
    kinds = (kind for kind in module.values() if isinstance(kind, type) and kind is not SchedulerContract)
    return next(kind() for kind in kinds if issubclass(kind, SchedulerContract))


def _renamed(answer: Completed, old: str, count: int) -> Completed:
    """Give each row's job a name of its own."""
    each = max(1, answer.stdout.count(old) // count)
    seen = iter(range(count * each + each))
    return Completed(answer.status, re.sub(old, lambda _: name(next(seen) // each), answer.stdout))


@contextmanager
def live(lab: Lab, scheduler: str, count: int) -> Iterator[Listing]:
    """Give the listing of so many held jobs of a scheduler of the lab, and what it takes to make it again."""
    if scheduler == "sge":
        lab.sge.start()
    node = lab.sge.login if scheduler == "sge" else lab.login
    subject = get(scheduler)
    names = "".join(f"{name(number)}\n" for number in range(count))
    words = ["xargs", "-P4", "-I{}", *SUBMIT[scheduler]]
    done = node.run(words, user="alice", input=names, timeout=1800)
    if done.returncode:
        raise SystemExit(f"{SUBMIT[scheduler][0]}: {done.stderr}")
    mark = os.urandom(8).hex()
    asked = [Asked(name(number), "alice") for number in range(count)]
    commands = subject.status_commands(asked, mark)
    answers = [_run(node, command) for command in commands]
    found = subject.read_status(answers, asked, mark).jobs
    asked = [Asked(job.name, job.user, job.job_id) for job in found]
    if len(asked) != count:
        raise SystemExit(f"{scheduler} shows {len(asked)} of {count} jobs")
    commands = subject.status_commands(asked, mark)
    answers = [_run(node, command) for command in commands]

    def again() -> float:
        began = time.perf_counter()
        for command in commands:
            _run(node, command)
        return time.perf_counter() - began

    try:
        yield Listing(subject, asked, answers, mark, again)
    finally:
        _clear(node, scheduler)


def _run(node: Node, command: Command) -> Completed:
    environment = [f"{key}={value}" for key, value in ENVIRONMENT.items()]
    done = node.run(["env", *environment, *command.environment, *command.words], user="svc", timeout=300)
    return Completed(done.returncode, done.stdout, done.stderr)


def _clear(node: Node, scheduler: str) -> None:
    words = ["scancel", "--user=alice"] if scheduler == "slurm" else ["qdel", "-u", "alice"]
    node.run(words, user="alice", timeout=600)


def site(scheduler: str) -> SiteConfig:
    """Return a site config, as little as there may be."""
    login = {"hosts": ["login"], "user": "svc", "key": "/k", "known_hosts": "/h", "act_as": "sudo"}
    return SiteConfig.model_validate(
        {"version": 1, "name": "bench", "title": "Bench", "scheduler": scheduler, "login": login}
    )


async def read(listing: Listing) -> tuple[float, Replayed]:
    """Return the seconds that the hub needs for one poll, but for waiting; and what it asked."""
    node = Replayed(listing.answers)
    queue = Queue(site("slurm"), listing.scheduler, node)
    with mock.patch("secrets.token_hex", return_value=listing.mark):
        began = time.perf_counter()
        result = await queue.listing(listing.asked)
        took = time.perf_counter() - began
    known = {job.job_id for job in result.jobs}
    if len(known) != len(listing.asked):
        raise SystemExit(f"{len(known)} of {len(listing.asked)} jobs were read")
    return took, node


def measure(listing: Listing, rounds: int) -> dict[str, float]:
    """Return the figures of one listing; reading and the scheduler's own work take turns."""
    took, own = [], []
    for _ in range(rounds):
        seconds, node = asyncio.run(read(listing))
        took.append(seconds)
        if listing.took:
            own.append(listing.took())
    figures: dict[str, float] = {
        "jobs": len(listing.asked),
        "execs": node.execs,
        "commands": len(node.commands),
        "longest_word": max(len(word) for command in node.commands for word in command.words),
        "kB": round(sum(len(answer.stdout) for answer in listing.answers) / 1000, 1),
        "read_ms": round(1000 * median(took), 2),
    }
    if own:
        figures["scheduler_ms"] = round(1000 * median(own), 1)
        figures["ratio"] = round(median(mine / theirs for mine, theirs in zip(took, own, strict=True)), 3)
    return figures


def versions(lab: Lab | None, schedulers: Sequence[str]) -> dict[str, str]:
    """Return what was measured with what."""
    found = {"python": platform.python_version(), "kernel": platform.release(), "CPUs": str(os.cpu_count())}
    if lab and "slurm" in schedulers:
        found["slurm"] = lab.login.run(["sinfo", "--version"]).stdout.split()[-1]
    if lab and "sge" in schedulers:
        found["sge"] = lab.sge.login.run(["qstat", "-help"]).stdout.splitlines()[0].split()[-1]
    return found


def table(report: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return the figures for people."""
    columns = ("jobs", "execs", "commands", "longest_word", "kB", "read_ms", "scheduler_ms", "ratio")
    lines = [f"{'':<12}" + "".join(f"{column:>14}" for column in columns)]
    for scheduler, rows in report.items():
        for row in rows:
            shown = (f"{row[column]:,}" if column in row else "" for column in columns)
            lines.append(f"{scheduler:<12}" + "".join(f"{text:>14}" for text in shown))
    return "\n".join(lines)


def main() -> None:
    """Measure and print; exit with 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (9)")
    parser.add_argument("--live", nargs="*", choices=SUBMIT, default=[], help="also of the lab; needs root")
    parser.add_argument("--jobs", type=int, default=1000, help="held jobs in the lab (1000)")
    options = parser.parse_args()
    report = {
        scheduler: [measure(generated(scheduler, count), options.rounds) for count in COUNTS]
        for scheduler in SCHEDULERS
    }
    report["sge settled"] = [measure(settled(generated("sge", count)), options.rounds) for count in COUNTS]
    programs = versions(None, ())
    if options.live:
        with Lab.up() as lab:
            for scheduler in options.live:
                with live(lab, scheduler, options.jobs) as listing:
                    report[f"{scheduler} live"] = [measure(listing, options.rounds)]
            programs = versions(lab, options.live)
    if options.json:
        print(json.dumps({"versions": programs, "figures": report}, indent=2))
    else:
        print(", ".join(f"{program} {version}" for program, version in programs.items()) + "\n")
        print(table(report))
    missed = [
        f"{scheduler}: {row['jobs']} jobs: {key} is {row[key]}, not {most}"
        for scheduler, rows in report.items()
        for row in rows
        for key, most in (("execs", EXECS), ("ratio", RATIO))
        if row.get(key, 0) > most
    ]
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
