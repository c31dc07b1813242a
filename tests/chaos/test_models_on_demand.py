"""Nodes with more models than memory, as askers meet them: what offers say, who gets the job. In virtual time."""

from __future__ import annotations

import re

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Net
from cxp2p.commands import _print_table, _rows
from cxp2p.errors import JobFailed, JobRefused, NoNode
from cxp2p.records import Load, RefusalCode, Service
from cxp2p_node.admission import LOADING_MS_MAX
from cxp2p_node.app import Node
from cxp2p_node.engines.residency import STAY_S_MAX
from cxp2p_node.engines.shelf import Shelf
from shelves import Memory, Script, shelf_of
from worlds import Ledgerbook, ScriptedEngine, World, ask, settled, world


class Library:
    """A node with a shelf in a world."""

    def __init__(self, node: Node, shelf: Shelf) -> None:
        self.node = node
        self.shelf = shelf


async def library(here: World, *scripts: Script) -> Library:
    shelf = await here.stack.enter_async_context(shelf_of(scripts[0].memory, *scripts))
    return Library(await here.node(*shelf.models), shelf)


def offered(net: Net, node: Node) -> dict[str, Load]:
    """What an asker knows of a node's models now."""
    entry = net.discovery.directory.get(node.network.peer)
    assert entry is not None
    return {each.model: each.load for each in entry.offer.capabilities}


async def test_every_model_is_offered_with_the_time_that_it_takes_to_load(autojump_clock: MockClock) -> None:
    """A loading and an unloading are known to askers within a second."""
    memory = Memory(1)
    async with world() as here:
        place = await library(here, Script(memory, "first"), Script(memory, "second", load_s=2))
        net = await here.asker()
        await settled(net, 1)
        await trio.sleep(10)
        loads = offered(net, place.node)
        assert (loads["first"].loading_ms, loads["second"].loading_ms) == (0, 2000)

        async with trio.open_nursery() as nursery:

            async def job() -> None:
                assert await ask(net, model="second") == "one two three "

            nursery.start_soon(job)
            await trio.sleep(0.9)
            loads = offered(net, place.node)
            assert loads["first"].loading_ms > 0
            assert (loads["second"].running, loads["second"].queued) == (0, 1)
        (loaded_at,) = memory.times("loaded", "second")
        await trio.sleep(max(0.0, loaded_at + 0.9 - trio.current_time()))
        loads = offered(net, place.node)
        assert loads["second"].loading_ms == 0
        assert loads["first"].loading_ms > 0


async def test_the_list_of_offers_says_which_models_are_in_memory(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each model, with the time that the others take."""
    memory = Memory(1)
    async with world() as here:
        await library(here, Script(memory, "first"), Script(memory, "second", load_s=2))
        net = await here.asker()
        await settled(net, 1)
        await trio.sleep(10)
        (entry,) = net.offers()
        rows = _rows(entry)
        assert [(row["model"], row["loading_ms"]) for row in rows] == [("first", 0), ("second", 2000)]
        _print_table(rows)
        _, first, second = capsys.readouterr().out.splitlines()
        assert re.search(r"first +chat +0\+0/\d+ +yes ", first)
        assert re.search(r"second +chat +0\+0/\d+ +in 2\.0 s ", second)


async def test_the_node_that_has_the_model_in_memory_gets_the_jobs(autojump_clock: MockClock) -> None:
    """Though the other one would load it, and is found first."""
    async with world() as here:
        cold, warm = Memory(1), Memory(1)
        await library(here, Script(cold, "other"), Script(cold, "echo"))
        await library(here, Script(warm, "echo"), Script(warm, "other"))
        net = await here.asker()
        await settled(net, 2)
        for _ in range(10):
            await ask(net)
            await ask(net, model="other")

        assert not cold.times("loading", "echo")
        assert not warm.times("loading", "other")


async def test_a_node_without_free_places_gives_way_to_one_that_must_load_first(autojump_clock: MockClock) -> None:
    """The loading is a price, not a wall: it is paid when the others are full for longer."""
    async with world() as here:
        cold, warm = Memory(1), Memory(1)
        await library(here, Script(cold, "other"), Script(cold, "echo", load_s=0.5))
        await library(here, Script(warm, "echo", slots=1))
        net = await here.asker()
        await settled(net, 2)
        await trio.sleep(10)
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask, net, "word " * 40)
        assert cold.times("loaded", "echo")


async def test_a_job_is_sent_away_from_a_long_loading_and_finds_the_model_when_it_comes_again(
    autojump_clock: MockClock,
) -> None:
    """The refusal says when; nothing is charged for it."""
    memory = Memory(1)
    async with world() as here:
        load_s = LOADING_MS_MAX / 1000 + 30
        place = await library(here, Script(memory, "first"), Script(memory, "large", load_s=load_s))
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        await trio.sleep(10)
        with pytest.raises(JobRefused, match="the model is not in memory") as refused:
            await ask(net, books=books, model="large")
        assert refused.value.code is RefusalCode.BUSY
        assert refused.value.retry_after_ms == LOADING_MS_MAX
        await trio.sleep(refused.value.retry_after_ms / 1000)
        assert await ask(net, books=books, model="large") == "one two three "
        assert len(books.settled) == 1
        assert len(memory.times("loading", "large")) == 1
        assert place.shelf.models[1].loaded


async def test_a_model_that_fails_leaves_the_offer_and_the_jobs_go_elsewhere(autojump_clock: MockClock) -> None:
    """Within a second; the node's other model serves on, and the broken one comes back when it can be loaded."""
    async with world() as here:
        small, large = Memory(1), Memory(2)
        broken = Script(small, "echo", faults=["killed by SIGKILL (out of memory?)"] * 2)
        place = await library(here, Script(small, "other"), broken)
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        await trio.sleep(10)
        with pytest.raises((JobFailed, NoNode)):
            await ask(net, books=books)
        await trio.sleep(0.9)
        assert set(offered(net, place.node)) == {"other"}

        await library(here, Script(large, "echo"), Script(large, "another"))
        await settled(net, 2)
        await trio.sleep(2)
        assert await ask(net, books=books) == "one two three "
        assert await ask(net, books=books, model="other") == "one two three "
        await trio.sleep(60)
        assert set(offered(net, place.node)) == {"other", "echo"}
        assert len(books.settled) == 2
        assert not books.held


async def test_a_job_that_waits_for_a_model_that_fails_moves_on_unseen(autojump_clock: MockClock) -> None:
    async with world() as here:
        bad, good = Memory(1), Memory(1)
        await library(here, Script(bad, "other"), Script(bad, "echo", load_s=0.2, faults=["broken"]))
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        await library(here, Script(good, "other"), Script(good, "echo", load_s=9))
        await settled(net, 2)
        await trio.sleep(40)
        assert await ask(net, books=books) == "one two three "
        assert bad.times("failed", "echo")
        assert good.times("loaded", "echo")
        assert len(books.voided) == 1


async def test_one_model_that_fails_again_and_again_does_not_keep_askers_from_the_other(
    autojump_clock: MockClock,
) -> None:
    """There is no other node, and the failing one answers for itself: it is well."""
    memory = Memory(2)
    broken = Script(memory, "broken", faults=["", *["broken"] * 100])
    broken.idle_s = 5
    async with world() as here:
        await library(here, broken, Script(memory, "good"))
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        await trio.sleep(20)
        for _ in range(10):
            with pytest.raises((JobFailed, JobRefused, NoNode)):
                await ask(net, books=books, model="broken")
            assert await ask(net, books=books, model="good") == "one two three "


async def test_an_asker_waits_for_a_node_that_it_left_alone_for_a_while(autojump_clock: MockClock) -> None:
    """`find` sees that the time is over, though nothing else changes."""
    async with world() as here:
        node = await here.node(ScriptedEngine())
        net = await here.asker()
        await settled(net, 1)
        net.discovery.directory.suspend(node.network.peer, trio.current_time())
        await net.find("echo", 5)
        assert await ask(net) == "one two three "


async def test_an_asker_that_leaves_while_the_model_loads_owes_nothing(autojump_clock: MockClock) -> None:
    memory = Memory(1)
    async with world() as here:
        place = await library(here, Script(memory, "first"), Script(memory, "second", load_s=20))
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        await trio.sleep(10)
        with trio.move_on_after(5):
            await ask(net, books=books, model="second")
        await place.node.serving.idle()
        desk = place.node.benches[Service.CHAT, "second"].desk
        assert (desk.running, desk.queued, desk.first_piece_ms) == (0, 0, 0)
        assert not books.held
        assert all(each.receipt.charge == 0 for each in books.settled)


async def test_the_loading_is_not_taken_for_slowness(autojump_clock: MockClock) -> None:
    """What a node says of its own speed, and what askers measure, is without the loading: that is told apart."""
    memory = Memory(1)
    async with world() as here:
        place = await library(here, Script(memory, "first"), Script(memory, "second", load_s=5))
        net = await here.asker()
        await settled(net, 1)
        await trio.sleep(30)
        await ask(net, model="second")
        load = place.node.benches[Service.CHAT, "second"].capability().load
        assert 0 < load.first_piece_ms < 500
        entry = net.discovery.directory.get(place.node.network.peer)
        assert entry is not None
        assert 0 < entry.first_piece_ms < 500


async def test_two_models_that_do_not_fit_together_serve_two_askers_at_once(autojump_clock: MockClock) -> None:
    """A hundred jobs come by turns; every one is done, and models change a few times only."""
    memory = Memory(1)
    async with world() as here:
        await library(here, Script(memory, "first"), Script(memory, "second"))
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        async with trio.open_nursery() as nursery:

            async def jobs(model: str) -> None:
                for _ in range(25):
                    assert await ask(net, books=books, model=model) == "one two three "

            began = trio.current_time()
            for model in ("first", "second"):
                nursery.start_soon(jobs, model)
                nursery.start_soon(jobs, model)
        took = trio.current_time() - began
        changes = len(memory.times("loading", "first")) + len(memory.times("loading", "second"))
        assert len(books.settled) == 100
        assert changes < 12
        assert took < STAY_S_MAX
