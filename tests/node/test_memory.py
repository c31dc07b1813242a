"""The memory that a model will need, beside what it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import trio

from cxp2p.paths import default_data_path
from cxp2p.records import AnswerForm, ChatJob, Finish, Message, Prices, Role, Service
from cxp2p_node.catalog import look_up
from cxp2p_node.engines.llama import Llama, LlamaSettings, open_llama
from cxp2p_node.models import Store
from cxp2p_node.models.facts import ModelFacts, facts_of
from cxp2p_node.models.memory import CACHE_STEP, memory_needed, memory_parts

BATCH = 512
FACTS = ModelFacts(
    architecture="llama",
    name="made",
    service=Service.CHAT,
    file_bytes=1_000_000,
    parameters=2_000_000,
    quantisation="Q4_K_M",
    layers=3,
    width=64,
    inner_width=256,
    cache_widths=(32, 32, 0),
    state_bytes=0,
    context_units=4096,
    vocabulary=1000,
    sliding=False,
    pooling=None,
    chat_template=None,
)


def needed(facts: ModelFacts = FACTS, *, slots: int = 1, context_units: int = CACHE_STEP, batch: int = BATCH) -> int:
    return memory_needed(facts, slots=slots, context_units=context_units, batch=batch)


def test_each_slot_has_a_context_of_its_own() -> None:
    one = memory_parts(FACTS, slots=1, context_units=CACHE_STEP, batch=BATCH)
    four = memory_parts(FACTS, slots=4, context_units=CACHE_STEP, batch=BATCH)
    assert four.cache == 4 * one.cache
    assert one.cache == CACHE_STEP * ((32 + 32) * 2 + 64)
    assert needed(slots=4) - needed() == 3 * (one.cache + 8 * FACTS.vocabulary)


def test_a_context_is_rounded_up_as_llama_cpp_does() -> None:
    assert needed(context_units=1) == needed(context_units=CACHE_STEP)
    assert needed(context_units=CACHE_STEP + 1) == needed(context_units=2 * CACHE_STEP)


def test_a_quantised_cache_is_smaller() -> None:
    whole = memory_parts(FACTS, slots=1, context_units=4096, batch=BATCH)
    half = memory_parts(FACTS, slots=1, context_units=4096, batch=BATCH, cache_number_bytes=34 / 32)
    assert half.cache < whole.cache
    assert half.total - half.cache == whole.total - whole.cache


def test_an_encoder_has_no_cache_and_a_row_for_each_token() -> None:
    encoder = replace(FACTS, service=Service.EMBED, pooling="mean", cache_widths=())
    parts = memory_parts(encoder, slots=8, context_units=512, batch=64)
    chat = memory_parts(FACTS, slots=8, context_units=512, batch=64)
    assert parts.cache == 0
    assert parts.compute - chat.compute == 4 * 64 * (FACTS.vocabulary + FACTS.width) - 8 * 8 * FACTS.vocabulary


def test_recurrent_layers_keep_a_state_for_each_slot() -> None:
    recurrent = replace(FACTS, state_bytes=10_000)
    assert needed(recurrent, slots=3) - needed(slots=3) == 30_000


# What is really taken. Above: never by more than a quarter and a little. Under: never by more than a tenth.

SPARE_BYTES = 24 << 20


def assert_fits(estimate: int, taken: int) -> None:
    assert taken < 1.1 * estimate, f"{taken >> 20} MiB taken, {estimate >> 20} MiB foreseen"
    assert estimate < 1.25 * taken + SPARE_BYTES, f"{taken >> 20} MiB taken, {estimate >> 20} MiB foreseen"


async def _ask(engine: Llama, text: str, form: AnswerForm) -> None:
    async def emit(piece: object) -> None:
        await trio.lowlevel.checkpoint()

    job = ChatJob(model="smollm2:135m", messages=(Message(role=Role.USER, content=text),), form=form)
    usage = await engine.run(job, 1, 16, emit, lambda counted, cached: None)
    assert usage.finish in (Finish.STOP, Finish.LENGTH)


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "context_units"), [(1, 512), (4, 8192)])
async def test_a_chat_model_takes_what_was_foreseen(slots: int, context_units: int) -> None:
    """Also after it has worked: on a long prompt, on all slots at once, and on an answer that has a form."""
    path = await trio.to_thread.run_sync(_pulled, "smollm2:135m")
    settings = LlamaSettings(
        model="smollm2:135m",
        path=path,
        model_digest=b"d" * 32,
        prices=Prices(input=1, output=1),
        slots=slots,
        queue_max=32,
        context_units=context_units,
    )
    before = {child.pid for child in psutil.Process().children()}
    async with open_llama(settings) as engine:
        async with trio.open_nursery() as nursery:
            for number in range(2 * slots):
                nursery.start_soon(_ask, engine, f"{number} and " * 30, AnswerForm.TEXT)
        await _ask(engine, "a person with a name", AnswerForm.JSON_OBJECT)
        (worker,) = (child for child in psutil.Process().children() if child.pid not in before)
        taken = worker.memory_info().rss
    assert_fits(memory_needed(facts_of(path), slots=slots, context_units=context_units, batch=BATCH), taken)


EMBEDDER = """
import json, sys
import psutil, llama_cpp
import cxp2p_node.engines.llama_worker
model = llama_cpp.Llama(
    sys.argv[1], embedding=True, n_ctx=512, n_batch=512, n_ubatch=512, n_seq_max=1, verbose=False
)
for count in (1, 100):
    model.embed([f"text {number} " * 60 for number in range(count)])
print(json.dumps(psutil.Process().memory_info().rss))
"""


@pytest.mark.slow
def test_an_embedding_model_takes_what_was_foreseen() -> None:
    path = _pulled("all-minilm-l6-v2")
    done = subprocess.run([sys.executable, "-c", EMBEDDER, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = facts_of(path)
    assert_fits(memory_needed(facts, slots=1, context_units=512, batch=512), json.loads(done.stdout))


def _pulled(name: str) -> Path:
    return Store(default_data_path("models")).pull(look_up(name), lambda what, done, total: None)
