"""Puts a node together and runs it. The only place in this program that constructs."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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
from cxp2p.records import Capability, Prices
from cxp2p_node.advertise import Advertiser
from cxp2p_node.catalog import look_up
from cxp2p_node.config import ModelSettings, NodeSettings
from cxp2p_node.engines import Engine
from cxp2p_node.engines.echo import Echo
from cxp2p_node.models import ModelError, Progress, Store
from cxp2p_node.serve import Bench, Serving, bench

log = logging.getLogger("cxp2p.node")

T = TypeVar("T")

DRAIN_S = 30.0
OFFER_BYTES_SPARE = 2048  # for what changes in an offer: the load, the addresses
SLOTS = 4  # jobs at once: most of what batching gains on a CPU


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
            await _in_thread(store.pull, entry, progress)


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
        engines = tuple([await _open_engine(stack, model, store) for model in settings.models])
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


async def _open_engine(stack: AsyncExitStack, model: ModelSettings, store: Store) -> Engine:
    prices = Prices(input=model.price_in, output=model.price_out)
    if model.engine == "echo":
        return Echo(model.name, prices, slots=model.slots or SLOTS, queue_max=model.queue_max)
    # llama-cpp-python is an extra that only this engine needs.
    from cxp2p_node.engines.llama import LlamaSettings, open_llama  # noqa: PLC0415

    name, path, digest = await _model_file(model, store)
    log.info("loading %s from %s", name, path)
    opening = open_llama(
        LlamaSettings(
            model=name,
            path=path,
            model_digest=digest,
            prices=prices,
            slots=model.slots or SLOTS,
            queue_max=model.queue_max,
            context_units=model.context_units,
            threads=model.threads,
            gpu_layers=model.gpu_layers,
        )
    )
    return await stack.enter_async_context(opening)


async def _model_file(model: ModelSettings, store: Store) -> tuple[str, Path, bytes]:
    """The name that is offered, the file, and its SHA-256."""
    if model.path is not None:
        path = model.path.expanduser()
        if not path.is_file():
            raise SettingsError(f"models: {model.name}: there is no file {path}")
        return model.name, path, await _in_thread(_sha256, path)
    entry = look_up(model.name)
    return entry.name, store.file(entry), entry.sha256


def _sha256(path: Path) -> bytes:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").digest()


async def _in_thread(work: Callable[..., T], *arguments: object) -> T:
    """Runs what blocks for long; a cancel leaves it behind, and the end of the process ends it."""
    done: T = await trio.to_thread.run_sync(work, *arguments, abandon_on_cancel=True)  # type: ignore[call-arg]
    return done
