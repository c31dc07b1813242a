from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p import receipts
from cxp2p.errors import ReceiptInvalid
from cxp2p.identity import Kind, open_envelope
from cxp2p.merkle import merkle_root
from cxp2p.receipts import Delivered, Lane
from cxp2p.records import Countersign, Finish, Order, Prices, Receipt, Verdict
from cxp2p.units import output_commit
from cxp2p.wire import encode
from orders import GATEWAY, NODE, order, receipt_for


def countersign_of(an_order: Order, receipt: Receipt, got: tuple[int, ...], signer: str = NODE.peer) -> Countersign:
    lane = Lane(lane=an_order.lane)
    delivered = Delivered(units=len(got), commit=output_commit(got))
    return receipts.check_receipt(an_order, b"order", lane, signer, receipt, b"evidence", delivered)


def test_an_honest_receipt_is_accepted() -> None:
    """What arrived is what is paid."""
    an_order = order()
    verdict = countersign_of(an_order, receipt_for(an_order, (1, 2, 3)), (1, 2, 3))

    assert (verdict.verdict, verdict.charge) == (Verdict.ACCEPTED, 10 + 6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"out_units": 4}, "out_units is 4, 3 arrived"),
        ({"output_commit": b"x" * 32}, "output_commit"),
        ({"in_units": 101}, "in_units is 101"),
        ({"cached_units": 11}, "cached_units"),
        ({"charge": 17}, "charge is 17, 16 is owed"),
        ({"cum_charge": 17}, "cum_charge"),
        ({"t_end_ms": 0}, "times"),
        ({"finish": Finish.ERROR}, "charge is 16, 0 is owed"),
    ],
)
def test_a_receipt_that_counts_wrong_is_disputed_and_costs_nothing(changes: dict[str, Any], reason: str) -> None:
    """Over-reporting in any field is found by the asker's own count."""
    an_order = order()
    verdict = countersign_of(an_order, receipt_for(an_order, (1, 2, 3), **changes), (1, 2, 3))

    assert (verdict.verdict, verdict.charge) == (Verdict.DISPUTED, 0)
    assert reason in verdict.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"order_hash": b"x" * 32},
        {"gateway": NODE.peer},
        {"lane": b"x" * 16},
        {"seq": 9},
        {"epoch": 1},
        {"model_digest": b"x" * 32},
        {"request_commit": b"x" * 32},
        {"seed": 8},
        {"prev_receipt": b"x" * 32},
        {"offset": 1},
    ],
)
def test_a_receipt_for_something_else_is_invalid(changes: dict[str, Any]) -> None:
    """A receipt of another job, lane, request or model is refused, and the evidence is kept."""
    an_order = order()

    with pytest.raises(ReceiptInvalid) as caught:
        countersign_of(an_order, receipt_for(an_order, (1,), **changes), (1,))
    assert caught.value.evidence == b"evidence"


def test_a_receipt_of_another_signer_is_invalid() -> None:
    """Only the node that took the order may sign its receipt."""
    an_order = order()

    with pytest.raises(ReceiptInvalid, match="not signed by the node"):
        countersign_of(an_order, receipt_for(an_order, (1,)), (1,), signer=GATEWAY.peer)


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**9), st.integers(0, 10**9))
def test_charges_round_up_once(in_units: int, out_units: int, price_in: int, price_out: int) -> None:
    """The charge is the exact sum, rounded up to the next µcredit."""
    exact = in_units * price_in + out_units * price_out
    charge = receipts.charge_of(Prices(input=price_in, output=price_out), in_units, out_units)

    assert 0 <= charge * 1_000_000 - exact < 1_000_000


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_the_merkle_root_is_rfc_9162s(leaves: list[bytes]) -> None:
    """The level-by-level root equals the recursive definition of the RFC."""

    def reference(part: list[bytes]) -> bytes:
        if not part:
            return sha256().digest()
        if len(part) == 1:
            return sha256(b"\x00" + part[0]).digest()
        split = 1 << (len(part) - 1).bit_length() - 1
        return sha256(b"\x01" + reference(part[:split]) + reference(part[split:])).digest()

    assert reference(leaves) == merkle_root(leaves)


def test_the_output_commitment_covers_every_token() -> None:
    """Changing, adding or moving one token changes the commitment."""
    ids = tuple(range(100))
    roots = {output_commit(v) for v in (ids, ids[:-1], (*ids, 0), (1, 0, *ids[2:]), (*ids[:50], 7, *ids[51:]))}

    assert len(roots) == 5


def test_an_order_opens_only_as_an_order() -> None:
    """A signature of one kind is not valid as another."""
    envelope = GATEWAY.seal(Kind.ORDER, encode(order()))

    assert open_envelope(Kind.ORDER, envelope).peer == GATEWAY.peer
    with pytest.raises(Exception, match="expected"):
        open_envelope(Kind.RECEIPT, envelope)
