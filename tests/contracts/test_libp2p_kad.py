"""Each fault of libp2p's DHT, shown in the stock code, and its absence with the fix."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import libp2p.kad_dht.value_store as value_store
import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.tools.anyio_service import background_trio_service

from cxp2p import protocols
from cxp2p.net import libp2p_fixes as fixes
from cxp2p.testing import make_identity
from hosts import applied, connect, host

Fix = Callable[[], None]
STOCK_PROTOCOL = "/ipfs/kad/1.0.0"


@asynccontextmanager
async def server() -> AsyncIterator[tuple[Any, KadDHT]]:
    """A host that serves the DHT."""
    async with host() as node:
        dht = KadDHT(node, DHTMode.SERVER)
        async with background_trio_service(dht):
            yield node, dht


@pytest.mark.parametrize(
    ("fix", "spoken"), [((), STOCK_PROTOCOL), ((lambda: fixes.set_kad_protocol(protocols.KAD),), protocols.KAD)]
)
async def test_our_dht_is_apart(fix: tuple[Fix, ...], spoken: str) -> None:
    """Stock: `protocol_prefix` changes nothing on the wire. Fixed: strangers' DHTs and ours do not mix."""
    with applied(*fix), trio.fail_after(5):
        async with host() as node:
            KadDHT(node, DHTMode.SERVER, protocol_prefix=TProtocol("/cxp2p"))
            kad = [each for each in node.get_mux().get_protocols() if "kad" in str(each)]
            assert kad == [spoken]


async def asks(asker: Any, node: Any) -> bool:
    """Whether the node answers a DHT question."""
    question = Message()
    question.type = Message.MessageType.FIND_NODE
    question.key = node.get_id().to_bytes()
    data = question.SerializeToString()
    try:
        with trio.fail_after(2):
            stream = await asker.new_stream(node.get_id(), [STOCK_PROTOCOL])
            await stream.write(bytes([len(data)]) + data)
            heard = bool(await stream.read(1))
            await stream.reset()
    except Exception:  # noqa: BLE001  # libp2p has many ways to say no
        return False
    return heard


@pytest.mark.parametrize("fixed", [False, True])
async def test_idle_streams_starve_nobody(fixed: bool) -> None:
    """Stock: 12 idle streams of one peer close the DHT to all. Fixed: he has 6, and others are answered."""
    with applied(), trio.fail_after(10):
        async with server() as (node, dht), host() as idle, host() as asker:
            if fixed:
                fixes.limit_kad_streams(dht, node, STOCK_PROTOCOL)
            await connect(idle, node)
            await connect(asker, node)
            assert await asks(asker, node)
            for _ in range(12):
                with contextlib.suppress(StreamFailure):  # reset before it heard the answer
                    await idle.new_stream(node.get_id(), [STOCK_PROTOCOL])
            assert await asks(asker, node) is fixed
            assert await asks(idle, node) is False


async def test_an_idle_stream_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that opens a DHT stream and says nothing gets his place back only when the stream is reset."""
    monkeypatch.setattr(fixes, "KAD_STREAM_S", 0.2)
    with applied(), trio.fail_after(10):
        async with server() as (node, dht), host() as idle:
            fixes.limit_kad_streams(dht, node, STOCK_PROTOCOL)
            await connect(idle, node)
            async with AsyncExitStack() as stack:
                for _ in range(fixes.KAD_STREAMS_PER_PEER_MAX):
                    stream = await idle.new_stream(node.get_id(), [STOCK_PROTOCOL])
                    stack.push_async_callback(stream.reset)
                with pytest.raises(StreamError):
                    await stream.read(1)
                assert await asks(idle, node)


@pytest.mark.parametrize(("fix", "kept"), [((), 100), ((fixes.limit_kad_stores,), 20)])
async def test_a_stranger_cannot_fill_the_provider_store(
    fix: tuple[Fix, ...], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock: any number of keys, of any length. Fixed: so many, the oldest give way, never those that we announced."""
    monkeypatch.setattr(fixes, "KAD_KEYS_MAX", 20)
    provider = PeerInfo(ID.from_base58(make_identity(1).peer), [])
    with applied(*fix):
        async with host() as node:
            store = ProviderStore(node)
            store.providing_keys.add(b"ours")
            store.add_provider(b"ours", provider)
            for number in range(99):
                store.add_provider(b"key %d" % number, provider)
            store.add_provider(b"k" * 1000, provider)
            assert len(store.providers) - (not fix) == kept
            assert b"ours" in store.providers
            assert b"key 98" in store.providers


def test_the_value_store_is_bounded() -> None:
    """Stock: 50,000 values of 1 MiB. Fixed: as many as a directory holds peers, each an offer of 16 KiB at most."""
    with applied():
        assert vars(value_store)["MAX_VALUE_STORE_SIZE"] == 50_000
    with applied(fixes.limit_kad_stores):
        assert vars(value_store)["MAX_VALUE_STORE_SIZE"] == protocols.DIRECTORY_PEERS_MAX
