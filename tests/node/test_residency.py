"""Which models stay in memory and which make room: the rules alone, without a clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.errors import SettingsError
from cxp2p_node.engines.residency import (
    DRAIN_S_GUESS,
    IN_MEMORY,
    LOADS_MAX,
    LOOK_AGAIN_S,
    MIB,
    RETRY_S_FIRST,
    RETRY_S_MAX,
    STAY_LOADS,
    STAY_S_MAX,
    STAY_S_MIN,
    WISH_S,
    Plan,
    Resident,
    State,
    first_loads,
    guess_load_s,
    plan,
    ready_in_s,
    retry_at,
    stay_s,
)

NOW = 1000.0


def absent(name: str, size: int = 1, *, waiting: tuple[float, ...] = (), keep: bool = False) -> Resident:
    return Resident(name=name, bytes_needed=size, load_s=1.0, keep=keep, waiting=list(waiting))


def loaded(
    name: str, size: int = 1, *, used_at: float = 0.0, since: float = 0.0, takers: int = 0, keep: bool = False
) -> Resident:
    return Resident(
        name=name,
        bytes_needed=size,
        load_s=1.0,
        keep=keep,
        state=State.LOADED,
        since=since,
        used_at=max(used_at, since),
        takers=takers,
    )


def names(models: tuple[Resident, ...]) -> list[str]:
    return sorted(model.name for model in models)


def test_a_model_that_jobs_wait_for_is_loaded_into_free_memory() -> None:
    wanted = absent("wanted", waiting=(NOW,))
    made = plan([loaded("other"), wanted, absent("unwanted")], 2, NOW)
    assert (names(made.load), made.unload, made.closed) == (["wanted"], (), frozenset())


def test_the_model_that_was_used_longest_ago_makes_room() -> None:
    wanted = absent("wanted", waiting=(NOW,))
    models = [loaded("old", used_at=1), loaded("new", used_at=900), loaded("oldest", used_at=0, keep=True), wanted]
    made = plan(models, 3, NOW)
    assert (made.load, names(made.unload)) == ((), ["old"])


def test_what_makes_room_is_gone_before_the_other_one_comes() -> None:
    """What leaves still takes its memory: nothing is loaded, and nothing more is unloaded, until it is away."""
    leaving = loaded("leaving")
    leaving.state = State.LEAVING
    models = [leaving, loaded("stays"), wanted := absent("wanted", waiting=(NOW,))]
    assert plan(models, 2, NOW) == Plan((), (), frozenset(), math.inf)
    leaving.enter(State.ABSENT, NOW)
    assert names(plan(models, 2, NOW).load) == [wanted.name]


def test_no_more_models_make_room_than_must() -> None:
    """If the one that comes last is large enough alone, the smaller ones before it stay."""
    models = [loaded("small", 1, used_at=1), loaded("large", 5, used_at=2), absent("wanted", 5, waiting=(NOW,))]
    assert names(plan(models, 6, NOW).unload) == ["large"]


def test_a_model_with_running_jobs_is_never_unloaded_but_takes_no_more() -> None:
    models = [busy := loaded("busy", takers=1), absent("wanted", waiting=(NOW,))]
    made = plan(models, 1, NOW)
    assert (made.load, made.unload, made.closed) == ((), (), frozenset({"busy"}))
    busy.takers = 0
    assert names(plan(models, 1, NOW).unload) == ["busy"]


def test_an_idle_model_goes_before_a_busy_one_that_was_used_longer_ago() -> None:
    models = [loaded("busy", takers=1), loaded("idle", used_at=999), absent("wanted", waiting=(NOW,))]
    made = plan(models, 2, NOW)
    assert (names(made.unload), made.closed) == (["idle"], frozenset())


def test_a_model_stays_for_a_time_that_its_loading_was_worth() -> None:
    """Until then the others wait, and the plan says until when."""
    since = NOW - STAY_LOADS + 0.5
    models = [loaded("fresh", since=since), absent("wanted", waiting=(NOW,))]
    made = plan(models, 1, NOW)
    assert (made.load, made.unload, made.closed, made.wake_at) == ((), (), frozenset(), NOW + 0.5)
    assert names(plan(models, 1, made.wake_at).unload) == ["fresh"]


@pytest.mark.parametrize(("load_s", "stay"), [(0.01, STAY_S_MIN), (5.0, 5 * STAY_LOADS), (1000.0, STAY_S_MAX)])
def test_how_long_it_stays_has_limits(load_s: float, stay: float) -> None:
    assert stay_s(Resident(name="m", bytes_needed=1, load_s=load_s)) == stay


def test_those_who_wait_longest_come_first() -> None:
    """A smaller model that came later gets no memory that the first one needs, but any that it leaves."""
    first, second, third = (
        absent("first", 3, waiting=(NOW - 9,)),
        absent("second", 2, waiting=(NOW - 8,)),
        absent("third", 1, waiting=(NOW - 7,)),
    )
    models = [loaded("busy", 3, takers=1), third, second, first]
    made = plan(models, 4, NOW)
    assert (names(made.load), made.closed) == (["third"], frozenset({"busy"}))


def test_the_second_of_two_counts_what_the_first_takes() -> None:
    """While the first one is loaded into what is free, room is made for the second."""
    models = [loaded("idle"), absent("first", waiting=(NOW - 9,)), absent("second", waiting=(NOW - 8,))]
    made = plan(models, 2, NOW)
    assert (names(made.load), names(made.unload)) == (["first"], ["idle"])


def test_only_so_many_are_loaded_at_once() -> None:
    models = [absent(f"model {number}", waiting=(NOW + number,)) for number in range(LOADS_MAX + 2)]
    made = plan(models, 100, NOW + 10)
    assert names(made.load) == ["model 0", "model 1"]
    for model in made.load:
        model.enter(State.LOADING, NOW)
    assert plan(models, 100, NOW + 10).load == ()


def test_a_kept_model_never_makes_room_and_comes_back_by_itself() -> None:
    models = [kept := loaded("kept", keep=True), absent("wanted", waiting=(NOW,))]
    made = plan(models, 1, NOW)
    assert (made.load, made.unload, made.closed, made.wake_at) == ((), (), frozenset(), NOW + LOOK_AGAIN_S)
    kept.enter(State.ABSENT, NOW)
    assert names(plan(models, 1, NOW).load) == ["kept"]


def test_an_idle_model_is_unloaded_after_its_time() -> None:
    """Not while it has a job, and not before it was worth its loading."""
    model = loaded("idle", used_at=NOW)
    model.idle_s = 30.0
    assert plan([model], 1, NOW) == Plan((), (), frozenset(), NOW + 30)
    assert plan([model], 1, NOW + 30).unload == (model,)
    model.takers = 1
    assert plan([model], 1, NOW + 30).unload == ()
    model.takers, model.since, model.load_s = 0, NOW + 29, 2.0
    assert plan([model], 1, NOW + 30) == Plan((), (), frozenset(), NOW + 29 + 2 * STAY_LOADS)


def test_a_model_that_failed_is_tried_again_later_and_later() -> None:
    """Also if nobody asks: only a loading that went well brings it back into the offer."""
    model = absent("broken", waiting=(NOW,))
    pauses = []
    for _ in range(20):
        model.enter(State.FAILED, NOW)
        again = retry_at(model)
        assert plan([model], 1, NOW) == Plan((), (), frozenset(), again)
        assert plan([model], 1, again).load == (model,)
        pauses.append(again - NOW)
    assert pauses[:3] == [RETRY_S_FIRST, 2 * RETRY_S_FIRST, 4 * RETRY_S_FIRST]
    assert pauses[-1] == RETRY_S_MAX
    model.enter(State.LOADED, NOW)
    model.enter(State.FAILED, NOW)
    assert retry_at(model) == NOW + RETRY_S_FIRST


def test_a_wish_holds_for_a_while() -> None:
    """A model for which a job was sent away is loaded, and makes the others leave, until the wish is forgotten."""
    model = absent("wished")
    model.wished_at = NOW
    assert plan([model], 1, NOW + 1).load == (model,)
    busy = loaded("busy", takers=1)
    made = plan([model, busy], 1, NOW + 1)
    assert (made.closed, made.wake_at) == (frozenset({"busy"}), NOW + WISH_S)
    assert plan([model, busy], 1, NOW + WISH_S) == Plan((), (), frozenset(), math.inf)


# How long a job would wait.


def ready_in(model: Resident, models: list[Resident], bytes_max: int, now: float = NOW) -> float:
    return ready_in_s(model, models, bytes_max, plan(models, bytes_max, now).closed, now)


def test_a_loaded_model_is_ready_and_a_loading_one_soon() -> None:
    here = loaded("here")
    assert ready_in(here, [here], 1) == 0
    here.enter(State.LOADING, NOW - 0.25)
    assert ready_in(here, [here], 1) == 0.75
    assert 0 < ready_in(here, [here], 1, NOW + 60) < 1


def test_an_absent_model_takes_its_loading_and_what_makes_room() -> None:
    model = absent("absent")
    assert ready_in(model, [model], 1) == 1
    assert ready_in(model, [model, loaded("idle")], 1) == 1
    assert ready_in(model, [model, loaded("fresh", since=NOW - 1)], 1) == STAY_LOADS - 1 + 1
    assert ready_in(model, [model, loaded("busy", takers=1)], 1) == DRAIN_S_GUESS + 1
    assert ready_in(model, [model, loaded("kept", keep=True)], 1) == LOOK_AGAIN_S + 1


def test_a_model_that_makes_room_is_not_ready_though_it_is_there() -> None:
    """A job that comes for it now waits for the other one's turn."""
    models = [busy := loaded("busy", takers=1), absent("wanted", waiting=(NOW,))]
    assert ready_in(busy, models, 1) == DRAIN_S_GUESS + (1 + STAY_LOADS) + 1


def test_a_failed_model_is_ready_after_its_pause_and_its_loading() -> None:
    model = absent("failed")
    model.enter(State.FAILED, NOW)
    assert ready_in(model, [model], 1) == RETRY_S_FIRST + 1


def test_the_first_guess_grows_with_the_file() -> None:
    assert 0 < guess_load_s(0) < guess_load_s(10**9) < guess_load_s(10**10) < 60


# At the start.


def test_as_many_as_fit_are_loaded_at_the_start_in_order_and_those_that_are_kept() -> None:
    models = [absent("a", 3), absent("b", 5), absent("c", 2), absent("d", 2, keep=True)]
    assert names(tuple(first_loads(models, 8))) == ["a", "c", "d"]
    assert names(tuple(first_loads(models, 12))) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([absent("small"), absent("large", 9 * MIB)], "large needs 9 MiB of memory, and 8 MiB are allowed: lower"),
        ([absent("large", 8 * MIB + 1, keep=True)], "large needs 9 MiB of memory, and 8 MiB are allowed"),
        ([absent("a", 5 * MIB, keep=True), absent("b", 4 * MIB, keep=True)], "a, b are to be kept and need 9 MiB"),
        ([absent("a", 5 * MIB, keep=True), absent("b", 4 * MIB)], "beside those that are kept b needs 4 MiB .* 3 MiB"),
    ],
)
def test_what_can_never_be_loaded_is_told_with_the_numbers(models: list[Resident], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        first_loads(models, 8 * MIB)
    with pytest.raises(SettingsError, match=r"raise memory\.models_mib_max"):
        first_loads(models, 8 * MIB)


# Whatever the state.

residents = st.builds(
    Resident,
    name=st.uuids().map(str),
    bytes_needed=st.integers(1, 6),
    load_s=st.floats(0.1, 30),
    keep=st.booleans(),
    due=st.booleans(),
    idle_s=st.sampled_from([math.inf, 10.0]),
    state=st.sampled_from(State),
    since=st.floats(NOW - 100, NOW),
    used_at=st.floats(NOW - 100, NOW),
    takers=st.just(0),
    waiting=st.lists(st.floats(NOW - 100, NOW), max_size=2),
    wished_at=st.sampled_from([-math.inf, NOW - 10]),
    failures=st.integers(1, 30),
)


@given(models=st.lists(residents, max_size=8), busy=st.sets(st.integers(0, 7)), spare=st.integers(0, 6))
def test_no_plan_breaks_what_was_promised(models: list[Resident], busy: set[int], spare: int) -> None:
    """Never over the limit, never one that is kept or works; whoever is closed works and makes room."""
    for number, model in enumerate(models):
        if number in busy and model.state is State.LOADED:
            model.takers = 1
    held = sum(model.bytes_needed for model in models if model.state in IN_MEMORY)
    made = plan(models, held + spare, NOW)

    assert held + sum(model.bytes_needed for model in made.load) <= held + spare
    assert all(model.state in (State.ABSENT, State.FAILED) for model in made.load)
    assert all(model.state is State.LOADED and not model.takers and not model.keep for model in made.unload)
    assert len(set(made.unload)) == len(made.unload)
    closed = [model for model in models if model.name in made.closed]
    assert all(model.state is State.LOADED and model.takers and not model.keep for model in closed)
    assert made.wake_at > NOW
    for model in models:
        estimate = ready_in_s(model, models, held + spare, made.closed, NOW)
        assert 0 <= estimate < 3600
