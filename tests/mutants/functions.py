"""mutmut, but for mutants of prose: what people read is not tested word by word.

It is run in place of ``python -m mutmut``, with the same arguments.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import libcst
from mutmut.__main__ import cli
from mutmut.mutation import mutators
from mutmut.mutation.diff_apply import get_diff_for_mutant

from tests.mutants.tables import PROSE

#: What mutmut notes of a mutant that no test noticed: survived, no test reaches it, not run.
SURVIVED = (0, 5, 33, None)


def strings(node: libcst.BaseString) -> Iterable[libcst.BaseString]:
    """Return the mutants of a string, unless it is prose."""
    if not (isinstance(node, libcst.SimpleString) and PROSE.search(node.value)):
        yield from mutators.operator_string(node)


def results() -> Iterator[dict[str, Any]]:
    """Return of each module its name, how many mutants it had, and the change in each that survived."""
    for meta in sorted(Path("mutants").rglob("*.meta")):
        statuses = json.loads(meta.read_text())["exit_code_by_key"]
        source = meta.relative_to("mutants").with_suffix("")
        alive = [name for name, status in statuses.items() if status in SURVIVED]
        if statuses:
            yield {
                "name": str(source.with_suffix("")).replace("/", "."),
                "count": len(statuses),
                "survivors": {name: _change(name, source) for name in alive},
            }


def _change(name: str, source: Path) -> str:
    """Return the lines that the mutant changes, without the heading."""
    lines = get_diff_for_mutant(name, path=source).splitlines()[3:]
    return "\n".join(line for line in lines if line.startswith(("+", "-")))


if __name__ == "__main__":
    assert isinstance(mutators.mutation_operators, list), "another mutmut than 3.8"
    mutators.mutation_operators[:] = [
        (kind, strings if operator is mutators.operator_string else operator)
        for kind, operator in mutators.mutation_operators
    ]
    cli(standalone_mode=False)
    Path("functions.json").write_text(json.dumps(list(results())))
