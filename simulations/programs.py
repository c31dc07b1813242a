"""The programs tier: real gateways and real nodes in one trio loop, over the network in memory, in virtual time.

A gateway is everything behind its listening socket: the HTTP front is called through ASGI, and behind it are its keys,
books, dispatch and asker. A node is `run_node` with the echo engine. Each can be started, drained, stopped, crashed and
started again, with the same identity and the same books.
"""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, TypeVar

import trio
from trio._core import _run
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.client import Net, join
from cxp2p.directory import Directory
from cxp2p.identity import Identity, identity_from_seed
from cxp2p.ledger import HoldState
from cxp2p.net.discover import Discovery, offer_sequence
from cxp2p.net.memory import Hub, MemoryNetwork, open_network
from cxp2p.receipts import HOURS
from cxp2p.records import Prices
from cxp2p.rewards import DEFAULT_RULES
from cxp2p_gateway.accounts import Accounts, found_account
from cxp2p_gateway.app import RULES, GatewayDoor
from cxp2p_gateway.claims import GatewayPapers
from cxp2p_gateway.closing import open_epochs
from cxp2p_gateway.dispatch import Dispatch, DispatchOptions, open_dispatch
from cxp2p_gateway.earnings import Earnings
from cxp2p_gateway.exchange import Outside
from cxp2p_gateway.http import Front, make_app
from cxp2p_gateway.key_ring import KeyRing
from cxp2p_gateway.metrics import Metrics
from cxp2p_gateway.statements import Statements
from cxp2p_gateway.store import Generation, StoreError, Tables
from cxp2p_node.app import Node, run_node
from cxp2p_node.engines.echo import Echo
from cxp2p_node.papers.memory import MemoryPapers
from simulations.books import Books
from simulations.calling import CHAT_PATH, Answer, post
from simulations.layout import Layout, SpreadHub

T = TypeVar("T")

EPOCH_MS: Final = 1_800_000_000_000
MODEL: Final = "echo"
PRICES: Final = Prices(input=1_000_000, output=2_000_000)
CREDIT: Final = 10**15  # µcredits of each gateway's one account: nobody here is to run out of them
EXPOSURE_MAX: Final = 10**12
LATE_MAX: Final = 10**9  # µcredits that a node may be paid late in a day
GRACE_S: Final = 30.0  # how long a gateway that stops lets its requests run
SETTLED_S: Final = 120.0  # for a network to find itself
QUIET_TRIES: Final = 30  # a second apart
GARBAGE_AT: Final = 200_000  # new objects until Python looks for cycles: there are few, and a look takes long


class Program(ABC):
    """One program of a network: it can be started and ended again and again, and stays the same peer."""

    def __init__(self, programs: Programs, identity: Identity) -> None:
        self.programs = programs
        self.identity = identity
        self.network: MemoryNetwork | None = None
        self.is_dead = False
        self.starts = 0
        self._drains = False
        self._scope = trio.CancelScope()
        self._begun = trio.Event()
        self._leave = trio.Event()
        self._left = trio.Event()

    @property
    def is_up(self) -> bool:
        return self.network is not None

    @property
    def is_leaving(self) -> bool:
        """Whether it drains."""
        return self._drains

    @property
    @abstractmethod
    def running(self) -> int:
        """How much runs here: jobs of a node, requests of a gateway."""

    async def start(self) -> None:
        """Starts the program, or starts it again."""
        self.starts += 1
        self.is_dead = self._drains = False
        self._scope, self._leave, self._left = trio.CancelScope(), trio.Event(), trio.Event()
        self._begun = trio.Event()
        self.programs.nursery.start_soon(self._live)
        await self._begun.wait()

    async def stop(self) -> None:
        """Lets what runs come to its end, and ends the program."""
        self._drains = True
        await self.drain()
        self._leave.set()
        await self._left.wait()

    async def crash(self) -> None:
        """Ends the program as a killed process ends: its connections break, and it says and writes nothing more."""
        assert self.network is not None
        self.is_dead = True
        self.programs.hub.peers.pop(self.identity.peer, None)
        for peer in self.network.connected():
            await self.network.kill(peer)
        self._scope.cancel()
        await self._left.wait()

    @abstractmethod
    async def drain(self) -> None:
        """Takes nothing new, and waits for what runs."""

    async def _live(self) -> None:
        try:
            with self._scope:
                async with self.programs.open_peer(self.identity) as network, self._run(network):
                    self.network = network
                    self._begun.set()
                    await self._leave.wait()
        finally:
            self.network = None
            self._left.set()

    @abstractmethod
    def _run(self, network: MemoryNetwork) -> AbstractAsyncContextManager[None]:
        """The program on its open network, for as long as the block runs."""


class NodeProgram(Program):
    """A node that echoes. `node` is the running one; its papers outlive it."""

    def __init__(self, programs: Programs, identity: Identity, units_per_s: float) -> None:
        super().__init__(programs, identity)
        self._units_per_s = units_per_s
        self.papers = MemoryPapers()
        self.node: Node | None = None

    @property
    def running(self) -> int:
        """Jobs that run or wait here."""
        return sum(bench.desk.running + bench.desk.queued for bench in self.node.benches.values()) if self.node else 0

    async def drain(self) -> None:
        assert self.node is not None
        await self.node.drain()

    @asynccontextmanager
    async def _run(self, network: MemoryNetwork) -> AsyncIterator[None]:
        layout = self.programs.layout
        engine = Echo(MODEL, PRICES, slots=layout.slots, queue_max=layout.queue_max, units_per_s=self._units_per_s)
        async with run_node(
            self.identity,
            network,
            (engine,),
            wall_ms=self.programs.wall_ms,
            rng=self.programs.chance(self),
            exposure_max=EXPOSURE_MAX,
            rhythm=layout.rhythm,
            papers=self.papers,
        ) as self.node:
            yield
        self.node = None


class GatewayProgram(Program):
    """A gateway without its socket. `key` opens it; its books outlive it."""

    def __init__(self, programs: Programs, identity: Identity, path: Path | None) -> None:
        super().__init__(programs, identity)
        self.books = Books(programs.wall_ms, path)
        self.key = ""
        self.front: Front | None = None
        self.net: Net | None = None
        self.dispatch: Dispatch | None = None
        self._asking: dict[trio.CancelScope, None] = {}
        self._calm = trio.Event()

    @property
    def running(self) -> int:
        return len(self._asking)

    async def ask(self, text: str, *, streamed: bool = False, leave_after_s: float | None = None) -> Answer:
        """One chat request of the gateway's client. The answer is `cut` if the gateway dies before its end."""
        if self.front is None:
            return Answer(cut=True)
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": streamed}
        answer = Answer(cut=True)
        with trio.CancelScope() as scope:
            self._asking[scope] = None
            try:
                answer = await post(self.front, CHAT_PATH, self.key, body, leave_after_s)
            except StoreError:
                if not self.is_dead:
                    raise
            finally:
                del self._asking[scope]
                if not self._asking:
                    self._calm.set()
                    self._calm = trio.Event()
        return answer

    async def drain(self) -> None:
        assert self.front is not None
        self.front.closing.set()
        with trio.move_on_after(GRACE_S):
            await self.calm()
        self.front.cut()
        await self.calm()

    async def calm(self) -> None:
        """Returns when no request runs here."""
        while self._asking:
            await self._calm.wait()

    async def crash(self) -> None:
        for scope in self._asking:
            scope.cancel()
        await super().crash()

    @asynccontextmanager
    async def _run(self, network: MemoryNetwork) -> AsyncIterator[None]:
        programs, layout, rng = self.programs, self.programs.layout, self.programs.chance(self)
        options = DispatchOptions(upkeep_s=layout.upkeep_s)
        with self.books.open(lambda: self.is_dead) as store:
            await store.void_all()  # what a gateway that was killed held
            papers = GatewayPapers(store, programs.wall_ms, Metrics().claims, LATE_MAX)
            async with (
                open_epochs(self.identity, network, store, HOURS, RULES, programs.wall_ms) as archive,
                join(self.identity, network, rng, programs.wall_ms, rhythm=layout.rhythm, papers=papers) as self.net,
                open_dispatch(self.net, store, programs.wall_ms, options, (MODEL,)) as self.dispatch,
            ):
                first = await found_account(store, CREDIT, programs.wall_ms(), rng)
                self.key = first.key if first is not None else self.key
                accounts = Accounts(store, programs.wall_ms)
                ring, statements = KeyRing(accounts, store, programs.wall_ms, rng), Statements(store, programs.wall_ms)
                earnings = Earnings(archive, store, DEFAULT_RULES, programs.wall_ms)
                door = GatewayDoor(accounts, self.dispatch, None, ring, statements, archive, earnings)
                self.front = make_app(door, outside=Outside(wall_ms=programs.wall_ms, rng=rng))
                try:
                    yield
                finally:
                    self.front = None


class Programs:
    """A network of programs that run. Times are virtual; the wall clock begins at `EPOCH_MS`."""

    def __init__(self, layout: Layout, hub: Hub, bootstrap: MemoryNetwork, nursery: trio.Nursery) -> None:
        self.layout = layout
        self.hub = hub
        self.nursery = nursery
        self._bootstrap = bootstrap
        self._started = trio.current_time()
        rng = Random(layout.seed)
        self.nodes = tuple(
            NodeProgram(self, _identity(1000 + number), rng.uniform(*layout.units_per_s))
            for number in range(layout.nodes)
        )
        path = layout.books_path
        self.gateways = tuple(
            GatewayProgram(self, _identity(2000 + number), path and path / f"gateway-{number}.sqlite")
            for number in range(layout.gateways)
        )

    @property
    def now(self) -> float:
        """Seconds since the network began."""
        return trio.current_time() - self._started

    def wall_ms(self) -> int:
        return EPOCH_MS + round(self.now * 1000)

    def chance(self, program: Program) -> Random:
        """Another one for each life of a program."""
        return Random(f"{self.layout.seed} {program.identity.peer} {program.starts}")

    @asynccontextmanager
    async def open_peer(self, identity: Identity) -> AsyncIterator[MemoryNetwork]:
        """A peer that is connected to the bootstrap peer, for as long as the block runs."""
        async with open_network(self.hub, identity.peer, offer_sequence) as network:
            await network.connect(self._bootstrap.addresses[0])
            yield network

    async def settled(self) -> None:
        """Until every running gateway knows every running node. Raises TooSlowError."""
        nodes = sum(node.is_up for node in self.nodes)
        for gateway in self.gateways:
            if gateway.net is not None and gateway.is_up:
                with trio.fail_after(SETTLED_S):
                    await gateway.net.discovery.until(partial(_knows, gateway.net, nodes))

    async def calm(self) -> None:
        """Until no request runs, and no job."""
        for gateway in self.gateways:
            await gateway.calm()
        for node in self.nodes:
            if node.node is not None:
                await node.node.serving.idle()

    async def faults(self) -> list[str]:
        """What is wrong in a calm network, in words: in the books, or with jobs and streams that were left."""
        found: list[str] = []
        for number, gateway in enumerate(self.gateways):
            with gateway.books.open() as store:
                found += [f"gateway {number}: {fault}" for fault in await store.audit()]
                holds = await store.do(lambda tables: tables.all_holds())
            found += [f"gateway {number} still holds {hold}" for hold in holds if hold.state is HoldState.OPEN]
            if gateway.dispatch is not None and gateway.dispatch.running:
                found.append(f"gateway {number} counts {gateway.dispatch.running} jobs that run")
        for number, node in enumerate(self.nodes):
            if node.running:
                found.append(f"node {number} counts {node.running} jobs")
        return found + await self._streams_left()

    async def _streams_left(self) -> list[str]:
        """Beyond one watch from each gateway to each node; those that come and go by the clock are waited for."""
        for _ in range(QUIET_TRIES):
            served = sum((network.served for network in self.hub.peers.values()), Counter[str]())
            if not served[protocols.OFFERS]:
                break
            await trio.sleep(1)
        watches = sum(node.is_up for node in self.nodes) * sum(gateway.is_up for gateway in self.gateways)
        ends = sum(network.streams for network in self.hub.peers.values())
        if served == Counter({protocols.OFFER_WATCH: watches}) and ends == 2 * watches:
            return []
        return [f"{dict(served)} are served and {ends} ends are open, expected {watches} watches and nothing else"]

    async def booked(self) -> Counter[str]:
        """How many orders of each end are in all books."""
        ends: Counter[str] = Counter()
        for gateway in self.gateways:
            with gateway.books.open() as store:
                for account in await store.accounts():
                    ends.update(each.finish for each in await store.do(partial(_settled, account=account)))
        return ends


def _identity(number: int) -> Identity:
    return identity_from_seed(number.to_bytes(32, "big"))


def _knows(net: Net, nodes: int) -> bool:
    now = trio.current_time()
    return sum(entry.alive_until > now for entry in net.discovery.directory.entries()) >= nodes


def _settled(tables: Tables, account: str) -> tuple[Generation, ...]:
    return tables.latest_generations(account, 10**9, 0)


@asynccontextmanager
async def open_programs(layout: Layout) -> AsyncIterator[Programs]:
    """A network of which all programs run and know each other. Use it under an autojumping MockClock."""
    hub = SpreadHub(layout.latency_s, layout.seed)
    async with open_network(hub, _identity(1).peer, offer_sequence) as bootstrap, trio.open_nursery() as nursery:
        programs = Programs(layout, hub, bootstrap, nursery)
        passing_on = Discovery(
            bootstrap, Directory(), programs.wall_ms, Random(layout.seed), watching=False, rhythm=layout.rhythm
        )
        nursery.start_soon(passing_on.run)
        for program in (*programs.nodes, *programs.gateways):
            await program.start()
        await programs.settled()
        yield programs
        nursery.cancel_scope.cancel()


def run_programs(layout: Layout, act: Callable[[Programs], Awaitable[T]]) -> T:
    """Does `act` on a network, in virtual time and in one order: the same layout gives the same again.

    trio runs tasks that are ready in an order of its own chance, which is set here as its plugin for hypothesis does.
    """

    async def main() -> T:
        async with open_programs(layout) as programs:
            return await act(programs)

    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(layout.seed)
    kept = gc.get_threshold()
    gc.set_threshold(GARBAGE_AT)
    try:
        return trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        gc.set_threshold(*kept)
