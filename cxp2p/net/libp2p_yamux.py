"""What py-libp2p 0.8.1 does wrong in connections and streams (stream_muxer/yamux/yamux.py), one function a fault."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import libp2p.stream_muxer.yamux.yamux as yamux
import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from cxp2p.net.libp2p_patch import replace

log = logging.getLogger("cxp2p.net.libp2p")

WRITE_STALL_S = 30.0  # a TCP connection that takes nothing for so long is dead or hostile
LAST_WORDS_S = 0.5  # what a closing connection may still send
OUTBOX_BYTES_MAX = 128 * 1024  # data that waits for the socket; more makes its writer wait
CONTROL_BYTES_MAX = 1 << 20  # control frames never wait, but a peer that asks and does not read is dropped
NOISE_BYTES_MAX = 65_519  # one Noise message
READ_AHEAD_BYTES = 64 * 1024
LINGER_S = 10.0  # how long the peer may take to end a stream that we closed
LINGERING_MAX = 256  # such streams on one connection; more are reset at once
STREAMS_PER_CONNECTION_MAX = 512  # 128 of each protocol, and what is being negotiated


def apply() -> None:
    """Applies all of these."""
    fix_write_cancellation()
    fix_open_cancellation()
    fix_false_ends()
    fix_lost_data()
    fix_half_closed_leak()
    fix_reset_leak()
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
    """A cancelled open leaks one of 256 stream slots for the life of the connection (yamux.py, `Yamux.open_stream`).

    Here only the wait for a slot can be cancelled; what follows does not wait for the peer.
    Upstream: "Yamux.open_stream() leaks its backlog slot when it is cancelled while it sends SYN."
    """
    stock = Yamux.open_stream

    async def open_stream(self: Yamux) -> YamuxStream:
        await self.stream_backlog_semaphore.acquire()
        self.stream_backlog_semaphore.release()
        with trio.CancelScope(shield=True):
            stream: YamuxStream = await stock(self)
        return stream

    replace(Yamux, "open_stream", open_stream)


@dataclass(frozen=True, slots=True)
class _Left:
    """What a stream had received when its connection was lost, and whether the peer had ended it by then."""

    data: bytearray
    ended: bool


def fix_false_ends() -> None:
    """A reset, and a lost connection, look like a clean end (yamux.py:1051, `Yamux.read_stream`).

    The stream is forgotten before its reader wakes, and an unknown stream "ended": half an answer looks whole. Here
    only a FIN is an end. It also takes none of the two locks for each read.
    Upstream: "YamuxStream.read() raises MuxedStreamEOF instead of MuxedStreamReset after an RST."
    """

    async def read(self: YamuxStream, n: int | None = -1) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            left: _Left | None = self.__dict__.get("_left")
            buffer = left.data if left else self.conn.stream_buffers.get(self.stream_id)
            ended = left.ended if left else self.recv_closed
            if buffer and (left or ended or not self.reset_received):
                data = bytes(buffer) if n is None or n < 0 else bytes(buffer[:n])
                del buffer[: len(data)]
                if not left:
                    await _taken(self, len(data), emptied=not buffer)
                return data
            if self.reset_received and not (left and ended):
                raise MuxedStreamReset("the stream was reset, or its connection was lost")
            if ended:
                raise MuxedStreamEOF("the peer ended the stream")
            event = self.conn.stream_events.get(self.stream_id)
            if event is None:
                raise MuxedStreamReset("the stream is closed")
            await event.wait()
            if self.stream_id in self.conn.stream_events:
                self.conn.stream_events[self.stream_id] = trio.Event()

    replace(YamuxStream, "read", read)


async def _taken(stream: Any, count: int, *, emptied: bool) -> None:
    """Bookkeeping for bytes that are on their way to the reader: no cancellation may lose them now."""
    if not stream.closed:
        await stream._auto_tune_and_send_window_update(bytes_read=count)
    elif emptied:
        with trio.CancelScope(shield=True):
            await stream.conn._finalize_stream(stream, fully_closed=True)


def fix_lost_data() -> None:
    """What had arrived before a connection ended is dropped (yamux.py:1680, `Yamux._cleanup_on_error`).

    A peer that says its last word and leaves was not heard, if the reader was busy. Here each stream keeps it.
    Upstream: "Yamux drops received data that was not read yet when the connection closes."
    """
    stock_cleanup, stock_close = Yamux._cleanup_on_error, Yamux.close

    def keep(connection: Any) -> None:
        for stream in connection.streams.values():
            data = connection.stream_buffers.get(stream.stream_id, bytearray())
            ended = stream.recv_closed and not stream.reset_received
            stream.__dict__.setdefault("_left", _Left(data, ended))

    async def cleanup(self: Yamux) -> None:
        keep(self)
        await stock_cleanup(self)

    async def close(self: Yamux, error_code: int = yamux.GO_AWAY_NORMAL) -> None:
        keep(self)
        for stream in self.streams.values():
            stream.reset_received = True
        await stock_close(self, error_code)

    replace(Yamux, "_cleanup_on_error", cleanup)
    replace(Yamux, "close", close)


def fix_half_closed_leak() -> None:
    """A stream that we closed and the peer did not is kept, and all that comes on it (yamux.py, `YamuxStream.close`).

    For as long as the connection lives: each stream of a stranger that never ends his side costs a window. Here what
    comes is read away for 10 s, and then the stream is reset. `close_write` is the half close that is meant.
    Upstream: "YamuxStream.close() leaks the stream until the peer closes its side."
    """
    stock = YamuxStream.close

    async def close(self: YamuxStream) -> None:
        await stock(self)
        nursery = self.conn._nursery
        if self.recv_closed or self.reset_received or nursery is None or self.conn.event_shutting_down.is_set():
            return
        lingering: set[int] = self.conn.__dict__.setdefault("_lingering", set())
        if len(lingering) >= LINGERING_MAX:
            await self.reset()
        else:
            lingering.add(self.stream_id)
            nursery.start_soon(_linger, self, lingering)

    replace(YamuxStream, "close_write", stock)
    replace(YamuxStream, "close", close)


async def _linger(stream: Any, lingering: set[int]) -> None:
    try:
        with trio.move_on_after(LINGER_S):
            while True:
                await stream.read(READ_AHEAD_BYTES)
    except MuxedStreamError as error:
        log.debug("the peer ended a closed stream: %s", error)
    finally:
        lingering.discard(stream.stream_id)
        with trio.CancelScope(shield=True):
            await stream.reset()


def fix_reset_leak() -> None:
    """A stream that was reset with unread data is kept for a minute (yamux.py, `reset` and the sweeper).

    A peer that sends a window of bytes on each of many refused streams fills the memory. And `reset` of a stream that
    the peer reset first does nothing at all. Here a reset forgets the stream and its bytes at once.
    Upstream: "YamuxStream.reset() leaves unread data to the sweeper for 60 to 90 s."
    """
    stock = YamuxStream.reset

    async def reset(self: YamuxStream) -> None:
        connection = self.conn
        self.__dict__["_left"] = _Left(bytearray(), ended=False)
        await stock(self)
        self.reset_received = True
        async with connection.streams_lock:
            connection.stream_buffers.get(self.stream_id, bytearray()).clear()
            connection._finalize_stream_locked(self, fully_closed=True)

    replace(YamuxStream, "reset", reset)


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
