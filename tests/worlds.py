"""Small networks in memory and virtual time, of the real node and the real asker, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import trio

from cxp2p.client import Net, Settlement, join
from cxp2p.errors import JobFailed
from cxp2p.identity import Identity, Kind, identity_from_seed, open_envelope
from cxp2p.net.discover import offer_sequence
from cxp2p.net.memory import Hub, MemoryNetwork, open_network
from cxp2p.receipts import Delivered
from cxp2p.records import (
    Capability,
    ChatJob,
    FailureCode,
    Finish,
    Job,
    Load,
    Message,
    Order,
    Piece,
    Prices,
    Role,
    Service,
    Usage,
    Voucher,
)
from cxp2p.wire import decode
from cxp2p_node.app import Node, run_node
from cxp2p_node.engines import Counted, Emit, Engine

EPOCH_MS = 1_800_000_000_000
PRICES = Prices(input=1_000_000, output=2_000_000)


def capability(model: str = "echo", **changes: object) -> Capability:
    """A capability where only what matters to a test is said."""
    fields: dict[str, object] = {
        "service": Service.CHAT,
        "model": model,
        "model_digest": b"d" * 32,
        "runtime": "scripted",
        "context_units": 4096,
        "output_units_max": 1024,
        "prices": PRICES,
        "slots": 2,
        "queue_max": 4,
        "load": Load(running=0, queued=0, first_piece_ms=0, units_per_s=0, loading_ms=0),
    }
    return Capability(**{**fields, **changes})  # type: ignore[arg-type]


def chat_job(text: str = "one two three", model: str = "echo", max_tokens: int | None = None) -> ChatJob:
    return ChatJob(model=model, messages=(Message(role=Role.USER, content=text),), max_tokens=max_tokens)


@dataclass
class ScriptedEngine:
    """Says the prompt's words back, `pause_s` apart; can be told to fail or to hang at a given piece."""

    name: str = "echo"
    pause_s: float = 0.1
    fail_at: int | None = None
    fault: JobFailed = field(default_factory=lambda: JobFailed(FailureCode.ENGINE_DIED, "the engine died"))
    hang_at: int | None = None
    slots: int = 2
    queue_max: int = 4
    context_units: int = 4096
    output_units_max: int = 1024
    prices: Prices = PRICES
    ready: bool = True
    started: int = 0
    stopped_at: list[float] = field(default_factory=list)
    made: int = 0

    def on_change(self, call: Callable[[], None]) -> None:
        self._call = call

    def describe(self) -> Capability:
        return capability(
            self.name,
            slots=self.slots,
            queue_max=self.queue_max,
            context_units=self.context_units,
            output_units_max=self.output_units_max,
            prices=self.prices,
        )

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        self.started += 1
        assert isinstance(job, ChatJob)
        words = job.messages[-1].content.split()
        in_units = len(words)
        counted(in_units, 0)
        try:
            for index, word in enumerate(words[:max_out]):
                await trio.sleep(self.pause_s)
                if index == self.fail_at:
                    raise self.fault
                if index == self.hang_at:
                    await trio.sleep_forever()
                await emit(Piece(text=word + " ", token_ids=(index,)))
                self.made += 1
        except trio.Cancelled:
            self.stopped_at.append(trio.current_time())
            raise
        finish = Finish.LENGTH if len(words) > max_out else Finish.STOP
        return Usage(in_units=in_units, cached_units=0, out_units=min(len(words), max_out), finish=finish)


@dataclass
class Ledgerbook:
    """Books in memory that check what `Books` promises: each order reserved once, then settled or voided once."""

    held: dict[bytes, Order] = field(default_factory=dict)
    settled: list[Settlement] = field(default_factory=list)
    voided: list[Order] = field(default_factory=list)
    vouchers: list[Voucher] = field(default_factory=list)

    async def reserve(self, order: Order, envelope: bytes) -> None:
        await trio.lowlevel.checkpoint()
        assert order.order_id not in self.held
        self.held[order.order_id] = order

    async def promise(self, order: Order, voucher_envelope: bytes) -> None:
        await trio.lowlevel.checkpoint()
        assert order.order_id in self.held
        self.vouchers.append(decode(Voucher, open_envelope(Kind.VOUCHER, voucher_envelope).body))

    async def settle(self, settlement: Settlement) -> None:
        await trio.lowlevel.checkpoint()
        del self.held[settlement.order.order_id]
        assert settlement.countersign.charge <= settlement.order.max_charge
        self.settled.append(settlement)

    async def void(self, order: Order, reason: str, got: Delivered | None = None) -> None:
        await trio.lowlevel.checkpoint()
        del self.held[order.order_id]
        self.voided.append(order)


@dataclass
class World:
    """A hub with a bootstrap peer, in virtual time that starts at `EPOCH_MS`."""

    hub: Hub
    stack: AsyncExitStack
    started: float
    bootstrap: MemoryNetwork
    peers: int = 1

    def wall_ms(self) -> int:
        return EPOCH_MS + round((trio.current_time() - self.started) * 1000)

    def identity(self) -> Identity:
        self.peers += 1
        return identity_from_seed(self.peers.to_bytes(32, "big"))

    async def peer(self, identity: Identity) -> MemoryNetwork:
        """A peer that is connected to the bootstrap peer."""
        network = await self.stack.enter_async_context(open_network(self.hub, identity.peer, offer_sequence))
        await network.connect(self.bootstrap.addresses[0])
        return network

    async def node(self, *engines: Engine, exposure_max: int = 10**9, wall_ms: Callable[[], int] | None = None) -> Node:
        identity = self.identity()
        network = await self.peer(identity)
        running = run_node(
            identity,
            network,
            engines,
            wall_ms=wall_ms or self.wall_ms,
            rng=Random(self.peers),
            exposure_max=exposure_max,
        )
        return await self.stack.enter_async_context(running)

    async def asker(self, *, wall_ms: Callable[[], int] | None = None) -> Net:
        identity = self.identity()
        network = await self.peer(identity)
        joining = join(identity, network, Random(self.peers), wall_ms or self.wall_ms)
        return await self.stack.enter_async_context(joining)


@asynccontextmanager
async def world(latency_s: float = 0.005) -> AsyncIterator[World]:
    """A world whose peers all leave when the block ends. Use it under an autojumping MockClock."""
    hub = Hub(latency_s)
    async with AsyncExitStack() as stack:
        bootstrap = await stack.enter_async_context(
            open_network(hub, identity_from_seed(b"b" * 32).peer, offer_sequence)
        )
        yield World(hub, stack, trio.current_time(), bootstrap)


async def settled(net: Net, nodes: int, model: str = "echo") -> None:
    """Until the asker's directory holds so many live nodes."""
    directory = net.discovery.directory

    def ready() -> bool:
        live = [entry for entry in directory.entries() if entry.alive_until > trio.current_time()]
        return len(live) >= nodes

    with trio.fail_after(60):
        await net.discovery.until(ready)


async def ask(net: Net, text: str = "one two three", books: Ledgerbook | None = None, **options: Any) -> str:
    texts: list[str] = []

    async def take(piece: Piece) -> None:
        texts.append(piece.text)
        await trio.lowlevel.checkpoint()

    await net.run(chat_job(text, **options), take, books or Ledgerbook())
    return "".join(texts)
