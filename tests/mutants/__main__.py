"""Run mutmut over the readers, and the mutants of their tables: ``make mutants``.

Words on the command line are parts of modules' names. It works on a copy in var/mutants, takes about half an
hour, and ends with status 1 if less than 90 % are killed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from configparser import ConfigParser
from pathlib import Path

from tests.mutants import tables

GOAL = 0.9
ROOT = Path(__file__).parents[2]
COPY = ROOT / "var" / "mutants"
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
#: The tests that hold for a module, by the module's beginning.
TESTS: Mapping[str, Sequence[str]] = {
    "schedulers/slurm": ("slurm", "scheduler_commands", "scheduler_reasons"),
    "schedulers/sge": ("sge", "scheduler_commands", "scheduler_reasons"),
    "schedulers/pbs": ("pbs", "scheduler_commands", "scheduler_reasons"),
    "schedulers/local": ("local", "scheduler_commands", "scheduler_reasons"),
    "schedulers/text": ("schedulers", "slurm", "sge", "pbs", "local"),
    "decide": ("decide",),
    "lifecycle": ("lifecycle", "decide"),
    "endpoint": ("endpoint", "decide"),
    "rules": ("rules",),
    "waiting": ("waiting",),
}
OPTIONS = ("-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=")


def modules(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the files whose names hold one of the words, or all, with their test files."""
    found = {}
    for beginning, tests in TESTS.items():
        for path in sorted((ROOT / "gateway").glob(f"{beginning}*.py")):
            name = f"gateway/{path.relative_to(ROOT / 'gateway')}"
            if not words or any(word in name for word in words):
                found[name] = [f"tests/unit/test_{test}.py" for test in tests]
    return found


def stage(files: Mapping[str, Sequence[str]]) -> None:
    """Make a fresh copy of the project with mutmut's settings."""
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, COPY / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, COPY / name)
    config = ConfigParser()
    config.read(COPY / "setup.cfg")
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
    with (COPY / "setup.cfg").open("w") as file:
        config.write(file)


def functions() -> Iterator[tuple[str, int, list[str]]]:
    """Run mutmut; return of each module how many mutants it had, and those that survived."""
    words = (sys.executable, "-m", "tests.mutants.functions", "run", "--max-children", "1")
    done = subprocess.run(words, cwd=COPY, check=False)
    if done.returncode:
        raise SystemExit("mutmut failed: see above")
    for path in sorted((COPY / "mutants").rglob("*.meta")):
        statuses = json.loads(path.read_text())["exit_code_by_key"]
        if statuses:
            name = str(path.relative_to(COPY / "mutants")).removesuffix(".py.meta").replace("/", ".")
            yield name, len(statuses), [key for key, status in statuses.items() if status in (0, 33, 5, None)]


def report(title: str, rows: Iterator[tuple[str, int, list[str]]]) -> tuple[int, int]:
    """Print how many mutants of each module were killed and which survived; return the sums."""
    every = killed = 0
    for name, count, alive in rows:
        every, killed = every + count, killed + count - len(alive)
        print(f"{title} {name}: {count - len(alive)} of {count} killed", *alive, sep="\n    ", flush=True)
    return every, killed


def main(words: Sequence[str]) -> int:
    """Do all of it."""
    os.nice(19)
    files = modules(words)
    stage(files)
    os.chdir(COPY)
    sys.path[0] = str(COPY)
    tables.warm(sorted({test for tests in files.values() for test in tests}))
    named = {name.removesuffix(".py").replace("/", "."): tests for name, tests in files.items()}
    of_tables = report("tables", tables.survivors(named))
    of_functions = report("functions", functions())
    every, killed = (sum(pair) for pair in zip(of_tables, of_functions, strict=True))
    print(f"functions: {of_functions[1]} of {of_functions[0]}; tables: {of_tables[1]} of {of_tables[0]}")
    print(f"{killed} of {every} mutants killed: {killed / every:.1%}; the goal is {GOAL:.0%}")
    return int(killed < GOAL * every)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
