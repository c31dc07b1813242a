"""Wall clocks that differ and that jump. What is signed names wall time; everything else waits by its own clock."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.errors import JobRefused, NoNode
from cxp2p.records import RefusalCode, Verdict
from worlds import Ledgerbook, ScriptedEngine, World, ask, settled, world

HOUR_MS = 3_600_000

pytestmark = pytest.mark.slow


@dataclass
class Clock:
    """The world's time, set wrong by `wrong_ms`."""

    here: World
    wrong_ms: int = 0

    def __call__(self) -> int:
        return self.here.wall_ms() + self.wrong_ms


@pytest.mark.parametrize("wrong_ms", [-protocols.CLOCK_SKEW_MS_MAX + 1000, protocols.CLOCK_SKEW_MS_MAX - 1000])
async def test_clocks_may_differ_by_half_a_minute(autojump_clock: MockClock, wrong_ms: int) -> None:
    """A node that is up to 30 s early or late is found, does jobs, and is paid."""
    async with world() as here:
        await here.node(ScriptedEngine(), wall_ms=Clock(here, wrong_ms))
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        for _ in range(3):
            assert await ask(net, books=books) == "one two three "
            await trio.sleep(30)

        assert [each.countersign.verdict for each in books.settled] == [Verdict.ACCEPTED] * 3


async def test_a_node_that_is_two_minutes_late_says_what_is_wrong(autojump_clock: MockClock) -> None:
    """Its offers are believed, as they are only old; it refuses our orders, and tells to check both clocks."""
    async with world() as here:
        await here.node(ScriptedEngine(), wall_ms=Clock(here, -120_000))
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        with pytest.raises(JobRefused, match="check both clocks") as caught:
            await ask(net, books=books)

        assert caught.value.code is RefusalCode.ORDER_INVALID
        assert not books.held


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, -60_000, 60_000, HOUR_MS, 1000 * HOUR_MS])
@pytest.mark.parametrize("whose", ["node", "asker", "both"])
async def test_a_clock_that_jumps_ends_no_job_and_no_program(
    autojump_clock: MockClock, whose: str, jump_ms: int
) -> None:
    """A job that runs is finished and settled; later ones may be refused; when the clock is right again all is well."""
    async with world() as here:
        nodes, askers = Clock(here), Clock(here)
        node = await here.node(ScriptedEngine(), wall_ms=nodes)
        net, books = await here.asker(wall_ms=askers), Ledgerbook()
        await settled(net, 1)
        jumping = [nodes] * (whose != "asker") + [askers] * (whose != "node")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, net, "one two three four", books)
            await trio.sleep(0.25)
            for clock in jumping:
                clock.wrong_ms = jump_ms
        (settlement,) = books.settled
        assert settlement.countersign.verdict is Verdict.ACCEPTED
        assert settlement.receipt.t_accept_ms <= settlement.receipt.t_first_ms <= settlement.receipt.t_end_ms
        for _ in range(5):
            try:
                await ask(net, books=books)
            except (NoNode, JobRefused):
                await trio.lowlevel.checkpoint()
            await trio.sleep(20)
        for clock in jumping:
            clock.wrong_ms = 0
        await trio.sleep(protocols.OFFER_LIFE_MS_MAX / 1000)
        await settled(net, 1)
        assert await ask(net, books=books) == "one two three "
        await node.serving.idle()

        assert not books.held
        assert not any(entry.jobs for entry in net.offers())
