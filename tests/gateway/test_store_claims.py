"""What any store must do when a node claims an order: say what became of it, pay it late, and only once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxp2p.ledger import NETWORK, Account, LedgerError
from cxp2p_gateway.limits import Demand
from cxp2p_gateway.store import Store, node_account
from cxp2p_gateway.store.claims import DAY_MS, ClaimBooks, Claimed, LateLimit
from cxp2p_gateway.store.orders import Arrived
from test_store import KEY, LATER_MS, NOW_MS, USER, Clock, clock, generation, store
from test_store_orders import ENDED, SENT

__all__ = ["clock", "store"]  # fixtures

ARRIVED = Arrived(units=0, output_commit=b"\x00" * 32, cancelled=True, fault=ENDED.fault)
LATE = generation("o1", 7, account=NETWORK, key="")
LATE_MAX = 10


async def send(store: Store, order_id: str = "o1") -> None:
    demand = Demand(key=KEY.id, request="chatcmpl-1", tokens=0, first=False)
    await store.reserve(order_id, USER.id, 50, LATER_MS, demand, replace(SENT, order_id=order_id))


async def test_an_order_is_known_from_before_it_leaves(store: Store) -> None:
    """While it runs, when it broke off, and when its gateway died; never after it was settled or cost nothing."""
    books = ClaimBooks(store)
    await store.found(USER, KEY, 1000)
    assert await books.claimed("o1") == Claimed(None, None, False, "")
    for order_id in ("o1", "o2", "o3", "o4"):
        await send(store, order_id)
    assert await books.claimed("o1") == Claimed(None, SENT, True, "chatcmpl-1")

    await store.void("o1", ARRIVED)
    assert await books.claimed("o1") == Claimed(None, ENDED, False, "chatcmpl-1")
    await store.void("o2")
    assert await books.claimed("o2") == Claimed(None, None, False, "chatcmpl-1")
    await store.settle(generation("o3"))
    assert await books.claimed("o3") == Claimed(generation("o3"), None, False, "chatcmpl-1")
    await store.void_all()
    assert await books.claimed("o4") == Claimed(None, replace(SENT, order_id="o4"), False, "chatcmpl-1")


async def test_a_settled_order_cannot_break_off(store: Store) -> None:
    """What comes too late is refused, and nothing is claimed twice for it."""
    await store.found(USER, KEY, 1000)
    await send(store)
    await store.settle(generation("o1"))
    with pytest.raises(LedgerError):
        await store.void("o1", ARRIVED)
    assert (await ClaimBooks(store).claimed("o1")).sent is None
    assert await ClaimBooks(store).settle_late(LATE, LATE_MAX) == generation("o1")
    assert (await store.balance(NETWORK)).balance == -1000
    assert await store.audit() == ()


async def test_a_late_settlement_is_paid_once_by_the_operator(store: Store) -> None:
    """Under the order's id, whatever is asked for the second time; its use is nobody's."""
    books = ClaimBooks(store)
    await store.found(USER, KEY, 1000)
    await send(store)
    await store.void("o1", ARRIVED)
    assert await books.settle_late(LATE, LATE_MAX) == LATE
    assert await books.settle_late(replace(LATE, charge=9, countersign_envelope=b"other"), LATE_MAX) == LATE
    assert await store.balance(USER.id) == Account(id=USER.id, balance=1000, held=0)
    assert (await store.balance(NETWORK)).balance == -1007
    assert (await store.balance(node_account("peer"))).balance == 7
    assert await books.claimed("o1") == Claimed(LATE, None, False, "chatcmpl-1")
    assert await store.generations(USER.id, "chatcmpl-1") == ()
    assert await store.generations(NETWORK, "chatcmpl-1") == (LATE,)
    assert await store.audit() == ()


async def test_a_node_is_paid_so_much_late_in_a_day_and_not_more(store: Store, clock: Clock) -> None:
    """What is over it changes nothing; a dispute costs nothing, and others are paid; a day later there is room."""
    books = ClaimBooks(store)
    await store.found(USER, KEY, 1000)
    for order_id in ("o1", "o2", "o3", "o4"):
        await send(store, order_id)
    await store.void_all()
    await books.settle_late(LATE, LATE_MAX)
    second = replace(LATE, order_id="o2", charge=4)
    with pytest.raises(LateLimit):
        await books.settle_late(second, LATE_MAX)
    assert (await books.claimed("o2")).sent is not None
    assert (await store.balance(node_account("peer"))).balance == 7
    await books.settle_late(replace(LATE, order_id="o3", charge=0), LATE_MAX)
    await books.settle_late(replace(LATE, order_id="o4", node="other", charge=10), LATE_MAX)

    clock.wall_ms = NOW_MS + DAY_MS + 1
    assert await books.settle_late(second, LATE_MAX) == second
    assert await store.audit() == ()


async def test_orders_that_nobody_can_claim_any_more_are_forgotten(store: Store, clock: Clock) -> None:
    books = ClaimBooks(store)
    await store.found(USER, KEY, 1000)
    await send(store)
    await store.void("o1", ARRIVED)
    assert await books.forget_orders(1000, 10, 10) == 0
    clock.wall_ms = NOW_MS + 1001
    assert await books.forget_orders(1000, 10, 10) == 1
    assert (await books.claimed("o1")).sent is None
