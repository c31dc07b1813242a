"""What was signed about a job, read again from what the store keeps of it."""

from __future__ import annotations

from typing import TypeVar

from cxp2p.client import Settlement
from cxp2p.errors import RemoteProtocolError
from cxp2p.identity import Kind, open_envelope
from cxp2p.records import Countersign, Order, Receipt
from cxp2p.wire import decode
from cxp2p_gateway.store import Generation, StoreError

R = TypeVar("R")


def settlement_of(kept: Generation) -> Settlement:
    """All of it, read out of the bytes that were signed. Raises StoreError if they no longer verify."""
    try:
        return Settlement(
            order=_opened(Kind.ORDER, Order, kept.order_envelope),
            order_envelope=kept.order_envelope,
            receipt=_opened(Kind.RECEIPT, Receipt, kept.receipt_envelope),
            receipt_envelope=kept.receipt_envelope,
            countersign=_opened(Kind.COUNTERSIGN, Countersign, kept.countersign_envelope),
            countersign_envelope=kept.countersign_envelope,
        )
    except RemoteProtocolError as error:
        raise StoreError(f"what the database keeps of {kept.id} is no longer what was signed: {error}") from None


def _opened(kind: Kind, record: type[R], envelope: bytes) -> R:
    return decode(record, open_envelope(kind, envelope).body)
