"""Checks of streams: what goes in comes out, in order, with back-pressure, and every way to end is told apart."""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from cxp2p import protocols
from cxp2p.errors import PeerUnreachable, RemoteProtocolError
from cxp2p.net import Network, Stream
from cxp2p.testing.records import make_identity
from cxp2p.testing.tools import (
    ECHO,
    END_S,
    OpenPeer,
    assert_breaks,
    assert_echoes,
    echo,
    hold,
    numbered,
    read_all,
    read_exactly,
    two,
)

HELD_BYTES_MAX: Final = 8 * 1024 * 1024  # what may be on the way to a reader that does not read: windows, sockets


async def check_echo(open_peer: OpenPeer) -> None:
    """Bytes come back whole and in order, and both ends know who the other is."""
    met: list[str] = []

    async def greet(stream: Stream) -> None:
        met.append(stream.peer)
        await echo(stream)

    async with two(open_peer) as (asker, node):
        node.serve(ECHO, greet)
        stream = await asker.open(node.peer, ECHO)
        assert stream.peer == node.peer
        await stream.send(b"")
        await stream.send(b"one ")
        await stream.send(b"two")
        await stream.close_send()
        assert await read_all(stream) == b"one two"
        await stream.close()
        assert met == [asker.peer]
        assert node.peer in asker.connected()
        assert asker.peer in node.connected()


async def check_large_transfer(open_peer: OpenPeer) -> None:
    """Megabytes in both directions at once arrive whole and in order."""
    data = numbered(3 * 1024 * 1024)
    async with two(open_peer) as (asker, node):
        stream = await asker.open(node.peer, ECHO)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send(data)
                await stream.close_send()

            nursery.start_soon(send)
            assert await read_all(stream) == data
        await stream.close()


async def check_back_pressure(open_peer: OpenPeer) -> None:
    """A reader that stops makes the writer wait with bounded memory, also for long; afterwards nothing is missing."""
    block = numbered(64 * 1024)
    blocks = 4 * HELD_BYTES_MAX // len(block)
    reading = trio.Event()
    total = 0

    async def read_late(stream: Stream) -> None:
        nonlocal total
        await reading.wait()
        while data := await stream.receive():
            assert data == (block + block)[total % len(block) :][: len(data)]
            total += len(data)
        await stream.send(b"done")

    async with two(open_peer) as (asker, node):
        node.serve(ECHO, read_late)
        stream = await asker.open(node.peer, ECHO)
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(blocks):
                await stream.send(block)
                sent += 1
            await stream.close_send()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(0.5)
            assert 0 < sent * len(block) <= HELD_BYTES_MAX
            reading.set()
            assert await read_all(stream) == b"done"
        assert total == blocks * len(block)
        await stream.close()


async def check_half_close(open_peer: OpenPeer) -> None:
    """After `close_send` the other end reads the end and can still answer; sending more is refused."""

    async def answer_late(stream: Stream) -> None:
        question = await read_all(stream)
        await stream.send(b"answer to " + question)

    async with two(open_peer) as (asker, node):
        node.serve(ECHO, answer_late)
        stream = await asker.open(node.peer, ECHO)
        await stream.send(b"question")
        await stream.close_send()
        await assert_breaks(lambda: stream.send(b"more"))
        assert await read_all(stream) == b"answer to question"
        await stream.close()


async def check_close(open_peer: OpenPeer) -> None:
    """What was sent before `close` is read, then b"" again and again; closing twice and resetting later do nothing."""
    data = numbered(100_000)

    async def say(stream: Stream) -> None:
        await stream.send(data)
        await stream.close()
        await stream.close()
        await stream.reset()

    async with two(open_peer) as (asker, node):
        node.serve(ECHO, say)
        stream = await asker.open(node.peer, ECHO)
        assert await read_all(stream) == data
        assert await stream.receive() == b""
        await stream.close()
        await assert_breaks(lambda: stream.send(b"x"))


async def check_close_is_told(open_peer: OpenPeer) -> None:
    """A writer whose reader closed is told so in bounded time: it does not wait for ever, nor fill a buffer."""

    async def leave(stream: Stream) -> None:
        await stream.receive()

    async with two(open_peer) as (asker, node):
        node.serve(ECHO, leave)
        stream = await asker.open(node.peer, ECHO)
        await assert_breaks(lambda: stream.send(bytes(64 * 1024)))
        await stream.reset()
        node.serve(ECHO, echo)
        await assert_echoes(asker, node.peer)


async def check_reset(open_peer: OpenPeer) -> None:
    """A reset breaks both directions at both ends, and no other stream."""
    blocked, ended = trio.Event(), trio.Event()

    async def wait(stream: Stream) -> None:
        await stream.receive()
        blocked.set()
        try:
            await assert_breaks(stream.receive)
            await assert_breaks(lambda: stream.send(b"x"))
        finally:
            ended.set()

    async with two(open_peer) as (asker, node):
        other = await asker.open(node.peer, ECHO)
        node.serve(ECHO, wait)
        stream = await asker.open(node.peer, ECHO)
        await stream.send(b"x")
        await blocked.wait()
        await stream.reset()
        await assert_breaks(stream.receive)
        await assert_breaks(lambda: stream.send(b"x"))
        with trio.fail_after(END_S):
            await ended.wait()
        await other.send(b"still here")
        assert await read_exactly(other, 10) == b"still here"
        await other.close()


async def check_handler_raises(open_peer: OpenPeer) -> None:
    """A handler that raises resets its own stream; the peer, its other streams and its other peers live on."""

    async def fail(stream: Stream) -> None:
        await stream.receive()
        raise ZeroDivisionError("a bug in a handler")

    async def blame(stream: Stream) -> None:
        raise RemoteProtocolError("the stranger's fault")

    async with two(open_peer) as (asker, node), open_peer(make_identity(3)) as third:
        node.serve("/test/fail/1", fail)
        node.serve("/test/blame/1", blame)
        other = await asker.open(node.peer, ECHO)
        failing = await asker.open(node.peer, "/test/fail/1")
        await failing.send(b"x")
        await assert_breaks(failing.receive)
        blamed = await asker.open(node.peer, "/test/blame/1")
        await assert_breaks(blamed.receive)
        await other.send(b"still here")
        assert await read_exactly(other, 10) == b"still here"
        for stream in (failing, blamed, other):
            await stream.reset()
        await third.connect(node.addresses[0])
        await assert_echoes(third, node.peer)


async def check_stream_limit(open_peer: OpenPeer) -> None:
    """One peer gets STREAMS_PER_PEER_MAX streams of a protocol; more are reset, those that are open live on."""

    async def open_one(network: Network, peer: str) -> Stream:
        stream = await network.open(peer, "/test/hold/1")
        assert await read_exactly(stream, 5) == b"hello"
        return stream

    async with two(open_peer) as (asker, node), open_peer(make_identity(3)) as third:
        node.serve("/test/hold/1", hold)
        held = [await open_one(asker, node.peer) for _ in range(protocols.STREAMS_PER_PEER_MAX)]
        for _ in range(3):
            await assert_breaks(partial(open_one, asker, node.peer), within_s=2)
        await third.connect(node.addresses[0])
        held.append(await open_one(third, node.peer))
        await assert_echoes(asker, node.peer)
        for stream in held:
            await stream.send(b"are you there?")
            assert await read_exactly(stream, 14) == b"are you there?"
            await stream.reset()
        with trio.fail_after(END_S):
            while True:
                try:
                    again = await open_one(asker, node.peer)
                except PeerUnreachable:
                    await trio.sleep(0.01)  # the node has yet to see that the others ended
                else:
                    break
        await again.close()


async def check_streams_end(open_peer: OpenPeer) -> None:
    """Many more streams than may be open at once, one after another, however each of them ends."""
    async with two(open_peer) as (asker, node):
        for index in range(3 * protocols.STREAMS_PER_PEER_MAX):
            stream = await asker.open(node.peer, ECHO)
            await stream.send(b"x")
            match index % 4:
                case 0:
                    await stream.close()
                case 1:
                    await stream.reset()
                case 2:
                    assert await read_exactly(stream, 1) == b"x"
                    await stream.close_send()
                    await stream.close()
                case 3:
                    await stream.close_send()
                    await stream.reset()
        await assert_echoes(asker, node.peer)
