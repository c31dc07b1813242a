"""The real node and the real gateway, whose messages are lost and whose programs die: in the end both say the same."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from claimants import Gate
from cxp2p.identity import Identity, Kind, open_envelope
from cxp2p.net.discover import offer_sequence
from cxp2p.net.memory import MemoryNetwork, open_network
from cxp2p.net.tasks import background
from cxp2p.records import Order
from cxp2p.wire import decode
from cxp2p_node.app import run_node
from cxp2p_node.papers import State
from cxp2p_node.papers.memory import MemoryPapers
from worlds import ScriptedEngine, World, settled, world

SETTLE_S = 400.0  # until what is unanswered was claimed, also by a node that gave its gateway up for a minute
PAID = (State.SETTLED, State.ADJUSTED)


@dataclass
class NodeLives:
    """A node whose papers outlive it."""

    here: World
    nursery: trio.Nursery
    identity: Identity
    papers: MemoryPapers = field(default_factory=MemoryPapers)
    ending: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)

    async def start(self) -> NodeLives:
        self.ending, self.ended = trio.Event(), trio.Event()
        self.network: MemoryNetwork = await self.nursery.start(self._live)
        return self

    async def _live(self, task_status: Any) -> None:
        async with open_network(self.here.hub, self.identity.peer, offer_sequence) as network:
            await network.connect(self.here.bootstrap.addresses[0])
            running = run_node(
                self.identity,
                network,
                (ScriptedEngine(slots=4, output_units_max=4096, pause_s=0.004),),
                wall_ms=self.here.wall_ms,
                rng=Random(1),
                exposure_max=10**9,
                papers=self.papers,
            )
            async with running:
                task_status.started(network)
                await self.ending.wait()
        self.ended.set()

    async def crash(self) -> None:
        """What it still writes on its way down, nobody reads."""
        self.papers = deepcopy(self.papers)
        self.ending.set()
        await self.ended.wait()


class Drama:
    """A gateway, a node, and what happens to them."""

    def __init__(self, here: World, nursery: trio.Nursery, seed: int) -> None:
        self.nursery = nursery
        self.rng = Random(seed)
        self.gate = Gate(here, nursery, here.identity())
        self.node = NodeLives(here, nursery, here.identity())

    async def open(self) -> Drama:
        await self.gate.start()
        await self.node.start()
        await settled(self.gate.net, 1)
        return self

    async def act(self) -> None:
        """One turn: a job of some length, and perhaps a calamity while jobs run."""
        words = self.rng.choice([1, 5, 600, 2000])
        self.nursery.start_soon(self.ask, words, self.rng.choice([None, None, 1.0]))
        await trio.sleep(self.rng.uniform(0.01, 3.0))
        match self.rng.randrange(6):
            case 0:
                await self.gate.crash()
                await trio.sleep(self.rng.uniform(0, 40))
                await self.gate.start()
            case 1:
                await self.node.crash()
                await trio.sleep(self.rng.uniform(0, 40))
                await self.node.start()
            case 2:
                await self.node.network.kill(self.gate.identity.peer)
        await trio.sleep(self.rng.uniform(0, 20))

    async def ask(self, words: int, patience_s: float | None) -> None:
        """A job; some callers leave."""
        with trio.move_on_after(patience_s if patience_s is not None else 300.0):
            await self.gate.ask(text="x " * words, max_tokens=4096)

    async def end(self) -> None:
        """Both are there, and nothing happens any more."""
        await settled(self.gate.net, 1)
        await trio.sleep(SETTLE_S)


async def check(drama: Drama) -> Counter[str]:
    """Every paper of the node says what the gateway's books say of its order; returns how many ended how."""
    papers = await drama.node.papers.newest(1000)
    states = Counter(paper.state.value for paper in papers)
    assert states[State.OPEN.value] == states[State.CLAIMED.value] == states[State.REFUSED.value] == 0, states
    for paper in papers:
        order = decode(Order, open_envelope(Kind.ORDER, paper.order_envelope).body)
        name = order.order_id.hex()
        kept = await drama.gate.store.do(lambda tables, name=name: tables.generation(name))  # type: ignore[misc]
        if kept is None:
            assert paper.state is State.LOST or not paper.charge, paper
        elif paper.charge:
            assert kept.countersign_envelope == paper.countersign_envelope
            assert kept.charge == paper.agreed
    user, operator, node = await drama.gate.paid(drama.node.identity.peer)
    assert node == sum(paper.agreed for paper in papers if paper.state in PAID) == -(user + operator)
    return states


async def play(seed: int, turns: int) -> Counter[str]:
    async with background() as nursery, world() as here:
        drama = await Drama(here, nursery, seed).open()
        for _ in range(turns):
            await drama.act()
        await drama.end()
        return await check(drama)


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_is_lost_both_sides_say_the_same(autojump_clock: MockClock, seed: int) -> None:
    """Programs die and connections break in the middle of jobs; claims settle what that left open."""
    states = await play(seed, turns=12)
    assert states[State.SETTLED.value] > 3


@pytest.mark.slow
async def test_in_many_dramas_everything_happens(autojump_clock: MockClock) -> None:
    """Over all of them jobs are settled, adjusted and lost, and each time both sides agree."""
    total: Counter[str] = Counter()
    for seed in range(100, 116):
        total += await play(seed, turns=12)
    assert all(total[state.value] for state in (State.SETTLED, State.ADJUSTED, State.LOST)), total
