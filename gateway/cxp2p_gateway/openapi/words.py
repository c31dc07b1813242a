"""The words of JSON Schema 2020-12 that the document is written in. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

ANYTHING: Schema = {}
NULL: Schema = {"type": "null"}


def text(least: int = 0, most: int | None = None, **more: object) -> Schema:
    """A string of so many characters."""
    return {"type": "string", **_bounds("minLength", "maxLength", least or None, most), **more}


def number(least: float | None = None, most: float | None = None, **more: object) -> Schema:
    return {"type": "number", **_bounds("minimum", "maximum", least, most), **more}


def whole(least: int | None = None, most: int | None = None, **more: object) -> Schema:
    return {"type": "integer", **_bounds("minimum", "maximum", least, most), **more}


def flag(**more: object) -> Schema:
    return {"type": "boolean", **more}


def one_of(names: Sequence[str], **more: object) -> Schema:
    """One of a few strings."""
    return {"type": "string", "enum": [str(name) for name in names], **more}


def just(value: str) -> Schema:
    """This one string."""
    return {"type": "string", "const": value}


def many(items: Schema, least: int | None = None, most: int | None = None, **more: object) -> Schema:
    return {"type": "array", "items": items, **_bounds("minItems", "maxItems", least, most), **more}


def record(must: Mapping[str, Schema], may: Mapping[str, Schema] | None = None, **more: object) -> Schema:
    """An object: `must` are there, `may` can be left out or null, if they are no `must`. Others are ignored."""
    properties = {**must, **{name: maybe(schema) for name, schema in (may or {}).items() if name not in must}}
    return {"type": "object", "properties": properties, **({"required": [*must]} if must else {}), **more}


def given(must: Mapping[str, Schema], may: Mapping[str, Schema] | None = None, **more: object) -> Schema:
    """An object of an answer: `must` are always there, `may` sometimes, and never null."""
    properties = {**must, **(may or {})}
    return {"type": "object", "properties": properties, **({"required": [*must]} if must else {}), **more}


def any_of(*schemas: Schema, **more: object) -> Schema:
    return {"anyOf": list(schemas), **more}


def maybe(schema: Schema) -> Schema:
    """The same, or null."""
    if not schema or schema.get("type") == "null":
        return schema
    if isinstance(schema.get("type"), str):
        values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
        if "const" not in schema:
            return {**schema, **values, "type": [schema["type"], "null"]}
    if "anyOf" in schema and set(schema) <= {"anyOf", "description"}:
        return {**schema, "anyOf": [*schema["anyOf"], NULL]}
    return {"anyOf": [schema, NULL]}


def only_with(field: str, other: str, nothing: Schema = NULL) -> Schema:
    """A rule of an object: `field` is `nothing`, null or absent, unless `other` is true."""
    return any_of(
        {"properties": {field: maybe(nothing)}},
        {"properties": {other: {"const": True}}, "required": [other]},
    )


def ref(name: str) -> Schema:
    """A schema that stands under this name in the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def _bounds(low: str, high: str, least: float | None, most: float | None) -> Schema:
    bounds = {low: least, high: most}
    return {name: bound for name, bound in bounds.items() if bound is not None}
