"""Claims, from the asker's side: /cxp2p/claim/1. A node asks for the countersign that it never got.

The same receipt gets the same countersign however often it is claimed. What is claimed and what is kept must agree to
the byte; a node that signed two things is found here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import trio

from cxp2p import protocols
from cxp2p.claims import NOTHING, lane_cost, recount
from cxp2p.errors import CxError, EpochInvalid, RemoteProtocolError
from cxp2p.evidence import Evidence, check_evidence, dispute, evidence_in, two_receipts
from cxp2p.identity import Identity, Kind, Opened, open_envelope
from cxp2p.net import Stream
from cxp2p.net.attempt import Settlement
from cxp2p.net.pump import RecordReader, send_record
from cxp2p.receipts import Delivered, digest
from cxp2p.records import ClaimRefused, ClaimSent, CountersignSent, Order, Receipt, Verdict, Voucher
from cxp2p.vouchers import check_voucher
from cxp2p.wire import decode, encode

log = logging.getLogger("cxp2p.claims")

AT_ONCE_MAX: Final = 4  # claims of all peers that are looked at; the others wait for their turn
CLAIM_PAUSE_S: Final = 0.02  # before each: 200 a second in all, of at most four signatures, 0.1 ms each
REFUSED_PAUSE_S: Final = 1.0  # before the answer to a claim of nothing: who sends such gets one a second answered
RUNNING_RETRY_MS: Final = 60_000
LATER_RETRY_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Settled:
    """An order that has its countersign: the bytes that both sides signed."""

    receipt_envelope: bytes
    countersign_envelope: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """An order that ended without a receipt. `got`: what arrived; None if nobody knows that any more."""

    order_envelope: bytes
    got: Delivered | None


@dataclass(frozen=True, slots=True)
class Running:
    """An order whose job still runs here."""


Known: TypeAlias = Settled | Ended | Running | None


class ClaimLater(CxError):
    """A claim that is right cannot be settled now."""


class Papers(Protocol):
    """Where an asker keeps what it signed, for claims that come later."""

    async def known(self, order_id: bytes) -> Known:
        """What became of an order; None for one that is not kept: nothing can be owed for it, or not any more."""

    async def settle(self, settlement: Settlement) -> Settled:
        """Pays and keeps what was claimed, once, and returns what stands: the first that was settled.

        Raises ClaimLater.
        """

    async def accuse(self, evidence: Evidence) -> None:
        """Keeps what a node signed that it should not have, or the papers of a dispute. Never raises."""

    def answered(self, how: str) -> None:
        """A claim was answered: again, accepted, adjusted, disputed, refused or later."""


class _Refused(CxError):
    """This claim gets no countersign. `is_lie`: the node signed what no honest one signs."""

    def __init__(self, reason: str, retry_after_ms: int = 0, *, is_lie: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_ms = retry_after_ms
        self.is_lie = is_lie


class Claims:
    """Answers claims. `lied` is called with each node that is found to have signed what it should not have."""

    def __init__(self, identity: Identity, papers: Papers, lied: Callable[[str], None]) -> None:
        self._identity = identity
        self._papers = papers
        self._lied = lied
        self._turns = trio.Semaphore(AT_ONCE_MAX)
        self._peers: set[str] = set()

    async def handle(self, stream: Stream) -> None:
        """One inbound stream, of at most CLAIMS_PER_STREAM_MAX claims; a peer has one at a time."""
        if stream.peer in self._peers:
            raise RemoteProtocolError(f"{stream.peer} claims on two streams at once")
        self._peers.add(stream.peer)
        try:
            reader = RecordReader(stream, protocols.FRAME_BYTES_MAX)
            for _ in range(protocols.CLAIMS_PER_STREAM_MAX):
                with trio.fail_after(protocols.CLAIM_TIMEOUT_S):
                    claim = await reader.next()
                if claim is None:
                    return
                if not isinstance(claim, ClaimSent):
                    raise RemoteProtocolError(f"expected a claim, not {type(claim).__name__}")
                answer = await self._answer(stream.peer, claim)
                with trio.fail_after(protocols.CLAIM_TIMEOUT_S):
                    await send_record(stream, answer)
            await self._end(reader, stream.peer)
        finally:
            self._peers.discard(stream.peer)

    async def _end(self, reader: RecordReader, peer: str) -> None:
        """The node closes after its last claim, once it has the answer."""
        with trio.fail_after(protocols.CLAIM_TIMEOUT_S):
            if await reader.next() is not None:
                raise RemoteProtocolError(f"{peer} sent more than {protocols.CLAIMS_PER_STREAM_MAX} claims")

    async def _answer(self, peer: str, claim: ClaimSent) -> CountersignSent | ClaimRefused:
        async with self._turns:
            await trio.sleep(CLAIM_PAUSE_S)
            try:
                return await self._settled(peer, claim)
            except (_Refused, ClaimLater, RemoteProtocolError) as error:
                refused = error
        log.info("a claim of %s is refused: %s", peer, refused)
        retry_after_ms = refused.retry_after_ms if isinstance(refused, _Refused) else 0
        if isinstance(refused, ClaimLater):
            retry_after_ms = LATER_RETRY_MS
        self._papers.answered("later" if retry_after_ms else "refused")
        if isinstance(refused, _Refused) and refused.is_lie:
            self._lied(peer)
        await trio.sleep(REFUSED_PAUSE_S)
        return ClaimRefused(reason=str(refused)[:512], retry_after_ms=retry_after_ms)

    async def _settled(self, peer: str, claim: ClaimSent) -> CountersignSent:
        order = self._our_order(peer, claim.order)
        known = await self._papers.known(order.order_id)
        if known is None:
            raise _Refused("this order ended without a debt here, or too long ago")
        if isinstance(known, Running):
            raise _Refused("the job of this order still runs here", RUNNING_RETRY_MS)
        opened = open_envelope(Kind.RECEIPT, claim.receipt)
        receipt = decode(Receipt, opened.body)
        if not opened.peer == receipt.node == order.node:
            raise _Refused("the receipt is not signed by the order's node")
        if receipt.order_hash != digest(claim.order):
            raise _Refused("the receipt is not about this order")
        if isinstance(known, Settled) and known.receipt_envelope == claim.receipt:
            return self._again(known)
        await self._convict(evidence_in(claim.order, claim.receipt))
        if isinstance(known, Settled):
            raise await self._other(known, claim.receipt)
        if known.order_envelope != claim.order:
            raise _Refused("the order is not the one that was sent")
        return await self._late(order, claim, opened, receipt, known.got)

    def _our_order(self, peer: str, envelope: bytes) -> Order:
        opened = open_envelope(Kind.ORDER, envelope)
        order = decode(Order, opened.body)
        if not opened.peer == order.gateway == self._identity.peer:
            raise _Refused("the order is not signed by this gateway")
        if order.node != peer:
            raise _Refused("the order is for another node")
        return order

    def _again(self, known: Settled) -> CountersignSent:
        """The countersign that was given before about this very receipt."""
        self._papers.answered("again")
        return CountersignSent(envelope=known.countersign_envelope)

    async def _other(self, known: Settled, envelope: bytes) -> _Refused:
        """Why there is no second countersign: mostly because the node signed a second receipt. Raises _Refused."""
        await self._convict(two_receipts(known.receipt_envelope, envelope))
        return _Refused("this order was settled with another envelope of this receipt")

    async def _convict(self, evidence: Evidence | None) -> None:
        """Keeps what convicts the node. Raises _Refused if it does."""
        if evidence is None:
            return
        try:
            says = check_evidence(encode(evidence)).says
        except EpochInvalid:
            return
        await self._papers.accuse(evidence)
        raise _Refused(f"the node {says}", is_lie=True)

    async def _late(
        self, order: Order, claim: ClaimSent, opened: Opened, receipt: Receipt, got: Delivered | None
    ) -> CountersignSent:
        promised = 0 if claim.voucher is None else _promised(order, claim.voucher)
        countersign = recount(order, receipt, opened.envelope, got, promised)
        settlement = Settlement(
            order=order,
            order_envelope=claim.order,
            receipt=receipt,
            receipt_envelope=opened.envelope,
            countersign=countersign,
            countersign_envelope=self._identity.seal(Kind.COUNTERSIGN, encode(countersign)),
        )
        stands = await self._papers.settle(settlement)
        if stands.countersign_envelope != settlement.countersign_envelope:  # another process was faster
            if stands.receipt_envelope != opened.envelope:
                raise await self._other(stands, opened.envelope)
            return self._again(stands)
        await self._note(settlement)
        return CountersignSent(envelope=settlement.countersign_envelope)

    async def _note(self, settlement: Settlement) -> None:
        countersign = settlement.countersign
        self._papers.answered(countersign.verdict.value)
        if countersign.verdict is not Verdict.ACCEPTED:
            node, verdict = settlement.order.node, countersign.verdict
            log.warning("late receipt of %s is %s: %s", node, verdict, countersign.reason)
        if countersign.verdict is Verdict.DISPUTED and countersign.reason != NOTHING:
            papers = (settlement.order_envelope, settlement.receipt_envelope, settlement.countersign_envelope)
            await self._papers.accuse(dispute(*papers))
            self._lied(settlement.order.node)


def _promised(order: Order, envelope: bytes) -> int:
    """What a voucher says that an order is worth. Raises RemoteProtocolError."""
    opened = open_envelope(Kind.VOUCHER, envelope)
    voucher = decode(Voucher, opened.body)
    check_voucher(order, opened.peer, voucher, lane_cost(order))
    return voucher.cum_amount - lane_cost(order)
