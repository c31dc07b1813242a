"""Engines that fetch pages without a web: what is at an address says so itself, and each page takes a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import trio

from cxp2p.client import Net, Scraped
from cxp2p.errors import JobFailed
from cxp2p.records import (
    Capability,
    FailureCode,
    Finish,
    Job,
    PageFault,
    Piece,
    Prices,
    ScrapedPage,
    ScrapeJob,
    Service,
    Usage,
)
from cxp2p.scrape import MODEL
from cxp2p.wire import encode_bare_frame
from cxp2p_node.engines import Counted, Emit
from worlds import PRICES, Ledgerbook, World, capability, settled

FAULTS = MappingProxyType({fault.value: fault for fault in PageFault})


def page_of(url: str, number: int = 0) -> ScrapedPage:
    """What is at a URL: content, unless its path is the name of a fault."""
    name = url.rpartition("/")[2]
    if name in FAULTS:
        status = 404 if name == PageFault.HTTP_ERROR else 0
        return ScrapedPage(number=number, fault=FAULTS[name], reason="as the test wants it", status=status)
    return ScrapedPage(
        number=number,
        content=f"# {name}\n\nThis is the page at {url}.",
        title=name,
        description=f"About {name}",
        language="en",
        final_url=url,
        content_type="text/html",
        status=200,
        fetched_at_ms=1_700_000_000_000,
    )


def frames_of(pages: Sequence[ScrapedPage]) -> bytes:
    """Pages as they stand in pieces."""
    return b"".join(encode_bare_frame(page) for page in pages)


@dataclass
class PageEngine:
    """Fetches one page after another, `pause_s` each, the last URL first; each goes out in two pieces.

    Can be told to fail with `fault`, or to hang, before the page of that number.
    """

    name: str = MODEL
    pause_s: float = 0.1
    fail_at: int | None = None
    hang_at: int | None = None
    fault: JobFailed = field(default_factory=lambda: JobFailed(FailureCode.ENGINE_DIED, "the engine died"))
    pages: Mapping[str, ScrapedPage] = field(default_factory=dict)
    slots: int = 4
    queue_max: int = 8
    prices: Prices = PRICES
    ready: bool = True
    jobs: list[ScrapeJob] = field(default_factory=list)
    fetched: list[tuple[str, float]] = field(default_factory=list)
    stopped_at: list[float] = field(default_factory=list)
    running: int = 0

    def on_change(self, call: Callable[[], None]) -> None:
        self._call = call

    def describe(self) -> Capability:
        return capability(
            self.name, service=Service.SCRAPE, slots=self.slots, queue_max=self.queue_max, prices=self.prices
        )

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        assert isinstance(job, ScrapeJob)
        self.jobs.append(job)
        self.running += 1
        counted(len(job.urls), 0)
        try:
            made = await self._fetch_all(job, emit)
        except trio.Cancelled:
            self.stopped_at.append(trio.current_time())
            raise
        finally:
            self.running -= 1
        return Usage(in_units=len(job.urls), cached_units=0, out_units=made, finish=Finish.STOP)

    async def _fetch_all(self, job: ScrapeJob, emit: Emit) -> int:
        made = 0
        for done, number in enumerate(reversed(range(len(job.urls)))):
            if done == self.fail_at:
                raise self.fault
            if done == self.hang_at:
                await trio.sleep_forever()
            await trio.sleep(self.pause_s)
            url = job.urls[number]
            self.fetched.append((url, trio.current_time()))
            page = replace(self.pages.get(url) or page_of(url), number=number)
            frame = frames_of([page])
            units = int(page.fault is None)
            parts = [frame[start : start + 32_000] for start in range(0, len(frame), 32_000)]
            for part in parts[:-1]:
                await emit(Piece(data=part))
            half = len(parts[-1]) // 2
            await emit(Piece(data=parts[-1][:half]))
            await emit(Piece(data=parts[-1][half:], units=units))
            made += units
        return made


# Asking for pages.


def urls_of(hosts: int, each: int) -> list[str]:
    """So many pages of so many hosts, the hosts in turns."""
    return [f"https://h{host}.example/p{number}" for number in range(each) for host in range(hosts)]


async def scrape(net: Net, urls: Sequence[str], books: Ledgerbook, deadline_s: float = 600.0) -> Scraped:
    return await net.run_scrape(ScrapeJob(model=MODEL, urls=tuple(urls)), books, deadline_s=deadline_s)


def right(urls: Sequence[str]) -> tuple[ScrapedPage, ...]:
    return tuple(page_of(url, number) for number, url in enumerate(urls))


async def network_of(here: World, *engines: PageEngine) -> tuple[Net, Ledgerbook]:
    """An asker that knows a node for each engine."""
    for engine in engines:
        await here.node(engine)
    net = await here.asker()
    await settled(net, len(engines))
    return net, Ledgerbook()
