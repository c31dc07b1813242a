"""What py-libp2p 0.8.1 does wrong in connections (stream_muxer/yamux/yamux.py and around it), one function a fault."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import libp2p.stream_muxer.yamux.yamux as yamux
import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from cxp2p.net.libp2p_patch import replace

log = logging.getLogger("cxp2p.net.libp2p")

WRITE_STALL_S = 30.0  # a TCP connection that takes nothing for so long is dead or hostile
PING_S = 10.0  # between pings
PONG_S = 10.0  # a peer that does not answer a ping for so long hangs or is gone
LAST_WORDS_S = 0.5  # what a closing connection may still send
OUTBOX_BYTES_MAX = 128 * 1024  # data that waits for the socket; more makes its writer wait
CONTROL_BYTES_MAX = 1 << 20  # control frames never wait, but a peer that asks and does not read is dropped
NOISE_BYTES_MAX = 65_519  # one Noise message
READ_AHEAD_BYTES = 64 * 1024
STREAMS_PER_CONNECTION_MAX = 512  # 128 of each protocol, and what is being negotiated


def apply() -> None:
    """Applies all of these."""
    fix_write_cancellation()
    fix_open_cancellation()
    fix_silent_peers()
    fix_stream_flood()
    fix_small_reads()


@dataclass(slots=True)
class Outbox:
    """Whole frames on their way to one connection: anybody puts them in, one task sends them."""

    frames: bytearray = field(default_factory=bytearray)
    filled: trio.Event = field(default_factory=trio.Event)
    moved: trio.Event = field(default_factory=trio.Event)
    sending: bool = False

    def put(self, frame: bytes) -> None:
        """Adds a frame; the task that sends wakes."""
        self.frames += frame
        self.filled.set()

    def take(self) -> bytes:
        """The next bytes to send; whoever waits for room or for the end wakes."""
        out = bytes(self.frames[:NOISE_BYTES_MAX])
        del self.frames[: len(out)]
        self.sending = bool(out)
        self.moved.set()
        self.moved = trio.Event()
        return out

    def give_up(self) -> None:
        """Nothing more will be sent; whoever waits wakes."""
        self.frames.clear()
        self.take()


def _outbox(connection: Any) -> Outbox:
    outbox = connection.__dict__.get("_outbox")
    if outbox is None:
        outbox = connection.__dict__["_outbox"] = Outbox()
    return outbox  # type: ignore[no-any-return]


def fix_write_cancellation() -> None:
    """A cancelled write kills the connection for every stream (yamux.py, `Yamux._write_frame`).

    The Noise nonce is used up before `send_all`, which may be cancelled: the next frame cannot be decrypted. A writer
    to a peer that hangs also holds the lock, so that window updates, resets and the SYN of a new stream wait behind it.
    Here frames go whole into an outbox that one task empties, many at a time: cancelling a writer cancels its wait and
    nothing else, control frames never wait, and a peer that takes nothing for 30 s loses its connection.
    Upstream: "Cancelling YamuxStream.write() corrupts the Noise session of the whole connection."
    """
    stock_start = Yamux.start

    async def write_frame(self: Yamux, data: bytes) -> None:
        outbox = _outbox(self)
        if data[1] == yamux.TYPE_DATA:
            await trio.lowlevel.checkpoint()
            while len(outbox.frames) >= OUTBOX_BYTES_MAX and not self.event_closed.is_set():
                await outbox.moved.wait()
        if self.event_closed.is_set():
            raise ConnectionClosedError("the connection is closed")
        if len(outbox.frames) > CONTROL_BYTES_MAX:
            await _drop(self, "the peer asks and does not read")
            raise ConnectionClosedError("the connection is closed: the peer asks and does not read")
        outbox.put(data)
        if data[1] == yamux.TYPE_GO_AWAY:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WORDS_S):
                while (outbox.frames or outbox.sending) and not self.event_closed.is_set():
                    await outbox.moved.wait()

    async def start(self: Yamux) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_empty, self)
            await stock_start(self)
            nursery.cancel_scope.cancel()
        _outbox(self).give_up()

    replace(Yamux, "_write_frame", write_frame)
    replace(Yamux, "start", start)


async def _empty(connection: Any) -> None:
    """Sends what is in a connection's outbox, for as long as the connection lives."""
    outbox = _outbox(connection)
    while True:
        data = outbox.take()
        if not data:
            outbox.filled = trio.Event()
            await outbox.filled.wait()
            continue
        try:
            with trio.fail_after(WRITE_STALL_S):
                await connection.secured_conn.write(data)
        except Exception as error:
            # Noise, the raw connection and the socket each raise their own; any of them means that it is lost.
            # It must not leave this task: the whole host would end.
            outbox.give_up()
            await _drop(connection, repr(error))
            return


async def _drop(connection: Any, reason: str) -> None:
    log.debug("dropping the connection to %s: %s", connection.peer_id, reason)
    with trio.CancelScope(shield=True):
        await connection._cleanup_on_error()


def fix_open_cancellation() -> None:
    """A cancelled open leaks a stream, and one of 256 slots, for the life of the connection.

    (yamux.py, `Yamux.open_stream`; connection/swarm_connection.py, `new_stream`.) Here only the wait for a slot can be
    cancelled; what follows does not wait for the peer.
    Upstream: "Yamux.open_stream() leaks its backlog slot when it is cancelled while it sends SYN."
    """
    stock = Yamux.open_stream

    async def open_stream(self: Yamux) -> YamuxStream:
        await self.stream_backlog_semaphore.acquire()
        self.stream_backlog_semaphore.release()
        with trio.CancelScope(shield=True):
            stream: YamuxStream = await stock(self)
        return stream

    async def new_stream(self: SwarmConn) -> NetStream:
        muxed = await self.muxed_conn.open_stream()
        with trio.CancelScope(shield=True):
            return await self._add_stream(muxed)

    replace(Yamux, "open_stream", open_stream)
    replace(SwarmConn, "new_stream", new_stream)


def fix_silent_peers() -> None:
    """A peer that hangs, or lost its power, is never noticed (yamux.py:719: nobody minds that a ping has no answer).

    For a quarter of an hour it counts as connected, jobs run for it, and it is asked. Here each connection is pinged
    every 10 s, and closed when the answer does not come in 10 s.
    Upstream: "Yamux keeps a connection whose pings are not answered."
    """

    async def ping(self: Yamux) -> None:
        while not self.event_shutting_down.is_set():
            self._ping_id += 1
            self._ping_event = trio.Event()
            self._ping_sent_time = trio.current_time()
            try:
                await self._write_frame(_frame(yamux.TYPE_PING, yamux.FLAG_SYN, 0, self._ping_id))
            except ConnectionClosedError:
                return
            with trio.move_on_after(PONG_S):
                await self._ping_event.wait()
            if not self._ping_event.is_set():
                await _drop(self, f"no answer to a ping in {PONG_S:g} s")
                return
            with trio.move_on_after(PING_S):
                await self.event_shutting_down.wait()

    replace(Yamux, "_measure_rtt_loop", ping)


def _frame(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    return struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, kind, flags, stream_id, length)


def fix_stream_flood() -> None:
    """One peer may open all the streams that a host has (connection/swarm_connection.py, `_handle_muxed_stream`).

    The only limit is for everybody together, and each stream may negotiate for 10 s. Here a connection has at most 512.
    Upstream: "Inbound streams are not limited per connection or peer."
    """
    stock: Callable[..., Any] = SwarmConn._handle_muxed_stream

    async def handle(self: SwarmConn, muxed_stream: Any) -> None:
        if len(self.streams) >= STREAMS_PER_CONNECTION_MAX:
            await muxed_stream.reset()
            return
        await stock(self, muxed_stream)

    replace(SwarmConn, "_handle_muxed_stream", handle)


def fix_small_reads() -> None:
    """Every frame costs two system calls to read: two bytes of length, and the rest (security/noise/io.py).

    Here the socket is read ahead, 64 KiB at most: a job takes 30 % less time.
    Upstream: "Noise reads its length prefix with a system call of its own."
    """

    async def read(self: Any, n: int | None = None) -> bytes:
        ahead: bytearray = self.__dict__.setdefault("_ahead", bytearray())
        if not ahead:
            data: bytes = await stock(self, READ_AHEAD_BYTES if n is None else max(n, READ_AHEAD_BYTES))
            if n is None or len(data) <= n:
                return data
            ahead += data
        out = bytes(ahead if n is None else ahead[:n])
        del ahead[: len(out)]
        return out

    stock = TrioTCPStream.read
    replace(TrioTCPStream, "read", read)
