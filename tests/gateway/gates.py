"""A gateway's dispatch in a small network in memory, with a disk that a test can fill or stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

import trio

from cxp2p.client import Net, Outcome, Settlement
from cxp2p.ledger import Hold
from cxp2p.receipts import HOURS
from cxp2p.records import Piece
from cxp2p.rewards import DEFAULT_RULES
from cxp2p_gateway.accounts import Accounts
from cxp2p_gateway.app import GatewayDoor
from cxp2p_gateway.archive import EpochArchive
from cxp2p_gateway.asking import Caller
from cxp2p_gateway.dispatch import Dispatch, DispatchOptions, open_dispatch
from cxp2p_gateway.earnings import Earnings
from cxp2p_gateway.key_ring import KeyRing
from cxp2p_gateway.keys import Key
from cxp2p_gateway.metrics import Metrics
from cxp2p_gateway.salts import CacheSalts
from cxp2p_gateway.statements import Statements
from cxp2p_gateway.store import Store, StoreError, Tables
from cxp2p_gateway.store.epochs import EpochBooks
from cxp2p_gateway.store.memory import MemoryTables
from worlds import World, chat_job, world

T = TypeVar("T")

CREDIT = 1_000_000
CALLER = Caller(account="user_1", key="key-1")
OTHER = Caller(account="user_2", key="key-2")


@dataclass
class Disk:
    """A store in memory that can be full, or keep everybody waiting."""

    tables: MemoryTables = field(default_factory=MemoryTables)
    full: bool = False
    slow: trio.Event | None = None

    async def __call__(self, act: Callable[[Tables], T], /) -> T:
        await trio.lowlevel.checkpoint()
        with trio.CancelScope(shield=True):
            if self.slow is not None:
                await self.slow.wait()
        if self.full:
            raise StoreError("the disk is full")
        return act(self.tables)


@dataclass
class Gateway:
    """A dispatch, and what stands behind it."""

    dispatch: Dispatch
    net: Net
    store: Store
    disk: Disk
    metrics: Metrics
    texts: list[str] = field(default_factory=list)

    async def ask(
        self,
        text: str = "one two three",
        generation: str = "chatcmpl-1",
        *,
        caller: Caller = CALLER,
        model: str = "echo",
        deadline_s: float = 600.0,
    ) -> Outcome:
        job = chat_job(text, model=model)
        return await self.dispatch.run(caller, generation, job, self.take, deadline_s=deadline_s)

    async def receipts(self, caller: Caller, generation: str) -> tuple[Settlement, ...]:
        return await Statements(self.store, self.store.wall_ms).receipts(caller, generation)

    async def take(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        await trio.lowlevel.checkpoint()

    @property
    def holds(self) -> list[Hold]:
        return list(self.disk.tables.holds.values())

    def door(self, wall_ms: Callable[[], int], salts: CacheSalts | None = None) -> GatewayDoor:
        """The front's way in."""
        accounts = Accounts(self.store, wall_ms)
        ring = KeyRing(accounts, self.store, wall_ms, Random(1))
        archive = EpochArchive(EpochBooks(self.store), HOURS, wall_ms)
        earnings = Earnings(archive, self.store, DEFAULT_RULES, wall_ms)
        statements = Statements(self.store, wall_ms)
        return GatewayDoor(accounts, self.dispatch, salts, ring, statements, archive, earnings)

    def held(self, account: str = "user_1") -> int:
        return self.disk.tables.account(account).held

    def balance(self, account: str = "user_1") -> int:
        return self.disk.tables.account(account).balance

    async def live(self, nodes: int) -> None:
        """Until so many nodes are known to be live."""
        with trio.fail_after(60):
            await self.net.discovery.until(lambda: len(self._beating()) >= nodes)

    def _beating(self) -> list[str]:
        return [each.offer.peer for each in self.net.offers() if each.alive_until > trio.current_time()]


async def open_gate(here: World, *, credit: int = CREDIT, options: DispatchOptions | None = None) -> Gateway:
    """A gateway in a world; when the world ends its books must be right, without an open hold."""
    net, disk = await here.asker(), Disk()
    store = Store(disk, here.wall_ms)
    for caller in (CALLER, OTHER):
        await store.grant(f"grant-{caller.account}", caller.account, credit)
        await store.put_key(Key(id=caller.key, account=caller.account, digest=b"", created_at_ms=0))

    async def check() -> None:
        assert await store.audit() == ()
        assert not disk.tables.open_holds()

    here.stack.push_async_callback(check)
    metrics = Metrics()
    running = open_dispatch(net, store, here.wall_ms, options, ["from the catalogue"], metrics)
    return Gateway(await here.stack.enter_async_context(running), net, store, disk, metrics)


@asynccontextmanager
async def gateway(
    *, credit: int = CREDIT, options: DispatchOptions | None = None
) -> AsyncIterator[tuple[World, Gateway]]:
    """A world with one gateway."""
    async with world() as here:
        yield here, await open_gate(here, credit=credit, options=options)
