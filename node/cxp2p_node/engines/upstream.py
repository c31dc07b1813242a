"""Any server that speaks OpenAI's API as an engine: vLLM, SGLang, llama-server, Ollama, LM Studio.

The server is looked at all the time: what is offered is what it can do now.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import trio

from cxp2p.errors import JobFailed, one_line
from cxp2p.net.tasks import background
from cxp2p.records import Capability, ChatJob, EmbedJob, FailureCode, Finish, Job, Load, Piece, Prices, Service, Usage
from cxp2p_node.engines import Counted, Emit
from cxp2p_node.engines.upstream_answer import Answer
from cxp2p_node.engines.upstream_ask import Facts, chat_body, declared_digest, prompt_units_least
from cxp2p_node.engines.upstream_events import Events, told_by
from cxp2p_node.engines.upstream_faults import Kind, ServerFault
from cxp2p_node.engines.upstream_health import LOOK_S, Health, State
from cxp2p_node.engines.upstream_http import Client, Response
from cxp2p_node.engines.upstream_look import ERROR_BYTES_MAX, check, look
from cxp2p_node.engines.upstream_slots import SlotBook
from cxp2p_node.engines.upstream_vectors import (
    answer_bytes_max,
    batches,
    embed_body,
    shortened,
    units_least,
    vectors_of,
)

log = logging.getLogger("cxp2p.node.upstream")

SLOTS = 8  # these servers batch; most of them also keep a queue of their own
CONTEXT_UNITS_GUESS = 4096  # while neither the settings nor the server tell: the least that servers start with
FIRST_LOOK_S = 2.0  # so long the node's start waits, so that its first offer is right
READY_WAIT_S = 3.0  # so long a job waits for a server that is down
USAGE_WAIT_S = 5.0  # for the counts, after the answer has ended
CUTS_MAX = 8  # of an input that is too long
# What one token may take of a stream: its JSON, and its alternatives.
STREAM_BYTES_PER_UNIT = 8 * 1024
STREAM_BYTES_SPARE = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """How one model of a server is offered. `sole`: no id was set, so a server with but one model is meant as it is.

    `context_units`, `output_units_max`: as the server tells, if None. `digest`: what the operator declares of it.
    """

    model: str
    upstream_model: str
    sole: bool
    service: Service
    prices: Prices
    queue_max: int
    slots: int = SLOTS
    context_units: int | None = None
    output_units_max: int | None = None
    digest: str = ""


class Upstream:
    """The engine. Made by `open_upstream`."""

    def __init__(self, settings: UpstreamSettings, client: Client) -> None:
        self._settings = settings
        self._client = client
        self._url = client.server.url
        self._health = Health()
        self._facts: Facts | None = None
        self._context_units = settings.context_units or 0
        self._book: SlotBook | None = None
        self._estimates = False
        self._heard_at = -LOOK_S
        self._changed: Callable[[], None] = lambda: None
        self._news = trio.Event()
        self._look = trio.Event()

    @property
    def ready(self) -> bool:
        return self._health.state is State.WELL

    @property
    def fault(self) -> str:
        """Why the server is not offered; "" if it is."""
        return "" if self.ready else self._health.why or "its server was not seen yet"

    def on_change(self, call: Callable[[], None]) -> None:
        self._changed = call

    def describe(self) -> Capability:
        settings = self._settings
        context_units = self._context_units or CONTEXT_UNITS_GUESS
        runtime = self._facts.runtime if self._facts else "upstream"
        return Capability(
            service=settings.service,
            model=settings.model,
            model_digest=declared_digest(settings.upstream_model, settings.digest),
            runtime=f"{runtime}, counts estimated" if self._estimates else runtime,
            context_units=context_units,
            output_units_max=min(settings.output_units_max or context_units, context_units),
            prices=settings.prices,
            slots=settings.slots,
            queue_max=settings.queue_max,
            load=Load(running=0, queued=0, first_piece_ms=0, units_per_s=0, loading_ms=0),
        )

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        facts = await self._until_ready()
        try:
            if isinstance(job, ChatJob):
                usage = await self._chat(job, facts, max_out, emit, counted)
            else:
                assert isinstance(job, EmbedJob)  # no other service is described
                usage = await self._embed(job, facts, emit, counted)
        except ServerFault as fault:
            self._heed(fault)
            raise self._told(fault, job) from fault
        self._health.done()
        return usage

    # Looking at the server.

    async def watch(self) -> None:
        """Keeps looking at the server; ends only by cancellation."""
        while True:
            self._look = trio.Event()
            before = self._before()
            try:
                facts = await self._seen()
            except ServerFault as fault:
                pause_s = self._health.unseen(fault)
            else:
                self._learn(facts)
                pause_s = self._health.seen(trio.current_time())
            self._tell(before)
            await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        """Until the next look. One at a server that talks tells nothing, and some stop talking to answer it."""
        until = trio.current_time() + pause_s
        while True:
            with trio.move_on_at(until):
                await self._look.wait()
                return
            if not self.ready or self._heard_at + LOOK_S <= until:
                return
            until = self._heard_at + LOOK_S

    async def until_seen(self) -> None:
        """Returns when the server was looked at once, however it went."""
        while self._health.state is State.UNSEEN:
            await self._news.wait()

    async def _seen(self) -> Facts:
        known = self._facts if self.ready else None
        return await look(self._client, self._settings.upstream_model, sole=self._settings.sole, known=known)

    def _learn(self, facts: Facts) -> None:
        if facts == self._facts:
            return
        self._facts = facts
        self._book = SlotBook(facts.slots) if facts.slots >= self._settings.slots else None
        settings, told = self._settings, facts.context_units
        self._context_units = min(settings.context_units or told, told) if told else settings.context_units or 0
        if 0 < told < (settings.context_units or 0):
            self._warn(f"context_units is {settings.context_units}, but the server has {told}")
        if not self._context_units:
            self._warn(f"the server does not tell its context, {CONTEXT_UNITS_GUESS} is offered: set context_units")
        if 0 < facts.slots < settings.slots:
            self._warn(f"slots is {settings.slots}, but the server runs {facts.slots} jobs at once")

    def _before(self) -> tuple[State, str, Capability]:
        return self._health.state, self._health.why, self.describe()

    def _tell(self, before: tuple[State, str, Capability]) -> None:
        """Logs and passes on what is not as before."""
        state, why, _ = before
        health = self._health
        if health.state is State.DOWN and (state is not State.DOWN or health.why != why):
            self._warn(f"it is not offered, the server is not well: {health.why}")
        if health.state is State.WELL and state is not State.WELL:
            log.info("%s is offered, by %s at %s", self._settings.model, self.describe().runtime, self._url)
        self._news.set()
        self._news = trio.Event()
        if before != self._before():
            self._changed()

    def _warn(self, words: str) -> None:
        log.warning("%s: %s (%s)", self._settings.model, words, self._url)

    def _heed(self, fault: ServerFault) -> None:
        """What a failed job shows of the server."""
        before = self._before()
        self._warn(f"a job failed: {fault.words}")
        if self._health.failed(fault, trio.current_time()):
            self._look.set()
        self._tell(before)

    def _told(self, fault: ServerFault, job: Job) -> JobFailed:
        """What the asker is told. A prompt that is too long has at least one unit too many."""
        context_units = self.describe().context_units
        failed = fault.for_asker(context_units)
        if failed.code is FailureCode.CONTEXT_LENGTH and not failed.actual:
            least = prompt_units_least(job) if isinstance(job, ChatJob) else 0
            failed.actual = max(failed.limit + 1, least)
        return failed

    async def _until_ready(self) -> Facts:
        with trio.move_on_after(READY_WAIT_S) as patience:
            while not self.ready:
                await self._news.wait()
        if patience.cancelled_caught or self._facts is None:
            raise JobFailed(FailureCode.ENGINE_DIED, "the server behind this node does not answer")
        return self._facts

    # A chat.

    async def _chat(self, job: ChatJob, facts: Facts, max_out: int, emit: Emit, counted: Counted) -> Usage:
        """Without an own limit a job may fill the context; then the server says where that ends."""
        limited = job.max_tokens is not None or max_out < self.describe().context_units
        body = chat_body(job, facts, max_out if limited else None)
        answer = Answer(job, max_out, self._client.server.key)
        with self._slot(job, answer, body):
            try:
                return await self._stream(body, job, answer, emit, counted)
            except ServerFault as fault:
                # vLLM refuses a prompt and a limit that together are longer than its context, though the prompt fits.
                if fault.kind is not Kind.CONTEXT or not limited or answer.begun:
                    raise
            del body["max_tokens"]
            return await self._stream(body, job, answer, emit, counted)

    @contextmanager
    def _slot(self, job: ChatJob, answer: Answer, body: dict[str, Any]) -> Iterator[None]:
        """Has a slot of a llama-server for the job while the block runs, and says so in `body`."""
        book = self._book
        taken = book.take(job.cache_salt) if book is not None else None
        if book is None or taken is None:
            yield
            return
        slot, reuse = taken
        body |= {"id_slot": slot.number, "cache_prompt": reuse}
        try:
            yield
        finally:
            book.give_back(slot, job.cache_salt if answer.begun else None)

    async def _stream(self, body: dict[str, Any], job: ChatJob, answer: Answer, emit: Emit, counted: Counted) -> Usage:
        least = prompt_units_least(job)
        told: tuple[int, int] | None = None

        async def give(pieces: list[Piece]) -> None:
            nonlocal told
            prompt = answer.prompt or (least, 0)
            if pieces and told != prompt:
                told = prompt
                counted(*prompt)
            for piece in pieces:
                await emit(piece)

        self._heard_at = trio.current_time()
        path = f"{self._client.server.path}/chat/completions"
        async with self._client.exchange("POST", path, json.dumps(body).encode()) as response:
            await check(self._client, response)
            if "text/event-stream" not in (kind := response.headers.get("content-type", "")):
                told_by(await response.body(ERROR_BYTES_MAX), self._client.server.key)  # it may be an error
                raise ServerFault(Kind.BROKEN, f"it answers with {one_line(kind, 100)!r} where a stream was asked for")
            events = Events()
            size = 0
            while not answer.over:
                part = await _next_part(response, answer)
                self._heard_at = trio.current_time()
                size += len(part)
                if size > STREAM_BYTES_SPARE + STREAM_BYTES_PER_UNIT * answer.max_out:
                    raise ServerFault(Kind.BROKEN, f"its stream is longer than {answer.max_out} tokens can be")
                for event in events.feed(part) if part else events.end():
                    if not answer.over:
                        await give(answer.take(event))
                if not part:
                    break
        await give(answer.end())
        self._note_counts(answer)
        return answer.usage(least)

    def _note_counts(self, answer: Answer) -> None:
        """After a whole answer of which no counts were told, receipts say that they are estimates."""
        if not (answer.counts or answer.cut or self._estimates):
            before, self._estimates = self._before(), True
            self._warn("the server tells no usage: receipts hold estimates")
            self._tell(before)

    # Embeddings.

    async def _embed(self, job: EmbedJob, facts: Facts, emit: Emit, counted: Counted) -> Usage:
        in_units = out_units = length = 0
        for batch in batches(job):
            data, numbers, units = await self._vectors(list(batch), job, facts)
            if length not in (0, numbers):
                raise ServerFault(Kind.BROKEN, f"its vectors have {length} numbers, then {numbers}")
            length = numbers
            in_units += units
            counted(in_units, 0)
            await emit(Piece(data=data, units=len(batch)))
            out_units += len(batch)
        return Usage(in_units=in_units, cached_units=0, out_units=out_units, finish=Finish.STOP)

    async def _vectors(self, batch: list[str | list[int]], job: EmbedJob, facts: Facts) -> tuple[bytes, int, int]:
        """The vectors of a batch, how many numbers each has, and the units of the inputs.

        An input that is too long fails its request, so each is then asked for alone, and cut if it may be.
        """
        try:
            return await self._ask_vectors(batch, job, facts)
        except ServerFault as fault:
            if fault.kind is not Kind.CONTEXT or (len(batch) == 1 and not job.truncate):
                raise
            if len(batch) == 1:
                return await self._cut(batch[0], fault, job, facts)
        each = [await self._vectors([one], job, facts) for one in batch]
        if len({numbers for _, numbers, _ in each}) != 1:
            raise ServerFault(Kind.BROKEN, "its vectors are not all of one length")
        return b"".join(data for data, _, _ in each), each[0][1], sum(units for _, _, units in each)

    async def _cut(
        self, one: str | list[int], fault: ServerFault, job: EmbedJob, facts: Facts
    ) -> tuple[bytes, int, int]:
        for _ in range(CUTS_MAX):
            one = shortened(one, fault, self._context_units)
            try:
                return await self._ask_vectors([one], job, facts)
            except ServerFault as again:
                if again.kind is not Kind.CONTEXT:
                    raise
                fault = again
        raise fault

    async def _ask_vectors(self, batch: list[str | list[int]], job: EmbedJob, facts: Facts) -> tuple[bytes, int, int]:
        body = embed_body(batch, facts, truncate=job.truncate)
        path = f"{self._client.server.path}/embeddings"
        async with self._client.exchange("POST", path, json.dumps(body).encode()) as response:
            await check(self._client, response)
            answer = await response.body(answer_bytes_max(len(batch)))
        data, numbers, units = vectors_of(answer, len(batch), self._client.server.key)
        return data, numbers, units or units_least(batch)


async def _next_part(response: Response, answer: Answer) -> bytes:
    """The next bytes of a stream; b"" also if the answer is whole and its counts do not come."""
    if answer.finish is None:
        return await response.part()
    with trio.move_on_after(USAGE_WAIT_S):
        try:
            return await response.part()
        except ServerFault as fault:
            log.info("the end of a stream broke off, its answer was whole: %s", fault.words)
    return b""


@asynccontextmanager
async def open_upstream(settings: UpstreamSettings, client: Client) -> AsyncIterator[Upstream]:
    """The engine, for as long as the block runs. A server that is down is no error: it is offered when it comes."""
    engine = Upstream(settings, client)
    async with background() as nursery:
        nursery.start_soon(engine.watch)
        with trio.move_on_after(FIRST_LOOK_S):
            await engine.until_seen()
        yield engine
