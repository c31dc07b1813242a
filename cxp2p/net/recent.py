"""The orders of an asker that keeps no books: the newest, in memory, so that it can answer its nodes' claims."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Final

import trio

from cxp2p.evidence import Evidence, check_evidence
from cxp2p.net.attempt import Books, Settlement
from cxp2p.net.claims import Ended, Known, Running, Settled
from cxp2p.receipts import Delivered
from cxp2p.records import Order
from cxp2p.wire import encode

log = logging.getLogger("cxp2p.claims")

RECENT_MAX: Final = 1024  # orders, about 2 KB each


class RecentOrders:
    """`Papers` in memory. What it forgets cannot be claimed any more; the node lets such an asker owe less."""

    def __init__(self) -> None:
        self._envelopes: OrderedDict[bytes, bytes] = OrderedDict()
        self._known: dict[bytes, Known] = {}

    def over(self, books: Books) -> Books:
        """The same books, of whose orders this keeps the papers."""
        return _Over(books, self)

    def add(self, order: Order, envelope: bytes) -> None:
        """An order leaves."""
        self._envelopes[order.order_id] = envelope
        self._known[order.order_id] = Running()
        while len(self._envelopes) > RECENT_MAX:
            forgotten, _ = self._envelopes.popitem(last=False)
            self._known.pop(forgotten, None)

    def end(self, order: Order, got: Delivered | None) -> None:
        """An order ended without a receipt; without `got` nothing can be owed for it."""
        envelope = self._envelopes.get(order.order_id)
        if envelope is not None and got is not None:
            self._known[order.order_id] = Ended(envelope, got)
        else:
            self._envelopes.pop(order.order_id, None)
            self._known.pop(order.order_id, None)

    async def known(self, order_id: bytes) -> Known:
        await trio.lowlevel.checkpoint()
        return self._known.get(order_id)

    async def settle(self, settlement: Settlement) -> Settled:
        await trio.lowlevel.checkpoint()
        order_id = settlement.order.order_id
        stands = self._known.get(order_id)
        if not isinstance(stands, Settled):
            stands = Settled(settlement.receipt_envelope, settlement.countersign_envelope)
        if order_id in self._envelopes:
            self._known[order_id] = stands
        return stands

    async def accuse(self, evidence: Evidence) -> None:
        await trio.lowlevel.checkpoint()
        accusation = check_evidence(encode(evidence))
        log.warning("%s %s; evidence %s", accusation.peer, accusation.says, encode(evidence).hex())

    def answered(self, how: str) -> None:
        log.debug("a claim: %s", how)


class _Over:
    def __init__(self, books: Books, recent: RecentOrders) -> None:
        self._books = books
        self._recent = recent

    async def reserve(self, order: Order, envelope: bytes) -> None:
        await self._books.reserve(order, envelope)
        self._recent.add(order, envelope)

    async def promise(self, order: Order, voucher_envelope: bytes) -> None:
        await self._books.promise(order, voucher_envelope)

    async def settle(self, settlement: Settlement) -> None:
        await self._books.settle(settlement)
        await self._recent.settle(settlement)

    async def void(self, order: Order, reason: str, got: Delivered | None = None) -> None:
        await self._books.void(order, reason, got)
        self._recent.end(order, got)
