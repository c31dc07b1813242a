"""Pages a second: fetched over HTTP on loopback and made into Markdown, beside trafilatura in a pool of threads.

The pages are 20 to 100 kB, as those of the web are (`web_pages`), and how much of their text is found is a figure, too.
Ours is what a node does for its jobs, save the pauses between two pages of a host: the rules of egress, one page of a
host at a time, and processes that read. The peer fetches by urllib, and heeds nobody.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import trio

from benchmarks.extraction import PEER, peer_markdown
from benchmarks.extraction_scores import our_markdown, said_by, scores, wanted_of
from benchmarks.figures import ROUNDS, Figure, Goal, Rate
from benchmarks.web_pages import web_pages
from cxp2p.records import Piece, ScrapeJob
from cxp2p.scrape import URLS_MAX
from cxp2p_node.config import ModelSettings, ScrapeSettings
from cxp2p_node.engines.scrape import Scrape
from cxp2p_node.engines.scrape_settings import scrape_of

PAGES = 200
HOSTS = 8
THREADS = 8
GOAL = Goal(ratio=5)
NO_WORSE = Goal(ratio=1)
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SETTINGS = ScrapeSettings(allow=("127.0.0.0/8",), delay_s=0, cache_mib=0, browser="none")


def measure(seconds: float) -> list[Figure]:
    """Both in turn, at least twice: the peer takes its time."""
    with page_hosts(HOSTS) as bases:
        urls = [f"{bases[number % HOSTS]}/{number}" for number in range(PAGES)]
        ours, peers = trio.run(_rounds, urls, seconds)
    name = f"{PAGES} pages of {HOSTS} hosts to Markdown, pages/s"
    peer_is = f"{PEER}, {THREADS} threads"
    return [Figure(name=name, ours=Rate.of(ours), peer=Rate.of(peers), peer_is=peer_is, goal=GOAL), text_found()]


def text_found() -> Figure:
    """F1 of the text of these pages."""
    bodies = [body for _, body in web_pages()]
    ours, peers = (
        Rate.mean_of([scores(wanted_of(body), said_by(read(body)))["text"] for body in bodies])
        for read in (our_markdown, peer_markdown)
    )
    return Figure(name="text of these pages, F1", ours=ours, peer=peers, peer_is=PEER, goal=NO_WORSE)


async def _rounds(urls: Sequence[str], seconds: float) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    peers: list[float] = []
    async with scrape_of(ModelSettings(name="web", engine="scrape"), SETTINGS) as engine:
        await _ours(engine, urls)  # processes start, robots.txt is known
        ends = trio.current_time() + seconds
        while len(ours) < 2 or (len(ours) < ROUNDS and trio.current_time() < ends):
            ours.append(await _ours(engine, urls))
            peers.append(await trio.to_thread.run_sync(_peers, urls))
    return ours, peers


async def _ours(engine: Scrape, urls: Sequence[str]) -> float:
    """Pages a second, in as many jobs as it takes."""
    begun = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for start in range(0, len(urls), URLS_MAX):
            nursery.start_soon(_job, engine, urls[start : start + URLS_MAX])
    return len(urls) / (time.perf_counter() - begun)


async def _job(engine: Scrape, urls: Sequence[str]) -> None:
    async def emit(piece: Piece) -> None:
        await trio.lowlevel.checkpoint()

    job = ScrapeJob(model="web", urls=tuple(urls), links=True)
    usage = await engine.run(job, 0, len(urls), emit, lambda in_units, cached_units: None)
    assert usage.out_units == len(urls), f"{usage.out_units} of {len(urls)} pages were read"


def _peers(urls: Sequence[str]) -> float:
    begun = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        made = list(pool.map(_peer, urls))
    assert all(made)
    return len(urls) / (time.perf_counter() - begun)


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
