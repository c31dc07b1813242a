"""Serves jobs: /cxp2p/job/1 from the node's side. An order is checked, admitted, worked, receipted, countersigned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import trio

from cxp2p import protocols, receipts
from cxp2p.errors import JobFailed, PeerUnreachable, RemoteProtocolError
from cxp2p.identity import Identity, Kind, open_envelope
from cxp2p.net import Stream
from cxp2p.net.pump import Conversation, hear_ask, join_pieces, split_piece, weigh
from cxp2p.records import (
    JOB_OF,
    Accepted,
    Ask,
    Cancel,
    CountersignSent,
    Failure,
    FailureCode,
    Finish,
    Order,
    Piece,
    ReceiptSent,
    Refusal,
    RefusalCode,
    Service,
    Usage,
    VoucherSent,
)
from cxp2p.session import Event, Side
from cxp2p.units import Output, input_units_max, units_of
from cxp2p.wire import decode, encode
from cxp2p_node.admission import measure
from cxp2p_node.bench import Bench
from cxp2p_node.engines import Counted, Emit
from cxp2p_node.intake import Intake
from cxp2p_node.papers import PapersError
from cxp2p_node.salting import salted
from cxp2p_node.till import Till
from cxp2p_node.work import Work, receipt_over

log = logging.getLogger("cxp2p.node.serve")

PIECES_AHEAD_MAX = 16  # pieces made but not yet taken by the network; more would only be memory
BYTES_PER_FRAME = 8 * 1024  # more in one frame saves nothing
JOB_S_MAX = 600.0
PAPERS_RETRY_MS = 60_000  # when the disk is full, it mostly is for longer
ASKER_WAIT_S_MAX = 60.0  # how long an asker may keep this node waiting, in one write and in all the pieces of a job
_CANCELLED = Usage(in_units=0, cached_units=0, out_units=0, finish=Finish.CANCELLED)


class Serving:
    """Answers asks. `changed` is called whenever the load changes; `owner` is the account that is paid."""

    def __init__(
        self,
        identity: Identity,
        benches: Mapping[tuple[Service, str], Bench],
        till: Till,
        wall_ms: Callable[[], int],
        changed: Callable[[], None],
        owner: str = "",
    ) -> None:
        self._identity = identity
        self._benches = benches
        self._till = till
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

    async def _do(self, talk: Conversation, work: Work) -> None:
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
            with trio.CancelScope(shield=True):
                await self._close_books(work)
            self._jobs -= 1
            self._idle.set()
            self._idle = trio.Event()
            self._changed()
        if work.lost:
            raise PeerUnreachable(f"{talk.peer} left in the middle of a job")

    async def _close_books(self, work: Work) -> None:
        """What an asker got that left without a receipt is owed all the same; what we did not finish is not."""
        try:
            if work.lost and not work.failed and work.receipt is None:
                await self._make_receipt(work, Finish.CANCELLED)
            if work.receipt is None:
                await work.entry.lose()
        except PapersError as error:
            log.error("order %s: %s", work.order.order_id.hex(), error)

    # Deciding.

    def _admit(self, ask: Ask, asker: str) -> Work | Refusal:
        try:
            opened = open_envelope(Kind.ORDER, ask.order)
            order = decode(Order, opened.body)
        except RemoteProtocolError as error:
            return _no(RefusalCode.ORDER_INVALID, str(error))
        found = self._benches.get((order.service, order.model))
        capability = found.engine.describe() if found else None
        commit = receipts.request_commit(ask.salt, ask.request)
        refusal = self._till.check(opened.peer, asker, order, commit, capability)
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
        output, entry = Output(order.service), self._till.take(order, opened.envelope)
        return Work(entry, order, opened.envelope, salted(job, asker), found, in_max, self._wall_ms(), output)

    # Doing.

    async def _answer(self, talk: Conversation, work: Work) -> None:
        """Works and sends everything up to the receipt, or what stands in its place."""
        try:
            if not await self._write_down(talk, work):
                return
            await _say(talk, Accepted(queued=max(0, work.bench.desk.queued - 1)))
            ahead, pieces = trio.open_memory_channel[Piece](PIECES_AHEAD_MAX)
            ending: Usage | JobFailed = _CANCELLED
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._speak, talk, work, pieces)
                async with ahead:
                    with work.scope:
                        ending = await self._work(work, ahead)
                    self._changed()
            await _say(talk, await self._ending(work, ending))
        except PeerUnreachable as error:
            self._lose(work, error)

    async def _write_down(self, talk: Conversation, work: Work) -> bool:
        """Puts the order on disk. If that cannot be, it is refused."""
        try:
            await work.entry.write()
        except PapersError as error:
            log.error("an order is refused: %s", error)
            work.failed = True
            reason = "this node cannot write down what it is owed"
            await _say(talk, Refusal(code=RefusalCode.BUSY, reason=reason, retry_after_ms=PAPERS_RETRY_MS))
            return False
        return True

    async def _ending(self, work: Work, ending: Usage | JobFailed) -> ReceiptSent | Failure:
        """The receipt, on disk, or the failure that stands in its place."""
        if isinstance(ending, Usage):
            try:
                await self._make_receipt(work, Finish.HANDOFF if work.unpaid else ending.finish)
            except PapersError as error:
                log.error("order %s ends without a receipt: %s", work.order.order_id.hex(), error)
                ending = JobFailed(FailureCode.INTERNAL, "this node cannot write down what it is owed")
            else:
                return ReceiptSent(envelope=work.receipt_envelope)
        work.failed = True
        return Failure(code=ending.code, reason=ending.reason[:512], limit=ending.limit, actual=ending.actual)

    async def _work(self, work: Work, ahead: trio.MemorySendChannel[Piece]) -> Usage | JobFailed:
        """Waits for a place and the model, then runs the engine. Cancelled when the asker cancels or leaves."""

        async def emit(piece: Piece) -> None:
            for part in split_piece(piece):
                await self._await_voucher(work, part)
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

    async def _run(self, work: Work, emit: Emit, counted: Counted) -> Usage:
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

    async def _await_voucher(self, work: Work, piece: Piece) -> None:
        """Waits until vouchers cover so much that a piece may go; a job for which none come ends with what it gave."""
        units = work.output.units
        while not work.entry.may_hand_on(min(work.in_units, work.order.max_in), units, units + units_of(piece)):
            since = trio.current_time()
            with trio.move_on_after(protocols.VOUCHER_TIMEOUT_S - work.unvouched_s) as patience:
                await work.entry.vouched.wait()
            work.unvouched_s += trio.current_time() - since
            if patience.cancelled_caught:
                log.info("order %s: its asker sent no voucher", work.order.order_id.hex())
                work.unpaid = True
                work.scope.cancel()
                await trio.lowlevel.checkpoint()

    async def _hand_over(self, work: Work, ahead: trio.MemorySendChannel[Piece], piece: Piece) -> None:
        """Waits for the asker to take pieces; one that does not keep up is treated as one that left."""
        since = trio.current_time()
        with trio.move_on_after(ASKER_WAIT_S_MAX - work.waited_s):
            await ahead.send(piece)
            work.waited_s += trio.current_time() - since
            return
        self._lose(work, f"its asker kept us waiting for {ASKER_WAIT_S_MAX:g} s")
        await trio.lowlevel.checkpoint()

    def _check_prompt(self, work: Work) -> None:
        """Raises JobFailed for a prompt that the order does not pay, unless it is our own template that is so long."""
        order = work.order
        if order.max_in < work.in_units and order.max_in < work.in_max:
            why = f"the prompt has {work.in_units} units, the order allows {order.max_in}"
            raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, why, order.max_in, work.in_units)

    async def _make_receipt(self, work: Work, finish: Finish) -> None:
        """Signs for what was delivered: from here on it is owed until it is countersigned. Raises PapersError."""
        receipt = receipt_over(work, finish, self._owner, self._wall_ms())
        envelope = self._identity.seal(Kind.RECEIPT, encode(receipt))
        await work.entry.finish(receipt, envelope)
        work.receipt, work.receipt_envelope = receipt, envelope

    async def _heed(self, talk: Conversation, work: Work) -> None:
        """Listens while the job runs: a cancel or a lost asker stops the engine at once."""
        try:
            while (event := await talk.hear()) is not None:
                if isinstance(event, Cancel):
                    work.scope.cancel()
                elif isinstance(event, VoucherSent):
                    await self._vouch(work, event)
                elif isinstance(event, CountersignSent):
                    await self._settle(work, event)
                    work.conversation.cancel()
        except (PeerUnreachable, RemoteProtocolError) as error:
            self._lose(work, error)

    async def _speak(
        self,
        talk: Conversation,
        work: Work,
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

    def _lose(self, work: Work, why: object) -> None:
        log.info("order %s: %s", work.order.order_id.hex(), why)
        work.lost = True
        work.conversation.cancel()

    def _leave_queue(self, work: Work) -> None:
        if work.queued:
            work.queued = False
            work.bench.desk.queued -= 1

    async def _vouch(self, work: Work, event: VoucherSent) -> None:
        work.vouchers += 1
        if work.vouchers > protocols.VOUCHERS_PER_JOB_MAX:
            raise RemoteProtocolError(f"more than {protocols.VOUCHERS_PER_JOB_MAX} vouchers for one job")
        try:
            await work.entry.vouch(event.envelope)
        except PapersError as error:  # it does not count, so the job ends before more is made than may be owed
            log.error("a voucher of order %s: %s", work.order.order_id.hex(), error)

    async def _settle(self, work: Work, event: CountersignSent) -> None:
        assert work.receipt is not None  # the session lets no countersign come before it
        try:
            await self._till.settle(work.order, work.entry.paper, work.receipt, event.envelope)
        except PapersError as error:  # it will be claimed
            log.error("the countersign of order %s: %s", work.order.order_id.hex(), error)


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
