"""The kinds of field that records are made of, and what makes a class a record."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, TypeVar, dataclass_transform

from annotated_types import Ge, Le, Len, MaxLen, Predicate
from pydantic import ConfigDict, GetCoreSchemaHandler, Strict, ValidatorFunctionWrapHandler
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_wrap_validator_function

T = TypeVar("T")

Natural = Annotated[int, Strict(), Ge(0), Le(2**63 - 1)]
Price = Annotated[int, Strict(), Ge(0), Le(10**12)]  # so that a charge for 2**31 units of each kind is a Natural
Count = Annotated[int, Strict(), Ge(0), Le(2**31 - 1)]
Flag = Annotated[bool, Strict()]
Name = Annotated[str, Strict(), Len(1, 128)]
Label = Annotated[str, Strict(), Len(1, 128), Predicate(str.isprintable)]  # is shown to people
PeerId = Annotated[str, Strict(), Len(1, 64), Predicate(str.isprintable)]
Owner = Annotated[str, Strict(), MaxLen(128), Predicate(str.isprintable)]
Address = Annotated[str, Strict(), Len(1, 256), Predicate(str.isprintable)]
Reason = Annotated[str, Strict(), MaxLen(512)]
Text = Annotated[str, Strict()]
Bytes16 = Annotated[bytes, Strict(), Len(16, 16)]
Digest = Annotated[bytes, Strict(), Len(32, 32)]
Blob = Annotated[bytes, Strict()]
TokenId = Annotated[int, Strict(), Ge(0), Le(2**32 - 1)]


class Word(StrEnum):
    """One of a few words. In a record it is text; byte strings of the same letters are refused."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_wrap_validator_function(_only_text, handler(source))


def _only_text(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    if not isinstance(value, str):
        raise PydanticCustomError("word", "expected text")
    return validate(value)


_as_record: Callable[[type], Any] = partial(
    dataclass, frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid")
)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[T]) -> type[T]:
    """Makes a class a record: frozen, slotted, keyword-only, validated, unknown fields refused."""
    made: type[T] = _as_record(cls)
    return made
