"""The books under any order of what jobs, crashes, time and claims do to them, each once or twice."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cxp2p.errors import InsufficientCredit
from cxp2p.ledger import NETWORK, HoldState, LedgerError, audit
from cxp2p_gateway.store import node_account
from cxp2p_gateway.store.claims import DAY_MS, ClaimBooks, LateLimit
from cxp2p_gateway.store.memory import MemoryTables, memory_store
from cxp2p_gateway.store.orders import Arrived
from cxp2p_gateway.store.rows import SentOrder
from test_store import KEY, NOW_MS, USER, generation

T = TypeVar("T")

GRANT = 300
LATE_MAX = 150
AMOUNTS = st.integers(0, 100)
AT = st.integers(0, 7)
LIFE_MS = 600_000


class Money(RuleBasedStateMachine):
    """One gateway's books in memory, the user whose jobs they are, and one node."""

    def __init__(self) -> None:
        super().__init__()
        self.wall_ms = NOW_MS
        self.names = itertools.count()
        self.tables = MemoryTables()
        self.store = memory_store(lambda: self.wall_ms, self.tables)
        self.claims = ClaimBooks(self.store)
        self.given = GRANT
        self.orders: list[str] = []
        self.posted: dict[str, int] = {}
        self.late: dict[str, tuple[int, int]] = {}  # -> charge, wall_ms

    def do(self, act: Callable[[], Awaitable[T]]) -> T:
        return trio.run(act)

    @initialize()
    def found(self) -> None:
        self.do(lambda: self.store.found(USER, KEY, GRANT))

    @rule(amount=AMOUNTS, again=st.booleans())
    def grant(self, amount: int, again: bool) -> None:
        name = f"grant-{next(self.names)}"
        for _ in range(1 + again):
            self.do(lambda: self.store.grant(name, USER.id, amount))
        self.given += amount

    @rule(amount=AMOUNTS, again=st.booleans())
    def reserve(self, amount: int, again: bool) -> None:
        name = f"o{next(self.names)}"
        sent = SentOrder(order_id=name, node="peer", lane=b"l" * 16, seq=0, envelope=b"e", sent_at_ms=self.wall_ms)
        before, until = self.tables.account(USER.id), self.wall_ms + LIFE_MS
        try:
            for _ in range(1 + again):
                self.do(lambda: self.store.reserve(name, USER.id, amount, until, sent=sent))
        except InsufficientCredit:
            assert amount > before.available
            assert name not in self.tables.sent
        else:
            assert amount <= before.available
            self.orders.append(name)

    @precondition(lambda self: self.orders)
    @rule(at=AT, part=st.integers(0, 4), again=st.booleans())
    def settle(self, at: int, part: int, again: bool) -> None:
        """The receipt of a job; also of one whose hold has ended already, which changes nothing."""
        name = self.pick(at)
        hold = self.tables.holds[name]
        paid = generation(name, hold.amount * part // 4)
        for _ in range(1 + again):
            try:
                self.do(lambda: self.store.settle(paid))
            except LedgerError:
                assert hold.state is not HoldState.OPEN
                return
        if hold.state is HoldState.OPEN:
            self.posted[name] = paid.charge

    @precondition(lambda self: self.orders)
    @rule(at=AT, units=st.none() | st.integers(0, 9), again=st.booleans())
    def void(self, at: int, units: int | None, again: bool) -> None:
        """A job without a receipt: nothing is owed, or so much arrived."""
        name = self.pick(at)
        hold = self.tables.holds[name]
        arrived = None if units is None else Arrived(units=units, output_commit=b"c" * 32)
        for _ in range(1 + again):
            try:
                self.do(lambda: self.store.void(name, arrived))
            except LedgerError:
                assert hold.state is HoldState.POSTED

    @rule()
    def crash(self) -> None:
        """What the next start does."""
        self.do(self.store.void_all)

    @rule(seconds=st.sampled_from([1, 400, 3600, 90_000]))
    def time_passes(self, seconds: int) -> None:
        self.wall_ms += seconds * 1000
        self.do(self.store.expire)
        assert all(hold.expires_at_ms > self.wall_ms for hold in self.tables.open_holds())
        self.do(lambda: self.claims.forget_orders(DAY_MS, 5, 3))

    @precondition(lambda self: self.orders)
    @rule(at=AT, charge=AMOUNTS, again=st.booleans())
    def claim(self, at: int, charge: int, again: bool) -> None:
        """A node claims an order that may be claimed, once or twice, for this much or that."""
        name = self.pick(at)
        claimed = self.do(lambda: self.claims.claimed(name))
        if claimed.is_running or (claimed.sent is None and claimed.generation is None):
            return
        for more in range(1 + again):
            late = generation(name, charge + more, account=NETWORK, created_at_ms=self.wall_ms)
            recent = sum(paid for paid, at_ms in self.late.values() if at_ms >= self.wall_ms - DAY_MS)
            try:
                stands = self.do(lambda late=late: self.claims.settle_late(late, LATE_MAX))  # type: ignore[misc]
            except LateLimit:
                assert recent + charge + more > LATE_MAX
                return
            if claimed.generation is None and name not in self.late:
                assert recent + charge <= LATE_MAX
                self.late[name] = (charge, self.wall_ms)
            assert stands.charge == (self.late[name][0] if name in self.late else self.posted[name])

    def pick(self, at: int) -> str:
        return self.orders[-1 - at % len(self.orders)]

    @invariant()
    def the_books_are_right(self) -> None:
        tables = self.tables
        assert audit(tables.all_balances(), tables.all_holds(), tables.all_transfers()) == ()
        assert all(each.available >= 0 or each.id == NETWORK for each in self.tables.accounts.values())

    @invariant()
    def an_order_is_paid_once_by_whom_it_must(self) -> None:
        late = sum(charge for charge, _ in self.late.values())
        assert not self.late.keys() & self.posted.keys()
        assert self.tables.account(USER.id).balance == self.given - sum(self.posted.values())
        assert self.tables.account(NETWORK).balance == -self.given - late
        assert self.tables.account(node_account("peer")).balance == sum(self.posted.values()) + late

    @invariant()
    def what_was_settled_is_not_on_its_way(self) -> None:
        assert not self.tables.sent.keys() & self.tables.settled.keys()
        assert len(self.tables.settled) == len(self.posted) + len(self.late)
        held = {hold.id for hold in self.tables.open_holds()}
        assert held <= self.tables.sent.keys()

    def teardown(self) -> None:
        self.wall_ms += LIFE_MS + 1
        self.do(self.store.expire)
        assert not self.tables.open_holds()
        assert all(each.held == 0 for each in self.tables.accounts.values())


TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, derandomize=True)


@pytest.mark.slow
def test_money_in_long_histories() -> None:
    """The same, for many longer ones, each time others."""
    run_state_machine_as_test(Money, settings=settings(max_examples=100, stateful_step_count=60, deadline=None))
