"""The store's twin in memory, for tests in virtual time: nothing outlives the process, and no thread is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from cxp2p.ledger import Account, Change, Hold, Ledger, Transfer
from cxp2p_gateway.keys import Key
from cxp2p_gateway.store import GENERATIONS_MAX, Generation, Store, Tables

T = TypeVar("T")


@dataclass(slots=True)
class MemoryTables(Ledger):
    """`Tables` in dicts. A ledger rule decides before anything is written, so that nothing is ever half written."""

    made: list[str] = field(default_factory=list)
    keys: dict[str, Key] = field(default_factory=dict)
    settled: dict[str, Generation] = field(default_factory=dict)

    def write(self, change: Change, at_ms: int) -> None:
        self.apply(change)

    def add_account(self, account_id: str, at_ms: int) -> None:
        self.made.append(account_id)

    def client_accounts(self) -> tuple[str, ...]:
        return tuple(self.made)

    def key(self, key_id: str) -> Key | None:
        return self.keys.get(key_id)

    def keys_of(self, account_id: str) -> tuple[Key, ...]:
        kept = (key for key in self.keys.values() if key.account == account_id)
        return tuple(sorted(kept, key=lambda key: (key.created_at_ms, key.id)))

    def put_key(self, key: Key) -> None:
        self.keys[key.id] = key

    def generations(self, account_id: str, generation_id: str) -> tuple[Generation, ...]:
        found = [each for each in self.settled.values() if (each.account, each.id) == (account_id, generation_id)]
        return tuple(sorted(found, key=lambda each: each.created_at_ms)[-GENERATIONS_MAX:])

    def add_generation(self, generation: Generation) -> None:
        self.settled.setdefault(generation.order_id, generation)

    def forget_generations(self, before_ms: int, kept_max: int, step: int) -> int:
        over = len(self.settled) - kept_max
        oldest = list(self.settled.values())[:step]
        dropped = [each for place, each in enumerate(oldest) if place < over or each.created_at_ms < before_ms]
        for each in dropped:
            del self.settled[each.order_id]
        return len(dropped)

    def all_balances(self) -> tuple[Account, ...]:
        return tuple(self.accounts.values())

    def all_holds(self) -> tuple[Hold, ...]:
        return tuple(self.holds.values())

    def all_transfers(self) -> tuple[Transfer, ...]:
        return tuple(self.transfers.values())


def memory_store(wall_ms: Callable[[], int], tables: MemoryTables | None = None) -> Store:
    """A store over `tables`, which a test may look into."""
    kept = tables if tables is not None else MemoryTables()

    async def do(act: Callable[[Tables], T], /) -> T:
        await trio.lowlevel.checkpoint()
        return act(kept)

    return Store(do, wall_ms)
