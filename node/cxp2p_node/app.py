"""Puts a node together and runs it. The only place in this program that constructs."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio

import cxp2p
from cxp2p import protocols
from cxp2p.client import wall_ms as wall_clock_ms
from cxp2p.directory import Directory
from cxp2p.errors import SettingsError
from cxp2p.identity import Identity
from cxp2p.lanes import NodeLanes
from cxp2p.net import Network
from cxp2p.net.discover import Discovery
from cxp2p.net.tasks import background
from cxp2p.paths import default_data_path
from cxp2p.peer import open_peer
from cxp2p.records import Capability, Service
from cxp2p_node.advertise import Advertiser
from cxp2p_node.bench import Bench, bench
from cxp2p_node.catalog import look_up
from cxp2p_node.config import NodeSettings
from cxp2p_node.engines import Engine
from cxp2p_node.engines.opening import in_thread, open_engine
from cxp2p_node.models import ModelError, Progress, Store
from cxp2p_node.serve import Serving

log = logging.getLogger("cxp2p.node")

DRAIN_S = 30.0
OFFER_BYTES_SPARE = 2048  # for what changes in an offer: the load, the addresses


@dataclass(frozen=True, slots=True)
class Node:
    """A running node: what serves, what advertises, what it knows of others."""

    network: Network
    serving: Serving
    advertiser: Advertiser
    discovery: Discovery
    benches: Mapping[tuple[Service, str], Bench]

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
    described = ((engine, engine.describe()) for engine in engines)
    benches = {(each.service, each.model): bench(engine) for engine, each in described}
    lanes = NodeLanes(identity.peer, exposure_max)

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
    if len(advertiser.envelope) + OFFER_BYTES_SPARE > protocols.OFFER_BYTES_MAX:
        raise SettingsError("models: their offer is too large for the network: serve fewer, or give them shorter names")
    for engine in engines:
        engine.on_change(advertiser.change)
    discovery = Discovery(network, Directory(), wall_ms, rng, watching=False)
    discovery.own_offer = lambda: advertiser.envelope
    async with background() as nursery:
        network.serve(protocols.JOB, serving.handle)
        nursery.start_soon(discovery.run)
        nursery.start_soon(advertiser.run)
        yield Node(network, serving, advertiser, discovery, benches)


def open_store(settings: NodeSettings) -> Store:
    return Store(settings.models_path or default_data_path("models"))


async def fetch_models(settings: NodeSettings, progress: Progress) -> None:
    """Fetches the models that are not on this machine yet. Raises SettingsError, ModelError."""
    store = open_store(settings)
    for model in settings.models:
        if model.engine != "echo" and model.path is None:
            entry = look_up(model.name)
            if not store.has(entry) and not settings.pull:
                raise ModelError(f"{entry.name} is not on this machine: `cxp2p models pull {entry.name}` fetches it")
            await in_thread(store.pull, entry, progress)


@asynccontextmanager
async def open_node(settings: NodeSettings) -> AsyncIterator[Node]:
    """A whole node from its settings: models loaded, then the network joined, then the offer published.

    Raises CxError: SettingsError, ModelError, IdentityError, PeerUnreachable.
    """
    names = [model.name for model in settings.models]
    if len(set(names)) != len(names):
        raise SettingsError(f"models: each name may stand once, given are {', '.join(names)}")
    store = open_store(settings)
    async with AsyncExitStack() as stack:
        engines = tuple([await stack.enter_async_context(open_engine(model, store)) for model in settings.models])
        data_path = settings.data_path or default_data_path("node")
        identity, network = await stack.enter_async_context(open_peer(settings.peer, data_path))
        running = run_node(
            identity,
            network,
            engines,
            wall_ms=wall_clock_ms,
            rng=random.SystemRandom(),
            exposure_max=settings.work.exposure_max,
            owner=settings.work.owner,
        )
        yield await stack.enter_async_context(running)
