"""POST /embeddings: one job, or many at once on several nodes, and one answer; its end when the client leaves."""

from __future__ import annotations

from dataclasses import dataclass

import trio
from starlette.types import Receive, Scope, Send

from cxp2p.client import Embeddings as Vectors
from cxp2p.errors import CxError
from cxp2p.records import Service
from cxp2p_gateway import openai
from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.faults import Fault, fault_of
from cxp2p_gateway.long_answers import LongAnswer
from cxp2p_gateway.means import JobEndpoint, Means
from cxp2p_gateway.openai import EmbedAsk, EmbedRules
from cxp2p_gateway.reading import Lease, read_json
from cxp2p_gateway.waiting import note_outcomes, result_of, room_in, wants_cx, watch


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
                answer = LongAnswer(exchange, work.generation, send)
                await self._answered(work, answer, receive)
                await answer.end()

    async def _answered(self, work: _Work, answer: LongAnswer, receive: Receive) -> None:
        """Sends the answer but for its end. Raises Fault for every other ending, or ClientGone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, work.exchange, receive, nursery.cancel_scope)
            await self._run(work)
            if isinstance(work.ending, Vectors):
                note_outcomes(work.exchange, work.ending.outcomes)
                await _tell(work, work.ending, answer)
            nursery.cancel_scope.cancel()
        result_of(work.exchange, work.ending)

    async def _run(self, work: _Work) -> None:
        """Leaves in `work` how it ended; nothing there means that time ran out."""
        exchange, ask = work.exchange, work.ask
        assert exchange.caller is not None
        with trio.move_on_after(work.wait_s):
            try:
                work.ending = await self._door.embed(
                    exchange.caller,
                    work.generation,
                    ask.model,
                    ask.inputs,
                    truncate=ask.truncate,
                    took=room_in(work.lease),
                    deadline_s=work.wait_s,
                )
            except CxError as error:
                work.ending = fault_of(error, ask.model, self._door.knows(ask.model), Service.EMBED)
                if work.ending is None:
                    raise


async def _tell(work: _Work, got: Vectors, answer: LongAnswer) -> None:
    """Sends the vectors if they are as they are wanted; otherwise the work ends with a fault."""
    told = [openai.cx_object(outcome) for outcome in got.outcomes]
    cx = (told if len(told) > 1 else told[0]) if work.wants_cx else None
    try:
        vectors = openai.fitted(got.vectors, work.ask.dimensions)
    except Fault as fault:
        work.ending = fault
        return
    await answer.add(openai.embeddings_json(work.ask, vectors, got.in_units, cx))
