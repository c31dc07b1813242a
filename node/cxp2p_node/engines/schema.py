"""A stranger's JSON Schema, made fit for the grammar. Pure.

A grammar that lets an answer through which the schema forbids would cost the node its pay. So where llguidance reads
something in another way than JSON Schema does, what it gets means the same in both, or is refused.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, Final

from cxp2p.errors import JobFailed
from cxp2p.records import FailureCode

# Of the others JSON Schema says that whoever does not know them ignores them, and llguidance refuses them.
FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
_SCHEMAS_BY_NAME: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_PLAIN_VALUES: Final = ("enum", "const", "default", "examples")

# Space as ECMA-262 has it, without those characters that Rust counts otherwise.
_SPACE: Final = r"\t\n\x0b\x0c\r \xa0\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}"
_EITHER: Final = r"\u{feff}\x85"  # space to one of them, none to the other
_ESCAPED: Final = re.compile(r"\\(.)|(\[)|(\])|(&&|--|~~)", re.DOTALL)


def read_schema(text: str) -> dict[str, Any]:
    """The schema in JSON text. Raises JobFailed(SCHEMA_INVALID)."""
    try:
        schema = json.loads(text)
        if not isinstance(schema, dict):
            raise _invalid("the schema is not a JSON object")
        fixed: dict[str, Any] = _fixed(schema)
    except ValueError as error:
        raise _invalid(f"the schema is not JSON: {error}") from None
    except RecursionError:
        raise _invalid("the schema is nested too deep") from None
    return fixed


def _fixed(schema: Any) -> Any:
    """A schema at any depth. What is none is left to llguidance to refuse."""
    if isinstance(schema, list):
        return [_fixed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    fixed: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _PLAIN_VALUES:
            fixed[key] = value
        elif key == "oneOf" and "anyOf" not in schema and _exclude_each_other(value):
            fixed["anyOf"] = _fixed(value)
        elif key == "pattern" and isinstance(value, str):
            fixed[key] = pattern_of(value)
        elif key == "format" and isinstance(value, str) and value not in FORMATS:
            continue
        elif key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            named = {name: _fixed(each) for name, each in value.items()}
            fixed[key] = {pattern_of(name): each for name, each in named.items()} if "pattern" in key else named
        else:
            fixed[key] = _fixed(value)
    return fixed


def _exclude_each_other(schemas: Any) -> bool:
    """Whether a value of one of these is surely of no other: then `oneOf` is `anyOf`, which llguidance can follow.

    It sees so itself of some, but not where numbers tell them apart.
    """
    if not isinstance(schemas, list) or not all(isinstance(each, dict) for each in schemas):
        return False
    return all(_apart(one, other) for one, other in itertools.combinations(schemas, 2))


def _apart(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """By their types, by their values, or by a property that both must have."""
    types = [_types(each) for each in (one, other)]
    if all(types) and not types[0] & types[1]:
        return True
    values = [_values(each) for each in (one, other)]
    if all(each is not None for each in values):
        return not any(left == right for left in values[0] or () for right in values[1] or ())
    if types != [{"object"}, {"object"}]:
        return False
    left, right = _musts(one), _musts(other)
    return any(_apart(left[name], right[name]) for name in left.keys() & right.keys())


def _musts(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schemas of the properties that an object must have."""
    shapes, names = schema.get("properties"), schema.get("required")
    if not isinstance(shapes, dict) or not isinstance(names, list):
        return {}
    return {name: each for name, each in shapes.items() if name in names and isinstance(each, dict)}


def _types(schema: dict[str, Any]) -> set[str]:
    """The types that it names; a number may be a whole one. Empty: any."""
    named = schema.get("type")
    listed = named if isinstance(named, list) else [named]
    names = {each for each in listed if isinstance(each, str)}
    return names | {"integer"} if "number" in names else names


def _values(schema: dict[str, Any]) -> list[Any] | None:
    """The values that it names, if it does. As Python compares them, True is 1: then they are not apart."""
    if "const" in schema:
        return [schema["const"]]
    named = schema.get("enum")
    return named if isinstance(named, list) else None


def pattern_of(pattern: str) -> str:
    """A pattern of JSON Schema (ECMA-262) that means no more to llguidance, whose patterns are Rust's.

    Raises JobFailed(SCHEMA_INVALID) for what is an operator or a class to one of them and letters to the other.
    """
    in_class = False

    def replaced(match: re.Match[str]) -> str:
        nonlocal in_class
        letter, opening, closing, operator = match.groups()
        if letter == "s":
            return _SPACE if in_class else f"[{_SPACE}]"
        if letter == "S":
            return f"[^{_SPACE}{_EITHER}]"
        if in_class and (opening or operator):
            raise _invalid(f"write {match[0]!r} in the class of pattern {pattern[:80]!r} with a backslash")
        in_class = bool(opening) or (in_class and not closing)
        return match[0]

    return _ESCAPED.sub(replaced, pattern)


def _invalid(reason: str) -> JobFailed:
    return JobFailed(FailureCode.SCHEMA_INVALID, reason)
