"""From what an operator has set, the model's facts and the machine's, to how a chat model is served."""

from __future__ import annotations

from pathlib import Path

from cxp2p.records import Prices
from cxp2p_node.config import ModelSettings
from cxp2p_node.engines.llama import LlamaSettings
from cxp2p_node.engines.serving import CACHE_NUMBER_BYTES, Gpu
from cxp2p_node.engines.sizing import MachineFacts, Wishes, choose
from cxp2p_node.machine import memory_available
from cxp2p_node.models.facts import ModelFacts
from cxp2p_node.models.memory import MemoryParts, memory_parts
from cxp2p_node.processors import cores_usable


def machine_facts(memory_bytes: int | None = None) -> MachineFacts:
    """What this machine has, of which models may take `memory_bytes`, if that is given."""
    memory = memory_available() if memory_bytes is None else memory_bytes
    return MachineFacts(cores=cores_usable(), memory_bytes=memory)


def llama_settings(
    model: ModelSettings, facts: ModelFacts, machine: MachineFacts, *, name: str, path: Path, digest: bytes
) -> LlamaSettings:
    """How this node serves the model in the file at `path`. Raises SettingsError for what contradicts."""
    tuning = model.tuning
    wishes = Wishes(
        slots=model.slots,
        context_units=model.context_units,
        threads=model.threads,
        threads_batch=tuning.threads_batch,
        batch=tuning.batch,
        ubatch=tuning.ubatch,
    )
    gpu = model.gpu_layers < 0 or model.gpu_layers >= facts.layers
    sizes = choose(machine, facts, wishes, gpu=gpu, cache_type=tuning.cache_type)
    return LlamaSettings(
        model=name,
        path=path,
        model_digest=digest,
        prices=Prices(input=model.price_in, output=model.price_out),
        slots=sizes.slots,
        queue_max=model.queue_max,
        context_units=sizes.context_units,
        threads=sizes.threads,
        threads_batch=sizes.threads_batch,
        batch=sizes.batch,
        ubatch=sizes.ubatch,
        gpu_layers=model.gpu_layers,
        gpu=Gpu(main=tuning.main_gpu, split=tuning.gpu_split, shares=tuning.gpu_shares),
        cache_type=tuning.cache_type,
        flash_attention=tuning.flash_attention,
        prompt_steps_max=tuning.prompt_steps_max,
    )


def llama_memory(facts: ModelFacts, settings: LlamaSettings) -> MemoryParts:
    """What such a model takes."""
    assert settings.context_units is not None
    return memory_parts(
        facts,
        slots=settings.slots,
        context_units=settings.context_units,
        batch=settings.ubatch,
        cache_number_bytes=CACHE_NUMBER_BYTES[settings.cache_type],
    )
