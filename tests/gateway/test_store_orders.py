"""What any store must keep of orders that are on their way, of those that ended without a receipt, and of evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from cxp2p.ledger import NETWORK
from cxp2p_gateway.store import Store
from cxp2p_gateway.store.rows import KeptEvidence, SentOrder
from cxp2p_gateway.store.tables import Tables
from test_store import NOW_MS, clock, generation, store

__all__ = ["clock", "store"]  # fixtures

T = TypeVar("T")

SENT = SentOrder(
    order_id="o1", node="peer", lane=b"\x00\xff" * 8, seq=2**62, envelope=b"order \x00\xff", sent_at_ms=NOW_MS
)
ENDED = replace(SENT, units=0, output_commit=b"\x00" * 32, cancelled=True, fault="not of the schema: 'quoted'")
KEPT = KeptEvidence(id="ab" * 32, peer="peer", wrong="two-receipts", says="said two things", data=b"\x00\xff", at_ms=5)


async def of(store: Store, act: Callable[[Tables], T]) -> T:
    return await store.do(act)


async def test_an_order_is_kept_until_it_is_dropped(store: Store) -> None:
    """Every field comes back; what arrived can be added, and the rest stays as it was sent."""
    await store.do(lambda tables: tables.put_order(SENT))
    assert await of(store, lambda tables: tables.order("o1")) == SENT
    assert await of(store, lambda tables: tables.order("o2")) is None

    await store.do(lambda tables: tables.put_order(ENDED))
    assert await store.read(lambda tables: tables.order("o1")) == ENDED

    await store.do(lambda tables: tables.drop_order("o1"))
    await store.do(lambda tables: tables.drop_order("o1"))
    assert await of(store, lambda tables: tables.order("o1")) is None


async def test_old_orders_are_forgotten_in_steps(store: Store) -> None:
    """Those from before a time, then those beyond a number, the oldest first."""

    async def left() -> list[int]:
        found = [await of(store, lambda tables, n=n: tables.order(f"o{n}")) for n in range(10)]  # type: ignore[misc]
        return [n for n, each in enumerate(found) if each]

    for number in range(10):
        sent = replace(SENT, order_id=f"o{number}", sent_at_ms=number)
        await store.do(lambda tables, sent=sent: tables.put_order(sent))  # type: ignore[misc]
    assert await of(store, lambda tables: tables.forget_orders(3, 100, 2)) == 2
    assert await left() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert await of(store, lambda tables: tables.forget_orders(3, 100, 2)) == 1
    assert await of(store, lambda tables: tables.forget_orders(3, 4, 2)) == 2
    assert len(await left()) == 5
    assert await of(store, lambda tables: tables.forget_orders(3, 4, 10)) == 1
    assert await left() == [6, 7, 8, 9]
    assert await of(store, lambda tables: tables.forget_orders(3, 4, 10)) == 0


async def test_late_settlements_are_summed_by_node_and_time(store: Store) -> None:
    """Only what the network's account paid counts, of this node, since then."""
    rows = [
        generation("o1", 7, account=NETWORK, created_at_ms=9),
        generation("o2", 20, account=NETWORK, created_at_ms=10),
        generation("o3", 30, account=NETWORK, created_at_ms=11),
        generation("o4", 1000, account="user_1", created_at_ms=11),
        generation("o5", 1000, account=NETWORK, node="other", created_at_ms=11),
    ]
    for row in rows:
        await store.do(lambda tables, row=row: tables.add_generation(row))  # type: ignore[misc]

    assert await of(store, lambda tables: tables.late_charge("peer", 10)) == 50
    assert await of(store, lambda tables: tables.late_charge("nobody", 0)) == 0
    assert await of(store, lambda tables: tables.generation("o3")) == rows[2]
    assert await of(store, lambda tables: tables.generation("o9")) is None


async def test_evidence_is_kept_once_and_bounded(store: Store) -> None:
    """Newest first; the same again changes nothing; the oldest go first."""
    rows = [replace(KEPT, id=f"{number:064}", at_ms=number) for number in range(5)]
    for row in (*rows, replace(KEPT, id="f" * 64, peer="other", wrong="dispute", at_ms=9)):
        assert await store.do(lambda tables, row=row: tables.add_evidence(row))  # type: ignore[misc]
    assert not await of(store, lambda tables: tables.add_evidence(replace(rows[0], says="other words")))

    assert await of(store, lambda tables: tables.evidence(2, 1)) == (rows[4], rows[3])
    assert await of(store, lambda tables: tables.evidence_count("peer", "two-receipts")) == 5
    assert await of(store, lambda tables: tables.evidence_count("peer", "dispute")) == 0
    assert await of(store, lambda tables: tables.forget_evidence(2)) == 4
    assert [each.id for each in await of(store, lambda tables: tables.evidence(10, 0))] == ["f" * 64, rows[4].id]
    assert await of(store, lambda tables: tables.forget_evidence(2)) == 0
