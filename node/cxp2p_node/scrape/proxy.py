"""A proxy on loopback for one page in a browser: everything that it loads goes by the same rules of egress.

It speaks as much of HTTP as browsers speak to proxies: CONNECT, and requests in absolute form (RFC 9112, 3.2.2 and
3.2.3). Each connection is for one of them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

import trio

from cxp2p.egress import BLOCKED, EgressRefused, EgressRules, Target, admit_url
from cxp2p.net.tasks import background
from cxp2p.records import PageFault
from cxp2p_node.scrape.fetched import FetchRefused

log = logging.getLogger("cxp2p.node.scrape")

REQUESTS_MAX: Final = 200  # of one page; half of all pages on the web make fewer than 80
BYTES_MAX: Final = 32 * 1024 * 1024  # up and down, of one page
HEAD_BYTES_MAX: Final = 64 * 1024
HEAD_S_MAX: Final = 30.0  # browsers open connections before they know what for
CONNECT_S_MAX: Final = 10.0
READ_BYTES_MAX: Final = 1 << 16

# What Chromium asks for itself, whatever it is told: versions, time, accounts. Nobody there needs to know of this node.
_CALLS_HOME: Final = frozenset(
    {"update.googleapis.com", "clients2.google.com", "accounts.google.com", "optimizationguide-pa.googleapis.com"}
)
_HOP: Final = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"proxy-authorization", b"upgrade"})


class Connects(Protocol):
    """Connects by the rules: what a `Fetcher` does besides fetching."""

    @property
    def rules(self) -> EgressRules: ...

    async def connect(self, target: Target) -> trio.SocketStream: ...


class Proxy:
    """What one page asked for. Made by `open_proxy`. `over`: it asked for too much, and gets no more."""

    def __init__(self, connects: Connects) -> None:
        self._connects = connects
        self.requests = 0
        self.bytes = 0
        self.refused: list[str] = []
        self.port = 0

    def __repr__(self) -> str:
        return f"<Proxy {self.requests} requests, {self.bytes} bytes, {len(self.refused)} refused>"

    @property
    def over(self) -> bool:
        return self.requests > REQUESTS_MAX or self.bytes > BYTES_MAX

    async def serve(self, browser: trio.SocketStream) -> None:
        """One connection of the browser."""
        async with browser:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._serve(browser)

    async def _serve(self, browser: trio.SocketStream) -> None:
        with trio.move_on_after(HEAD_S_MAX):
            head, after = await _head(browser)
        if not head:
            return
        self.requests += 1
        method, url, *_ = [*head[0].split(b" "), b"", b""]
        try:
            target = self._admitted(method, url)
            with trio.fail_after(CONNECT_S_MAX):
                host = await self._connects.connect(target)
        except (EgressRefused, FetchRefused, trio.TooSlowError) as refused:
            self.refused.append(url[:256].decode("latin-1"))
            log.info("a page's script may not have %r: %s", url[:256], refused)
            status = b"502 Bad Gateway" if isinstance(refused, trio.TooSlowError) else b"403 Forbidden"
            await browser.send_all(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        async with host:
            if method == b"CONNECT":
                await browser.send_all(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                await host.send_all(_rewritten(head, target))
            if after:
                await host.send_all(after)
            await self._between(browser, host)

    def _admitted(self, method: bytes, url: bytes) -> Target:
        """What is asked for, if it may be. Raises EgressRefused."""
        text = url.decode("latin-1")
        target = admit_url(f"https://{text}/" if method == b"CONNECT" else text, self._connects.rules)
        if (
            target.host in _CALLS_HOME
            or target.tls is not (method == b"CONNECT")
            or self.over
            or len(self.refused) >= REQUESTS_MAX
        ):
            raise EgressRefused(PageFault.URL_BLOCKED, BLOCKED)
        return target

    async def _between(self, browser: trio.SocketStream, host: trio.SocketStream) -> None:
        """Carries bytes both ways until the host has no more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, browser, host)
            await self._carry(host, browser)
            nursery.cancel_scope.cancel()

    async def _carry(self, source: trio.SocketStream, to: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while not self.over and (data := await source.receive_some(READ_BYTES_MAX)):
                self.bytes += len(data)
                await to.send_all(data)


async def _head(stream: trio.SocketStream) -> tuple[list[bytes], bytes]:
    """A request's lines, and what came after them; none if it ended before, or is too long."""
    heard = bytearray()
    while (end := heard.find(b"\r\n\r\n")) < 0:
        data = await stream.receive_some(READ_BYTES_MAX)
        heard += data
        if not data or len(heard) > HEAD_BYTES_MAX:
            return [], b""
    return bytes(heard[:end]).split(b"\r\n"), bytes(heard[end + 4 :])


def _rewritten(head: list[bytes], target: Target) -> bytes:
    """The request as the host gets it: in origin form, the last one of its connection."""
    method = head[0].split(b" ")[0]
    kept = [line for line in head[1:] if line.partition(b":")[0].strip().lower() not in _HOP | {b"host"}]
    first = method + b" " + target.path.encode("ascii") + b" HTTP/1.1"
    lines = [first, b"Host: " + target.host_header.encode("ascii"), *kept, b"Connection: close"]
    return b"\r\n".join([*lines, b"", b""])


@asynccontextmanager
async def open_proxy(connects: Connects) -> AsyncIterator[Proxy]:
    """A proxy for one page, on a port of loopback, for as long as the block runs."""
    proxy = Proxy(connects)
    async with background() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, proxy.serve, [listener])
        yield proxy
