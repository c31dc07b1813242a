"""Serves the metrics on a port of their own: one request a connection, GET /metrics and nothing else.

Who scrapes is the operator's own, and still a stranger may find the port: what a connection may take is limited. There
are no CORS headers: no web page reads this through its visitor's browser.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

import h11
import trio
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

log = logging.getLogger("cxp2p.gateway.metrics")

CONNECTIONS_MAX: Final = 16  # scrapers; others are closed unheard
HEAD_BYTES_MAX: Final = 8 * 1024
READ_BYTES: Final = 4 * 1024
REQUEST_S: Final = 5.0  # a whole request, and again its whole answer
PATH: Final = b"/metrics"


class MetricsServer:
    """All connections of one port. They are answered with `text()`."""

    def __init__(self, text: Callable[[], Awaitable[bytes]]) -> None:
        self._text = text
        self._connections = 0

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """One connection, from accept to close."""
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_MAX:
                await self._answer(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("who asked for metrics left")
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.abc.HalfCloseableStream) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        status = 408
        request: h11.Request | None = None
        with trio.move_on_after(REQUEST_S):
            try:
                request = await _request(http, stream)
                status = _status(request)
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint
        if request is None and http.their_state is h11.CLOSED:
            return
        body = await self._text() if status == 200 else b""
        headers = [
            ("content-type", CONTENT_TYPE_PLAIN_0_0_4),
            ("content-length", str(len(body))),
            ("cache-control", "no-store"),
            ("connection", "close"),
            *([("allow", "GET, HEAD")] if status == 405 else []),
        ]
        said = http.send(h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)) or b""
        if request is None or request.method != b"HEAD":
            said += http.send(h11.Data(data=body)) or b""
        with trio.move_on_after(REQUEST_S):
            await stream.send_all(said)
            await stream.send_eof()
            await _read_off(stream)


async def _request(http: h11.Connection, stream: trio.abc.ReceiveStream) -> h11.Request | None:
    """The first request, without its body; None if there is none. Raises h11.RemoteProtocolError."""
    while True:
        event = http.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        http.receive_data(bytes(await stream.receive_some(READ_BYTES)))


def _status(request: h11.Request | None) -> int:
    if request is None:
        return 400
    if request.target.partition(b"?")[0] != PATH:
        return 404
    return 200 if request.method in (b"GET", b"HEAD") else 405


async def _read_off(stream: trio.abc.ReceiveStream) -> None:
    """Waits for the other side's end: a reset for bytes that nobody read could undo the answer."""
    while await stream.receive_some(READ_BYTES):
        pass
