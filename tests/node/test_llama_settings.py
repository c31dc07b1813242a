"""What an operator sets of a chat model reaches llama.cpp; what is not set is chosen from the machine and the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from cxp2p.errors import SettingsError
from cxp2p_node.config import ModelSettings, TuningSettings
from cxp2p_node.engines.llama import LlamaSettings, serving_of
from cxp2p_node.engines.llama_params import context_params, model_params
from cxp2p_node.engines.llama_settings import llama_memory, llama_settings
from cxp2p_node.engines.serving import CacheType, Serving
from cxp2p_node.engines.sizing import MachineFacts
from cxp2p_node.models.facts import ModelFacts, facts_of
from tiny_model import write_tiny_model

MACHINE = MachineFacts(cores=6, memory_bytes=16 << 30)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", context=4096)


@pytest.fixture(scope="module")
def facts(path: Path) -> ModelFacts:
    return facts_of(path)


def settings(model: ModelSettings, facts: ModelFacts) -> LlamaSettings:
    return llama_settings(model, facts, MACHINE, name="tiny", path=Path("tiny.gguf"), digest=b"d" * 32)


def test_all_that_is_set_reaches_the_parameters_of_llama_cpp(facts: ModelFacts) -> None:
    """Through the worker's command line as well."""
    tuning = TuningSettings.model_validate(
        {
            "threads_batch": 5,
            "batch": 256,
            "ubatch": 128,
            "cache_type": "q8_0",
            "flash_attention": "on",
            "prompt_steps_max": 6.5,
            "main_gpu": 2,
            "gpu_split": "row",
            "gpu_shares": [3, 1],
        }
    )
    model = ModelSettings(name="tiny", slots=3, context_units=1024, threads=4, gpu_layers=-1, tuning=tuning)
    adapter = TypeAdapter(Serving)
    serving = adapter.validate_json(adapter.dump_json(serving_of(settings(model, facts))))

    loading = model_params(serving)
    assert (loading.n_gpu_layers, loading.main_gpu, loading.split_mode) == (-1, 2, 2)
    assert [loading.tensor_split[at] for at in range(len(loading.kept_alive))][:2] == [3.0, 1.0][
        : len(loading.kept_alive)
    ]
    context = context_params(serving, 1024)
    assert (context.n_seq_max, context.n_ctx, context.n_outputs_max) == (3, 3 * 1024, 3)
    assert (context.n_batch, context.n_ubatch) == (256, 128)
    assert (context.n_threads, context.n_threads_batch) == (4, 5)
    assert (context.type_k, context.type_v, context.flash_attn_type) == (8, 8, 1)
    assert serving.prompt_steps_max == 6.5
    assert not context.kv_unified
    assert context.offload_kqv


def test_what_is_not_set_is_chosen(facts: ModelFacts) -> None:
    chosen = settings(ModelSettings(name="tiny"), facts)
    assert chosen.threads == chosen.threads_batch == MACHINE.cores
    assert chosen.context_units == facts.context_units
    assert chosen.slots >= 2
    serving = serving_of(chosen)
    loading, context = model_params(serving), context_params(serving, facts.context_units)
    assert loading.n_gpu_layers == 0
    assert not loading.tensor_split
    assert context.flash_attn_type == -1  # llama.cpp looks whether the device can
    assert (context.type_k, context.type_v) == (1, 1)


def test_a_model_on_a_graphics_card_gets_larger_batches(facts: ModelFacts) -> None:
    on_card = settings(ModelSettings(name="tiny", gpu_layers=-1), facts)
    assert on_card.batch > settings(ModelSettings(name="tiny"), facts).batch


def test_the_memory_that_is_foreseen_is_of_what_is_chosen(facts: ModelFacts) -> None:
    """A cache of smaller numbers takes less, and so do fewer slots."""
    model = ModelSettings(name="tiny", slots=8, context_units=4096)
    wide = llama_memory(facts, settings(model, facts)).cache
    narrow = llama_memory(
        facts, settings(model.model_copy(update={"tuning": TuningSettings(cache_type=CacheType.Q8_0)}), facts)
    )
    fewer = llama_memory(facts, settings(model.model_copy(update={"slots": 4}), facts))
    assert narrow.cache < 0.7 * wide
    assert fewer.cache == wide / 2


def test_what_contradicts_is_told(facts: ModelFacts) -> None:
    with pytest.raises(SettingsError, match="batch is 16, but each of the 32 slots"):
        settings(ModelSettings(name="tiny", slots=32, tuning=TuningSettings(batch=16)), facts)
    with pytest.raises(ValidationError, match="cache_type"):
        TuningSettings.model_validate({"cache_type": "f64"})
