"""The network over py-libp2p: TCP, Noise, Yamux, and nothing else. The only adapter; its errors are translated here."""

from __future__ import annotations

import logging
import re
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import ifaddr
import trio
from libp2p import new_host
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from cxp2p import protocols
from cxp2p.errors import CxError, PeerUnreachable, SettingsError
from cxp2p.identity import Identity
from cxp2p.net import Handler
from cxp2p.net import libp2p_fixes as fixes
from cxp2p.net.libp2p_dht import Libp2pDht
from cxp2p.net.libp2p_streams import CLOSE_S, LIBP2P_ERRORS, Libp2pStream, words
from cxp2p.net.tasks import background

log = logging.getLogger("cxp2p.net.libp2p")

OfferValidator: TypeAlias = Callable[[str, bytes], int]
"""(peer id, envelope) -> sequence; raises RemoteProtocolError for an offer that is not that peer's."""

ADDRESSES_PER_PEER_MAX = 16
ADDRESS_BOOK_PEERS_MAX = 8192
DIAL_STAGGER_S = 0.25
BOOTSTRAP_S_FIRST = 0.25
BOOTSTRAP_S_MAX = 30.0


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
        self.joined = trio.Event()

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(str(address) for address in self._host.get_addrs())

    @property
    def dht(self) -> Libp2pDht:
        return self._dht

    def connected(self) -> tuple[str, ...]:
        return tuple(str(peer) for peer in self._host.get_connected_peers() if self._live(peer))

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
                if not (connections := self._live(peer_id)):
                    await self._dial(peer, self._book.get(peer, ()))
                    connections = self._live(peer_id)
                return await self._open_on(connections[0], peer, protocol)
        except trio.TooSlowError:
            raise PeerUnreachable(f"{peer} did not answer in {protocols.STREAM_OPEN_TIMEOUT_S:g} s") from None
        except LIBP2P_ERRORS as error:
            raise PeerUnreachable(f"no stream to {peer}: {words(error)}") from None

    async def _open_on(self, connection: Any, peer: str, protocol: str) -> Libp2pStream:
        spoken: set[str] = connection.muxed_conn.__dict__.setdefault("_spoken", set())
        stream = Libp2pStream(await connection.new_stream(), peer, protocol)
        if protocol not in spoken:
            try:
                await stream.agree()
            except BaseException:
                await stream.reset()
                raise
            spoken.add(protocol)
        return stream

    async def kill(self, peer: str) -> None:
        try:
            peer_id = ID.from_base58(peer)
        except ValueError:
            return  # no such peer can be connected
        for connection in self._network.get_connections(peer_id):
            await fixes.kill_connection(connection)

    def _live(self, peer_id: ID) -> list[Any]:
        """The connections of a peer that can be used."""
        return [
            connection
            for connection in self._network.get_connections(peer_id)
            if not (connection.is_closed or connection.muxed_conn.event_shutting_down.is_set())
        ]

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
        peer_id, faults = ID.from_base58(peer), list[str]()

        async def dial(address: Multiaddr, wait_s: float) -> None:
            await trio.sleep(wait_s)
            try:
                await self._network._dial_addr_single_attempt(address, peer_id)
                nursery.cancel_scope.cancel()
            except LIBP2P_ERRORS as error:
                faults.append(f"{address}: {words(error)}")

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
                if not joined and await self._dht.join(peer):
                    joined = True
                    self.joined.set()
            if not met:
                joined = False
            pause = BOOTSTRAP_S_FIRST * 8 if met else min(pause * 2, BOOTSTRAP_S_MAX)
            await trio.sleep(pause)


def check_settings(
    listen: Sequence[str], announce: Sequence[str], bootstrap: Sequence[str], psk: str | None, *, ports: bool
) -> None:
    """Raises SettingsError for what `open_network` would refuse. `ports`: tries to listen, too. Opens no network."""
    targets = [_parse_setting(address, "listen") for address in listen]
    for address in announce:
        _parse_setting(address, "announce")
    for address in bootstrap:
        _parse_setting(address, "bootstrap", needs_peer=True)
    if psk is not None and not re.fullmatch("[0-9a-fA-F]{64}", psk):
        raise SettingsError("psk: expected 64 hex digits")
    if ports:
        _check_ports(targets)


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
) -> AsyncIterator[Libp2pNetwork]:
    """A peer on the real network, for as long as the block runs; leaving closes its port and its connections.

    Raises SettingsError for an address that cannot be listened on or parsed, or a bad `psk` (64 hex digits).
    """
    fixes.apply()
    quiet_libp2p()
    check_settings(listen, announce, bootstrap, psk, ports=True)
    targets = [Multiaddr(address) for address in listen]
    host = _make_host(identity, targets, [Multiaddr(address) for address in announce], psk)
    suspects = fixes.bound_new_stream(host, protocols.STREAM_OPEN_TIMEOUT_S)
    async with _listening(host, targets):
        try:
            dht = Libp2pDht(host, offer_validator, server=dht_server)
            async with background() as nursery, dht.running():
                network = Libp2pNetwork(host, dht, suspects)
                if bootstrap:
                    nursery.start_soon(network.keep_bootstrapped, tuple(bootstrap))
                yield network
        finally:
            await fixes.close_host(host, CLOSE_S)


@asynccontextmanager
async def _listening(host: Any, targets: list[Multiaddr]) -> AsyncIterator[None]:
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
        connection_config=ConnectionConfig(
            max_connections=maximum,
            high_watermark=maximum * 3 // 4,
            low_watermark=0,
            min_connections=0,
            max_connections_per_peer=3,
        ),
    )
    network: Any = host.get_network()
    network.retry_config = RetryConfig(max_retries=1)
    fixes.stop_auto_connect(host)
    fixes.drop_resource_manager(host)
    fixes.guard_handlers(host)
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


def quiet_libp2p() -> None:
    """libp2p warns about each stream that ends normally, and some of its modules set their own level: none is heard."""
    for name in tuple(logging.root.manager.loggerDict):
        if name.startswith("libp2p."):
            logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
