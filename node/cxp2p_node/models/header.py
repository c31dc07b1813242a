"""Reads the header of a GGUF file, version 2 or 3. The file may be a stranger's: all that it can claim has a limit.

Only what describes the model is kept; of the vocabulary, which is most of a header, only the number of its entries.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from cxp2p.errors import CxError

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)

HEADER_BYTES_MAX = 64 << 20  # the largest vocabularies of today, 262,144 tokens with their merges, take 16 MiB
FIELDS_MAX = 4096  # models of today have up to 60
TENSORS_MAX = 1 << 16  # the largest models of today have 2,000
DIMENSIONS_MAX = 4  # as in ggml
KEY_BYTES_MAX = 1 << 16  # the format's own limit
TEXT_BYTES_MAX = 1 << 20  # of one value that is kept: the chat template is the longest
NUMBERS_MAX = 4096  # of one array that is kept: one number a layer
CHUNK_BYTES = 1 << 20

STRING, ARRAY = 8, 9
FORMATS: Final[Mapping[int, str]] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"
}  # fmt: skip

# ggml's tensor types: how many elements a block has, and how many bytes.
BLOCKS: Final[Mapping[int, tuple[int, int]]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip


class HeaderError(CxError):
    """The file is no GGUF file that can be served. The text says why."""


@dataclass(frozen=True, slots=True)
class Entries:
    """An array of which only the length is kept."""

    count: int


Value: TypeAlias = "int | float | bool | str | tuple[int | float | bool, ...] | Entries"


@dataclass(frozen=True, slots=True)
class Header:
    """`fields` by their keys; `parameters` are the elements of all tensors; `tensors` are their names."""

    fields: Mapping[str, Value]
    tensors: frozenset[str]
    parameters: int
    file_bytes: int


def read_header(path: Path) -> Header:
    """The header of the file at `path`. Raises HeaderError, and OSError if it cannot be read."""
    with path.open("rb") as source:
        size = path.stat().st_size
        cursor = _Cursor(source, min(size, HEADER_BYTES_MAX), size)
        tensor_count, field_count = _open(cursor)
        fields = _fields(cursor, field_count)
        alignment = fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
            raise HeaderError(f"its alignment is {alignment}, expected is a power of two from 8 to 4096")
        names, parameters, end = _tensors(cursor, tensor_count)
    data_at = cursor.position + -cursor.position % alignment
    if data_at + end > size:
        raise HeaderError(f"it is not whole: it has {size} bytes, and its tensors end at {data_at + end}")
    return Header(fields, names, parameters, size)


class _Cursor:
    """Takes bytes off the beginning of a file, up to `limit`."""

    def __init__(self, source: BinaryIO, limit: int, size: int) -> None:
        self._source = source
        self._limit = limit
        self._size = size
        self._data = b""
        self._base = 0  # where in the file the data begins
        self._at = 0

    @property
    def position(self) -> int:
        return self._base + self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises HeaderError if the file or its header is too short or too long for that."""
        if self.position + count > self._limit:
            raise HeaderError(
                f"its header has more than {HEADER_BYTES_MAX >> 20} MiB"
                if self._limit < self._size
                else f"it is not whole: it ends within its header, after {self._size} bytes"
            )
        if self._at + count > len(self._data):
            self._base, self._data = self.position, self._data[self._at :]
            self._at = 0
            self._data += self._source.read(max(CHUNK_BYTES, count - len(self._data)))
            if count > len(self._data):
                raise HeaderError("it became shorter while it was read")
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def text(self, limit: int, what: str) -> str:
        length = self.number("<Q")
        if length > limit:
            raise HeaderError(f"{what} has {length} bytes, at most {limit} are read")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise HeaderError(f"{what} is not UTF-8") from error


def _open(cursor: _Cursor) -> tuple[int, int]:
    """How many tensors and fields there are."""
    if cursor.take(4) != MAGIC:
        raise HeaderError("it is not a GGUF file: it does not begin with GGUF")
    version = cursor.number("<I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        kind = f"big-endian, version {swapped}" if swapped in VERSIONS else f"of version {version}"
        raise HeaderError(f"it is {kind}; read are little-endian files of version 2 and 3")
    tensors, fields = cursor.number("<Q"), cursor.number("<Q")
    if tensors > TENSORS_MAX or fields > FIELDS_MAX:
        raise HeaderError(
            f"it claims {tensors} tensors and {fields} fields; read are up to {TENSORS_MAX} and {FIELDS_MAX}"
        )
    return tensors, fields


def _fields(cursor: _Cursor, count: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for _ in range(count):
        key = cursor.text(KEY_BYTES_MAX, "the name of a field")
        if key in found:
            raise HeaderError(f"the field {key[:64]!r} stands twice")
        found[key] = _value(cursor, key[:64], cursor.number("<I"))
    return found


def _value(cursor: _Cursor, key: str, kind: int) -> Value:
    if kind == STRING:
        return cursor.text(TEXT_BYTES_MAX, f"the field {key!r}")
    if kind == ARRAY:
        return _array(cursor, key)
    return cursor.number(_form(kind, key))


def _array(cursor: _Cursor, key: str) -> tuple[int | float | bool, ...] | Entries:
    kind, count = cursor.number("<I"), cursor.number("<Q")
    if kind == STRING:
        if count > HEADER_BYTES_MAX // 8:
            raise HeaderError(f"the field {key!r} claims {count} entries")
        for _ in range(count):
            cursor.take(cursor.number("<Q"))
        return Entries(count)
    form = _form(kind, key)
    data = cursor.take(count * struct.calcsize(form))
    if count > NUMBERS_MAX:
        return Entries(count)
    return struct.unpack(f"<{count}{form[1]}", data)


def _form(kind: int, key: str) -> str:
    try:
        return FORMATS[kind]
    except KeyError:
        raise HeaderError(f"the field {key!r} has the type {kind}, which is not known") from None


def _tensors(cursor: _Cursor, count: int) -> tuple[frozenset[str], int, int]:
    """The tensors' names, the number of their elements, and where the last one ends, from the data's beginning."""
    names, parameters, end = set(), 0, 0
    for _ in range(count):
        name = cursor.text(KEY_BYTES_MAX, "the name of a tensor")
        dimensions = cursor.number("<I")
        if dimensions > DIMENSIONS_MAX:
            raise HeaderError(
                f"the tensor {name[:64]!r} has {dimensions} dimensions, at most {DIMENSIONS_MAX} are known"
            )
        elements = 1
        for _ in range(dimensions):
            elements *= cursor.number("<Q")
        kind, offset = cursor.number("<I"), cursor.number("<Q")
        block, size = BLOCKS.get(kind, (1, 0))  # llama.cpp may know a type that is newer than this table
        parameters += elements
        end = max(end, offset + elements // block * size)
        names.add(name)
    return frozenset(names), parameters, end
