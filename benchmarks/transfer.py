"""A transfer of many gigabytes each way, and the memory of who carries it.

Run ``python benchmarks/transfer.py [--gigabytes N]``; both legs are TLS, as in use.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a script from anywhere

from benchmarks import load, ways
from benchmarks.processes import Sides
from gateway.dataplane.runtime import Processes, ask_master

#: How much more memory a process may have had at any moment than before, in MB.
TARGET = 20.0


async def carriers(directory: Path) -> dict[str, int]:
    """Return the pids of HAProxy's worker and of the two SSH masters that carry."""
    found = Processes(await ask_master(directory / "haproxy" / "master.sock", 5, "show", "proc"))
    masters = sorted((directory / "tls").glob("*/pid"))
    return {"haproxy": found.workers[0]} | {
        f"ssh {path.parent.name}": int(path.read_text()) for path in masters
    }


def memory(pid: int, word: str) -> float:
    """Return a process's memory in MB: ``VmRSS`` now, ``VmHWM`` the most that it ever had."""
    found = re.search(rf"{word}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1000 if found else 0.0


async def measure(gigabytes: float) -> bool:
    """Transfer, print, and return whether the memory stayed where it was."""
    count, good = int(gigabytes * 1e9), True
    loads: dict[str, Callable[[load.Way], float]] = {
        "download": lambda way: load.bulk(way, 3600, path="files/bulk", most=count),
        "upload": lambda way: load.upload(way, count),
    }
    with tempfile.TemporaryDirectory(prefix="gwbench") as place:
        async with ways.built(Path(place), Sides.of_this_machine(apart=False), ()) as all_ways:
            way = next(way for way in all_ways if way.name == "gateway, both TLS")
            for name, run in loads.items():
                pids = await carriers(Path(place))
                before = {who: memory(pid, "VmRSS") for who, pid in pids.items()}
                rate = run(way)
                print(f"{name} of {gigabytes:g} GB: {rate:,.0f} MB/s")
                for who, pid in pids.items():
                    most = memory(pid, "VmHWM")
                    good = good and most - before[who] < TARGET
                    print(f"  {who:<10}{before[who]:>8.1f} MB before, {most:.1f} MB at most")
    return good


def main() -> None:
    """Measure and print; exit with 1 if somebody has kept what it should only carry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=20.0)
    if not asyncio.run(measure(parser.parse_args().gigabytes)):
        sys.exit(f"missed: more than {TARGET:g} MB were kept")


if __name__ == "__main__":
    main()
