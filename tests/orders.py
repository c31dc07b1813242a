"""Orders and receipts of one gateway and one node, signed by nobody yet, for tests of the rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cxp2p import receipts
from cxp2p.identity import identity_from_seed
from cxp2p.receipts import Lane, Terms
from cxp2p.records import Finish, Order, Receipt
from cxp2p.units import output_commit
from worlds import EPOCH_MS, capability

GATEWAY = identity_from_seed(b"g" * 32)
NODE = identity_from_seed(b"n" * 32)
COMMIT = b"c" * 32
WALL = EPOCH_MS
ABLE = capability()
LANE = Lane(lane=b"l" * 16)


def order(lane: Lane = LANE, wall_ms: int = WALL, **changes: Any) -> Order:
    terms = Terms(
        gateway=GATEWAY.peer, node=NODE.peer, capability=ABLE, request_commit=COMMIT, max_in=100, max_out=50, seed=7
    )
    return replace(receipts.make_order(terms, lane, b"i" * 16, wall_ms), **changes)


def receipt_for(an_order: Order, token_ids: tuple[int, ...], cum: int = 0, **changes: Any) -> Receipt:
    charge = receipts.charge_of(an_order.prices, 10, len(token_ids))
    fields = Receipt(
        order_hash=receipts.digest(b"order"),
        gateway=an_order.gateway,
        node=an_order.node,
        owner="",
        lane=an_order.lane,
        seq=an_order.seq,
        epoch=an_order.epoch,
        service=an_order.service,
        model_digest=an_order.model_digest,
        runtime="test",
        in_units=10,
        cached_units=0,
        out_units=len(token_ids),
        t_accept_ms=WALL,
        t_first_ms=WALL,
        t_end_ms=WALL,
        finish=Finish.STOP,
        request_commit=an_order.request_commit,
        output_commit=output_commit(token_ids),
        seed=an_order.seed,
        resume_of=None,
        offset=None,
        charge=charge,
        cum_charge=cum + charge,
        prev_receipt=an_order.prev_receipt,
    )
    return replace(fields, **changes)
