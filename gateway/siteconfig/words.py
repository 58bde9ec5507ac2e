"""The kinds of values that a site config may hold, and how people write them."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

#: A word that is safe on a scheduler's directive line (partition, account, GPU type).
DIRECTIVE_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}"
#: One line of text for people: no control characters.
ONE_LINE = r"[^\x00-\x1f\x7f]{1,200}"
#: A DNS name or an IPv4 address.
HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?"

_NAME = rf"^{DIRECTIVE_WORD}$"
_GPU_TYPE = rf"^(?:{DIRECTIVE_WORD})?$"
_TYPED = r"^[^\x00-\x1f\x7f]{0,200}$"
#: What may stand around a value: ASCII's blanks alone, here and in the browser.
BLANKS = " \t\n\r\f\v"
_WALLTIME = re.compile(r"(\d{1,5})\s*(m|min|h|d)|(?:(\d{1,3})-)?(\d{1,3}):(\d{2})(?::(\d{2}))?", re.ASCII)
_MEMORY = re.compile(r"(\d{1,7})\s*([MGT])(?:i?B)?", re.ASCII)
_PORT_RANGE = re.compile(r"(\d{4,5})-(\d{4,5})", re.ASCII)
_MINUTES = {"m": 1, "min": 1, "h": 60, "d": 24 * 60}
_MEGABYTES = {"M": 1, "G": 1024, "T": 1024 * 1024}


def parse_walltime(text: object) -> int:
    """Return a walltime in whole minutes, at least 1.

    Args:
        text: ``90m``, ``4h``, ``2d``, ``HH:MM``, ``HH:MM:SS`` (rounded up) or ``D-HH:MM[:SS]``.

    Raises:
        ValueError: It is none of these.
    """
    found = _WALLTIME.fullmatch(str(text).strip(BLANKS))
    if not found:
        raise ValueError("write a walltime as 30m, 4h, 2d, HH:MM:SS or D-HH:MM:SS")
    amount, unit, days, hours, minutes, seconds = found.groups()
    if unit:
        total = int(amount) * _MINUTES[unit]
    else:
        total = (int(days or 0) * 24 + int(hours)) * 60 + int(minutes) + (1 if int(seconds or 0) else 0)
    if total < 1:
        raise ValueError("a walltime is at least one minute")
    return total


def parse_memory(text: object) -> int:
    """Return an amount of memory in megabytes (2**20 bytes), at least 1.

    Args:
        text: A whole number with a unit: ``512M``, ``4G``, ``1T``.

    Raises:
        ValueError: It is not.
    """
    found = _MEMORY.fullmatch(str(text).strip(BLANKS))
    if not found or int(found[1]) < 1:
        raise ValueError("write memory as a whole number and a unit: 512M, 4G, 1T")
    return int(found[1]) * _MEGABYTES[found[2]]


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("write an absolute path")
    return path


def _port_range(text: object) -> tuple[int, int]:
    found = _PORT_RANGE.fullmatch(str(text))
    if not found or not 1024 <= int(found[1]) <= int(found[2]) - 9 < 65536 or int(found[2]) > 65535:
        raise ValueError("write a range of at least ten ports above 1023, as 20000-29999")
    return int(found[1]), int(found[2])


def _network(text: str) -> str:
    # sshd takes no host bits below the mask: with them the whole certificate would be refused.
    try:
        return str(ipaddress.ip_network(text)) if "/" in text else str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError(f"write an IP address or a network in CIDR form: {error}") from None


def _number(value: Any) -> Any:
    """Return a number as one: of a plain word the reader makes text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _text(value: Any) -> Any:
    """Return a number as it is typed, for values that were not read from a file."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _written(pattern: str, *examples: str, plain: bool = False) -> WithJsonSchema:
    """Return what JSON Schema says of a value that is kept otherwise than it is written.

    Args:
        pattern: A regular expression for the text.
        examples: Texts, for people.
        plain: Whether it may look like a number: an editor takes it for one, the gateway's reader for text.
    """
    kind: Any = ["string", "integer", "number", "boolean"] if plain else "string"
    schema: dict[str, Any] = {"type": kind, "pattern": pattern}
    return WithJsonSchema(schema | ({"examples": list(examples)} if examples else {}))


#: A name of the scheduler's: a partition, an account, a group.
Name = Annotated[str, StringConstraints(pattern=_NAME), _written(_NAME, plain=True)]
#: A type of GPU; "" where the scheduler does not tell types apart.
GpuType = Annotated[str, StringConstraints(pattern=_GPU_TYPE), _written(_GPU_TYPE, plain=True)]
Title = Annotated[str, StringConstraints(pattern=rf"^{ONE_LINE}$")]
Host = Annotated[str, StringConstraints(pattern=rf"^{HOST}$")]
Account = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_.-]{0,31}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute), _written("^/", "/etc/gateway/ssh/cascade")]
#: Minutes, written as a walltime.
Walltime = Annotated[
    int,
    BeforeValidator(parse_walltime),
    _written(rf"^(?:{_WALLTIME.pattern})$", "30m", "4h", "2d", "12:00:00", "7-00:00:00"),
]
#: Megabytes (2**20 bytes), written with a unit.
Memory = Annotated[
    int, BeforeValidator(parse_memory), _written(rf"^(?:{_MEMORY.pattern})$", "512M", "4G", "1T")
]
Network = Annotated[
    str, AfterValidator(_network), _written("^[0-9a-fA-F.:/]+$", "192.0.2.10", "2001:db8::/32")
]
PortRange = Annotated[
    tuple[int, int],
    BeforeValidator(_port_range),
    _written(rf"^{_PORT_RANGE.pattern}$", "20000-29999"),
]
Version = Annotated[Literal[1], BeforeValidator(_number)]

#: The name of a field of the form.
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
#: A value as it is typed into a field of the form: one line.
Typed = Annotated[
    str, BeforeValidator(_text), StringConstraints(pattern=_TYPED), _written(_TYPED, plain=True)
]
#: A small subset of Markdown, see gateway.markdown; without control characters but line breaks.
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x09\x0b-\x1f\x7f]*$", max_length=4000)]


class Strict(BaseModel):
    """A part of a site config: no other keys, no changes. The text below a key is what the docs say of it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, str_max_length=20_000, use_attribute_docstrings=True
    )
