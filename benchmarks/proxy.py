"""How fast the data plane is, against a bare ``ssh -L`` and against configurable-http-proxy.

Run ``python benchmarks/proxy.py [--json] [--rounds N] [--seconds S] [--shared]``; README.rst says more.
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a script from anywhere

from benchmarks import load, ways
from benchmarks.processes import Sides, output

#: One round: a way's name to its figure, for each load.
Round = Mapping[str, Mapping[str, float]]

LOADS: Mapping[str, Callable[[load.Way, float], float]] = {
    "requests_1": lambda way, seconds: load.requests(way, 1, seconds),
    "requests": lambda way, seconds: load.requests(way, 32, seconds),
    "bulk": load.bulk,
    "websocket": load.websocket,
}
TITLES = {
    "requests_1": "1 KiB, 1 conn. (req/s)",
    "requests": "1 KiB, 32 conn. (req/s)",
    "bulk": "download (MB/s)",
    "websocket": "WebSocket (trips/s)",
}
RATIOS = {"ssh": "ssh -L", "chp": "chp"}
TARGETS = {"requests_vs_ssh": 0.85, "requests_vs_chp": 4.0}


async def measure(rounds: int, seconds: float, sides: Sides) -> list[Round]:
    """Return the figures of each round. In a round each load goes over all ways in turn, one at a time."""
    results = []
    with tempfile.TemporaryDirectory(prefix="gwbench") as directory:
        async with ways.built(Path(directory), sides) as all_ways:
            for number in range(rounds):
                print(f"round {number + 1} of {rounds} …", file=sys.stderr)
                results.append(_round(all_ways, seconds))
    return results


def _round(all_ways: Sequence[load.Way], seconds: float) -> Round:
    return {name: {way.name: run(way, seconds) for way in all_ways} for name, run in LOADS.items()}


def medians(rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    """Return the median of each load and way over the rounds."""
    return {
        name: {way: round(median(each[name][way] for each in rounds), 1) for way in rounds[0][name]}
        for name in LOADS
    }


def ratios(rounds: Sequence[Round]) -> dict[str, float]:
    """Return ours against the others: the median of the ratios within each round, as the machine drifts."""
    return {
        f"{prefix}{name}_vs_{short}": round(
            median(each[name][ours] / each[name][other] for each in rounds), 3
        )
        for prefix, ours in (("", "gateway"), ("tls_", "gateway-tls"))
        for name in LOADS
        for short, other in RATIOS.items()
    }


def versions(chp: str) -> dict[str, str]:
    """Return what was measured with what."""
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, timeout=10, check=False)
    return {
        "haproxy": output("haproxy", "-v").split()[2],
        "ssh": output("ssh", "-V").split(",")[0],
        "configurable-http-proxy": chp,
        "node": output("node", "--version").strip(),
        "nginx": output("nginx", "-v").strip().rpartition("/")[2],
        "wrk": wrk.stdout.split()[1],
        "python": platform.python_version(),
        "kernel": platform.release(),
        "CPUs": str(os.cpu_count()),
    }


def table(figures: Mapping[str, Mapping[str, float]], compared: Mapping[str, float]) -> str:
    """Return the figures and ratios for people."""
    names = list(figures["requests"])
    lines = [f"{'median':<26}" + "".join(f"{name:>14}" for name in names)]
    for name, title in TITLES.items():
        lines.append(f"{title:<26}" + "".join(f"{figures[name][way]:>14,.0f}" for way in names))
    lines += [
        "",
        f"{'ratio':<26}"
        + "".join(f"{column:>14}" for column in ("/ ssh", "/ chp", "TLS / ssh", "TLS / chp")),
    ]
    for name, title in TITLES.items():
        keys = [f"{prefix}{name}_vs_{short}" for prefix in ("", "tls_") for short in RATIOS]
        lines.append(f"{title:<26}" + "".join(f"{compared[key]:>14.2f}" for key in keys))
    return "\n".join(lines)


def main() -> None:
    """Measure and print; exit with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds for each load and way (2)")
    parser.add_argument("--shared", action="store_true", help="let all processes share all CPUs")
    options = parser.parse_args()
    programs = versions(ways.install_chp())
    sides = Sides.of_this_machine(apart=not options.shared)
    rounds = asyncio.run(measure(options.rounds, options.seconds, sides))
    figures, compared = medians(rounds), ratios(rounds)
    if options.json:
        cpus = {"near": sorted(sides.near), "far": sorted(sides.far)}
        report = {
            "versions": programs,
            "cpus": cpus,
            "medians": figures,
            "ratios": compared,
            "rounds": rounds,
        }
        print(json.dumps({**report, "targets": TARGETS}, indent=2))
    else:
        print(", ".join(f"{name} {version}" for name, version in programs.items()) + "\n")
        print(table(figures, compared))
    missed = [
        f"{key} is {compared[key]}, not {least}" for key, least in TARGETS.items() if compared[key] < least
    ]
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
