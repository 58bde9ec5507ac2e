"""Runs the benchmarks in turn and puts what they print into README.rst: ``make bench``.

``python -m benchmarks [--quick] [NAME ...]`` runs all, or those that are named. What they print goes below
"Results" as it is, each with the day; of those that were not run the old stays.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.processes import ROOT

README = ROOT / "benchmarks" / "README.rst"
MARK = ".. make bench writes what follows."
#: The words of each, and those that make it short enough to see that it works.
PROGRAMS: Mapping[str, tuple[str, str]] = {
    "proxy": ("", "--rounds 1 --seconds 0.5"),
    "fairness": ("", "--rounds 1 --seconds 1"),
    "transfer": ("", "--gigabytes 1"),
    "routes": ("", "--counts 10 100 --adds 20"),
    "churn": ("", "--clients 10 --seconds 4"),
    "relay": ("", "--rounds 1 --seconds 0.5"),
    "poll": ("", "--rounds 1"),
}
_SECTION = re.compile(r"^``(\w+\.py)[^\n]*``, ", re.M)


def machine() -> str:
    """Return what was measured on."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = found[1].strip() if found else platform.machine()
    return f"{os.cpu_count()} CPUs ({model}), {memory:.0f} GiB, Linux {platform.release()}"


def run(name: str, words: Sequence[str]) -> str:
    """Run one, show what it prints, and return its section."""
    print(f"--- {name}.py {shlex.join(words)}", flush=True)
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=None, text=True, check=False)
    print(done.stdout, flush=True)
    told = "" if done.returncode == 0 else f" (exit status {done.returncode}: a goal was missed)"
    title = f"``{shlex.join([f'{name}.py', *words])}``, {datetime.now(UTC):%Y-%m-%d}, {machine()}{told}::"
    return "\n".join((title, "", *(f"    {line}".rstrip() for line in done.stdout.strip().split("\n")), ""))


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield each program's name with its section of earlier results."""
    starts = list(_SECTION.finditer(text))
    ends = [*(each.start() for each in starts), len(text)][1:]
    for start, end in zip(starts, ends, strict=True):
        yield start[1].removesuffix(".py"), text[start.start() : end].rstrip() + "\n"


def main() -> None:
    """Run those that are named; the exit status is 1 if one has missed a goal."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="only see that they work; README.rst stays")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(PROGRAMS)} (all)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(PROGRAMS):
        parser.error(f"there is no {', '.join(sorted(unknown))}: take {', '.join(PROGRAMS)}")
    head, mark, old = README.read_text().partition(MARK)
    results = dict(sections(old))
    names = options.names or PROGRAMS
    for name in names:
        results[name] = run(name, shlex.split(PROGRAMS[name][options.quick]))
        if mark and not options.quick:  # after each: one that is ended by hand keeps what there is
            ordered = (results[each] for each in PROGRAMS if each in results)
            README.write_text(f"{head}{mark}\n\n" + "\n".join(ordered))
    if any("a goal was missed" in results[name] for name in names):
        sys.exit(1)


if __name__ == "__main__":
    main()
