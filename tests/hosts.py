"""libp2p as it comes, next to what mends it: hosts, Yamux pairs, and a cable that can be cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr
from trio.testing import memory_stream_pair

from cxp2p.net import libp2p_fixes as fixes
from cxp2p.net.libp2p import quiet_libp2p
from cxp2p.net.libp2p_patch import restore

ANY_PORT = Multiaddr("/ip4/127.0.0.1/tcp/0")
EXCHANGE = TProtocol("/test/exchange/1")


@contextmanager
def applied(*chosen: Callable[[], None]) -> Iterator[None]:
    """libp2p with these fixes only; all of them are back when a network is opened after the block."""
    restore()
    try:
        for fix in chosen:
            fix()
        yield
    finally:
        restore()
        fixes._applied = False


@asynccontextmanager
async def host(*, connections_max: int = 64) -> AsyncIterator[Any]:
    """A running libp2p host on loopback with Noise and Yamux, without anything of ours."""
    quiet_libp2p()
    keys = create_new_key_pair()
    made = new_host(
        key_pair=keys,
        listen_addrs=[ANY_PORT],
        sec_opt={NOISE_ID: NoiseTransport(keys, noise_privkey=new_x25519_key_pair().private_key)},
        muxer_opt={TProtocol(YAMUX_ID): Yamux},
        connection_config=ConnectionConfig(
            max_connections=connections_max,
            high_watermark=connections_max,
            low_watermark=0,
            min_connections=0,
            auto_connect_interval=3600.0,
        ),
    )
    listeners: tuple[Any, ...] = ()
    try:
        async with made.run([ANY_PORT]):
            listeners = tuple(made.get_network().listeners.values())
            try:
                yield made
            finally:
                await fixes.close_host(made, 2.0)
    finally:
        for listener in listeners:
            for each in listener.listeners:
                each.socket.close()  # a host that stopped by itself left it open


async def connect(asker: Any, node: Any, port: int | None = None) -> Any:
    """Connects two hosts, through another port if one is given; returns the asker's connection."""
    address = Multiaddr(f"/ip4/127.0.0.1/tcp/{port or port_of(node)}")
    return await asker.get_network()._dial_addr_single_attempt(address, node.get_id())


def port_of(node: Any) -> int:
    """Where a host listens."""
    return int(node.get_transport_addrs()[0].value_for_protocol("tcp"))


async def echo(stream: Any) -> None:
    """A libp2p handler that says everything back."""
    try:
        while True:
            await stream.write(await stream.read(65536))
    except Exception:  # noqa: BLE001  # whatever ends it
        await stream.reset()


# A Yamux connection without a host, in virtual time if the test wants it.


class Line:
    """One end of a connection as Yamux sees it, over a stream of trio."""

    def __init__(self, stream: trio.abc.Stream, *, is_initiator: bool) -> None:
        self.stream = stream
        self.is_initiator = is_initiator
        self.writes = 0

    async def read(self, n: int) -> bytes:
        try:
            return bytes(await self.stream.receive_some(n))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return b""

    async def write(self, data: bytes) -> None:
        self.writes += 1
        await self.stream.send_all(data)

    async def close(self) -> None:
        await self.stream.aclose()


@asynccontextmanager
async def yamux_pair() -> AsyncIterator[tuple[Any, Any]]:
    """Two ends of one Yamux connection."""
    left, right = memory_stream_pair()
    peer = ID.from_pubkey(create_new_key_pair(b"y" * 32).public_key)
    one: Any = Yamux(Line(left, is_initiator=True), peer)  # type: ignore[arg-type]
    other: Any = Yamux(Line(right, is_initiator=False), peer)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.start)
        nursery.start_soon(other.start)
        await one.event_started.wait()
        await other.event_started.wait()
        yield one, other
        nursery.cancel_scope.cancel()


async def open_pair(one: Any, other: Any) -> tuple[Any, Any]:
    """A stream between them, both ends."""
    return await one.open_stream(), await other.accept_stream()


# A wire that can be cut.


class Cable:
    """A TCP proxy to one port: it can stop carrying, as a peer that hangs, or carry small segments."""

    def __init__(self) -> None:
        self.port = 0
        self.segment_bytes = 65536
        self._carrying = trio.Event()
        self._carrying.set()

    def freeze(self) -> None:
        """From now on nothing is carried, and nobody is told."""
        self._carrying = trio.Event()

    async def carry(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        try:
            while True:
                await self._carrying.wait()
                data = await source.receive_some(self.segment_bytes)
                if not data:
                    break
                await self._carrying.wait()
                await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await source.aclose()
                await target.aclose()


@asynccontextmanager
async def cable(port: int, segment_bytes: int = 65536) -> AsyncIterator[Cable]:
    """A cable to `port` on loopback."""
    wire = Cable()
    wire.segment_bytes = segment_bytes

    async def accept(inbound: trio.SocketStream) -> None:
        inbound.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        outbound = await trio.open_tcp_stream("127.0.0.1", port)
        async with trio.open_nursery() as both:
            both.start_soon(wire.carry, inbound, outbound)
            both.start_soon(wire.carry, outbound, inbound)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, accept, 0)
        wire.port = listeners[0].socket.getsockname()[1]
        yield wire
        nursery.cancel_scope.cancel()
