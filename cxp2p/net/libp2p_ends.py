"""What py-libp2p 0.8.1 does wrong when a stream ends (in stream_muxer/yamux/yamux.py), one function a fault."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import libp2p.stream_muxer.yamux.yamux as yamux
import trio
from libp2p.network.stream.net_stream import NetStream
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from cxp2p.net.libp2p_patch import replace

log = logging.getLogger("cxp2p.net.libp2p")

LINGER_S = 10.0  # how long the peer may take to end a stream that we closed
LINGERING_MAX = 256  # such streams on one connection; more are reset at once
LINGER_READ_BYTES = 64 * 1024


def apply() -> None:
    """Applies all of these."""
    fix_false_ends()
    fix_lost_data()
    fix_half_closed_leak()
    fix_reset_leak()
    fix_close_cancellation()


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
                await stream.read(LINGER_READ_BYTES)
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


def fix_close_cancellation() -> None:
    """A close that is cancelled does nothing, and leaks the stream at both ends (network/stream/net_stream.py).

    libp2p's own protocols close in a `finally`, after a timeout cancelled them: each DHT question to a slow peer leaks
    a stream. Here ending a stream is shielded; it does not wait for the peer.
    Upstream: "NetStream.close() and reset() do nothing in a cancelled scope."
    """

    def shielded(stock: Callable[..., Any]) -> Callable[..., Any]:
        async def end(self: NetStream) -> None:
            with trio.CancelScope(shield=True):
                await stock(self)

        return end

    replace(NetStream, "close", shielded(NetStream.close))
    replace(NetStream, "reset", shielded(NetStream.reset))
