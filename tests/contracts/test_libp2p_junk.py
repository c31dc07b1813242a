"""Nothing that a stranger sends stops a real node, or disturbs a job that somebody else has running there."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import libp2p.stream_muxer.yamux.yamux as yamux
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from cxp2p import protocols
from cxp2p.errors import CxError, PeerUnreachable
from cxp2p.net import libp2p_fixes as fixes
from cxp2p.net.libp2p import Libp2pNetwork
from cxp2p.net.libp2p_streams import LIBP2P_ERRORS, MULTISTREAM
from cxp2p.records import Accepted, Cancel, OffersKnown, OffersWanted, Piece
from cxp2p.testing import make_identity, sealed_offer
from cxp2p.wire import encode_frame, encode_uvarint
from hosts import host
from real_worlds import RealWorld, real_world, stranger
from worlds import ScriptedEngine

PROTOCOLS = (
    protocols.JOB,
    protocols.OFFERS,
    protocols.OFFER_WATCH,
    protocols.KAD,
    "of libp2p",
)
OF_LIBP2P = ("/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0")
WORDS = " ".join(f"word{index}" for index in range(12))
QUICK = settings(
    max_examples=2, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
THOROUGH = settings(QUICK, max_examples=25, derandomize=False)


@asynccontextmanager
async def undisturbed() -> AsyncIterator[RealWorld]:
    """A node with a job running while the block runs, which finishes; and another one afterwards does, too."""
    with trio.fail_after(30):
        async with real_world(ScriptedEngine(pause_s=0.01)) as world:
            answers: list[str] = []

            async def run() -> None:
                answers.append(await world.ask(WORDS))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await trio.lowlevel.checkpoint()
                yield world
            assert answers == [WORDS + " "]
            assert await world.ask("one two") == "one two "
            assert not world.books.voided
            await world.node.serving.idle()


# Streams.


def kad_message() -> st.SearchStrategy[bytes]:
    """A well-formed message of the DHT with anything in it."""

    def build(kind: int, key: bytes, value: bytes, peer: bytes, address: bytes) -> bytes:
        message = Message()
        message.type = kind  # type: ignore[assignment]
        message.key = key
        message.record.key = key
        message.record.value = value
        message.senderRecord = value
        each = message.providerPeers.add()
        each.id, each.signedRecord = peer, value
        each.addrs.append(address)
        data = message.SerializeToString()
        return encode_uvarint(len(data)) + data

    small = st.binary(max_size=80)
    return st.builds(build, st.integers(0, 5), small, small, small, small)


GOOD = (
    encode_frame(Cancel()),
    encode_frame(Accepted(queued=0)),
    encode_frame(Piece(text="hello", token_ids=(1, 2))),
    encode_frame(OffersWanted(service=None, model=None, limit=1)),
    encode_frame(OffersKnown(envelopes=(sealed_offer(make_identity(5), 1),))),
)


def junk() -> st.SearchStrategy[bytes]:
    """Garbage; frames that are too large, cut off, in the wrong place, or hold what they must not."""
    framed = st.binary(max_size=200).map(lambda body: encode_uvarint(len(body)) + body)
    tagged = st.builds(
        lambda tag, body: encode_uvarint(len(body) + 2) + bytes([0x82, tag]) + body,
        st.integers(0, 23),
        st.sampled_from(
            [b"\xa0", b"\xf6", b"\x80", b"\xa1\x61a\x01", b"\x9f", b"\xbf", b"\xfb" + bytes(8), b"\x81" * 40]
        ),
    )
    oversized = st.integers(2**17, 2**28 - 1).map(lambda size: encode_uvarint(size) + bytes(1000))
    endless = st.just(b"\x80" * 30)
    whole = st.sampled_from(GOOD)
    cut = whole.flatmap(lambda frame: st.integers(0, len(frame)).map(lambda end: frame[:end]))
    twice = whole.map(lambda frame: frame * 3)
    return st.one_of(st.binary(max_size=300), framed, tagged, oversized, endless, cut, twice, kad_message())


async def throw(network: Libp2pNetwork, node: str, protocol: str, data: bytes, ending: str) -> None:
    """Opens a stream, sends, and leaves in one of the ways to leave; whatever the node does about it is fine."""
    try:
        stream = await network.open(node, protocol)
    except CxError:
        return
    try:
        with trio.move_on_after(0.1):
            await stream.send(data)
            if ending == "ended":
                await stream.close_send()
            await stream.receive()
    except PeerUnreachable:
        pass
    if ending != "left":
        await (stream.reset() if ending == "reset" else stream.close())


THROWN = st.lists(st.tuples(junk(), st.sampled_from(["closed", "reset", "ended", "left"])), min_size=12, max_size=24)


async def throw_all(protocol: str, thrown: list[tuple[bytes, str]]) -> None:
    async with undisturbed() as world, stranger(world) as network, trio.open_nursery() as nursery:
        for index, (data, ending) in enumerate(thrown):
            chosen = OF_LIBP2P[index % 3] if protocol == "of libp2p" else protocol
            nursery.start_soon(throw, network, world.node_network.peer, chosen, data, ending)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@QUICK
@given(thrown=THROWN)
async def test_junk_on_a_stream(protocol: str, thrown: list[tuple[bytes, str]]) -> None:
    """Garbage on any protocol ends that stream; the node lives, and other streams and connections do not notice."""
    await throw_all(protocol, thrown)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@THOROUGH
@given(thrown=THROWN)
async def test_much_junk_on_a_stream(protocol: str, thrown: list[tuple[bytes, str]]) -> None:
    """The same with more garbage, another each time."""
    await throw_all(protocol, thrown)


def line_of(data: bytes) -> bytes:
    return encode_uvarint(len(data)) + data


NEGOTIATION = st.one_of(
    st.sampled_from([b"\x00", b"\x01\n", line_of(b"ls\n") * 3, line_of(b"\xff\xfe\n"), line_of(b"na\n"), b"\x80" * 11]),
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda data: line_of(data + b"\n")),
)


@QUICK
@given(thrown=st.lists(st.tuples(st.booleans(), NEGOTIATION), min_size=12, max_size=24))
async def test_junk_before_a_protocol(thrown: list[tuple[bool, bytes]]) -> None:
    """A stream whose negotiation is garbage, at once or after a good start, ends, and nothing else does."""
    async with undisturbed() as world, stranger(world) as network:
        (connection,) = network._live(ID.from_base58(world.node_network.peer))
        for greeted, data in thrown:
            stream = await connection.new_stream()
            await stream.write((MULTISTREAM if greeted else b"") + data)
            with trio.move_on_after(0.02), contextlib.suppress(*LIBP2P_ERRORS):
                while True:
                    await stream.read(100)
            await stream.reset()


async def test_every_place_of_a_stranger_is_his_own() -> None:
    """128 job streams that ask nothing take nobody else's place."""
    async with undisturbed() as world, stranger(world) as network:
        held = [
            await network.open(world.node_network.peer, protocols.JOB) for _ in range(protocols.STREAMS_PER_PEER_MAX)
        ]
        await held[0].send(b"\x05")
        assert await world.ask("three four") == "three four "


# Connections.


@asynccontextmanager
async def raw_yamux(world: RealWorld) -> AsyncIterator[Any]:
    """The encrypted line of a stranger to the node, on which he may write what he likes."""
    async with host() as asker:
        node = ID.from_base58(world.node_network.peer)
        address = Multiaddr(f"/ip4/127.0.0.1/tcp/{port_of(world)}")
        yield (await asker.get_network()._dial_addr_single_attempt(address, node)).muxed_conn


def port_of(world: RealWorld) -> int:
    return int(world.address.split("/tcp/")[1].split("/")[0])


def yamux_frames() -> st.SearchStrategy[bytes]:
    """Frames with any type, flags and length, and data that fits or does not."""
    return st.builds(
        lambda version, kind, flags, stream, length, data: (
            struct.pack(yamux.YAMUX_HEADER_FORMAT, version, kind, flags, stream, length) + data
        ),
        st.sampled_from([0, 0, 0, 1, 255]),
        st.integers(0, 5),
        st.integers(0, 15),
        st.integers(0, 9),
        st.one_of(st.integers(0, 300), st.sampled_from([2**16, 2**20, 2**24, 2**32 - 1])),
        st.binary(max_size=300),
    )


@QUICK
@given(thrown=st.lists(yamux_frames(), min_size=10, max_size=40))
async def test_junk_inside_a_connection(thrown: list[bytes]) -> None:
    """Whatever comes where Yamux frames are expected ends that connection at most."""
    async with undisturbed() as world:
        for start in range(0, len(thrown), 8):
            async with raw_yamux(world) as line:
                with contextlib.suppress(ConnectionClosedError):
                    for data in thrown[start : start + 8]:
                        await line.secured_conn.write(data)
                with trio.move_on_after(0.03):  # the node may close it
                    await line.event_closed.wait()
                await line._cleanup_on_error()


@QUICK
@given(thrown=st.lists(st.binary(max_size=400), min_size=5, max_size=10))
async def test_junk_before_a_connection(thrown: list[bytes]) -> None:
    """Raw garbage, and a handshake that stops or goes wrong at any place, end that TCP connection."""
    hello = b"\x13/multistream/1.0.0\n"
    async with undisturbed() as world:
        port = port_of(world)
        for index, data in enumerate(thrown):
            beginnings = (b"", hello, hello + b"\x07/noise\n", hello + b"\x07/noise\n\x00\x20", b"\xff\xff\xff\xff\x07")
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            try:
                await stream.send_all(beginnings[index % len(beginnings)] + data)
                if index % 3 == 0:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except trio.BrokenResourceError:
                pass
            finally:
                await stream.aclose()


async def test_silent_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP connections that say nothing, many more than there are places, keep nobody out and disturb no job."""
    monkeypatch.setattr(fixes, "HANDSHAKES_MAX", 32)
    async with undisturbed() as world:
        port = port_of(world)
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(100)]
        async with stranger(world) as network:
            await network.open(world.node_network.peer, protocols.OFFER_WATCH)
        for stream in silent:
            await stream.aclose()


async def test_a_peer_that_pings_and_does_not_read() -> None:
    """Questions without end, whose answers nobody reads, end the connection and not the memory."""
    async with undisturbed() as world, raw_yamux(world) as line:
        ping = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_PING, yamux.FLAG_SYN, 0, 7) * 5000

        async def never(_: int) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        line.secured_conn.conn.read_writer.read_write_closer.read = never
        with trio.fail_after(5), contextlib.suppress(ConnectionClosedError):
            while True:
                await line.secured_conn.write(ping)


async def test_a_connection_that_is_cut_while_the_node_writes() -> None:
    """A TCP reset in the middle of the node's answers ends that connection only."""
    ping = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_PING, yamux.FLAG_SYN, 0, 7) * 5000
    async with undisturbed() as world:
        for _ in range(8):
            async with raw_yamux(world) as line:
                await line.secured_conn.write(ping)
                tcp = line.secured_conn.conn.read_writer.read_write_closer.stream.stream
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await line._cleanup_on_error()
