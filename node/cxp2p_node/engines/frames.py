"""What a node and its worker process say to each other over the pipe, and how it is cut into frames. No IO.

A frame is a 4-byte big-endian length, a tag byte, and the record as the wire encodes it. The worker is ours, but the
library inside it is C++ that can write anything: what it sends is checked like a stranger's.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, TypeAlias

from cxp2p.errors import RemoteProtocolError
from cxp2p.kinds import Blob, Count, Label, Natural, Reason, record
from cxp2p.records import FailureCode, Finish, Piece
from cxp2p.wire import decode, encode

FRAME_BYTES_MAX: Final = 20 * 1024 * 1024  # a whole job: ASK_BYTES_MAX and some


@record
class Start:
    """Node → worker: do this job. `request` is a job as on the wire; `credit` pieces may be on their way."""

    job: Natural
    request: Blob
    seed: Natural
    max_out: Natural
    credit: Count


@record
class Credit:
    """Node → worker: so many more pieces were taken."""

    job: Natural
    pieces: Count


@record
class Stop:
    """Node → worker: this job is not wanted any more. There is no answer to it."""

    job: Natural


@record
class Loaded:
    """Worker → node, first: the model is ready."""

    runtime: Label
    context_units: Count


@record
class Unfit:
    """Worker → node, instead: the model cannot be loaded, and trying again will not help."""

    reason: Reason


@record
class Counted:
    """Worker → node: the prompt's tokens, and how many were reused."""

    job: Natural
    in_units: Natural
    cached_units: Natural


@record
class Made:
    """Worker → node: a piece of the answer."""

    job: Natural
    piece: Piece


@record
class Done:
    """Worker → node: the job's end."""

    job: Natural
    finish: Finish


@record
class Failed:
    """Worker → node: the job cannot be done; see `Failure`."""

    job: Natural
    code: FailureCode
    reason: Reason
    limit: Count
    actual: Count


@record
class Alive:
    """Worker → node, every few seconds: it does not hang."""


Message: TypeAlias = Start | Credit | Stop | Loaded | Unfit | Counted | Made | Done | Failed | Alive

_OF_TAG: Final = MappingProxyType(
    {1: Start, 2: Credit, 3: Stop, 10: Loaded, 11: Unfit, 12: Counted, 13: Made, 14: Done, 15: Failed, 16: Alive}
)
_TAG_OF: Final = {kind: tag for tag, kind in _OF_TAG.items()}


def pack(message: Message) -> bytes:
    """One frame."""
    body = encode(message)
    return (len(body) + 1).to_bytes(4, "big") + bytes((_TAG_OF[type(message)],)) + body


class Frames:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now. Raises RemoteProtocolError for anything that is not one."""
        self._buffer += data
        messages: list[Message] = []
        start = 0
        while len(self._buffer) - start >= 4:
            length = int.from_bytes(self._buffer[start : start + 4], "big")
            if not 1 <= length <= FRAME_BYTES_MAX:
                raise RemoteProtocolError(f"a worker's frame of {length} bytes")
            if len(self._buffer) - start - 4 < length:
                break
            messages.append(_message(bytes(self._buffer[start + 4 : start + 4 + length])))
            start += 4 + length
        del self._buffer[:start]
        return messages


def _message(frame: bytes) -> Message:
    kind = _OF_TAG.get(frame[0])
    if kind is None:
        raise RemoteProtocolError(f"unknown worker frame tag {frame[0]}")
    message: Message = decode(kind, frame[1:])
    return message
