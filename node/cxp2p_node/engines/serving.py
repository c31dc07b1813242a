"""What a worker is told of how to serve its model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

CONTEXT_UNITS_MAX: Final = 8192  # for each slot, unless set: a longer one costs memory that few jobs use
BATCH_CPU: Final = 512
BATCH_GPU: Final = 2048
UBATCH: Final = 512
PROMPT_STEPS_MAX: Final = 2.0  # decode steps that a batch of prompts may take, of those who generate meanwhile
SPARED_CORES_FROM: Final = 8  # from so many cores on one is left to the node: its work else stops all threads at times


class CacheType(StrEnum):
    """How the context is kept: smaller ones take less memory and are a little less exact."""

    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"


CACHE_NUMBER_BYTES: Final = {CacheType.F16: 2.0, CacheType.BF16: 2.0, CacheType.Q8_0: 34 / 32, CacheType.Q4_0: 18 / 32}


class FlashAttention(StrEnum):
    """Whether attention is computed in one pass: `auto` where the device can."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Split(StrEnum):
    """How a model is laid over several GPUs."""

    LAYER = "layer"
    ROW = "row"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What a GPU takes over. `layers` -1: all. `shares`: of the model, for each GPU; empty: as much as fits."""

    layers: int = 0
    main: int = 0
    split: Split = Split.LAYER
    shares: tuple[float, ...] = ()


NO_GPU: Final = Gpu()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """`context_units` is for each slot. A batch goes through the model in parts of `ubatch` tokens."""

    slots: int
    context_units: int
    batch: int
    ubatch: int
    threads: int
    threads_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """All that a worker is told of how to serve its model."""

    sizes: Sizes
    gpu: Gpu = NO_GPU
    cache_type: CacheType = CacheType.F16
    flash_attention: FlashAttention = FlashAttention.AUTO
    prompt_steps_max: float = PROMPT_STEPS_MAX


def threads_for(cores: float) -> int:
    """As many as there are whole cores: two threads on one wait for each other at every step."""
    whole = max(1, int(cores))
    return whole - 1 if whole >= SPARED_CORES_FROM else whole
