"""``gateway generate-config``: a configuration to begin with, made from the settings that there are."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from traitlets import Enum, Int, List, TraitType
from traitlets.config import Configurable

from gateway import __version__
from gateway.commands.base import add_command
from gateway.config import SECTIONS
from gateway.errors import BadRequest

if TYPE_CHECKING:
    from gateway.commands.base import Commands

_WIDTH = 100
_HEAD = f"""\
# The gateway's configuration, with all settings of version {__version__}. It is Python.
# A setting in a comment has the value that it shows there; those that must be set show an example.

c = get_config()  # noqa: F821
"""


def add(commands: Commands) -> None:
    """Add the command."""
    about = "Print a gateway_config.py with every setting, its meaning and its default."
    parser = add_command(commands, "generate-config", _generate, about)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a new file to write it to (0640)")


def _generate(options: argparse.Namespace) -> int:
    text = config_text()
    if options.output is None:
        sys.stdout.write(text)
        return 0
    try:
        with options.output.open("x") as file:
            options.output.chmod(0o640)
            file.write(text)
    except FileExistsError:
        raise BadRequest("", f"{options.output} is there already, and is left as it is.") from None
    except OSError as error:
        raise BadRequest("", f"{options.output} cannot be written: {error.strerror}.") from error
    return 0


def config_text() -> str:
    """Return a configuration in which every setting stands, commented out."""
    return _HEAD + "".join(line for section in SECTIONS.values() for line in _section(section))


def _section(section: type[Configurable]) -> Iterator[str]:
    title = " ".join(f"{section.__name__}: {section.__doc__}".split())
    yield f"\n# {'-' * (_WIDTH - 2)}\n{_comment(title)}# {'-' * (_WIDTH - 2)}\n"
    configurable = section.class_own_traits(config=True)
    for trait in (configurable[name] for name in vars(section) if name in configurable):
        yield "\n"
        yield _comment(_meaning(trait))
        yield f"# c.{section.__name__}.{trait.name} = {_written(_value(trait))}\n"


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, _WIDTH - 2))


def _meaning(trait: TraitType[object, object]) -> str:
    """Return what a setting means, which values it takes, and whether it must be set."""
    words = [str(trait.help)]
    if isinstance(trait, Enum):
        words.append(f"One of {', '.join(_written(value) for value in trait.values or ())}.")
    if isinstance(trait, Int) and trait.min is not None:
        words.append(f"At least {trait.min}.")
    if "example" in trait.metadata:
        words.append("Must be set; for example:")
    return " ".join(words)


def _value(trait: TraitType[object, object]) -> object:
    default = trait.default() if isinstance(trait, List) else trait.default_value
    return trait.metadata.get("example", default)


def _written(value: object) -> str:
    """Return a value as Python with the quotes that this project writes."""
    return repr(value).replace("'", '"') if isinstance(value, str | list) else repr(value)
