"""The part of `SqlTables` that keeps orders on their way, those that ended without a receipt, and evidence."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from cxp2p.ledger import NETWORK
from cxp2p_gateway.store.rows import Generation, KeptEvidence, SentOrder
from cxp2p_gateway.store.schema import EVIDENCE, GENERATIONS, ORDERS, columns_of, values_of

_ARRIVED: Final = ("units", "output_commit", "cancelled", "fault")
_ORDER: Final = select(*columns_of(ORDERS, SentOrder)).where(ORDERS.c.order_id == bindparam("wanted"))
_DROP: Final = delete(ORDERS).where(ORDERS.c.order_id == bindparam("wanted"))
_BY_AGE: Final = (ORDERS.c.sent_at_ms, ORDERS.c.order_id)
_BEYOND: Final = (
    select(ORDERS.c.order_id)
    .order_by(*(each.desc() for each in _BY_AGE))
    .offset(bindparam("kept_max"))
    .limit(bindparam("step"))
)
_OLD: Final = (
    select(ORDERS.c.order_id)
    .where(ORDERS.c.sent_at_ms < bindparam("before_ms"))
    .order_by(*_BY_AGE)
    .limit(bindparam("step"))
)
_GENERATION: Final = select(*columns_of(GENERATIONS, Generation)).where(GENERATIONS.c.order_id == bindparam("wanted"))
_LATE_CHARGE: Final = select(func.coalesce(func.sum(GENERATIONS.c.charge), 0)).where(
    GENERATIONS.c.account == NETWORK,
    GENERATIONS.c.node == bindparam("node"),
    GENERATIONS.c.created_at_ms >= bindparam("since_ms"),
)
_EVIDENCE: Final = (
    select(*columns_of(EVIDENCE, KeptEvidence))
    .order_by(EVIDENCE.c.at_ms.desc(), EVIDENCE.c.id.desc())
    .limit(bindparam("limit"))
    .offset(bindparam("offset"))
)
_EVIDENCE_COUNT: Final = (
    select(func.count())
    .select_from(EVIDENCE)
    .where(EVIDENCE.c.peer == bindparam("peer"), EVIDENCE.c.wrong == bindparam("wrong"))
)
_FORGET_EVIDENCE: Final = delete(EVIDENCE).where(
    EVIDENCE.c.id.in_(
        select(EVIDENCE.c.id).order_by(EVIDENCE.c.at_ms.desc(), EVIDENCE.c.id.desc()).offset(bindparam("kept_max"))
    )
)


def _put_order(insert: Any) -> Any:
    written = insert(ORDERS)
    return written.on_conflict_do_update(
        index_elements=["order_id"], set_={name: written.excluded[name] for name in _ARRIVED}
    )


def _add_evidence(insert: Any) -> Any:
    return insert(EVIDENCE).on_conflict_do_nothing(index_elements=["id"]).returning(EVIDENCE.c.id)


_INSERTS: Final = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_PUT_ORDER: Final = {name: _put_order(insert) for name, insert in _INSERTS.items()}
_ADD_EVIDENCE: Final = {name: _add_evidence(insert) for name, insert in _INSERTS.items()}


class SqlOrders:
    """Orders and evidence, over a connection that is in a transaction."""

    _connection: Connection

    def generation(self, order_id: str) -> Generation | None:
        row = self._connection.execute(_GENERATION, {"wanted": order_id}).first()
        return Generation(**row._mapping) if row else None

    def late_charge(self, node: str, since_ms: int) -> int:
        return int(self._connection.execute(_LATE_CHARGE, {"node": node, "since_ms": since_ms}).scalar_one())

    def order(self, order_id: str) -> SentOrder | None:
        row = self._connection.execute(_ORDER, {"wanted": order_id}).first()
        return SentOrder(**row._mapping) if row else None

    def put_order(self, order: SentOrder) -> None:
        self._connection.execute(_PUT_ORDER[self._connection.dialect.name], values_of(order))

    def drop_order(self, order_id: str) -> None:
        self._connection.execute(_DROP, {"wanted": order_id})

    def forget_orders(self, before_ms: int, kept_max: int, step: int) -> int:
        forgotten = 0
        for chosen, wanted in ((_OLD, {"before_ms": before_ms}), (_BEYOND, {"kept_max": kept_max})):
            ids = self._connection.execute(chosen, {**wanted, "step": step - forgotten}).scalars().all()
            if ids:
                self._connection.execute(delete(ORDERS).where(ORDERS.c.order_id.in_(ids)))
            forgotten += len(ids)
        return forgotten

    def add_evidence(self, evidence: KeptEvidence) -> bool:
        added = self._connection.execute(_ADD_EVIDENCE[self._connection.dialect.name], values_of(evidence))
        return added.first() is not None

    def evidence_count(self, peer: str, wrong: str) -> int:
        return int(self._connection.execute(_EVIDENCE_COUNT, {"peer": peer, "wrong": wrong}).scalar_one())

    def evidence(self, limit: int, offset: int) -> tuple[KeptEvidence, ...]:
        rows = self._connection.execute(_EVIDENCE, {"limit": limit, "offset": offset})
        return tuple(KeptEvidence(**row._mapping) for row in rows)

    def forget_evidence(self, kept_max: int) -> int:
        return self._connection.execute(_FORGET_EVIDENCE, {"kept_max": kept_max}).rowcount
