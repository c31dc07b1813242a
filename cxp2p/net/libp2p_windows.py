"""What py-libp2p 0.8.1 does wrong with the windows of its streams (stream_muxer/yamux/yamux.py), one function a fault.

A window is how much the other end may send before it is read: it bounds what a stranger makes us hold.
"""

from __future__ import annotations

import struct
from typing import Any

import libp2p.stream_muxer.yamux.yamux as yamux
import trio
from libp2p.stream_muxer.exceptions import MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from cxp2p.net.libp2p_patch import replace

WINDOW_STALL_S = 120.0  # a reader may pause this long before its stream is given up
WINDOW_LOOK_S = 0.25  # how often a writer without window looks whether its stream still lives
WINDOW_BYTES_MAX = 1 << 20  # what one stream can make us hold; 20 MiB/s at a round trip of 50 ms


def apply() -> None:
    """Applies all of these."""
    fix_window_stall()
    fix_window_growth()
    fix_window_overrun()


def fix_window_stall() -> None:
    """A reader that pauses for 5 s loses its stream, and is not told (yamux.py:280, `YamuxStream.write`).

    The stock write raises after 5 s without window and sends no RST, so the reader waits for ever. Here write waits two
    minutes, and then resets the stream; it wakes when the window opens, where the stock one looks every 10 ms.
    Upstream: "YamuxStream.write() gives up after 5 s of zero window and leaves the peer's read hanging."
    """

    async def write(self: YamuxStream, data: bytes) -> None:
        view, sent = memoryview(data), 0
        frame_max = yamux.MAX_MESSAGE_SIZE - yamux.HEADER_SIZE
        if self.send_closed:
            raise MuxedStreamError("the stream is closed for sending")
        while sent < len(view):
            if self.send_window <= 0:
                await _window(self)
            _check_open(self)
            size = min(self.send_window, frame_max, len(view) - sent)
            self.send_window -= size  # no checkpoint since it was read
            header = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, self.stream_id, size)
            await self.conn._write_frame(header + view[sent : sent + size])
            sent += size

    def widen(self: Any, size: int) -> None:
        self.__dict__["_send_window"] = size
        widened = self.__dict__.get("_widened")
        if widened is not None and size > 0:
            widened.set()

    replace(YamuxStream, "write", write)
    replace(YamuxStream, "send_window", property(lambda self: self.__dict__["_send_window"], widen))


async def _window(stream: Any) -> None:
    give_up_at = trio.current_time() + WINDOW_STALL_S
    while stream.send_window <= 0:
        _check_open(stream)
        if trio.current_time() >= give_up_at:
            await stream.reset()
            raise MuxedStreamError(f"the reader took nothing for {WINDOW_STALL_S:g} s")
        stream.__dict__["_widened"] = widened = trio.Event()
        with trio.move_on_after(WINDOW_LOOK_S):
            await widened.wait()


def _check_open(stream: Any) -> None:
    if stream.reset_received:
        raise MuxedStreamReset("the stream was reset")
    if stream.closed or stream.send_closed:
        raise MuxedStreamError("the stream is closed")


def fix_window_growth() -> None:
    """A few bytes open a window of megabytes (yamux.py:410, `YamuxStream._auto_tune_and_send_window_update`).

    Every read sends an update, however small, and each update doubles the window: the 34 bytes of a protocol
    negotiation make 8 frames and let the peer send 4 MiB that nobody reads; 16 MiB a little later. A read that is
    cancelled in its update loses the bytes that it had taken. Here credit is given back when half of the window was
    read, the window doubles only if that took less than four round trips, it ends at 1 MiB, and nothing waits.
    Upstream: "Yamux sends a window update for each read below the threshold, and doubles the window each time."
    "Cancelling YamuxStream.read() in its window update drops data that was already taken from the buffer."
    """

    async def tune(self: YamuxStream, *, bytes_read: int = 0) -> None:
        self._pending_recv_release += bytes_read
        if self._pending_recv_release * 2 < self.target_recv_window or self.recv_closed or self.closed:
            return
        credit, self._pending_recv_release = self._pending_recv_release, 0
        now = trio.current_time()
        if self.epoch_start > 0.0 and now - self.epoch_start < 4 * self._effective_rtt():
            grown = min(2 * self.target_recv_window, WINDOW_BYTES_MAX)
            credit += grown - self.target_recv_window
            self.target_recv_window = grown
        self.epoch_start = now
        self.recv_window += credit
        await self.send_window_update(credit)

    replace(YamuxStream, "_auto_tune_and_send_window_update", tune)
    replace(yamux, "MAX_WINDOW_SIZE", WINDOW_BYTES_MAX)  # also the largest frame that is taken


def fix_window_overrun() -> None:
    """A peer that ignores its window fills the memory (yamux.py:1515, `Yamux.handle_incoming`: a warning, no more).

    Here its connection is closed. (`handle_incoming` closes it for TooSlowError, and only for that.)
    Upstream: "Yamux does not enforce the receive window: a peer can make it buffer without limit."
    """

    def narrow(self: Any, size: int) -> None:
        if size < 0:
            raise trio.TooSlowError("the peer sent more than its window")
        self.__dict__["_recv_window"] = size

    replace(YamuxStream, "recv_window", property(lambda self: self.__dict__["_recv_window"], narrow))
