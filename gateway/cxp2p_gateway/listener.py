"""Serves the HTTP front on a port: Anycorn speaks HTTP/1.1, this module owns the sockets under it.

Anycorn is given each connection as a `Wire`. What it raises ends one connection, never the process.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any, Final, Protocol, cast

import anyio
import anyio.abc
import h11
import trio
from anycorn.config import Config
from anycorn.protocol.h11 import H11Protocol
from anycorn.task_group import TaskGroup
from anycorn.tcp_server import TCPServer
from anycorn.typing import ConnectionState, LifespanState
from anycorn.utils import wrap_app
from anycorn.worker_context import WorkerContext

from cxp2p_gateway.connection import LINGER_S, Wire
from cxp2p_gateway.faults import Condition, Fault
from cxp2p_gateway.framing import HEAD_BYTES_MAX, Framing, origin_form
from cxp2p_gateway.http import Front
from cxp2p_gateway.middleware import place_of
from cxp2p_gateway.ports import port_of

log = logging.getLogger("cxp2p.gateway.http")

IDLE_S: Final = 65.0  # over the 60 s that nginx keeps its connections; also what a request's headers may take
REQUESTS_PER_CONNECTION_MAX: Final = 10_000
GRACE_S: Final = 30.0
CUT_S: Final = 5.0  # for the last words of what is cut after the grace; settling a cancelled job takes up to 2 s


class Started(Protocol):
    """How a nursery's `start` learns the port."""

    def started(self, value: int) -> None: ...


async def serve_http(
    app: Front,
    listeners: Sequence[trio.SocketListener],
    *,
    grace_s: float = GRACE_S,
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `app` until `app.closing` is set and the last answer is out, or is cut `grace_s` later.

    Until then callers can connect, and are told that the gateway shuts down. Reports the port it listens on.
    """
    server = HttpServer(app)
    async with trio.open_nursery() as connections:
        connections.start_soon(trio.serve_listeners, server.serve, listeners)
        task_status.started(port_of(listeners))
        await app.closing.wait()
        await server.drain(grace_s)
        connections.cancel_scope.cancel()


def _config() -> Config:
    config = Config()
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    config.keep_alive_timeout = IDLE_S
    config.keep_alive_max_requests = REQUESTS_PER_CONNECTION_MAX
    config.include_server_header = False
    config.errorlog = logging.getLogger("cxp2p.gateway.anycorn")
    config.errorlog.setLevel(logging.WARNING)  # below that it quotes broken header lines, which may hold a key
    return config


class _Requests(h11.Connection):
    """Reads what `Framing` lets through, and ignores what follows the last request of a connection (RFC 9112, 9.6).

    h11 raises at the latter, and Anycorn would cut the answer to that request for it: one line end too many after a
    body is enough.
    """

    def __init__(self, head_bytes_max: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=head_bytes_max)
        self._framing = Framing()

    def receive_data(self, data: bytes) -> None:
        if self.their_state is h11.MUST_CLOSE:
            return
        passed = self._framing.feed(data)
        if passed or not data:  # to h11 no bytes are the end of the connection
            super().receive_data(passed)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.their_state is h11.MUST_CLOSE:
            return h11.NEED_DATA
        try:
            return super().next_event()
        except h11.RemoteProtocolError as error:
            if self._framing.refused is not None:
                error.error_status_hint = self._framing.refused
            raise


class _Http1(H11Protocol):
    """HTTP/1.1 and nothing else: an `Upgrade` is ignored, which RFC 9110 (7.8) allows.

    Anycorn's own class changes to HTTP/2 or WebSocket for any stranger who asks. One byte that is not ASCII in a
    WebSocket header made it raise out of the connection, and HTTP/2 connections never idled out.
    """

    def __init__(self, *wiring: Any) -> None:
        super().__init__(*wiring)
        self.connection = _Requests(self.config.h11_max_incomplete_size)

    async def _check_protocol(self, event: h11.Request) -> None:
        pass

    async def _create_stream(self, request: h11.Request) -> None:
        target, host = origin_form(request.target)
        dropped = {b"upgrade"} if host is None else {b"upgrade", b"host"}
        headers = [(name, value) for name, value in request.headers if name not in dropped]
        bare = h11.Request(
            method=request.method,
            target=target,
            http_version=request.http_version,
            headers=headers if host is None else [(b"host", host), *headers],
        )
        await super()._create_stream(bare)


class _Connection(TCPServer):
    """Anycorn's server of one connection, with `_Http1` for every client."""

    async def run(self) -> None:
        try:
            async with TaskGroup() as tasks:
                self._task_group = tasks
                self.protocol = cast(
                    Any,
                    _Http1(
                        self.app,
                        self.config,
                        self.context,
                        tasks,
                        ConnectionState({}),
                        cast(Wire, self.stream).peer,
                        None,
                        self.protocol_send,
                        None,
                    ),
                )
                await self.idle_task.restart(tasks, self._idle_timeout)
                await self._read_data()
        finally:
            await self._close()


class HttpServer:
    """All connections of one front."""

    def __init__(self, app: Front) -> None:
        self._app = app
        self._config = _config()
        self._context = WorkerContext(None)
        self._wires: set[Wire] = set()

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """One connection, from accept to close. Whatever goes wrong in it stays in it."""
        with trio.CancelScope() as connection:
            wire = Wire(stream, self._app, connection)
            if (fault := self._no_room(wire)) is not None:
                await wire.refuse(fault)
                return
            self._wires.add(wire)
            try:
                with self._app.crowds.connections.one_more(wire.origin):
                    await self._speak(wire)
            except Exception as error:  # noqa: BLE001  # the top of a connection: what gets here is a bug, maybe Anycorn's
                log.error("bug in a connection: %s", place_of(error))
            finally:
                self._wires.discard(wire)
                wire.ended.set()
                await trio.aclose_forcefully(stream)

    async def _speak(self, wire: Wire) -> None:
        app = wrap_app(cast(Any, wire.serve_request), 0, "asgi")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.read_ahead)
            stream = cast(anyio.abc.SocketStream, wire)
            await _Connection(app, self._config, self._context, LifespanState(), stream).run()
            nursery.cancel_scope.cancel()

    def _no_room(self, wire: Wire) -> Fault | None:
        """Why there is no room for `wire`, after what idles was ended for it."""
        crowds = self._app.crowds
        if crowds.connections.is_full(wire.origin):
            neighbours = [each for each in self._wires if each.origin == wire.origin]
            if not _make_room(neighbours):
                return Fault(Condition.ADDRESS_CROWDED)
        elif len(self._wires) >= crowds.rules.connections_max and not _make_room(self._wires):
            return Fault(Condition.TOO_MANY_CONNECTIONS)
        return None

    @property
    def busy(self) -> list[Wire]:
        """The connections on which a request runs."""
        return [wire for wire in self._wires if wire.busy]

    async def drain(self, grace_s: float) -> None:
        """Waits `grace_s` for the answers that run, then cuts them, then closes all connections."""
        for patience_s in (grace_s, CUT_S):
            with trio.move_on_after(patience_s):
                while busy := self.busy:
                    await busy[0].rest()
            self._app.cut()
        await self._context.terminated.set()
        with trio.move_on_after(2 * LINGER_S):
            while self._wires:
                await next(iter(self._wires)).ended.wait()
        for wire in self._wires:
            wire.cut()


def _make_room(wires: Collection[Wire]) -> bool:
    """Ends the connection that has idled for longest. False if none idles: then all of them hold a key."""
    idle = [wire for wire in wires if wire.idle_since is not None]
    if not idle:
        return False
    min(idle, key=lambda wire: wire.idle_since or 0.0).evict()
    return True
