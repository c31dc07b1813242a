"""Puts a node together and runs it. The only place in this program that constructs."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

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
from cxp2p.net.epochs import EpochServing
from cxp2p.net.rhythm import Rhythm
from cxp2p.net.tasks import background
from cxp2p.paths import default_data_path
from cxp2p.peer import open_peer
from cxp2p.receipts import HOURS, Calendar
from cxp2p.records import Capability, Service
from cxp2p.wire import encode
from cxp2p_node.advertise import Advertiser
from cxp2p_node.bench import Bench, bench
from cxp2p_node.claims import Claims
from cxp2p_node.config import NodeSettings, ReceiptSettings
from cxp2p_node.counting import Counting, SeenRoots
from cxp2p_node.engines import Engine
from cxp2p_node.engines.opening import in_thread, loadable, open_engine
from cxp2p_node.engines.shelf import Loadable, open_shelf
from cxp2p_node.machine import memory_available, memory_for_models, room_for_models
from cxp2p_node.models import ModelError, Progress, Store
from cxp2p_node.models.header import HeaderError
from cxp2p_node.papers import Papers
from cxp2p_node.papers.memory import MemoryPapers
from cxp2p_node.papers.sqlite import FILE_NAME, open_papers
from cxp2p_node.serve import Serving
from cxp2p_node.till import Till

log = logging.getLogger("cxp2p.node")

DRAIN_S = 30.0
OFFER_BYTES_SPARE = 2048  # for what changes in an offer: the load, the addresses


@dataclass(frozen=True, slots=True)
class Node:
    """A running node: what serves, what advertises, what it knows of others. `unusable`: why models are not served."""

    network: Network
    serving: Serving
    advertiser: Advertiser
    discovery: Discovery
    benches: Mapping[tuple[Service, str], Bench]
    unusable: Mapping[str, str] = field(default_factory=dict)

    @property
    def faults(self) -> dict[str, str]:
        """Why models are not offered now, by their names."""
        away = ((model, each) for (_, model), each in self.benches.items() if not each.engine.ready)
        return {**self.unusable, **{model: each.fault or "its worker ended" for model, each in away}}

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
    calendar: Calendar = HOURS,
    rhythm: Rhythm | None = None,
    papers: Papers | None = None,
    keeping: ReceiptSettings | None = None,
) -> AsyncIterator[Node]:
    """A node on an open network, for as long as the block runs. It also passes on offers that it hears of."""
    rhythm = rhythm or Rhythm()
    described = ((engine, engine.describe()) for engine in engines)
    benches = {(each.service, each.model): bench(engine) for engine, each in described}
    till = Till(NodeLanes(identity.peer, exposure_max, calendar), papers or MemoryPapers(), wall_ms)
    await till.start()

    def offered() -> tuple[Capability, ...]:
        return tuple(each.capability() for each in benches.values() if each.engine.ready)

    serving = Serving(identity, benches, till, wall_ms, lambda: advertiser.change(), owner)
    advertiser = Advertiser(
        identity,
        network,
        offered,
        lambda: serving.draining,
        wall_ms,
        agent=f"cxp2p/{cxp2p.__version__}",
        owner=owner,
        rhythm=rhythm,
    )
    absent = sum(len(encode(each.capability())) for each in benches.values() if not each.engine.ready)
    if len(advertiser.envelope) + absent + OFFER_BYTES_SPARE > protocols.OFFER_BYTES_MAX:
        raise SettingsError("models: their offer is too large for the network: serve fewer, or give them shorter names")
    for engine in engines:
        engine.on_change(advertiser.change)
    discovery = Discovery(network, Directory(), wall_ms, rng, watching=False, rhythm=rhythm)
    discovery.own_offer = lambda: advertiser.envelope
    async with background() as nursery:
        network.serve(protocols.JOB, serving.handle)
        network.serve(protocols.EPOCH, EpochServing(SeenRoots(till.papers)).handle)
        nursery.start_soon(till.tidy, keeping or ReceiptSettings(), rhythm.tidy_s)
        nursery.start_soon(Claims(network, till, wall_ms, rhythm.claim_s).run)
        nursery.start_soon(Counting(network, till.papers, calendar, wall_ms, rhythm.tidy_s).run)
        nursery.start_soon(discovery.run)
        nursery.start_soon(advertiser.run)
        yield Node(network, serving, advertiser, discovery, benches)


def open_store(settings: NodeSettings) -> Store:
    return Store(settings.models_path or default_data_path("models"))


async def fetch_models(settings: NodeSettings, progress: Progress) -> None:
    """Fetches the models that are not on this machine yet. Raises SettingsError, ModelError."""
    store = open_store(settings)
    for model in settings.models:
        if model.engine == "llama" and model.path is None:
            entry = store.entry(model.name, model.source)
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
        engines, unusable = await _open_engines(settings, store, stack)
        data_path = settings.data_path or default_data_path("node")
        identity, network = await stack.enter_async_context(open_peer(settings.peer, data_path))
        papers = await stack.enter_async_context(open_papers(data_path / FILE_NAME))
        running = run_node(
            identity,
            network,
            engines,
            wall_ms=wall_clock_ms,
            rng=random.SystemRandom(),
            papers=papers,
            keeping=settings.receipts,
            exposure_max=settings.work.exposure_max,
            owner=settings.work.owner,
            calendar=settings.peer.calendar,
        )
        yield replace(await stack.enter_async_context(running), unusable=unusable)


async def _open_engines(
    settings: NodeSettings, store: Store, stack: AsyncExitStack
) -> tuple[tuple[Engine, ...], dict[str, str]]:
    """An engine for each model, in their order, and what is wrong with the others.

    Raises SettingsError if no model can be served.
    """
    told = settings.memory.models_mib_max
    bytes_max = memory_for_models(memory_available()) if told is None else told << 20
    loadables: dict[str, Loadable] = {}
    unusable: dict[str, str] = {}
    for model in settings.models:
        try:
            found = await loadable(model, store, bytes_max)
        except HeaderError as error:
            log.error("%s; it is not offered until the file is replaced and the node started again", error)
            unusable[model.name] = str(error)
        else:
            if found is not None:
                loadables[model.name] = found
    opened = {
        model.name: await stack.enter_async_context(open_engine(model, store, settings.scrape))
        for model in settings.models
        if model.name not in loadables and model.name not in unusable
    }
    room = _room_now if told is None else None  # who says a number means it
    shelf = await stack.enter_async_context(open_shelf(tuple(loadables.values()), bytes_max, room))
    engines: dict[str, Engine] = opened | dict(zip(loadables, shelf.models, strict=True))
    if not opened and not any(engine.ready for engine in engines.values()):  # a server may come later
        raise SettingsError("; ".join([*unusable.values(), *(model.fault for model in shelf.models)]))
    return tuple(engines[model.name] for model in settings.models if model.name in engines), unusable


def _room_now(held: int) -> int:
    """What all models may take, when they hold `held` bytes and other programs what they have by now."""
    return room_for_models(held, memory_available())
