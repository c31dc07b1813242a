"""How an asker gets one job done: an order to the best node, and to the next one if it does not answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, TypeAlias

import trio

from cxp2p import receipts
from cxp2p.directory import Entry
from cxp2p.errors import (
    CxError,
    InsufficientCredit,
    JobFailed,
    JobRefused,
    NoNode,
    PeerUnreachable,
    ReceiptInvalid,
    RemoteProtocolError,
)
from cxp2p.identity import Identity, Kind, open_envelope
from cxp2p.lanes import FreeLanes
from cxp2p.net import Network
from cxp2p.net.discover import Discovery
from cxp2p.net.pump import Conversation, converse
from cxp2p.records import (
    Accepted,
    Ask,
    Cancel,
    Capability,
    ChatJob,
    Countersign,
    CountersignSent,
    Failure,
    FailureCode,
    Order,
    Piece,
    Receipt,
    ReceiptSent,
    Refusal,
    RefusalCode,
    Service,
    Verdict,
)
from cxp2p.routing import most_it_costs, rank
from cxp2p.wire import decode, encode

log = logging.getLogger("cxp2p.ask")

ATTEMPTS_MAX = 3
DEADLINE_S = 600.0
STALL_S = (
    120.0  # between two events of a job: a long prompt on a slow machine. A node that hangs is noticed by its beat
)
CANCEL_GRACE_S = 2.0  # how long a cancelled job waits for the receipt of what was delivered

Emit: TypeAlias = Callable[[Piece], Awaitable[None]]
"""Takes one piece of the answer; waits while the reader does not read."""

_REQUESTS_FAULT = (
    FailureCode.CONTEXT_LENGTH,
    FailureCode.REQUEST_UNSUPPORTED,
    FailureCode.SCHEMA_INVALID,
    FailureCode.ASKER_TOO_SLOW,
)


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


@dataclass(slots=True)
class _Attempt:
    """One order on its way, and what came of it so far."""

    order: Order
    envelope: bytes
    lane: receipts.Lane
    salt: bytes
    started: float
    asked: bool = False
    token_ids: list[int] = field(default_factory=list)
    emitted: bool = False
    queued_s: float = 0.0
    receipt_envelope: bytes | None = None
    settlement: Settlement | None = None


class Asker:
    """Asks the network for work and settles it. `rng` makes ids, salts and seeds: a `SystemRandom` outside of tests."""

    def __init__(
        self, identity: Identity, network: Network, discovery: Discovery, wall_ms: Callable[[], int], rng: Random
    ) -> None:
        self._identity = identity
        self._network = network
        self._discovery = discovery
        self._directory = discovery.directory
        self._wall_ms = wall_ms
        self._rng = rng
        self._lanes = FreeLanes(lambda: rng.randbytes(16))

    async def run(self, job: ChatJob, emit: Emit, books: Books, *, deadline_s: float = DEADLINE_S) -> Outcome:
        """Does one job: pieces go to `emit` in order, the signed outcome is returned.

        Until the first piece a failure moves on to the next node unseen, at most 3 nodes. Cancelling the call tells
        the node at once and settles what was delivered. If the best node costs more than the account has, the cheapest
        is asked. Raises NoNode, JobRefused (every node said no), JobFailed
        (after the first piece, or the request itself cannot be done), PeerUnreachable, InsufficientCredit.
        """
        with trio.move_on_after(deadline_s):
            return await self._run(job, emit, books)
        raise JobFailed(FailureCode.TIMEOUT, f"the job was not done in {deadline_s:g} s")

    async def _run(self, job: ChatJob, emit: Emit, books: Books) -> Outcome:
        request = encode(job)
        tried: set[str] = set()
        faults: list[CxError] = []
        while len(tried) < ATTEMPTS_MAX:
            entry, capability = self._choose(job.model, tried, faults)
            node = entry.offer.peer
            tried.add(node)
            attempt = self._order(job, request, node, capability, self._lanes.take(node))
            try:
                try:
                    await self._attempt(attempt, request, emit, books, entry)
                except JobRefused as error:
                    if error.code is not RefusalCode.LANE_UNKNOWN:
                        raise
                    attempt = self._order(job, request, node, capability, self._lanes.open())
                    await self._attempt(attempt, request, emit, books, entry)
            except InsufficientCredit as error:
                if _too_dear(faults):
                    raise
                faults.append(error)
                continue
            except (PeerUnreachable, RemoteProtocolError, JobRefused, JobFailed) as error:
                log.info("order %s on %s: %s", attempt.order.order_id.hex(), node, error)
                self._blame(node, error)
                if attempt.emitted:
                    raise _cut_off(error) from error
                faults.append(error)
                continue
            return self._outcome(attempt, entry, len(tried))
        raise _worst(faults)

    def _choose(self, model: str, tried: set[str], faults: list[CxError]) -> tuple[Entry, Capability]:
        candidates = self._directory.candidates(Service.CHAT, model, self._wall_ms(), trio.current_time())
        for fault in faults:
            if isinstance(fault, JobFailed) and fault.code in _REQUESTS_FAULT:
                roomier = fault.limit if fault.code is FailureCode.CONTEXT_LENGTH else 2**31
                candidates = tuple((entry, able) for entry, able in candidates if able.context_units > roomier)
        ranked = rank(candidates, tried, self._rng, trio.current_time())
        if _too_dear(faults):
            ranked.sort(key=lambda candidate: most_it_costs(candidate[1]))
        if ranked:
            return ranked[0]
        if faults:
            raise _worst(faults)
        self._discovery.want(Service.CHAT, model)
        raise NoNode(f"no live node offers {model!r}")

    def _order(self, job: ChatJob, request: bytes, node: str, capability: Capability, lane: receipts.Lane) -> _Attempt:
        salt = self._rng.randbytes(16)
        room = min(capability.output_units_max, capability.context_units)
        seed = job.sampling.seed
        terms = receipts.Terms(
            gateway=self._identity.peer,
            node=node,
            capability=capability,
            request_commit=receipts.request_commit(salt, request),
            max_in=receipts.input_units_max(request, capability.context_units),
            max_out=min(job.max_tokens or room, room),
            seed=self._rng.getrandbits(63) if seed is None else seed % 2**63,
        )
        order = receipts.make_order(terms, lane, self._rng.randbytes(16), self._wall_ms())
        envelope = self._identity.seal(Kind.ORDER, encode(order))
        return _Attempt(order, envelope, lane, salt, trio.current_time())

    async def _attempt(self, attempt: _Attempt, request: bytes, emit: Emit, books: Books, entry: Entry) -> None:
        order = attempt.order
        try:
            await books.reserve(order, attempt.envelope)
        except InsufficientCredit:
            self._lanes.give_back(order.node, attempt.lane)
            raise
        entry.jobs += 1
        try:
            async with converse(self._network, order.node) as talk:
                try:
                    await talk.say(Ask(order=attempt.envelope, salt=attempt.salt, request=request))
                    attempt.asked = True
                    await self._listen(talk, attempt, emit)
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + CANCEL_GRACE_S):
                        await self._settle(talk, attempt, books)
                    if attempt.settlement is None:
                        raise JobFailed(FailureCode.INTERNAL, f"the books took longer than {CANCEL_GRACE_S:g} s")
                except trio.Cancelled:
                    await self._wind_up(talk, attempt, books)
                    raise
                except JobRefused as error:
                    if error.code not in (RefusalCode.LANE_UNKNOWN, RefusalCode.ORDER_INVALID):
                        self._lanes.give_back(order.node, attempt.lane)
                    raise
        finally:
            entry.jobs -= 1
            if attempt.settlement is None:
                with trio.CancelScope(shield=True):
                    await books.void(order, "no receipt")
        self._directory.welcome(order.node, trio.current_time())

    async def _listen(self, talk: Conversation, attempt: _Attempt, emit: Emit | None) -> None:
        """Until the receipt, which is left in the attempt. Without `emit` pieces are only counted."""
        while attempt.receipt_envelope is None:
            try:
                with trio.fail_after(STALL_S):
                    event = await talk.hear()
            except trio.TooSlowError:
                raise PeerUnreachable(f"{talk.peer} said nothing for {STALL_S:g} s") from None
            match event:
                case Piece():
                    attempt.token_ids.extend(event.token_ids)
                    if len(attempt.token_ids) > attempt.order.max_out:
                        raise RemoteProtocolError(
                            f"{talk.peer} sent more than the {attempt.order.max_out} units ordered"
                        )
                    if emit is not None:
                        attempt.emitted = True
                        await emit(event)
                case Accepted():
                    attempt.queued_s = trio.current_time() - attempt.started
                case ReceiptSent(envelope=envelope):
                    attempt.receipt_envelope = envelope
                case Refusal():
                    raise JobRefused(event.code, event.reason, event.retry_after_ms)
                case Failure():
                    raise JobFailed(event.code, event.reason, event.limit, event.actual)
                case _:
                    raise RemoteProtocolError(f"{talk.peer} ended without a receipt")

    async def _settle(self, talk: Conversation, attempt: _Attempt, books: Books) -> None:
        """Checks the receipt, countersigns it, posts it. Raises ReceiptInvalid; a dispute is posted at no charge."""
        assert attempt.receipt_envelope is not None
        opened = open_envelope(Kind.RECEIPT, attempt.receipt_envelope)
        receipt = decode(Receipt, opened.body)
        got = receipts.Delivered(token_ids=attempt.token_ids)
        countersign = receipts.check_receipt(
            attempt.order, attempt.envelope, attempt.lane, opened.peer, receipt, opened.envelope, got
        )
        sealed = self._identity.seal(Kind.COUNTERSIGN, encode(countersign))
        settlement = Settlement(
            order=attempt.order,
            order_envelope=attempt.envelope,
            receipt=receipt,
            receipt_envelope=opened.envelope,
            countersign=countersign,
            countersign_envelope=sealed,
        )
        await books.settle(settlement)
        attempt.settlement = settlement
        if countersign.verdict is Verdict.ACCEPTED:
            lane = receipts.advance(attempt.lane, opened.envelope, countersign.charge)
            self._lanes.give_back(attempt.order.node, lane)
        else:
            log.warning("receipt of %s is disputed: %s", talk.peer, countersign.reason)
            self._directory.suspend(talk.peer, trio.current_time())
        try:
            await talk.say(CountersignSent(envelope=sealed))
        except PeerUnreachable as error:
            log.info("%s did not take the countersign: %s", talk.peer, error)

    async def _wind_up(self, talk: Conversation, attempt: _Attempt, books: Books) -> None:
        """The asker left: stop the node now, and settle what it had delivered if it tells soon enough."""
        if not attempt.asked or attempt.settlement is not None:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CANCEL_GRACE_S):
            try:
                if attempt.receipt_envelope is None:
                    await talk.say(Cancel())
                    await self._listen(talk, attempt, None)
                await self._settle(talk, attempt, books)
            except (PeerUnreachable, RemoteProtocolError, JobRefused, JobFailed) as error:
                log.info("cancelled order %s ends without a receipt: %s", attempt.order.order_id.hex(), error)

    def _blame(self, node: str, error: CxError) -> None:
        """A request that cannot be done, or a full queue, is no fault of the node's."""
        innocent = (isinstance(error, JobFailed) and error.code in _REQUESTS_FAULT) or (
            isinstance(error, JobRefused) and error.code in (RefusalCode.BUSY, RefusalCode.DRAINING)
        )
        if isinstance(error, ReceiptInvalid):
            log.warning("receipt of %s is invalid: %s; evidence %s", node, error, error.evidence.hex())
        if not innocent:
            self._directory.suspend(node, trio.current_time())

    def _outcome(self, attempt: _Attempt, entry: Entry, attempts: int) -> Outcome:
        assert attempt.settlement is not None
        return Outcome(
            node=attempt.order.node,
            attempts=attempts,
            queued_ms=round(attempt.queued_s * 1000),
            found_via=entry.found_via,
            lookup_ms=entry.lookup_ms,
            settlement=attempt.settlement,
        )


def _too_dear(faults: list[CxError]) -> bool:
    return any(isinstance(fault, InsufficientCredit) for fault in faults)


def _cut_off(error: CxError) -> JobFailed:
    if isinstance(error, JobFailed):
        return error
    return JobFailed(FailureCode.ENGINE_DIED, f"the node stopped in the middle of its answer: {error}")


def _worst(faults: list[CxError]) -> CxError:
    """The fault to tell: one that is the request's own, else a full network, else what happened last."""
    for fault in faults:
        if isinstance(fault, JobFailed) and fault.code in _REQUESTS_FAULT:
            return fault
    refused = [fault for fault in faults if isinstance(fault, JobRefused)]
    return min(refused, key=lambda fault: fault.retry_after_ms) if len(refused) == len(faults) else faults[-1]
