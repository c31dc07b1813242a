"""Pages a second: fetched over HTTP on loopback and made into Markdown, beside trafilatura in a pool of threads.

The pages are 20 to 100 kB, as those of the web are (`web_pages`), and how much of their text is found is a figure, too.
Ours is what a node does for its jobs, save the pauses between two pages of a host: the rules of egress, one page of a
host at a time, and processes that read. The peer fetches by urllib, and heeds nobody.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from benchmarks.extraction import PEER, peer_markdown
from benchmarks.extraction_scores import our_markdown, said_by, scores, wanted_of
from benchmarks.figures import ROUNDS, Figure, Goal, Rate
from benchmarks.web_pages import web_pages
from cxp2p.records import Piece, ScrapeJob
from cxp2p.scrape import URLS_MAX
from cxp2p_node.config import ModelSettings, ScrapeSettings
from cxp2p_node.engines.scrape import Scrape, Tools
from cxp2p_node.engines.scrape_settings import fetch_settings, scrape_offer
from cxp2p_node.scrape.fetch import fetcher_of
from cxp2p_node.scrape.readers import Readers, open_readers

PAGES = 200
HOSTS = 8
THREADS = 8
GOAL = Goal(ratio=5)
NO_WORSE = Goal(ratio=1)
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SETTINGS = ScrapeSettings(allow=("127.0.0.0/8",), delay_s=0, cache_mib=0, browser="none")


@dataclass
class _Rounds:
    """What came of the rounds of one side: pages a second, and milliseconds of a processor for a page."""

    rates: list[float] = field(default_factory=list)
    costs_ms: list[float] = field(default_factory=list)

    def note(self, pages: int, seconds: float, processor_s: float) -> None:
        self.rates.append(pages / seconds)
        self.costs_ms.append(processor_s / pages * 1000)


def measure(seconds: float) -> list[Figure]:
    """Both in turn, at least twice: the peer takes its time."""
    with page_hosts(HOSTS) as bases:
        urls = [f"{bases[number % HOSTS]}/{number}" for number in range(PAGES)]
        ours, peers = trio.run(_rounds, urls, seconds)
    of_pages = f"{PAGES} pages of {HOSTS} hosts to Markdown"
    peer_is = f"{PEER}, {THREADS} threads"
    rates, peer_rates = Rate.of(ours.rates), Rate.of(peers.rates)
    costs, peer_costs = Rate.of(ours.costs_ms), Rate.of(peers.costs_ms)
    return [
        Figure(name=f"{of_pages}, pages/s", ours=rates, peer=peer_rates, peer_is=peer_is, goal=GOAL),
        Figure(name=f"{of_pages}, ms of a processor for each", ours=costs, peer=peer_costs, peer_is=peer_is),
        text_found(),
    ]


def text_found() -> Figure:
    """F1 of the text of these pages."""
    bodies = [body for _, body in web_pages()]
    ours, peers = (
        Rate.mean_of([scores(wanted_of(body), said_by(read(body)))["text"] for body in bodies])
        for read in (our_markdown, peer_markdown)
    )
    return Figure(name="text of these pages, F1", ours=ours, peer=peers, peer_is=PEER, goal=NO_WORSE)


async def _rounds(urls: Sequence[str], seconds: float) -> tuple[_Rounds, _Rounds]:
    ours, peers = _Rounds(), _Rounds()
    async with open_readers() as readers:
        fetcher = fetcher_of(fetch_settings(SETTINGS))
        tools = Tools(fetches=fetcher, reads=readers, readers=readers.count)
        engine = Scrape(scrape_offer(ModelSettings(name="web", engine="scrape")), tools)
        await _ours(engine, urls)  # processes start, robots.txt is known
        ends = trio.current_time() + seconds
        while len(ours.rates) < 2 or (len(ours.rates) < ROUNDS and trio.current_time() < ends):
            begun, before = time.perf_counter(), _processor_s(readers)
            await _ours(engine, urls)
            ours.note(len(urls), time.perf_counter() - begun, _processor_s(readers) - before)
            begun, before = time.perf_counter(), time.process_time()
            await trio.to_thread.run_sync(_peers, urls)
            peers.note(len(urls), time.perf_counter() - begun, time.process_time() - before)
    return ours, peers


def _processor_s(readers: Readers) -> float:
    """Of this process, which fetches, and of those that read for it; one that is replaced meanwhile is not counted."""
    ticks = 0
    for pid in readers.pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


async def _ours(engine: Scrape, urls: Sequence[str]) -> None:
    """All pages, in as many jobs as it takes."""
    async with trio.open_nursery() as nursery:
        for start in range(0, len(urls), URLS_MAX):
            nursery.start_soon(_job, engine, urls[start : start + URLS_MAX])


async def _job(engine: Scrape, urls: Sequence[str]) -> None:
    async def emit(piece: Piece) -> None:
        await trio.lowlevel.checkpoint()

    job = ScrapeJob(model="web", urls=tuple(urls), links=True)
    usage = await engine.run(job, 0, len(urls), emit, lambda in_units, cached_units: None)
    assert usage.out_units == len(urls), f"{usage.out_units} of {len(urls)} pages were read"


def _peers(urls: Sequence[str]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        made = list(pool.map(_peer, urls))
    assert all(made)


def _peer(url: str) -> str:
    with _OPENER.open(url, timeout=30) as reply:
        return peer_markdown(reply.read())


@contextmanager
def page_hosts(count: int) -> Iterator[list[str]]:
    """The base URLs of so many hosts on loopback, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.page_host", str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().split()
        process.stdin.close()
