"""One TCP connection as Anycorn is given it, and what is said on it that no app said.

Anycorn lacks reason phrases, bodies for its own errors, an end to a send that nobody reads, and notice of a client that
left while a pipelined request waits.
"""

from __future__ import annotations

import re
from contextlib import suppress
from http import HTTPStatus
from typing import Final

import anyio
import trio
from starlette.types import Receive, Scope, Send

from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.faults import Base, Condition, Dialect, Fault, render
from cxp2p_gateway.framing import HEADERS_MAX
from cxp2p_gateway.http import Front
from cxp2p_gateway.middleware import HEADERS_BYTES_MAX, common_headers, encoded
from cxp2p_gateway.origins import origin_of

READ_BYTES: Final = 64 * 1024
WRITE_BYTES: Final = 64 * 1024
WRITE_STALL_S: Final = 60.0  # a client that reads nothing for so long is gone
UNTAKEN_S: Final = 0.05  # what Anycorn has not taken when the client leaves, it takes at once or not before it answered
LOST_S: Final = 5.0  # from a failed send to the end of all that belongs to the connection
LINGER_S: Final = 1.0
LINGER_BYTES_MAX: Final = 32 * 1024 * 1024

_BARE_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) \r\n")
_OWN_FAULTS: Final = {
    431: Fault(Condition.HEADERS_TOO_LARGE, None, {"limit": HEADERS_BYTES_MAX, "count": HEADERS_MAX}),
    500: Fault(Condition.BUG, None, {"request_id": "unknown"}),
}


class Wire:
    """One TCP connection as Anycorn sees it: the part of anyio's SocketStream that it uses.

    `connection` is the scope that everything of this connection runs in. `idle_since`: None while a request runs, and
    once it is to end. `origin`: the address that it is counted for.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream, app: Front, connection: trio.CancelScope) -> None:
        self._stream = stream
        self._app = app
        self.peer = _peer_of(stream)
        self.origin = origin_of(self.peer[0] if self.peer else None, (), app.crowds.rules.trusted_proxies)
        self._connection = connection
        self._arrived, self._arriving = trio.open_memory_channel[bytes](1)
        self._end_taken = False
        self._running = 0
        self._at_rest = trio.Event()
        self._at_rest.set()
        self.idle_since: float | None = trio.current_time()
        self._sending = trio.CancelScope()
        self._is_cut = False
        self._is_closing = False
        self.ended = trio.Event()

    async def serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, for one request of this connection."""
        if self._running == 0:
            self._at_rest = trio.Event()
        self._running += 1
        self.idle_since = None
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1  # a pipelined one may have begun when this one's answer was out
            if self._running == 0:
                self._at_rest.set()
                self.idle_since = trio.current_time()

    @property
    def busy(self) -> bool:
        """Whether a request runs."""
        return self._running > 0

    async def rest(self) -> None:
        """Waits until no request runs."""
        await self._at_rest.wait()

    def evict(self) -> None:
        """Ends this connection, to make room for another one."""
        self.idle_since = None
        self._connection.cancel()

    async def read_ahead(self) -> None:
        """Reads one chunk ahead of Anycorn, and ends the connection when the client has and nothing is left to do.

        Anycorn takes the client's end at once, and tells the app. It does not while it waits with a pipelined request:
        then nobody would tell the app, and all is cancelled here. Nor does it end its own idle task when the client
        left: then the connection would be kept for the rest of `IDLE_S`.
        """
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await self._stream.receive_some(READ_BYTES):
                    await self._arrived.send(bytes(data))
            self._arrived.close()
            await trio.sleep(UNTAKEN_S)
            if self._end_taken:
                await self._at_rest.wait()
            self._connection.cancel()
            await trio.sleep_forever()
        finally:
            self.cut()

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """The next bytes. Raises anyio's EndOfStream, or ClosedResourceError."""
        if self._is_closing:
            raise anyio.ClosedResourceError
        try:
            return await self._arriving.receive()
        except trio.EndOfChannel:
            self._end_taken = True
            raise anyio.EndOfStream from None

    async def send(self, data: bytes) -> None:
        """Sends all of `data`. Raises anyio's BrokenResourceError, also if the client reads nothing for 60 s."""
        data = self._dressed(data)
        for start in range(0, len(data), WRITE_BYTES):
            if not await self._sent(data[start : start + WRITE_BYTES]):
                self._connection.deadline = min(self._connection.deadline, trio.current_time() + LOST_S)
                raise anyio.BrokenResourceError

    async def _sent(self, data: bytes) -> bool:
        if self._is_cut:
            return False
        with trio.CancelScope(deadline=trio.current_time() + WRITE_STALL_S) as self._sending:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return False
        return not self._sending.cancelled_caught

    async def send_eof(self) -> None:
        """Nothing more will be sent."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """Ends the connection. What the client still sends is read and dropped: a reset could undo our answer."""
        if self._is_closing:
            return
        self._is_closing = True
        await self.send_eof()
        left = LINGER_BYTES_MAX
        with trio.move_on_after(LINGER_S):
            async for data in self._arriving:
                left -= len(data)
                if left < 0:
                    break
        await trio.aclose_forcefully(self._stream)

    def cut(self) -> None:
        """Ends a send that is going on, and refuses later ones: Anycorn shields its own from being cancelled."""
        self._is_cut = True
        self._sending.cancel()

    async def refuse(self, fault: Fault) -> None:
        """Answers a connection that is not served."""
        await self._sent(self._own_answer(fault))
        self._arrived.close()
        await self.aclose()

    def _dressed(self, data: bytes) -> bytes:
        """Adds the reason phrase that Anycorn leaves out, and a body to the answers that Anycorn makes itself."""
        bare = _BARE_STATUS.match(data)
        if bare is None:
            return data
        status = int(bare[1])
        if status >= 400 and b"\r\nx-request-id: " not in data:
            return self._own_answer(_OWN_FAULTS.get(status, Fault(Condition.HTTP_MALFORMED)))
        return _status_line(status) + data[bare.end() :]

    def _own_answer(self, fault: Fault) -> bytes:
        outside = self._app.outside
        now = outside.now()
        exchange = Exchange(
            request_id=f"req_{outside.new_id()}",
            client_request_id=None,
            started_at=now,
            method="-",
            path="-",
            headers={},
            base=Base.ROOT,
            dialect=Dialect.SIMPLE,
            complete=True,
        )
        answer = render(fault, exchange.dialect, exchange.base)
        exchange.status, exchange.error_code, exchange.bytes_out = answer.status, answer.code, len(answer.body)
        self._app.ended(exchange, now)
        headers = dict(answer.headers) | {"content-length": str(len(answer.body)), "connection": "close"}
        lines = [*encoded(list(headers.items())), *common_headers(exchange, now)]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
        return _status_line(answer.status) + head + b"\r\n" + answer.body


def _peer_of(stream: trio.abc.HalfCloseableStream) -> tuple[str, int] | None:
    """The client's address and port; None if it left already, or is in memory."""
    if not isinstance(stream, trio.SocketStream):
        return None
    try:
        host, port, *_ = stream.socket.getpeername()
    except OSError:
        return None
    return host, port


def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()


_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
