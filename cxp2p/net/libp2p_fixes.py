"""What py-libp2p 0.8.1 does wrong for us, one function for each fault. `apply` runs once, before the first host.

Each docstring says what is wrong and where, how it shows, what the fix does, and a sentence for an upstream report.
Connections are in `libp2p_yamux`, windows in `libp2p_windows`, how streams end in `libp2p_ends`, look-ups in
`libp2p_kad`, the rest is here.
`tests/contracts/test_libp2p_fixes.py` shows each fault in the stock code and its absence with the fix.
"""

from __future__ import annotations

import logging
import struct
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import libp2p.io.utils as io_utils
import libp2p.kad_dht.common as kad_common
import libp2p.kad_dht.kad_dht as kad_dht
import libp2p.kad_dht.peer_routing as kad_peer_routing
import libp2p.kad_dht.provider_store as kad_provider_store
import libp2p.kad_dht.value_store as kad_value_store
import libp2p.network.swarm as swarm
import libp2p.protocol_muxer.multiselect_communicator as multiselect_communicator
import libp2p.stream_muxer.yamux.yamux as yamux
import trio
from libp2p.custom_types import TProtocol
from libp2p.exceptions import ParseError
from libp2p.io.exceptions import IncompleteReadError, IOException, MessageTooLarge
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from cxp2p import protocols
from cxp2p.errors import LocalProtocolError
from cxp2p.net import libp2p_ends, libp2p_kad, libp2p_windows, libp2p_yamux
from cxp2p.net.libp2p_patch import replace, replace_code

log = logging.getLogger("cxp2p.net.libp2p")

LIBP2P_VERSION = "0.8.1"
SUSPECT_S = 5.0
SUSPECTS_MAX = 4096
KAD_STREAMS_PER_PEER_MAX = 6  # half of what kad-dht's own limit is for everybody
KAD_STREAMS_MAX = 256
KAD_STREAM_S = 10.0
KAD_KEYS_MAX = 8192  # 16 MiB, at 20 providers for each
GOODBYE_S = 0.3  # how long a peer may take to hang up when we leave
HANDSHAKES_MAX = 256  # inbound connections that are not yet upgraded
NEGOTIATION_LINE_BYTES_MAX = 1024  # protocol ids are tens of bytes
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
    libp2p_yamux.apply()
    libp2p_windows.apply()
    libp2p_ends.apply()
    libp2p_kad.apply()
    fix_inbound_limiter()
    fix_dial_delay()
    fix_read_exactly()
    fix_negotiation_length()
    limit_kad_stores()
    set_kad_protocol(protocols.KAD)
    _applied = True


class Handshakes:
    """Inbound connections that are not yet upgraded, by remote address. When they are too many, the oldest of the
    address with the most is closed: who floods displaces himself."""

    def __init__(self) -> None:
        self._waiting: dict[Any, str] = {}

    def add(self, raw: Any) -> Any | None:
        """Adds a raw connection; returns the one that has to give way, or None."""
        remote = raw.get_remote_address()
        self._waiting[raw] = remote[0] if remote else ""
        if len(self._waiting) <= HANDSHAKES_MAX:
            return None
        (busiest, _), *_ = Counter(self._waiting.values()).most_common(1)
        oldest = next(each for each, host in self._waiting.items() if host == busiest)
        self.remove(oldest)
        return oldest

    def remove(self, raw: Any) -> None:
        """This one is upgraded, or closed."""
        self._waiting.pop(raw, None)


def fix_inbound_limiter() -> None:
    """A host accepts 250 connections in its whole life (network/swarm.py:1982-2059).

    The limiter's token is held until the swarm ends, not the connection: all after 250 are refused. And connections
    that say nothing hold a token for 10 s, so that a few hundred of them keep everybody out. Here the handler waits for
    its own connection to close, and what is not yet upgraded has its own limit, which newcomers pass.
    Upstream: "Swarm._inbound_limiter is never released before shutdown: after 250 inbound connections no more get in."
    """

    async def handle(self: Any, raw: Any, address: Any) -> None:
        handshakes = self.__dict__.setdefault("_handshakes", Handshakes())
        displaced = handshakes.add(raw)
        if displaced is not None:
            await _close_quietly(displaced)
        try:
            remote = self._build_remote_multiaddr(raw)
            if remote is not None and not await self.connection_gate.is_allowed(remote):
                raise SwarmException("not allowed by the connection gate")
            muxed = await self.upgrade_inbound_raw_conn(RawConnection(raw, False), address)
            handshakes.remove(raw)
            await muxed.event_closed.wait()
        except Exception as error:
            # Whatever a stranger's handshake provokes in libp2p ends that connection and nothing else.
            log.debug("inbound connection: %r", error)
        finally:
            handshakes.remove(raw)
            await _close_quietly(raw)

    replace(swarm.Swarm, "_handle_inbound_connection", handle)


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
    replace(swarm, "_HAPPY_EYEBALLS_DELAY", 0.01)


def fix_read_exactly() -> None:
    """A message that comes in more than 100 parts is an error (io/utils.py:8, `read_exactly`).

    A Noise message in small TCP segments kills its connection. Here there is no such count; the code object is
    replaced, because other modules imported the function by name.
    Upstream: "read_exactly() fails after 100 partial reads: connections die on links with small segments."
    """
    replace_code(io_utils.read_exactly, _read_exactly)


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


def fix_negotiation_length() -> None:
    """A protocol negotiation buffers whatever length a stranger names (protocol_muxer/multiselect_communicator.py).

    Before a connection is even encrypted, 10 s of a full line end in memory. Here a line has at most 1 KiB.
    Upstream: "multistream-select reads messages of any announced length into memory."
    """

    async def read_line(reader: Any) -> bytes:
        try:
            line = await read_varint_prefixed_bytes_limited(reader, NEGOTIATION_LINE_BYTES_MAX)
            line.decode()
        except (MessageTooLarge, ValueError) as error:
            raise ParseError(f"not a protocol negotiation: {error}") from None
        if not line.endswith(b"\n"):
            raise ParseError("not a protocol negotiation: no line end")
        return line[:-1]

    replace(multiselect_communicator, "read_delim", read_line)


def limit_kad_stores() -> None:
    """A stranger can fill the DHT's memory (kad_dht/provider_store.py:579: any number of keys; 50,000 values of 1 MiB).

    Here a peer keeps 8,192 keys, the oldest give way, and 4,096 values, which our validator keeps under 16 KiB.
    Upstream: "ProviderStore has no limit on the number of keys."
    """
    stock = kad_provider_store.ProviderStore.add_provider

    def add_provider(self: Any, key: bytes, provider: Any) -> None:
        if len(key) > protocols.KAD_KEY_BYTES_MAX:
            return
        if key not in self.providers and len(self.providers) >= KAD_KEYS_MAX:
            oldest = next((each for each in self.providers if each not in self.providing_keys), None)
            if oldest is None:
                return
            del self.providers[oldest]
        stock(self, key, provider)

    replace(kad_provider_store.ProviderStore, "add_provider", add_provider)
    replace(kad_value_store, "MAX_VALUE_STORE_SIZE", protocols.DIRECTORY_PEERS_MAX)


def set_kad_protocol(protocol: str) -> None:
    """`KadDHT(protocol_prefix=)` changes nothing on the wire (kad_dht/kad_dht.py:340): the id is copied to 5 modules.

    Upstream: "KadDHT ignores protocol_prefix: two private DHTs cannot be kept apart."
    """
    for module in (kad_common, kad_dht, kad_peer_routing, kad_value_store, kad_provider_store):
        replace(module, "PROTOCOL_ID", TProtocol(protocol))


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


def stop_auto_connect(host: Any) -> None:
    """A host dials every address that it ever heard of (network/auto_connector.py:283, also with all watermarks 0).

    With each connection that it loses it tries for half of `high_watermark`: a small network becomes a full mesh, and
    strangers choose whom we dial; and every peer that ever left is remembered. Here it dials only when asked.
    Upstream: "The auto-connector cannot be turned off: low_watermark=0 still aims at high_watermark / 2."
    """

    async def connect_nobody() -> None:
        await trio.lowlevel.checkpoint()

    connector = host.get_network().auto_connector
    connector.maybe_connect = connect_nobody
    connector.record_disconnect = lambda peer_id: None


def drop_resource_manager(host: Any) -> None:
    """A dial that is cancelled leaks a connection in the resource manager (network/swarm.py:1064, `pre_scope`).

    The scope is released after an `await` that is itself cancelled: after some hundred timeouts every connection is
    "denied by resource manager". Here there is none: the swarm limits connections by itself, and `fix_stream_flood` and
    our handlers limit streams.
    Upstream: "Cancelling a dial leaks its pre-upgrade scope in the ResourceManager."
    """
    host.get_network().set_resource_manager(None)


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
    """12 idle streams of one client starve a DHT server for everybody (kad_dht.py:323: a limiter, no read timeout).

    Here one peer has at most 6 at once, everybody together 256, each for 10 s.
    Upstream: "A single peer can exhaust kad-dht's inbound stream limiter with idle streams."
    """
    dht._inbound_limiter = trio.CapacityLimiter(KAD_STREAMS_MAX)
    open_streams: Counter[Any] = Counter()

    async def limited(stream: Any) -> None:
        peer = stream.muxed_conn.peer_id
        if open_streams[peer] >= KAD_STREAMS_PER_PEER_MAX:
            await _reset_quietly(stream)
            return
        open_streams[peer] += 1
        try:
            with trio.move_on_after(KAD_STREAM_S) as patience:
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
        connection.swarm.remove_conn(connection)
        await muxed._cleanup_on_error()


async def close_host(host: Any, timeout_s: float) -> None:
    """Leaving `host.run()` leaves the listening socket open and accepting (swarm.py:456: closed in a cancelled scope).

    And `host.close()` closes one connection after the other, 0.2 s each, before the listener, and may lose what was
    said last in a TCP reset. Here the host is closed before `run` is left: first the connections, all at once, each
    when the peer hung up after our GO_AWAY or did not in 0.3 s; then the listener. Shielded and bounded.
    Upstream: "host.run() leaks its listener."
    """
    network = host.get_network()
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            for connection in network.get_connections():
                nursery.start_soon(_say_goodbye, connection)
        with trio.move_on_after(timeout_s):
            for listener in tuple(network.listeners.values()):
                await listener.close()
            await host.close()


async def _say_goodbye(connection: Any) -> None:
    muxed = connection.muxed_conn
    goodbye = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_GO_AWAY, 0, 0, yamux.GO_AWAY_NORMAL)
    with trio.move_on_after(GOODBYE_S):
        try:
            await muxed._write_frame(goodbye)
            await muxed.event_closed.wait()
        except IOException as error:
            log.debug("goodbye: %s", error)
    await kill_connection(connection)
