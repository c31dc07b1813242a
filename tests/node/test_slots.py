"""Who sits where, what is used again, what is computed next: every token once, in order, and nobody waits for ever."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p_node.engines.slots import COPY_TOKENS_MIN, OLDEST_SHARE, Part, Phase, Slots, common_prefix

JOBS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 40), st.lists(st.integers(0, 3), min_size=1, max_size=40)),
    min_size=1,
    max_size=14,
)
SYSTEM = list(range(1000, 1600))  # a prompt of 600 tokens that many jobs begin with


class Sequences:
    """What an engine would hold, and what it had to do for it."""

    def __init__(self, slots: int) -> None:
        self.held: list[list[int]] = [[] for _ in range(slots)]
        self.salts = [b""] * slots
        self.computed = 0

    def copy(self, made: Slots) -> None:
        for copy in made.copies():
            assert self.salts[copy.source] == self.salts[copy.target]
            assert len(self.held[copy.source]) >= copy.tokens
            self.held[copy.target] = self.held[copy.source][: copy.tokens]
            made.copied(copy)

    def admit(self, made: Slots, job: int, prompt: list[int], salt: bytes = b"") -> int:
        slot, kept = made.admit(job, prompt, salt)
        assert kept == 0 or self.salts[slot] == salt
        del self.held[slot][kept:]
        assert self.held[slot] == prompt[:kept]
        self.salts[slot] = salt
        return slot

    def run(self, made: Slots, batch: list[Part]) -> list[int]:
        """Computes a batch; the slots whose next token is to be drawn."""
        for part in batch:
            assert part.start == len(self.held[part.slot])
            assert part.tokens
            self.held[part.slot] += part.tokens
            self.computed += len(part.tokens)
        made.done(batch)
        return [part.slot for part in batch if part.output]

    def read_all(self, made: Slots, room: int = 512) -> None:
        """Until no prompt waits."""
        while True:
            self.copy(made)
            batch = made.prompts(room)
            if not batch:
                return
            self.run(made, batch)


@given(JOBS, st.integers(1, 4), st.integers(1, 64), st.booleans(), st.integers(0, 2**32))
def test_every_sequence_is_computed_whole_and_in_order(
    jobs: list[tuple[int, int, list[int]]], slots: int, room: int, cuts: bool, seed: int
) -> None:
    """Whatever is reused, copied or stopped: what the engine holds of a job is its prompt and its answer."""
    rng = Random(seed)
    made, engine = Slots(slots, 128, cuts=cuts), Sequences(slots)
    waiting = [(bytes([salt]), [7] * shared + own) for salt, shared, own in jobs]
    wanted: dict[int, list[int]] = {}
    left: dict[int, int] = {}
    ended = 0
    for _ in range(10_000):
        engine.copy(made)
        while waiting and made.free():
            salt, prompt = waiting.pop(0)
            slot = engine.admit(made, len(waiting), prompt, salt)
            wanted[slot], left[slot] = list(prompt), rng.randint(1, 6)
        engine.copy(made)
        if not made.runnable():
            break
        if rng.random() < 0.05:
            busy = [slot.index for slot in made.slots if slot.phase is not Phase.FREE]
            made.release(rng.choice(busy))
            ended += 1
            continue
        batch = made.steps()
        drawn = engine.run(made, batch)
        batch = made.prompts(room)
        assert sum(len(part.tokens) for part in batch) <= room
        assert [part.slot for part in batch] == sorted({part.slot for part in batch})
        for slot in (*drawn, *engine.run(made, batch)):
            assert engine.held[slot] == wanted[slot]
            left[slot] -= 1
            token = rng.randint(0, 3)
            if left[slot] == 0 or not made.sampled(slot, token):
                made.release(slot)
                ended += 1
            else:
                wanted[slot].append(token)
    assert ended == len(jobs)
    assert made.busy() == 0


def generate(made: Slots, engine: Sequences, slot: int, count: int) -> None:
    for token in range(count):
        assert made.sampled(slot, token)
        engine.run(made, made.steps())


def test_the_same_prompt_again_is_only_drawn_again() -> None:
    made, engine = Slots(2, 128), Sequences(2)
    slot = engine.admit(made, 1, [1, 2, 3])
    engine.read_all(made)
    generate(made, engine, slot, 20)
    made.release(slot)
    assert made.admit(2, [1, 2, 3]) == (slot, 2)  # the last token is decoded anew: its logits are needed


def test_a_conversation_goes_on_where_it_was() -> None:
    """Its slot is taken, not another one and a copy: all of it is used again, and nothing is there twice."""
    made, engine = Slots(3, 512), Sequences(3)
    first = engine.admit(made, 1, list(range(100)))
    engine.read_all(made)
    generate(made, engine, first, 10)
    said = list(engine.held[first])
    made.release(first)
    slot = engine.admit(made, 2, [*said, 7, 8, 9])
    assert (slot, made.slots[slot].reused) == (first, len(said))
    assert made.copies() == []


def test_a_shared_beginning_is_computed_once_for_jobs_that_come_together() -> None:
    """Sixteen jobs with one system prompt at the same moment: one computes it, the others wait and get a copy."""
    made, engine = Slots(16, 1024), Sequences(16)
    for job in range(16):
        engine.admit(made, job, [*SYSTEM, *[job] * (10 + job)])
    engine.read_all(made, room=64)
    assert engine.computed == len(SYSTEM) + sum(10 + job for job in range(16))
    assert sorted(slot.reused for slot in made.slots) == [0, *[len(SYSTEM)] * 15]


def test_a_later_job_gets_a_copy_from_a_slot_that_works() -> None:
    made, engine = Slots(2, 1024), Sequences(2)
    busy = engine.admit(made, 1, [*SYSTEM, 1])
    engine.read_all(made)
    generate(made, engine, busy, 3)
    engine.computed = 0
    late = engine.admit(made, 2, [*SYSTEM, 2, 2])
    engine.read_all(made)
    assert engine.computed == 2
    assert made.slots[late].reused == len(SYSTEM)
    assert made.slots[busy].phase is Phase.GENERATING


def test_nobody_waits_for_a_sequence_that_is_paused() -> None:
    """What is there is copied, and the token that is not decoded yet is not waited for: its reader may never come."""
    made, engine = Slots(2, 1024), Sequences(2)
    slot = engine.admit(made, 1, SYSTEM)
    engine.read_all(made)
    made.sampled(slot, 7)
    made.slots[slot].paused = True
    late = engine.admit(made, 2, [*SYSTEM, 7, 8, 9])
    engine.read_all(made)
    assert made.slots[late].phase is Phase.GENERATING
    assert made.slots[late].reused == len(SYSTEM)


@pytest.mark.parametrize("computed", [0, 64, 320])
def test_when_the_first_is_stopped_the_next_goes_on_from_there(computed: int) -> None:
    made, engine = Slots(4, 1024), Sequences(4)
    slots = [engine.admit(made, job, [*SYSTEM, job]) for job in range(4)]
    while engine.computed < computed:
        engine.copy(made)
        engine.run(made, made.prompts(64))
    made.release(slots[0])
    engine.read_all(made, room=64)
    assert all(made.slots[slot].phase is Phase.GENERATING for slot in slots[1:])
    assert engine.computed == len(SYSTEM) + 3


def test_a_short_beginning_in_common_is_not_waited_for() -> None:
    made, engine = Slots(2, 1024), Sequences(2)
    shared = list(range(COPY_TOKENS_MIN - 1))
    for job in range(2):
        engine.admit(made, job, [*shared, *[100 + job] * 50])
    engine.read_all(made)
    assert engine.computed == 2 * (len(shared) + 50)


def test_little_of_a_long_sequence_is_not_copied() -> None:
    """All of a sequence is copied before it is cut: for 40 tokens of 4,000 that costs more than it saves."""
    made, engine = Slots(2, 8192), Sequences(2)
    engine.admit(made, 1, [*range(40), *[5] * 4000])
    engine.read_all(made)
    slot = engine.admit(made, 2, [*range(40), 6, 6])
    engine.read_all(made)
    assert made.slots[slot].reused == 0


def test_jobs_of_other_salts_share_nothing() -> None:
    """Neither what a free slot holds, nor what a busy one does, nor what one is about to compute."""
    made, engine = Slots(4, 1024), Sequences(4)
    for job, salt in enumerate((b"a", b"b", b"c")):
        engine.admit(made, job, [*SYSTEM, 1], salt)
    engine.read_all(made)
    assert engine.computed == 3 * (len(SYSTEM) + 1)
    assert [slot.reused for slot in made.slots] == [0] * 4
    for slot in made.slots[:3]:
        made.release(slot.index)
    before = engine.computed
    for job, salt in enumerate((b"d", b"a", b"")):
        engine.admit(made, job, [*SYSTEM, 2], salt)
    engine.read_all(made)
    assert engine.computed - before == 2 * (len(SYSTEM) + 1) + 1  # only b"a" had something


def test_of_another_salt_a_slot_is_chosen_as_if_it_were_full_of_noise() -> None:
    """Which slot is overwritten depends on nothing that another account could guess: not on what is in it."""
    chosen = []
    for content in ([1, 2, 3, 4], [9, 9, 9, 9]):
        made, engine = Slots(2, 64), Sequences(2)
        for job, prompt in enumerate(([8, 8, 8, 8], content)):
            engine.admit(made, job, prompt, b"other")
        engine.read_all(made)
        for slot in (0, 1):
            made.release(slot)
        chosen.append(made.admit(9, [1, 2, 3, 4], b"mine"))
    assert chosen[0] == chosen[1] == (0, 0)


def test_what_is_worth_least_is_overwritten_first() -> None:
    """Empty slots, then short ones; but a long one that nobody comes back to goes in time as well."""
    made, engine = Slots(3, 1024), Sequences(3)
    long = engine.admit(made, 1, [1] * 300)
    short = engine.admit(made, 2, [2] * 40)
    engine.read_all(made)
    made.release(long)
    made.release(short)

    def once(job: int) -> int:
        slot = engine.admit(made, job, [job] * 40)
        engine.read_all(made)
        made.release(slot)
        return slot

    assert once(10) == 3 - long - short  # the empty one
    assert once(11) == short
    taken = [once(job) for job in range(12, 40)]
    assert taken[0] != long
    assert long in taken


def test_without_cuts_only_what_continues_all_of_a_slot_reuses_it() -> None:
    made, engine = Slots(2, 1024, cuts=False), Sequences(2)
    slot = engine.admit(made, 1, [1, 2, 3])
    engine.read_all(made)
    generate(made, engine, slot, 2)
    made.release(slot)
    held = list(engine.held[slot])
    assert made.admit(2, [1, 2, 3]) == (1, 0)
    made.release(1)
    assert made.admit(3, [*held, 5, 6]) == (slot, len(held))
    made, engine = Slots(2, 1024, cuts=False), Sequences(2)
    for job in range(2):
        engine.admit(made, job, [*SYSTEM, job])
    engine.read_all(made)
    assert engine.computed == 2 * (len(SYSTEM) + 1)  # nor is anything copied


def test_what_the_engine_lost_is_computed_anew() -> None:
    made, engine = Slots(2, 1024), Sequences(2)
    engine.admit(made, 1, [*SYSTEM, 1])
    engine.admit(made, 2, [*SYSTEM, 2])
    while not made.copies():
        engine.run(made, made.prompts(512))
    made.emptied(1)  # the copy did not work
    assert made.copies() == []
    engine.read_all(made)
    assert engine.held[1] == [*SYSTEM, 2]
    assert made.slots[1].reused == 0


def test_a_short_prompt_is_not_behind_long_ones() -> None:
    """It gets three quarters of the next batch, and the oldest of the long ones the rest."""
    made, engine = Slots(4, 8192), Sequences(4)
    for job in range(3):
        engine.admit(made, job, [job] * 4000)
    engine.run(made, made.prompts(64))
    short = engine.admit(made, 3, [9] * 40)
    batch = {part.slot: len(part.tokens) for part in made.prompts(64)}
    assert batch[short] == 40
    assert batch[0] >= 64 // OLDEST_SHARE
    assert sum(batch.values()) == 64


def test_a_long_prompt_ends_however_many_short_ones_come() -> None:
    """The oldest has a quarter of every batch: it is read within four times the time that it takes alone."""
    made, engine = Slots(4, 8192), Sequences(4)
    long = engine.admit(made, 0, [1] * 4000)
    rounds = 0
    while made.slots[long].phase is Phase.PROMPT:
        while made.free():
            rounds += 1
            engine.admit(made, rounds, [rounds % 1000 + 2] * 60)
        for slot in engine.run(made, made.prompts(64)):
            made.release(slot)
    assert engine.computed <= OLDEST_SHARE * 4000 + 4 * 64


def test_who_is_waited_for_goes_first() -> None:
    """A long prompt whose beginning short ones wait for is as urgent as those."""
    made, engine = Slots(4, 8192), Sequences(4)
    engine.admit(made, 0, [5] * 3000)
    leader = engine.admit(made, 1, [*SYSTEM, *[6] * 3000])
    engine.admit(made, 2, [*SYSTEM, 7])
    batch = {part.slot: len(part.tokens) for part in made.prompts(64)}
    assert batch[leader] == 64 - 64 // OLDEST_SHARE


def test_a_paused_sequence_waits_and_loses_nothing() -> None:
    made, engine = Slots(1, 64), Sequences(1)
    engine.admit(made, 0, [1])
    engine.read_all(made)
    made.sampled(0, 5)
    made.slots[0].paused = True
    assert made.steps() == []
    assert not made.runnable()
    made.slots[0].paused = False
    assert [part.tokens for part in made.steps()] == [[5]]


def test_a_full_context_ends_the_sequence() -> None:
    made, engine = Slots(1, 4), Sequences(1)
    engine.admit(made, 0, [1, 2])
    engine.read_all(made)
    assert made.sampled(0, 3)
    engine.run(made, made.steps())
    assert not made.sampled(0, 4)
    made.release(0)
    assert made.slots[0].phase is Phase.FREE


@pytest.mark.parametrize("prompt", [[], [1, 2, 3, 4]])
def test_a_prompt_that_does_not_fit_is_refused(prompt: list[int]) -> None:
    with pytest.raises(ValueError, match="1 to 3 tokens"):
        Slots(1, 4).admit(0, prompt)


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix(shared: list[int], left: list[int], right: list[int]) -> None:
    """The common prefix is common, and cannot be longer."""
    left, right = shared + left, shared + right
    size = common_prefix(left, right)
    assert size >= len(shared)
    assert left[:size] == right[:size]
    assert left[size : size + 1] != right[size : size + 1] or size == min(len(left), len(right))
