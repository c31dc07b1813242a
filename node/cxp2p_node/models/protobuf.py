"""The little of protocol buffers (protobuf.dev, encoding) that ONNX files need: fields in, fields out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

VARINT, EIGHT_BYTES, COUNTED, FOUR_BYTES = 0, 1, 2, 5  # how a field is written


class ProtobufError(ValueError):
    """The bytes are no message. The text says why."""


class Field(NamedTuple):
    """A field of a message: `whole` as it was written, and what is in it; of a number that is its varint."""

    number: int
    whole: memoryview
    content: memoryview


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message, in their order. Raises ProtobufError."""
    at = 0
    while at < len(data):
        begin = at
        key, at = varint(data, at)
        start = at
        match key & 7:
            case 0:
                _, at = varint(data, at)
            case 1:
                at += 8
            case 2:
                size, start = varint(data, at)
                at = start + size
            case 5:
                at += 4
            case kind:
                raise ProtobufError(f"a field is of the kind {kind}, which is not known")
        if at > len(data):
            raise ProtobufError("it is not whole")
        yield Field(key >> 3, data[begin:at], data[start:at])


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number at a place, and the place after it. Raises ProtobufError."""
    value = 0
    for number, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, at + number + 1
    raise ProtobufError("a number does not end")


def text(content: memoryview) -> str:
    """The text in a field. Raises ProtobufError."""
    try:
        return str(content, "utf-8")
    except UnicodeDecodeError as error:
        raise ProtobufError("a text is not UTF-8") from error


def numbers(contents: Iterable[memoryview]) -> list[int]:
    """Repeated numbers: packed into one field, or each in its own, as both are allowed. Raises ProtobufError."""
    found = []
    for content in contents:
        at = 0
        while at < len(content):
            value, at = varint(content, at)
            found.append(value)
    return found


def field(number: int, content: bytes) -> bytes:
    """A field with a text, bytes or a message in it."""
    return key(number, COUNTED) + encoded(len(content)) + content


def packed(number: int, values: Sequence[int]) -> bytes:
    """A field with repeated numbers."""
    return field(number, b"".join(map(encoded, values)))


def key(number: int, kind: int) -> bytes:
    """What a field begins with."""
    return encoded(number << 3 | kind)


def encoded(value: int) -> bytes:
    """A number as a varint."""
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*made, value))
