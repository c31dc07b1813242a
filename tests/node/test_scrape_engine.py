"""The engine that scrapes, over a web in memory, with pages read in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pytest
import trio

from cxp2p import protocols
from cxp2p.records import Finish, PageFault, Piece, Prices, Render, ScrapedPage, ScrapeJob, Service, Usage
from cxp2p.scrape import Gathering
from cxp2p.wire import encode_frame
from cxp2p_node.engines.scrape import Scrape, ScrapeOffer, Tools
from cxp2p_node.scrape.fetch import Fetcher
from cxp2p_node.scrape.fetched import Fetched, FetchRefused
from cxp2p_node.scrape.reading import CONTENT_BYTES_MAX, Read, Unread, extractor, read_page
from cxp2p_node.scrape.room import ROOM_BYTES, Place
from webs import EPOCH_MS, Asked, Line, Web, allowing, fetcher_in_memory

PRICES = Prices(input=0, output=20_000_000)
SHELL = "<html><body><div id=app></div><script>draw()</script></body></html>"
FULL = f"<html><body><main><h1>Drawn</h1><p>{'By a script. ' * 40}</p></main></body></html>"


@dataclass
class ReadsHere:
    """Reads at once. `slow_s`: so long a page takes."""

    slow_s: float = 0.0
    reading: int = 0
    reading_most: int = 0
    ended: int = 0

    async def read(self, unread: Unread) -> Read:
        self.reading += 1
        self.reading_most = max(self.reading, self.reading_most)
        try:
            await trio.sleep(self.slow_s)
            return read_page(unread)
        finally:
            self.reading -= 1
            self.ended += 1


@dataclass
class RendersThis:
    """A browser to which every page looks the same. None: it cannot run scripts."""

    body: bytes | None = FULL.encode()
    asked: list[tuple[str, float, int]] = field(default_factory=list)

    async def render(self, url: str, *, timeout_s: float, wait_ms: int) -> bytes:
        self.asked.append((url, timeout_s, wait_ms))
        await trio.sleep(1)
        if self.body is None:
            raise FetchRefused(PageFault.TIMEOUT, "its scripts were not done in 30 s")
        return self.body


@dataclass
class Answer:
    """What an engine gave for a job, and when each piece came."""

    count: int
    pieces: list[Piece] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    usage: Usage | None = None
    in_units: int = 0

    async def emit(self, piece: Piece) -> None:
        await trio.lowlevel.checkpoint()
        assert len(encode_frame(piece)) <= protocols.FRAME_BYTES_MAX
        self.pieces.append(piece)
        self.at.append(trio.current_time())

    def counted(self, in_units: int, cached_units: int) -> None:
        assert not self.pieces
        self.in_units = in_units

    @property
    def pages(self) -> list[ScrapedPage]:
        """As an asker gets them, who checks everything."""
        gathering = Gathering(self.count)
        for piece in self.pieces:
            gathering.take(piece, EPOCH_MS * 2)
        assert not gathering.fault(Finish.STOP)
        return [gathering.pages[number] for number in range(self.count)]


@asynccontextmanager
async def engine_over(
    web: Web, reads: ReadsHere | None = None, renders: RendersThis | None = None, **settings: Any
) -> AsyncIterator[Scrape]:
    async with fetcher_in_memory(web, **settings) as fetcher:
        yield engine_of(fetcher, reads or ReadsHere(), renders)


def engine_of(fetcher: Fetcher, reads: ReadsHere, renders: RendersThis | None = None) -> Scrape:
    tools = Tools(fetches=fetcher, reads=reads, readers=2, renders=renders)
    return Scrape(ScrapeOffer(prices=PRICES), tools)


def job_of(*urls: str, **fields: object) -> ScrapeJob:
    return ScrapeJob(model="web", urls=urls, **fields)  # type: ignore[arg-type]


async def run(engine: Scrape, job: ScrapeJob, max_out: int = 50) -> Answer:
    answer = Answer(len(job.urls))
    answer.usage = await engine.run(job, 0, max_out, answer.emit, answer.counted)
    return answer


async def test_a_page_becomes_markdown_and_one_unit(autojump_clock: trio.testing.MockClock) -> None:
    """With what it says of itself, and where it was; the URLs are the input units."""

    async def script(asked: Asked, line: Line) -> None:
        await line.page("<title>Bees</title><main><h1>Bees</h1><p>They dance.</p></main>")

    async with engine_over(Web({"*": allowing(script)})) as engine:
        answer = await run(engine, job_of("http://bees.example/a"))

    (page,) = answer.pages
    assert page.content == "# Bees\n\nThey dance."
    assert (page.title, page.status, page.final_url) == ("Bees", 200, "http://bees.example/a")
    assert page.content_type == "text/html; charset=utf-8"
    assert page.fetched_at_ms >= EPOCH_MS
    assert answer.usage == Usage(in_units=1, cached_units=0, out_units=1, finish=Finish.STOP)
    assert answer.in_units == 1


async def test_what_is_offered_names_the_extractor() -> None:
    """Its version's digest is the model's: another version reads pages in another way."""
    async with engine_over(Web()) as engine:
        described = engine.describe()

    assert (described.service, described.model) == (Service.SCRAPE, "web")
    assert described.model_digest == sha256(extractor().encode()).digest()
    assert "selectolax" in described.runtime


async def test_each_page_is_told_as_soon_as_it_is_there(autojump_clock: trio.testing.MockClock) -> None:
    """In the order in which hosts answer, and under the numbers of their URLs."""

    async def script(asked: Asked, line: Line) -> None:
        await trio.sleep(3 - int(asked.host[1]))
        await line.page(f"<p>{asked.host}</p>")

    async with engine_over(Web({"*": allowing(script)})) as engine:
        begun = trio.current_time()
        answer = await run(engine, job_of(*(f"http://h{number}.example/" for number in range(3))))

    assert [page.content for page in answer.pages] == ["h0.example", "h1.example", "h2.example"]
    assert [round(at - begun) for at in answer.at] == [1, 2, 3]


async def test_the_same_page_twice_is_fetched_once_and_told_twice(autojump_clock: trio.testing.MockClock) -> None:
    """Each of the two URLs has its page, and each is a unit."""
    web = Web()
    async with engine_over(web) as engine:
        answer = await run(engine, job_of("http://a.example/x", "http://A.example/x#part", "http://a.example/y"))

    assert web.paths() == ["/x", "/y"]
    assert answer.usage is not None
    assert answer.usage.out_units == 3
    assert answer.pages[0].content == answer.pages[1].content


async def test_a_page_without_text_has_a_fault_and_is_no_unit(autojump_clock: trio.testing.MockClock) -> None:
    """Nor has one that is missing, or blocked; what is blocked is not told where it led."""

    async def script(asked: Asked, line: Line) -> None:
        match asked.path:
            case "/empty":
                await line.page("<html><body> </body></html>")
            case "/missing":
                await line.page("gone", 404)
            case "/inside":
                await line.to("http://10.0.0.1/secret")
            case _:
                await line.page('{"a": 1}', content_type="application/json")

    urls = [f"http://a.example/{path}" for path in ("empty", "missing", "inside", "json")]
    async with engine_over(Web({"*": allowing(script)})) as engine:
        answer = await run(engine, job_of(*urls))

    faults = [page.fault for page in answer.pages]
    assert faults == [PageFault.EXTRACTION_EMPTY, PageFault.HTTP_ERROR, PageFault.URL_BLOCKED, None]
    assert [page.status for page in answer.pages] == [200, 404, 0, 200]
    assert answer.pages[2].final_url == ""
    assert answer.usage is not None
    assert answer.usage.out_units == 1


async def test_a_host_that_hangs_costs_its_own_page_only(autojump_clock: trio.testing.MockClock) -> None:
    """After the job's time for a page; others have been told long before."""

    async def script(asked: Asked, line: Line) -> None:
        await (line.until_left() if asked.host == "slow.example" else line.page("<p>Quick</p>"))

    async with engine_over(Web({"*": allowing(script)})) as engine:
        begun = trio.current_time()
        answer = await run(engine, job_of("http://slow.example/", "http://quick.example/", timeout_s=7))

    assert [page.fault for page in answer.pages] == [PageFault.TIMEOUT, None]
    assert answer.at[0] - begun < 1
    assert 6 < answer.at[1] - begun < 8


async def test_a_cancel_ends_all_fetches_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """No connection stays open, and the engine does the next job."""

    async def script(asked: Asked, line: Line) -> None:
        await (line.until_left() if asked.path == "/hangs" else line.page("<p>Here</p>"))

    web = Web({"*": allowing(script)})
    async with engine_over(web) as engine:
        with trio.move_on_after(5) as scope:
            await run(engine, job_of(*(f"http://h{number}.example/hangs" for number in range(20)), timeout_s=60))
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert web.open == 0
        answer = await run(engine, job_of("http://h1.example/"))
    assert answer.pages[0].content == "Here"


async def test_no_more_content_than_was_ordered(autojump_clock: trio.testing.MockClock) -> None:
    """The job ends there, as cut."""
    async with engine_over(Web()) as engine:
        answer = await run(engine, job_of("http://a.example/", "http://b.example/"), max_out=1)

    assert answer.usage == Usage(in_units=2, cached_units=0, out_units=1, finish=Finish.LENGTH)
    assert sum(piece.units for piece in answer.pieces) == 1


async def test_a_very_long_page_is_cut_into_pieces_and_at_its_limit(autojump_clock: trio.testing.MockClock) -> None:
    """What an asker takes of a page is 4 MiB; no frame is larger than the wire's."""

    async def script(asked: Asked, line: Line) -> None:
        await line.page("ö" * 3_000_000, content_type="text/plain; charset=utf-8")

    async with engine_over(Web({"*": allowing(script)})) as engine:
        answer = await run(engine, job_of("http://a.example/", timeout_s=60))

    assert len(answer.pieces) > 50
    assert CONTENT_BYTES_MAX - 2 <= len(answer.pages[0].content.encode()) <= CONTENT_BYTES_MAX


async def test_pages_that_were_fetched_wait_in_limited_number(autojump_clock: trio.testing.MockClock) -> None:
    """Where reading is slower than fetching, fetching waits: bytes do not pile up."""
    reads = ReadsHere(slow_s=10.0)
    async with engine_over(Web(), reads) as engine:
        await run(engine, job_of(*(f"http://h{number}.example/" for number in range(50)), timeout_s=60))

    assert reads.reading_most == 8


@dataclass
class CountsFetched:
    """Fetches, and counts what was fetched and not read yet."""

    fetcher: Fetcher
    reads: ReadsHere
    fetched: int = 0
    most: int = 0

    def place(self) -> Place:
        return self.fetcher.place()

    async def fetch(self, url: str, **limits: Any) -> Fetched:
        page = await self.fetcher.fetch(url, **limits)
        self.fetched += 1
        self.most = max(self.most, self.fetched - self.reads.ended)
        return page


@pytest.mark.slow
async def test_large_pages_that_were_fetched_wait_in_limited_size(autojump_clock: trio.testing.MockClock) -> None:
    """Until they were read they have their room, and no other is fetched to its end before there is some again."""
    reads = ReadsHere(slow_s=1.0)
    size = 9_000_000

    async def script(asked: Asked, line: Line) -> None:
        await line.page(b"<p>Hello<!--" + b"x" * size)

    async with fetcher_in_memory(Web({"*": allowing(script)})) as fetcher:
        fetches = CountsFetched(fetcher, reads)
        tools = Tools(fetches=fetches, reads=reads, readers=16)
        engine = Scrape(ScrapeOffer(prices=PRICES), tools)
        answer = await run(engine, job_of(*(f"http://h{number}.example/" for number in range(40)), timeout_s=60))

    assert all(page.content for page in answer.pages)
    assert 1 < fetches.most <= ROOM_BYTES // size


async def test_a_job_that_ends_gives_its_room_back(autojump_clock: trio.testing.MockClock) -> None:
    """Whether its pages were on their way, waited, or were being read."""
    reads = ReadsHere(slow_s=1000.0)

    async def script(asked: Asked, line: Line) -> None:
        await line.page(b"x" * 9_000_000, content_type="text/plain")

    async with fetcher_in_memory(Web({"*": allowing(script)})) as fetcher:
        engine = engine_of(fetcher, reads)
        with trio.move_on_after(60):
            await run(engine, job_of(*(f"http://h{number}.example/" for number in range(40)), timeout_s=60))
        assert reads.reading_most
        with trio.fail_after(1):
            await fetcher.place().grow(ROOM_BYTES)


@pytest.mark.parametrize("render", [Render.NEVER, Render.AUTO])
async def test_scripts_run_only_if_asked_for_and_needed(autojump_clock: trio.testing.MockClock, render: Render) -> None:
    """Of two pages the one that is empty without; it says that it was rendered."""

    async def script(asked: Asked, line: Line) -> None:
        await line.page(SHELL if asked.path == "/app" else FULL + "<script>more()</script>")

    renders = RendersThis()
    async with engine_over(Web({"*": allowing(script)}), renders=renders) as engine:
        answer = await run(engine, job_of("http://a.example/app", "http://a.example/", render=render, wait_ms=700))

    app, static = answer.pages
    assert (static.fault, static.rendered) == (None, False)
    if render is Render.NEVER:
        assert (app.fault, renders.asked) == (PageFault.EXTRACTION_EMPTY, [])
    else:
        assert (app.fault, app.rendered) == (None, True)
        assert app.content.startswith("# Drawn")
        assert renders.asked == [("http://a.example/app", 30, 700)]


async def test_a_page_whose_scripts_fail_is_what_it_was(autojump_clock: trio.testing.MockClock) -> None:
    """Empty, with the reason."""

    async def script(asked: Asked, line: Line) -> None:
        await line.page(SHELL)

    async with engine_over(Web({"*": allowing(script)}), renders=RendersThis(None)) as engine:
        (page,) = (await run(engine, job_of("http://a.example/", render=Render.AUTO))).pages

    assert page.fault is PageFault.EXTRACTION_EMPTY
    assert "scripts were not done" in page.reason
    assert not page.rendered
