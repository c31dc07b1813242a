"""Writes GGUF files (version 3, as the format's document in ggml describes it). The same input gives the same bytes.

Ours and not a package's, because the catalogue pins the SHA-256 of what is written here: another version of a package
may add a field. Packed values carry their type with them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32

# The numbers of value types, and of the tensor types that are written here.
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
TENSOR_TYPES = {np.dtype("<f4"): 0, np.dtype("<f2"): 1}


def u32(value: int) -> bytes:
    """A packed number."""
    return struct.pack("<II", UINT32, value)


def f32(value: float) -> bytes:
    """A packed number."""
    return struct.pack("<If", FLOAT32, value)


def flag(value: bool) -> bytes:
    """A packed yes or no."""
    return struct.pack("<I?", BOOL, value)


def text(value: str) -> bytes:
    """A packed string."""
    return struct.pack("<I", STRING) + _string(value)


def texts(values: Sequence[str]) -> bytes:
    """A packed array of strings."""
    return struct.pack("<IIQ", ARRAY, STRING, len(values)) + b"".join(map(_string, values))


def i32s(values: Sequence[int]) -> bytes:
    """A packed array of numbers."""
    return struct.pack(f"<IIQ{len(values)}i", ARRAY, INT32, len(values), *values)


def write_gguf(path: Path, packed: Mapping[str, bytes], tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """A whole file at `path`, flushed to the disk. Tensors are float32 or float16, little-endian. Raises OSError."""
    header = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(packed))]
    header += [_string(key) + value for key, value in packed.items()]
    offset = 0
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]  # the innermost dimension comes first
        header.append(_string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        header.append(struct.pack("<IQ", TENSOR_TYPES[tensor.dtype], offset))
        offset += tensor.nbytes + _gap(tensor.nbytes)
    with path.open("wb") as sink:
        _aligned(sink, b"".join(header))
        for tensor in tensors.values():
            _aligned(sink, np.ascontiguousarray(tensor).tobytes())
        sink.flush()
        os.fsync(sink.fileno())


def _string(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _gap(size: int) -> int:
    return -size % ALIGNMENT


def _aligned(sink: BinaryIO, data: bytes) -> None:
    sink.write(data + bytes(_gap(len(data))))
