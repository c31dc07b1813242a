"""Endpoints that answer by chat: the answer whole or as a stream, and its end when the client leaves.

What a body means and what an answer looks like, they are told: see `completions` and `responses`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias

import trio
from starlette.types import Receive, Scope, Send

from cxp2p.records import Piece
from cxp2p_gateway import openai, sse
from cxp2p_gateway.choices import Choice, Work, refuse_bad_schemas, run_choices
from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.faults import Condition, Fault
from cxp2p_gateway.means import JobEndpoint, Means
from cxp2p_gateway.middleware import ClientGone, encoded, send_json
from cxp2p_gateway.openai import ChatAsk
from cxp2p_gateway.reading import read_json
from cxp2p_gateway.schemas import Schemas
from cxp2p_gateway.waiting import Patience, note_outcomes, wants_cx, watch

PIECES_WAITING_MAX: Final = 64  # between nodes and a client that reads slowly; then the nodes wait too

Event: TypeAlias = tuple[Choice, Piece | None]
"""A piece of a choice, or its end."""


class Script(Protocol):
    """Writes the events of one streamed answer."""

    def begin(self) -> bytes:
        """What comes before all pieces, the first time; then nothing."""

    def piece(self, choice: Choice, piece: Piece) -> bytes:
        """The events of one piece."""

    def ended(self, choice: Choice) -> bytes:
        """The end of one choice while others still run."""

    def end(self, last: Choice) -> bytes:
        """The end of a whole answer. `last`: the choice that ended last."""

    def fault(self, error: Mapping[str, str | None]) -> bytes | None:
        """The end of an answer that broke off; None: as all streams have it. `error`: OpenAI's error object."""


class Asked(Protocol):
    """A request, and how its answer is written. `prefix`: of the answer's id; `held`: whether all of it is kept."""

    @property
    def chat(self) -> ChatAsk: ...

    @property
    def prefix(self) -> str: ...

    @property
    def held(self) -> bool: ...

    def whole(self, work: Work) -> object:
        """The body of a whole answer."""

    def script(self, work: Work) -> Script:
        """Who writes its events."""


class ChatEndpoint(JobEndpoint):
    """An endpoint. The jobs run in tasks beside the one that watches whether the client is still there.

    `parse`: from a body to what is asked. Raises Fault.
    """

    def __init__(self, means: Means, schemas: Schemas, parse: Callable[[dict[str, Any]], Asked]) -> None:
        super().__init__(means)
        self._schemas = schemas
        self._parse = parse

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        with self._budget.lease() as lease:
            asked = self._parse(await read_json(exchange.headers, receive, lease))
            ask, work = asked.chat, self._work(exchange, asked)
            exchange.will_stream(ask.stream)
            with self._places.take(ask.job.model, ask.choices):
                try:
                    await refuse_bad_schemas(ask, self._schemas)
                    if ask.stream:
                        await self._streamed(work, asked.script(work), receive, send)
                    else:
                        await self._whole(work, asked, receive, send)
                finally:
                    _note(work)

    def _work(self, exchange: Exchange, asked: Asked) -> Work:
        ask = asked.chat
        generation = f"{asked.prefix}{self._outside.new_id()}"
        exchange.notes |= {"model": ask.job.model, "stream": ask.stream, "generation": generation}
        wait_s = self._patience.wait_s(exchange)
        held = not ask.stream or bool(ask.demand) or asked.held
        return Work(
            ask=ask,
            exchange=exchange,
            generation=generation,
            created_s=self._outside.wall_ms() // 1000,
            wants_cx=wants_cx(exchange),
            wait_s=wait_s,
            deadline_s=self._patience.deadline_s if ask.stream else wait_s,
            choices=tuple(Choice(index, openai.Whole() if held else None) for index in range(ask.choices)),
        )

    async def _whole(self, work: Work, asked: Asked, receive: Receive, send: Send) -> None:
        async def hold(choice: Choice, piece: Piece) -> None:
            await trio.lowlevel.checkpoint()

        async def ended(choice: Choice) -> None:
            await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, work.exchange, receive, nursery.cancel_scope)
            await run_choices(work, self._door, self._schemas, hold, ended)
            nursery.cancel_scope.cancel()
        _check_end(work)
        note_outcomes(work.exchange, work.outcomes)
        await send_json(asked.whole(work), send, (("x-cx-generation-id", work.generation),))

    async def _streamed(self, work: Work, script: Script, receive: Receive, send: Send) -> None:
        events_in, events_out = trio.open_memory_channel[Event](PIECES_WAITING_MAX)
        stream = _Stream(work, script, self._patience, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, work.exchange, receive, nursery.cancel_scope)
            nursery.start_soon(self._feed, work, events_in)
            await stream.forward(events_out)
            nursery.cancel_scope.cancel()
        _check_end(work)
        await stream.end()

    async def _feed(self, work: Work, events: trio.MemorySendChannel[Event]) -> None:
        async def take(choice: Choice, piece: Piece) -> None:
            await events.send((choice, piece))

        async def ended(choice: Choice) -> None:
            await events.send((choice, None))

        with events:  # closed without a checkpoint, where a cancellation could take the place of an error
            await run_choices(work, self._door, self._schemas, take, ended)


class _Stream:
    """Sends the events of one answer, of all its choices."""

    def __init__(self, work: Work, script: Script, patience: Patience, send: Send) -> None:
        self._work = work
        self._script = script
        self._patience = patience
        self._send = send
        self._open = {choice.index for choice in work.choices}
        self._last = work.choices[0]

    async def forward(self, events: trio.MemoryReceiveChannel[Event]) -> None:
        """Sends what has come as often as the client takes it, and a comment when nothing comes. Ends with the jobs."""
        exchange = self._work.exchange
        while True:
            group: list[Event] = []
            with trio.move_on_after(self._patience.keep_alive_s if exchange.status else self._patience.hold_s):
                group = await _next_group(events)
                if not group or (self._work.fault is not None and not exchange.status):
                    return
            data = self._script.begin() if group else b""
            data += b"".join(self._event(choice, piece) for choice, piece in group)
            if data or not group:
                await self._commit()
                await self._send({"type": "http.response.body", "body": data or sse.KEEP_ALIVE, "more_body": True})

    async def end(self) -> None:
        """Sends the end of a whole answer."""
        last = self._script.begin() + self._script.end(self._last)
        await self._commit()
        await self._send({"type": "http.response.body", "body": last})

    def _event(self, choice: Choice, piece: Piece | None) -> bytes:
        """The events of one piece, or of a choice's end; of the very last one they wait for `end`."""
        if piece is not None:
            return self._script.piece(choice, piece)
        self._open.discard(choice.index)
        self._last = choice
        return self._script.ended(choice) if self._open else b""

    async def _commit(self) -> None:
        """Sends the status line, once. From here on a failure is an event."""
        exchange = self._work.exchange
        if exchange.status:
            return
        exchange.streaming = True
        exchange.last_event = self._script.fault
        headers = encoded([*sse.HEADERS, ("x-cx-generation-id", self._work.generation)])
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})


async def _next_group(events: trio.MemoryReceiveChannel[Event]) -> list[Event]:
    """All events that wait, at least one; none at the end."""
    try:
        group = [await events.receive()]
    except trio.EndOfChannel:
        return []
    with suppress(trio.WouldBlock, trio.EndOfChannel):
        while True:
            group.append(events.receive_nowait())
    return group


def _check_end(work: Work) -> None:
    """Raises Fault for every ending but a whole answer, or ClientGone."""
    if work.exchange.gone:
        raise ClientGone
    if work.fault is not None:
        raise work.fault
    if len(work.outcomes) < len(work.choices):
        raise Fault(Condition.DEADLINE)


def _note(work: Work) -> None:
    """What the access log says of the jobs."""
    notes = work.exchange.notes
    begun = [choice for choice in work.choices if choice.pieces]
    if len(work.choices) > 1:
        notes["jobs"] = len(work.choices)
    if begun:
        notes["pieces"] = sum(choice.pieces for choice in begun)
        notes["first_piece_ms"] = round(min(choice.first_piece_s for choice in begun) * 1000)
    if refused := sum(choice.refused for choice in work.choices):
        notes["refused"] = refused
    if done := work.outcomes:
        note_outcomes(work.exchange, done)
