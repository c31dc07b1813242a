"""Serves jobs: /cxp2p/job/1 from the node's side. An order is checked, admitted, worked, receipted, countersigned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import trio

from cxp2p import protocols, receipts
from cxp2p.errors import JobFailed, PeerUnreachable, RemoteProtocolError
from cxp2p.identity import Identity, Kind, open_envelope
from cxp2p.lanes import NodeLanes
from cxp2p.net import Stream
from cxp2p.net.pump import Conversation, hear_ask, join_pieces, split_piece, weigh
from cxp2p.records import (
    JOB_OF,
    Accepted,
    Ask,
    Cancel,
    Countersign,
    CountersignSent,
    Failure,
    FailureCode,
    Finish,
    Job,
    Order,
    Piece,
    Receipt,
    ReceiptSent,
    Refusal,
    RefusalCode,
    Service,
    Usage,
)
from cxp2p.session import Event, Side
from cxp2p.units import Output, input_units_max
from cxp2p.wire import decode, encode
from cxp2p_node.admission import measure
from cxp2p_node.bench import Bench
from cxp2p_node.engines import Counted, Emit
from cxp2p_node.intake import Intake
from cxp2p_node.salting import salted

log = logging.getLogger("cxp2p.node.serve")

PIECES_AHEAD_MAX = 16  # pieces made but not yet taken by the network; more would only be memory
BYTES_PER_FRAME = 8 * 1024  # more in one frame saves nothing
JOB_S_MAX = 600.0
ASKER_WAIT_S_MAX = 60.0  # how long an asker may keep this node waiting, in one write and in all the pieces of a job
_CANCELLED = Usage(in_units=0, cached_units=0, out_units=0, finish=Finish.CANCELLED)


@dataclass(slots=True)
class _Work:
    """One admitted job: what was done for it so far. `scope` ends the work, `conversation` all of it.

    `lost`: the asker left or broke the protocol. `failed`: we did not finish.
    """

    order: Order
    order_envelope: bytes
    job: Job
    bench: Bench
    in_max: int
    t_accept_ms: int
    output: Output
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    conversation: trio.CancelScope = field(default_factory=trio.CancelScope)
    in_units: int = 0
    cached_units: int = 0
    t_first_ms: int = 0
    first_piece_at: float = 0.0
    queued: bool = True
    waited_s: float = 0.0
    lost: bool = False
    failed: bool = False
    receipt: Receipt | None = None
    receipt_envelope: bytes = b""


class Serving:
    """Answers asks. `changed` is called whenever the load changes; `owner` is the account that is paid."""

    def __init__(
        self,
        identity: Identity,
        benches: Mapping[tuple[Service, str], Bench],
        lanes: NodeLanes,
        wall_ms: Callable[[], int],
        changed: Callable[[], None],
        owner: str = "",
    ) -> None:
        self._identity = identity
        self._benches = benches
        self._lanes = lanes
        self._wall_ms = wall_ms
        self._changed = changed
        self._owner = owner
        self._intake = Intake()
        self.draining = False
        self._jobs = 0
        self._idle = trio.Event()

    async def idle(self) -> None:
        """Returns when no job runs or waits here."""
        while self._jobs:
            await self._idle.wait()

    async def handle(self, stream: Stream) -> None:
        """One inbound job stream, from the Ask to the Countersign. Raises only the stranger's faults."""
        share = self._intake.open(stream.peer)
        try:
            talk = Conversation(stream, Side.NODE, share.take)
            admitted = self._admit(await hear_ask(talk), talk.peer)
            if isinstance(admitted, Refusal):
                await _say(talk, admitted)
            else:
                await self._do(talk, admitted)
        finally:
            share.close()

    async def _do(self, talk: Conversation, work: _Work) -> None:
        self._lanes.take(work.order)
        work.bench.desk.queued += 1
        self._jobs += 1
        self._changed()
        try:
            async with trio.open_nursery() as nursery:
                work.conversation = nursery.cancel_scope
                nursery.start_soon(self._heed, talk, work)
                await self._answer(talk, work)
                if work.receipt is not None:
                    with trio.move_on_after(protocols.COUNTERSIGN_TIMEOUT_S):
                        await trio.sleep_forever()  # until _heed has the countersign
                    log.info("%s did not countersign order %s", talk.peer, work.order.order_id.hex())
                nursery.cancel_scope.cancel()
        finally:
            self._leave_queue(work)
            self._close_books(work)
            self._jobs -= 1
            self._idle.set()
            self._idle = trio.Event()
            self._changed()
        if work.lost:
            raise PeerUnreachable(f"{talk.peer} left in the middle of a job")

    def _close_books(self, work: _Work) -> None:
        """What an asker got that left without a receipt is owed all the same; what we did not finish is not."""
        if work.lost and not work.failed and work.receipt is None:
            self._make_receipt(work, Finish.CANCELLED)
        if work.receipt is None:
            self._lanes.abandon(work.order)

    # Deciding.

    def _admit(self, ask: Ask, asker: str) -> _Work | Refusal:
        wall_ms = self._wall_ms()
        try:
            opened = open_envelope(Kind.ORDER, ask.order)
            order = decode(Order, opened.body)
        except RemoteProtocolError as error:
            return _no(RefusalCode.ORDER_INVALID, str(error))
        found = self._benches.get((order.service, order.model))
        capability = found.engine.describe() if found else None
        commit = receipts.request_commit(ask.salt, ask.request)
        refusal = self._lanes.check(opened.peer, asker, order, commit, capability, wall_ms)
        if refusal is not None:
            return refusal
        assert found is not None
        assert capability is not None
        try:
            job = decode(JOB_OF[order.service], ask.request)
        except RemoteProtocolError as error:
            return _no(RefusalCode.REQUEST_INVALID, str(error))
        if job.model != order.model:
            return _no(RefusalCode.REQUEST_INVALID, "the request is for another model than the order")
        refusal = found.admit(draining=self.draining)
        if refusal is not None:
            return refusal
        in_max = input_units_max(job, ask.request, capability.context_units)
        return _Work(order, opened.envelope, salted(job, asker), found, in_max, wall_ms, Output(order.service))

    # Doing.

    async def _answer(self, talk: Conversation, work: _Work) -> None:
        """Works and sends everything up to the receipt, or the failure that stands in its place."""
        try:
            await _say(talk, Accepted(queued=max(0, work.bench.desk.queued - 1)))
            ahead, pieces = trio.open_memory_channel[Piece](PIECES_AHEAD_MAX)
            ending: Usage | JobFailed = _CANCELLED
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._speak, talk, work, pieces)
                async with ahead:
                    with work.scope:
                        ending = await self._work(work, ahead)
                    self._changed()
            if isinstance(ending, JobFailed):
                work.failed = True
                reason = ending.reason[:512]
                await _say(talk, Failure(code=ending.code, reason=reason, limit=ending.limit, actual=ending.actual))
            else:
                self._make_receipt(work, ending.finish)
                await _say(talk, ReceiptSent(envelope=work.receipt_envelope))
        except PeerUnreachable as error:
            self._lose(work, error)

    async def _work(self, work: _Work, ahead: trio.MemorySendChannel[Piece]) -> Usage | JobFailed:
        """Waits for a place and the model, then runs the engine. Cancelled when the asker cancels or leaves."""

        async def emit(piece: Piece) -> None:
            for part in split_piece(piece):
                await self._hand_over(work, ahead, part)
                work.output.add(part)
                if not work.first_piece_at:
                    work.first_piece_at = trio.current_time()
                    work.t_first_ms = self._wall_ms()

        def counted(in_units: int, cached_units: int) -> None:
            work.in_units, work.cached_units = in_units, cached_units
            self._check_prompt(work)

        try:
            async with work.bench.places, work.bench.taken():
                return await self._run(work, emit, counted)
        except JobFailed as error:
            log.warning("order %s failed: %s", work.order.order_id.hex(), error)
            return error

    async def _run(self, work: _Work, emit: Emit, counted: Counted) -> Usage:
        """The job on its engine. Raises JobFailed."""
        desk = work.bench.desk
        self._leave_queue(work)
        desk.running += 1
        self._changed()
        begun = trio.current_time()
        try:
            with trio.fail_after(JOB_S_MAX):
                usage = await work.bench.engine.run(work.job, work.order.seed, work.order.max_out, emit, counted)
        except trio.TooSlowError:
            raise JobFailed(FailureCode.TIMEOUT, f"the job ran for {JOB_S_MAX:g} s") from None
        finally:
            desk.running -= 1
        first = work.first_piece_at or trio.current_time()
        measure(desk, (trio.current_time() - begun) * 1000, (first - begun) * 1000, work.output.units)
        work.in_units, work.cached_units = usage.in_units, usage.cached_units
        return usage

    async def _hand_over(self, work: _Work, ahead: trio.MemorySendChannel[Piece], piece: Piece) -> None:
        """Waits for the asker to take pieces; one that does not keep up is treated as one that left."""
        since = trio.current_time()
        with trio.move_on_after(ASKER_WAIT_S_MAX - work.waited_s):
            await ahead.send(piece)
            work.waited_s += trio.current_time() - since
            return
        self._lose(work, f"its asker kept us waiting for {ASKER_WAIT_S_MAX:g} s")
        await trio.lowlevel.checkpoint()

    def _check_prompt(self, work: _Work) -> None:
        """Raises JobFailed for a prompt that the order does not pay, unless it is our own template that is so long."""
        order = work.order
        if order.max_in < work.in_units and order.max_in < work.in_max:
            why = f"the prompt has {work.in_units} units, the order allows {order.max_in}"
            raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, why, order.max_in, work.in_units)

    def _make_receipt(self, work: _Work, finish: Finish) -> None:
        """Signs for what was delivered. From here on it counts as owed until it is countersigned."""
        order, wall_ms = work.order, self._wall_ms()
        in_units = min(work.in_units, order.max_in)
        charge = receipts.charge_owed(order.prices, finish, in_units, work.output.units)
        receipt = Receipt(
            order_hash=receipts.digest(work.order_envelope),
            gateway=order.gateway,
            node=order.node,
            owner=self._owner,
            lane=order.lane,
            seq=order.seq,
            epoch=order.epoch,
            service=order.service,
            model_digest=order.model_digest,
            runtime=work.bench.engine.describe().runtime,
            in_units=in_units,
            cached_units=min(work.cached_units, in_units),
            out_units=work.output.units,
            t_accept_ms=work.t_accept_ms,
            t_first_ms=max(work.t_accept_ms, work.t_first_ms or wall_ms),
            t_end_ms=max(work.t_accept_ms, work.t_first_ms, wall_ms),
            finish=finish,
            request_commit=order.request_commit,
            output_commit=work.output.commit(),
            seed=order.seed,
            resume_of=order.resume_of,
            offset=order.offset,
            charge=charge,
            cum_charge=self._lanes.cum_charge(order) + charge,
            prev_receipt=order.prev_receipt,
        )
        work.receipt = receipt
        work.receipt_envelope = self._identity.seal(Kind.RECEIPT, encode(receipt))
        self._lanes.finish(order, receipt, work.receipt_envelope, wall_ms)

    async def _heed(self, talk: Conversation, work: _Work) -> None:
        """Listens while the job runs: a cancel or a lost asker stops the engine at once."""
        try:
            while (event := await talk.hear()) is not None:
                if isinstance(event, Cancel):
                    work.scope.cancel()
                elif isinstance(event, CountersignSent):
                    self._settle(work, event)
                    work.conversation.cancel()
        except (PeerUnreachable, RemoteProtocolError) as error:
            self._lose(work, error)

    async def _speak(
        self,
        talk: Conversation,
        work: _Work,
        pieces: trio.MemoryReceiveChannel[Piece],
    ) -> None:
        """Sends pieces, joined with those that came meanwhile: a frame costs more than what is in it."""
        async with pieces:
            try:
                async for piece in pieces:
                    for part in split_piece(_joined(piece, pieces)):
                        await _say(talk, part)
            except PeerUnreachable as error:
                self._lose(work, error)

    def _lose(self, work: _Work, why: object) -> None:
        log.info("order %s: %s", work.order.order_id.hex(), why)
        work.lost = True
        work.conversation.cancel()

    def _leave_queue(self, work: _Work) -> None:
        if work.queued:
            work.queued = False
            work.bench.desk.queued -= 1

    def _settle(self, work: _Work, event: CountersignSent) -> None:
        opened = open_envelope(Kind.COUNTERSIGN, event.envelope)
        countersign = decode(Countersign, opened.body)
        assert work.receipt is not None  # the session lets no countersign come before it
        self._lanes.settle(work.order, work.receipt, work.receipt_envelope, opened.peer, countersign)


async def _say(talk: Conversation, event: Event) -> None:
    """Raises PeerUnreachable also for an asker that does not read."""
    try:
        with trio.fail_after(ASKER_WAIT_S_MAX):
            await talk.say(event)
    except trio.TooSlowError:
        raise PeerUnreachable(f"{talk.peer} did not read for {ASKER_WAIT_S_MAX:g} s") from None


def _joined(piece: Piece, pieces: trio.MemoryReceiveChannel[Piece]) -> Piece:
    group, weight = [piece], weigh(piece)
    while weight < BYTES_PER_FRAME:
        try:
            group.append(pieces.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            break
        weight += weigh(group[-1])
    return join_pieces(group)


def _no(code: RefusalCode, reason: str) -> Refusal:
    return Refusal(code=code, reason=reason[:512], retry_after_ms=0)
