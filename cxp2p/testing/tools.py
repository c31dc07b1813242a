"""What the checks of a network are made of: peers, handlers, and how a stream is read and seen to break."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import Final, TypeAlias

import trio

from cxp2p.errors import PeerUnreachable
from cxp2p.identity import Identity
from cxp2p.net import Network, Stream
from cxp2p.testing.records import make_identity

OpenPeer: TypeAlias = Callable[[Identity], AbstractAsyncContextManager[Network]]
"""Opens a peer for the length of a block. All peers of one `OpenPeer` are on one network and share its DHT."""

NetworkCheck: TypeAlias = Callable[[OpenPeer], Awaitable[None]]

ECHO: Final = "/test/echo/1"
END_S: Final = 15.0  # after one end closed, the other end's calls come back within this time


async def read_all(stream: Stream) -> bytes:
    """Everything until the clean end."""
    data = bytearray()
    while received := await stream.receive():
        data += received
    return bytes(data)


async def read_exactly(stream: Stream, count: int) -> bytes:
    """The next `count` bytes; `receive` may give more, so ask for all that the other end sends."""
    data = bytearray()
    while len(data) < count:
        received = await stream.receive()
        assert received, f"the stream ended after {len(data)} of {count} bytes"
        data += received
    assert len(data) == count
    return bytes(data)


async def echo(stream: Stream) -> None:
    """A handler that says everything back as it comes."""
    while data := await stream.receive():
        await stream.send(data)


async def hold(stream: Stream) -> None:
    """A handler that says hello, and then everything back, for as long as the stream lives."""
    await stream.send(b"hello")
    await echo(stream)


async def assert_echoes(network: Network, peer: str, data: bytes = b"ping") -> None:
    """A whole conversation with `echo`: nothing is left of it."""
    stream = await network.open(peer, ECHO)
    try:
        await stream.send(data)
        await stream.close_send()
        assert await read_all(stream) == data
    finally:
        await stream.close()


async def assert_breaks(act: Callable[[], Awaitable[object]], within_s: float = END_S) -> None:
    """`act`, done again and again, raises PeerUnreachable in time."""
    with trio.fail_after(within_s):
        try:
            while True:
                await act()
                await trio.lowlevel.checkpoint()
        except PeerUnreachable:
            return


def numbered(count: int) -> bytes:
    """`count` bytes in which every place looks different."""
    return Random(count).randbytes(count)


@asynccontextmanager
async def two(open_peer: OpenPeer) -> AsyncIterator[tuple[Network, Network]]:
    """An asker that is connected to a node which echoes."""
    async with open_peer(make_identity(1)) as asker, open_peer(make_identity(2)) as node:
        node.serve(ECHO, echo)
        assert await asker.connect(node.addresses[0]) == node.peer
        yield asker, node
