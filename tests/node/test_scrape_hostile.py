"""Servers that do harm, over real sockets: each gets its fault, within its limit, and takes no memory with it."""

from __future__ import annotations

import gzip
import os
import sys
import time
import zlib
from pathlib import Path
from random import Random

import psutil
import pytest
import trio

from cxp2p.records import PageFault
from cxp2p_node.scrape.exchange import HEADER_BYTES_MAX, HEADERS_MAX, INFORMATIONAL_MAX
from cxp2p_node.scrape.fetch import Fetcher
from cxp2p_node.scrape.fetched import Fetched
from cxp2p_node.scrape.robots import ALLOW_ALL
from webs import (
    Asked,
    Line,
    Script,
    Web,
    allowing,
    authority,
    fetch,
    fetcher_on_loopback,
    on_loopback,
    outcome,
    refused,
)

MB = 1_000_000
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n"
BOMB = gzip.compress(bytes(100 * MB))  # 100 kB


def raw(*parts: bytes, hang: bool = False) -> Script:
    """Sends bytes that need not be HTTP, and then closes, or hangs."""

    async def script(asked: Asked, line: Line) -> None:
        for part in parts:
            await line.raw(part)
        if hang:
            await line.until_left()

    return allowing(script)


def forever(part: bytes, head: bytes = OK + b"\r\n") -> Script:
    """Sends this again and again."""

    async def script(asked: Asked, line: Line) -> None:
        await line.raw(head)
        while True:
            await line.raw(part)

    return allowing(script)


async def slowly(asked: Asked, line: Line) -> None:
    """A byte now and then."""
    await line.raw(OK + b"\r\n")
    while True:
        await line.raw(b"x")
        await trio.sleep(0.02)


async def sixty_megabytes(asked: Asked, line: Line) -> None:
    await line.raw(OK + b"\r\n")
    for _ in range(60):
        await line.raw(b"x" * MB)


HOSTILE: dict[str, tuple[Script, PageFault]] = {
    "60 MB": (allowing(sixty_megabytes), PageFault.TOO_LARGE),
    "60 MB, as it says": (raw(OK + b"content-length: 60000000\r\n\r\n", hang=True), PageFault.TOO_LARGE),
    "a length of many digits": (raw(OK + b"content-length: 99999999999999999999\r\n\r\n"), PageFault.TOO_LARGE),
    "a page without end": (forever(b"x" * 65_536), PageFault.TOO_LARGE),
    "chunks without end": (
        forever(b"10000\r\n" + b"x" * 65_536 + b"\r\n", OK + b"transfer-encoding: chunked\r\n\r\n"),
        PageFault.TOO_LARGE,
    ),
    "a gzip bomb": (raw(OK + b"content-encoding: gzip\r\n\r\n" + BOMB), PageFault.TOO_LARGE),
    "a deflate bomb": (
        raw(OK + b"content-encoding: deflate\r\n\r\n" + zlib.compress(bytes(100 * MB))),
        PageFault.TOO_LARGE,
    ),
    "gzip of nothing without end": (
        forever(gzip.compress(b"") * 1000, OK + b"content-encoding: gzip\r\n\r\n"),
        PageFault.TOO_LARGE,
    ),
    "gzip that is none": (raw(OK + b"content-encoding: gzip\r\n\r\nhello"), PageFault.CONNECT_ERROR),
    "gzip that breaks off": (raw(OK + b"content-encoding: gzip\r\n\r\n" + BOMB[:500]), PageFault.CONNECT_ERROR),
    "another compression": (raw(OK + b"content-encoding: br\r\n\r\nx"), PageFault.UNSUPPORTED_CONTENT_TYPE),
    "nothing": (raw(hang=True), PageFault.TIMEOUT),
    "half a status": (raw(b"HTTP/1.1 2", hang=True), PageFault.TIMEOUT),
    "half its headers": (raw(OK + b"x-more: ", hang=True), PageFault.TIMEOUT),
    "half a page": (raw(OK + b"content-length: 100\r\n\r\nhalf", hang=True), PageFault.TIMEOUT),
    "half a chunk": (raw(OK + b"transfer-encoding: chunked\r\n\r\n1000\r\nhalf", hang=True), PageFault.TIMEOUT),
    "a byte now and then": (allowing(slowly), PageFault.TIMEOUT),
    "headers without end": (forever(b"x-a: b\r\n", OK), PageFault.CONNECT_ERROR),
    "a header without end": (forever(b"x" * 1000, OK + b"x: "), PageFault.CONNECT_ERROR),
    "a chunk's length without end": (
        forever(b"1" * 1000, OK + b"transfer-encoding: chunked\r\n\r\n"),
        PageFault.CONNECT_ERROR,
    ),
    "many headers": (raw(OK + b"x-a: b\r\n" * HEADERS_MAX + b"\r\n"), PageFault.CONNECT_ERROR),
    "large headers": (raw(OK + b"x: " + b"y" * HEADER_BYTES_MAX + b"\r\n\r\n"), PageFault.CONNECT_ERROR),
    "statuses of 1xx": (raw(b"HTTP/1.1 103 Soon\r\n\r\n" * (INFORMATIONAL_MAX + 1)), PageFault.CONNECT_ERROR),
    "1xx without end": (forever(b"HTTP/1.1 100 Go\r\n\r\n", b""), PageFault.CONNECT_ERROR),
    "a close": (raw(), PageFault.CONNECT_ERROR),
    "a page that breaks off": (raw(OK + b"content-length: 100\r\n\r\nhalf"), PageFault.CONNECT_ERROR),
    "no HTTP": (raw(b"SSH-2.0-OpenSSH_9.9\r\n"), PageFault.CONNECT_ERROR),
    "two lengths": (raw(OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab"), PageFault.CONNECT_ERROR),
    "a switch": (raw(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), PageFault.CONNECT_ERROR),
    "a picture": (raw(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\nx"), PageFault.UNSUPPORTED_CONTENT_TYPE),
    "a PDF": (raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/pdf\r\n\r\n%PDF"), PageFault.UNSUPPORTED_CONTENT_TYPE),
    "bytes of no type": (raw(b"HTTP/1.1 200 OK\r\n\r\n\x00\x01\x02"), PageFault.UNSUPPORTED_CONTENT_TYPE),
    "a redirect to nowhere": (raw(b"HTTP/1.1 302 Go\r\ncontent-length: 0\r\n\r\n"), PageFault.HTTP_ERROR),
    "a missing page": (raw(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n"), PageFault.HTTP_ERROR),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_server_gets_its_fault_within_its_limit(name: str) -> None:
    """Half a second here; and nothing stays open."""
    script, fault = HOSTILE[name]
    async with on_loopback(Web({"*": script})) as web:
        fetcher = fetcher_on_loopback(web)
        begun = time.perf_counter()

        assert (
            await outcome(fetcher, web.url("evil.example"), timeout_s=0.5 if fault is PageFault.TIMEOUT else 20.0)
            is fault
        )
        assert time.perf_counter() - begun < (1.5 if fault is PageFault.TIMEOUT else 15.0)
        await web.until_quiet()


async def test_a_server_that_takes_no_connection_is_a_timeout() -> None:
    """Its backlog is full, so that the handshake hangs."""
    with trio.socket.socket() as listener, trio.socket.socket() as filler, trio.socket.socket() as more:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        web = Web(port=listener.getsockname()[1])
        for each in (filler, more):
            with trio.move_on_after(0.2):
                await each.connect(("127.0.0.1", web.port))
        fetcher = fetcher_on_loopback(web)
        fetcher._robots.learn(f"http://full.example:{web.port}", ALLOW_ALL, float("inf"))

        assert await outcome(fetcher, web.url("full.example"), timeout_s=0.3) is PageFault.TIMEOUT


async def test_a_server_that_hangs_in_the_middle_of_tls_is_a_timeout(tmp_path: Path) -> None:
    """It takes the connection and says nothing."""

    async def hang(stream: trio.SocketStream) -> None:
        while await stream.receive_some(1000):
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, hang, listeners)
        web = Web(port=listeners[0].socket.getsockname()[1])
        fetcher = fetcher_on_loopback(web, ca_path=authority(tmp_path).path)
        fetcher._robots.learn(f"https://site.example:{web.port}", ALLOW_ALL, float("inf"))

        assert await outcome(fetcher, web.url("site.example", scheme="https"), timeout_s=0.3) is PageFault.TIMEOUT
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "x-gzip", "identity", "GZIP", ""])
async def test_pages_come_decompressed(encoding: str) -> None:
    """Also of ten million bytes, with nothing between what they are and the limit."""
    text = Random(1).randbytes(5_000).hex().encode() * 1000
    body = (
        gzip.compress(text, 1)
        if "gzip" in encoding.lower()
        else zlib.compress(text, 1)
        if encoding == "deflate"
        else text
    )

    async def script(asked: Asked, line: Line) -> None:
        await line.page(body, content_encoding=encoding)

    async with on_loopback(Web({"*": allowing(script)})) as web:
        assert (await fetch(fetcher_on_loopback(web), web.url("site.example"), 20.0)).body == text


def rss_mb() -> float:
    return float(psutil.Process().memory_info().rss) / MB


@pytest.mark.slow
async def test_memory_stays_flat_under_hostile_servers(capsys: pytest.CaptureFixture[str]) -> None:
    """Three hundred of them, twenty at once, each its own host: the process grows by a few large pages, once."""
    scripts = [script for script, _ in HOSTILE.values()]

    async def script(asked: Asked, line: Line) -> None:
        await scripts[int(asked.host.partition(".")[0]) % len(scripts)](asked, line)

    most, pages = 0.0, 10 * len(scripts)
    async with on_loopback(Web({"*": script})) as web:
        fetcher = fetcher_on_loopback(web, at_once=20)
        await _all(fetcher, web, range(len(scripts)))
        before = rss_mb()

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, rss_mb())
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for first in range(len(scripts), pages, len(scripts)):
                await _all(fetcher, web, range(first, first + len(scripts)))
            nursery.cancel_scope.cancel()
        assert len([path for path in web.paths() if path == "/"]) == pages
    with capsys.disabled():
        sys.stdout.write(f"\n{pages} hostile pages: {before:.0f} MB before, {most:.0f} at most, {rss_mb():.0f} after\n")
    assert rss_mb() < before + 50
    assert most < before + 150


async def _all(fetcher: Fetcher, web: Web, numbers: range) -> None:
    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(outcome, fetcher, web.url(f"{number}.example"), 1.0)


@pytest.mark.slow
async def test_two_hundred_at_once_with_random_cancels_leave_nothing_behind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No socket, no turn, and the next page is fetched as if nothing had been."""
    rng = Random(7)

    async def script(asked: Asked, line: Line) -> None:
        await trio.sleep(rng.random() * 0.02)
        await line.page("x" * rng.randrange(200_000))

    async with on_loopback(Web({"*": allowing(script)})) as web:
        fetcher = fetcher_on_loopback(web, at_once=200, cache_bytes=0)
        await fetch(fetcher, web.url("first.example"))
        await web.until_quiet()
        before = len(os.listdir("/proc/self/fd"))
        done = {"pages": 0, "cancelled": 0}

        async def client(number: int) -> None:
            for count in range(10):
                with trio.move_on_after(rng.choice((30, rng.random()))) as scope:
                    page = await outcome(fetcher, web.url(f"host{number}-{count}.example"), 30.0)
                    assert isinstance(page, Fetched), page
                    done["pages"] += 1
                done["cancelled"] += scope.cancelled_caught

        begun = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(client, number)
        took = time.perf_counter() - begun
        await web.until_quiet()

        assert len(os.listdir("/proc/self/fd")) == before
        assert (len(fetcher._turns), len(fetcher._flights), fetcher._turns._slots.value) == (0, 0, 200)
        assert done["cancelled"] > 100
        assert (await refused(fetcher, "http://127.1/")).fault is PageFault.URL_BLOCKED
        await fetch(fetcher, web.url("last.example"))
    with capsys.disabled():
        sys.stdout.write(f"\n{done}, {len(web.asked) / took:.0f} requests/s, server and robots.txt included\n")
