"""The money and the receipts of scraping, with real nodes and a real asker in memory and virtual time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Scraped
from cxp2p.errors import CxError, InsufficientCredit, JobFailed, NoNode
from cxp2p.records import FailureCode, ScrapedPage, ScrapeJob, Service, Verdict
from cxp2p.scrape import AT_ONCE_MAX
from cxp2p_gateway.asking import Overloaded
from cxp2p_gateway.dispatch import DispatchOptions
from gates import CALLER, CREDIT, OTHER, Gateway, gateway
from scrapers import PageEngine, right, urls_of

FEW = urls_of(hosts=2, each=2)
MANY = urls_of(hosts=10, each=5)


def nothing(size: int) -> None:
    """Has room for everything."""


async def scrape(
    gate: Gateway, urls: Sequence[str], generation: str = "scrape-1", *, model: str = "web", deadline_s: float = 600.0
) -> Scraped:
    job = ScrapeJob(model=model, urls=tuple(urls))
    return await gate.dispatch.scrape(CALLER, generation, job, took=nothing, deadline_s=deadline_s)


async def test_pages_are_paid_to_the_nodes_that_fetched_them(autojump_clock: MockClock) -> None:
    """Held before and posted after; all receipts are kept under one id, for its account only."""
    async with gateway() as (here, gate):
        nodes = [await here.node(PageEngine()) for _ in range(3)]
        await gate.live(3)
        urls = [*MANY[:-1], "https://h9.example/dns_error"]
        got = await scrape(gate, urls)
        kept = await gate.receipts(CALLER, "scrape-1")

        assert got.pages == right(urls)
        assert len(got.outcomes) == 3
        cost = 50 + 2 * 49
        assert sum(outcome.settlement.countersign.charge for outcome in got.outcomes) == cost
        assert gate.balance() == CREDIT - cost
        assert sum(gate.balance(f"node:{node.network.peer}") for node in nodes) == cost
        assert all(gate.balance(f"node:{node.network.peer}") for node in nodes)
        assert gate.held() == 0
        assert {each.order_envelope for each in kept} == {each.settlement.order_envelope for each in got.outcomes}
        assert sum(each.receipt.out_units for each in kept) == 49
        assert {each.order.service for each in kept} == {Service.SCRAPE}
        assert await gate.receipts(OTHER, "scrape-1") == ()


async def test_what_breaks_off_costs_nothing(autojump_clock: MockClock) -> None:
    """What is asked for again elsewhere is paid there, once."""
    async with gateway() as (here, gate):
        dying = await here.node(PageEngine(fail_at=4))
        await here.node(PageEngine())
        await gate.live(2)
        assert (await scrape(gate, MANY)).pages == right(MANY)

        assert gate.balance(f"node:{dying.network.peer}") == 0
        assert gate.balance() == CREDIT - 3 * 46
        assert gate.held() == 0
        kept = await gate.receipts(CALLER, "scrape-1")
        assert {each.countersign.verdict for each in kept} == {Verdict.ACCEPTED}


async def test_at_the_deadline_what_was_fetched_is_paid(autojump_clock: MockClock) -> None:
    """And its receipt is kept, although no job came to its end."""
    async with gateway() as (here, gate):
        await here.node(PageEngine(hang_at=3))
        await gate.live(1)
        got = await scrape(gate, FEW, deadline_s=10)
        kept = await gate.receipts(CALLER, "scrape-1")

        assert sum(isinstance(page, ScrapedPage) for page in got.pages) == 3
        assert [each.receipt.finish for each in kept] == ["cancelled"]
        assert gate.balance() == CREDIT - 4 - 2 * 3
        assert gate.held() == 0


async def test_little_credit_does_one_share_after_another(autojump_clock: MockClock) -> None:
    """What orders may cost at most is more than they cost; too little for one of them is an error."""
    async with gateway(credit=155) as (here, gate):
        for _ in range(2):
            await here.node(PageEngine())
        await gate.live(2)
        assert (await scrape(gate, MANY)).pages == right(MANY)
        assert gate.balance() == 5
        with pytest.raises(InsufficientCredit):
            await scrape(gate, FEW)
        assert gate.held() == 0


async def test_a_large_request_takes_no_more_jobs_than_there_is_room_for(autojump_clock: MockClock) -> None:
    """It is slower then; and while it runs its jobs count, so that the next one is told to come back."""
    async with gateway(options=DispatchOptions(jobs_max=3)) as (here, gate):
        engines = [PageEngine() for _ in range(5)]
        for engine in engines:
            await here.node(engine)
        await gate.live(5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrape, gate, MANY)
            await trio.sleep(0.5)
            assert gate.dispatch.running == 3
            assert sum(engine.running for engine in engines) == 3
            with pytest.raises(Overloaded):
                await scrape(gate, FEW)
        assert gate.dispatch.running == 0
        assert all(engine.fetched for engine in engines)


async def test_pages_of_one_host_take_the_room_of_one_job(autojump_clock: MockClock) -> None:
    """And those of fifty hosts that of sixteen."""
    async with gateway() as (here, gate):
        await here.node(PageEngine())
        await gate.live(1)
        for urls, room in ((urls_of(1, 50), 1), (urls_of(50, 1), AT_ONCE_MAX)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scrape, gate, urls)
                await trio.sleep(0.05)
                assert gate.dispatch.running == room


async def test_a_young_gateway_waits_for_its_first_node(autojump_clock: MockClock) -> None:
    """As for chats: for a moment, then it says that there is none."""
    async with gateway() as (here, gate):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrape, gate, FEW)
            await trio.sleep(1)
            assert gate.dispatch.running == 2
            nursery.cancel_scope.cancel()
        await here.node(PageEngine())
        assert (await scrape(gate, FEW)).pages == right(FEW)
        with pytest.raises(NoNode):
            await scrape(gate, FEW, model="nobody")
        with pytest.raises(JobFailed) as failed:
            await scrape(gate, FEW, model="nobody", deadline_s=1)
        assert failed.value.code is FailureCode.TIMEOUT


async def test_whoever_takes_the_pages_may_refuse_them(autojump_clock: MockClock) -> None:
    """The gateway's memory is full: nothing stays held, and nothing runs on."""

    def full(size: int) -> None:
        raise CxError("no room")

    async with gateway() as (here, gate):
        engine = PageEngine()
        await here.node(engine)
        await gate.live(1)
        job = ScrapeJob(model="web", urls=tuple(FEW))
        with pytest.raises(CxError, match="no room"):
            await gate.dispatch.scrape(CALLER, "scrape-1", job, took=full, deadline_s=600)
        await trio.sleep(3)
        assert engine.running == 0
        assert gate.held() == 0
