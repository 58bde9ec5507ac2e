"""Run mutmut over the readers, and the mutants of their tables: ``make mutants``.

Words on the command line are parts of modules' names. It works on a copy in var/mutants, one for each choice
of words, so that several can run at once; JOBS in the environment is how many mutants a run tries at a time.
The survivors, each with what was changed, are in the copy's report.txt. It ends with status 1 if less than
90 % are killed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

GOAL = 0.9
ROOT = Path(__file__).parents[2]
COPIES = ROOT / "var" / "mutants"
COPIED = (
    "gateway",
    "templates",
    "tests",
    "benchmarks",
    "site-configs",
    "docs",
    "setup.cfg",
    "pyproject.toml",
)
#: The test files that hold for a module, by the module's beginning; a star stands for anything.
TESTS: Mapping[str, Sequence[str]] = {
    "schedulers/slurm": ("slurm*", "scheduler_*"),
    "schedulers/sge": ("sge*", "scheduler_*"),
    "schedulers/pbs": ("pbs*", "scheduler_*"),
    "schedulers/local": ("local", "scheduler_*"),
    "schedulers/text": ("schedulers", "slurm*", "sge*", "pbs*", "local"),
    "decide": ("decide",),
    "lifecycle": ("lifecycle", "decide"),
    "endpoint": ("endpoint", "decide"),
    "rules": ("rules",),
    "waiting": ("waiting",),
}
#: For pytest: as in a plain checkout, in one process.
OPTIONS = ("-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=")


@dataclass(frozen=True)
class Module:
    """What was found of a module: how many mutants, and of those that survived the name and the change."""

    name: str
    count: int
    survivors: Mapping[str, str]


def modules(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the files whose names hold one of the words, or all, with their test files."""
    found = {}
    for beginning, tests in TESTS.items():
        for path in sorted((ROOT / "gateway").glob(f"{beginning}*.py")):
            name = f"gateway/{path.relative_to(ROOT / 'gateway')}"
            if not words or any(word in name for word in words):
                every = [path for test in tests for path in (ROOT / "tests" / "unit").glob(f"test_{test}.py")]
                found[name] = sorted(str(path.relative_to(ROOT)) for path in every)
    return found


def stage(copy: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Make a fresh copy of the project with mutmut's settings."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, copy / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    config = ConfigParser()
    config.read(copy / "setup.cfg")
    lists = {
        "only_mutate": list(files),
        "also_copy": [name for name in COPIED if (ROOT / name).is_dir()],
        "pytest_add_cli_args_test_selection": sorted({test for tests in files.values() for test in tests}),
        "pytest_add_cli_args": OPTIONS,
    }
    config["mutmut"] = {
        "source_paths": "gateway",
        "use_git_change_detection": "false",
        "track_dependencies": "false",
        **{name: "\n".join(("", *values)) for name, values in lists.items()},
    }
    with (copy / "setup.cfg").open("w") as file:
        config.write(file)


def run(copy: Path, kind: str, *words: str) -> list[Module]:
    """Run tests.mutants.KIND in the copy, by whose modules alone it goes; return what it found."""
    log = copy / f"{kind}.log"
    with log.open("w") as output:
        done = subprocess.run(
            (sys.executable, "-m", f"tests.mutants.{kind}", *words),
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)},
            stdout=None if sys.stdout.isatty() else output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"tests.mutants.{kind} failed, see {log}")
    return [Module(**found) for found in json.loads((copy / f"{kind}.json").read_text())]


def report(kind: str, found: Sequence[Module]) -> Iterator[str]:
    """Return what is to be said of each module, and which mutants survived."""
    for module in found:
        yield f"{kind} of {module.name}: {module.count - len(module.survivors)} of {module.count} killed"
        for name, change in module.survivors.items():
            yield f"    {name}"
            yield from (f"        {line}" for line in change.splitlines())


def main(words: Sequence[str]) -> int:
    """Do all of it."""
    files = modules(words)
    copy = COPIES / ("-".join(words).replace("/", "-") or "all")
    stage(copy, files)
    of_tables = run(copy, "tables", json.dumps(files))
    of_functions = run(copy, "functions", "run", "--max-children", os.environ.get("JOBS", "1"))
    lines = [*report("functions", of_functions), *report("tables", of_tables)]
    for kind, found in {
        "functions": of_functions,
        "tables": of_tables,
        "all": of_functions + of_tables,
    }.items():
        every = sum(module.count for module in found)
        killed = every - sum(len(module.survivors) for module in found)
        lines.append(f"{kind}: {killed} of {every} mutants killed: {killed / max(1, every):.1%}")
    (copy / "report.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(line for line in lines if not line.startswith("     ")))
    return int(killed < GOAL * every)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
