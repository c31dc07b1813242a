"""Pages of many URLs over several nodes: in order, each host by one node, whatever a node does. Virtual time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

import cxp2p.scrape
from cxp2p.client import Scraped
from cxp2p.errors import CxError, JobFailed, JobRefused, NoNode
from cxp2p.net.memory import MemoryNetwork
from cxp2p.records import (
    FailureCode,
    Finish,
    PageFault,
    PageForm,
    Render,
    ScrapedPage,
    ScrapeJob,
    Verdict,
)
from cxp2p.scrape import host_of
from scrapers import PageEngine, network_of, page_of, right, scrape, urls_of
from worlds import Ledgerbook, settled, world

FEW = urls_of(hosts=3, each=1)
MANY = urls_of(hosts=10, each=5)
ONE_HOST = urls_of(hosts=1, each=50)


def times_fetched(engines: Sequence[PageEngine]) -> dict[str, int]:
    """How often each URL was fetched."""
    fetched: dict[str, int] = {}
    for engine in engines:
        for url, _ in engine.fetched:
            fetched[url] = fetched.get(url, 0) + 1
    return fetched


def hosts_of(engine: PageEngine) -> set[str]:
    return {host_of(url) for url, _ in engine.fetched}


# As it should be.


async def test_a_few_urls_are_one_order(autojump_clock: MockClock) -> None:
    """With its receipt; pages asked for and pages with content are paid, to the µcredit."""
    async with world() as here:
        engines = [PageEngine(), PageEngine()]
        net, books = await network_of(here, *engines)
        got = await scrape(net, [*FEW, "https://h9.example/dns_error"], books)

    assert got.pages == right([*FEW, "https://h9.example/dns_error"])
    (outcome,), (settlement,) = got.outcomes, books.settled
    assert outcome.settlement == settlement
    assert settlement.countersign.verdict is Verdict.ACCEPTED
    assert settlement.countersign.charge == 4 + 2 * 3
    assert sum(len(engine.jobs) for engine in engines) == 1


async def test_the_library_asks_for_pages_in_one_call(autojump_clock: MockClock) -> None:
    """All that can be wanted of a page reaches the node; who has just come waits for the first node."""
    engine = PageEngine()
    async with world() as here:
        net = await here.asker()
        await here.node(engine)
        got = await net.scrape(
            FEW[0],
            form=PageForm.TEXT,
            main_only=False,
            links=True,
            timeout_s=7,
            age_s_max=60,
            render=Render.AUTO,
            wait_ms=500,
        )
        with pytest.raises(NoNode, match="no live node"):
            await net.scrape(FEW, model="nobody", patience_s=1)
        with pytest.raises(JobRefused, match="URL 1 has 2049 letters"):
            await net.scrape(["https://a.example/", "x" * 2049])
        with pytest.raises(JobRefused, match="51 URLs are not between 1 and 50"):
            await net.scrape(urls_of(51, 1))

    assert got.pages == right(FEW[:1])
    assert engine.jobs == [
        ScrapeJob(
            model="web",
            urls=(FEW[0],),
            form=PageForm.TEXT,
            main_only=False,
            links=True,
            timeout_s=7,
            age_s_max=60,
            render=Render.AUTO,
            wait_ms=500,
        )
    ]


async def test_many_urls_are_split_over_nodes_by_host(autojump_clock: MockClock) -> None:
    """In order; no host is fetched by two nodes, all nodes work at once, and each has a receipt."""
    async with world() as here:
        engines = [PageEngine() for _ in range(3)]
        net, books = await network_of(here, *engines)
        started = trio.current_time()
        got = await scrape(net, MANY, books)
        took_s = trio.current_time() - started

    assert got.pages == right(MANY)
    assert set(times_fetched(engines).values()) == {1}
    assert sorted(len(hosts_of(engine)) for engine in engines) == [3, 3, 4]
    assert len(set.union(*map(hosts_of, engines))) == 10
    assert len(got.outcomes) == len(books.settled) == 3
    assert took_s < 20 * 0.1 + 1
    assert not books.held


async def test_pages_of_one_host_are_one_nodes(autojump_clock: MockClock) -> None:
    """Although others are free: whoever fetches them makes pauses between them."""
    async with world() as here:
        engines = [PageEngine() for _ in range(3)]
        net, books = await network_of(here, *engines)
        got = await scrape(net, ONE_HOST, books)

    assert got.pages == right(ONE_HOST)
    assert sorted(len(engine.jobs) for engine in engines) == [0, 0, 1]


async def test_a_host_stays_with_its_node_for_a_while(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Requests at once and one after another; when its time is over it may be another one."""
    monkeypatch.setattr(cxp2p.scrape, "HOME_S", 30.0)
    async with world() as here:
        engines = [PageEngine() for _ in range(4)]
        net, books = await network_of(here, *engines)
        async with trio.open_nursery() as nursery:
            for start in range(0, 40, 8):
                nursery.start_soon(scrape, net, ONE_HOST[start : start + 8], books)
        for url in ONE_HOST[40:]:
            await trio.sleep(1)
            await scrape(net, [url], books)
        assert sorted(len(engine.jobs) for engine in engines) == [0, 0, 0, 15]
        for _ in range(12):
            await trio.sleep(31)
            await scrape(net, ONE_HOST[:1], books)

    assert sum(bool(engine.jobs) for engine in engines) > 1


async def test_a_node_that_gets_nothing_of_a_host_does_not_keep_it(autojump_clock: MockClock) -> None:
    """Others may reach what it cannot, or says it cannot."""
    urls = urls_of(hosts=10, each=1)
    refused = ScrapedPage(number=0, fault=PageFault.CONNECT_ERROR)
    async with world() as here:
        engines = [PageEngine(pages=dict.fromkeys(urls, refused)), PageEngine()]
        net, books = await network_of(here, *engines)
        for _ in range(16):
            for url in urls:
                await scrape(net, [url], books)
        assert 0 < len(engines[0].jobs) < 10 * 8
        engines[0].jobs.clear()
        for url in urls:
            await scrape(net, [url], books)

    assert not engines[0].jobs


async def test_a_url_that_is_there_twice_is_fetched_once(autojump_clock: MockClock) -> None:
    """Also with another fragment, or its host in capitals; each has its answer in its place."""
    urls = ["https://a.example/p", "https://b.example/q", "https://a.example/p", "https://A.Example/p#there"]
    async with world() as here:
        engine = PageEngine()
        net, books = await network_of(here, engine)
        got = await scrape(net, urls, books)

    page = page_of(urls[0])
    assert [each.number for each in got.pages if isinstance(each, ScrapedPage)] == [0, 1, 2, 3]
    assert {each.content for each in (got.pages[0], got.pages[2], got.pages[3]) if isinstance(each, ScrapedPage)} == {
        page.content
    }
    assert engine.jobs[0].urls == tuple(urls[:2])
    assert books.settled[0].countersign.charge == 2 + 2 * 2


@pytest.mark.parametrize("fault", list(PageFault))
async def test_a_fault_of_a_page_is_told_as_it_is(autojump_clock: MockClock, fault: PageFault) -> None:
    """It is not paid as a page, and nobody else is asked."""
    async with world() as here:
        engines = [PageEngine(), PageEngine()]
        net, books = await network_of(here, *engines)
        got = await scrape(net, [f"https://a.example/{fault}"], books)

    assert got.pages == right([f"https://a.example/{fault}"])
    assert sum(len(engine.jobs) for engine in engines) == 1
    assert books.settled[0].countersign.charge == 1


async def test_a_page_of_four_megabytes_comes_whole(autojump_clock: MockClock) -> None:
    """As large as a page may be."""
    url = "https://a.example/long"
    page = ScrapedPage(number=0, content="word " * 838_000)
    async with world() as here:
        net, books = await network_of(here, PageEngine(pages={url: page}))
        got = await scrape(net, [url], books)

    assert got.pages == (page,)


# Failures.


@pytest.mark.parametrize("fail_at", [0, 1, 9, 24])
async def test_an_engine_that_dies_in_the_middle_is_not_seen(autojump_clock: MockClock, fail_at: int) -> None:
    """Pages that had come whole are kept, unpaid; only what is missing is fetched elsewhere."""
    async with world() as here:
        dying, sound = PageEngine(fail_at=fail_at), PageEngine()
        net, books = await network_of(here, dying, sound)
        got = await scrape(net, MANY, books)

    assert got.pages == right(MANY)
    assert max(times_fetched([dying, sound]).values()) == 1
    assert sum(each.countersign.charge for each in books.settled) == 3 * (50 - fail_at)
    assert not books.held


async def test_a_node_that_is_killed_in_the_middle_is_not_seen(autojump_clock: MockClock) -> None:
    """Its hosts go to the other one; its orders are void."""
    async with world() as here:
        engines = [PageEngine(), PageEngine()]
        killed = await here.node(engines[0])
        await here.node(engines[1])
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 2)
        results: list[Scraped] = []
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                results.append(await scrape(net, MANY, books))

            nursery.start_soon(one)
            await trio.sleep(1.0)
            assert isinstance(killed.network, MemoryNetwork)
            await killed.network.kill(net.peer)
        assert host_of(engines[0].fetched[0][0]) in hosts_of(engines[1])

    assert results[0].pages == right(MANY)
    assert sum(times_fetched(engines).values()) <= len(MANY) + 1
    assert books.voided
    assert not books.held


@pytest.mark.parametrize("how", ["kill", "hang", "leave"])
@pytest.mark.parametrize("at", [0.0, 0.004, 0.02, 0.1, 0.106, 0.5, 1.3, 2.4, 2.5, 2.505, 2.51, 2.515, 2.6])
async def test_a_blow_at_any_moment_loses_and_doubles_nothing(how: str, at: float, autojump_clock: MockClock) -> None:
    """All pages are told; what is paid is what was signed for, and no page is paid twice."""
    async with world() as here:
        engines = [PageEngine(), PageEngine()]
        struck = await here.node(engines[0])
        await here.node(engines[1])
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 2)
        results: list[Scraped] = []
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                results.append(await scrape(net, MANY, books))

            nursery.start_soon(one)
            await trio.sleep(at)
            assert isinstance(struck.network, MemoryNetwork)
            match how:
                case "kill":
                    await struck.network.kill(net.peer)
                case "hang":
                    struck.network.hang()
                case "leave":
                    struck.serving.draining = True

        assert results[0].pages == right(MANY)
        paid = [each for each in books.settled if each.countersign.charge]
        assert sum(each.countersign.out_units for each in paid) <= 50
        assert sum(each.countersign.charge for each in paid) == 3 * sum(each.receipt.out_units for each in paid)
        assert {each.countersign.verdict for each in paid} == {Verdict.ACCEPTED}
        assert not books.held


async def test_what_no_node_can_do_has_its_error_beside_the_others_pages(autojump_clock: MockClock) -> None:
    """One host's pages are lost, those of another are told."""
    async with world() as here:
        engines = [PageEngine(fail_at=3), PageEngine()]
        net, books = await network_of(here, *engines)
        results: list[Scraped] = []
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                results.append(await scrape(net, urls_of(2, 8), books))

            nursery.start_soon(one)
            await trio.sleep(0.15)
            engines[1].ready = False
            engines[1]._call()

    got = results[0]
    errors = [page for page in got.pages if isinstance(page, CxError)]
    assert len(errors) == 5
    assert len({id(error) for error in errors}) == 1
    assert isinstance(errors[0], JobFailed)
    assert errors[0].code is FailureCode.ENGINE_DIED
    assert sum(isinstance(page, ScrapedPage) for page in got.pages) == 11
    assert not books.held


async def test_a_single_node_that_breaks_off_says_so(autojump_clock: MockClock) -> None:
    """Before it had any page there is nothing to tell but that."""
    async with world() as here:
        net, books = await network_of(here, PageEngine(fail_at=0))
        with pytest.raises(JobFailed) as failed:
            await scrape(net, FEW, books)
        assert failed.value.code is FailureCode.ENGINE_DIED
        with pytest.raises(NoNode):
            await net.run_scrape(ScrapeJob(model="nobody", urls=("https://a.example/",)), books)
        assert not books.held


async def test_who_leaves_stops_all_nodes(autojump_clock: MockClock) -> None:
    """Within a tenth of a second, and owes the pages that were there."""
    async with world() as here:
        engines = [PageEngine() for _ in range(3)]
        net, books = await network_of(here, *engines)
        with trio.move_on_after(0.75) as scope:
            await scrape(net, MANY, books)
        assert scope.cancelled_caught
        left = scope.deadline
        await trio.sleep(1)
        stopped = [at for engine in engines for at in engine.stopped_at]
        assert len(stopped) == 3
        assert all(at - left < 0.1 for at in stopped)
        assert {settlement.receipt.finish for settlement in books.settled} == {Finish.CANCELLED}
        assert 0 < sum(settlement.countersign.out_units for settlement in books.settled) <= 3 * 8
        assert not books.held


async def test_at_the_deadline_what_is_there_is_told_and_paid(autojump_clock: MockClock) -> None:
    """The rest timed out; nobody else is asked for it."""
    async with world() as here:
        engines = [PageEngine(hang_at=5), PageEngine(hang_at=5), PageEngine()]
        net, books = await network_of(here, *engines)
        started = trio.current_time()
        got = await scrape(net, MANY, books, deadline_s=20)
        assert 20 <= trio.current_time() - started < 23

    there = [page for page in got.pages if isinstance(page, ScrapedPage)]
    late = [page for page in got.pages if isinstance(page, JobFailed)]
    assert len(there) + len(late) == 50
    assert {error.code for error in late} == {FailureCode.TIMEOUT}
    assert set(there) < set(right(MANY))
    assert sum(each.countersign.out_units for each in books.settled) == len(there)
    assert sum(len(engine.jobs) for engine in engines) == 3
    assert not books.held


async def test_a_node_that_hangs_is_left_for_another(autojump_clock: MockClock) -> None:
    """After the longest that so many pages may take, long before the deadline of the request."""
    async with world() as here:
        engines = [PageEngine(hang_at=1), PageEngine(pause_s=1)]
        net, books = await network_of(here, *engines)
        for host in range(8):
            urls = (f"https://h{host}.example/p1", f"https://h{host}.example/p2")
            started = trio.current_time()
            got = await net.run_scrape(ScrapeJob(model="web", urls=urls, timeout_s=5), books)
            assert got.pages == right(urls)
            assert trio.current_time() - started < 115
        assert not books.held

    assert engines[0].jobs
    assert engines[0].stopped_at


async def test_a_deadline_before_the_first_page_is_an_error(autojump_clock: MockClock) -> None:
    """There is nothing to tell."""
    async with world() as here:
        net, books = await network_of(here, PageEngine(hang_at=0))
        with pytest.raises(JobFailed) as failed:
            await scrape(net, FEW, books, deadline_s=10)
        assert failed.value.code is FailureCode.TIMEOUT
        assert not books.held
