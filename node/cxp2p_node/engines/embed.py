"""Embeddings by a model in llama.cpp, which runs in a supervised worker process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cxp2p.records import Capability, Job, Load, Prices, Service, Usage
from cxp2p.wire import encode
from cxp2p_node.engines import Counted, Emit
from cxp2p_node.engines.serving import threads_for
from cxp2p_node.engines.supervise import Worker, open_worker
from cxp2p_node.processors import cores_usable

WORKER = "cxp2p_node.engines.embed_worker"
CONTEXT_UNITS_MAX = 8192  # unless set: a longer input is computed at once too, and takes memory and minutes
INPUTS_MAX = 2048  # of one job, as its record has it
SLOTS = 16  # jobs at once: most are short, and are computed together
PACK_UNITS_MAX = 512  # tokens at once in all encoders but the first one: more is no quicker
GPU_PACK_UNITS_MAX = 2048  # less leaves a GPU idle
ENCODERS_MAX = 4  # each takes some memory


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSettings:
    """How one model is served. `context_units` is for each input; `threads` None: all cores."""

    model: str
    path: Path
    model_digest: bytes
    prices: Prices
    queue_max: int
    slots: int = SLOTS
    context_units: int | None = None
    threads: int | None = None
    gpu_layers: int = 0


class Embed:
    """The engine. Made by `open_embed`."""

    def __init__(self, settings: EmbedSettings, worker: Worker) -> None:
        self._settings = settings
        self.worker = worker
        assert worker.loaded is not None
        self._loaded = worker.loaded

    @property
    def ready(self) -> bool:
        return self.worker.ready

    def on_change(self, call: Callable[[], None]) -> None:
        self.worker.on_change(call)

    def describe(self) -> Capability:
        return described(self._settings, self._loaded.runtime, self._loaded.context_units)

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        return await self.worker.run(encode(job), seed, max_out, emit, counted)


def described(settings: EmbedSettings, runtime: str, context_units: int) -> Capability:
    """What is offered of a model whose inputs may be so long."""
    return Capability(
        service=Service.EMBED,
        model=settings.model,
        model_digest=settings.model_digest,
        runtime=runtime,
        context_units=context_units,
        output_units_max=INPUTS_MAX,
        prices=settings.prices,
        slots=settings.slots,
        queue_max=settings.queue_max,
        load=Load(running=0, queued=0, first_piece_ms=0, units_per_s=0, loading_ms=0),
    )


def packs_of(settings: EmbedSettings) -> tuple[int, ...]:
    """For each encoder of the worker, how many tokens it computes at once: the first one takes the longest input."""
    threads = settings.threads or threads_for(cores_usable())
    context_units = settings.context_units or CONTEXT_UNITS_MAX
    if settings.gpu_layers:
        return (max(context_units, GPU_PACK_UNITS_MAX),)
    others = min(threads, ENCODERS_MAX) - 1
    return (max(context_units, PACK_UNITS_MAX), *(PACK_UNITS_MAX,) * others)


@asynccontextmanager
async def open_embed(settings: EmbedSettings) -> AsyncIterator[Embed]:
    """Loads the model, and keeps it loaded for as long as the block runs. Raises SettingsError if it cannot be."""
    arguments = json.dumps(
        {
            "path": str(settings.path),
            "context_units": settings.context_units or CONTEXT_UNITS_MAX,
            "packs": packs_of(settings),
            "threads": settings.threads or threads_for(cores_usable()),
            "gpu_layers": settings.gpu_layers,
        }
    )
    async with open_worker(settings.model, WORKER, (arguments,)) as worker:
        yield Embed(settings, worker)
