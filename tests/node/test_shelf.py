"""Several models that do not fit into memory together, in virtual time: what jobs, offers and operators see of it."""

from __future__ import annotations

import logging
from random import Random

import pytest
import trio
from trio.testing import MockClock

from cxp2p.errors import JobFailed, SettingsError
from cxp2p.records import FailureCode
from cxp2p_node.engines import residency
from cxp2p_node.engines.residency import MIB, STAY_LOADS
from cxp2p_node.engines.shelf import WAIT_S_MAX, open_shelf
from shelves import LEAVE_S, Memory, Script, shelf_of, use


async def test_what_fits_is_loaded_at_the_start_and_the_rest_on_demand(autojump_clock: MockClock) -> None:
    memory = Memory(3)
    first, second, third = Script(memory, "first", 2), Script(memory, "second", 2), Script(memory, "third")
    async with shelf_of(memory, first, second, third) as shelf:
        assert [model.loaded for model in shelf.models] == [True, False, True]
        assert [model.describe().load.loading_ms == 0 for model in shelf.models] == [True, False, True]
        assert all(model.ready for model in shelf.models)
        assert len(await use(shelf.models[1])) == 3
        assert [model.loaded for model in shelf.models] == [False, True, True]
    assert memory.held == 0


async def test_one_model_is_loaded_before_anything_else_and_stays(autojump_clock: MockClock) -> None:
    memory = Memory(1)
    async with shelf_of(memory, Script(memory, "only")) as shelf:
        assert shelf.models[0].loaded
        assert shelf.models[0].describe().load.loading_ms == 0
        await trio.sleep(80_000)
        assert memory.times("loading", "only") == [0.0]
        assert not memory.times("gone", "only")


async def test_jobs_that_come_together_load_their_model_once(autojump_clock: MockClock) -> None:
    memory = Memory(1)
    first, second = Script(memory, "first"), Script(memory, "second")
    async with shelf_of(memory, first, second) as shelf:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(use, shelf.models[1])
        assert len(memory.times("loading", "second")) == 1


async def test_a_job_that_is_cancelled_while_its_model_loads_disturbs_nobody(autojump_clock: MockClock) -> None:
    """The one beside it gets the model, and when that has ended the model may make room again."""
    memory = Memory(1)
    first, second = Script(memory, "first"), Script(memory, "second", load_s=5)
    async with shelf_of(memory, first, second) as shelf:
        await trio.sleep(10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, shelf.models[1])
            with trio.move_on_after(2) as patience:
                await use(shelf.models[1])
            assert patience.cancelled_caught
        assert shelf.models[1].resident.takers == 0
        await use(shelf.models[0])
        assert shelf.models[0].loaded


async def test_the_only_job_for_a_model_is_cancelled_while_it_loads(autojump_clock: MockClock) -> None:
    """The loading goes on: what was read from the disk is of use to the next one."""
    memory = Memory(1)
    first, second = Script(memory, "first"), Script(memory, "second", load_s=5)
    async with shelf_of(memory, first, second) as shelf:
        await trio.sleep(10)
        with trio.move_on_after(2):
            await use(shelf.models[1])
        await trio.sleep(10)
        assert shelf.models[1].loaded
        assert shelf.models[1].resident.takers == 0


async def test_a_job_that_is_cancelled_in_the_moment_its_model_is_there_leaves_no_trace(
    autojump_clock: MockClock,
) -> None:
    memory = Memory(1)
    only = Script(memory, "only")
    async with shelf_of(memory, only) as shelf:
        with trio.CancelScope() as scope:
            scope.cancel()
            await use(shelf.models[0])
        assert shelf.models[0].resident.takers == 0


async def test_a_running_job_keeps_its_model_until_its_end(autojump_clock: MockClock) -> None:
    """However long another model is waited for; and no new job comes in between the two."""
    memory = Memory(1)
    first, second = Script(memory, "first"), Script(memory, "second")
    async with shelf_of(memory, first, second) as shelf:
        await trio.sleep(100)
        ended: list[str] = []

        async def job(number: int, words: int, name: str) -> None:
            await use(shelf.models[number], words)
            ended.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job, 0, 300, "long")
            await trio.sleep(1)
            nursery.start_soon(job, 1, 3, "other")
            await trio.sleep(1)
            assert shelf.models[0].describe().load.loading_ms > 0
            nursery.start_soon(job, 0, 3, "late")
        assert ended == ["long", "other", "late"]
        assert memory.times("loading", "second")[0] == pytest.approx(memory.times("loaded", "first")[0] + 130, abs=1)


async def test_alternating_jobs_do_not_swap_at_every_one(autojump_clock: MockClock) -> None:
    """A hundred jobs in ten seconds for each of two models of which one fits: each stays for several loadings' time."""
    memory = Memory(1)
    scripts = Script(memory, "first"), Script(memory, "second")
    waits: list[float] = []
    async with shelf_of(memory, *scripts) as shelf:

        async def job(number: int) -> None:
            since = trio.current_time()
            await use(shelf.models[number % 2])
            waits.append(trio.current_time() - since)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(job, number)
                await trio.sleep(0.1)
        took = trio.current_time()
    swaps = len(memory.times("loading", "first")) + len(memory.times("loading", "second"))
    assert swaps <= 2 + took / STAY_LOADS
    assert len(waits) == 200
    assert max(waits) < 3 * (STAY_LOADS + 1)


async def test_who_waited_for_a_loading_gets_the_model_whoever_waits_for_its_room(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if models need not stay: they change at every job, but no loading is for nothing."""
    monkeypatch.setattr(residency, "STAY_LOADS", 0.0)
    monkeypatch.setattr(residency, "STAY_S_MIN", 0.0)
    memory = Memory(1)
    scripts = Script(memory, "first"), Script(memory, "second")
    async with shelf_of(memory, *scripts) as shelf, trio.open_nursery() as nursery:

        async def jobs(number: int) -> None:
            for _ in range(10):
                assert len(await use(shelf.models[number])) == 3

        nursery.start_soon(jobs, 0)
        nursery.start_soon(jobs, 1)
    assert len(memory.times("loading", "first")) + len(memory.times("loading", "second")) <= 21


@pytest.mark.parametrize("seed", range(5))
async def test_every_job_of_many_models_is_done(autojump_clock: MockClock, seed: int) -> None:
    """Six models of random sizes in a memory for about two; random jobs, some of which give up."""
    rng = Random(seed)
    memory = Memory(6)
    scripts = [
        Script(
            memory, f"model {number}", rng.randint(1, 5), load_s=rng.uniform(0.1, 3), keep=number == 0 and seed % 2 == 0
        )
        for number in range(6)
    ]
    if scripts[0].keep:
        scripts[0].size = 1
    done = 0
    async with shelf_of(memory, *scripts) as shelf:

        async def job(number: int, patience_s: float) -> None:
            nonlocal done
            with trio.move_on_after(patience_s) as patience:
                assert len(await use(shelf.models[number], rng.randint(1, 20))) >= 1
            done += not patience.cancelled_caught

        async with trio.open_nursery() as nursery:
            for number in range(150):
                patience_s = rng.uniform(0, 3) if number % 3 == 0 else 1000
                nursery.start_soon(job, rng.randrange(6), patience_s)
                await trio.sleep(rng.expovariate(2))
        assert done >= 100
        assert [model.resident.takers for model in shelf.models] == [0] * 6
        assert all(not model.waits for model in shelf.models)
    assert memory.held == 0
    assert memory.most == memory.size


async def test_a_model_that_cannot_be_loaded_fails_its_jobs_and_leaves_the_offer(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Why is in the log. The other model serves on; the broken one is tried again by itself, and comes back."""
    memory = Memory(2)
    good, broken = Script(memory, "good"), Script(memory, "broken", faults=["", "killed by SIGKILL", "no file", ""])
    broken.idle_s = 10
    async with shelf_of(memory, good, broken) as shelf:
        changes: list[tuple[float, bool]] = []
        model = shelf.models[1]
        model.on_change(lambda: changes.append((trio.current_time(), model.ready)))
        await trio.sleep(20)
        assert not model.loaded
        with pytest.raises(JobFailed, match="killed by SIGKILL") as failed:
            await use(model)
        assert failed.value.code is FailureCode.ENGINE_DIED
        assert not model.ready
        assert changes[-1] == (trio.current_time(), False)
        assert len(await use(shelf.models[0])) == 3
        await trio.sleep(60)
        assert model.ready
        assert len(memory.times("failed", "broken")) == 2
        assert len(await use(model)) == 3
    assert "killed by SIGKILL; it is not offered, and tried again in 2 s" in caplog.text
    assert "no file; it is not offered, and tried again in 4 s" in caplog.text


async def test_a_model_that_fails_at_the_start_does_not_keep_the_others_from_serving(autojump_clock: MockClock) -> None:
    memory = Memory(2)
    scripts = Script(memory, "broken", faults=["broken"] * 100), Script(memory, "good")
    async with shelf_of(memory, *scripts) as shelf:
        assert [model.ready for model in shelf.models] == [False, True]
        assert shelf.models[0].fault == "broken"
        assert shelf.models[0].describe().load.loading_ms > 1000
        await trio.sleep(3600)
        assert 5 < len(memory.times("failed", "broken")) < 20


async def test_a_broken_model_that_is_tried_again_throws_no_running_job_out(autojump_clock: MockClock) -> None:
    memory = Memory(2)
    scripts = Script(memory, "good", 2), Script(memory, "broken", 1, faults=["broken"] * 100)
    async with shelf_of(memory, *scripts) as shelf:
        await trio.sleep(20)
        with pytest.raises(JobFailed):
            await use(shelf.models[1])
        assert len(await use(shelf.models[0], 200)) == 200


async def test_a_job_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    """Its asker would leave; when it fails in time the asker has another node do it."""
    memory = Memory(1)
    scripts = Script(memory, "busy"), Script(memory, "other")
    async with shelf_of(memory, *scripts) as shelf, trio.open_nursery() as nursery:
        nursery.start_soon(use, shelf.models[0], 3000)
        await trio.sleep(10)
        began = trio.current_time()
        with pytest.raises(JobFailed, match="could not be loaded within 110 s"):
            await use(shelf.models[1])
        assert trio.current_time() - began == pytest.approx(WAIT_S_MAX)
        assert shelf.models[0].describe().load.loading_ms == 0  # it makes no room any more
        nursery.cancel_scope.cancel()


async def test_an_idle_model_is_unloaded_and_loaded_again_when_asked_for(autojump_clock: MockClock) -> None:
    memory = Memory(1)
    only = Script(memory, "only", idle_s=30)
    async with shelf_of(memory, only) as shelf:
        model = shelf.models[0]
        await trio.sleep(20)
        await use(model)
        last = trio.current_time()
        await trio.sleep(60)
        assert memory.times("gone", "only") == [pytest.approx(last + 30 + LEAVE_S)]
        assert (model.loaded, model.ready) == (False, True)
        assert model.describe().load.loading_ms == pytest.approx(1000)
        assert len(await use(model)) == 3


async def test_a_loaded_model_tells_more_of_itself_than_was_guessed(autojump_clock: MockClock) -> None:
    """And it is remembered when the model is not in memory any more."""
    memory = Memory(1)
    only = Script(memory, "only", idle_s=30, load_s=4)
    async with shelf_of(memory, Script(memory, "first"), only) as shelf:
        model = shelf.models[1]
        assert model.describe().runtime == "guessed"
        assert model.describe().load.loading_ms == STAY_LOADS * 1000 + 4000
        await use(model)
        await trio.sleep(60)
        assert not model.loaded
        assert model.describe().runtime == "scripted"
        assert model.describe().load.loading_ms == 4000


async def test_a_wish_loads_a_model_for_the_job_that_comes_again(autojump_clock: MockClock) -> None:
    memory = Memory(1)
    async with shelf_of(memory, Script(memory, "first"), Script(memory, "second", load_s=80)) as shelf:
        shelf.models[0].wish()
        await trio.sleep(10)
        assert shelf.models[0].loaded
        shelf.models[1].wish()
        await trio.sleep(81)
        assert shelf.models[1].loaded


async def test_other_programs_that_take_the_memory_make_models_wait(autojump_clock: MockClock) -> None:
    """A model is not loaded into memory that somebody else has; the one that could go for it goes."""
    memory = Memory(10)
    others = 0
    scripts = Script(memory, "first", 3), Script(memory, "second", 3, idle_s=1), Script(memory, "third", 3)

    def room(held: int) -> int:
        return held + memory.size - memory.held - others

    async with open_shelf([each.loadable for each in scripts], 10, room) as shelf:
        assert all(model.loaded for model in shelf.models)
        await trio.sleep(10)
        assert not shelf.models[1].loaded
        others = 3
        await use(shelf.models[1])
        assert [model.loaded for model in shelf.models].count(True) == 2
        shelf.models[1].resident.idle_s = 1e9
        others = 10
        missing = next(model for model in shelf.models if not model.loaded)
        with trio.move_on_after(30) as patience:
            await use(missing)
        assert patience.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, missing)
            await trio.sleep(10)
            others = 0


async def test_a_start_without_free_memory_is_not_held_up(autojump_clock: MockClock) -> None:
    """The models are on demand, until there is room for them."""
    memory = Memory(1)
    free = 0
    async with open_shelf([Script(memory, "only").loadable], 1, lambda held: held + free) as shelf:
        assert trio.current_time() == 0
        assert (shelf.models[0].loaded, shelf.models[0].ready) == (False, True)
        free = 1
        await trio.sleep(10)
        assert shelf.models[0].loaded


async def test_a_model_that_never_fits_is_an_error_of_the_settings(autojump_clock: MockClock) -> None:
    memory = Memory(2 * MIB)
    with pytest.raises(SettingsError, match=r"large needs 3 MiB .* 2 MiB are allowed.*memory\.models_mib_max"):
        async with shelf_of(memory, Script(memory, "small", 1), Script(memory, "large", 3 * MIB)):
            pass


async def test_an_engine_whose_worker_is_away_is_not_offered(autojump_clock: MockClock) -> None:
    """Its change is told at once."""
    memory = Memory(1)
    only = Script(memory, "only")
    async with shelf_of(memory, only) as shelf:
        told: list[bool] = []
        shelf.models[0].on_change(lambda: told.append(shelf.models[0].ready))
        only.engine.ready = False
        only.engine._call()
        only.engine.ready = True
        only.engine._call()
        assert told == [False, True]


async def test_what_is_loaded_and_unloaded_is_told(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    memory = Memory(2 * MIB)
    scripts = Script(memory, "first", 2 * MIB), Script(memory, "second", 2 * MIB)
    async with shelf_of(memory, *scripts) as shelf:
        await use(shelf.models[1])
    said = [record.message for record in caplog.records if record.name == "cxp2p.node.shelf"]
    assert said[:4] == [
        "loading first: 2 MiB",
        "first is loaded after 1.0 s",
        "unloading first",
        "loading second: 2 MiB",
    ]
