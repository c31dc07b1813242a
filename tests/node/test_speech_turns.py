"""Whose turn it is when several texts are read at once, and what can be told in order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cxp2p_node.engines.speech_sound import Samples
from cxp2p_node.engines.speech_turns import (
    FIRST_FRAMES,
    FRAMES_MAX,
    FRAMES_MIN,
    Reading,
    Say,
    Shape,
    Turns,
    ranges_of,
)
from cxp2p_node.engines.speech_voice import Stop


@dataclass(frozen=True)
class Still:
    """A sentence of which only the length matters."""

    frames: int

    def sound(self, begin: int, end: int, stop: Stop) -> Samples:
        return np.zeros((end - begin) * 256, np.float32)


def reading(job: int, *parts: str, credit: int = 100) -> Reading:
    return Reading(job=job, parts=deque(parts), speed=1.0, credit=credit, stop=Stop())


def test_the_first_sound_is_short_and_others_are_long() -> None:
    """And all threads have something to do, if it is worth it."""
    assert ranges_of(400, 1, first=True) == [(0, FIRST_FRAMES), (24, 212), (212, 400)]
    assert ranges_of(500, 1, first=False) == [(0, 166), (166, 333), (333, 500)]
    assert ranges_of(150, 2, first=False) == [(0, 75), (75, 150)]
    assert ranges_of(150, 1, first=False) == [(0, 150)]
    assert ranges_of(40, 2, first=True) == [(0, 40)]


def test_two_threads_are_ready_at_the_same_time() -> None:
    """Whoever says the beginning says less of the rest."""
    assert ranges_of(300, 2, first=True) == [(0, 24), (24, 174), (174, 300)]
    assert ranges_of(500, 2, first=False) == [(0, 125), (125, 250), (250, 375), (375, 500)]


@given(st.integers(1, 5000), st.integers(1, 8), st.booleans())
def test_no_frame_is_forgotten_and_no_range_is_too_long(frames: int, threads: int, first: bool) -> None:
    ranges = ranges_of(frames, threads, first=first)

    assert (ranges[0][0], ranges[-1][1]) == (0, frames)
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    assert all(0 < end - begin <= FRAMES_MAX for begin, end in ranges)
    assert len(ranges) <= 2 + frames // FRAMES_MIN


def test_a_part_is_shaped_while_the_last_one_is_said() -> None:
    """But not two of them, and only when all of the last one is on its way."""
    one = reading(1, "A.", "B.", "C.")
    first = one.next_task(1)
    assert isinstance(first, Shape)
    assert one.next_task(1) is None  # nothing can be said yet
    one.shaped([Still(100), Still(20)])
    said = [one.next_task(1) for _ in range(3)]
    assert [isinstance(task, Say) and (task.place, task.begin, task.end) for task in said] == [
        (0, 0, FIRST_FRAMES),
        (1, FIRST_FRAMES, 100),
        (2, 0, 20),
    ]
    second = one.next_task(1)
    assert isinstance(second, Shape)
    assert second.text == "B."
    assert one.next_task(1) is None


def test_pieces_are_told_in_order_whichever_is_ready_first() -> None:
    one = reading(1, "A.")
    one.next_task(2)
    one.shaped([Still(300)])
    while one.next_task(2) is not None:
        pass

    assert one.said(1, b"b") == []
    assert one.said(2, b"c") == []
    assert not one.over
    assert one.said(0, b"a") == [b"a", b"b", b"c"]
    assert one.over


def test_a_reader_that_takes_nothing_stops_the_saying() -> None:
    """No more is made than it has credit for, also of what is not told yet."""
    one = reading(1, "A.", credit=2)
    one.next_task(1)
    one.shaped([Still(1000)])
    assert [one.next_task(1) is not None for _ in range(3)] == [True, True, False]
    one.said(0, b"a")
    assert one.next_task(1) is None
    one.credit += 1
    assert one.next_task(1) is not None


def test_a_new_text_is_next_and_then_all_take_turns() -> None:
    turns = Turns()
    for job in (1, 2):
        turns.add(reading(job, "A."))
        task = turns.next_task(1)
        assert task is not None
        assert task.job == job
        turns.get(job).shaped([Still(10_000)])  # type: ignore[union-attr]
    order = [task.job for _ in range(4) if (task := turns.next_task(1))]
    turns.add(reading(3, "A."))
    order += [task.job for _ in range(3) if (task := turns.next_task(1))]

    assert sorted(order[:2]) == [1, 2]
    assert order[:2] == order[2:4]
    assert order[4] == 3
    assert sorted(order[5:]) == [1, 2]
    turns.remove(1)
    left = {task.job for _ in range(3) if (task := turns.next_task(1))}
    assert left == {2}


def test_a_part_without_sound_is_passed_over() -> None:
    one = reading(1, "?", "B.")
    one.next_task(1)
    one.shaped([])
    assert not one.over
    one.next_task(1)
    one.shaped([Still(0)])
    assert one.over
