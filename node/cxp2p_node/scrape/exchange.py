"""One request over one connection, by h11 on trio: HTTP/1.1 as servers of all kinds speak it, and some to do harm.

The end of the block is the end of the connection, by force: a cancel leaves nothing behind, as there is no pool.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import h11
import trio

from cxp2p.egress import Target
from cxp2p.errors import one_line
from cxp2p.records import PageFault
from cxp2p_node.scrape.fetched import FetchRefused

HEADER_BYTES_MAX: Final = 64 * 1024
HEADERS_MAX: Final = 256
INFORMATIONAL_MAX: Final = 8  # replies of status 1xx before the real one
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
READ_BYTES: Final = 64 * 1024


class Reply:
    """A server's reply, its body unread. `headers`: names in small letters; of several of one name the first."""

    def __init__(self, stream: trio.abc.Stream, connection: h11.Connection) -> None:
        self._stream = stream
        self._connection = connection
        self._ended = False
        self.status = 0
        self.headers: dict[str, str] = {}

    @property
    def redirects(self) -> bool:
        """Whether the page is elsewhere."""
        return self.status in REDIRECTS and "location" in self.headers

    async def begin(self) -> None:
        """Reads up to the headers' end. Raises FetchRefused."""
        for _ in range(INFORMATIONAL_MAX):
            event = await self._next()
            if isinstance(event, h11.Response):
                if len(event.headers) > HEADERS_MAX or sum(map(_size, event.headers)) > HEADER_BYTES_MAX:
                    raise FetchRefused(PageFault.CONNECT_ERROR, "more headers than a page needs")
                self.status = event.status_code
                for name, value in event.headers:
                    self.headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
                return
        raise FetchRefused(PageFault.CONNECT_ERROR, "it replies with statuses of 1xx only")

    async def part(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises FetchRefused, also if it ends too soon."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Data) and event.data:
                return bytes(event.data)
            if not isinstance(event, h11.Data):
                return b""

    async def _next(self) -> h11.Event:
        while True:
            try:
                event = self._connection.next_event()
                if event is h11.NEED_DATA:
                    data = await self._read()
                    self._ended = not data
                    self._connection.receive_data(data)
                    continue
            except h11.RemoteProtocolError as error:
                why = "it broke off" if self._ended else f"it does not speak HTTP: {one_line(str(error), 100)}"
                raise FetchRefused(PageFault.CONNECT_ERROR, why) from None
            if isinstance(event, (h11.InformationalResponse, h11.Response, h11.Data, h11.EndOfMessage)):
                return event
            raise FetchRefused(PageFault.CONNECT_ERROR, "it closed the connection")

    async def _read(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except (OSError, trio.BrokenResourceError):
            raise FetchRefused(PageFault.CONNECT_ERROR, "the connection broke") from None


def _size(header: tuple[bytes, bytes]) -> int:
    return len(header[0]) + len(header[1]) + len(b": \r\n")


@asynccontextmanager
async def exchange(stream: trio.abc.Stream, target: Target, headers: Mapping[str, str]) -> AsyncIterator[Reply]:
    """Asks for a target; the connection is closed when the block ends, however it does. Raises FetchRefused."""
    try:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES_MAX)
        told = {"Host": target.host_header, **headers, "Connection": "close"}
        request = h11.Request(method="GET", target=target.path, headers=list(told.items()))
        data = (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
        with suppress(OSError, trio.BrokenResourceError):  # it may have replied before it had read all
            await stream.send_all(data)
        reply = Reply(stream, connection)
        await reply.begin()
        yield reply
    finally:
        await trio.aclose_forcefully(stream)
