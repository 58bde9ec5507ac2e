"""Mutants of tables: mutmut changes functions only, but much of a reader is a table of states.

Of each dictionary, set and tuple of a module: every entry is left out once, and every value of a dictionary
is once another one of its values. Each mutant is a fork of this process, in which the tests run.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

#: Three words in a row: a sentence for people. Which of them it is, no test should say.
PROSE = re.compile(r"[A-Za-z']{1,30},? [a-z'-]{1,30},? [a-z'-]{1,30}")
NO_CHANGE = ""
OPTIONS = ("-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=")
Change = Callable[[], None]


def changes(module: ModuleType) -> Iterator[tuple[str, Change]]:
    """Return each mutant's name, and what makes it."""
    for name in _assigned(module):
        table = getattr(module, name)
        if isinstance(table, dict):
            yield from _of_mapping(name, table)
        elif isinstance(table, frozenset | tuple) and len(table) > 1:
            for item in sorted(table, key=repr):
                smaller = type(table)(other for other in table if other != item)
                yield f"{name} without {item!r}", _replaced(table, smaller)


def _assigned(module: ModuleType) -> Iterator[str]:
    """Yield the names of constants that the module assigns itself, as opposed to those that it imports."""
    assert module.__file__
    for statement in ast.parse(Path(module.__file__).read_text()).body:
        targets = [*getattr(statement, "targets", ()), getattr(statement, "target", None)]
        yield from (each.id for each in targets if isinstance(each, ast.Name) and each.id.isupper())


def _of_mapping(name: str, table: dict[Any, Any]) -> Iterator[tuple[str, Change]]:
    for key, value in list(table.items()):
        yield f"{name} without {key!r}", lambda key=key: table.pop(key)  # type: ignore[misc]
        other = next((each for each in table.values() if each != value), None)
        if other is not None and not PROSE.search(str(other)):
            yield f"{name}[{key!r}] = {other!r}", lambda key=key, other=other: table.update({key: other})  # type: ignore[misc]


def _replaced(old: object, new: object) -> Change:
    """Return what puts a table in the place of another: where it was imported, and where it is a default."""

    def change() -> None:
        for module in [each for name, each in sys.modules.items() if name.startswith(("gateway.", "tests."))]:
            classes = [each for each in vars(module).values() if isinstance(each, type)]
            for owner in (module, *classes):
                for name, value in list(vars(owner).items()):
                    if value is old:
                        setattr(owner, name, new)
                    elif isinstance(value, FunctionType) and (given := value.__defaults__):
                        value.__defaults__ = tuple(new if each is old else each for each in given)

    return change


class Forks:
    """A plugin of pytest's: when the tests are collected, it runs them once for each change, in a fork."""

    def __init__(self, every: Mapping[str, Change]) -> None:
        self.every = every
        self.survivors: list[str] = []
        self.is_fork = False

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Run the tests of this session in a fork for each change, and none here."""
        for told, change in self.every.items():
            sys.stdout.flush()
            child = os.fork()
            if not child:
                self.is_fork = True
                change()
                return
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == pytest.ExitCode.OK:
                self.survivors.append(told)
        session.items.clear()


def results(modules: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    """Return of each module, a path with its test files: its name, how many mutants, and the survivors."""
    for path, tests in modules.items():
        name = path.removesuffix(".py").replace("/", ".")
        every = dict(changes(importlib.import_module(name)))
        if every:
            forks = Forks({NO_CHANGE: lambda: None, **every})
            status = pytest.main([*OPTIONS, *tests], plugins=[forks])
            if forks.is_fork:
                os._exit(status)
            if NO_CHANGE not in forks.survivors:
                raise SystemExit(f"{name}: the tests fail without a mutant")
            alive = [told for told in forks.survivors if told != NO_CHANGE]
            yield {"name": name, "count": len(every), "survivors": dict.fromkeys(alive, "")}


if __name__ == "__main__":
    files = json.loads(sys.argv[1])
    Path("tables.json").write_text(json.dumps(list(results(files))))
