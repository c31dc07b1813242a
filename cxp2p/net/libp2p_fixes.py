"""What py-libp2p 0.8.1 does wrong for us, one function for each fault. `apply` runs once, before the first host.

Each docstring says what is wrong and where, how it shows, what the fix does, and a sentence for an upstream report.
`tests/contracts/test_libp2p_fixes.py` shows each fault in the stock code and its absence here.
"""

from __future__ import annotations

import logging
import struct
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from types import CodeType
from typing import Any

import libp2p.io.utils as io_utils
import libp2p.kad_dht.common as kad_common
import libp2p.kad_dht.kad_dht as kad_dht
import libp2p.kad_dht.peer_routing as kad_peer_routing
import libp2p.kad_dht.provider_store as kad_provider_store
import libp2p.kad_dht.value_store as kad_value_store
import libp2p.network.swarm as swarm
import libp2p.stream_muxer.yamux.yamux as yamux
import trio
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.stream_muxer.exceptions import MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from cxp2p import protocols
from cxp2p.errors import LocalProtocolError

log = logging.getLogger("cxp2p.net.libp2p")

LIBP2P_VERSION = "0.8.1"
WRITE_STALL_S = 30.0  # a TCP connection that takes nothing for so long is dead or hostile
WINDOW_STALL_S = 120.0  # a reader may pause this long before its stream is given up
WINDOW_POLL_S = (0.002, 0.05)
CONTROL_BYTES_MAX = 1 << 20
SUSPECT_S = 5.0
SUSPECTS_MAX = 4096
KAD_STREAMS_PER_PEER_MAX = 6  # half of kad-dht's own limit for everybody
_applied = False


def apply() -> None:
    """Applies every process-wide fix, once. Raises LocalProtocolError for another version of libp2p."""
    global _applied
    if _applied:
        return
    found = version("libp2p")
    if found != LIBP2P_VERSION:
        raise LocalProtocolError(
            f"libp2p {found} is installed, cxp2p needs exactly {LIBP2P_VERSION}: pip install libp2p=={LIBP2P_VERSION}"
        )
    fix_write_cancellation()
    fix_read_cancellation()
    fix_open_cancellation()
    fix_window_stall()
    fix_inbound_limiter()
    fix_dial_delay()
    fix_read_exactly()
    set_kad_protocol(protocols.KAD)
    _applied = True


def fix_write_cancellation() -> None:
    """A cancelled write kills the connection for every stream (stream_muxer/yamux/yamux.py, `Yamux._write_frame`).

    The Noise nonce is used up before `send_all`, which may be cancelled: the next frame cannot be decrypted. Here a
    frame is written whole or the connection dies. Control frames never wait behind bulk writers: whoever writes next
    takes them along, so that reading cannot stall on writing. It also leaves out the debug strings that the stock
    method builds for every frame.
    Upstream: "Cancelling YamuxStream.write() corrupts the Noise session of the whole connection."
    """

    async def write_frame(self: Yamux, data: bytes) -> None:
        waiting: bytearray = self.__dict__.setdefault("_control_waiting", bytearray())
        is_control = len(data) == yamux.HEADER_SIZE and data[1] != yamux.TYPE_GO_AWAY
        if is_control and len(waiting) < CONTROL_BYTES_MAX and self._write_lock.locked():
            waiting += data
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        async with self._write_lock:
            if self.event_closed.is_set():
                raise ConnectionClosedError("the connection is closed")
            stall = trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_STALL_S)
            with stall:
                while waiting or data:
                    out = bytes(waiting) + data
                    waiting.clear()
                    data = b""
                    await self.secured_conn.write(out)
        if stall.cancelled_caught:
            with trio.CancelScope(shield=True):
                await self._cleanup_on_error()
            raise ConnectionClosedError(f"the peer took nothing for {WRITE_STALL_S:g} s")

    Yamux._write_frame = write_frame


def fix_read_cancellation() -> None:
    """A cancelled read loses bytes (yamux.py, `YamuxStream.read`: the window update after the bytes were taken).

    Here the update is shielded, and its failure is left to the next read: these bytes did arrive.
    Upstream: "Cancelling YamuxStream.read() in its window update drops data that was already taken from the buffer."
    """
    stock = YamuxStream._auto_tune_and_send_window_update

    async def tune(self: YamuxStream, *, bytes_read: int = 0) -> None:
        with trio.CancelScope(shield=True):
            try:
                await stock(self, bytes_read=bytes_read)
            except (ConnectionClosedError, OSError, MuxedStreamError) as error:
                log.debug("window update: %s", error)

    YamuxStream._auto_tune_and_send_window_update = tune


def fix_open_cancellation() -> None:
    """A cancelled open leaks one of 256 stream slots for the life of the connection (yamux.py, `Yamux.open_stream`).

    Here only the wait for a slot can be cancelled; the SYN that follows is shielded and bounded by the write stall.
    Upstream: "Yamux.open_stream() leaks its backlog slot when it is cancelled while it sends SYN."
    """
    stock = Yamux.open_stream

    async def open_stream(self: Yamux) -> YamuxStream:
        await self.stream_backlog_semaphore.acquire()
        self.stream_backlog_semaphore.release()
        with trio.CancelScope(shield=True):
            stream: YamuxStream = await stock(self)
        return stream

    Yamux.open_stream = open_stream


def fix_window_stall() -> None:
    """A reader that pauses for 5 s loses its stream, and is not told (yamux.py:280, `YamuxStream.write`).

    The stock write raises after 5 s without window and sends no RST, so the reader waits for ever. Here write waits two
    minutes, and then resets the stream. It also takes neither of the two locks for each frame.
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

    YamuxStream.write = write


async def _window(stream: YamuxStream) -> None:
    give_up_at = trio.current_time() + WINDOW_STALL_S
    pause, pause_max = WINDOW_POLL_S
    while stream.send_window <= 0:
        _check_open(stream)
        if trio.current_time() >= give_up_at:
            await stream.reset()
            raise MuxedStreamError(f"the reader took nothing for {WINDOW_STALL_S:g} s")
        await trio.sleep(pause)
        pause = min(pause * 2, pause_max)


def _check_open(stream: YamuxStream) -> None:
    if stream.reset_received:
        raise MuxedStreamReset("the stream was reset")
    if stream.closed or stream.send_closed:
        raise MuxedStreamError("the stream is closed")


def fix_inbound_limiter() -> None:
    """A host accepts 250 connections in its whole life (network/swarm.py:1982-2059).

    The limiter's token is held until the swarm ends, not the connection: all after 250 are refused. Here
    the handler waits for its own connection to close.
    Upstream: "Swarm._inbound_limiter is never released before shutdown: after 250 inbound connections no more get in."
    """

    async def handle(self: Any, raw: Any, address: Any, _failure: Any) -> None:
        try:
            remote = self._build_remote_multiaddr(raw)
            if remote is not None and not await self.connection_gate.is_allowed(remote):
                await raw.close()
                return
            muxed = await self.upgrade_inbound_raw_conn(RawConnection(raw, False), address)
            await muxed.event_closed.wait()
        except Exception as error:
            # Whatever a stranger's handshake provokes in libp2p ends that connection and nothing else.
            log.debug("inbound connection: %r", error)
            await _close_quietly(raw)

    swarm.Swarm._do_handle_inbound_connection = handle


async def _close_quietly(raw: Any) -> None:
    try:
        await raw.close()
    except Exception as error:
        # Closing a broken connection may raise anything of libp2p's transports; it is closed either way.
        log.debug("close: %r", error)


def fix_dial_delay() -> None:
    """Every dial sleeps 250 ms (network/swarm.py:936, happy eyeballs even when there is one address).

    Here it is 10 ms: a connection takes 10 ms instead of 251.
    Upstream: "dial_peer() waits _HAPPY_EYEBALLS_DELAY before the first address."
    """
    swarm._HAPPY_EYEBALLS_DELAY = 0.01


def fix_read_exactly() -> None:
    """A message that comes in more than 100 parts is an error (io/utils.py:8, `read_exactly`).

    A Noise message in small TCP segments kills its connection. Here there is no such count; the code object is
    replaced, because other modules imported the function by name.
    Upstream: "read_exactly() fails after 100 partial reads: connections die on links with small segments."
    """
    io_utils.read_exactly.__code__ = _read_exactly.__code__
    io_utils.__dict__.setdefault("IncompleteReadError", IncompleteReadError)


async def _read_exactly(reader: Any, n: int, retry_count: int = 100) -> bytes:
    buffer = bytearray()
    while len(buffer) < n:
        data = await reader.read(n - len(buffer))
        if not data:
            raise IncompleteReadError(
                f"expected {n} bytes, received {len(buffer)}", expected_bytes=n, received_bytes=len(buffer)
            )
        buffer.extend(data)
    return bytes(buffer)


def set_kad_protocol(protocol: str) -> None:
    """`KadDHT(protocol_prefix=)` changes nothing on the wire (kad_dht/kad_dht.py:340): the id is copied to 5 modules.

    Upstream: "KadDHT ignores protocol_prefix: two private DHTs cannot be kept apart."
    """
    for module in (kad_common, kad_dht, kad_peer_routing, kad_value_store, kad_provider_store):
        module.PROTOCOL_ID = TProtocol(protocol)


# For each host, after it was made.


def guard_handlers(host: Any) -> None:
    """An exception in any stream handler stops the whole host (swarm_connection.py:271, trio_manager.py:385).

    Here it ends its stream and is logged. Upstream: "An exception escaping a stream handler shuts the host down."
    """
    inner = host._swarm_stream_handler

    async def guarded(stream: Any) -> None:
        try:
            await inner(stream)
        except Exception as error:
            # libp2p's own handlers raise whatever a stranger's bytes provoke, protobuf errors included.
            log.debug("stream handler of %s: %r", stream.get_protocol(), error)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await _reset_quietly(stream)

    host.get_network().set_stream_handler(guarded)


async def _reset_quietly(stream: Any) -> None:
    try:
        await stream.reset()
    except Exception as error:
        # The stream is of a broken connection; libp2p raises several unrelated types for that.
        log.debug("reset: %r", error)


class Suspects:
    """Peers whose streams timed out: `new_stream` fails at once for them for a while. Bounded."""

    def __init__(self) -> None:
        self._until: dict[Any, float] = {}

    def add(self, peer_id: Any) -> None:
        if len(self._until) >= SUSPECTS_MAX:
            self._until.clear()
        self._until[peer_id] = trio.current_time() + SUSPECT_S

    def clear(self, peer_id: Any) -> None:
        """The peer was heard from."""
        self._until.pop(peer_id, None)

    def __contains__(self, peer_id: Any) -> bool:
        return self._until.get(peer_id, 0.0) > trio.current_time()


def bound_new_stream(host: Any, timeout_s: float) -> Suspects:
    """`new_stream` may take minutes (dials have no timeout), and the DHT never evicts a peer that timed out
    (kad_dht/peer_routing.py:364: a timeout is a `Cancelled`, removal is in `except Exception`).

    Here it takes `timeout_s` at most and raises an exception, and the peer is not tried again for 5 s.
    Upstream: "kad-dht keeps peers whose streams time out: each later look-up waits for them again."
    """
    inner = host.new_stream
    suspects = Suspects()

    async def new_stream(peer_id: Any, protocol_ids: Sequence[Any]) -> Any:
        if peer_id in suspects:
            raise SwarmException(f"{peer_id} did not answer a moment ago")
        try:
            with trio.fail_after(timeout_s):
                return await inner(peer_id, protocol_ids)
        except trio.TooSlowError:
            suspects.add(peer_id)
            raise SwarmException(f"{peer_id} did not answer in {timeout_s:g} s") from None

    host.new_stream = new_stream
    return suspects


def limit_kad_streams(dht: Any, host: Any, protocol: str) -> None:
    """12 idle streams of one client starve a DHT server for everybody (kad_dht.py: a limiter, no read timeout).

    Here one peer has at most 6 at once, each for 30 s.
    Upstream: "A single peer can exhaust kad-dht's inbound stream limiter with idle streams."
    """
    open_streams: Counter[Any] = Counter()

    async def limited(stream: Any) -> None:
        peer = stream.muxed_conn.peer_id
        if open_streams[peer] >= KAD_STREAMS_PER_PEER_MAX:
            await _reset_quietly(stream)
            return
        open_streams[peer] += 1
        try:
            with trio.move_on_after(30) as patience:
                await dht.handle_stream(stream)
            if patience.cancelled_caught:
                await _reset_quietly(stream)
        finally:
            open_streams[peer] -= 1
            if not open_streams[peer]:
                del open_streams[peer]

    host.set_stream_handler(TProtocol(protocol), limited)


async def kill_connection(connection: Any) -> None:
    """`host.disconnect()` hangs behind a writer that is blocked (GO_AWAY waits for the write lock).

    Here the connection is torn down without a word. Upstream: "disconnect() waits for a blocked writer for ever."
    """
    muxed = connection.muxed_conn
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
        await (muxed._cleanup_on_error() if isinstance(muxed, Yamux) else connection.close())


async def close_host(host: Any, timeout_s: float) -> None:
    """Leaving `host.run()` leaves the listening socket open and accepting (swarm.py:456: closed in a cancelled scope).

    Here the host is closed before `run` is left, shielded and bounded. Upstream: "host.run() leaks its listener."
    """
    with trio.CancelScope(shield=True, deadline=trio.current_time() + timeout_s):
        await host.close()


STOCK: dict[str, Any] = {
    "write_frame": Yamux._write_frame,
    "open_stream": Yamux.open_stream,
    "stream_write": YamuxStream.write,
    "tune": YamuxStream._auto_tune_and_send_window_update,
    "handle_inbound": swarm.Swarm._do_handle_inbound_connection,
}
"""The stock functions, for the tests that show the faults."""

_stock_read_exactly: CodeType = io_utils.read_exactly.__code__
