"""The conversation about one job, without IO. Both ends run this same class on opposite sides.

What is legal stands in the tables below and nowhere else. Each side has its own state, because the two talk at once:
a Cancel may cross a Piece or the Receipt on the way.

    asker:  FRESH --Ask--> ASKED --Voucher--> ASKED --Cancel--> CANCELLED
                            any of both --Countersign--> DONE          (only after the node's Receipt)
    node:   FRESH --Refusal--> DONE
            FRESH --Accepted--> WORKING --Piece--> WORKING --Receipt | Failure--> DONE
"""

from __future__ import annotations

from enum import Enum, auto
from types import MappingProxyType
from typing import Final, TypeAlias

from cxp2p import protocols
from cxp2p.errors import LocalProtocolError, RemoteProtocolError
from cxp2p.records import (
    Accepted,
    Ask,
    Cancel,
    CountersignSent,
    Failure,
    Piece,
    ReceiptSent,
    Refusal,
    VoucherSent,
)
from cxp2p.wire import FrameReader, encode_frame


class Side(Enum):
    """Which end of the conversation."""

    ASKER = auto()
    NODE = auto()


class State(Enum):
    """How far one side has come. What leads from one to the next stands in the table below."""

    FRESH = auto()
    ASKED = auto()
    CANCELLED = auto()
    WORKING = auto()
    DONE = auto()


Event: TypeAlias = Ask | Accepted | Refusal | Piece | VoucherSent | Cancel | Failure | ReceiptSent | CountersignSent

_NEXT: Final = MappingProxyType(
    {
        Side.ASKER: {
            (State.FRESH, Ask): State.ASKED,
            (State.ASKED, VoucherSent): State.ASKED,
            (State.ASKED, Cancel): State.CANCELLED,
            (State.ASKED, CountersignSent): State.DONE,
            (State.CANCELLED, CountersignSent): State.DONE,
        },
        Side.NODE: {
            (State.FRESH, Refusal): State.DONE,
            (State.FRESH, Accepted): State.WORKING,
            (State.WORKING, Piece): State.WORKING,
            (State.WORKING, ReceiptSent): State.DONE,
            (State.WORKING, Failure): State.DONE,
        },
    }
)


class Session:
    """One end of a job's conversation: records in, bytes out, and back.

    `send` gives the bytes for a record; `receive` the records in the bytes that arrived. Whichever end breaks the
    tables gets the blame: LocalProtocolError from `send`, RemoteProtocolError from `receive`.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self.states = {Side.ASKER: State.FRESH, Side.NODE: State.FRESH}
        self._receipt_seen = False
        self._reader = FrameReader(protocols.ASK_BYTES_MAX if side is Side.NODE else protocols.FRAME_BYTES_MAX)

    def __repr__(self) -> str:
        asker, node = (self.states[side].name for side in (Side.ASKER, Side.NODE))
        return f"<Session {self.side.name} [asker {asker}, node {node}]>"

    @property
    def settled(self) -> bool:
        """Whether nothing more may come from the other side."""
        other = Side.NODE if self.side is Side.ASKER else Side.ASKER
        return self.states[other] is State.DONE

    def send(self, event: Event) -> bytes:
        """The bytes that say `event`. Raises LocalProtocolError if it may not be said now, or is too large."""
        fault = self._advance(self.side, event)
        if fault:
            raise LocalProtocolError(fault)
        data = encode_frame(event)
        bytes_max = protocols.ASK_BYTES_MAX if isinstance(event, Ask) else protocols.FRAME_BYTES_MAX
        if len(data) > bytes_max:
            raise LocalProtocolError(f"{type(event).__name__} of {len(data)} bytes is over the limit of {bytes_max}")
        return data

    def receive(self, data: bytes) -> list[Event]:
        """The events in `data` and what came before it. b"" means that the other side ended.

        Raises RemoteProtocolError for anything that is not a legal next frame, and for an end before the last one.
        """
        if not data:
            if not self._reader.empty or not self.settled:
                raise RemoteProtocolError(f"the stream ended in the middle of the conversation: {self!r}")
            return []
        self._reader.feed(data)
        events: list[Event] = []
        while (event := self._reader.next()) is not None:
            events.append(self._heard(event))
            self._reader.bytes_max = protocols.FRAME_BYTES_MAX
        return events

    def _heard(self, event: object) -> Event:
        other = Side.NODE if self.side is Side.ASKER else Side.ASKER
        fault = self._advance(other, event)
        if fault:
            raise RemoteProtocolError(fault)
        return event  # type: ignore[return-value]  # only events have a transition

    def _advance(self, side: Side, event: object) -> str | None:
        target = _NEXT[side].get((self.states[side], type(event)))
        fault = f"{side.name.lower()} may not send {type(event).__name__} in {self!r}"
        if target is None:
            return fault
        if side is Side.NODE and self.states[Side.ASKER] is State.FRESH:
            return fault
        if isinstance(event, CountersignSent) and not self._receipt_seen:
            return fault
        if isinstance(event, VoucherSent) and self.states[Side.NODE] is State.FRESH:
            return fault
        self._receipt_seen |= isinstance(event, ReceiptSent)
        self.states[side] = target
        return None
