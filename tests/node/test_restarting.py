"""What a node remembers across a restart, and what it does when its papers cannot be written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from claimed import QUIET, Till, again, agree, leave, shop, work
from cxp2p.net import discover
from cxp2p.net.pump import converse
from cxp2p.receipts import Lane, advance
from cxp2p.records import (
    Failure,
    FailureCode,
    Receipt,
    ReceiptSent,
    Refusal,
    RefusalCode,
    Verdict,
)
from cxp2p_node.claims import CLAIM_INTERVAL_S
from cxp2p_node.config import ReceiptSettings
from cxp2p_node.papers import Answer, Paper, PapersError, State
from cxp2p_node.papers.memory import MemoryPapers
from strangers import REQUEST, lane
from worlds import ScriptedEngine


@pytest.fixture(autouse=True)
def quiet_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours pass here, in a network where nobody else is."""
    monkeypatch.setattr(discover, "EXCHANGE_S_FIRST", 300.0)


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


# When the disk is full.


class FullPapers(MemoryPapers):
    """Papers that cannot do one kind of call."""

    failing = ""

    async def take(self, paper: Paper) -> None:
        self._fail("take")
        await super().take(paper)

    async def vouch(self, paper: Paper, envelope: bytes, vouched: int) -> None:
        self._fail("vouch")
        await super().vouch(paper, envelope, vouched)

    async def finish(self, paper: Paper, receipt: Receipt, envelope: bytes, wall_ms: int) -> None:
        self._fail("finish")
        await super().finish(paper, receipt, envelope, wall_ms)

    async def settle(self, paper: Paper, answer: Answer) -> bool:
        self._fail("settle")
        return await super().settle(paper, answer)

    def _fail(self, call: str) -> None:
        if call == self.failing:
            raise PapersError("the disk is full")


async def test_an_order_that_cannot_be_written_down_is_refused(autojump_clock: MockClock) -> None:
    """No work is done for it, and it says when to come back; nothing stays reserved."""
    papers = FullPapers()
    papers.failing = "take"
    async with shop(papers=papers) as one, one.open() as node:
        door = await one.asker(node)
        (refused,) = await work(door)
        await node.serving.idle()

        assert isinstance(refused, Refusal)
        assert (refused.code, refused.retry_after_ms) == (RefusalCode.BUSY, 60_000)
        assert one.engine.started == 0
        assert door.exposure() == 0
        papers.failing = ""
        assert isinstance((await work(door, 1, countersign=True))[-1], ReceiptSent)


async def test_a_receipt_that_cannot_be_written_down_is_not_sent(autojump_clock: MockClock) -> None:
    """The job fails, and costs nothing."""
    papers = FullPapers()
    papers.failing = "finish"
    async with shop(papers=papers) as one, one.open() as node:
        door = await one.asker(node)
        failed = (await work(door))[-1]
        await node.serving.idle()

        assert isinstance(failed, Failure)
        assert failed.code is FailureCode.INTERNAL
        assert await one.states() == [State.LOST]
        assert door.exposure() == 0


async def test_a_countersign_that_cannot_be_written_down_is_claimed(autojump_clock: MockClock) -> None:
    """The gateway is asked for it again."""
    papers = FullPapers()
    papers.failing = "settle"
    async with shop(papers=papers) as one, one.open() as node:
        door = await one.asker(node)
        Till(door, agree(door)).open()
        await work(door, countersign=True)
        await node.serving.idle()
        owed, papers.failing = door.exposure(), ""
        await trio.sleep(45)

        assert owed == 9
        assert await one.states() == [State.SETTLED]
        assert door.exposure() == 0


@pytest.mark.slow
async def test_papers_that_are_too_many_are_dropped_while_the_node_runs(autojump_clock: MockClock) -> None:
    """However many orders come; with one that is still owed its weight goes, too."""
    rhythm = replace(QUIET, claim_s=300.0, tidy_s=300.0)
    async with shop(keeping=ReceiptSettings(kept_max=100, days=1), rhythm=rhythm) as one, one.open() as node:
        door = await one.asker(node)
        await leave(door)
        for number in range(1, 121):
            await work(door, number, countersign=True)
        await trio.sleep(400)
        count, owed = len(await one.states()), door.exposure()
        await trio.sleep(25 * 3600)

        assert (count, owed) == (100, 9)
        assert await one.states() == []
        assert door.exposure() == 0
