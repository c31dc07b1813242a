"""Which inputs are computed together: sizes, order, and who waits for whom."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cxp2p_node.engines.packs import PACK_INPUTS_MAX, PACK_UNITS_MIN, WINDOW, Packs, Pick

ROOM = 512


def sizes_of(pack: list[Pick]) -> list[int]:
    return [pick.units for pick in pack]


def test_small_inputs_share_a_pack_and_a_large_one_has_its_own() -> None:
    packs = Packs(ROOM)
    goal = packs.goal
    packs.add(1, [goal // 2 - 1, 500, goal // 2, 1, 1])
    assert sizes_of(packs.take(ROOM)) == [500]
    assert sizes_of(packs.take(ROOM)) == [goal // 2, goal // 2 - 1, 1]
    assert sizes_of(packs.take(ROOM)) == [1]
    assert packs.take(ROOM) == []
    assert packs.empty


def test_inputs_of_one_size_are_taken_in_their_order() -> None:
    packs = Packs(ROOM)
    packs.add(1, [100, 100, 100])
    assert [packs.take(ROOM)[0].place for _ in range(3)] == [0, 1, 2]


def test_an_input_too_large_for_one_encoder_waits_for_another() -> None:
    packs = Packs(ROOM)
    packs.add(1, [600, 60])
    assert sizes_of(packs.take(ROOM)) == [60]
    assert packs.take(ROOM) == []
    assert not packs.empty
    assert sizes_of(packs.take(1000)) == [600]


def test_a_job_of_one_input_goes_before_the_rest_of_a_long_job() -> None:
    packs = Packs(ROOM)
    packs.add(1, [200] * 2048)
    for _ in range(5):
        packs.take(ROOM)
    packs.add(2, [20])
    assert {pick.job for _ in range(2) for pick in packs.take(ROOM)} == {1, 2}


def test_jobs_share_by_what_they_cost_and_not_by_their_inputs() -> None:
    packs = Packs(ROOM)
    packs.add(1, [500] * 100)
    packs.add(2, [50] * 1000)
    had = {1: 0, 2: 0}
    for _ in range(200):
        for pick in packs.take(ROOM):
            had[pick.job] += pick.units
    assert abs(had[1] - had[2]) <= 2 * ROOM


def test_a_short_input_of_another_job_fills_a_pack_up() -> None:
    packs = Packs(ROOM)
    packs.add(1, [packs.goal - 10] * 2)
    packs.add(2, [10, 10])
    assert [pick.job for pick in packs.take(ROOM)] == [1, 2]


def test_a_paused_job_gets_nothing_and_gets_nothing_back() -> None:
    packs = Packs(ROOM)
    packs.add(1, [400] * 50)
    packs.add(2, [400] * 50)
    packs.pause(2, True)
    for _ in range(20):
        assert [pick.job for pick in packs.take(ROOM)] == [1]
    packs.pause(2, False)
    turns = [packs.take(ROOM)[0].job for _ in range(10)]
    assert abs(turns.count(1) - turns.count(2)) <= 1
    packs.pause(1, True)
    packs.pause(2, True)
    assert packs.empty
    assert packs.take(ROOM) == []
    packs.pause(3, True)  # one that is not here any more


def test_a_dropped_job_is_gone() -> None:
    packs = Packs(ROOM)
    packs.add(1, [10] * 5)
    packs.drop(1)
    packs.drop(1)
    assert packs.empty
    assert packs.take(ROOM) == []


def test_a_pack_has_a_limited_number_of_inputs() -> None:
    packs = Packs(ROOM)
    packs.add(1, [1] * 200)
    assert len(packs.take(ROOM)) == PACK_INPUTS_MAX


def test_the_goal_follows_the_machine_within_its_limits() -> None:
    packs = Packs(ROOM)
    for _ in range(50):
        packs.done(packs.goal, 0.05 * packs.goal / 300)
    assert 290 <= packs.goal <= 310
    for _ in range(50):
        packs.done(packs.goal, 10.0)
    assert packs.goal == PACK_UNITS_MIN
    for _ in range(50):
        packs.done(packs.goal, 1e-6)
    assert packs.goal == ROOM
    packs.done(1, 100.0)  # says nothing of larger ones
    packs.done(100, 0.0)
    assert packs.goal == ROOM


@given(st.lists(st.lists(st.integers(1, ROOM), min_size=1, max_size=200), max_size=5), st.integers(0, 2**32))
def test_every_input_is_taken_once_and_no_pack_is_too_large(jobs: list[list[int]], seed: int) -> None:
    rng = random.Random(seed)
    packs = Packs(ROOM)
    waiting = dict(enumerate(jobs))
    taken: list[tuple[int, int]] = []
    begun: dict[int, int] = {}
    while waiting or not packs.empty:
        if waiting and rng.random() < 0.3:
            number, sizes = waiting.popitem()
            packs.add(number, sizes)
        pack = packs.take(ROOM)
        assert sum(sizes_of(pack)) <= (ROOM if len(pack) == 1 else max(packs.goal, pack[0].units) if pack else 0)
        for pick in pack:
            assert jobs[pick.job][pick.place] == pick.units
            # Vectors leave in order: one that comes much later than its neighbours would hold them all up.
            assert pick.place < begun.get(pick.job, 0) + WINDOW
            begun[pick.job] = begun.get(pick.job, 0) + 1
            taken.append((pick.job, pick.place))
    assert sorted(taken) == [(number, at) for number, sizes in enumerate(jobs) for at in range(len(sizes))]
