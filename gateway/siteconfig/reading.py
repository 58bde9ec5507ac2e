"""Reads site configs: YAML, data only; every fault is one line with the file and the line."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.errors import ConfigError
from gateway.siteconfig.crosschecks import cross_faults
from gateway.siteconfig.dropin import DropIn
from gateway.siteconfig.fault import Fault, Location
from gateway.siteconfig.site import SiteConfig

#: How deep mappings and lists may lie in each other; a site config needs 6.
_DEEPEST = 16
#: Characters of what one fault says.
_LONGEST = 400
#: Keys and values that one file may have, and faults that are told of one document.
_MOST_NODES, _MOST_FAULTS = 20_000, 50
_NULL = "tag:yaml.org,2002:null"

_Model = TypeVar("_Model", bound=DropIn)


class _Loader(yaml.SafeLoader):
    """The safe loader, for less: no aliases, no tags, no key twice, and every word but null is text.

    YAML 1.1 makes a number of seconds of 12:30:00 and the octal 10 of 012; what a word is, the models say.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  as the base class has it
        first: [(_NULL, re.compile(r"(?:~|null|)\Z"))] for first in ("~", "n", "")
    }

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.name = source
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it bare
        if isinstance(event, yaml.AliasEvent):
            raise _problem("aliases are not allowed", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _problem(f"tags are not allowed: {event.tag}", event.start_mark)
        if self._depth == _DEEPEST:
            raise _problem("this lies too deep", event.start_mark)
        if self._nodes == _MOST_NODES:
            raise _problem(f"there are more than {_MOST_NODES:,} keys and values", event.start_mark)
        self._nodes += 1
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        return node


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _NULL:
            raise _problem("a key is one word", key.start_mark)
        if key.value in seen:
            raise _problem(f"{key.value} is there twice", key.start_mark)
        seen.add(key.value)


def _problem(what: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, what, mark)


def parse_site_config(text: str, source: str) -> SiteConfig:
    """Return the site config that ``text`` holds.

    Args:
        text: YAML.
        source: The file's name, for errors.

    Raises:
        ConfigError: One line for each fault, ``file:line: where: what``.
    """
    return validated(SiteConfig, document(text, source), cross_faults)


def parse_drop_in(text: str, source: str) -> DropIn:
    """Return what one drop-in file says by itself. The arguments are those of `parse_site_config`.

    Raises:
        ConfigError: One line for each fault, ``file:line: where: what``.
    """
    root = document(text, source)
    check_drop_in(root)
    return validated(DropIn, root, cross_faults)


def document(text: str, source: str) -> yaml.MappingNode:
    """Return a file's keys and values, each of which knows the file and its line.

    Raises:
        ConfigError: It is not YAML, has what is not allowed in it, or is no mapping.
    """
    try:
        loader = _Loader(text, source)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}:{line}: {_one_line(error.problem or 'not YAML')}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(f"{source}:{line}: {error.reason}") from None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{source}:1: a site config is a mapping of keys to values")
    return node


def check_drop_in(root: yaml.MappingNode) -> None:
    """Refuse what only the gateway's own file may say, and a file that does not say its version.

    Raises:
        ConfigError: One line for each fault.
    """
    trusted = SiteConfig.model_fields.keys() - DropIn.model_fields.keys()
    faults = [
        Fault((key.value,), "this belongs into the gateway's own site config; a drop-in cannot change it")
        for key, _ in root.value
        if key.value in trusted
    ]
    if not any(key.value == "version" for key, _ in root.value):
        faults.append(Fault(("version",), "Field required"))
    _refuse(root, faults)


def validated(
    model: type[_Model], root: yaml.MappingNode, *checks: Callable[[_Model], Iterable[Fault]]
) -> _Model:
    """Return what a document says.

    Args:
        model: What it must be.
        root: The document, of one file or of several together.
        checks: What else must hold, once each value for itself is good.

    Raises:
        ConfigError: One line for each fault, with the file that says it.
    """
    try:
        data = yaml.constructor.SafeConstructor().construct_document(root)
        found = model.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        faulty = {each["loc"][:depth] for each in details for depth in range(len(each["loc"]))}
        _refuse(root, (Fault(d["loc"], _words(d)) for d in details if not _follows(d, faulty)))
        raise  # not reached: every error has details
    _refuse(root, (fault for check in checks for fault in check(found)))
    return found


def _refuse(root: yaml.MappingNode, faults: Iterable[Fault]) -> None:
    """Raise an error that names the faults, if there are any; of very many the first."""
    found = list(faults)
    lines = [_line(root, fault.where, fault.name, fault.what) for fault in found[:_MOST_FAULTS]]
    if len(found) > len(lines):
        lines.append(_line(root, found[len(lines)].where, "", f"and {len(found) - len(lines)} more"))
    if lines:
        raise ConfigError("\n".join(dict.fromkeys(lines)))


def _line(root: yaml.MappingNode, where: Location, name: str, what: str) -> str:
    mark = _mark_of(root, where)
    return f"{mark.name}:{mark.line + 1}: " + _one_line(f"{name}{': ' if name else ''}{what}")


def _one_line(text: str) -> str:
    """Return what a fault says without what a file may have put in to look like another line."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def _follows(details: ErrorDetails, faulty: Collection[Location]) -> bool:
    """Return whether a list only seems too short because of the faults inside of it.

    ``faulty`` is all that has faults inside.
    """
    return details["type"] == "too_short" and details["loc"] in faulty


def _words(details: ErrorDetails) -> str:
    match details["type"]:
        case "extra_forbidden":
            return "there is no such key"
        case "too_short":
            return "there must be at least one"
        case "tuple_type":
            return "write a list here: [this, that]"
        case "dict_type" | "model_type":
            return "write keys and values here: {key: value}"
        case "string_pattern_mismatch":
            return f"{details['input']!r} is not allowed here"
    return details["msg"].removeprefix("Value error, ")


def _mark_of(node: Any, location: Location) -> yaml.Mark:
    """Return where the deepest part of ``location`` stands that is in the text."""
    mark: yaml.Mark = node.start_mark
    for part in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
        elif isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == part), None)
            if found is None:
                break
            mark, node = found[0].start_mark, found[1]
        else:
            break
    return mark
