"""Both networks keep the contract of the seam: in memory in virtual time, and libp2p over loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from cxp2p.identity import Identity
from cxp2p.net import Network, libp2p, memory
from cxp2p.net.discover import offer_sequence
from cxp2p.testing import NETWORK_CHECKS, NetworkCheck, OpenPeer, check_name, make_identity

TEST_S = 30.0


def peers_in_memory() -> OpenPeer:
    """Peers of one hub, next to one that nobody asks for anything but the DHT."""
    hub = memory.Hub(latency_s=0.001)

    def open_peer(identity: Identity) -> AbstractAsyncContextManager[Network]:
        return memory.open_network(hub, identity.peer, offer_sequence)

    return open_peer


@asynccontextmanager
async def peers_on_libp2p() -> AsyncIterator[OpenPeer]:
    """Peers on loopback that are in the DHT of one bootstrap peer when they open."""
    async with libp2p.open_network(make_identity(1000), offer_validator=offer_sequence) as bootstrap:

        @asynccontextmanager
        async def open_peer(identity: Identity) -> AsyncIterator[Network]:
            async with libp2p.open_network(
                identity, bootstrap=bootstrap.addresses, offer_validator=offer_sequence
            ) as network:
                await network.joined.wait()
                yield network

        yield open_peer


@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=check_name)
async def test_memory(check: NetworkCheck, autojump_clock: MockClock) -> None:
    """The in-memory twin keeps this part of the contract."""
    open_peer = peers_in_memory()
    with trio.fail_after(TEST_S):
        async with open_peer(make_identity(1000)):
            await check(open_peer)


@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=check_name)
async def test_libp2p(check: NetworkCheck) -> None:
    """Real libp2p keeps this part of the contract."""
    with trio.fail_after(TEST_S):
        async with peers_on_libp2p() as open_peer:
            await check(open_peer)
