"""What becomes of kept orders: how one ends without a receipt."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cxp2p.ledger import HoldState
from cxp2p_gateway.store.tables import Tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """What arrived for an order that ended without a receipt; see `SentOrder`."""

    units: int
    output_commit: bytes
    cancelled: bool = False
    fault: str = ""


def end_order(tables: Tables, order_id: str, arrived: Arrived | None) -> None:
    """Notes what arrived, for a claim; without it, or if the order was settled after all, the order is forgotten."""
    sent, hold = tables.order(order_id), tables.hold(order_id)
    if sent is None:
        return
    if arrived is None or hold is None or hold.state is HoldState.POSTED:
        tables.drop_order(order_id)
        return
    tables.put_order(
        replace(
            sent,
            units=arrived.units,
            output_commit=arrived.output_commit,
            cancelled=arrived.cancelled,
            fault=arrived.fault,
        )
    )
