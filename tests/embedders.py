"""Engines that make vectors without a model: the same text gives the same vector, and another one another."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random

import trio

from cxp2p.client import Embeddings, Net
from cxp2p.errors import JobFailed
from cxp2p.records import Capability, EmbedJob, FailureCode, Finish, Job, Piece, Prices, Service, Usage
from cxp2p_node.engines import Counted, Emit
from worlds import PRICES, Ledgerbook, World, capability, settled

MODEL = "words"
WORDS_DIGEST = b"w" * 32


def vector_of(each: str | Sequence[int], dimensions: int = 8, digest: bytes = WORDS_DIGEST) -> array[float]:
    """The vector of an input: of length 1, as float32 numbers."""
    rng = Random(sha256(digest + repr(each).encode()).digest())
    numbers = [rng.gauss(0, 1) for _ in range(dimensions)]
    length = math.hypot(*numbers)
    return array("f", [number / length for number in numbers])


def bytes_of(vectors: Sequence[Sequence[float]]) -> bytes:
    """Vectors as they stand in a piece."""
    return b"".join(struct.pack(f"<{len(vector)}f", *vector) for vector in vectors)


def words_of(each: str | Sequence[int]) -> int:
    return len(each.split()) if isinstance(each, str) else len(each)


@dataclass
class VectorEngine:
    """Makes vectors, `batch` in a piece, `pause_s` apart. A word is a token.

    Can be told to fail with `fault`, or to hang, before the batch of that number.
    """

    name: str = MODEL
    dimensions: int = 8
    digest: bytes = WORDS_DIGEST
    batch: int = 16
    pause_s: float = 0.1
    fail_at: int | None = None
    hang_at: int | None = None
    fault: JobFailed = field(default_factory=lambda: JobFailed(FailureCode.ENGINE_DIED, "the engine died"))
    slots: int = 1
    queue_max: int = 8
    context_units: int = 256
    prices: Prices = PRICES
    ready: bool = True
    jobs: list[EmbedJob] = field(default_factory=list)
    stopped_at: list[float] = field(default_factory=list)
    running: int = 0
    running_max: int = 0

    def on_change(self, call: Callable[[], None]) -> None:
        self._call = call

    def describe(self) -> Capability:
        return capability(
            self.name,
            service=Service.EMBED,
            model_digest=self.digest,
            slots=self.slots,
            queue_max=self.queue_max,
            context_units=self.context_units,
            prices=self.prices,
        )

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        assert isinstance(job, EmbedJob)
        self.jobs.append(job)
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            return await self._make(job, emit, counted)
        except trio.Cancelled:
            self.stopped_at.append(trio.current_time())
            raise
        finally:
            self.running -= 1

    async def _make(self, job: EmbedJob, emit: Emit, counted: Counted) -> Usage:
        longest = max(words_of(each) for each in job.inputs)
        if longest > self.context_units and not job.truncate:
            raise JobFailed(FailureCode.CONTEXT_LENGTH, "too long", self.context_units, longest)
        in_units = sum(min(words_of(each), self.context_units) for each in job.inputs)
        counted(in_units, 0)
        for number, start in enumerate(range(0, len(job.inputs), self.batch)):
            if number == self.fail_at:
                raise self.fault
            if number == self.hang_at:
                await trio.sleep_forever()
            await trio.sleep(self.pause_s)
            group = [vector_of(each, self.dimensions, self.digest) for each in job.inputs[start : start + self.batch]]
            await emit(Piece(data=bytes_of(group), units=len(group)))
        return Usage(in_units=in_units, cached_units=0, out_units=len(job.inputs), finish=Finish.STOP)


# Asking for vectors.

FEW = [f"text {number}" for number in range(5)]
MANY = [f"text {number} " + "word " * (number % 40) for number in range(1000)]


def right(inputs: Sequence[str], dimensions: int = 8, digest: bytes = WORDS_DIGEST) -> tuple[array[float], ...]:
    return tuple(vector_of(each, dimensions, digest) for each in inputs)


async def embed(net: Net, inputs: Sequence[str], books: Ledgerbook, deadline_s: float = 600.0) -> Embeddings:
    return await net.run_embed(MODEL, inputs, books, deadline_s=deadline_s)


async def network_of(here: World, *engines: VectorEngine) -> tuple[Net, Ledgerbook]:
    """An asker that knows a node for each engine."""
    for engine in engines:
        await here.node(engine)
    net = await here.asker()
    await settled(net, len(engines))
    return net, Ledgerbook()
