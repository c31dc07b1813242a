"""Web pages: fetched by the rules, read in processes apart, told one by one as they are ready."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, Protocol

import trio

from cxp2p.errors import one_line
from cxp2p.net.tasks import background
from cxp2p.records import (
    Capability,
    Finish,
    Job,
    Load,
    PageFault,
    Piece,
    Prices,
    Render,
    ScrapedPage,
    ScrapeJob,
    Service,
    Usage,
)
from cxp2p.scrape import MODEL, URLS_MAX, firsts, host_of
from cxp2p.wire import encode_bare_frame
from cxp2p_node.engines import Counted, Emit
from cxp2p_node.scrape.fetched import Fetched, Fetches, FetchRefused
from cxp2p_node.scrape.readers import Reads
from cxp2p_node.scrape.reading import Read, Unread, extractor
from cxp2p_node.scrape.room import Place

log = logging.getLogger("cxp2p.node.scrape")

SLOTS: Final = 8  # jobs at once: most of their time they wait for hosts
HOSTS_AT_ONCE: Final = 48  # of all jobs; each has a page in its hands, and large ones must have room (`room`)
READ_AHEAD: Final = 4  # pages that wait for each process that reads, so that none is ever without one
UNREAD_MAX: Final = 32  # of all processes, what was read and is on its way included
RENDERED_MAX: Final = 4  # pages that scripts made, of at most 10 MB each, two of which are on their way
PIECE_BYTES: Final = 60_000  # a frame of the wire has 65,536
PRICE_PAGE: Final = 20_000_000  # µcredits per million pages: 20 for one
HTML: Final = "text/html; charset=utf-8"


class Renders(Protocol):
    """Runs the scripts of pages. `rendering.Renderer` does; so does a test's twin."""

    async def render(self, url: str, *, timeout_s: float, wait_ms: int) -> bytes:
        """The page at `url` as it is after its scripts ran, in UTF-8. Raises FetchRefused."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeOffer:
    """What is offered, and at what price."""

    model: str = MODEL
    prices: Prices
    slots: int = SLOTS
    queue_max: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What pages go through. `renders` None: no scripts are run here."""

    fetches: Fetches
    reads: Reads
    readers: int
    renders: Renders | None = None


class Scrape:
    """The engine."""

    ready = True

    def __init__(self, offer: ScrapeOffer, tools: Tools) -> None:
        self._offer = offer
        self.tools = tools
        self._extractor = extractor()
        self._hosts = trio.Semaphore(HOSTS_AT_ONCE)
        self._unread = trio.Semaphore(min(max(1, tools.readers) * READ_AHEAD, UNREAD_MAX))
        self._rendered_now = trio.Semaphore(RENDERED_MAX)

    def on_change(self, call: Callable[[], None]) -> None:
        """Nothing here changes: processes that read are started as they are needed."""

    def describe(self) -> Capability:
        return Capability(
            service=Service.SCRAPE,
            model=self._offer.model,
            model_digest=sha256(self._extractor.encode()).digest(),
            runtime=one_line(self._extractor + (" chromium" if self.tools.renders else ""), 128),
            context_units=URLS_MAX,
            output_units_max=URLS_MAX,
            prices=self._offer.prices,
            slots=self._offer.slots,
            queue_max=self._offer.queue_max,
            load=Load(running=0, queued=0, first_piece_ms=0, units_per_s=0, loading_ms=0),
        )

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        assert isinstance(job, ScrapeJob)  # no other service is described
        counted(len(job.urls), 0)
        telling = _Telling(emit, max_out)
        async with background() as nursery, trio.open_nursery() as pages:
            telling.full = nursery.cancel_scope.cancel
            for numbers in by_host(job.urls):
                pages.start_soon(self._fetch_host, job, numbers, telling, pages)
        finish = Finish.LENGTH if telling.is_full else Finish.STOP
        return Usage(in_units=len(job.urls), cached_units=0, out_units=telling.units, finish=finish)

    async def _fetch_host(
        self, job: ScrapeJob, pages: Sequence[Sequence[int]], telling: _Telling, nursery: trio.Nursery
    ) -> None:
        """The pages of one host in a row, as they can only be fetched; each is read while the next one comes."""
        for numbers in pages:
            async with self._hosts:
                place = self.tools.fetches.place()
                try:
                    fetched = await self.tools.fetches.fetch(
                        job.urls[numbers[0]], timeout_s=job.timeout_s, age_s_max=job.age_s_max, place=place
                    )
                    await self._unread.acquire()
                except FetchRefused as refused:
                    place.leave()
                    log.info("%s", refused)
                    page = refusal(refused)
                except BaseException:
                    place.leave()
                    raise
                else:
                    nursery.start_soon(self._read_on, job, numbers, [fetched], place, telling)
                    del fetched  # the other task's alone, while this one waits for its next
                    continue
            await telling.tell(page, numbers)

    async def _read_on(
        self, job: ScrapeJob, numbers: Sequence[int], fetched: list[Fetched], place: Place, telling: _Telling
    ) -> None:
        try:
            try:
                page = await self._page(job, fetched.pop())
            finally:
                place.leave()  # while it is told, only what it says is kept
            await telling.tell(page, numbers)
        finally:
            self._unread.release()

    async def _page(self, job: ScrapeJob, fetched: Fetched) -> ScrapedPage:
        """What a page says that was fetched, after its scripts ran if that was asked for and it says little without."""
        try:
            read = await self._read(job, fetched.body, fetched.content_type, fetched.final_url)
        except FetchRefused as refused:
            return replace(page_of(Read(content=""), fetched), fault=refused.fault, reason=refused.reason)
        page = page_of(read, fetched)
        if not read.shell or job.render is not Render.AUTO or self.tools.renders is None:
            return page
        return await self._rendered(self.tools.renders, job, fetched, page)

    async def _rendered(self, renders: Renders, job: ScrapeJob, fetched: Fetched, page: ScrapedPage) -> ScrapedPage:
        try:
            async with self._rendered_now:
                body = await renders.render(fetched.final_url, timeout_s=job.timeout_s, wait_ms=job.wait_ms)
                read = await self._read(job, body, HTML, fetched.final_url)
        except FetchRefused as refused:
            log.info("%s is not rendered: %s", fetched.final_url, refused)
            if page.fault is None:
                return page
            return replace(page, reason=f"{page.reason}; its scripts were not run: {refused.reason}")
        return replace(page_of(read, fetched), rendered=True) if len(read.content) > len(page.content) else page

    async def _read(self, job: ScrapeJob, body: bytes, content_type: str, url: str) -> Read:
        unread = Unread(
            body=body, content_type=content_type, url=url, form=job.form, main_only=job.main_only, links=job.links
        )
        return await self.tools.reads.read(unread)


class _Telling:
    """The pages of one job on their way to the asker: the bytes of one never between those of another."""

    def __init__(self, emit: Emit, units_max: int) -> None:
        self._emit = emit
        self._units_max = units_max
        self._turn = trio.Lock()
        self.units = 0
        self.is_full = False
        self.full: Callable[[], None] = lambda: None

    async def tell(self, page: ScrapedPage, numbers: Sequence[int]) -> None:
        """Says a page, once for each of the URLs that it is the page of."""
        async with self._turn:
            for number in numbers:
                units = int(page.fault is None)
                if self.units + units > self._units_max:
                    self.is_full = True
                    self.full()
                    return
                data = encode_bare_frame(replace(page, number=number))
                last = (len(data) - 1) // PIECE_BYTES * PIECE_BYTES
                for start in range(0, last, PIECE_BYTES):
                    await self._emit(Piece(data=data[start : start + PIECE_BYTES]))
                await self._emit(Piece(data=data[last:], units=units))
                self.units += units


def by_host(urls: Sequence[str]) -> list[list[list[int]]]:
    """The numbers of URLs, by host and by page: those in one inner list are the same page."""
    hosts: dict[str, dict[int, list[int]]] = {}
    for number, first in enumerate(firsts(urls)):
        hosts.setdefault(host_of(urls[first]), {}).setdefault(first, []).append(number)
    return [list(of_host.values()) for of_host in hosts.values()]


def page_of(read: Read, fetched: Fetched) -> ScrapedPage:
    """What is told of a page that was fetched and read."""
    empty = not read.content
    return ScrapedPage(
        number=0,
        content=read.content,
        fault=PageFault.EXTRACTION_EMPTY if empty else None,
        reason="the page has no text" if empty else "",
        title=read.title,
        description=read.description,
        author=read.author,
        published=read.published,
        language=read.language,
        final_url=fetched.final_url[:2048],
        content_type=one_line(fetched.content_type, 256),
        status=fetched.status,
        fetched_at_ms=fetched.fetched_at_ms,
        cached=fetched.cached,
    )


def refusal(refused: FetchRefused) -> ScrapedPage:
    """What is told of a page that was not fetched. What is blocked is not told where redirects led."""
    blocked = refused.fault is PageFault.URL_BLOCKED
    return ScrapedPage(
        number=0,
        fault=refused.fault,
        reason=refused.reason[:2048],
        status=0 if blocked else refused.status,
        final_url="" if blocked else refused.final_url[:2048],
    )
