"""POST /embeddings: one job, or many at once on several nodes, and one answer; its end when the client leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio
from starlette.types import Receive, Scope, Send

from cxp2p.client import Embeddings as Vectors
from cxp2p.errors import CxError
from cxp2p.records import Service
from cxp2p_gateway import openai
from cxp2p_gateway.asking import Overloaded
from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.faults import Condition, Fault, fault_of
from cxp2p_gateway.means import JobEndpoint, Means
from cxp2p_gateway.middleware import ClientGone, encoded
from cxp2p_gateway.openai import EmbedAsk, EmbedRules
from cxp2p_gateway.reading import Lease, read_json
from cxp2p_gateway.waiting import BUSY_RETRY_S, note_outcomes, wants_cx, watch

WRITE_BYTES: Final = 256 * 1024  # an answer that is longer is sent in parts of that size


@dataclass(slots=True)
class _Work:
    """One request on its way. `lease`: the room that its vectors take."""

    ask: EmbedAsk
    exchange: Exchange
    generation: str
    wait_s: float
    lease: Lease
    wants_cx: bool
    ending: Vectors | Fault | None = None


class EmbeddingsEndpoint(JobEndpoint):
    """The endpoint. Vectors are held until all have come, and count as the request's body does."""

    def __init__(self, means: Means, rules: EmbedRules) -> None:
        super().__init__(means)
        self._rules = rules

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        with self._budget.lease() as lease:
            ask = openai.embed_ask(await read_json(exchange.headers, receive, lease), self._rules)
            work = _Work(
                ask=ask,
                exchange=exchange,
                generation=f"embd-{self._outside.new_id()}",
                wait_s=self._patience.wait_s(exchange),
                lease=lease,
                wants_cx=wants_cx(exchange),
            )
            exchange.notes |= {"model": ask.model, "inputs": len(ask.inputs), "generation": work.generation}
            with self._places.take(ask.model):
                answer = await self._answered(work, receive, send)
                await answer.end()

    async def _answered(self, work: _Work, receive: Receive, send: Send) -> _Answer:
        """The answer, sent but for its end. Raises Fault for every other ending, or ClientGone."""
        answer = _Answer(work, send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, work.exchange, receive, nursery.cancel_scope)
            await self._run(work)
            if isinstance(work.ending, Vectors):
                note_outcomes(work.exchange, work.ending.outcomes)
                await answer.send(work.ending)
            nursery.cancel_scope.cancel()
        if work.exchange.gone:
            raise ClientGone
        if isinstance(work.ending, Fault):
            raise work.ending
        if work.ending is None:
            raise Fault(Condition.DEADLINE)
        return answer

    async def _run(self, work: _Work) -> None:
        """Leaves in `work` how it ended; nothing there means that time ran out."""
        exchange, ask = work.exchange, work.ask
        assert exchange.caller is not None

        def took(size: int) -> None:
            try:
                work.lease.take(size)
            except Fault:
                raise Overloaded(BUSY_RETRY_S) from None

        with trio.move_on_after(work.wait_s):
            try:
                work.ending = await self._door.embed(
                    exchange.caller,
                    work.generation,
                    ask.model,
                    ask.inputs,
                    truncate=ask.truncate,
                    took=took,
                    deadline_s=work.wait_s,
                )
            except CxError as error:
                work.ending = fault_of(error, ask.model, self._door.knows(ask.model), Service.EMBED)
                if work.ending is None:
                    raise


class _Answer:
    """Sends an answer; a long one in parts, so that its text is never held as a whole."""

    def __init__(self, work: _Work, send: Send) -> None:
        self._work = work
        self._send = send
        self._held = bytearray()

    async def send(self, got: Vectors) -> None:
        """All of it but the end, if the vectors are as they are wanted; otherwise the work ends with a fault."""
        work = self._work
        told = [openai.cx_object(outcome) for outcome in got.outcomes]
        cx = (told if len(told) > 1 else told[0]) if work.wants_cx else None
        try:
            vectors = openai.fitted(got.vectors, work.ask.dimensions)
        except Fault as fault:
            work.ending = fault
            return
        for part in openai.embeddings_json(work.ask, vectors, got.in_units, cx):
            if len(self._held) >= WRITE_BYTES:
                await self._begin(None)
                await self._send({"type": "http.response.body", "body": bytes(self._held), "more_body": True})
                self._held.clear()
            self._held += part
            await trio.lowlevel.checkpoint()

    async def end(self) -> None:
        await self._begin(len(self._held))
        await self._send({"type": "http.response.body", "body": bytes(self._held)})

    async def _begin(self, size: int | None) -> None:
        """Sends the status line, once. `size`: of the body, if it is known."""
        if self._work.exchange.status:
            return
        headers = [("content-type", "application/json"), ("x-cx-generation-id", self._work.generation)]
        if size is not None:
            headers.append(("content-length", str(size)))
        await self._send({"type": "http.response.start", "status": 200, "headers": encoded(headers)})
