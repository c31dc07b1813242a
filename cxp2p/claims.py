"""Claims: what an asker still owes a node whose receipt it never answered. Pure.

An order that ended without a receipt is counted again when its node claims it: from what arrived here, or, if nobody
knows that any more, from what the node can show. See PROTOCOL.md, Claims.
"""

from __future__ import annotations

from typing import Final

from cxp2p.receipts import Delivered, charge_of, charge_owed, digest
from cxp2p.records import Countersign, Finish, Order, Receipt, Verdict
from cxp2p.vouchers import due

ORDER_KEPT_MS: Final = 26 * 3_600_000  # an hour, the day in which its receipt may count late, and an hour to spare
NOTHING: Final = "nothing arrived"


def lane_cost(order: Order) -> int:
    """What its lane had cost before an order of this program's making."""
    return order.cum_authorised - order.max_charge


def recount(
    order: Order, receipt: Receipt, receipt_envelope: bytes, got: Delivered | None, promised: int
) -> Countersign:
    """The asker's answer to a receipt that does not contradict its order, which ended here without one.

    `got`: what arrived; None if nobody knows, because the asker died with it. `promised`: what its vouchers for this
    order are worth. Accepted if the count agrees, adjusted down to what arrived, disputed if nothing did.
    """
    most = _believed(order, promised) if got is None else got.units
    fault = _fault(order, receipt, got)
    out_units = min(receipt.out_units, most)
    owed = charge_owed(order.prices, receipt.finish, receipt.in_units, out_units)
    owed = max(owed, min(promised, receipt.charge))
    agrees = owed == receipt.charge and out_units == receipt.out_units
    if fault:
        verdict, reason, owed = Verdict.DISPUTED, fault, 0
    elif agrees:
        verdict, reason = Verdict.ACCEPTED, ""
    else:
        known = "arrived" if got is not None else "are believed without a voucher"
        verdict, reason = Verdict.ADJUSTED, f"out_units is {receipt.out_units}, {most} {known}"
    return Countersign(
        receipt_hash=digest(receipt_envelope),
        verdict=verdict,
        reason=reason,
        in_units=receipt.in_units,
        out_units=out_units,
        charge=owed,
    )


def _believed(order: Order, promised: int) -> int:
    """The output that a node may have delivered to an asker that had promised so much and no more.

    At the next place where a voucher is due the asker would have promised more: a node that lies gains less than
    one distance, which it would also be paid for delivering.
    """
    units = 0
    while units < order.max_out and charge_of(order.prices, 0, units) <= promised:
        units = next_due(order, units)
    return min(units, order.max_out)


def next_due(order: Order, units: int) -> int:
    """The first amount of output over `units` at which a voucher is due."""
    low, high = units, units + 1
    while due(order.service, high) <= units:
        low, high = high, high + (high - units)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if due(order.service, middle) > units else (middle, high)
    return high


def _fault(order: Order, receipt: Receipt, got: Delivered | None) -> str:
    if receipt.cum_charge != lane_cost(order) + receipt.charge:
        return f"cum_charge is {receipt.cum_charge}, {lane_cost(order) + receipt.charge} is owed"
    if got is None or receipt.finish in (Finish.ERROR, Finish.TIMEOUT):
        return ""
    if not got.units and receipt.charge:
        return NOTHING
    if receipt.out_units == got.units and receipt.output_commit != got.commit:
        return "output_commit is not of what arrived"
    return got.fault
