"""Requests for pages when nodes are full, credit is short, or the asker has had enough. Virtual time."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Net, Scraped
from cxp2p.errors import CxError, InsufficientCredit, JobRefused
from cxp2p.records import Order, RefusalCode, ScrapeJob
from scrapers import PageEngine, network_of, right, scrape, urls_of
from worlds import Ledgerbook, settled, world

MANY = urls_of(hosts=10, each=5)
ONE_HOST = urls_of(hosts=1, each=50)


async def test_a_network_without_any_room_says_so(autojump_clock: MockClock) -> None:
    """At once, with when to come back."""
    async with world() as here:
        net, books = await network_of(here, *[PageEngine(queue_max=0, slots=1, hang_at=0) for _ in range(2)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrape, net, MANY, books)
            await trio.sleep(1)
            with pytest.raises(JobRefused) as refused:
                await scrape(net, MANY, books)
            nursery.cancel_scope.cancel()
        assert refused.value.code is RefusalCode.BUSY
        assert refused.value.retry_after_ms > 0


async def test_shares_without_room_wait_for_those_that_run(autojump_clock: MockClock) -> None:
    """Two nodes of one slot and no queue, and somebody else's work on one of them: everything is done all the same."""
    async with world() as here:
        engines = [PageEngine(queue_max=0, slots=1), PageEngine(queue_max=0, slots=1)]
        net, books = await network_of(here, *engines)
        other = await here.asker()
        await settled(other, 2)
        results: list[Scraped] = []
        async with trio.open_nursery() as nursery:

            async def one(asker: Net) -> None:
                results.append(await scrape(asker, MANY, books))

            nursery.start_soon(partial(scrape, other, ONE_HOST[:3], Ledgerbook()))
            await trio.sleep(0.1)
            nursery.start_soon(one, net)

    assert results[0].pages == right(MANY)


async def test_credit_for_one_share_at_a_time_is_enough(autojump_clock: MockClock) -> None:
    """Holds are for the most that an order may cost, so several at once may be more than there is."""

    class Poor(Ledgerbook):
        async def reserve(self, order: Order, envelope: bytes) -> None:
            await trio.lowlevel.checkpoint()
            if self.held:
                raise InsufficientCredit("one at a time")
            await super().reserve(order, envelope)

    async with world() as here:
        net, _ = await network_of(here, PageEngine(), PageEngine())
        books = Poor()
        assert (await scrape(net, MANY, books)).pages == right(MANY)
        assert not books.held


async def test_no_credit_at_all_is_told(autojump_clock: MockClock) -> None:
    """Once, not as an endless wait."""

    class Empty(Ledgerbook):
        async def reserve(self, order: Order, envelope: bytes) -> None:
            await trio.lowlevel.checkpoint()
            raise InsufficientCredit("none")

    async with world() as here:
        net, _ = await network_of(here, PageEngine(), PageEngine())
        with pytest.raises(InsufficientCredit):
            await scrape(net, MANY, Empty())


async def test_who_takes_the_bytes_can_end_the_request(autojump_clock: MockClock) -> None:
    """It is told of every piece before that is kept."""
    sizes: list[int] = []

    def took(size: int) -> None:
        sizes.append(size)
        if sum(sizes) > 1000:
            raise CxError("no more room")

    async with world() as here:
        engines = [PageEngine(), PageEngine()]
        net, books = await network_of(here, *engines)
        with pytest.raises(CxError, match="no more room"):
            await net.run_scrape(ScrapeJob(model="web", urls=tuple(MANY)), books, took=took)
        await trio.sleep(1)
        assert [engine.running for engine in engines] == [0, 0]
        assert not books.held
