"""One job on its way through a node, and the receipt over what was done for it."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from cxp2p import receipts
from cxp2p.records import Finish, Job, Order, Receipt
from cxp2p.units import Output
from cxp2p_node.bench import Bench
from cxp2p_node.till import Entry


@dataclass(slots=True)
class Work:
    """One admitted job: what was done for it so far. `scope` ends the work, `conversation` all of it.

    `lost`: the asker left or broke the protocol. `failed`: we did not finish. `unpaid`: no voucher came for too long.
    """

    entry: Entry
    order: Order
    order_envelope: bytes
    job: Job
    bench: Bench
    in_max: int
    t_accept_ms: int
    output: Output
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    conversation: trio.CancelScope = field(default_factory=trio.CancelScope)
    in_units: int = 0
    cached_units: int = 0
    t_first_ms: int = 0
    first_piece_at: float = 0.0
    queued: bool = True
    waited_s: float = 0.0
    unvouched_s: float = 0.0
    vouchers: int = 0
    lost: bool = False
    failed: bool = False
    unpaid: bool = False
    receipt: Receipt | None = None
    receipt_envelope: bytes = b""


def receipt_over(work: Work, finish: Finish, owner: str, wall_ms: int) -> Receipt:
    """The receipt over what was delivered until now."""
    in_units = min(work.in_units, work.order.max_in)
    done = receipts.Done(
        owner=owner,
        runtime=work.bench.engine.describe().runtime,
        in_units=in_units,
        cached_units=min(work.cached_units, in_units),
        out_units=work.output.units,
        t_accept_ms=work.t_accept_ms,
        t_first_ms=max(work.t_accept_ms, work.t_first_ms or wall_ms),
        t_end_ms=max(work.t_accept_ms, work.t_first_ms, wall_ms),
        finish=finish,
        output_commit=work.output.commit(),
    )
    return receipts.make_receipt(work.order, work.order_envelope, done, work.entry.cum_charge)
