"""A job is struck at every moment that there is: cancelled, cut off, or its node or asker taken away. Virtual time.

trio tells before each step of each task; the blow falls before step number k, for every k until the job is through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest
import trio
from trio.abc import Instrument
from trio.testing import MockClock

from cxp2p.client import Net
from cxp2p.errors import CxError
from cxp2p.net.memory import MemoryNetwork
from cxp2p.records import Piece, Service, Verdict
from cxp2p_node.app import Node
from worlds import Ledgerbook, ScriptedEngine, chat_job, settled, world

pytestmark = pytest.mark.slow  # thousands of worlds


@dataclass
class Fight:
    """One job, and what a blow can hit."""

    node: Node
    net: Net
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


Blow: TypeAlias = Callable[[Fight], None]


def cancel(fight: Fight) -> None:
    fight.scope.cancel()


def cut(fight: Fight) -> None:
    """The connection breaks, and both hear of it."""
    for near, far in ((fight.node.network, fight.net.network), (fight.net.network, fight.node.network)):
        assert isinstance(near, MemoryNetwork)
        near._drop(far.peer)


def hang(fight: Fight) -> None:
    """The node stops, and nobody hears of it; it wakes some seconds later."""
    assert isinstance(fight.node.network, MemoryNetwork)
    fight.node.network.hang()


def cancel_and_cut(fight: Fight) -> None:
    cancel(fight)
    cut(fight)


def leave(fight: Fight) -> None:
    """The node takes no more jobs, and its streams end, as when its process is told to stop."""
    fight.node.serving.draining = True
    cut(fight)


@dataclass(eq=False)
class Striker(Instrument):
    """Strikes before one step: of the watched task only, or of any."""

    at: int
    strike: Callable[[], None]
    task: trio.lowlevel.Task | None = None
    steps: int = 0
    struck: bool = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.task is not None and task is not self.task:
            return
        self.steps += 1
        if self.steps == self.at:
            self.struck = True
            self.strike()


async def fight(blow: Blow, at: int, *, any_task: bool, others: int) -> bool:
    """One job in a fresh world, struck at step `at`, behind `others`. False if the job was through before."""
    async with trio.open_nursery() as nursery, world(latency_s=0.001) as here:
        node = await here.node(ScriptedEngine(pause_s=0.002, slots=1))
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        for _ in range(others):
            nursery.start_soon(_run, net, books)
            await trio.sleep(0.001)
        one = Fight(node, net)
        task = None if any_task else trio.lowlevel.current_task()
        striker = Striker(at, lambda: blow(one), task)
        trio.lowlevel.add_instrument(striker)
        try:
            with one.scope:
                await _run(net, books)
        finally:
            trio.lowlevel.remove_instrument(striker)
        await trio.sleep(5)
        assert isinstance(node.network, MemoryNetwork)
        node.network.wake()
        node.serving.draining = False
        node.advertiser.change()
        await trio.sleep(62)  # the longest that anybody waits for anybody
        _check_all_is_over(one, books)
        await settled(net, 1)
        await net.run(chat_job(), _ignore, books)
        await trio.sleep(1)
        _check_all_is_over(one, books)
        assert books.settled[-1].countersign.verdict is Verdict.ACCEPTED
        return striker.struck


def _check_all_is_over(one: Fight, books: Ledgerbook) -> None:
    bench, serving = one.node.benches[Service.CHAT, "echo"], one.node.serving
    assert not books.held, "a hold did not end"
    assert (bench.desk.running, bench.desk.queued, bench.places.borrowed_tokens) == (0, 0, 0)
    assert (serving._jobs, serving._intake.held) == (0, 0)
    for account in serving._till.lanes.exposures._accounts.values():
        assert account.reserved == 0
    for lanes in serving._till.lanes._lanes.values():
        assert not any(lane.open for lane in lanes.values())
    assert all(entry.jobs == 0 for entry in one.net.offers())
    for settlement in books.settled:
        assert settlement.countersign.verdict is Verdict.ACCEPTED


async def _run(net: Net, books: Ledgerbook) -> None:
    try:
        await net.run(chat_job(), _ignore, books, deadline_s=30)
    except CxError:
        await trio.lowlevel.checkpoint()


async def _ignore(piece: Piece) -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("blow", "watched"),
    [(cancel, "the asker"), (cancel, "all"), (cut, "all"), (hang, "all"), (cancel_and_cut, "all"), (leave, "all")],
)
@pytest.mark.parametrize("others", [0, 1], ids=["alone", "queued"])
def test_whenever_a_job_is_struck_everything_ends(blow: Blow, watched: str, others: int) -> None:
    """Every hold ends, slots and places are free, lanes are whole, and the next job is done and paid."""
    at, struck = 1, True
    while struck:
        struck = trio.run(_one, blow, at, watched == "all", others, clock=MockClock(autojump_threshold=0))
        at += 1 if watched != "all" else 2 + others
    assert at > 20


async def _one(blow: Blow, at: int, any_task: bool, others: int) -> bool:
    try:
        return await fight(blow, at, any_task=any_task, others=others)
    except BaseException as error:
        error.add_note(f"struck by {blow.__name__} at step {at}")
        raise
