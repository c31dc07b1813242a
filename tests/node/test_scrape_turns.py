"""When pages are fetched, in memory and virtual time: turns of hosts, pauses, hosts that do not answer."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from cxp2p.egress import Target
from cxp2p.records import PageFault
from cxp2p_node.scrape.fetched import Fetched, FetchRefused
from cxp2p_node.scrape.manners import FAILURES_MAX, UNWELL_S
from cxp2p_node.scrape.replies import PAUSE_S_MAX, PAUSE_S_UNTOLD, RETRY_S_MAX
from cxp2p_node.scrape.robots import CRAWL_DELAY_S_MAX
from cxp2p_node.scrape.turns import HOST_WAITERS_MAX
from webs import (
    Asked,
    Line,
    Web,
    all_of,
    allowing,
    fetch,
    fetcher_in_memory,
    outcome,
    refused,
    says_hello,
    with_robots,
)

A = "http://a.example/"


async def test_fifty_pages_of_one_host_come_one_by_one(autojump_clock: MockClock) -> None:
    """With a second after each, and robots.txt once."""

    async def slowly(asked: Asked, line: Line) -> None:
        await trio.sleep(0.25)
        await line.page()

    web = Web({"*": allowing(slowly)})
    async with fetcher_in_memory(web) as fetcher:
        found = await all_of(fetcher, [f"{A}{number}" for number in range(50)], wait_s=100.0)

    assert all(isinstance(page, Fetched) for page in found.values())
    assert web.open_most == 1
    assert web.paths(robots=True).count("/robots.txt") == 1
    times = [each.at for each in web.asked if each.path != "/robots.txt"]
    assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx([1.25] * 49)


async def test_fifty_pages_of_fifty_hosts_come_side_by_side(autojump_clock: MockClock) -> None:
    """As many at once as the setting says: fifty pages of a second each take two seconds."""

    async def slowly(asked: Asked, line: Line) -> None:
        await trio.sleep(1)
        await line.page()

    web = Web({"*": allowing(slowly)})
    async with fetcher_in_memory(web, at_once=25) as fetcher:
        begun = trio.current_time()
        found = await all_of(fetcher, [f"http://host{number}.example/" for number in range(50)])

        assert all(isinstance(page, Fetched) for page in found.values())
        assert web.open_most == 25
        assert trio.current_time() - begun == pytest.approx(2)


async def test_a_host_is_one_whatever_its_scheme_and_port(autojump_clock: MockClock) -> None:
    web = Web()
    async with fetcher_in_memory(web) as fetcher:
        await all_of(
            fetcher, ["http://a.example/", "https://a.example/", "http://a.example:8080/", "http://A.example./x"]
        )

    times = sorted(each.at for each in web.asked if each.path != "/robots.txt")
    assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx([1.0] * 3)


@pytest.mark.parametrize(
    ("said", "delay_s"), [("0.5", 1.0), ("3", 3.0), ("1e9", CRAWL_DELAY_S_MAX), ("nan", 1.0), ("-5", 1.0), ("x", 1.0)]
)
async def test_a_crawl_delay_is_honoured_within_bounds(autojump_clock: MockClock, said: str, delay_s: float) -> None:
    """It makes pauses longer, never shorter than the setting."""
    web = Web({"*": with_robots(f"User-agent: *\nCrawl-delay: {said}\n")})
    async with fetcher_in_memory(web) as fetcher:
        await fetch(fetcher, A)
        await fetch(fetcher, A)

    _, first, second = web.asked
    assert second.at - first.at == pytest.approx(delay_s)


async def test_who_has_no_turn_in_time_is_told(autojump_clock: MockClock) -> None:
    """A page waits as long as it may, its own time is for itself, and who cannot come in time does not wait."""

    async def slowly(asked: Asked, line: Line) -> None:
        await trio.sleep(4)
        await line.page()

    web = Web({"*": allowing(slowly)})
    async with fetcher_in_memory(web) as fetcher:
        found = await all_of(fetcher, [f"{A}{number}" for number in range(5)], wait_s=11.0)

    assert [page for page in found.values() if not isinstance(page, Fetched)] == [PageFault.TIMEOUT] * 2
    assert len(web.paths()) == 3


async def test_too_many_for_one_host_are_refused_at_once(autojump_clock: MockClock) -> None:
    """And when they have gone there is room again."""

    async def hangs(asked: Asked, line: Line) -> None:
        await line.until_left()

    async with fetcher_in_memory(Web({"*": hangs})) as fetcher:
        async with trio.open_nursery() as nursery:
            for number in range(HOST_WAITERS_MAX):
                nursery.start_soon(outcome, fetcher, f"{A}{number}")
            await trio.testing.wait_all_tasks_blocked()
            begun = trio.current_time()

            assert "too many" in (await refused(fetcher, A + "more")).reason
            assert trio.current_time() == begun
            nursery.cancel_scope.cancel()
        assert len(fetcher._turns) == 0


@pytest.mark.parametrize("told", ["3", "Fri, 15 Jan 2027 08:00:03 GMT"])
async def test_a_host_that_asks_for_a_short_pause_is_asked_again_after_it(autojump_clock: MockClock, told: str) -> None:
    """Once, by the page that was sent away; all others wait too."""
    busy = [True]

    async def script(asked: Asked, line: Line) -> None:
        await (line.page("", 503, retry_after=told) if busy and busy.pop() else line.page())

    web = Web({"*": allowing(script)})
    async with fetcher_in_memory(web) as fetcher:
        found = await all_of(fetcher, [A + "1", A + "2"])

    assert all(isinstance(page, Fetched) for page in found.values())
    first, second, third = (each.at for each in web.asked if each.path != "/robots.txt")
    assert second - first == pytest.approx(3)
    assert third - second == pytest.approx(1)


async def test_a_host_that_asks_for_a_long_pause_gets_it(autojump_clock: MockClock) -> None:
    """Its pages fail at once until then, with what it said; a pause of more than ten minutes is one of ten."""

    async def script(asked: Asked, line: Line) -> None:
        await line.page("", 429, retry_after="9999")

    web = Web({"*": allowing(script)})
    async with fetcher_in_memory(web) as fetcher:
        for number in range(3):
            caught = await refused(fetcher, f"{A}{number}")
            assert (caught.fault, caught.status) == (PageFault.HTTP_ERROR, 429)
        assert web.paths() == ["/0"]
        web.hosts["*"] = says_hello
        await trio.sleep(PAUSE_S_MAX - 61)
        assert (await refused(fetcher, A)).status == 429
        await trio.sleep(2)
        await fetch(fetcher, A)


async def test_too_many_requests_without_a_time_is_a_pause_too(autojump_clock: MockClock) -> None:
    async def script(asked: Asked, line: Line) -> None:
        await line.page("", 429)

    web = Web({"*": allowing(script)})
    async with fetcher_in_memory(web) as fetcher:
        await refused(fetcher, A)

    first, second = (each.at for each in web.asked if each.path != "/robots.txt")
    assert second - first == pytest.approx(PAUSE_S_UNTOLD)
    assert PAUSE_S_UNTOLD <= RETRY_S_MAX


async def test_a_host_from_which_nothing_comes_is_let_alone_for_a_while(autojump_clock: MockClock) -> None:
    """Not each of fifty pages waits for its own timeout; after the while it is tried again."""
    down = True

    async def opens(target: Target) -> None:
        if down:
            await trio.sleep(2)
            raise FetchRefused(PageFault.CONNECT_ERROR, "no connection")

    async with fetcher_in_memory(Web(), opens) as fetcher:
        found = await all_of(fetcher, [f"{A}{number}" for number in range(50)])

        assert set(found.values()) == {PageFault.CONNECT_ERROR}
        assert trio.current_time() < 10
        down = False
        assert (await refused(fetcher, A)).fault is PageFault.CONNECT_ERROR
        await trio.sleep(UNWELL_S)
        await fetch(fetcher, A)
    assert FAILURES_MAX == 2


async def test_pages_that_are_missing_say_nothing_of_their_host(autojump_clock: MockClock) -> None:
    async def script(asked: Asked, line: Line) -> None:
        await (line.page("", 500) if asked.path == "/bad" else line.page())

    async with fetcher_in_memory(Web({"*": allowing(script)})) as fetcher:
        for _ in range(FAILURES_MAX + 1):
            assert (await refused(fetcher, A + "bad")).status == 500
        await fetch(fetcher, A)
