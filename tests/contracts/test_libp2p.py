"""What our network over libp2p does beyond the contract: hung peers, addresses, ports, keys, a DHT that lies."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from random import Random
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from multiaddr import Multiaddr
from trio.testing import wait_all_tasks_blocked

from cxp2p import protocols
from cxp2p.errors import PeerUnreachable, SettingsError
from cxp2p.net import Stream, libp2p
from cxp2p.net import libp2p_fixes as fixes
from cxp2p.net.discover import offer_sequence
from cxp2p.net.libp2p import Libp2pNetwork, open_network
from cxp2p.testing import make_identity, sealed_offer
from cxp2p.testing.tools import ECHO, assert_breaks, assert_echoes, echo, hold, read_all, read_exactly
from hosts import ANY_PORT, cable


def port_in(address: str) -> int:
    return int(address.split("/tcp/")[1].split("/")[0])


def peer(number: int, **options: Any) -> AbstractAsyncContextManager[Libp2pNetwork]:
    return open_network(make_identity(number), offer_validator=offer_sequence, **options)


async def test_a_peer_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call outlives its time on a connection that carries nothing: opening, reading, leaving, killing."""
    monkeypatch.setattr(protocols, "STREAM_OPEN_TIMEOUT_S", 0.6)
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(20))
        asker = await stack.enter_async_context(peer(1))
        node = await stack.enter_async_context(peer(2))
        node.serve(ECHO, echo)
        node.serve("/test/hold/1", hold)
        wire = await stack.enter_async_context(cable(port_in(node.addresses[0])))
        await asker.connect(f"/ip4/127.0.0.1/tcp/{wire.port}/p2p/{node.peer}")
        await assert_echoes(asker, node.peer)
        held = [await asker.open(node.peer, "/test/hold/1") for _ in range(12)]
        for stream in held:
            assert await read_exactly(stream, 5) == b"hello"
        wire.freeze()

        with trio.fail_after(1):  # a protocol not yet spoken: open says so; one that is known: receive does
            with pytest.raises(PeerUnreachable, match="did not answer"):
                await asker.open(node.peer, "/test/other/1")
        with trio.fail_after(1):
            stream = await asker.open(node.peer, ECHO)
            await stream.send(b"x")
            with pytest.raises(PeerUnreachable, match="did not answer"):
                await stream.receive()
            await stream.reset()

        async with trio.open_nursery() as nursery:
            for stream in held:
                nursery.start_soon(assert_breaks, lambda stream=stream: stream.send(bytes(65536)), 60)
            await trio.sleep(0.3)
            with trio.fail_after(0.2):
                nursery.cancel_scope.cancel()
                await trio.lowlevel.cancel_shielded_checkpoint()
        with trio.fail_after(0.3):
            for stream in held[:6]:
                await stream.close()
            await held[6].reset()
        with trio.fail_after(0.3):
            await asker.kill(node.peer)
        await assert_breaks(held[7].receive, 1)
        assert node.peer not in asker.connected()


async def test_a_cancelled_call_leaves_no_stream() -> None:
    """Opens, sends and reads that are given up at any moment leave no stream at either end, and no slot taken."""
    rng = Random(11)
    with trio.fail_after(20):
        async with peer(1) as asker, peer(2) as node:
            node.serve(ECHO, echo)
            await asker.connect(node.addresses[0])
            await assert_echoes(asker, node.peer)
            for _ in range(400):
                stream = None
                with trio.move_on_after(rng.uniform(0.0, 0.0008)):
                    stream = await asker.open(node.peer, ECHO)
                    await stream.send(b"x")
                    await stream.receive()
                if stream is not None:
                    await stream.reset()
            await wait_all_tasks_blocked(0.1)
            for network in (asker, node):
                (connection,) = network._network.get_connections()
                assert not connection.muxed_conn.streams
                assert connection.muxed_conn.stream_backlog_semaphore.value == 256


async def test_a_dead_address_does_not_hide_a_good_one() -> None:
    """All addresses of a peer are tried, side by side: one that refuses and one that is silent cost little time."""
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(10):
        async with peer(1) as asker, peer(2) as node:
            node.serve(ECHO, echo)
            good = node.addresses[0]
            port = silent[0].socket.getsockname()[1]
            asker.remember(
                node.peer, (f"/ip4/127.0.0.1/tcp/9/p2p/{node.peer}", f"/ip4/127.0.0.1/tcp/{port}/p2p/{node.peer}", good)
            )
            with trio.fail_after(2):
                await assert_echoes(asker, node.peer)
    await silent[0].aclose()


async def test_the_address_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many peers are heard of, so many are remembered, the newest; and so many addresses of each."""
    monkeypatch.setattr(libp2p, "ADDRESS_BOOK_PEERS_MAX", 3)
    async with peer(1) as network:
        for number in range(2, 10):
            name = make_identity(number).peer
            network.remember(name, tuple(f"/ip4/127.0.0.1/tcp/{port}/p2p/{name}" for port in range(1, 100)))
        assert list(network._book) == [make_identity(number).peer for number in (7, 8, 9)]
        assert all(len(addresses) == libp2p.ADDRESSES_PER_PEER_MAX for addresses in network._book.values())


async def test_a_port_that_is_taken_is_refused() -> None:
    """libp2p would share it silently and get half of the peers."""
    async with peer(1) as first:
        listen = f"/ip4/127.0.0.1/tcp/{port_in(first.addresses[0])}"
        with pytest.raises(SettingsError, match="Address already in use"):
            async with peer(2, listen=[listen]):
                raise AssertionError("both listen")


async def test_leaving_closes_the_port() -> None:
    """Left is left: quickly, whatever connections there were; nobody listens, and the port can be taken again."""
    with trio.fail_after(20):
        async with AsyncExitStack() as stack:
            askers = [await stack.enter_async_context(peer(10 + number)) for number in range(6)]
            async with peer(1) as node:
                node.serve(ECHO, echo)
                address = node.addresses[0]
                for asker in askers:
                    await asker.connect(address)
                    await asker.open(node.peer, ECHO)
                started = trio.current_time()
            assert trio.current_time() - started < 0.15
            with pytest.raises(OSError, match="all attempts"):
                await trio.open_tcp_stream("127.0.0.1", port_in(address))
            async with peer(1, listen=[f"/ip4/127.0.0.1/tcp/{port_in(address)}"]) as again:
                assert again.addresses == (address,)


async def test_the_last_words_get_out() -> None:
    """What was sent before the block is left arrives, although nobody waited for it."""
    words = bytes(range(256)) * 400
    heard: list[bytes] = []
    done = trio.Event()

    async def listen(stream: Stream) -> None:
        heard.append(await read_all(stream))
        done.set()

    with trio.fail_after(10):
        async with peer(1) as node:
            node.serve(ECHO, listen)
            async with peer(2) as asker:
                await asker.connect(node.addresses[0])
                stream = await asker.open(node.peer, ECHO)
                await stream.send(words)
                await stream.close()
            await done.wait()
    assert heard == [words]


async def test_no_address_that_cannot_be_dialled_is_announced() -> None:
    """Listening everywhere announces the interfaces' addresses; `announce` replaces them."""
    async with peer(1, listen=["/ip4/0.0.0.0/tcp/0"]) as node, peer(2) as asker:
        assert node.addresses
        assert not any("0.0.0.0" in address for address in node.addresses)
        await asker.connect(node.addresses[0])
    async with peer(1, announce=["/ip4/192.0.2.7/tcp/4001"]) as node:
        assert node.addresses == (f"/ip4/192.0.2.7/tcp/4001/p2p/{node.peer}",)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"listen": ["nonsense"]}, "listen: 'nonsense'"),
        ({"listen": ["/ip4/127.0.0.1/udp/1"]}, "no TCP multiaddress"),
        ({"listen": ["/ip4/192.0.2.1/tcp/0"]}, "cannot listen"),
        ({"bootstrap": ["/ip4/127.0.0.1/tcp/1"]}, "<peer id>"),
        ({"psk": "00"}, "64 hex digits"),
    ],
)
async def test_a_wrong_setting_is_named(options: dict[str, Any], match: str) -> None:
    """The message names the setting and says what is expected."""
    with pytest.raises(SettingsError, match=match):
        async with peer(1, **options):
            raise AssertionError("it opened")


async def test_a_private_network_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers with the same key talk; one with another key, or none, does not get in."""
    monkeypatch.setattr(protocols, "STREAM_OPEN_TIMEOUT_S", 0.7)
    with trio.fail_after(20):
        async with peer(1, psk="ab" * 32) as node, peer(2, psk="ab" * 32) as friend:
            node.serve(ECHO, echo)
            await friend.connect(node.addresses[0])
            await assert_echoes(friend, node.peer)
            for options in ({"psk": "cd" * 32}, {}):
                async with peer(3, **options) as stranger:
                    with pytest.raises(PeerUnreachable), trio.fail_after(protocols.STREAM_OPEN_TIMEOUT_S + 1):
                        await stranger.connect(node.addresses[0])
            await assert_echoes(friend, node.peer)


async def test_nobody_gets_in_without_encryption() -> None:
    """Over /plaintext a stranger could claim any peer id: it is not spoken."""
    keys = create_new_key_pair()
    host = new_host(key_pair=keys, listen_addrs=[ANY_PORT], sec_opt={PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)})
    with trio.fail_after(10):
        async with peer(1) as node, host.run([ANY_PORT]):
            target = PeerInfo(ID.from_base58(node.peer), [Multiaddr(node.addresses[0])])
            with pytest.raises(SwarmException):
                await host.connect(target)
            await fixes.close_host(host, 1.0)


async def test_a_dht_that_lies_is_not_believed() -> None:
    """What a server of the DHT answers is checked: garbage, another peer's offer and an older one do not win."""
    node, stranger = make_identity(2), make_identity(3)
    key = f"/cxp2p/{node.peer}".encode()
    with trio.fail_after(20):
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(peer(1))
            second = await stack.enter_async_context(peer(4, bootstrap=first.addresses))
            reader = await stack.enter_async_context(peer(5, bootstrap=first.addresses))
            await second.joined.wait()
            await reader.joined.wait()
            for lie in (b"garbage", sealed_offer(stranger, 9), b""):
                for network in (first, second):
                    network.dht._dht.value_store.put(key, lie)
                assert await reader.dht.get_offer(node.peer) is None
            new, old = sealed_offer(node, 7), sealed_offer(node, 6)
            second.dht._dht.value_store.put(key, old)
            assert await reader.dht.get_offer(node.peer) == old
            first.dht._dht.value_store.put(key, new)
            assert await reader.dht.get_offer(node.peer) == new


async def test_a_lie_is_not_stored() -> None:
    """A server of the DHT refuses what is not the named peer's own offer, and an older one than it has."""
    node, stranger = make_identity(2), make_identity(3)
    key = f"/cxp2p/{node.peer}".encode()
    with trio.fail_after(20):
        async with peer(1) as server, peer(4, bootstrap=server.addresses) as liar:
            await liar.joined.wait()
            to, store = ID.from_base58(server.peer), liar.dht._dht.value_store
            assert await store._store_at_peer(to, key, sealed_offer(node, 5))
            for lie in (b"garbage", sealed_offer(stranger, 9), sealed_offer(node, 4)):
                assert not await store._store_at_peer(to, key, lie)
            assert not await store._store_at_peer(to, b"/other/key", b"value")
            assert not await store._store_at_peer(to, b"plain key", b"value")
            held = server.dht._dht.value_store.store
            assert {each: record.value for each, (record, _) in held.items()} == {key: sealed_offer(node, 5)}
