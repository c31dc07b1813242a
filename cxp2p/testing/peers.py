"""Checks of peers: how they are reached, how they are lost, and what the DHT tells of them."""

from __future__ import annotations

from functools import partial
from random import Random

import trio

from cxp2p import protocols
from cxp2p.errors import LocalProtocolError, RemoteProtocolError
from cxp2p.identity import Kind
from cxp2p.net import Network, Stream
from cxp2p.testing.records import make_identity, make_offer, make_root, sealed_offer, sealed_root
from cxp2p.testing.tools import (
    ECHO,
    OpenPeer,
    assert_breaks,
    assert_echoes,
    echo,
    hold,
    numbered,
    read_exactly,
    two,
)
from cxp2p.wire import encode


async def check_unknown_protocol(open_peer: OpenPeer) -> None:
    """A protocol that the peer does not speak is the peer's answer, not a lost connection; so it may speak it later."""
    async with two(open_peer) as (asker, node):
        for _ in range(2):
            with trio.fail_after(protocols.STREAM_OPEN_TIMEOUT_S + 1):
                await _assert_not_spoken(asker, node.peer, "/test/nobody/1")
        node.serve("/test/nobody/1", echo)
        stream = await asker.open(node.peer, "/test/nobody/1")
        await stream.send(b"x")
        assert await read_exactly(stream, 1) == b"x"
        await stream.close()
        await assert_echoes(asker, node.peer)


async def _assert_not_spoken(asker: Network, peer: str, protocol: str) -> None:
    try:
        stream = await asker.open(peer, protocol)
    except RemoteProtocolError:
        return
    await stream.reset()
    raise AssertionError(f"{protocol} was opened, although nobody serves it")


async def check_unreachable(open_peer: OpenPeer) -> None:
    """A peer that left, and one that nobody knows, are PeerUnreachable in STREAM_OPEN_TIMEOUT_S."""
    async with open_peer(make_identity(1)) as asker:
        async with open_peer(make_identity(2)) as node:
            peer, addresses = node.peer, node.addresses
        asker.remember(peer, addresses)
        for act in (
            partial(asker.connect, addresses[0]),
            partial(asker.open, peer, ECHO),
            partial(asker.open, make_identity(9).peer, ECHO),
            partial(asker.connect, "not an address"),
            partial(asker.connect, f"/p2p/{peer}"),
            partial(asker.open, "not a peer id", ECHO),
            partial(asker.open, asker.peer, ECHO),
        ):
            with trio.fail_after(protocols.STREAM_OPEN_TIMEOUT_S + 1):
                await assert_breaks(act)
        asker.remember("not a peer id", ("not an address", "/ip4/127.0.0.1/tcp/1"))
        await asker.kill(peer)
        assert peer not in asker.connected()


async def check_peer_returns(open_peer: OpenPeer) -> None:
    """A peer that went and came back is reached again, with the addresses that it has then."""
    async with open_peer(make_identity(1)) as asker:
        for _ in range(2):
            async with open_peer(make_identity(2)) as node:
                node.serve(ECHO, echo)
                asker.remember(node.peer, node.addresses)
                await assert_echoes(asker, node.peer)
                peer, addresses = node.peer, node.addresses
            await assert_breaks(partial(asker.open, peer, ECHO))
            asker.remember(peer, addresses)


async def check_wrong_peer_id(open_peer: OpenPeer) -> None:
    """Whoever answers at an address must be the peer that the address names; other peers' addresses are ignored."""
    async with two(open_peer) as (asker, node), open_peer(make_identity(3)) as third:
        third.serve(ECHO, echo)
        named = make_identity(9).peer
        lie = node.addresses[0].rpartition("/p2p/")[0] + f"/p2p/{named}"
        asker.remember(named, (lie,))
        for act in (partial(asker.connect, lie), partial(asker.open, named, ECHO)):
            with trio.fail_after(protocols.STREAM_OPEN_TIMEOUT_S + 1):
                await assert_breaks(act)
        assert named not in asker.connected()
        asker.remember(third.peer, (*third.addresses, node.addresses[0]))
        await assert_echoes(asker, third.peer)
        await assert_echoes(asker, node.peer)


async def check_both_open_at_once(open_peer: OpenPeer) -> None:
    """Two peers that dial and open to each other at the same time both get their streams."""
    for number in range(2):
        first, second = make_identity(10 + 2 * number), make_identity(11 + 2 * number)
        async with open_peer(first) as one, open_peer(second) as other:
            one.serve(ECHO, echo)
            other.serve(ECHO, echo)
            one.remember(other.peer, other.addresses)
            other.remember(one.peer, one.addresses)
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(assert_echoes, one, other.peer, b"from one")
                    nursery.start_soon(assert_echoes, other, one.peer, b"from the other")
            await assert_echoes(one, other.peer)
            await assert_echoes(other, one.peer)


async def check_kill(open_peer: OpenPeer) -> None:
    """`kill` makes every stream of that peer raise here, at once, and of no other peer; it can be dialled again."""
    async with two(open_peer) as (asker, node), open_peer(make_identity(3)) as third:
        third.serve(ECHO, echo)
        await asker.connect(third.addresses[0])
        node.serve("/test/hold/1", hold)
        other = await asker.open(third.peer, ECHO)
        reading = await asker.open(node.peer, "/test/hold/1")
        assert await read_exactly(reading, 5) == b"hello"
        writing = await asker.open(node.peer, "/test/hold/1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(assert_breaks, reading.receive)
            nursery.start_soon(assert_breaks, lambda: writing.send(bytes(64 * 1024)))
            await trio.sleep(0.2)
            with trio.fail_after(2):
                await asker.kill(node.peer)
        assert node.peer not in asker.connected()
        await assert_breaks(lambda: reading.send(b"x"))
        await assert_breaks(writing.receive)
        for stream in (reading, writing):
            await stream.close()
        await other.send(b"still here")
        assert await read_exactly(other, 10) == b"still here"
        await other.close()
        await asker.connect(node.addresses[0])
        await assert_echoes(asker, node.peer)


async def check_leaving(open_peer: OpenPeer) -> None:
    """When a peer leaves, whoever waits for it comes back: with an error, and never with bytes it did not send."""
    async with open_peer(make_identity(1)) as asker:
        async with trio.open_nursery() as nursery:
            async with open_peer(make_identity(2)) as node:
                node.serve("/test/hold/1", hold)
                await asker.connect(node.addresses[0])
                stream = await asker.open(node.peer, "/test/hold/1")
                assert await read_exactly(stream, 5) == b"hello"
                nursery.start_soon(assert_breaks, stream.receive)
                await trio.lowlevel.checkpoint()
            await assert_breaks(lambda: stream.send(bytes(64 * 1024)))
        await stream.close()


async def check_cancelling(open_peer: OpenPeer) -> None:
    """Cancelled in the middle of any call, again and again, nothing is left and nobody else is disturbed."""
    rng = Random(7)

    async def flood(stream: Stream) -> None:
        while True:
            await stream.send(bytes(32 * 1024))

    async with two(open_peer) as (asker, node):
        node.serve("/test/flood/1", flood)
        neighbour = await asker.open(node.peer, ECHO)
        for index in range(protocols.STREAMS_PER_PEER_MAX + 32):
            stream: Stream | None = None
            with trio.move_on_after(rng.uniform(0.0, 0.006)):
                stream = await asker.open(node.peer, "/test/flood/1" if index % 2 else ECHO)
                while index % 2:
                    await stream.receive()
                while True:
                    await stream.send(bytes(64 * 1024))
            if stream is not None:
                await stream.reset()
            word = index.to_bytes(4, "big")
            await neighbour.send(word)
            assert await read_exactly(neighbour, 4) == word
        await neighbour.close()
        await assert_echoes(asker, node.peer, numbered(300_000))
        for _ in range(3 * protocols.STREAMS_PER_PEER_MAX):
            stream = None
            with trio.move_on_after(rng.uniform(0.0, 0.0006)):
                stream = await asker.open(node.peer, ECHO)
            if stream is not None:
                await stream.reset()
        await assert_echoes(asker, node.peer)


async def check_dht_offer(open_peer: OpenPeer) -> None:
    """An offer that was put is found by another peer; the higher sequence wins, whatever comes later."""
    identity = make_identity(2)
    old, new = sealed_offer(identity, 5), sealed_offer(identity, 6)
    async with open_peer(make_identity(1)) as reader, open_peer(identity) as node:
        assert await reader.dht.get_offer(node.peer) is None
        assert await node.dht.put_offer(old) > 0
        assert await reader.dht.get_offer(node.peer) == old
        assert await node.dht.put_offer(new) > 0
        assert await reader.dht.get_offer(node.peer) == new
        await node.dht.put_offer(old)
        assert await reader.dht.get_offer(node.peer) == new
        assert await node.dht.get_offer(node.peer) == new


async def check_dht_refuses(open_peer: OpenPeer) -> None:
    """What is not this peer's own signed offer is refused before it is sent: it would be our bug."""
    identity, stranger = make_identity(2), make_identity(3)
    forged = bytearray(sealed_offer(identity, 7))
    forged[-1] ^= 1
    async with open_peer(identity) as node, open_peer(make_identity(1)) as reader:
        for value in (
            b"",
            b"garbage",
            bytes(forged),
            sealed_offer(stranger, 7),
            stranger.seal(Kind.OFFER, encode(make_offer(identity, 7))),
            identity.seal(Kind.ORDER, encode(make_offer(identity, 7))),
            identity.seal(Kind.OFFER, encode(make_offer(stranger, 7))),
        ):
            try:
                await node.dht.put_offer(value)
            except LocalProtocolError:
                continue
            raise AssertionError(f"{value!r} was put into the DHT")
        assert await reader.dht.get_offer(node.peer) is None


async def check_dht_roots(open_peer: OpenPeer) -> None:
    """A root that was put is found by another peer, under its gateway and epoch and under no other."""
    identity = make_identity(2)
    first, second = (sealed_root(identity, epoch) for epoch in (500_000, 500_001))
    async with open_peer(make_identity(1)) as reader, open_peer(identity) as gateway:
        assert await reader.dht.get_roots(gateway.peer, 500_000) == ()
        assert await gateway.dht.put_root(500_000, first) > 0
        assert await gateway.dht.put_root(500_001, second) > 0
        assert await gateway.dht.put_root(500_000, first) > 0
        assert await reader.dht.get_roots(gateway.peer, 500_000) == (first,)
        assert await reader.dht.get_roots(gateway.peer, 500_001) == (second,)
        assert await reader.dht.get_roots(reader.peer, 500_000) == ()
        assert await reader.dht.get_offer(gateway.peer) is None


async def check_dht_refuses_roots(open_peer: OpenPeer) -> None:
    """What is not this peer's own root of that epoch is refused before it is sent: it would be our bug."""
    identity, stranger = make_identity(2), make_identity(3)
    forged = bytearray(sealed_root(identity, 7))
    forged[-1] ^= 1
    async with open_peer(identity) as gateway, open_peer(make_identity(1)) as reader:
        for value in (
            b"",
            bytes(forged),
            bytes(protocols.ENVELOPE_BYTES_MAX + 1),
            sealed_root(stranger, 7),
            sealed_root(identity, 8),
            sealed_offer(identity, 7),
            stranger.seal(Kind.EPOCH_ROOT, encode(make_root(identity, 7))),
        ):
            try:
                await gateway.dht.put_root(7, value)
            except LocalProtocolError:
                continue
            raise AssertionError(f"{value!r} was put into the DHT")
        assert await reader.dht.get_roots(gateway.peer, 7) == ()


async def check_dht_providers(open_peer: OpenPeer) -> None:
    """Who announced a key is found under it and under no other, once; a key over 80 bytes is our bug."""
    async with (
        open_peer(make_identity(1)) as reader,
        open_peer(make_identity(2)) as node,
        open_peer(make_identity(3)) as other,
    ):
        assert await node.dht.provide("chat/echo") > 0
        assert await node.dht.provide("chat/echo") > 0
        assert await other.dht.provide("chat/echo") > 0
        assert await other.dht.provide("embed") > 0
        assert sorted(await reader.dht.find_providers("chat/echo", 20)) == sorted((node.peer, other.peer))
        assert len(await reader.dht.find_providers("chat/echo", 1)) == 1
        assert await reader.dht.find_providers("embed", 20) == (other.peer,)
        assert await reader.dht.find_providers("nothing", 20) == ()
        for act in (node.dht.provide, lambda key: reader.dht.find_providers(key, 20)):
            try:
                await act("k" * (protocols.KAD_KEY_BYTES_MAX + 1))
            except LocalProtocolError:
                continue
            raise AssertionError("a key over the limit was taken")
