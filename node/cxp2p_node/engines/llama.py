"""Chat with a model in llama.cpp, which runs in a supervised worker process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from cxp2p.records import Capability, Job, Load, Prices, Service, Usage
from cxp2p.wire import encode
from cxp2p_node.engines import Counted, Emit
from cxp2p_node.engines.serving import (
    BATCH_CPU,
    CONTEXT_UNITS_MAX,
    NO_GPU,
    PROMPT_STEPS_MAX,
    UBATCH,
    CacheType,
    FlashAttention,
    Gpu,
    Serving,
    Sizes,
    threads_for,
)
from cxp2p_node.engines.supervise import Worker, open_worker
from cxp2p_node.processors import cores_usable

WORKER = "cxp2p_node.engines.llama_worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaSettings:
    """How one model is served. `context_units` is for each slot; `threads` None: all cores; see `sizing.choose`."""

    model: str
    path: Path
    model_digest: bytes
    prices: Prices
    slots: int
    queue_max: int
    context_units: int | None = None
    threads: int | None = None
    threads_batch: int | None = None
    batch: int = BATCH_CPU
    ubatch: int = UBATCH
    gpu_layers: int = 0
    gpu: Gpu = NO_GPU
    cache_type: CacheType = CacheType.F16
    flash_attention: FlashAttention = FlashAttention.AUTO
    prompt_steps_max: float = PROMPT_STEPS_MAX


class Llama:
    """The engine. Made by `open_llama`."""

    def __init__(self, settings: LlamaSettings, worker: Worker) -> None:
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


def described(settings: LlamaSettings, runtime: str, context_units: int) -> Capability:
    """What is offered of a model with so long a context."""
    return Capability(
        service=Service.CHAT,
        model=settings.model,
        model_digest=settings.model_digest,
        runtime=runtime,
        context_units=context_units,
        output_units_max=context_units,
        prices=settings.prices,
        slots=settings.slots,
        queue_max=settings.queue_max,
        load=Load(running=0, queued=0, first_piece_ms=0, units_per_s=0, loading_ms=0),
    )


def serving_of(settings: LlamaSettings) -> Serving:
    """What the worker is told."""
    threads = settings.threads or threads_for(cores_usable())
    sizes = Sizes(
        slots=settings.slots,
        context_units=settings.context_units or CONTEXT_UNITS_MAX,
        batch=max(settings.batch, settings.slots),
        ubatch=min(settings.ubatch, max(settings.batch, settings.slots)),
        threads=threads,
        threads_batch=settings.threads_batch or threads,
    )
    return Serving(
        sizes=sizes,
        gpu=replace(settings.gpu, layers=settings.gpu_layers),
        cache_type=settings.cache_type,
        flash_attention=settings.flash_attention,
        prompt_steps_max=settings.prompt_steps_max,
    )


@asynccontextmanager
async def open_llama(settings: LlamaSettings, address_bytes_max: int | None = None) -> AsyncIterator[Llama]:
    """Loads the model, and keeps it loaded for as long as the block runs. Raises SettingsError if it cannot be.

    `address_bytes_max`: what the worker may map, files included.
    """
    serving = TypeAdapter(Serving).dump_json(serving_of(settings)).decode()
    arguments = (str(settings.path), serving)
    async with open_worker(settings.model, WORKER, arguments, address_bytes_max) as worker:
        yield Llama(settings, worker)
