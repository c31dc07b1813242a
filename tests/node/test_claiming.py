"""What a node does about receipts that nobody answered: it trusts less, claims, and remembers across a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.identity import Identity
from cxp2p.net import Stream, discover
from cxp2p.net.discover import offer_sequence
from cxp2p.net.memory import open_network
from cxp2p.net.pump import RecordReader, converse, send_record
from cxp2p.net.rhythm import Rhythm
from cxp2p.receipts import Lane, advance
from cxp2p.records import (
    ClaimRefused,
    ClaimSent,
    ReceiptSent,
    Refusal,
    RefusalCode,
    Verdict,
)
from cxp2p.session import Event
from cxp2p_node import claims
from cxp2p_node.app import Node, run_node
from cxp2p_node.claims import CLAIM_INTERVAL_S
from cxp2p_node.papers import State
from cxp2p_node.papers.memory import MemoryPapers
from strangers import REQUEST, Gate, lane
from worlds import ScriptedEngine, World, world


@pytest.fixture(autouse=True)
def quiet_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours pass here, in a network where nobody else is."""
    monkeypatch.setattr(discover, "EXCHANGE_S_FIRST", 300.0)


@dataclass
class Shop:
    """A node that can be started again, and hand-made askers in front of it."""

    here: World
    nursery: trio.Nursery
    identity: Identity
    exposure_max: int = 10**9
    papers: MemoryPapers = field(default_factory=MemoryPapers)
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
                rhythm=Rhythm(beat_s=300.0, exchange_s=300.0, lookup_s_max=300.0, turn_s=300.0),
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


async def test_three_silences_end_the_work_and_claims_bring_it_back(autojump_clock: MockClock) -> None:
    """Each unanswered receipt takes a third off the limit; when the gateway answers the claims, all of it is back."""
    async with shop(exposure_max=3000) as one, one.open() as node:
        door = await one.asker(node)
        limits = []
        for number in range(3):
            await leave(door, number)
            await trio.sleep(31)
            limits.append(node.serving._till.lanes.exposures.limit(door.identity.peer, one.here.wall_ms()))
        (refused,) = await work(door, 4)
        owed = door.exposure()
        Till(door, agree(door)).open()
        await trio.sleep(600)  # the gateway did not speak of claims before

        assert limits == [2000, 1000, 0]
        assert isinstance(refused, Refusal)
        assert refused.code is RefusalCode.EXPOSURE
        assert owed == 27
        assert await one.states() == [State.SETTLED] * 3
        assert door.exposure() == 0
        assert isinstance((await work(door, 5, countersign=True))[-1], ReceiptSent)


async def test_a_claim_comes_soon_after_the_silence(autojump_clock: MockClock) -> None:
    """Half a minute of silence, then within ten seconds; it shows order, receipt and no voucher."""
    async with shop() as one, one.open() as node:
        door = await one.asker(node)
        till = Till(door, agree(door))
        till.open()
        sent = await leave(door)
        await trio.sleep(29)
        early = list(till.heard)
        await trio.sleep(1 + CLAIM_INTERVAL_S + 1)

        assert not early
        assert [claim.receipt for claim in till.heard] == [sent.envelope]
        assert till.heard[0].voucher is None
        assert await one.states() == [State.SETTLED]


@pytest.mark.parametrize(
    ("verdict", "charge", "state", "owed"),
    [
        (Verdict.ACCEPTED, 9, State.SETTLED, 0),
        (Verdict.ADJUSTED, 7, State.ADJUSTED, 0),
        (Verdict.DISPUTED, 0, State.DISPUTED, 9),
    ],
)
async def test_a_claim_is_settled_as_a_countersign_in_time(
    autojump_clock: MockClock, verdict: Verdict, charge: int, state: State, owed: int
) -> None:
    """Agreed to whole or in part it is paid; in dispute it stays held back."""
    async with shop() as one, one.open() as node:
        door = await one.asker(node)
        Till(door, agree(door, verdict=verdict, charge=charge, reason="so it is")).open()
        await leave(door)
        await trio.sleep(45)
        (paper,) = await one.papers.newest(2)

        assert (paper.state, paper.agreed, paper.note) == (state, charge, "so it is")
        assert paper.countersign_envelope is not None
        assert door.exposure() == owed


@pytest.mark.parametrize(
    "changes",
    [
        {"charge": 0},
        {"receipt_hash": b"x" * 32},
        {"verdict": Verdict.ADJUSTED, "charge": 10},
        {"verdict": Verdict.DISPUTED},
    ],
)
async def test_a_wrong_answer_settles_nothing(
    autojump_clock: MockClock, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for again a day later, here two hours, not at once."""
    monkeypatch.setattr(claims, "RETRY_MS_MAX", 7_200_000)
    async with shop() as one, one.open() as node:
        door = await one.asker(node)
        till = Till(door, agree(door, **changes))
        till.open()
        await leave(door)
        await trio.sleep(3600)

        assert await one.states() == [State.CLAIMED]
        assert door.exposure() == 9
        assert len(till.heard) == 1
        till.say = agree(door)
        await trio.sleep(7200)
        assert await one.states() == [State.SETTLED]


async def test_a_refusal_says_when_to_come_back(autojump_clock: MockClock) -> None:
    """Not before, and never if it is for good; what was refused is still owed."""
    async with shop() as one, one.open() as node:
        door = await one.asker(node)
        till = Till(door, lambda claim: ClaimRefused(reason="later", retry_after_ms=100_000))
        till.open()
        await leave(door)
        await trio.sleep(100)
        asked = len(till.heard)
        till.say = lambda claim: ClaimRefused(reason="never heard of it\n", retry_after_ms=0)
        await trio.sleep(7200)
        (paper,) = await one.papers.newest(2)

        assert asked == 1
        assert len(till.heard) == 2
        assert (paper.state, paper.note) == (State.REFUSED, "never heard of it ")
        assert door.exposure() == 9


async def test_claims_come_in_bounded_batches(autojump_clock: MockClock) -> None:
    """At most 64 on a stream, and one stream at a time."""
    async with shop() as one, one.open() as node:
        door = await one.asker(node)
        for number in range(150):
            await leave(door, number)
            if number % 3 == 2:  # or nothing more would be done for who leaves so often
                node.serving._till.lanes.exposures._accounts.clear()
        till = Till(door, agree(door))
        till.open()
        await trio.sleep(120)

        assert till.streams == [64, 64, 22]
        assert set(await one.states()) == {State.SETTLED}


async def hang(stream: Stream) -> None:
    await trio.sleep_forever()


async def end(stream: Stream) -> None:
    await stream.close()


async def babble(stream: Stream) -> None:
    await stream.send(b"\xff" * 1000)


@pytest.mark.parametrize("handle", [None, hang, end, babble])
async def test_a_gateway_that_does_not_answer_is_left_alone_for_longer_and_longer(
    autojump_clock: MockClock, handle: Callable[[Stream], Awaitable[None]] | None
) -> None:
    """It costs the node a stream an hour in the end, and others nothing: their claims go on meanwhile."""
    async with shop() as one, one.open() as node:
        silent, good = await one.asker(node), await one.asker(node)
        opened = 0

        async def count(stream: Stream) -> None:
            nonlocal opened
            opened += 1
            if handle is not None:
                await handle(stream)

        if handle is not None:
            silent.network.serve(protocols.CLAIM, count)
        Till(good, agree(good)).open()
        await leave(silent)
        await leave(good)
        await trio.sleep(45)
        settled_soon = (await one.states()).count(State.SETTLED)
        await trio.sleep(6 * 3600)

        assert settled_soon == 1
        assert (await one.states()).count(State.CLAIMED) == 1
        assert opened <= 6 + 6
        assert silent.exposure() == 9


# After a restart.


async def test_a_node_that_starts_again_knows_its_lanes(autojump_clock: MockClock) -> None:
    """The next order of a lane is taken, the last one is not; the sum goes on."""
    async with shop() as one:
        async with one.open() as node:
            door = await one.asker(node)
            first = door.ask(door.order(REQUEST, lane()), REQUEST)
            (*_, sent) = await door.hear_all(first)
            assert isinstance(sent, ReceiptSent)
            receipt = door.opened(sent)
        async with one.open() as node:
            door = await again(one, door, node)
            (refused,) = await door.hear_all(first)
            after = advance(lane(), sent.envelope, receipt.charge)
            (*_, second) = await door.hear_all(door.ask(door.order(REQUEST, after), REQUEST))

        assert isinstance(refused, Refusal)
        assert isinstance(second, ReceiptSent)
        assert door.opened(second).seq == 1
        assert door.opened(second).cum_charge == 2 * receipt.charge
        assert door.opened(second).prev_receipt == after.head
        assert await one.states() == [State.SETTLED, State.SETTLED]


async def again(one: Shop, door: Gate, node: Node) -> Gate:
    """The same asker in front of the node that was started again."""
    await trio.sleep(0.1)
    await door.network.connect(node.network.addresses[0])
    return Gate(one.here, node, door.identity, door.network)


async def test_a_job_that_ran_when_its_node_died_ends_without_a_receipt(autojump_clock: MockClock) -> None:
    """Its lane is closed, so that the same order is not worked again; nothing is owed for it."""
    async with shop(engine=ScriptedEngine(hang_at=2)) as one:
        async with one.open() as node:
            door = await one.asker(node)
            ask = door.ask(door.order(REQUEST, lane()), REQUEST)
            async with converse(door.network, node.network.peer) as talk:
                await talk.say(ask)
                await talk.hear()
                await talk.hear()
                kept = MemoryPapers()  # as the disk was when the power went
                kept._papers = dict(one.papers._papers)
        one.papers, one.engine.hang_at = kept, None
        async with one.open() as node:
            door = await again(one, door, node)
            (refused,) = await door.hear_all(ask)

            assert isinstance(refused, Refusal)
            assert refused.code is RefusalCode.LANE_UNKNOWN
            assert await one.states() == [State.LOST]
            assert door.exposure() == 0
            assert isinstance((await work(door, 1, countersign=True))[-1], ReceiptSent)


async def test_silences_and_claims_survive_a_restart(autojump_clock: MockClock) -> None:
    """Who owed three receipts before gets no work after, until the claims are answered."""
    async with shop(exposure_max=3000) as one:
        async with one.open() as node:
            door = await one.asker(node)
            for number in range(3):
                await leave(door, number)
        await trio.sleep(31)
        async with one.open() as node:
            door = await again(one, door, node)
            (refused,) = await work(door, 4)
            Till(door, agree(door)).open()
            await trio.sleep(CLAIM_INTERVAL_S + 60)

            assert isinstance(refused, Refusal)
            assert refused.code is RefusalCode.EXPOSURE
            assert await one.states() == [State.SETTLED] * 3
            assert isinstance((await work(door, 5, countersign=True))[-1], ReceiptSent)


async def test_a_lane_in_dispute_is_still_closed_after_a_restart(autojump_clock: MockClock) -> None:
    """Its next order is refused before and after."""
    async with shop() as one:
        async with one.open() as node:
            door = await one.asker(node)
            async with converse(door.network, node.network.peer) as talk:
                await talk.say(door.ask(door.order(REQUEST, lane()), REQUEST))
                while not isinstance(sent := await talk.hear(), ReceiptSent):
                    pass
                await talk.say(door.countersign(sent, verdict=Verdict.DISPUTED, charge=0))
            after = advance(Lane(lane=lane().lane), sent.envelope, 9)
            await node.serving.idle()
            (before,) = await door.hear_all(door.ask(door.order(REQUEST, after), REQUEST))
        async with one.open() as node:
            door = await again(one, door, node)
            (refused,) = await door.hear_all(door.ask(door.order(REQUEST, after), REQUEST))

        assert isinstance(before, Refusal)
        assert isinstance(refused, Refusal)
        assert before.code is refused.code is RefusalCode.LANE_UNKNOWN
