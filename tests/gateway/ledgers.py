"""What a Door in memory knows of keys and money: the real rules over a store in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from cxp2p.receipts import HOURS
from cxp2p.rewards import DEFAULT_RULES
from cxp2p_gateway.accounts import Accounts
from cxp2p_gateway.archive import EpochArchive
from cxp2p_gateway.asking import Caller
from cxp2p_gateway.earnings import Earnings
from cxp2p_gateway.key_ring import KeyRing
from cxp2p_gateway.rates import Counted, Rate
from cxp2p_gateway.statements import Statements
from cxp2p_gateway.store import Store
from cxp2p_gateway.store.epochs import EpochBooks
from cxp2p_gateway.store.memory import memory_store

WALL_MS = 1_700_000_000_123


@dataclass(kw_only=True)
class MemoryBooks:
    """The part of a Door that reads and writes books. `told_rates`: what it says of every key."""

    books: Store = field(default_factory=lambda: memory_store(lambda: WALL_MS))
    told_rates: Mapping[Counted, Rate] = field(default_factory=dict)
    rng: Random = field(default_factory=lambda: Random(1))

    @property
    def ring(self) -> KeyRing:
        return KeyRing(Accounts(self.books, lambda: WALL_MS), self.books, lambda: WALL_MS, self.rng)

    @property
    def statements(self) -> Statements:
        return Statements(self.books, lambda: WALL_MS)

    @property
    def archive(self) -> EpochArchive:
        return EpochArchive(EpochBooks(self.books), HOURS, self.books.wall_ms)

    @property
    def earnings(self) -> Earnings:
        return Earnings(self.archive, self.books, DEFAULT_RULES, self.books.wall_ms)

    def rates(self, caller: Caller) -> Mapping[Counted, Rate]:
        return self.told_rates
