"""Fetching pages, in memory and virtual time: redirects, robots.txt, turns, pauses, copies, one fetch for many."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from random import Random

import pytest
import trio
from trio.testing import MockClock

from cxp2p.egress import REDIRECTS_MAX, Target
from cxp2p.records import PageFault
from cxp2p_node.scrape.fetch import ROBOTS_FETCH_S_MAX, Fetcher
from cxp2p_node.scrape.fetched import Fetched, FetchRefused
from cxp2p_node.scrape.manners import FAILURES_MAX, UNWELL_S
from cxp2p_node.scrape.replies import PAUSE_S_MAX, PAUSE_S_UNTOLD, RETRY_S_MAX
from cxp2p_node.scrape.robots import CRAWL_DELAY_S_MAX
from cxp2p_node.scrape.turns import HOST_WAITERS_MAX
from webs import EPOCH_MS, Asked, Line, Script, Web, allowing, fetch, fetcher_in_memory, outcome, refused, says_hello

A = "http://a.example/"


def with_robots(robots: str, status: int = 200, page: Script = says_hello) -> Script:
    """A host with this robots.txt."""

    async def script(asked: Asked, line: Line) -> None:
        await (line.page(robots, status) if asked.path == "/robots.txt" else page(asked, line))

    return script


def leading(*places: str) -> Script:
    """Redirects from /0 to the first place, from /1 to the second and so on; any other path is a page."""

    async def script(asked: Asked, line: Line) -> None:
        number = asked.path[1:]
        await (line.to(places[int(number)]) if number.isdecimal() else says_hello(asked, line))

    return script


async def all_of(fetcher: Fetcher, urls: list[str], wait_s: float = 60.0) -> dict[str, Fetched | PageFault]:
    """What becomes of them, fetched at once."""
    found: dict[str, Fetched | PageFault] = {}

    async def one(url: str) -> None:
        found[url] = await outcome(fetcher, url, wait_s=wait_s)

    async with trio.open_nursery() as nursery:
        for url in urls:
            nursery.start_soon(one, url)
    return found


async def test_a_page_is_its_bytes_and_where_they_are_from(autojump_clock: MockClock) -> None:
    """robots.txt is asked first, both with a User-Agent that says who asks, and without secrets."""
    web = Web()
    async with fetcher_in_memory(web, user_agent="TestBot/7 (+https://bot.example)") as fetcher:
        found = await fetch(fetcher, "http://A.example/x/../y?z#w")

    assert found == Fetched(
        final_url="http://a.example/y?z",
        status=200,
        content_type="text/html; charset=utf-8",
        body=b"<p>a.example/y?z</p>",
        fetched_at_ms=EPOCH_MS,
    )
    assert [each.path for each in web.asked] == ["/robots.txt", "/y?z"]
    for asked in web.asked:
        assert asked.headers["user-agent"] == "TestBot/7 (+https://bot.example)"
        assert set(asked.headers) == {"host", "user-agent", "accept", "accept-encoding", "connection"}


# Redirects.


async def test_redirects_are_followed_to_the_fifth(autojump_clock: MockClock) -> None:
    """At one host without a pause between, as a browser would."""
    web = Web({"*": leading(*(f"/{number + 1}" for number in range(REDIRECTS_MAX - 1)), "/page")})
    async with fetcher_in_memory(web) as fetcher:
        found = await fetch(fetcher, A + "0")

        assert found.final_url == A + "page"
        assert trio.current_time() == web.asked[0].at


async def test_thirty_redirects_are_too_many(autojump_clock: MockClock) -> None:
    """What is told says how far it went."""
    web = Web({"*": leading(*(f"/{number + 1}" for number in range(30)))})
    async with fetcher_in_memory(web) as fetcher:
        caught = await refused(fetcher, A + "0")

    assert (caught.fault, caught.status, caught.final_url) == (PageFault.HTTP_ERROR, 302, f"{A}{REDIRECTS_MAX}")
    assert len(web.paths()) == REDIRECTS_MAX + 1


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("http://127.0.0.1/", PageFault.URL_BLOCKED),
        ("http://[::ffff:10.0.0.1]/", PageFault.URL_BLOCKED),
        ("http://localhost/", PageFault.URL_BLOCKED),
        ("//2130706433/", PageFault.URL_BLOCKED),
        ("http://b.example:22/", PageFault.URL_BLOCKED),
        ("file:///etc/passwd", PageFault.INVALID_URL),
    ],
)
async def test_redirects_to_what_is_not_public_are_not_followed(
    autojump_clock: MockClock, place: str, fault: PageFault
) -> None:
    """And nobody learns from it what is there."""
    web = Web({"*": leading(place)})
    async with fetcher_in_memory(web) as fetcher:
        caught = await refused(fetcher, A + "0")

    assert (caught.fault, caught.final_url) == (fault, A + "0")
    assert web.paths() == ["/0"]


async def test_a_redirect_from_https_to_http_is_not_followed(autojump_clock: MockClock) -> None:
    web = Web({"a.example": leading("http://b.example/")})
    async with fetcher_in_memory(web) as fetcher:
        assert (await refused(fetcher, "https://a.example/0")).fault is PageFault.URL_BLOCKED


async def test_a_redirect_elsewhere_goes_by_the_robots_txt_there(autojump_clock: MockClock) -> None:
    """A page that its own host keeps from robots is not had by way of another."""
    web = Web(
        {"a.example": leading("http://b.example/secret"), "b.example": with_robots("User-agent: *\nDisallow: /s")}
    )
    async with fetcher_in_memory(web) as fetcher:
        caught = await refused(fetcher, A + "0")

    assert (caught.fault, caught.final_url) == (PageFault.ROBOTS_DISALLOWED, "http://b.example/secret")
    assert web.paths() == ["/0"]


async def test_hosts_that_redirect_to_each_other_are_visited_by_turns(autojump_clock: MockClock) -> None:
    """Nobody holds one host while waiting for another: two that cross do not wait for each other for ever."""
    web = Web({"a.example": leading("http://b.example/page"), "b.example": leading("http://a.example/page")})
    async with fetcher_in_memory(web) as fetcher:
        found = await all_of(fetcher, ["http://a.example/0", "http://b.example/0"])

    assert all(isinstance(page, Fetched) for page in found.values())


# robots.txt.


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (200, PageFault.ROBOTS_DISALLOWED),
        (401, None),
        (403, None),
        (404, None),
        (410, None),
        (429, PageFault.ROBOTS_DISALLOWED),
        (500, PageFault.ROBOTS_DISALLOWED),
        (503, PageFault.ROBOTS_DISALLOWED),
    ],
)
async def test_robots_txt_allows_if_it_is_not_there_and_not_if_it_cannot_be_had(
    autojump_clock: MockClock, status: int, fault: PageFault | None
) -> None:
    """RFC 9309, 2.3.1; too many requests is no "not there"."""
    web = Web({"*": with_robots("User-agent: *\nDisallow: /", status)})
    async with fetcher_in_memory(web) as fetcher:
        found = await outcome(fetcher, A)

    assert (found if fault else None) == fault
    assert web.paths() == ([] if fault else ["/"])


async def test_robots_txt_is_kept_for_a_day(autojump_clock: MockClock) -> None:
    """By scheme, host and port. One that could not be had is asked for again after five minutes."""
    web = Web()
    async with fetcher_in_memory(web) as fetcher:
        for url in (A, A + "1", "http://a.example:8080/", "https://a.example/"):
            await fetch(fetcher, url)
        assert web.paths(robots=True).count("/robots.txt") == 3
        await trio.sleep(86_390)
        await fetch(fetcher, A)
        assert web.paths(robots=True).count("/robots.txt") == 3
        await trio.sleep(11)
        await fetch(fetcher, A)
        assert web.paths(robots=True).count("/robots.txt") == 4

        web.hosts["b.example"] = with_robots("", 500)
        assert await outcome(fetcher, "http://b.example/") is PageFault.ROBOTS_DISALLOWED
        web.hosts["b.example"] = says_hello
        await trio.sleep(290)
        assert await outcome(fetcher, "http://b.example/") is PageFault.ROBOTS_DISALLOWED
        await trio.sleep(11)
        await fetch(fetcher, "http://b.example/")


async def test_what_robots_txt_said_holds_while_it_cannot_be_had(autojump_clock: MockClock) -> None:
    """A day later, when the server fails for that file."""
    web = Web({"*": with_robots("User-agent: *\nDisallow: /x")})
    async with fetcher_in_memory(web) as fetcher:
        await fetch(fetcher, A)
        web.hosts["*"] = with_robots("", 500)
        await trio.sleep(86_401)  # noqa: ASYNC116
        await fetch(fetcher, A)

        assert await outcome(fetcher, A + "x") is PageFault.ROBOTS_DISALLOWED


async def test_robots_txt_may_be_elsewhere(autojump_clock: MockClock) -> None:
    """Five redirects away at most; further it counts as not there. What is not public is not asked."""
    file = with_robots("User-agent: *\nDisallow: /")
    for count, fault in ((REDIRECTS_MAX, PageFault.ROBOTS_DISALLOWED), (REDIRECTS_MAX + 1, None)):

        async def moved(asked: Asked, line: Line, count: int = count) -> None:
            number = 0 if asked.path == "/robots.txt" else int(asked.path[1:] or -1)
            await (
                line.page()
                if number < 0
                else line.to(f"/{number + 1}" if number + 1 < count else "//b.example/robots.txt")
            )

        web = Web({"a.example": moved, "b.example": file})
        async with fetcher_in_memory(web) as fetcher:
            found = await outcome(fetcher, A)
            assert (found if fault else None) == fault
    web = Web({"*": allowing(says_hello), "c.example": with_robots("")})

    async def inward(asked: Asked, line: Line) -> None:
        await line.to("http://127.0.0.1/")

    web.hosts["c.example"] = inward
    async with fetcher_in_memory(web) as fetcher:
        assert await outcome(fetcher, "http://c.example/") is PageFault.ROBOTS_DISALLOWED


async def test_a_huge_robots_txt_is_read_to_its_limit(autojump_clock: MockClock) -> None:
    """Of one that never ends the beginning counts."""

    async def endless(asked: Asked, line: Line) -> None:
        if asked.path != "/robots.txt":
            await line.page()
            return
        await line.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nUser-agent: *\nDisallow: /x\n")
        while True:
            await line.raw(b"Allow: /y\n" * 1000)

    async with fetcher_in_memory(Web({"*": endless})) as fetcher:
        assert isinstance(await outcome(fetcher, A), Fetched)
        assert await outcome(fetcher, A + "x") is PageFault.ROBOTS_DISALLOWED


async def test_a_robots_txt_that_hangs_has_a_limit_of_its_own(autojump_clock: MockClock) -> None:
    """If nothing came at all that is a timeout; if its headers did, it is a file that cannot be had."""

    async def hangs(asked: Asked, line: Line) -> None:
        await line.until_left()

    async def stalls(asked: Asked, line: Line) -> None:
        await line.raw(b"HTTP/1.1 200 OK\r\n\r\nUser-agent: *\n")
        await line.until_left()

    for script, fault in ((hangs, PageFault.TIMEOUT), (stalls, PageFault.ROBOTS_DISALLOWED)):
        async with fetcher_in_memory(Web({"*": script})) as fetcher:
            begun = trio.current_time()
            assert await outcome(fetcher, A) is fault
            assert trio.current_time() - begun == pytest.approx(ROBOTS_FETCH_S_MAX)


# Turns and pauses.


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
    assert (second - first, third - second) == (pytest.approx(3), pytest.approx(1))


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


# Copies, and one fetch for many.


async def test_a_copy_serves_while_it_is_young_enough(autojump_clock: MockClock) -> None:
    web = Web()
    async with fetcher_in_memory(web) as fetcher:
        first = await fetch(fetcher, A)
        await trio.sleep(100)
        copy = await fetch(fetcher, A + "#top", age_s_max=100)
        assert (copy.body, copy.cached, copy.fetched_at_ms) == (first.body, True, first.fetched_at_ms)
        assert web.paths() == ["/"]

        again = await fetch(fetcher, A, age_s_max=99)
        assert (again.cached, again.fetched_at_ms) == (False, first.fetched_at_ms + 100_000)
        assert web.paths() == ["/", "/"]


async def test_a_page_that_has_not_changed_does_not_come_again(autojump_clock: MockClock) -> None:
    """The server is told what we have; where a redirect leads, it is the last one that is."""

    async def script(asked: Asked, line: Line) -> None:
        if asked.path == "/0":
            assert "if-none-match" not in asked.headers
            await line.to("/page")
        elif asked.headers.get("if-none-match") == '"v1"':
            await line.page("", 304, content_length="", etag='"v1"')
        else:
            await line.page("long", etag='"v1"', last_modified="Fri, 15 Jan 2027 08:00:00 GMT")

    web = Web({"*": allowing(script)})
    async with fetcher_in_memory(web) as fetcher:
        first = await fetch(fetcher, A + "0")
        await trio.sleep(50)
        second = await fetch(fetcher, A + "0")

        assert (second.body, second.cached, second.final_url) == (b"long", True, A + "page")
        assert second.fetched_at_ms == first.fetched_at_ms + 50_000
        assert web.asked[-1].headers["if-modified-since"] == "Fri, 15 Jan 2027 08:00:00 GMT"
        assert (await fetch(fetcher, A + "0", age_s_max=1)).cached


async def test_not_modified_is_no_page_if_we_have_none(autojump_clock: MockClock) -> None:
    async def script(asked: Asked, line: Line) -> None:
        await line.page("", 304, content_length="")

    async with fetcher_in_memory(Web({"*": allowing(script)})) as fetcher:
        assert (await refused(fetcher, A)).status == 304


async def test_what_may_not_be_kept_or_is_gone_is_not_kept(autojump_clock: MockClock) -> None:
    """no-store, and a page that was there and is not any more."""
    told = {"cache_control": "private, No-Store"}

    async def script(asked: Asked, line: Line) -> None:
        await line.page("secret", **told)

    web = Web({"*": allowing(script)})
    async with fetcher_in_memory(web) as fetcher:
        for _ in range(2):
            assert not (await fetch(fetcher, A, age_s_max=1000)).cached
        told.clear()
        await fetch(fetcher, A)
        assert (await fetch(fetcher, A, age_s_max=1000)).cached
        web.hosts["*"] = partial(_gone)
        assert (await refused(fetcher, A)).status == 410
        assert await outcome(fetcher, A) is PageFault.HTTP_ERROR
        assert fetcher._copies.bytes == 0


async def _gone(asked: Asked, line: Line) -> None:
    await line.page("", 410)


async def test_one_url_is_fetched_once_for_all_who_want_it_at_once(autojump_clock: MockClock) -> None:
    """Also what goes wrong is the same for all."""

    async def slowly(asked: Asked, line: Line) -> None:
        await trio.sleep(1)
        await line.page("", 404 if asked.path == "/missing" else 200)

    web = Web({"*": allowing(slowly)})
    async with fetcher_in_memory(web) as fetcher:
        found: list[Fetched | PageFault] = []

        async def one(url: str) -> None:
            found.append(await outcome(fetcher, url))

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(one, f"{A}page#{number}" if number % 2 else f"{A}missing")
        assert web.paths() == ["/missing", "/page"] or web.paths() == ["/page", "/missing"]
        assert found.count(PageFault.HTTP_ERROR) == 20
        assert len({id(page) for page in found if isinstance(page, Fetched)}) == 1


async def test_who_waits_for_a_fetch_that_is_cancelled_goes_on_with_it(autojump_clock: MockClock) -> None:
    """And whose own time is over leaves the others theirs."""

    async def slowly(asked: Asked, line: Line) -> None:
        await trio.sleep(3)
        await line.page()

    web = Web({"*": allowing(slowly)})
    found: list[Fetched | PageFault] = []
    async with fetcher_in_memory(web) as fetcher:

        async def one(timeout_s: float) -> None:
            found.append(await outcome(fetcher, A, timeout_s))

        async def first() -> None:
            with trio.move_on_after(1):
                await one(60)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(one, 2)
            nursery.start_soon(one, 10)
    assert sorted(map(type, found), key=repr) == [Fetched, PageFault]
    assert not fetcher._flights


@pytest.mark.parametrize("seed", range(5))
async def test_cancels_at_any_moment_leave_nothing_behind(autojump_clock: MockClock, seed: int) -> None:
    """No turn is kept, no connection stays open, and the next one is served."""
    rng = Random(seed)

    async def script(asked: Asked, line: Line) -> None:
        await trio.sleep(rng.random() * 2)
        await (line.to(f"http://{rng.choice('abc')}.example/x") if rng.random() < 0.3 else line.page("x" * 3_000_000))

    async def opens(target: Target) -> None:
        await trio.sleep(rng.random())

    web = Web({"*": allowing(script)})
    async with fetcher_in_memory(web, opens, at_once=4, delay_s=0.1) as fetcher:

        async def one(url: str) -> None:
            with trio.move_on_after(rng.random() * 6):
                await outcome(fetcher, url)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(one, f"http://{rng.choice('abc')}.example/{number % 30}")
        await trio.sleep(3)  # the hosts notice when they have something to say
        assert (web.open, len(fetcher._turns), len(fetcher._flights)) == (0, 0, 0)
        assert (fetcher._turns._slots.value, fetcher._large.value) == (4, 8)
        web.hosts["*"] = says_hello
        await trio.sleep(UNWELL_S)
        await fetch(fetcher, A)
