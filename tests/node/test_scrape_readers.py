"""Processes that read pages: those that take too much, and those that are killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from cxp2p.jobs import PageForm
from cxp2p.records import PageFault
from cxp2p_node.scrape import readers as readers_module
from cxp2p_node.scrape.fetched import FetchRefused
from cxp2p_node.scrape.readers import Readers, open_readers
from cxp2p_node.scrape.reading import Unread

pytestmark = pytest.mark.slow

# Reads as the real one does, but for pages that say what else to do.
HOSTILE = """
from cxp2p_node.scrape import reading
from cxp2p_node.scrape.reading import Read
real = reading.read_page
def read_page(unread):
    if unread.body == b"hang":
        while True: pass
    if unread.body == b"grow":
        held = [bytes(1 << 24) for _ in range(1000)]
    if unread.body == b"much":
        held = bytearray(300 << 20)
        held[:: 4096] = b"x" * len(held[:: 4096])
    if unread.body == b"sleep":
        import time; time.sleep(1000)
    if unread.body == b"babble":
        return Read(content="x" * (6 << 20))
    return real(unread)
reading.read_page = read_page
reading.CPU_S_MAX = 0.5
reading.PAGES_MAX = 20
reading.main()
"""


def page(body: bytes) -> Unread:
    return Unread(
        body=body,
        content_type="text/html",
        url="http://a.example/",
        form=PageForm.TEXT,
        main_only=False,
        links=False,
    )


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers run the module above."""
    (tmp_path / "hostile_reading.py").write_text(HOSTILE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(readers_module, "MODULE", "hostile_reading")


async def reads_on(readers: Readers) -> bool:
    return (await readers.read(page(b"<p>fine</p>"))).content == "fine"


@pytest.mark.parametrize(
    ("body", "fault"),
    [(b"hang", PageFault.TIMEOUT), (b"grow", PageFault.TOO_LARGE), (b"babble", PageFault.TOO_LARGE)],
)
async def test_a_page_that_takes_too_much_costs_only_itself(hostile: None, body: bytes, fault: PageFault) -> None:
    """Of time, of memory, of what may be said: others that are read at the same time are right."""
    async with open_readers(2) as readers:
        right = []

        async def others() -> None:
            for _ in range(5):
                right.append(await reads_on(readers))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            with pytest.raises(FetchRefused) as caught:
                await readers.read(page(body))
        assert caught.value.fault is fault
        assert right == [True] * 5
        assert await reads_on(readers)


async def test_one_that_waits_is_ended_by_the_clock(hostile: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it takes no time of a processor."""
    monkeypatch.setattr(readers_module, "WALL_S_MAX", 1.0)
    async with open_readers(1) as readers:
        with pytest.raises(FetchRefused) as caught:
            await readers.read(page(b"sleep"))
        monkeypatch.undo()
        assert caught.value.fault is PageFault.TIMEOUT
    async with open_readers(1) as readers:
        assert await reads_on(readers)


async def test_readers_that_are_killed_cost_nothing() -> None:
    """Not while they are idle, and not while they read: the page is read by another one."""
    async with open_readers(2) as readers:
        assert await reads_on(readers)
        for pid in readers.pids:
            os.kill(pid, signal.SIGKILL)
        assert await reads_on(readers)

        async def kill() -> None:
            (pid,) = readers.pids
            os.kill(pid, signal.SIGKILL)

        large = b"<p>word</p>" * 200_000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            read = await readers.read(page(large))
        assert read.content.startswith("word")


async def test_no_reader_outlives_its_node() -> None:
    """Also one that was in the middle of a page."""
    async with open_readers(2) as readers:
        assert await reads_on(readers)
        with trio.move_on_after(0.01):
            await readers.read(page(b"<p>word</p>" * 200_000))
        pids = readers.pids
    assert pids
    assert not any(map(_runs, pids))


async def test_a_reader_that_had_many_pages_is_replaced_unseen(hostile: None) -> None:
    """Every page is read, by more processes than there are at once."""
    async with open_readers(1) as readers:
        seen: set[int] = set()
        for _ in range(65):
            assert await reads_on(readers)
            seen.update(readers.pids)
    assert len(seen) >= 3


async def test_a_reader_that_took_much_for_a_page_is_replaced_after_it(hostile: None) -> None:
    """The page is read, and what the process would have kept is given back."""
    async with open_readers(1) as readers:
        assert await reads_on(readers)
        (first,) = readers.pids
        assert await reads_on(readers)
        assert readers.pids == (first,)
        assert (await readers.read(page(b"much"))).content == "much"
        assert await reads_on(readers)
        (second,) = readers.pids
    assert second != first


async def test_memory_stays_flat_over_many_pages() -> None:
    """Of the node and of the process that reads: large pages and small ones, for a while."""
    body = b"<html><body><main>" + b"<p>Some <b>words</b> and <a href=/x>links</a>.</p>" * 4000
    async with open_readers(1) as readers:
        sizes = []
        for _ in range(8):
            for _ in range(10):
                await readers.read(page(body))
            sizes.append(sum(_resident(pid) for pid in (os.getpid(), *readers.pids)))
    assert sizes[-1] < sizes[1] * 1.1, sizes


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
