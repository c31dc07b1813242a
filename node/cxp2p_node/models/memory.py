"""How much memory a model takes once it is loaded, known before it is.

The figures are those of llama.cpp with flash attention, which it uses where it can, and of this program's worker. Some
quantisations are laid out anew for the processor when they are loaded. Such weights are counted once: the system can
take back the pages of the file that they were copied from.
"""

from __future__ import annotations

from dataclasses import dataclass

from cxp2p_node.models.facts import ModelFacts

CACHE_STEP = 256  # llama.cpp rounds each sequence's context up to this
CELL_BYTES = 64  # what is kept for each token beside its keys and values: positions, sequences
F16_BYTES = 2.0
FLOAT_BYTES = 4

# Measured: a worker with nothing loaded, with the process of its chat template, and what each word of a vocabulary
# costs in llama.cpp, in our tables and in those of the grammars.
WORKER_BYTES = 82 << 20
WORD_BYTES = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryParts:
    """Where the memory goes, in bytes."""

    weights: int
    cache: int
    compute: int
    worker: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.compute + self.worker


def memory_needed(
    facts: ModelFacts, *, slots: int, context_units: int, batch: int, cache_number_bytes: float = F16_BYTES
) -> int:
    """Bytes for a model that serves `slots` jobs of `context_units` tokens each, `batch` tokens a step."""
    return memory_parts(
        facts, slots=slots, context_units=context_units, batch=batch, cache_number_bytes=cache_number_bytes
    ).total


def memory_parts(
    facts: ModelFacts, *, slots: int, context_units: int, batch: int, cache_number_bytes: float = F16_BYTES
) -> MemoryParts:
    """The same, by what it is for. `cache_number_bytes`: of one number in the cache; 2 for f16, 34/32 for q8_0."""
    context = -(-context_units // CACHE_STEP) * CACHE_STEP
    cells = slots * context if facts.cache_widths else 0
    cache = cells * (sum(facts.cache_widths) * cache_number_bytes + CELL_BYTES) + slots * facts.state_bytes
    masks = 2 * context * (2 if facts.sliding else 1)  # one f16 number for each token that may be looked at
    hidden = FLOAT_BYTES * (3 * facts.inner_width + 4 * facts.width)
    # llama.cpp has room for odds over the whole vocabulary in each row that it hands out, wanted or not. A
    # chat job needs one row, computed and then handed out; an embedding model hands out one for each token.
    if facts.pooling is None:
        outputs = 2 * FLOAT_BYTES * slots * facts.vocabulary
    else:
        outputs = FLOAT_BYTES * max(slots, batch) * (facts.vocabulary + facts.width)
    return MemoryParts(
        weights=facts.file_bytes,
        cache=int(cache),
        compute=batch * (hidden + masks) + outputs,
        worker=WORKER_BYTES + WORD_BYTES * facts.vocabulary,
    )
