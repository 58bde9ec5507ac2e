"""What a site config may say, for editors and for people: JSON Schema 2020-12, and tables for the docs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from gateway.siteconfig.dropin import (
    AddedField,
    Application,
    DropIn,
    Form,
    Messages,
    Partition,
    Preset,
    Rule,
    Script,
)
from gateway.siteconfig.site import SiteConfig
from gateway.siteconfig.trusted import Jump, Login, Tunnel

DIALECT = "https://json-schema.org/draft/2020-12/schema"

#: The parts as the docs have them: where a part stands, and its model.
_TRUSTED: tuple[tuple[str, type[BaseModel]], ...] = (
    ("login", Login),
    ("login.jump, tunnel.jump", Jump),
    ("tunnel", Tunnel),
)
_DROP_IN: tuple[tuple[str, type[BaseModel]], ...] = (
    ("partitions", Partition),
    ("applications", Application),
    ("form", Form),
    ("form.fields", AddedField),
    ("form.presets", Preset),
    ("form.rules", Rule),
    ("script", Script),
    ("messages", Messages),
)
_WORDS = {
    "string": "text",
    "integer": "number",
    "boolean": "``true`` or ``false``",
    "object": "keys and values",
}


class _Plain(GenerateJsonSchema):
    """Without the titles that pydantic makes of keys and defaults that say nothing; keys as they must be."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: Any) -> dict[str, Any]:
        made = super().default_schema(schema)
        if not isinstance(made.get("default"), (str, int)) or made["default"] in ("", "/dev/null"):
            made.pop("default", None)
        return made

    def dict_schema(self, schema: Any) -> dict[str, Any]:
        made = super().dict_schema(schema)
        return made | {"additionalProperties": False} if "patternProperties" in made else made


def schema(*, drop_in: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of the gateway's own files, or of drop-in files."""
    model = DropIn if drop_in else SiteConfig
    title = "Gateway: a drop-in of a cluster" if drop_in else "Gateway: the site config of a cluster"
    return {"$schema": DIALECT, **_schema_of(model), "title": title}


def tables() -> str:
    """Return what each key is, as reStructuredText."""
    own = SiteConfig.model_fields.keys() - DropIn.model_fields.keys()
    parts = [
        _heading("The gateway's own file", "~"),
        *_table(SiteConfig, own | {"version"}),
        *(line for where, model in _TRUSTED for line in _part(where, model)),
        _heading("Drop-ins, or the same file", "~"),
        *_table(DropIn, DropIn.model_fields.keys()),
        *(line for where, model in _DROP_IN for line in _part(where, model)),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _part(where: str, model: type[BaseModel]) -> Iterator[str]:
    yield _heading(", ".join(f"``{name}``" for name in where.split(", ")), "^")
    yield " ".join((model.__doc__ or "").split()) + "\n"
    yield from _table(model, model.model_fields.keys())


def _heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def _table(model: type[BaseModel], keys: Any) -> Iterator[str]:
    """Return a row for each key: what it is, and what it means."""
    whole = _schema_of(model)
    definitions = whole.get("$defs", {})
    whole = next((one for one in whole.get("anyOf", [whole]) if "properties" in one), whole)
    yield ".. list-table::\n   :header-rows: 1\n   :widths: 18 32 50\n"
    yield "   * - Key\n     - Value\n     - Meaning"
    for key, said in whole["properties"].items():
        if key not in keys:
            continue
        words = _kind(said, definitions)
        if key in whole.get("required", ()):
            words = f"{words}; must be there"
        elif "default" in said:
            words = f"{words}; {_default(said['default'])}"
        yield f"   * - ``{key}``\n     - {words}\n     - {_meaning(said, definitions)}"
    yield ""


def _default(value: Any) -> str:
    return f"else ``{str(value).lower() if isinstance(value, bool) else value}``"


def _meaning(said: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    text = said.get("description") or definitions[said["$ref"].rpartition("/")[2]]["description"]
    return " ".join(text.split())


def _kind(said: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return in words what a value is."""
    match said:
        case {"anyOf": [*several]}:
            kinds = [_kind(one, definitions) for one in several if one.get("type") != "null"]
            return " or ".join(kinds)
        case {"$ref": _}:
            return "keys and values, see below"
        case {"enum": [*words]}:
            return " or ".join(f"``{word}``" for word in words)
        case {"const": word}:
            return f"``{word}``"
        case {"examples": [*texts]}:
            return "like " + ", ".join(f"``{text}``" for text in texts)
        case {"type": "array", "items": items}:
            inner = _kind(items, definitions)
            return "a list, see below" if "see below" in inner else f"a list of: {inner}"
        case {"type": "object"}:
            return "keys and values"
        case {"type": "integer", "minimum": least, "maximum": most}:
            return f"{least} to {most}"
    kind = said.get("type", "string")
    return _WORDS.get(kind if isinstance(kind, str) else kind[0], "text")


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(schema_generator=_Plain)
