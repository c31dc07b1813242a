"""Vectors of many inputs: whose weights make them, in which parts, and what comes of a node's bytes. Pure.

Vectors of different weights must not be mixed, so the digest is chosen first. Inputs are cut into parts, because one
node alone is slower; a part is a range of them, so that what is missing of it after a failure is a range again.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from math import hypot, inf
from typing import Final, TypeAlias

from cxp2p import protocols
from cxp2p.errors import (
    AnswerRefused,
    CxError,
    InsufficientCredit,
    JobFailed,
    JobRefused,
    NoNode,
    PeerUnreachable,
    RemoteProtocolError,
)
from cxp2p.records import FailureCode, Piece, RefusalCode
from cxp2p.routing import Candidate

DIMENSIONS_MAX: Final = 8192  # twice the largest model's
LENGTH_TOLERANCE: Final = 1e-3  # of a vector from 1: rounding to half precision, ten times over
NUMBER_BYTES: Final = 4

PART_BYTES: Final = 8 * 1024  # some 2,000 tokens: half a second on a slow machine, where an order takes 20 ms
PARTS_PER_PLACE: Final = 4  # so that a fast node gets more of the parts than a slow one
AT_ONCE_MAX: Final = 16  # parts of one request
INPUT_BYTES: Final = 16  # what an input costs, however short: its marks, and its head on the wire
TOKEN_BYTES: Final = 5  # of a token id on the wire
PART_BYTES_MAX: Final = protocols.ASK_BYTES_MAX - 64 * 1024
PART_VALUES_MAX: Final = protocols.CBOR_ITEMS_MAX - 64
PART_INPUTS_MAX: Final = 2048  # of an EmbedJob

Input: TypeAlias = str | tuple[int, ...]


def digests(candidates: Iterable[Candidate]) -> list[bytes]:
    """The weights that are offered, best first: those of most nodes that did jobs of ours, then of most nodes at all.

    What nobody can make up counts first, and the order changes little over time: vectors of today and of tomorrow
    should come of the same weights.
    """
    useful: Counter[bytes] = Counter()
    offered: Counter[bytes] = Counter()
    for entry, able in candidates:
        offered[able.model_digest] += 1
        useful[able.model_digest] += entry.useful_at > -inf
    return sorted(offered, key=lambda digest: (-useful[digest], -offered[digest], digest))


def places(candidates: Sequence[Candidate]) -> int:
    """How many parts these nodes can do at once. A single node gets all in one part: it makes batches by itself."""
    if len(candidates) < 2:
        return 1
    return min(sum(max(1, able.slots) for _, able in candidates), AT_ONCE_MAX)


def parts_max(inputs: Sequence[Input]) -> int:
    """Into how many parts inputs are worth splitting, if there are nodes enough."""
    return max(1, sum(_bytes_of(each) for each in inputs) // PART_BYTES)


def split(inputs: Sequence[Input], places: int) -> list[range]:
    """Parts of about equal size, in order. Raises JobRefused if there is no input, or one that no order can hold."""
    if not inputs:
        raise JobRefused(RefusalCode.REQUEST_INVALID, "there is no input")
    sizes = [_bytes_of(each) for each in inputs]
    total = sum(sizes)
    wanted = 1 if places < 2 else max(1, min(total // PART_BYTES, PARTS_PER_PLACE * places))
    parts: list[range] = []
    start = size = values = done = 0
    for index, (each, added) in enumerate(zip(inputs, sizes, strict=True)):
        held = 1 if isinstance(each, str) else len(each) + 1
        if held > PART_VALUES_MAX or added > PART_BYTES_MAX:
            raise JobRefused(RefusalCode.REQUEST_INVALID, f"input {index} is larger than any order can be")
        full = values + held > PART_VALUES_MAX or size + added > PART_BYTES_MAX or index - start == PART_INPUTS_MAX
        if full or done * wanted >= (len(parts) + 1) * total:
            parts.append(range(start, index))
            start, size, values = index, 0, 0
        size, values, done = size + added, values + held, done + added
    parts.append(range(start, len(inputs)))
    return parts


def _bytes_of(each: Input) -> int:
    size = len(each.encode(errors="replace")) if isinstance(each, str) else TOKEN_BYTES * len(each)
    return size + INPUT_BYTES


def no_room(error: CxError) -> bool:
    """Whether a part may be done later, when others of its request are done: nodes are full, or credit is held."""
    if isinstance(error, JobRefused):
        return error.code in (RefusalCode.BUSY, RefusalCode.DRAINING, RefusalCode.EXPOSURE)
    return isinstance(error, InsufficientCredit)


def nodes_fault(error: CxError) -> bool:
    """Whether another node, or other weights, may do what these could not: the request itself is sound."""
    match error:
        case JobRefused():
            return error.code is not RefusalCode.REQUEST_INVALID
        case JobFailed():
            return error.code in (FailureCode.ENGINE_DIED, FailureCode.ASKER_TOO_SLOW, FailureCode.INTERNAL)
    return isinstance(error, NoNode | PeerUnreachable | RemoteProtocolError | AnswerRefused | InsufficientCredit)


class Gathering:
    """The vectors of `count` inputs, as their bytes come from one node.

    Bytes are only kept until the answer has ended, or has broken off: before that nobody can tell how long a vector is.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.dimensions = 0
        self.vectors: list[array[float]] = []
        self.size = 0
        self._data = bytearray()
        self._units = 0

    def __repr__(self) -> str:
        return f"<Gathering {len(self.vectors)} of {self.count} vectors, {self.size} bytes>"

    def take(self, piece: Piece) -> None:
        """What came next. Raises RemoteProtocolError for more bytes than vectors may have."""
        self.size += len(piece.data)
        self._units += piece.units
        if self.size > self.count * NUMBER_BYTES * DIMENSIONS_MAX:
            raise RemoteProtocolError(f"{self.size} bytes are more than {self.count} vectors")
        self._data += piece.data

    def end(self, dimensions: int) -> str:
        """The answer is whole: what is wrong with its size, "" if nothing is. `dimensions`: of other nodes, 0: unknown.

        After "" its vectors can be cut.
        """
        found, rest = divmod(self.size, NUMBER_BYTES * self.count)
        if rest or not found:
            return f"{self.size} bytes are not {self.count} vectors"
        if dimensions not in (0, found):
            return f"the vectors have {found} numbers, those of other nodes {dimensions}"
        self.dimensions = found
        return ""

    def break_off(self, dimensions: int, count_max: int) -> None:
        """The answer broke off: at most so many vectors of it can be cut, if it can be told where one ends."""
        if not dimensions and self._units and not self.size % (NUMBER_BYTES * self._units):
            dimensions = self.size // (NUMBER_BYTES * self._units)
        self.dimensions = dimensions
        del self.vectors[count_max:]
        del self._data[(count_max - len(self.vectors)) * NUMBER_BYTES * dimensions :]

    def cut(self, count_max: int) -> bool:
        """Makes at most so many vectors of the bytes that wait; whether more wait. Raises RemoteProtocolError.

        A vector is of length 1; what is not is kept by nobody, and neither is what came with it.
        """
        form = struct.Struct(f"<{self.dimensions}f")
        waiting = len(self._data) // form.size if form.size else 0
        for number in range(min(waiting, count_max)):
            vector = form.unpack_from(self._data, number * form.size)
            if not abs(hypot(*vector) - 1) <= LENGTH_TOLERANCE:  # also if one of them is not a number
                self.vectors.clear()
                raise RemoteProtocolError(f"not all vectors of {self.dimensions} numbers are of length 1")
            self.vectors.append(array("f", vector))
        del self._data[: min(waiting, count_max) * form.size]
        return waiting > count_max


def shortened(vector: array[float], dimensions: int) -> array[float]:
    """The first numbers of a Matryoshka vector, of length 1 again."""
    kept = vector[:dimensions]
    length = hypot(*kept) or 1.0
    return array("f", [number / length for number in kept])
