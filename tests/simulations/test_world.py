from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.clocks import BEGIN_MS, Clock, drawn_clock
from simulations.world import BrokenInvariant, World


class Counted:
    """Something with a fault that can be put in."""

    def __init__(self) -> None:
        self.fault = ""
        self.looks = 0

    def faults(self) -> list[str]:
        self.looks += 1
        return [self.fault] if self.fault else []


@given(st.lists(st.floats(0, 100), max_size=50))
def test_events_come_in_the_order_of_their_times_and_then_as_they_were_asked_for(times: list[float]) -> None:
    """The heap gives what a stable sort by time gives."""
    world, seen = World(1), list[tuple[float, int]]()
    for number, time in enumerate(times):
        world.at(time, lambda number=number: seen.append((world.now, number)))

    world.run(100)

    assert seen == sorted((time, number) for number, time in enumerate(times))
    assert world.events == len(times)
    assert world.now == 100


def test_an_event_that_asks_for_another_gets_it_in_the_same_run() -> None:
    """Events of events happen, up to the time that was said."""
    world, seen = World(1), list[float]()

    def again() -> None:
        seen.append(world.now)
        world.after(1.0, again)

    world.at(0.5, again)
    world.run(3.0)

    assert seen == [0.5, 1.5, 2.5]


def test_a_cancelled_event_does_not_happen() -> None:
    world, seen = World(1), list[str]()
    event = world.at(1.0, seen.append, "cancelled")
    world.at(2.0, seen.append, "kept")

    world.cancel(event)
    world.run(3.0)

    assert seen == ["kept"]
    assert world.events == 1


def test_what_is_over_cannot_be_asked_for() -> None:
    """Time never runs backwards: neither by a request, nor if the heap itself was spoilt."""
    world = World(1)
    world.run(5.0)

    with pytest.raises(ValueError, match=r"an event at 4\.0 s cannot be: it is 5\.0 s already"):
        world.at(4.0, lambda: None)
    with pytest.raises(ValueError, match="cannot be"):
        world.after(-0.1, lambda: None)
    world.at(6.0, setattr, world, "now", 9.0)
    world.at(7.0, lambda: None)
    with pytest.raises(BrokenInvariant, match=r"time ran back from 9\.0 s to 7\.0 s \(seed 1\)"):
        world.run(10.0)


def test_what_an_event_touched_is_looked_at_right_after_it() -> None:
    """A fault is told with the seed, the time and the event; what nobody touched is not looked at."""
    world, thing, other = World(7), Counted(), Counted()
    world.at(1.0, world.touch, thing)
    world.at(2.0, lambda: None)
    world.run(2.5)

    def spoil() -> None:
        world.touch(thing)
        thing.fault = "one is missing"

    world.at(3.0, spoil)

    assert (thing.looks, other.looks) == (1, 0)
    with pytest.raises(BrokenInvariant, match=r"one is missing \(seed 7, at 3\.000000 s, event 3\)"):
        world.run(4.0)


def test_what_is_drawn_for_one_purpose_does_not_shift_another() -> None:
    """Each purpose has its own generator, from the seed and its name."""
    plain, busy = World(3), World(3)
    busy.rng("other").random()

    assert plain.rng("links").random() == busy.rng("links").random()
    assert World(3).rng("links").random() != World(4).rng("links").random()
    assert World(3).rng("links").random() != World(3).rng("towns").random()
    assert plain.rng("links") is plain.rng("links")


def test_the_digest_tells_runs_apart_by_their_events_and_by_their_facts() -> None:
    """The same events and facts give the same digest, another time or fact another one."""

    def digest(time: float, fact: str) -> str:
        world = World(1)
        world.at(time, world.note, fact)
        world.run(10.0)
        return world.digest()

    assert digest(1.0, "done") == digest(1.0, "done")
    assert len({digest(1.0, "done"), digest(1.5, "done"), digest(1.0, "failed")}) == 3


@pytest.mark.parametrize("clock", [lambda world: Clock(world), lambda world: Clock(world, 1500.0, 1e-4)])
def test_a_peers_clocks_never_run_backwards_and_are_off_as_said(clock: Callable[[World], Clock]) -> None:
    """Wall time is ahead by the skew, and a second is longer by the drift."""
    world = World(1)
    mine = clock(world)
    assert mine.wall_ms() == BEGIN_MS + round(mine.skew_ms)
    assert mine.now() == 0.0

    world.run(10_000.0)

    assert mine.now() == pytest.approx(10_000.0 * (1 + mine.drift))
    assert mine.wall_ms() == BEGIN_MS + round(10_000_000 * (1 + mine.drift) + mine.skew_ms)


def test_drawn_clocks_are_within_what_the_protocol_allows() -> None:
    """No pair of clocks is more than 30 s apart when the world begins."""
    world = World(5)
    skews = [drawn_clock(world, world.rng("clocks")).skew_ms for _ in range(2000)]

    assert max(skews) - min(skews) < 28_001
    assert len(set(skews)) > 1900
