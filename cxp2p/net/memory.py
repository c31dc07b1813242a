"""The in-memory twin of the network: any number of peers in one trio loop, for tests and simulations.

Same contract as libp2p: ordered bytes, back-pressure, half close, reset, a kill that is noticed and a hang that is
not. With trio's MockClock the `latency_s` of each hop is virtual time.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import trio

from cxp2p import protocols
from cxp2p.epochs import check_root
from cxp2p.errors import CxError, LocalProtocolError, PeerUnreachable, RemoteProtocolError
from cxp2p.net import Handler
from cxp2p.net.tasks import background

log = logging.getLogger("cxp2p.net.memory")

WINDOW_BYTES = 256 * 1024  # Yamux's initial window

OfferValidator: TypeAlias = Callable[[str, bytes], int]
"""(peer id, envelope) -> sequence; raises RemoteProtocolError for an offer that is not that peer's."""


class Hub:
    """The cable that joins the peers, and the DHT's memory."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self.peers: dict[str, MemoryNetwork] = {}
        self.providers: dict[str, dict[str, None]] = defaultdict(dict)
        self.offers: dict[str, tuple[int, bytes]] = {}
        self.roots: dict[tuple[str, int], dict[bytes, None]] = defaultdict(dict)

    def address(self, peer: str) -> str:
        return f"/memory/{peer}/p2p/{peer}"

    def latency_between(self, one: str, other: str) -> float:
        """Of a hop from one peer to another, in seconds: the same between all of them here."""
        return self.latency_s


class _Pipe:
    """One direction of a stream."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self.data = bytearray()
        self.ended = False
        self.broken = False
        self.changed = trio.Event()

    def notify(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class MemoryStream:
    """One end of a stream between two peers of a hub."""

    def __init__(self, owner: MemoryNetwork, peer: str, outgoing: _Pipe, incoming: _Pipe) -> None:
        self._owner = owner
        self._peer = peer
        self._out = outgoing
        self._in = incoming

    @property
    def peer(self) -> str:
        return self._peer

    async def send(self, data: bytes) -> None:
        await trio.sleep(self._out.latency_s)
        view = memoryview(data)
        while True:
            await self._owner.awake()
            if self._out.broken or self._out.ended:
                raise PeerUnreachable(f"the stream to {self._peer} is closed")
            room = WINDOW_BYTES - len(self._out.data)
            if room > 0:
                self._out.data += view[:room]
                view = view[room:]
                self._out.notify()
            if not view:
                return
            await self._out.changed.wait()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        await self._owner.awake()
        while not self._in.data:
            if self._in.broken:
                raise PeerUnreachable(f"{self._peer} reset the stream")
            if self._in.ended:
                return b""
            await self._in.changed.wait()
            await self._owner.awake()
        data = bytes(self._in.data[: protocols.WRITE_BYTES_MAX])
        del self._in.data[: len(data)]
        self._in.notify()
        return data

    async def close_send(self) -> None:
        await trio.lowlevel.checkpoint()
        self._out.ended = True
        self._out.notify()

    async def close(self) -> None:
        self._out.ended = True
        self._in.broken = True
        self._in.data.clear()
        for pipe in (self._out, self._in):
            pipe.notify()
        self._owner.forget(self)
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def reset(self) -> None:
        self.sever()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def sever(self) -> None:
        """Breaks both directions at once; what was not read is lost, as with a reset of Yamux."""
        for pipe in (self._out, self._in):
            if not (pipe.ended and pipe is self._out):
                pipe.broken = True
                pipe.data.clear()
            pipe.notify()
        self._owner.forget(self)


class MemoryDht:
    """The DHT of one peer: a table that all peers of the hub share, with the look-up's delay."""

    def __init__(self, hub: Hub, peer: str, offer_validator: OfferValidator) -> None:
        self._hub = hub
        self._peer = peer
        self._validate = offer_validator

    async def provide(self, key: str) -> int:
        _check_key(key)
        await trio.sleep(self._hub.latency_s)
        holders = self._hub.providers[key]
        if len(holders) < protocols.PROVIDERS_PER_KEY_MAX or self._peer in holders:
            holders[self._peer] = None
        return max(0, len(self._hub.peers) - 1)

    async def find_providers(self, key: str, limit: int) -> tuple[str, ...]:
        _check_key(key)
        await trio.sleep(self._hub.latency_s)
        return tuple(self._hub.providers.get(key, {}))[:limit]

    async def put_offer(self, envelope: bytes) -> int:
        await trio.sleep(self._hub.latency_s)
        try:
            sequence = self._validate(self._peer, envelope)
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"this offer would be refused: {error}") from None
        held = self._hub.offers.get(self._peer)
        if held is None or sequence > held[0]:
            self._hub.offers[self._peer] = (sequence, envelope)
        return max(0, len(self._hub.peers) - 1)

    async def get_offer(self, peer: str) -> bytes | None:
        await trio.sleep(self._hub.latency_s)
        held = self._hub.offers.get(peer)
        return held[1] if held else None

    async def put_root(self, epoch: int, envelope: bytes) -> int:
        await trio.sleep(self._hub.latency_s)
        try:
            check_root(self._peer, epoch, envelope)
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"this root would be refused: {error}") from None
        self._hub.roots[self._peer, epoch][envelope] = None
        return max(0, len(self._hub.peers) - 1)

    async def get_roots(self, gateway: str, epoch: int) -> tuple[bytes, ...]:
        await trio.sleep(self._hub.latency_s)
        return tuple(self._hub.roots.get((gateway, epoch), {}))


class MemoryNetwork:
    """One peer of a hub."""

    def __init__(self, hub: Hub, peer: str, offer_validator: OfferValidator, nursery: trio.Nursery) -> None:
        self.hub = hub
        self._peer = peer
        self._nursery = nursery
        self._dht = MemoryDht(hub, peer, offer_validator)
        self._handlers: dict[str, Handler] = {}
        self._links: dict[str, set[MemoryStream]] = defaultdict(set)
        self._inbound: Counter[tuple[str, str]] = Counter()
        self._known: set[str] = set()
        self.hanging = False
        self._woken = trio.Event()

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.hub.address(self._peer),)

    @property
    def dht(self) -> MemoryDht:
        return self._dht

    @property
    def served(self) -> Counter[str]:
        """How many streams of each protocol are being served here now."""
        counts: Counter[str] = Counter()
        for (_, protocol), count in self._inbound.items():
            counts[protocol] += count
        return counts

    @property
    def streams(self) -> int:
        """How many streams are open at this side."""
        return sum(len(streams) for streams in self._links.values())

    def connected(self) -> tuple[str, ...]:
        return tuple(self._links)

    def serve(self, protocol: str, handler: Handler) -> None:
        self._handlers[protocol] = handler

    async def connect(self, address: str) -> str:
        peer = address.rpartition("/p2p/")[2]
        await trio.sleep(self.hub.latency_between(self._peer, peer))
        if address != self.hub.address(peer):
            raise PeerUnreachable(f"{peer} is not at {address}")
        self._link(peer)
        self._known.add(peer)
        return peer

    def remember(self, peer: str, addresses: tuple[str, ...]) -> None:
        if self.hub.address(peer) in addresses:
            self._known.add(peer)

    async def open(self, peer: str, protocol: str) -> MemoryStream:
        latency_s = self.hub.latency_between(self._peer, peer)
        await trio.sleep(latency_s)
        if peer not in self._known and peer not in self._links:
            raise PeerUnreachable(f"no address of {peer} is known")
        remote = self._link(peer)
        handler = remote._handlers.get(protocol)
        if remote.hanging:
            await trio.sleep(protocols.STREAM_OPEN_TIMEOUT_S)
            raise PeerUnreachable(f"{peer} did not answer")
        if handler is None:
            raise RemoteProtocolError(f"{peer} does not speak {protocol}")
        there, back = _Pipe(latency_s), _Pipe(latency_s)
        mine = self._stream(peer, there, back)
        theirs = remote._stream(self._peer, back, there)
        self._nursery.start_soon(remote._handle, protocol, handler, theirs)
        return mine

    async def kill(self, peer: str) -> None:
        await trio.lowlevel.checkpoint()
        remote = self.hub.peers.get(peer)
        self._drop(peer)
        if remote is not None:
            remote._drop(self._peer)

    def hang(self) -> None:
        """From now on nothing of this peer moves, and nobody is told: what SIGSTOP or a lost cable does."""
        self.hanging = True

    def wake(self) -> None:
        """Ends a hang."""
        self.hanging = False
        self._woken.set()
        self._woken = trio.Event()

    async def awake(self) -> None:
        """Returns while this peer does not hang."""
        while self.hanging:
            await self._woken.wait()

    def _link(self, peer: str) -> MemoryNetwork:
        remote = self.hub.peers.get(peer)
        if remote is None or peer == self._peer:
            raise PeerUnreachable(f"{peer} cannot be dialled")
        self._links[peer]
        remote._links[self._peer]
        return remote

    def _stream(self, peer: str, outgoing: _Pipe, incoming: _Pipe) -> MemoryStream:
        stream = MemoryStream(self, peer, outgoing, incoming)
        self._links[peer].add(stream)
        return stream

    def forget(self, stream: MemoryStream) -> None:
        """The stream ended at this side."""
        if stream.peer in self._links:
            self._links[stream.peer].discard(stream)

    def _drop(self, peer: str) -> None:
        for stream in tuple(self._links.pop(peer, ())):
            stream.sever()
        self._links.pop(peer, None)

    async def _handle(self, protocol: str, handler: Handler, stream: MemoryStream) -> None:
        key = (stream.peer, protocol)
        if self._inbound[key] >= protocols.STREAMS_PER_PEER_MAX:
            stream.sever()
            return
        self._inbound[key] += 1
        try:
            await handler(stream)
            await stream.close()
        except (CxError, trio.TooSlowError) as error:
            log.info("%s of %s: %s", protocol, stream.peer, error)
            stream.sever()
        except Exception:
            # The top of a stream handler: one conversation's bug must not stop the peer.
            log.exception("the handler of %s failed", protocol)
            stream.sever()
        finally:
            self._inbound[key] -= 1
            if not self._inbound[key]:
                del self._inbound[key]


def _check_key(key: str) -> None:
    if len(key.encode()) > protocols.KAD_KEY_BYTES_MAX:
        raise LocalProtocolError(f"DHT key {key!r} is over {protocols.KAD_KEY_BYTES_MAX} bytes")


@asynccontextmanager
async def open_network(hub: Hub, peer: str, offer_validator: OfferValidator) -> AsyncIterator[MemoryNetwork]:
    """A peer on `hub`, for as long as the block runs. Leaving breaks its streams, as the end of a process does."""
    async with background() as nursery:
        network = MemoryNetwork(hub, peer, offer_validator, nursery)
        hub.peers[peer] = network
        try:
            yield network
        finally:
            if hub.peers.get(peer) is network:
                del hub.peers[peer]
            for other in tuple(network._links):
                network._drop(other)
                if other in hub.peers:
                    hub.peers[other]._drop(peer)
