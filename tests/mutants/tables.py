"""Mutants of tables: mutmut changes functions only, but much of a reader is a table of states.

Of each dictionary, set and tuple of a module: every entry is left out once, and every value of a dictionary
is once another one of its values. Each mutant is a fork of this process, in which the tests run.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

#: Three words in a row: a sentence for people. Which of them it is, no test should say.
PROSE = re.compile(r"[A-Za-z']{1,30},? [a-z'-]{1,30},? [a-z'-]{1,30}")
Change = Callable[[], None]


def changes(module: ModuleType) -> Iterator[tuple[str, Change]]:
    """Return each mutant's name, and what makes it."""
    for name, table in list(vars(module).items()):
        if not name.isupper() or not _is_here(module, name):
            continue
        if isinstance(table, dict):
            yield from _of_mapping(name, table)
        elif isinstance(table, frozenset | tuple) and len(table) > 1:
            for item in sorted(table, key=repr):
                smaller = type(table)(other for other in table if other != item)
                yield f"{name} without {item!r}", _replaced(table, smaller)


def _is_here(module: ModuleType, name: str) -> bool:
    """Whether the module assigns the name itself."""
    code = compile(_source(module), "module", "exec")
    return name in code.co_names and not any(
        getattr(other, name, None) is getattr(module, name)
        for other_name, other in sys.modules.items()
        if other_name.startswith("gateway.") and other is not module and f"import {name}" in _source(module)
    )


def _source(module: ModuleType) -> str:
    assert module.__file__
    return Path(module.__file__).read_text()


def _of_mapping(name: str, table: dict[Any, Any]) -> Iterator[tuple[str, Change]]:
    for key, value in list(table.items()):
        yield f"{name} without {key!r}", lambda key=key: table.pop(key)  # type: ignore[misc]
        other = next((each for each in table.values() if each != value), None)
        if other is not None and not PROSE.search(str(other)):
            yield f"{name}[{key!r}] = {other!r}", lambda key=key, other=other: table.update({key: other})  # type: ignore[misc]


def _replaced(old: object, new: object) -> Change:
    def change() -> None:
        for module_name, module in list(sys.modules.items()):
            if module_name.startswith("gateway."):
                for name, value in list(vars(module).items()):
                    if value is old:
                        setattr(module, name, new)

    return change


def survivors(modules: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, int, list[str]]]:
    """Return of each module, given with its test files: its name, how many mutants, and the survivors."""
    for name, tests in modules.items():
        module = importlib.import_module(name)
        every = list(changes(module))
        if every:
            assert _run(tests, None) == 0, f"{name}: the tests fail without a mutant"
            yield name, len(every), [told for told, change in every if _run(tests, change) == 0]


def _run(tests: Sequence[str], change: Change | None) -> int:
    """Return the exit status of the tests, in a process of their own."""
    child = os.fork()
    if not child:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            if change:
                change()
            status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *tests])
        except BaseException:
            os._exit(9)
        os._exit(int(status))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def warm(tests: Sequence[str]) -> None:
    """Import what the tests import, once for all."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *tests])
