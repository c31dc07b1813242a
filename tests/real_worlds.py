"""One real node and one real asker over libp2p on loopback, in one process and real time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import trio
from trio.testing import wait_all_tasks_blocked

from cxp2p.client import Net, join, wall_ms
from cxp2p.directory import Via
from cxp2p.net.discover import offer_sequence
from cxp2p.net.libp2p import Libp2pNetwork, open_network
from cxp2p.records import Piece
from cxp2p.testing import make_identity
from cxp2p_node.app import Node, run_node
from worlds import Ledgerbook, ScriptedEngine, chat_job


@dataclass(frozen=True, slots=True)
class RealWorld:
    """A node with its network, and an asker that has found it."""

    node: Node
    node_network: Libp2pNetwork
    net: Net
    books: Ledgerbook

    @property
    def address(self) -> str:
        """Where the node is dialled."""
        return self.node_network.addresses[0]

    async def ask(self, text: str) -> str:
        """The answer to one job, which for the `ScriptedEngine` is the words of `text`."""
        return await ask(self.net, text, self.books)


async def ask(net: Net, text: str, books: Ledgerbook) -> str:
    """One job from asking to settling; returns the answer."""
    texts: list[str] = []

    async def take(piece: Piece) -> None:
        texts.append(piece.text)
        await trio.lowlevel.checkpoint()

    await net.run(chat_job(text), take, books)
    return "".join(texts)


@asynccontextmanager
async def real_world(engine: ScriptedEngine) -> AsyncIterator[RealWorld]:
    """A node that serves `engine`, and an asker that knows it."""
    first, second = make_identity(1), make_identity(2)
    async with (
        open_network(first, offer_validator=offer_sequence) as node_network,
        run_node(first, node_network, (engine,), wall_ms=wall_ms, rng=Random(1), exposure_max=10**12) as node,
        open_network(second, offer_validator=offer_sequence, dht_server=False) as network,
        join(second, network, Random(2)) as net,
    ):
        await wait_all_tasks_blocked()  # until it runs
        net.discovery.learn(node.advertiser.envelope, Via.EXCHANGE)
        with trio.fail_after(10):
            await net.find(engine.name)
        yield RealWorld(node, node_network, net, Ledgerbook())


@asynccontextmanager
async def stranger(world: RealWorld, number: int = 9) -> AsyncIterator[Libp2pNetwork]:
    """A peer that nobody knows, connected to the node."""
    async with open_network(make_identity(number), offer_validator=offer_sequence, dht_server=False) as network:
        await network.connect(world.address)
        yield network
