"""Puts our functions in the place of libp2p's, and back: only the tests that show a fault want the stock one."""

from __future__ import annotations

from typing import Any, Final

_ABSENT: Final = object()
_stock: Final[list[tuple[Any, str, Any]]] = []


def replace(owner: Any, name: str, value: Any) -> None:
    """Sets `owner.name`; what was there is kept for `restore`."""
    _stock.append((owner, name, vars(owner).get(name, _ABSENT)))
    setattr(owner, name, value)


def replace_code(function: Any, other: Any) -> None:
    """Lets `function` do what `other` does, for all who imported it by name. `other` may use only its globals."""
    _stock.append((function, "__code__", function.__code__))
    function.__code__ = other.__code__


def restore() -> None:
    """Undoes every `replace`, the last one first."""
    while _stock:
        owner, name, value = _stock.pop()
        if value is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, value)
