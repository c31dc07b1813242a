"""Which tokens a step decodes: every token once, in order, and nobody waits for ever."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p_node.engines.slots import PROMPT_STEP_MIN, STEP_S_GOAL, Phase, Slots, common_prefix

PROMPTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=40), min_size=1, max_size=12)


@given(PROMPTS, st.integers(1, 4), st.integers(4, 64), st.integers(0, 2**32))
def test_every_sequence_is_decoded_whole_and_in_order(
    prompts: list[list[int]], slots: int, batch_max: int, seed: int
) -> None:
    rng = Random(seed)
    made = Slots(slots, 64, batch_max)
    waiting = list(enumerate(prompts))
    held: list[list[int]] = [[] for _ in range(slots)]  # what the engine would hold
    wanted: dict[int, list[int]] = {}
    left: dict[int, int] = {}
    finished = 0
    for _ in range(10_000):
        while waiting and made.free():
            job, prompt = waiting.pop(0)
            slot, reused = made.admit(job, prompt)
            del held[slot][reused:]
            assert held[slot] == prompt[:reused]
            assert reused < len(prompt)
            wanted[slot], left[slot] = list(prompt), rng.randint(1, 6)
        batch = made.plan()
        if not batch:
            break
        assert len(batch) <= batch_max
        for take in batch:
            assert take.position == len(held[take.slot])
            held[take.slot].append(take.token)
        made.done(batch, rng.random() * 0.2)
        for take in batch:
            if take.output:
                assert held[take.slot] == wanted[take.slot]
                token = rng.randint(0, 3)
                left[take.slot] -= 1
                if left[take.slot] == 0 or not made.sampled(take.slot, token):
                    made.release(take.slot)
                    finished += 1
                else:
                    wanted[take.slot].append(token)
    assert finished == len(prompts)


def test_generating_sequences_go_first_and_prompts_fill_the_rest() -> None:
    made = Slots(2, 512, 16)
    made.prompt_step = 16
    made.admit(1, [1, 2])
    made.done(made.plan(), 0.0)
    made.sampled(0, 3)
    made.admit(2, list(range(100)))
    batch = made.plan()
    assert (batch[0].slot, batch[0].token, batch[0].output) == (0, 3, True)
    assert [take.slot for take in batch[1:]] == [1] * 15


def test_a_job_takes_the_slot_that_shares_most_of_its_prompt() -> None:
    made = Slots(3, 64, 64)
    for job, prompt in enumerate(([1, 2, 3], [1, 2, 9, 9], [7])):
        made.admit(job, prompt)
    made.done(made.plan(), 0.0)
    for slot in range(3):
        made.release(slot)
    assert made.admit(9, [1, 2, 9, 9, 5]) == (1, 4)
    assert made.admit(10, [1, 2, 3]) == (0, 2)  # the last token is decoded anew: its logits are needed


def test_a_paused_sequence_waits_and_loses_nothing() -> None:
    made = Slots(1, 64, 8)
    made.admit(0, [1])
    made.done(made.plan(), 0.0)
    made.sampled(0, 5)
    made.slots[0].paused = True
    assert made.plan() == []
    made.slots[0].paused = False
    assert [take.token for take in made.plan()] == [5]


def test_a_full_context_ends_the_sequence() -> None:
    made = Slots(1, 4, 8)
    made.admit(0, [1, 2])
    made.done(made.plan(), 0.0)
    assert made.sampled(0, 3)
    made.done(made.plan(), 0.0)
    assert not made.sampled(0, 4)
    made.release(0)
    assert made.slots[0].phase is Phase.FREE


@pytest.mark.parametrize("prompt", [[], [1, 2, 3, 4]])
def test_a_prompt_that_does_not_fit_is_refused(prompt: list[int]) -> None:
    with pytest.raises(ValueError, match="1 to 3 tokens"):
        Slots(1, 4, 8).admit(0, prompt)


def test_prompts_are_cut_so_that_steps_stay_near_their_goal() -> None:
    token_s = 0.002  # a slow machine
    made = Slots(1, 100_000, 512)
    made.admit(0, [1] * 9_000)
    sizes = []
    for _ in range(60):
        batch = made.plan()
        sizes.append(len(batch))
        made.done(batch, len(batch) * token_s)
    assert abs(sizes[-1] - STEP_S_GOAL / token_s) <= 2
    assert min(sizes) >= PROMPT_STEP_MIN


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix(left: list[int], right: list[int]) -> None:
    """The common prefix is common, and cannot be longer."""
    size = common_prefix(left, right)
    assert left[:size] == right[:size]
    assert left[size : size + 1] != right[size : size + 1] or size == min(len(left), len(right))
