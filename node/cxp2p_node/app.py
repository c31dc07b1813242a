"""Puts a node together and runs it. The only place in this program that constructs."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

import cxp2p
from cxp2p import protocols, receipts
from cxp2p.directory import Directory
from cxp2p.identity import Identity
from cxp2p.net import Network
from cxp2p.net.discover import Discovery
from cxp2p.net.tasks import background
from cxp2p.records import Capability
from cxp2p_node.advertise import Advertiser
from cxp2p_node.engines import Engine
from cxp2p_node.serve import Bench, Serving, bench

log = logging.getLogger("cxp2p.node")

DRAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Node:
    """A running node: what serves, what advertises, what it knows of others."""

    network: Network
    serving: Serving
    advertiser: Advertiser
    discovery: Discovery
    benches: Mapping[str, Bench]

    async def drain(self, patience_s: float = DRAIN_S) -> None:
        """Takes no more jobs, says so in the offer, and waits for those that run."""
        self.serving.draining = True
        self.advertiser.change()
        with trio.move_on_after(patience_s):
            await self.serving.idle()


@asynccontextmanager
async def run_node(
    identity: Identity,
    network: Network,
    engines: tuple[Engine, ...],
    *,
    wall_ms: Callable[[], int],
    rng: random.Random,
    exposure_max: int,
    owner: str = "",
) -> AsyncIterator[Node]:
    """A node on an open network, for as long as the block runs. It also passes on offers that it hears of."""
    benches = {engine.describe().model: bench(engine) for engine in engines}
    lanes = receipts.NodeLanes(identity.peer, exposure_max)

    def offered() -> tuple[Capability, ...]:
        return tuple(each.capability() for each in benches.values() if each.engine.ready)

    serving = Serving(identity, benches, lanes, wall_ms, lambda: advertiser.change(), owner)
    advertiser = Advertiser(
        identity,
        network,
        offered,
        lambda: serving.draining,
        wall_ms,
        agent=f"cxp2p/{cxp2p.__version__}",
        owner=owner,
    )
    for engine in engines:
        engine.on_change(advertiser.change)
    discovery = Discovery(network, Directory(), wall_ms, rng, watching=False)
    discovery.own_offer = lambda: advertiser.envelope
    async with background() as nursery:
        network.serve(protocols.JOB, serving.handle)
        nursery.start_soon(discovery.run)
        nursery.start_soon(advertiser.run)
        yield Node(network, serving, advertiser, discovery, benches)
