"""One order on its way: asked, listened to, settled; or given up, and what was delivered until then settled."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import trio

from cxp2p import receipts, vouchers
from cxp2p.errors import (
    AnswerRefused,
    CxError,
    JobFailed,
    JobRefused,
    PeerUnreachable,
    RemoteProtocolError,
    one_line,
)
from cxp2p.identity import Identity, Kind, open_envelope
from cxp2p.net import Network
from cxp2p.net.pump import Conversation, converse
from cxp2p.records import (
    Accepted,
    Ask,
    Cancel,
    Countersign,
    CountersignSent,
    Failure,
    FailureCode,
    Finish,
    Order,
    Piece,
    Receipt,
    ReceiptSent,
    Refusal,
    Verdict,
    VoucherSent,
)
from cxp2p.units import Output
from cxp2p.wire import decode, encode

log = logging.getLogger("cxp2p.ask")

STALL_S = (
    120.0  # between two events of a job: a long prompt on a slow machine. A node that hangs is noticed by its beat
)
SETTLE_S = 2.0  # how long a cancelled job waits for the receipt of what was delivered, and any job for its books
RETRY_MS_MAX = 60_000  # what a node may say of coming back
JUDGE_S = 5.0  # what looking at a whole answer may take; one that takes longer is accepted

Emit: TypeAlias = Callable[[Piece], Awaitable[None]]
"""Takes one piece of the answer; waits while the reader does not read."""

Judge: TypeAlias = Callable[[Finish], Awaitable[str]]
"""Says what is wrong with a whole answer that ended like this, in words for its node; "" if nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What both sides signed about one order: the values, and the exact bytes that were signed."""

    order: Order
    order_envelope: bytes
    receipt: Receipt
    receipt_envelope: bytes
    countersign: Countersign
    countersign_envelope: bytes


class Books(Protocol):
    """Where an asker keeps what it owes. Each order is reserved once, then settled or voided once.

    A call that is cancelled has done nothing.
    """

    async def reserve(self, order: Order, envelope: bytes) -> None:
        """Holds `order.max_charge`. On disk when this returns. Raises InsufficientCredit."""

    async def promise(self, order: Order, voucher_envelope: bytes) -> None:
        """Keeps a voucher, which leaves when this returns: then this much of the order's charge is agreed to."""

    async def settle(self, settlement: Settlement) -> None:
        """Posts the countersigned charge, gives the rest of the hold back, and keeps the signed bytes."""

    async def void(self, order: Order, reason: str, got: receipts.Delivered | None = None) -> None:
        """Gives the whole hold back. `got`: what arrived, if the node vanished, and may claim it later; see claims."""


@dataclass(slots=True)
class Attempt:
    """One order, and what came of it so far. `lane_after`: where its lane goes on, if both sides agree on that.

    `loading_ms`: what its node said that it takes to load the model.
    """

    identity: Identity
    order: Order
    envelope: bytes
    lane: receipts.Lane
    salt: bytes
    request: bytes
    bytes_max: int
    started: float
    output: Output
    judge: Judge | None = None
    loading_ms: int = 0
    fault: str = ""
    asked_at: float | None = None
    bytes_in: int = 0
    vouched_units: int = 0
    vouched_amount: int = 0
    emitted: bool = False
    cancelled: bool = False
    queued_s: float = 0.0
    first_piece_s: float | None = None
    receipt_envelope: bytes | None = None
    settlement: Settlement | None = None
    lane_after: receipts.Lane | None = None

    async def run(self, network: Network, emit: Emit, books: Books) -> None:
        """From the held order to the settled receipt.

        Raises PeerUnreachable, RemoteProtocolError, JobRefused, JobFailed, AnswerRefused, and what `emit` and `books`
        raise: then the node is told to stop, and what it delivered is settled, if it tells soon enough. The same after
        a cancel.
        """
        async with converse(network, self.order.node, self._count) as talk:
            try:
                await talk.say(Ask(order=self.envelope, salt=self.salt, request=self.request))
                self.asked_at = trio.current_time()
                await self._listen(talk, emit, books)
                with trio.CancelScope(shield=True, deadline=trio.current_time() + JUDGE_S):
                    self.fault = await self._judged()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + SETTLE_S):
                    await self._settle(talk, books)
            except (PeerUnreachable, RemoteProtocolError, JobFailed, JobRefused):
                raise
            except BaseException:  # the caller left, or what it gave us to write to failed
                await self._wind_up(talk, books)
                raise
        self._check_end()

    def _count(self, size: int) -> None:
        """Text costs nothing, so it needs a limit of its own: token ids alone would let it through without end."""
        self.bytes_in += size
        if self.bytes_in > self.bytes_max:
            peer, units = self.order.node, self.order.max_out
            raise RemoteProtocolError(f"{peer} sent more than {self.bytes_max} bytes for {units} units")

    async def _listen(self, talk: Conversation, emit: Emit | None, books: Books) -> None:
        """Until the receipt is there. Without `emit` pieces are only counted."""
        while self.receipt_envelope is None:
            try:
                with trio.fail_after(STALL_S):
                    event = await talk.hear()
            except trio.TooSlowError:
                raise PeerUnreachable(f"{talk.peer} said nothing for {STALL_S:g} s") from None
            match event:
                case Piece():
                    await self._take(talk, event, emit, books)
                case Accepted():
                    self.queued_s = trio.current_time() - self.started
                case ReceiptSent(envelope=envelope):
                    self.receipt_envelope = envelope
                case Refusal():
                    raise refused_with(event)
                case Failure():
                    raise JobFailed(event.code, one_line(event.reason), event.limit, event.actual)
                case _:
                    raise RemoteProtocolError(f"{talk.peer} ended without a receipt")

    async def _take(self, talk: Conversation, piece: Piece, emit: Emit | None, books: Books) -> None:
        self.output.add(piece)
        if self.output.units > self.order.max_out:
            raise RemoteProtocolError(f"{self.order.node} sent more than the {self.order.max_out} units ordered")
        if emit is not None:
            await self._vouch(talk, books)
        if emit is not None and (
            piece.text or piece.reasoning or piece.calls or piece.logprobs or piece.data or piece.units
        ):
            if self.first_piece_s is None and self.asked_at is not None:
                self.first_piece_s = trio.current_time() - self.asked_at
            self.emitted = True
            await emit(piece)

    async def _vouch(self, talk: Conversation, books: Books) -> None:
        """Agrees to what arrived, if a voucher is due."""
        if vouchers.due(self.order.service, self.output.units) <= self.vouched_units:
            return
        self.vouched_units = self.output.units
        voucher = vouchers.make_voucher(self.order, self.lane.cum_charge, self.output.units)
        if voucher.cum_amount <= max(self.vouched_amount, self.lane.cum_charge):  # the output is free, or nearly
            return
        self.vouched_amount = voucher.cum_amount
        sealed = self.identity.seal(Kind.VOUCHER, encode(voucher))
        await books.promise(self.order, sealed)
        try:
            await talk.say(VoucherSent(envelope=sealed))
        except PeerUnreachable as error:  # what the node said before it left is still to be heard
            log.info("%s did not take a voucher: %s", talk.peer, error)

    async def _judged(self) -> str:
        """What the judge says, cut to what a countersign holds."""
        if self.judge is None:
            return ""
        assert self.receipt_envelope is not None
        receipt = decode(Receipt, open_envelope(Kind.RECEIPT, self.receipt_envelope).body)
        return one_line(await self.judge(receipt.finish))

    def delivered(self) -> receipts.Delivered:
        """What arrived so far."""
        units, commit = self.output.units, self.output.commit()
        return receipts.Delivered(units=units, commit=commit, cancelled=self.cancelled, fault=self.fault)

    async def _settle(self, talk: Conversation, books: Books) -> None:
        """Checks the receipt, countersigns it, posts it. Raises ReceiptInvalid; a dispute is posted at no charge."""
        assert self.receipt_envelope is not None
        opened = open_envelope(Kind.RECEIPT, self.receipt_envelope)
        receipt = decode(Receipt, opened.body)
        countersign = receipts.check_receipt(
            self.order, self.envelope, self.lane, opened.peer, receipt, opened.envelope, self.delivered()
        )
        sealed = self.identity.seal(Kind.COUNTERSIGN, encode(countersign))
        settlement = Settlement(
            order=self.order,
            order_envelope=self.envelope,
            receipt=receipt,
            receipt_envelope=opened.envelope,
            countersign=countersign,
            countersign_envelope=sealed,
        )
        await books.settle(settlement)
        self.settlement = settlement
        if countersign.verdict is Verdict.ACCEPTED:
            self.lane_after = receipts.advance(self.lane, opened.envelope, countersign.charge)
        else:
            log.warning("receipt of %s is disputed: %s", talk.peer, countersign.reason)
        try:
            await talk.say(CountersignSent(envelope=sealed))
        except PeerUnreachable as error:
            log.info("%s did not take the countersign: %s", talk.peer, error)

    async def _wind_up(self, talk: Conversation, books: Books) -> None:
        """The asker left: stop the node now, and settle what it had delivered if it tells soon enough."""
        if self.asked_at is None or self.receipt_envelope is not None:
            return
        self.cancelled = True
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SETTLE_S):
            try:
                await talk.say(Cancel())
                await self._listen(talk, None, books)
                await self._settle(talk, books)
            except CxError as error:
                log.info("cancelled order %s ends without a receipt: %s", self.order.order_id.hex(), error)

    @property
    def broken_off(self) -> bool:
        """Whether the node ended the job by itself, and its receipt says so."""
        whole = (Finish.STOP, Finish.LENGTH)
        return self.settlement is not None and not self.cancelled and self.settlement.receipt.finish not in whole

    def _check_end(self) -> None:
        """Raises JobFailed unless the receipt says that the answer is whole."""
        if self.settlement is None:
            raise JobFailed(FailureCode.INTERNAL, f"the books took longer than {SETTLE_S:g} s")
        if self.broken_off:
            finish = self.settlement.receipt.finish
            code = FailureCode.TIMEOUT if finish is Finish.TIMEOUT else FailureCode.ENGINE_DIED
            raise JobFailed(code, f"the node ended the job: {finish}")
        if self.fault:
            raise AnswerRefused(self.fault)


def refused_with(refusal: Refusal) -> JobRefused:
    """The error that a refusal is to its asker: nobody is sent away for weeks, or told more than a line."""
    return JobRefused(refusal.code, one_line(refusal.reason), min(refusal.retry_after_ms, RETRY_MS_MAX))
