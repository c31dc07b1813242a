"""The memory that a model will need, beside what it takes."""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest
import trio

from cxp2p.paths import default_data_path
from cxp2p.records import AnswerForm, ChatJob, EmbedJob, Finish, Message, Role, Service
from cxp2p_node.catalog import look_up
from cxp2p_node.config import ModelSettings
from cxp2p_node.engines import Engine
from cxp2p_node.engines.opening import loadable
from cxp2p_node.models import Store
from cxp2p_node.models.facts import ModelFacts
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


TEXT = "and then the rain began again. " * 12
CHATS = (
    *(ChatJob(model="smollm2:135m", messages=(Message(role=Role.USER, content=f"{n} {TEXT}"),)) for n in range(6)),
    ChatJob(
        model="smollm2:135m",
        messages=(Message(role=Role.USER, content="a person with a name"),),
        form=AnswerForm.JSON_OBJECT,
    ),
)
VECTORS = (
    EmbedJob(model="all-minilm-l6-v2", inputs=tuple(f"{number} {TEXT * 6}" for number in range(8))),
    EmbedJob(model="all-minilm-l6-v2", inputs=tuple(f"text {number}" for number in range(200))),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "jobs"),
    [
        (ModelSettings(name="smollm2:135m", slots=1, context_units=512), CHATS),
        (ModelSettings(name="smollm2:135m", slots=4, context_units=8192), CHATS),
        (ModelSettings(name="all-minilm-l6-v2"), VECTORS),
    ],
    ids=["one chat", "four long chats", "vectors"],
)
async def test_a_model_takes_what_was_foreseen(settings: ModelSettings, jobs: tuple[ChatJob | EmbedJob, ...]) -> None:
    """A real worker, after it has worked: on all slots, on an answer that has a form, on texts of any length."""
    store = Store(default_data_path("models"))
    await trio.to_thread.run_sync(store.pull, look_up(settings.name), lambda what, done, total: None)
    found = await loadable(settings, store)
    assert found is not None
    before = {child.pid for child in psutil.Process().children()}
    async with found.open() as engine, trio.open_nursery() as nursery:
        async with trio.open_nursery() as working:
            for job in jobs:
                working.start_soon(_do, engine, job)
        (worker,) = (child for child in psutil.Process().children() if child.pid not in before)
        assert_fits(found.bytes_needed, worker.memory_info().rss)
        nursery.cancel_scope.cancel()


async def _do(engine: Engine, job: ChatJob | EmbedJob) -> None:
    async def emit(piece: object) -> None:
        await trio.lowlevel.checkpoint()

    usage = await engine.run(job, 1, 16, emit, lambda counted, cached: None)
    assert usage.finish in (Finish.STOP, Finish.LENGTH)
