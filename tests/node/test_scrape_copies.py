"""Pages that are had without being fetched, in virtual time: copies, one fetch for many; and cancels."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest
import trio
from trio.testing import MockClock

from cxp2p.egress import Target
from cxp2p.records import PageFault
from cxp2p_node.scrape.fetched import Fetched
from cxp2p_node.scrape.manners import UNWELL_S
from webs import (
    Asked,
    Line,
    Web,
    allowing,
    fetch,
    fetcher_in_memory,
    outcome,
    refused,
    says_hello,
)

A = "http://a.example/"


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
    told = ["private, No-Store"]

    async def script(asked: Asked, line: Line) -> None:
        await line.page("secret", cache_control="".join(told))

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

    found: dict[float, Fetched | PageFault] = {}
    async with fetcher_in_memory(Web({"*": allowing(slowly)})) as fetcher:

        async def one(timeout_s: float) -> None:
            found[timeout_s] = await outcome(fetcher, A, timeout_s)

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as first:
                async with trio.open_nursery() as inner:
                    inner.start_soon(one, 60.0)
                    await trio.sleep(0.5)
                    nursery.start_soon(one, 2.0)
                    nursery.start_soon(one, 10.0)
                    await trio.sleep(0.5)
                    first.cancel()
    assert 60.0 not in found
    assert isinstance(found[10.0], Fetched)
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
        assert (fetcher._turns._slots.value, fetcher._room.used) == (4, 0)
        web.hosts["*"] = says_hello
        await trio.sleep(UNWELL_S)
        await fetch(fetcher, A)
