"""mutmut, but for mutants of prose: what people read is not tested word by word.

It is run in place of ``python -m mutmut``, with the same arguments.
"""

from collections.abc import Iterable

import libcst
from mutmut.__main__ import cli
from mutmut.mutation import mutators

from tests.mutants.tables import PROSE


def strings(node: libcst.BaseString) -> Iterable[libcst.BaseString]:
    """Return the mutants of a string, unless it is prose."""
    if not (isinstance(node, libcst.SimpleString) and PROSE.search(node.value)):
        yield from mutators.operator_string(node)


if __name__ == "__main__":
    mutators.mutation_operators[:] = [
        (kind, strings if operator is mutators.operator_string else operator)
        for kind, operator in mutators.mutation_operators
    ]
    cli()
