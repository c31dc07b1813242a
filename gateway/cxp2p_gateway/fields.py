"""Reads typed values out of decoded JSON, and says exactly which one is wrong. Null is absence. Raises Fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cxp2p_gateway.faults import invalid_type, out_of_range

NUMBER_LENGTH_MAX: Final = 32  # of a client's number in an error text


class Fields:
    """One JSON object. `path`: where it stands in the body, e.g. `messages[2]`; "" for the body itself."""

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        self._values = values
        self._path = path

    def param(self, name: str) -> str:
        """The full name of a field, as errors give it."""
        return f"{self._path}.{name}" if self._path else name

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def any(self, name: str) -> Any:
        """The value as it came; None if absent."""
        return self._values.get(name)

    def number(self, name: str, least: float, most: float) -> float | None:
        value = self._values.get(name)
        if value is None:
            return None
        return float(_ranged(_number(value, self.param(name)), least, most, self.param(name)))

    def whole(self, name: str, least: int, most: int | None) -> int | None:
        """An integer; 2.0 is one, 2.5 is not. `most` None: no upper end."""
        value = self._values.get(name)
        if value is None:
            return None
        param = self.param(name)
        number = _number(value, param)
        if isinstance(number, float) and not number.is_integer():
            raise invalid_type(param, f"expected an integer, got {_shown(number)}")
        return int(_ranged(number, least, most, param))

    def flag(self, name: str) -> bool | None:
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise invalid_type(self.param(name), f"expected a boolean, got {kind_of(value)}")
        return value

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        return None if value is None else checked_text(value, self.param(name))

    def list(self, name: str) -> list[Any] | None:
        value = self._values.get(name)
        if value is not None and not isinstance(value, list):
            raise invalid_type(self.param(name), f"expected an array, got {kind_of(value)}")
        return value

    def object(self, name: str) -> Fields | None:
        value = self._values.get(name)
        return None if value is None else as_fields(value, self.param(name))

    def choice(self, name: str, choices: Sequence[str]) -> str | None:
        """One of a few strings."""
        value = self.text(name)
        if value is not None and value not in choices:
            raise out_of_range(self.param(name), f"it is not one of {', '.join(choices)}")
        return value


def as_fields(value: Any, param: str) -> Fields:
    """`value` as an object that stands at `param`."""
    if not isinstance(value, dict):
        raise invalid_type(param, f"expected an object, got {kind_of(value)}")
    return Fields(value, param)


def checked_text(value: Any, param: str) -> str:
    """`value` as a string that can be sent on: JSON can escape half of a surrogate pair, UTF-8 cannot hold one."""
    if not isinstance(value, str):
        raise invalid_type(param, f"expected a string, got {kind_of(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid_type(param, "it is not valid Unicode text") from None
    return value


def ranged_length(length: int, least: int, most: int, param: str, unit: str) -> None:
    """Refuses what has too few or too many of something."""
    if not least <= length <= most:
        raise out_of_range(param, f"{length} {unit} is not between {least} and {most}")


def kind_of(value: Any) -> str:
    """The JSON type of a decoded value, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"


def _number(value: Any, param: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid_type(param, f"expected a number, got {kind_of(value)}")
    return value


def _ranged(number: int | float, least: float, most: float | None, param: str) -> int | float:
    if most is None:
        if number < least:
            raise out_of_range(param, f"{_shown(number)} is less than {least}")
    elif not least <= number <= most:
        raise out_of_range(param, f"{_shown(number)} is not between {least} and {most}")
    return number


def _shown(number: int | float) -> str:
    return str(number)[:NUMBER_LENGTH_MAX]
