"""How a value gets into a job script: quoted for the shell, or matched for a directive line. Pure.

It is all that the child process of `gateway.rendering` loads of this package: it imports nothing heavy.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import jinja2

from gateway.errors import ConfigError

#: The end of a line before one that begins with #, maybe after blanks: PBS's qsub passes over those, Slurm's
#: sbatch and Grid Engine's qsub (8.1.9) do not.
_LATER_HASH = re.compile(r"\n(?=[ \t]*#)")


class Verbatim(str):
    """Text that is safe as it stands."""

    __slots__ = ()


class Quoting:
    """The two ways of a value into a template: Jinja's ``finalize`` and the filter ``directive``.

    Args:
        word: A regular expression that a value on a directive line matches: there no quoting helps.
        refused: Characters that no value may hold: sbatch refuses carriage returns, no word can hold a NUL.
    """

    def __init__(self, word: str, refused: str = "\0\r") -> None:
        self._word = re.compile(word, re.ASCII)
        self._refused = frozenset(refused)

    def install(self, environment: jinja2.Environment) -> None:
        """Make every ``{{ value }}`` of an environment's templates go one of the two ways."""
        finalize: Callable[[object], str] = self.quoted
        environment.finalize = finalize
        environment.filters["directive"] = self.directive

    def directive(self, value: object) -> Verbatim:
        """Return a value for a scheduler's directive line.

        Raises:
            ConfigError: It cannot stand there.
        """
        if not isinstance(value, str | int) or not self._word.fullmatch(str(value)):
            raise ConfigError(f"job script: {value!r} cannot stand on a directive line")
        return Verbatim(value)

    def quoted(self, value: object) -> str:
        """Return a value as one shell word.

        Raises:
            ConfigError: It is nothing that can be one: undefined, None, with a control character.
        """
        if isinstance(value, Verbatim):
            return value
        if isinstance(value, jinja2.Undefined):
            raise ConfigError(f"job script: {_undefined(value)}")
        if not isinstance(value, str | int):
            raise ConfigError(f"job script: {value!r} is not a value")
        text = str(value)
        if not self._refused.isdisjoint(text):
            raise ConfigError(f"job script: {text!r} holds a control character")
        # Grid Engine's qsub reads directives on any line, inside of words too: no line begins with #.
        return _LATER_HASH.sub("\n''", shlex.quote(text))


def _undefined(value: jinja2.Undefined) -> str:
    try:
        return f"{value} is undefined"
    except jinja2.UndefinedError as error:
        return str(error)
