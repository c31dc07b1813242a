"""POST /chat/completions: one job, its answer whole or as a stream, and its end when the client leaves."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import trio
from starlette.types import Receive, Scope, Send

from cxp2p.client import Emit, Outcome
from cxp2p.errors import CxError, JobFailed
from cxp2p.records import FailureCode, Piece
from cxp2p_gateway import openai, sse
from cxp2p_gateway.asking import Door
from cxp2p_gateway.exchange import Exchange, Outside
from cxp2p_gateway.faults import Condition, Fault, cut_of, fault_of
from cxp2p_gateway.middleware import ClientGone, encoded, send_json
from cxp2p_gateway.openai import ChatAsk
from cxp2p_gateway.reading import BodyBudget, read_json
from cxp2p_gateway.waiting import Patience, Places, wants_cx, watch

PIECES_WAITING_MAX: Final = 64  # between a node and a client that reads slowly; then the node waits too
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024  # of an answer that is sent whole: as much as a request may be


@dataclass(slots=True)
class Work:
    """One job on its way: when it must be done, and how it ended."""

    ask: ChatAsk
    generation: str
    created_s: int
    wants_cx: bool
    wait_s: float
    deadline_s: float
    pieces: int = 0
    first_piece_s: float = 0.0
    ending: Outcome | Fault | None = None
    limit: trio.CancelScope = field(default_factory=trio.CancelScope)


class ChatCompletions:
    """The endpoint. `Door.run` runs in a task beside the one that watches whether the client is still there."""

    def __init__(self, door: Door, outside: Outside, patience: Patience, budget: BodyBudget, places: Places) -> None:
        self._door = door
        self._outside = outside
        self._patience = patience
        self._budget = budget
        self._places = places

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        with self._budget.lease() as lease:
            ask = openai.chat_ask(await read_json(exchange.headers, receive, lease))
            work = self._work(exchange, ask)
            with self._places.one(ask.job.model):
                try:
                    if ask.stream:
                        await self._streamed(exchange, work, receive, send)
                    else:
                        await self._whole(exchange, work, receive, send)
                finally:
                    _note(exchange, work)

    def _work(self, exchange: Exchange, ask: ChatAsk) -> Work:
        generation = f"chatcmpl-{self._outside.new_id()}"
        exchange.notes |= {"model": ask.job.model, "stream": ask.stream, "generation": generation}
        return Work(
            ask=ask,
            generation=generation,
            created_s=self._outside.wall_ms() // 1000,
            wants_cx=wants_cx(exchange),
            wait_s=self._patience.wait_s(exchange),
            deadline_s=self._patience.deadline_s,
        )

    async def _whole(self, exchange: Exchange, work: Work, receive: Receive, send: Send) -> None:
        whole = openai.Whole()

        async def gather(piece: Piece) -> None:
            whole.take(piece)
            if whole.size > ANSWER_BYTES_MAX:
                raise JobFailed(FailureCode.INTERNAL, "the answer is larger than the gateway holds")
            await trio.lowlevel.checkpoint()

        work.deadline_s = work.wait_s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, exchange, receive, nursery.cancel_scope)
            await self._run(exchange, work, gather)
            nursery.cancel_scope.cancel()
        outcome, reason = _finished(exchange, work, called=whole.called)
        cx = openai.cx_object(outcome) if work.wants_cx else None
        body = openai.completion(work.ask, work.generation, work.created_s, whole, reason, outcome, cx)
        await send_json(body, send, (("x-cx-generation-id", work.generation),))

    async def _streamed(self, exchange: Exchange, work: Work, receive: Receive, send: Send) -> None:
        chunks = openai.Chunks(work.ask, work.generation, work.created_s)
        pieces_in, pieces_out = trio.open_memory_channel[Piece](PIECES_WAITING_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, exchange, receive, nursery.cancel_scope)
            nursery.start_soon(self._feed, exchange, work, pieces_in)
            await self._forward(exchange, work, chunks, pieces_out, send)
            nursery.cancel_scope.cancel()
        outcome, reason = _finished(exchange, work, called=chunks.called)
        cx = openai.cx_object(outcome) if work.wants_cx else None
        last = b"" if work.pieces else chunks.role
        if work.ask.include_usage:
            last += chunks.finish(reason, None) + chunks.usage(outcome.settlement, cx)
        else:
            last += chunks.finish(reason, cx)
        await _commit(exchange, work, send)
        await send({"type": "http.response.body", "body": last + openai.DONE})

    async def _feed(self, exchange: Exchange, work: Work, pieces: trio.MemorySendChannel[Piece]) -> None:
        with pieces:  # closed without a checkpoint, where a cancellation could take the place of an error
            await self._run(exchange, work, pieces.send)

    async def _forward(
        self,
        exchange: Exchange,
        work: Work,
        chunks: openai.Chunks,
        pieces: trio.MemoryReceiveChannel[Piece],
        send: Send,
    ) -> None:
        """Sends what has come as often as the client takes it, and a comment when nothing comes. Ends with the job."""
        begun = False
        while True:
            group: list[Piece] = []
            with trio.move_on_after(self._patience.keep_alive_s if exchange.status else self._patience.hold_s):
                group = await _next_group(pieces)
                if not group:
                    return
            data = b"".join(chunks.piece(piece) for piece in group)
            if group and not begun:
                begun = True
                data = chunks.role + data
            await _commit(exchange, work, send)
            if data or not group:
                await send({"type": "http.response.body", "body": data or sse.KEEP_ALIVE, "more_body": True})

    async def _run(self, exchange: Exchange, work: Work, emit: Emit) -> None:
        """Runs the job and leaves in `work` how it ended; nothing there means that time ran out."""
        assert exchange.caller is not None
        started_at = trio.current_time()

        async def take(piece: Piece) -> None:
            if not work.pieces:
                work.first_piece_s = trio.current_time() - started_at
                work.limit.deadline = started_at + work.deadline_s
            work.pieces += 1
            await emit(piece)

        job = work.ask.job
        with work.limit:
            work.limit.deadline = started_at + work.wait_s
            try:
                work.ending = await self._door.run(
                    exchange.caller, work.generation, job, take, deadline_s=work.deadline_s
                )
            except CxError as error:
                if exchange.streaming and work.pieces:
                    fault = cut_of(error)
                else:
                    fault = fault_of(error, job.model, self._door.knows(job.model))
                if fault is None:
                    raise
                work.ending = fault


async def _next_group(pieces: trio.MemoryReceiveChannel[Piece]) -> list[Piece]:
    """All pieces that wait, at least one; none at the end."""
    try:
        group = [await pieces.receive()]
    except trio.EndOfChannel:
        return []
    with suppress(trio.WouldBlock, trio.EndOfChannel):
        while True:
            group.append(pieces.receive_nowait())
    return group


async def _commit(exchange: Exchange, work: Work, send: Send) -> None:
    """Sends the status line of a stream, once. From here on a failure is an event."""
    if exchange.status:
        return
    exchange.streaming = True
    headers = encoded([*sse.HEADERS, ("x-cx-generation-id", work.generation)])
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def _finished(exchange: Exchange, work: Work, *, called: bool) -> tuple[Outcome, str]:
    """The outcome of a whole answer and its finish reason. Raises Fault for every other ending, or ClientGone."""
    if exchange.gone:
        raise ClientGone
    if work.ending is None:
        raise Fault(Condition.DEADLINE)
    if isinstance(work.ending, Fault):
        raise work.ending
    reason = openai.finish_reason(work.ending.settlement, called=called)
    if reason is None:
        raise Fault(Condition.UPSTREAM_CUT if exchange.streaming else Condition.UPSTREAM_FAILED)
    return work.ending, reason


def _note(exchange: Exchange, work: Work) -> None:
    """What the access log says of a job."""
    if work.pieces:
        exchange.notes |= {"pieces": work.pieces, "first_piece_ms": round(work.first_piece_s * 1000)}
    if isinstance(work.ending, Outcome):
        agreed = work.ending.settlement.countersign
        exchange.notes |= {
            "node": work.ending.node,
            "attempts": work.ending.attempts,
            "in": agreed.in_units,
            "out": agreed.out_units,
        }
