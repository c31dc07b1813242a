"""Checks JSON text against a JSON Schema: the one place that knows the library which does it. Pure.

Nothing is ever fetched: a reference must stay inside of its schema. Patterns are matched in linear time; those that
need more, as look-ahead does, are refused.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from typing import Any, Final, NoReturn

import jsonschema_rs
from jsonschema_rs import ReferencingError, RegexOptions, ValidationError

SCHEMA_CHARS_MAX: Final = 256 * 1024  # what a node's grammar may be long
ANSWER_CHARS_MAX: Final = 1024 * 1024  # four times 65,536 tokens of four characters
PATTERN_BYTES_MAX: Final = 1024 * 1024  # of one compiled pattern
KEPT_MAX: Final = 64  # compiled schemas; an application asks with the same few again and again
FAULT_CHARS_MAX: Final = 300
DIGITS_MAX: Final = 4000  # of a whole number: Python refuses to read more than 4,300

# What people write without saying so, when it is nothing by the rules of today.
_OLDER: Final = ("http://json-schema.org/draft-07/schema#", "http://json-schema.org/draft-04/schema#")
_PATTERNS: Final = RegexOptions(size_limit=PATTERN_BYTES_MAX, dfa_size_limit=PATTERN_BYTES_MAX)
NOT_JSON: Final = "it is not JSON"


class Checker:
    """Compiles schemas and remembers the last ones. A schema or answer that takes long takes long: limit it outside."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, jsonschema_rs.Validator | str] = OrderedDict()

    def refusal(self, schema: str) -> str:
        """See `Schemas.refusal`."""
        known = self._known(schema)
        return known if isinstance(known, str) else ""

    def breach(self, schema: str, answer: str) -> str:
        """See `Schemas.breach`."""
        known = self._known(schema)
        if isinstance(known, str):
            return known
        if len(answer) > ANSWER_CHARS_MAX:
            return f"it is longer than {ANSWER_CHARS_MAX} characters"
        try:
            value = json.loads(answer, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_bounded)
        except (ValueError, RecursionError):
            return NOT_JSON
        try:
            known.validate(value)
        except ValidationError as error:
            return f"it breaks {error.kind.name!r} of its schema"
        return ""

    def _known(self, schema: str) -> jsonschema_rs.Validator | str:
        """The schema, compiled, or what is wrong with it."""
        known = self._kept.get(schema)
        if known is None:
            known = self._kept[schema] = _compiled(schema)
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        self._kept.move_to_end(schema)
        return known


def _compiled(schema: str) -> jsonschema_rs.Validator | str:
    if len(schema) > SCHEMA_CHARS_MAX:
        return f"it is longer than {SCHEMA_CHARS_MAX} characters"
    try:
        parsed: Any = json.loads(schema, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return _short(str(error))
    compiled = _validator(parsed)
    if isinstance(compiled, str) and isinstance(parsed, dict) and "$schema" not in parsed:
        older = (_validator(parsed | {"$schema": draft}) for draft in _OLDER)
        return next((each for each in older if not isinstance(each, str)), compiled)
    return compiled


def _validator(schema: Any) -> jsonschema_rs.Validator | str:
    """The schema, compiled by the rules of the draft that it names, else 2020-12, or what is wrong with it."""
    try:
        return jsonschema_rs.validator_for(schema, offline=True, validate_formats=False, pattern_options=_PATTERNS)
    except ValidationError as error:
        place = "/".join(str(part) for part in error.instance_path)
        return _short(f"{error.message} at {place}" if place else error.message)
    except ReferencingError as error:
        return _short(error.message)
    except ValueError as error:
        return _short(str(error))


def _finite(number: str) -> float:
    """A number of JSON may be larger than a float's largest, and is a number all the same."""
    return max(-sys.float_info.max, min(sys.float_info.max, float(number)))


def _bounded(number: str) -> int:
    return int(number[:DIGITS_MAX])


def _short(words: str) -> str:
    return " ".join(words.split())[:FAULT_CHARS_MAX]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
