"""Several files as one document. Each key and value keeps the file and the line where it stands."""

from __future__ import annotations

from typing import Any

import yaml

_Path = tuple[str, ...]
#: Lists whose items are joined by their names; an empty one takes all away.
_BY_NAME: frozenset[_Path] = frozenset(
    {("partitions",), ("applications",), ("form", "fields"), ("form", "presets")}
)
#: Mappings that are joined key by key. All else is replaced as a whole.
_BY_KEY: frozenset[_Path] = frozenset(
    {
        ("form",),
        ("form", "rename"),
        ("form", "fix"),
        ("form", "help"),
        ("script",),
        ("script", "resources"),
        ("messages",),
    }
)
_ITEM: _Path = ("an item of a list",)


def joined(first: yaml.MappingNode, second: yaml.MappingNode, path: _Path = ()) -> yaml.MappingNode:
    """Return two documents as one: where both say the same, the second counts.

    Args:
        first: A document, or a part of it.
        second: The one that comes after it.
        path: Where in the document the parts are.
    """
    pairs: dict[str, tuple[Any, Any]] = {key.value: (key, value) for key, value in first.value}
    for key, value in second.value:
        there = pairs.get(key.value)
        pairs[key.value] = key, _together(there[1], value, (*path, key.value)) if there else value
    return yaml.MappingNode(first.tag, list(pairs.values()), first.start_mark, first.end_mark)


def _together(first: yaml.Node, second: yaml.Node, path: _Path) -> yaml.Node:
    if path in _BY_KEY and isinstance(first, yaml.MappingNode) and isinstance(second, yaml.MappingNode):
        return joined(first, second, path)
    if path in _BY_NAME and isinstance(first, yaml.SequenceNode) and isinstance(second, yaml.SequenceNode):
        return _by_name(first, second)
    return second


def _by_name(first: yaml.SequenceNode, second: yaml.SequenceNode) -> yaml.SequenceNode:
    if not second.value:
        return second
    items = list(first.value)
    places = {_name(item): place for place, item in enumerate(items)}
    for item in second.value:
        # A second one of the same name in one file is added, and found to be there twice.
        place = places.pop(_name(item), None)
        if place is None:
            items.append(item)
        else:
            items[place] = joined(items[place], item, _ITEM)
    return yaml.SequenceNode(first.tag, items, second.start_mark, second.end_mark)


def _name(item: yaml.Node) -> object:
    """Return an item's name; of one without a name something that is nobody else's."""
    if isinstance(item, yaml.MappingNode):
        for key, value in item.value:
            if key.value == "name" and isinstance(value, yaml.ScalarNode):
                return value.value
    return item
