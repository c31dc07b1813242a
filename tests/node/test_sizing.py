"""Slots, context, batches and threads: chosen from the machine and the model, or as they were set."""

from __future__ import annotations

import pytest

from cxp2p.errors import SettingsError
from cxp2p.records import Service
from cxp2p_node.engines.serving import CONTEXT_UNITS_MAX, CacheType, threads_for
from cxp2p_node.engines.sizing import (
    CACHE_BYTES_MAX,
    CONTEXT_UNITS_LEAST,
    SLOTS_LEAST,
    SLOTS_MAX_CPU,
    SLOTS_MAX_GPU,
    MachineFacts,
    Wishes,
    choose,
    slot_bytes,
)
from cxp2p_node.models.facts import ModelFacts

GIB = 1 << 30


def model(*, file_bytes: int, layers: int, cache_width: int, context_units: int) -> ModelFacts:
    return ModelFacts(
        architecture="llama",
        name="m",
        service=Service.CHAT,
        file_bytes=file_bytes,
        parameters=0,
        quantisation="Q4_K_M",
        layers=layers,
        width=4096,
        inner_width=14336,
        cache_widths=(cache_width,) * layers,
        state_bytes=0,
        context_units=context_units,
        vocabulary=100_000,
        sliding=False,
        pooling=None,
        chat_template=None,
    )


SMALL = model(file_bytes=98_362_432, layers=30, cache_width=384, context_units=8192)  # smollm2:135m
LARGE = model(file_bytes=4_920_000_000, layers=32, cache_width=2048, context_units=131_072)  # llama3.1:8b
LAPTOP = MachineFacts(cores=2, memory_bytes=8 * GIB)
WORKSTATION = MachineFacts(cores=16, memory_bytes=64 * GIB)


def test_a_small_model_serves_several_with_all_of_its_context() -> None:
    sizes = choose(LAPTOP, SMALL, Wishes())
    assert sizes.context_units == SMALL.context_units
    assert 4 <= sizes.slots <= SLOTS_MAX_CPU
    assert sizes.slots * slot_bytes(SMALL, sizes.context_units, CacheType.F16) <= CACHE_BYTES_MAX
    assert (sizes.threads, sizes.threads_batch) == (2, 2)


def test_a_large_model_serves_as_many_as_the_machine_is_fast_for() -> None:
    """Nobody gains from a job that is answered slower than people read."""
    assert choose(LAPTOP, LARGE, Wishes()).slots == SLOTS_LEAST
    assert choose(WORKSTATION, LARGE, Wishes()).slots > SLOTS_LEAST
    assert choose(WORKSTATION, LARGE, Wishes(), gpu=True).slots > SLOTS_MAX_CPU
    assert choose(WORKSTATION, SMALL, Wishes(), gpu=True).slots <= SLOTS_MAX_GPU


@pytest.mark.parametrize("memory_gib", [2, 4, 8, 16, 64])
@pytest.mark.parametrize("facts", [SMALL, LARGE], ids=["small", "large"])
def test_the_context_fits_into_its_part_of_the_memory(memory_gib: int, facts: ModelFacts) -> None:
    """With little memory there are fewer slots, then they are shorter; two of a useful length are always offered."""
    machine = MachineFacts(cores=4, memory_bytes=memory_gib * GIB)
    sizes = choose(machine, facts, Wishes())
    assert SLOTS_LEAST <= sizes.slots <= SLOTS_MAX_CPU
    assert CONTEXT_UNITS_LEAST <= sizes.context_units <= CONTEXT_UNITS_MAX
    taken = sizes.slots * slot_bytes(facts, sizes.context_units, CacheType.F16)
    assert taken <= max(machine.memory_bytes / 4, SLOTS_LEAST * slot_bytes(facts, CONTEXT_UNITS_LEAST, CacheType.F16))


def test_a_smaller_cache_type_makes_room() -> None:
    machine = MachineFacts(cores=16, memory_bytes=8 * GIB)
    wide = choose(machine, LARGE, Wishes(), cache_type=CacheType.F16)
    narrow = choose(machine, LARGE, Wishes(), cache_type=CacheType.Q8_0)
    assert narrow.slots * narrow.context_units > wide.slots * wide.context_units


def test_what_is_set_is_taken() -> None:
    wishes = Wishes(slots=16, context_units=4096, threads=3, threads_batch=5, batch=64, ubatch=32)
    sizes = choose(LAPTOP, SMALL, wishes)
    assert (sizes.slots, sizes.context_units, sizes.threads, sizes.threads_batch) == (16, 4096, 3, 5)
    assert (sizes.batch, sizes.ubatch) == (64, 32)


def test_a_context_is_never_longer_than_the_model_was_trained_for() -> None:
    assert choose(LAPTOP, SMALL, Wishes(context_units=100_000)).context_units == SMALL.context_units


def test_more_slots_than_the_memory_is_for_get_shorter_contexts() -> None:
    sizes = choose(LAPTOP, SMALL, Wishes(slots=16))
    assert sizes.slots == 16
    assert sizes.context_units < SMALL.context_units


def test_a_batch_without_room_for_every_slot_is_told() -> None:
    with pytest.raises(SettingsError, match="batch is 8, but each of the 16 slots"):
        choose(LAPTOP, SMALL, Wishes(slots=16, batch=8))


@pytest.mark.parametrize(("cores", "threads"), [(0.5, 1), (1, 1), (2, 2), (2.5, 2), (4, 4), (8, 7), (64, 63)])
def test_there_is_a_thread_for_each_whole_core(cores: float, threads: int) -> None:
    """Of many cores one is left to the node, whose work would else stop all threads now and then."""
    assert threads_for(cores) == threads
