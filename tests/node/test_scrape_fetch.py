"""Fetching pages, in memory and virtual time: redirects and robots.txt."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from cxp2p.egress import REDIRECTS_MAX
from cxp2p.records import PageFault
from cxp2p_node.scrape.fetch import ROBOTS_FETCH_S_MAX
from cxp2p_node.scrape.fetched import Fetched
from webs import (
    EPOCH_MS,
    Asked,
    Line,
    Script,
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


def leading(*places: str) -> Script:
    """Redirects from /0 to the first place, from /1 to the second and so on; any other path is a page."""

    async def script(asked: Asked, line: Line) -> None:
        number = asked.path[1:]
        await (line.to(places[int(number)]) if number.isdecimal() else says_hello(asked, line))

    return script


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

    assert (found if isinstance(found, PageFault) else None) is fault
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
            assert (found if isinstance(found, PageFault) else None) is fault
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
