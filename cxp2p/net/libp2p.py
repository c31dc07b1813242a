"""The network over py-libp2p: TCP, Noise, Yamux, and nothing else. The only adapter; its errors are translated here."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import ifaddr
import trio
from libp2p import new_host
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedConnError, MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from cxp2p import protocols
from cxp2p.errors import CxError, PeerUnreachable, RemoteProtocolError, SettingsError
from cxp2p.identity import Identity
from cxp2p.net import Dht, Handler, Network
from cxp2p.net import libp2p_fixes as fixes
from cxp2p.net.libp2p_dht import Libp2pDht
from cxp2p.net.tasks import background

log = logging.getLogger("cxp2p.net.libp2p")

OfferValidator: TypeAlias = Callable[[str, bytes], int]
"""(peer id, envelope) -> sequence; raises RemoteProtocolError for an offer that is not that peer's."""

READ_BYTES_MAX = 64 * 1024
ADDRESSES_PER_PEER_MAX = 16
ADDRESS_BOOK_PEERS_MAX = 8192
DIAL_STAGGER_S = 0.25
BOOTSTRAP_S_FIRST = 0.25
BOOTSTRAP_S_MAX = 30.0
CLOSE_S = 1.0
LIBP2P_ERRORS = (
    BaseLibp2pError,
    MuxedStreamError,
    MuxedConnError,
    MultiaddrError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    EOFError,
    ValueError,
    KeyError,
)


class Libp2pStream:
    """A Yamux stream behind our seam."""

    def __init__(self, stream: Any, peer: str) -> None:
        self._stream = stream
        self._peer = peer
        self._ended = False

    @property
    def peer(self) -> str:
        return self._peer

    async def send(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), protocols.WRITE_BYTES_MAX):
                await self._stream.write(data[start : start + protocols.WRITE_BYTES_MAX])
        except LIBP2P_ERRORS as error:
            raise PeerUnreachable(f"sending to {self._peer}: {_words(error)}") from None

    async def receive(self) -> bytes:
        try:
            data: bytes = await self._stream.read(READ_BYTES_MAX)
        except StreamEOF:
            return b""
        except LIBP2P_ERRORS as error:
            raise PeerUnreachable(f"receiving from {self._peer}: {_words(error)}") from None
        return data

    async def close_send(self) -> None:
        try:
            await self._stream.close_write()
        except LIBP2P_ERRORS as error:
            raise PeerUnreachable(f"closing towards {self._peer}: {_words(error)}") from None

    async def close(self) -> None:
        await self._end(self._stream.close)

    async def reset(self) -> None:
        await self._end(self._stream.reset)

    async def _end(self, act: Callable[[], Any]) -> None:
        """libp2p leaks a stream that is neither closed nor reset, so neither a cancel nor a hang may prevent it."""
        if self._ended:
            return
        self._ended = True
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            try:
                await act()
            except LIBP2P_ERRORS as error:
                log.debug("ending a stream with %s: %s", self._peer, _words(error))


class Libp2pNetwork:
    """One libp2p host behind our seam. Made by `open_network`."""

    def __init__(self, host: Any, dht: Libp2pDht, suspects: fixes.Suspects) -> None:
        self._host = host
        self._network = host.get_network()
        self._dht = dht
        self._suspects = suspects
        self._peer = str(host.get_id())
        self._book: OrderedDict[str, tuple[Multiaddr, ...]] = OrderedDict()
        self._inbound: Counter[tuple[str, str]] = Counter()
        self._dialling: dict[str, trio.Lock] = {}

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(str(address) for address in self._host.get_addrs())

    @property
    def dht(self) -> Dht:
        return self._dht

    def connected(self) -> tuple[str, ...]:
        return tuple(str(peer) for peer in self._host.get_connected_peers())

    def serve(self, protocol: str, handler: Handler) -> None:
        async def handle(raw: Any) -> None:
            peer = str(raw.muxed_conn.peer_id)
            await self._handle(protocol, handler, Libp2pStream(raw, peer))

        self._host.set_stream_handler(TProtocol(protocol), handle)

    async def _handle(self, protocol: str, handler: Handler, stream: Libp2pStream) -> None:
        key = (stream.peer, protocol)
        if self._inbound[key] >= protocols.STREAMS_PER_PEER_MAX:
            await stream.reset()
            return
        self._inbound[key] += 1
        try:
            await handler(stream)
            await stream.close()
        except (CxError, trio.TooSlowError) as error:
            log.info("%s of %s: %s", protocol, stream.peer, error)
        except Exception:
            # The top of a stream handler: one conversation's bug must not stop the peer.
            log.exception("the handler of %s failed", protocol)
        finally:
            await stream.reset()  # does nothing after a close
            self._inbound[key] -= 1
            if not self._inbound[key]:
                del self._inbound[key]

    async def connect(self, address: str) -> str:
        target, peer = _parse(address)
        self.remember(peer, (address,))
        try:
            with trio.fail_after(protocols.STREAM_OPEN_TIMEOUT_S):
                await self._dial(peer, (target,))
        except trio.TooSlowError:
            raise PeerUnreachable(f"{address} did not answer") from None
        return peer

    def remember(self, peer: str, addresses: tuple[str, ...]) -> None:
        parsed = []
        for address in addresses[:ADDRESSES_PER_PEER_MAX]:
            try:
                target, named = _parse(address)
            except PeerUnreachable as error:
                log.debug("address of %s: %s", peer, error)
                continue
            if named == peer:
                parsed.append(target)
        if not parsed:
            return
        self._book[peer] = tuple(parsed)
        self._book.move_to_end(peer)
        while len(self._book) > ADDRESS_BOOK_PEERS_MAX:
            self._book.popitem(last=False)

    async def open(self, peer: str, protocol: str) -> Libp2pStream:
        try:
            with trio.fail_after(protocols.STREAM_OPEN_TIMEOUT_S):
                peer_id = ID.from_base58(peer)
                if not self._live(peer_id):
                    await self._dial(peer, self._book.get(peer, ()))
                raw = await self._host.new_stream(peer_id, [TProtocol(protocol)])
        except trio.TooSlowError:
            raise PeerUnreachable(f"{peer} did not answer in {protocols.STREAM_OPEN_TIMEOUT_S:g} s") from None
        except LIBP2P_ERRORS as error:
            if isinstance(error.__cause__, MultiselectClientError):
                raise RemoteProtocolError(f"{peer} does not speak {protocol}") from None
            raise PeerUnreachable(f"no stream to {peer}: {_words(error)}") from None
        return Libp2pStream(raw, peer)

    async def kill(self, peer: str) -> None:
        for connection in self._network.get_connections(ID.from_base58(peer)):
            await fixes.kill_connection(connection)

    def _live(self, peer_id: ID) -> bool:
        return any(not connection.is_closed for connection in self._network.get_connections(peer_id))

    async def _dial(self, peer: str, addresses: Sequence[Multiaddr]) -> None:
        """All addresses, a quarter second apart; the first that answers wins. Dials of one peer wait for each other."""
        if peer == self._peer:
            raise PeerUnreachable("that is this peer itself")
        lock = self._dialling.setdefault(peer, trio.Lock())
        try:
            async with lock:
                if not self._live(ID.from_base58(peer)):
                    await self._dial_any(peer, addresses)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._dialling.pop(peer, None)

    async def _dial_any(self, peer: str, addresses: Sequence[Multiaddr]) -> None:
        if not addresses:
            raise PeerUnreachable(f"no address of {peer} is known")
        peer_id, faults = ID.from_base58(peer), []

        async def dial(address: Multiaddr, wait_s: float) -> None:
            await trio.sleep(wait_s)
            try:
                await self._network._dial_addr_single_attempt(address, peer_id)
                nursery.cancel_scope.cancel()
            except LIBP2P_ERRORS as error:
                faults.append(f"{address}: {_words(error)}")

        async with trio.open_nursery() as nursery:
            for index, address in enumerate(addresses):
                nursery.start_soon(dial, address, index * DIAL_STAGGER_S)
        if not self._live(peer_id):
            raise PeerUnreachable(f"{peer} cannot be dialled: {'; '.join(faults)}")
        self._suspects.clear(peer_id)
        self._network.unblock_peer(peer_id)
        self._host.get_peerstore().add_addrs(peer_id, list(addresses), 3600)

    async def keep_bootstrapped(self, addresses: Sequence[str]) -> None:
        """Stays connected to the bootstrap peers: soon after a loss, then ever more seldom, but never giving up.

        libp2p's own bootstrap forgets a peer after three failures.
        """
        pause, joined = BOOTSTRAP_S_FIRST, False
        while True:
            met = 0
            for address in addresses:
                try:
                    peer = await self.connect(address)
                except PeerUnreachable as error:
                    log.info("bootstrap: %s", error)
                    continue
                met += 1
                if not joined:
                    joined = await self._dht.join(peer)
            if not met:
                joined = False
            pause = BOOTSTRAP_S_FIRST * 8 if met else min(pause * 2, BOOTSTRAP_S_MAX)
            await trio.sleep(pause)


@asynccontextmanager
async def open_network(
    identity: Identity,
    *,
    listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
    announce: Sequence[str] = (),
    bootstrap: Sequence[str] = (),
    dht_server: bool = True,
    offer_validator: OfferValidator,
    psk: str | None = None,
) -> AsyncIterator[Network]:
    """A peer on the real network, for as long as the block runs; leaving closes its port and its connections.

    Raises SettingsError for an address that cannot be listened on or parsed, or a bad `psk` (64 hex digits).
    """
    fixes.apply()
    quiet_libp2p()
    targets = [_parse_setting(address, "listen") for address in listen]
    for address in bootstrap:
        _parse_setting(address, "bootstrap", needs_peer=True)
    host = _make_host(identity, targets, [_parse_setting(address, "announce") for address in announce], psk)
    fixes.guard_handlers(host)
    suspects = fixes.bound_new_stream(host, protocols.STREAM_OPEN_TIMEOUT_S)
    async with _listening(host, targets):
        try:
            dht = Libp2pDht(host, offer_validator, server=dht_server)
            network = Libp2pNetwork(host, dht, suspects)
            async with background() as nursery, dht.running():
                if bootstrap:
                    nursery.start_soon(network.keep_bootstrapped, tuple(bootstrap))
                yield network
        finally:
            await fixes.close_host(host, CLOSE_S)


@asynccontextmanager
async def _listening(host: Any, targets: list[Multiaddr]) -> AsyncIterator[None]:
    _check_ports(targets)
    async with host.run(targets):
        if not host.get_transport_addrs():
            raise SettingsError(f"listen: cannot listen on {', '.join(map(str, targets))}")
        yield


def _check_ports(targets: list[Multiaddr]) -> None:
    """libp2p sets SO_REUSEPORT: a second start on the same port would share it silently and lose half its peers."""
    import socket  # noqa: PLC0415

    for target in targets:
        port = int(target.value_for_protocol("tcp") or 0)
        family = socket.AF_INET6 if "ip6" in str(target) else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((str(target.value_for_protocol("ip6" if family == socket.AF_INET6 else "ip4")), port))
            except OSError as error:
                raise SettingsError(f"listen: cannot listen on {target}: {error.strerror}") from None


def _make_host(identity: Identity, listen: list[Multiaddr], announce: list[Multiaddr], psk: str | None) -> Any:
    keys = identity.key_pair
    maximum = protocols.CONNECTIONS_MAX
    try:
        host = new_host(
            key_pair=keys,
            listen_addrs=listen,
            # Never the default list: it accepts /plaintext, where a stranger can claim any peer id.
            sec_opt={NOISE_ID: NoiseTransport(keys, noise_privkey=new_x25519_key_pair().private_key)},
            muxer_opt={TProtocol(YAMUX_ID): Yamux},
            negotiate_timeout=10,
            disable_identify_address_discovery=True,
            addrs_factory=(lambda _: announce) if announce else _dialable,
            psk=psk,
            # Zero watermarks: libp2p's auto-connector would dial every peer that it ever heard of.
            connection_config=ConnectionConfig(
                max_connections=maximum,
                high_watermark=maximum * 3 // 4,
                low_watermark=0,
                min_connections=0,
                max_connections_per_peer=3,
                auto_connect_interval=3600.0,
            ),
            resource_manager=ResourceManager(
                limits=ResourceLimits(max_connections=maximum + 64, max_streams=maximum * 16),
                connection_limits=ConnectionLimits(
                    max_established_inbound=maximum,
                    max_established_outbound=maximum,
                    max_established_per_peer=8,
                    max_established_total=maximum + 64,
                ),
                enable_graceful_degradation=False,
                connections_per_peer_per_sec=100.0,
            ),
        )
    except ValueError as error:
        raise SettingsError(f"psk: expected 64 hex digits: {error}") from None
    host.get_network().retry_config = RetryConfig(max_retries=1)
    return host


def _dialable(candidates: list[Multiaddr]) -> list[Multiaddr]:
    """What others can dial: an unspecified address becomes those of the interfaces, never 0.0.0.0 itself."""
    found: list[Multiaddr] = []
    for candidate in candidates:
        text = str(candidate)
        if not text.startswith(("/ip4/0.0.0.0/", "/ip6/::/")):
            found.append(candidate)
            continue
        found.extend(Multiaddr(text.replace("/ip4/0.0.0.0/", f"/ip4/{ip}/")) for ip in _own_ips())
    return found[:ADDRESSES_PER_PEER_MAX]


def _own_ips() -> list[str]:
    ips = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
    outside = [ip for ip in ips if not ip.startswith("127.")]
    return outside or ips


def _parse(address: str) -> tuple[Multiaddr, str]:
    try:
        whole = Multiaddr(address)
        peer = whole.value_for_protocol("p2p")
        whole.value_for_protocol("tcp")
    except (MultiaddrError, ValueError, LookupError) as error:
        raise PeerUnreachable(f"{address!r} is no TCP address that ends in /p2p/<peer id>: {error}") from None
    return whole.decapsulate(Multiaddr(f"/p2p/{peer}")), str(peer)


def _parse_setting(address: str, name: str, *, needs_peer: bool = False) -> Multiaddr:
    try:
        parsed = Multiaddr(address)
        parsed.value_for_protocol("tcp")
        if needs_peer:
            parsed.value_for_protocol("p2p")
    except (MultiaddrError, ValueError, LookupError):
        wanted = "/ip4/127.0.0.1/tcp/4001" + ("/p2p/<peer id>" if needs_peer else "")
        raise SettingsError(f"{name}: {address!r} is no TCP multiaddress, expected one like {wanted}") from None
    return parsed


def _words(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__


def quiet_libp2p() -> None:
    """libp2p warns about every stream that ends normally: only its errors reach our log."""
    logger = logging.getLogger("libp2p")
    logger.setLevel(logging.CRITICAL)
