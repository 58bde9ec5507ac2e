"""How fast the data plane is, against a bare ``ssh -L`` and against other proxies.

Run ``python benchmarks/proxy.py``; README.rst says how, and what came out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a script from anywhere

from benchmarks import load, others, ways
from benchmarks.processes import Sides, output

#: One round: a way's name to its figure, for each load.
Round = Mapping[str, Mapping[str, float]]

LOADS: Mapping[str, Callable[[load.Way, float], float]] = {
    "requests_1": lambda way, seconds: load.requests(way, 1, seconds),
    "requests": lambda way, seconds: load.requests(way, 32, seconds),
    "requests_256": lambda way, seconds: load.requests(way, 256, seconds),
    "bulk": load.bulk,
    "websocket": load.websocket,
}
TITLES = {
    "requests_1": "1 KiB, 1 conn. (req/s)",
    "requests": "1 KiB, 32 conn. (req/s)",
    "requests_256": "1 KiB, 256 conn. (req/s)",
    "bulk": "download (MB/s)",
    "websocket": "WebSocket (trips/s)",
}
#: Seconds between one way and the next.
_SETTLING = 0.3
#: What the gateway must reach, its node leg and the browser's leg plain as the others' are: ours / theirs.
TARGETS = {
    ("requests", "ssh -L"): 0.9,
    ("bulk", "ssh -L"): 0.9,
    ("websocket", "ssh -L"): 0.9,
    ("requests", "chp"): 5.0,
}


async def measure(rounds: int, seconds: float, sides: Sides, compared: Sequence[str]) -> list[Round]:
    """Return the figures of each round. In a round each load goes over all ways in turn, one at a time."""
    results = []
    with tempfile.TemporaryDirectory(prefix="gwbench") as directory:
        async with ways.built(Path(directory), sides, compared) as all_ways:
            for number in range(rounds):
                print(f"round {number + 1} of {rounds} …", file=sys.stderr)
                results.append(_round(all_ways, seconds))
    return results


def _round(all_ways: Sequence[load.Way], seconds: float) -> Round:
    return {name: {way.name: _settled(run(way, seconds)) for way in all_ways} for name, run in LOADS.items()}


def _settled(figure: float) -> float:
    """Let what this way still does end: a proxy that holds a part of a download goes on for a while."""
    time.sleep(_SETTLING)
    return figure


def medians(rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    """Return the median of each load and way over the rounds."""
    return {
        name: {way: round(median(each[name][way] for each in rounds), 1) for way in rounds[0][name]}
        for name in LOADS
    }


def ratios(rounds: Sequence[Round], other: str) -> dict[str, dict[str, float]]:
    """Return each way against another: the median of the ratios within each round, as the machine drifts."""
    return {
        name: {
            way: round(median(each[name][way] / each[name][other] for each in rounds), 3)
            for way in rounds[0][name]
        }
        for name in LOADS
    }


def versions(installed: Mapping[str, str]) -> dict[str, str]:
    """Return what was measured with what."""
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, timeout=10, check=False)
    return {
        "haproxy": output("haproxy", "-v").split()[2],
        "ssh": output("ssh", "-V").split(",")[0],
        **installed,
        "node": output("node", "--version").strip(),
        "nginx": output("nginx", "-v").strip().rpartition("/")[2],
        "wrk": wrk.stdout.split()[1],
        "python": platform.python_version(),
        "kernel": platform.release(),
        "CPUs": str(os.cpu_count()),
    }


def table(figures: Mapping[str, Mapping[str, float]], form: str) -> str:
    """Return figures for people, a way a line."""
    head = f"{'':<24}" + "".join(f"{title:>26}" for title in TITLES.values())
    rows = (
        f"{way:<24}" + "".join(f"{figures[name][way]:>26{form}}" for name in TITLES)
        for way in figures["requests"]
    )
    return "\n".join((head, *rows))


def main() -> None:
    """Measure and print; exit with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds for each load and way (2)")
    parser.add_argument("--shared", action="store_true", help="let all processes share all CPUs")
    parser.add_argument(
        "--ways", nargs="*", choices=tuple(others.STARTS), default=tuple(others.STARTS), help="which others"
    )
    options = parser.parse_args()
    programs = versions(others.install())
    sides = Sides.of_this_machine(apart=not options.shared)
    rounds = asyncio.run(measure(options.rounds, options.seconds, sides, options.ways))
    figures = medians(rounds)
    compared = {other: ratios(rounds, other) for other in ("ssh -L", *options.ways)}
    if options.json:
        cpus = {"near": sorted(sides.near), "far": sorted(sides.far)}
        report = {"versions": programs, "cpus": cpus, "medians": figures, "ratios": compared}
        targets = {f"{name} / {other}": least for (name, other), least in TARGETS.items()}
        print(json.dumps({**report, "rounds": rounds, "targets": targets}, indent=2))
    else:
        print(", ".join(f"{name} {version}" for name, version in programs.items()) + "\n")
        print(table(figures, ",.0f"))
        for other, against in compared.items():
            print(f"\nagainst {other}\n{table(against, '.2f')}")
    missed = [
        f"{name} is {compared[other][name]['gateway']} of {other}, not {least}"
        for (name, other), least in TARGETS.items()
        if other in compared and compared[other][name]["gateway"] < least
    ]
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
