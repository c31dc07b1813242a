"""Each fault of look-ups in libp2p's DHT, shown in the stock code, and its absence with the fix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.peer_routing import PeerRouting
from libp2p.kad_dht.routing_table import KBucket, RoutingTable
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from cxp2p.net import libp2p_dht, libp2p_kad
from cxp2p.net.discover import offer_sequence
from cxp2p.net.libp2p import open_network
from cxp2p.testing import make_identity
from hosts import applied, connect, host

Fix = Callable[[], None]
HERE = Multiaddr("/ip4/127.0.0.1/tcp/4001")


@asynccontextmanager
async def server() -> AsyncIterator[tuple[Any, KadDHT]]:
    """A host that serves the DHT."""
    async with host() as node:
        dht = KadDHT(node, DHTMode.SERVER)
        async with background_trio_service(dht):
            yield node, dht


@pytest.mark.parametrize(("fix", "found"), [((), 1), ((libp2p_kad.fix_long_keys,), 2)])
async def test_a_key_that_names_a_peer_is_looked_up(fix: tuple[Fix, ...], found: int) -> None:
    """Stock: who is asked for a key over 50 bytes resets the stream. Fixed: he names the peers that he knows."""
    key = f"/cxp2p/{make_identity(1).peer}".encode()
    assert 50 < len(key) <= libp2p_kad.FIND_KEY_BYTES_MAX
    with applied(*fix), trio.fail_after(10):
        async with server() as (asker, dht), server() as (middle, knows), server() as (far, _):
            await connect(asker, middle)
            await knows.routing_table.add_peer(PeerInfo(far.get_id(), far.get_addrs()))
            await dht.routing_table.add_peer(PeerInfo(middle.get_id(), middle.get_addrs()))
            closest = await dht.peer_routing.find_closest_peers_network(key)
            assert len(closest) == found
            assert len(await dht.peer_routing.find_closest_peers_network(key[:50])) == 2


async def test_a_key_that_is_too_long_is_still_refused() -> None:
    """What is no key of a value either ends the stream, as before."""
    with applied(libp2p_kad.fix_long_keys), trio.fail_after(10):
        async with server() as (asker, dht), server() as (middle, knows), server() as (far, _):
            await connect(asker, middle)
            await knows.routing_table.add_peer(PeerInfo(far.get_id(), far.get_addrs()))
            await dht.routing_table.add_peer(PeerInfo(middle.get_id(), middle.get_addrs()))
            key = b"k" * (libp2p_kad.FIND_KEY_BYTES_MAX + 1)
            assert len(await dht.peer_routing.find_closest_peers_network(key)) == 1


@pytest.mark.parametrize(("fix", "least", "most"), [((), 900, 2000), ((libp2p_kad.fix_bucket_split,), 100, 200)])
async def test_a_table_holds_few_of_those_far_off(
    fix: tuple[Fix, ...], least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock: of 2,000 peers most are kept. Fixed: 20 for each bit that a key has in common with the own one."""

    async def answers(self: Any, peer: ID) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    monkeypatch.setattr(KBucket, "_ping_peer", answers)
    with applied(*fix):
        async with host() as node:
            table = RoutingTable(peer_id(0), node)
            for number in range(1, 2000):
                await table.add_peer(PeerInfo(peer_id(number), [HERE]))
            assert least < table.size() < most
            own = [bucket for bucket in table.buckets if bucket.peer_id_in_range(peer_id(0))]
            assert len(own) == 1
            assert own[0].size() > 0


async def test_a_look_up_does_not_wait_for_peers_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round ends without them, and they are forgotten, but who was met is asked for what it holds all the same."""

    async def hangs(self: Any, peer: ID, target_key: bytes) -> list[ID]:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(libp2p_dht, "ROUND_S", 0.3)
    with trio.fail_after(20):
        async with (
            open_network(make_identity(1), offer_validator=offer_sequence) as first,
            open_network(make_identity(2), offer_validator=offer_sequence, bootstrap=first.addresses) as node,
        ):
            await node.joined.wait()
            monkeypatch.setattr(PeerRouting, "_query_peer_for_closest", hangs)
            table = node.dht._dht.routing_table
            assert table.size() == 1
            began = trio.current_time()
            assert await node.dht.provide("chat/echo") == 1
            assert trio.current_time() - began < libp2p_dht.ASK_S
            assert table.size() == 0
            assert await first.dht.find_providers("chat/echo", 20) == (node.peer,)


async def test_a_look_up_goes_on_until_nobody_is_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each peer names the next one only: the walk meets all of them, asks nobody twice, and never itself."""
    chain = [peer_id(number) for number in range(1, 30)]
    asked: list[ID] = []

    async def names_the_next(self: Any, peer: ID, target_key: bytes) -> list[ID]:
        await trio.lowlevel.checkpoint()
        if target_key == b"key":  # a host that has just opened looks up more than that
            asked.append(peer)
        return chain[chain.index(peer) + 1 :][:1]

    monkeypatch.setattr(PeerRouting, "_query_peer_for_closest", names_the_next)
    async with open_network(make_identity(1), offer_validator=offer_sequence) as node:
        await node.dht._dht.routing_table.add_peer(PeerInfo(chain[0], [HERE]))
        closest = await node.dht._find_closest(b"key")
    assert len(closest) == libp2p_dht.CLOSEST
    assert len(asked) == len(set(asked))
    assert set(closest) <= set(chain)
    assert asked[:3] == chain[:3]


def peer_id(number: int) -> ID:
    """An Ed25519 peer's id, without its keys."""
    return ID(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big"))
