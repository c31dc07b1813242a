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


async def test_a_late_look_up_asks_those_that_it_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers that hang may use up a look-up's time: what was put is found all the same, with those that answered."""
    stock = PeerRouting.find_closest_peers_network

    async def hangs(self: Any, target_key: bytes, count: int = 20) -> list[ID]:
        await stock(self, target_key, count)
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(libp2p_dht, "LOOK_UP_S", 1.0)
    with trio.fail_after(20):
        async with (
            open_network(make_identity(1), offer_validator=offer_sequence) as first,
            open_network(make_identity(2), offer_validator=offer_sequence, bootstrap=first.addresses) as node,
        ):
            await node.joined.wait()
            monkeypatch.setattr(PeerRouting, "find_closest_peers_network", hangs)
            assert await node.dht.provide("chat/echo") == 1
            assert await first.dht.find_providers("chat/echo", 20) == (node.peer,)


def peer_id(number: int) -> ID:
    """An Ed25519 peer's id, without its keys."""
    return ID(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big"))
