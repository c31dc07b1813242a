"""The public API for Python users, and the one way that anything in this project asks the network for work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from cxp2p.records import Countersign, Order, Piece, Receipt

Emit: TypeAlias = Callable[[Piece], Awaitable[None]]
"""Takes one piece of the answer; waits while the reader does not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What both sides signed about one order: the values, and the exact bytes that were signed."""

    order: Order
    order_envelope: bytes
    receipt: Receipt
    receipt_envelope: bytes
    countersign: Countersign
    countersign_envelope: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job was answered. `found_via`: dht, exchange or watch; `lookup_ms` is what that took, off the hot path."""

    node: str
    attempts: int
    queued_ms: int
    found_via: str
    lookup_ms: int
    settlement: Settlement


class Books(Protocol):
    """Where an asker keeps what it owes. Each order is reserved once, then settled or voided once."""

    async def reserve(self, order: Order, envelope: bytes) -> None:
        """Holds `order.max_charge`. On disk when this returns. Raises InsufficientCredit."""

    async def settle(self, settlement: Settlement) -> None:
        """Posts the countersigned charge, gives the rest of the hold back, and keeps the signed bytes."""

    async def void(self, order: Order, reason: str) -> None:
        """Gives the whole hold back: the node refused, failed or vanished."""
