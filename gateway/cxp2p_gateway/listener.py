"""Serves the HTTP front on a port: Anycorn speaks HTTP, this module owns the sockets under it.

Anycorn is given each connection as a `Wire`, which adds what it lacks: reason phrases, bodies for its own errors, an
end to a send that nobody reads, and notice of a client that left while a pipelined request waits.
"""

from __future__ import annotations

import errno
import logging
import re
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

import anyio
import anyio.abc
import trio
from anycorn.config import Config
from anycorn.tcp_server import TCPServer
from anycorn.typing import LifespanState
from anycorn.utils import wrap_app
from anycorn.worker_context import WorkerContext
from starlette.types import Receive, Scope, Send

from cxp2p.errors import SettingsError
from cxp2p_gateway.exchange import Exchange, log_exchange
from cxp2p_gateway.faults import Base, Condition, Dialect, Fault, render
from cxp2p_gateway.http import Front
from cxp2p_gateway.middleware import HEADERS_BYTES_MAX, common_headers, encoded

log = logging.getLogger("cxp2p.gateway.http")

CONNECTIONS_MAX: Final = 1024  # a process may hold 1,024 descriptors by default on some systems, 4,096 on most
BACKLOG: Final = 512
IDLE_S: Final = 65.0  # over the 60 s that nginx keeps its connections; also what a request's headers may take
REQUESTS_PER_CONNECTION_MAX: Final = 10_000
GRACE_S: Final = 30.0
READ_BYTES: Final = 64 * 1024
WRITE_BYTES: Final = 64 * 1024
WRITE_STALL_S: Final = 60.0  # a client that reads nothing for so long is gone
UNTAKEN_S: Final = 0.05  # what Anycorn has not taken when the client leaves, it takes at once or not before it answered
LOST_S: Final = 5.0  # from a failed send to the end of all that belongs to the connection
LINGER_S: Final = 1.0
LINGER_BYTES_MAX: Final = 32 * 1024 * 1024

_BARE_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) \r\n")
_OWN_FAULTS: Final = {
    404: Fault(Condition.PATH_UNKNOWN),
    431: Fault(Condition.HEADERS_TOO_LARGE, None, {"limit": HEADERS_BYTES_MAX}),
    500: Fault(Condition.BUG, None, {"request_id": "unknown"}),
}


class Started(Protocol):
    """How a nursery's `start` learns the port."""

    def started(self, value: int) -> None: ...


async def serve_http(
    app: Front,
    host: str,
    port: int,
    *,
    grace_s: float = GRACE_S,
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `app` until `app.closing` is set and the last answer is out, or `grace_s` later.

    Reports the port it listens on (`port` 0: any free one). Raises SettingsError if it cannot listen there.
    """
    listeners = await _listen(host, port)
    server = _Server(app)
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(partial(trio.serve_listeners, handler_nursery=connections), server.serve, listeners)
            task_status.started(listeners[0].socket.getsockname()[1])
            await app.closing.wait()
            accepting.cancel_scope.cancel()
        await server.drain(grace_s)
        connections.cancel_scope.cancel()


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        listeners = list(await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG))
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: "another program listens there already",
            errno.EACCES: "this user may not listen there; ports below 1024 are for root",
        }
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}") from error
    if port == 0:  # a name with several addresses got a different port on each: the first one is reported
        for spare in listeners[1:]:
            await spare.aclose()
        return listeners[:1]
    return listeners


def _config() -> Config:
    config = Config()
    config.h11_max_incomplete_size = HEADERS_BYTES_MAX
    config.keep_alive_timeout = IDLE_S
    config.keep_alive_max_requests = REQUESTS_PER_CONNECTION_MAX
    config.include_server_header = False
    config.errorlog = logging.getLogger("cxp2p.gateway.anycorn")
    config.errorlog.setLevel(logging.WARNING)  # below that it quotes broken header lines, which may hold a key
    return config


class _Server:
    """All connections of one front."""

    def __init__(self, app: Front) -> None:
        self._app = app
        self._config = _config()
        self._context = WorkerContext(None)
        self._wires: set[Wire] = set()

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, from accept to close."""
        with trio.CancelScope() as connection:
            wire = Wire(stream, self._app, connection)
            if len(self._wires) >= CONNECTIONS_MAX:
                await wire.refuse(Fault(Condition.TOO_MANY_CONNECTIONS))
                return
            self._wires.add(wire)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wire.read_ahead)
                    await TCPServer(
                        wrap_app(cast(Any, wire.serve_request), 0, "asgi"),
                        self._config,
                        self._context,
                        LifespanState(),
                        cast(anyio.abc.SocketStream, wire),
                    ).run()
                    nursery.cancel_scope.cancel()
            finally:
                self._wires.discard(wire)
                wire.ended.set()

    async def drain(self, grace_s: float) -> None:
        """Closes idle connections, gives the others `grace_s` to end, then cuts what is left."""
        await self._context.terminated.set()
        with trio.move_on_after(grace_s):
            while self._wires:
                await next(iter(self._wires)).ended.wait()
        for wire in self._wires:
            wire.cut()


class Wire:
    """One TCP connection as Anycorn sees it: the part of anyio's SocketStream that it uses.

    `connection` is the scope that everything of this connection runs in.
    """

    def __init__(self, stream: trio.SocketStream, app: Front, connection: trio.CancelScope) -> None:
        self._stream = stream
        self._app = app
        self._connection = connection
        self._arrived, self._arriving = trio.open_memory_channel[bytes](1)
        self._end_taken = False
        self._running = 0
        self._at_rest = trio.Event()
        self._at_rest.set()
        self._sending = trio.CancelScope()
        self._is_cut = False
        self._is_closing = False
        self.ended = trio.Event()

    async def serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, for one request of this connection."""
        self._running += 1
        self._at_rest = trio.Event()
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1
            if self._running == 0:
                self._at_rest.set()

    async def read_ahead(self) -> None:
        """Reads one chunk ahead of Anycorn, and ends the connection when the client has and nothing is left to do.

        Anycorn takes the client's end at once, and tells the app. It does not while it waits with a pipelined request:
        then nobody would tell the app, and all is cancelled here. Nor does it end its own idle task when the client
        left: then the connection would be kept for the rest of `IDLE_S`.
        """
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await self._stream.receive_some(READ_BYTES):
                    await self._arrived.send(data)
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

    def extra(self, attribute: object) -> Any:
        """anyio's typed attributes: the raw socket, and nothing about TLS."""
        if attribute is anyio.abc.SocketAttribute.raw_socket:
            return self._stream.socket
        raise anyio.TypedAttributeLookupError

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
        log_exchange(exchange, now)
        headers = dict(answer.headers) | {"content-length": str(len(answer.body)), "connection": "close"}
        lines = [*encoded(list(headers.items())), *common_headers(exchange, now)]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
        return _status_line(answer.status) + head + b"\r\n" + answer.body


def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()


_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
