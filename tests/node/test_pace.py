"""How large batches of prompts are, on machines of all speeds: large alone, short beside those who generate."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest

from cxp2p_node.engines.pace import ALONE_S_GOAL, ALONE_TOKENS_MIN, SHARED_TOKENS_MIN, Pace
from cxp2p_node.engines.serving import PROMPT_STEPS_MAX
from cxp2p_node.engines.slots import Phase, Slots


@dataclass(frozen=True)
class Machine:
    """What a batch costs: something whatever its size, and something for each token; then some noise."""

    fixed_s: float
    step_token_s: float
    prompt_token_s: float
    noise: float = 0.0

    def step_s(self, sequences: int, rng: Random) -> float:
        return self._noisy(self.fixed_s + sequences * self.step_token_s, rng)

    def prompt_s(self, tokens: int, rng: Random) -> float:
        return self._noisy(self.fixed_s + tokens * self.prompt_token_s, rng)

    def _noisy(self, seconds: float, rng: Random) -> float:
        return seconds * (1 + self.noise * rng.random())


MACHINES = {
    "a small model on two cores": Machine(0.003, 0.003, 0.0033),
    "a large model on a laptop": Machine(0.15, 0.02, 0.03),
    "a graphics card": Machine(0.008, 0.0002, 0.0001),
    "a small model on a busy machine": Machine(0.003, 0.003, 0.0033, noise=1.0),
}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("streams", [1, 3, 7])
def test_a_long_prompt_does_not_stall_those_who_generate(machine: Machine, streams: int) -> None:
    """No batch of a 4,000-token prompt takes longer than two of their steps, and the prompt is read all the same."""
    rng = Random(streams)
    pace, made = Pace(512), Slots(8, 8192)
    pace.prompted(16, 0, machine.prompt_s(16, rng))
    pace.stepped(1, machine.step_s(1, rng))
    for job in range(streams):
        made.admit(job, [job] * 8)
    made.done(made.prompts(512))
    long = made.admit(99, [99] * 4000).slot
    gaps, steps = [], []
    while made.slots[long].phase is Phase.PROMPT:
        for slot in made.slots[:streams]:
            assert made.sampled(slot.index, 1)
        step_s = machine.step_s(streams, rng)
        made.done(made.steps())
        pace.stepped(streams, step_s)
        steps.append(step_s)
        batch = made.prompts(pace.prompt_tokens(streams))
        tokens = sum(len(part.tokens) for part in batch)
        prompt_s = machine.prompt_s(tokens, rng)
        made.done(batch)
        pace.prompted(tokens, streams, prompt_s)
        gaps.append(prompt_s)
    allowed = PROMPT_STEPS_MAX * sum(steps) / len(steps)
    least_s = machine.fixed_s + SHARED_TOKENS_MIN * machine.prompt_token_s
    noise = 1 + machine.noise
    assert max(gaps[1:]) <= max(allowed, least_s) * noise * 1.05
    assert sum(gaps) / len(gaps) >= min(allowed, least_s) * 0.4  # and what may be taken is taken


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_alone_a_prompt_is_read_in_large_batches(machine: Machine) -> None:
    rng = Random(1)
    pace = Pace(2048)
    pace.prompted(16, 0, machine.prompt_s(16, rng))
    sizes = []
    for _ in range(40):
        tokens = pace.prompt_tokens(0)
        sizes.append(tokens)
        pace.prompted(tokens, 0, machine.prompt_s(tokens, rng))
    took_s = machine.prompt_s(sizes[-1], Random(0))
    assert sizes[-1] >= ALONE_TOKENS_MIN
    assert took_s <= ALONE_S_GOAL * (1.05 + machine.noise) or sizes[-1] == ALONE_TOKENS_MIN
    assert took_s >= ALONE_S_GOAL * 0.4 or sizes[-1] == 2048


def test_a_machine_that_gets_slower_is_believed_soon() -> None:
    pace = Pace(512)
    for _ in range(20):
        pace.stepped(2, 0.02)
        pace.prompted(pace.prompt_tokens(2), 2, pace.prompt_tokens(2) * 0.0001)
    for _ in range(16):
        tokens = pace.prompt_tokens(2)
        pace.prompted(tokens, 2, tokens * 0.001)
    assert pace.prompt_tokens(2) * 0.001 == pytest.approx(PROMPT_STEPS_MAX * 0.02, rel=0.3)


def test_prompts_take_as_many_steps_as_is_set() -> None:
    """Of a batch that costs 1 ms a token, beside steps of 20 ms."""
    for prompt_steps_max in (1.0, 2.0, 8.0):
        pace = Pace(512, prompt_steps_max)
        for _ in range(20):
            pace.stepped(2, 0.02)
            pace.prompted(pace.prompt_tokens(2), 2, pace.prompt_tokens(2) * 0.001)
        assert pace.prompt_tokens(2) * 0.001 == pytest.approx(prompt_steps_max * 0.02, rel=0.3)


def test_one_batch_that_others_held_up_changes_little() -> None:
    """Else prompts would crawl on a machine where other programs run as well."""
    pace = Pace(512)
    for _ in range(20):
        pace.stepped(1, 0.02)
        pace.prompted(40, 1, 0.04)
    before = pace.prompt_tokens(1)
    pace.prompted(before, 1, 4.0)
    assert pace.prompt_tokens(1) >= before / 2


def test_steps_of_more_sequences_than_ever_are_guessed_from_fewer() -> None:
    """They take longer, so the guess lets others wait less, not more."""
    pace = Pace(512)
    assert pace.step_s(3) is None
    assert pace.prompt_tokens(3) == SHARED_TOKENS_MIN
    pace.stepped(2, 0.02)
    pace.stepped(5, 0.05)
    assert pace.step_s(4) == pytest.approx(0.02)
    assert pace.step_s(9) == pytest.approx(0.05)


def test_a_batch_grows_to_twice_the_size_of_any_before_at_most() -> None:
    """The first one of a fast machine is no leap into what nobody has measured."""
    pace = Pace(512)
    pace.prompted(16, 0, 1e-6)
    assert pace.prompt_tokens(0) == 32
