"""How a model is served on this machine: slots, context, batches, threads. Chosen from facts, or as was said. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cxp2p.errors import SettingsError
from cxp2p_node.engines.serving import (
    BATCH_CPU,
    BATCH_GPU,
    CACHE_NUMBER_BYTES,
    CONTEXT_UNITS_MAX,
    UBATCH,
    CacheType,
    Sizes,
    threads_for,
)
from cxp2p_node.models.facts import ModelFacts
from cxp2p_node.models.memory import CACHE_STEP, CELL_BYTES

CONTEXT_UNITS_LEAST: Final = 2048  # rather fewer slots than less, unless set
SLOTS_MAX_CPU: Final = 8  # beyond that a core gains little from larger batches, and each job gets slower
SLOTS_MAX_GPU: Final = 16
SLOTS_LEAST: Final = 2  # so that a short job is not behind a long one
READING_PER_S: Final = 5.0  # tokens: as fast as people read, the least that a job should get
CORE_BYTES_PER_S: Final = 5e9  # of weights that one core goes through, for one sequence (measured: 6e9 on AVX-512)
BATCHING_GAIN: Final = 2.0  # how much more tokens come of many sequences at once than of one, on a CPU
CACHE_BYTES_MAX: Final = 1 << 30  # a small model may take so much for its context; a large one as much as itself
CACHE_SHARE: Final = 4  # and no more than one part of so many of the memory that there is


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """`cores`: physical ones that this process may use, a container's quota counted in. `memory_bytes`: available."""

    cores: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the operator has set; None is chosen."""

    slots: int | None = None
    context_units: int | None = None
    threads: int | None = None
    threads_batch: int | None = None
    batch: int | None = None
    ubatch: int | None = None


def choose(
    machine: MachineFacts,
    model: ModelFacts,
    wishes: Wishes,
    *,
    gpu: bool = False,
    cache_type: CacheType = CacheType.F16,
) -> Sizes:
    """The sizes for a model on a machine. `gpu`: the whole model is on one. Raises SettingsError."""
    context, slots = _context_and_slots(machine, model, wishes, gpu, cache_type)
    batch = wishes.batch or max(BATCH_GPU if gpu else BATCH_CPU, slots)
    if batch < slots:
        raise SettingsError(f"models: batch is {batch}, but each of the {slots} slots needs a token in it: raise it")
    threads = wishes.threads or threads_for(machine.cores)
    return Sizes(
        slots=slots,
        context_units=context,
        batch=batch,
        ubatch=min(wishes.ubatch or UBATCH, batch),
        threads=threads,
        threads_batch=wishes.threads_batch or threads,
    )


def slots_for(cores: float, file_bytes: int, *, gpu: bool) -> int:
    """So many jobs at once that each still gets its answer as fast as people read."""
    if gpu:
        return SLOTS_MAX_GPU
    alone_per_s = cores * CORE_BYTES_PER_S / max(1, file_bytes)
    return max(SLOTS_LEAST, min(int(alone_per_s * BATCHING_GAIN / READING_PER_S), SLOTS_MAX_CPU))


def slot_bytes(model: ModelFacts, context_units: int, cache_type: CacheType) -> float:
    """What one slot takes."""
    context = -(-context_units // CACHE_STEP) * CACHE_STEP
    per_token = sum(model.cache_widths) * CACHE_NUMBER_BYTES[cache_type] + CELL_BYTES
    return context * per_token + model.state_bytes


def _context_and_slots(
    machine: MachineFacts, model: ModelFacts, wishes: Wishes, gpu: bool, cache_type: CacheType
) -> tuple[int, int]:
    """First as many slots as the memory has room for, with the whole context; then as much context as two can have."""
    context = min(wishes.context_units or CONTEXT_UNITS_MAX, model.context_units)
    most = wishes.slots or slots_for(machine.cores, model.file_bytes, gpu=gpu)
    if wishes.slots and wishes.context_units:
        return context, most
    room = max(CACHE_BYTES_MAX, 2 * model.file_bytes if gpu else model.file_bytes)
    if not gpu:  # whose memory is not known here
        room = min(room, machine.memory_bytes // CACHE_SHARE)
    if wishes.slots is None:
        fitting = int(room / slot_bytes(model, context, cache_type))
        most = max(min(most, fitting), min(SLOTS_LEAST, most))
    if wishes.context_units is None:
        while most * slot_bytes(model, context, cache_type) > room and context // 2 >= CONTEXT_UNITS_LEAST:
            context //= 2
    return context, most
