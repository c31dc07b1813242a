"""The papers of a gateway: what nodes claim later is looked up, paid and kept in its store."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cxp2p.client import Settlement
from cxp2p.errors import CxError
from cxp2p.evidence import Evidence, check_evidence
from cxp2p.ledger import NETWORK
from cxp2p.net.claims import ClaimLater, Ended, Known, Running, Settled
from cxp2p.receipts import Delivered
from cxp2p.wire import encode
from cxp2p_gateway.books import generation_of
from cxp2p_gateway.metrics.claims import ClaimMeter
from cxp2p_gateway.store import Generation, Store, StoreError
from cxp2p_gateway.store.claims import ClaimBooks, LateLimit
from cxp2p_gateway.store.rows import SentOrder

log = logging.getLogger("cxp2p.claims")


class GatewayPapers:
    """`Papers` over a store. `late_max`: µcredits that one node may be paid late in a day, by the operator."""

    def __init__(self, store: Store, wall_ms: Callable[[], int], meter: ClaimMeter, late_max: int) -> None:
        self._books = ClaimBooks(store)
        self._wall_ms = wall_ms
        self._meter = meter
        self._late_max = late_max

    async def known(self, order_id: bytes) -> Known:
        found = await self._books.claimed(order_id.hex())
        if found.generation is not None:
            return _settled(found.generation)
        if found.is_running:
            return Running()
        return None if found.sent is None else Ended(found.sent.envelope, _got(found.sent))

    async def settle(self, settlement: Settlement) -> Settled:
        order, agreed = settlement.order, settlement.countersign
        claimed = await self._books.claimed(order.order_id.hex())
        late = generation_of(settlement, claimed.request, NETWORK, "", self._wall_ms())
        try:
            stands = await self._books.settle_late(late, self._late_max)
        except LateLimit:
            raise ClaimLater(f"node {order.node} was paid its most for late receipts today") from None
        if stands == late:
            self._meter.late(order.service, agreed.charge)
        return _settled(stands)

    async def accuse(self, evidence: Evidence) -> None:
        data = encode(evidence)
        try:
            accusation = check_evidence(data)
            said = (accusation.peer, accusation.wrong.value, accusation.says)
            kept = await self._books.accuse(*said, data)
        except StoreError as error:
            log.warning("evidence is not kept, as %s: %s", error, data.hex())
            return
        except CxError as error:
            log.error("evidence of this gateway proves nothing: %s; please report this: %s", error, data.hex())
            return
        self._meter.accused(accusation.wrong)
        log.warning("%s %s (%s)", accusation.peer, accusation.says, "kept" if kept else "enough of this is kept")

    def answered(self, how: str) -> None:
        self._meter.answered(how)


def _settled(generation: Generation) -> Settled:
    return Settled(generation.receipt_envelope, generation.countersign_envelope)


def _got(sent: SentOrder) -> Delivered | None:
    if sent.units is None or sent.output_commit is None:
        return None
    return Delivered(units=sent.units, commit=sent.output_commit, cancelled=sent.cancelled, fault=sent.fault)
