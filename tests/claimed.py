"""Nodes that outlive their crashes, hand-made gateways before them, and what those answer to claims."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import trio

from cxp2p import protocols
from cxp2p.identity import Identity
from cxp2p.net import Stream
from cxp2p.net.discover import offer_sequence
from cxp2p.net.memory import open_network
from cxp2p.net.pump import RecordReader, converse, send_record
from cxp2p.net.rhythm import Rhythm
from cxp2p.records import (
    ClaimSent,
    ReceiptSent,
)
from cxp2p.session import Event
from cxp2p_node.app import Node, run_node
from cxp2p_node.config import ReceiptSettings
from cxp2p_node.papers import State
from cxp2p_node.papers.memory import MemoryPapers
from strangers import REQUEST, Gate, lane
from worlds import ScriptedEngine, World, world

QUIET = Rhythm(beat_s=300.0, exchange_s=300.0, lookup_s_max=300.0, turn_s=300.0)


@dataclass
class Shop:
    """A node that can be started again, and hand-made askers in front of it."""

    here: World
    nursery: trio.Nursery
    identity: Identity
    exposure_max: int = 10**9
    papers: MemoryPapers = field(default_factory=MemoryPapers)
    keeping: ReceiptSettings = field(default_factory=ReceiptSettings)
    rhythm: Rhythm = QUIET
    engine: ScriptedEngine = field(default_factory=lambda: ScriptedEngine(pause_s=0.0))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Node]:
        """Runs the node in a task of its own, as askers come and go on this one."""
        stop, over = trio.Event(), trio.Event()
        node = await self.nursery.start(self._run, stop, over)
        try:
            yield node
        finally:
            stop.set()
            await over.wait()

    async def _run(self, stop: trio.Event, over: trio.Event, *, task_status: Any) -> None:
        async with open_network(self.here.hub, self.identity.peer, offer_sequence) as network:
            await network.connect(self.here.bootstrap.addresses[0])
            running = run_node(
                self.identity,
                network,
                (self.engine,),
                wall_ms=self.here.wall_ms,
                rng=Random(1),
                exposure_max=self.exposure_max,
                papers=self.papers,
                keeping=self.keeping,
                rhythm=self.rhythm,
            )
            async with running as node:
                task_status.started(node)
                await stop.wait()
        over.set()

    async def asker(self, node: Node) -> Gate:
        identity = self.here.identity()
        network = await self.here.peer(identity)
        await network.connect(node.network.addresses[0])
        return Gate(self.here, node, identity, network)

    async def states(self) -> list[State]:
        return [paper.state for paper in reversed(await self.papers.newest(1000))]


@asynccontextmanager
async def shop(**options: Any) -> AsyncIterator[Shop]:
    async with trio.open_nursery() as nursery, world() as here:
        yield Shop(here, nursery, here.identity(), **options)


async def work(door: Gate, number: int = 0, *, countersign: bool = False) -> list[Event]:
    """One job of three words: 9 µcredits, of which up to 200 are reserved."""
    return await door.hear_all(door.ask(door.order(REQUEST, lane(number)), REQUEST), countersign=countersign)


async def leave(door: Gate, number: int = 0) -> ReceiptSent:
    """Takes the work, hears the receipt, and leaves without an answer."""
    async with converse(door.network, door.node.network.peer) as talk:
        await talk.say(door.ask(door.order(REQUEST, lane(number)), REQUEST))
        while not isinstance(event := await talk.hear(), ReceiptSent):
            assert event is not None
        return event


@dataclass
class Till:
    """A gateway's side of claims, hand-made. `say` answers each claim; `streams` counts the claims on each stream."""

    door: Gate
    say: Callable[[ClaimSent], object]
    streams: list[int] = field(default_factory=list)
    heard: list[ClaimSent] = field(default_factory=list)

    def open(self) -> None:
        self.door.network.serve(protocols.CLAIM, self.handle)

    async def handle(self, stream: Stream) -> None:
        reader = RecordReader(stream, protocols.FRAME_BYTES_MAX)
        self.streams.append(0)
        while (claim := await reader.next()) is not None:
            assert isinstance(claim, ClaimSent)
            self.streams[-1] += 1
            self.heard.append(claim)
            await send_record(stream, self.say(claim))


def agree(door: Gate, **changes: Any) -> Callable[[ClaimSent], object]:
    return lambda claim: door.countersign(ReceiptSent(envelope=claim.receipt), **changes)


async def again(one: Shop, door: Gate, node: Node) -> Gate:
    """The same asker in front of the node that was started again."""
    await trio.sleep(0.1)
    await door.network.connect(node.network.addresses[0])
    return Gate(one.here, node, door.identity, door.network)
