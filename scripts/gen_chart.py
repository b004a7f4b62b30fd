"""Makes README.md's table and values.schema.json of the chart from its values.yaml.

A value's description is the comment above it; it may end with `@schema {...}`, in lines of its
own, which adds JSON Schema keywords to the type that the default shows. A map is strict: it has
the keys that values.yaml gives it, unless it is empty there or `@schema` says what it may have.
`config` is gpucost's own settings, whose schema comes from exporter/gpucost/config.py, and
`rules.settings` those of scripts/render_rules.py. Run by gen_docs.py.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml
from msgspec import Struct

from gpucost.config import Config
from render_rules import Settings
from tables import table

if TYPE_CHECKING:
    from collections.abc import Iterator

CHART = Path(__file__).resolve().parent.parent / "helm/gpucost"
BEGIN = "<!-- values: made by scripts/gen_chart.py from values.yaml -->"
END = "<!-- end of values -->"

SCHEMA_MARK = "@schema "
JSON_TYPES = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}

Schema = dict[str, Any]


class Value(Struct, frozen=True):
    """One value of the chart. `inner` are the values of a strict map."""

    name: str
    default: Any
    description: str
    schema: Schema
    inner: tuple[Value, ...] = ()


def pages() -> Iterator[tuple[Path, str]]:
    """Each generated file: its path, and the text it must have."""
    values = read_values((CHART / "values.yaml").read_text())
    readme = CHART / "README.md"
    yield readme, with_table(readme.read_text(), values)
    yield CHART / "values.schema.json", json.dumps(schema_of(values), indent=2) + "\n"


def read_values(text: str) -> tuple[Value, ...]:
    """The values of a values.yaml. Raises ValueError for one without a description."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise TypeError("values.yaml must be a map")
    return tuple(_values(root, yaml.safe_load(text), text.splitlines()))


def _values(node: yaml.MappingNode, defaults: dict[str, Any], lines: list[str]) -> Iterator[Value]:
    for key, value in node.value:
        name = key.value
        description, schema = _comment_above(lines, key.start_mark.line)
        if not description:
            raise ValueError(f"values.yaml, line {key.start_mark.line + 1}: describe `{name}`")
        default = defaults[name]
        has_inner = isinstance(value, yaml.MappingNode) and not _says_keys(schema)
        inner = tuple(_values(value, default, lines)) if has_inner else ()
        yield Value(name, default, description, schema, inner)


def _says_keys(schema: Schema) -> bool:
    """Whether the keys of a map are other than the ones it has in values.yaml."""
    return bool(
        {"$ref", "properties"} & schema.keys()
        or isinstance(schema.get("additionalProperties"), dict)
    )


def _comment_above(lines: list[str], key: int) -> tuple[str, Schema]:
    """The description and the schema keywords in the comment right above a line."""
    first = key
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    words = " ".join(line.lstrip().removeprefix("#").strip() for line in lines[first:key])
    description, mark, keywords = words.partition(SCHEMA_MARK)
    return description.strip(), yaml.safe_load(keywords) if mark else {}


# --- values.schema.json -----------------------------------------------------------------------


def schema_of(values: tuple[Value, ...]) -> Schema:
    """The schema of all values, with that of the settings."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the gpucost chart",
        **_strict(values),
        "definitions": settings_schema(),
    }


def _strict(values: tuple[Value, ...]) -> Schema:
    properties = {value.name: _schema(value) for value in values}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _schema(value: Value) -> Schema:
    if "$ref" in value.schema:  # draft-07 ignores what stands beside it
        return value.schema
    kind = _strict(value.inner) if value.inner else {"type": JSON_TYPES[type(value.default)]}
    return {"description": value.description, **kind, **value.schema}


def settings_schema() -> Schema:
    """The schema of each section of gpucost's configuration, and of the rules' settings."""
    _, sections = msgspec.json.schema_components(
        [Config, Settings], ref_template="#/definitions/{name}"
    )
    return {name: _plain(section) for name, section in sorted(sections.items())}


def _plain(schema: Schema) -> Schema:
    """Without titles and defaults, which docs/operations.md tells; descriptions unwrapped."""
    plain = {key: _plain_part(key, part) for key, part in schema.items()}
    return {key: part for key, part in plain.items() if key not in ("title", "default")}


def _plain_part(key: str, part: object) -> object:
    match part:
        case dict() if key == "properties":
            return {name: _plain(inner) for name, inner in part.items()}
        case dict() if key != "default":
            return _plain(part)
        case list() if key == "anyOf":
            return [_plain(inner) for inner in part]
        case str() if key == "description":
            return " ".join(inspect.cleandoc(part).split())
    return part


# --- README.md --------------------------------------------------------------------------------


def with_table(page: str, values: tuple[Value, ...]) -> str:
    """The page with the table between its markers made anew."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the chart's README.md lacks the markers {BEGIN} and {END}")
    rows = table(("Value", "Default", "Meaning"), _rows(values, ""))
    return f"{before}{BEGIN}\n\n{rows}\n{END}{after}"


def _rows(values: tuple[Value, ...], path: str) -> Iterator[tuple[str, str, str]]:
    for value in values:
        default = "" if value.inner else f"`{json.dumps(value.default)}`"
        yield f"`{path}{value.name}`", default, value.description
        yield from _rows(value.inner, f"{path}{value.name}.")
