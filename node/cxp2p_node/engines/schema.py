"""A stranger's JSON Schema, made fit for the grammar. Pure.

A grammar that lets an answer through which the schema forbids would cost the node its pay. So where llguidance reads
something in another way than JSON Schema does, what it gets means the same in both, or is refused.
"""

from __future__ import annotations

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
