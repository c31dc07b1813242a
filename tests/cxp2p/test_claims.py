"""What an asker still owes for an order that ended without a receipt: the rules alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.claims import lane_cost, next_due, recount
from cxp2p.lanes import check_countersign
from cxp2p.receipts import Delivered, Lane, charge_of, contradiction
from cxp2p.records import Countersign, Finish, Order, Prices, Receipt, Service, Verdict
from cxp2p.units import output_commit
from cxp2p.vouchers import FIRST_DISTANCE, amount_due, due
from orders import GATEWAY, order, receipt_for

COST = 700  # of the lane before
LONG = order(
    Lane(lane=b"l" * 16, seq=4, head=b"h" * 32, cum_charge=COST),
    max_in=100,
    max_out=5000,
    prices=Prices(input=1_000_000, output=2_000_000),
    max_charge=10_100,
    cum_authorised=COST + 10_100,
)


def receipt(out_units: int, an_order: Order = LONG, **changes: Any) -> Receipt:
    """What the node signed, whose input was 10 units; its charge follows from its units."""
    made = receipt_for(an_order, tuple(range(out_units)), lane_cost(an_order), order_hash=b"o" * 32)
    changed = replace(made, **changes)
    if "charge" not in changes and changed.finish in (Finish.ERROR, Finish.TIMEOUT):
        changed = replace(changed, charge=0, cum_charge=lane_cost(an_order))
    return changed


def arrived(units: int, **changes: Any) -> Delivered:
    return replace(Delivered(units=units, commit=output_commit(tuple(range(units)))), **changes)


def said(a_receipt: Receipt, got: Delivered | None, promised: int = 0, an_order: Order = LONG) -> Countersign:
    answer = recount(an_order, a_receipt, b"envelope", got, promised)
    assert answer.charge <= a_receipt.charge
    return answer


@pytest.mark.parametrize("finish", [Finish.STOP, Finish.CANCELLED, Finish.HANDOFF])
def test_what_arrived_is_accepted(finish: Finish) -> None:
    """Also if the receipt says that somebody cancelled: who left did."""
    answer = said(receipt(30, finish=finish), arrived(30))
    assert (answer.verdict, answer.charge, answer.out_units) == (Verdict.ACCEPTED, 70, 30)


def test_more_than_arrived_is_adjusted_down() -> None:
    """What was on its way when the stream broke is not paid."""
    answer = said(receipt(40), arrived(30))
    assert (answer.verdict, answer.charge, answer.out_units, answer.in_units) == (Verdict.ADJUSTED, 70, 30, 10)
    assert answer.reason == "out_units is 40, 30 arrived"


def test_less_than_arrived_is_accepted() -> None:
    """A node that counts less than it could asks for less."""
    answer = said(receipt(20), arrived(30))
    assert (answer.verdict, answer.charge) == (Verdict.ACCEPTED, 50)


@pytest.mark.parametrize(
    ("a_receipt", "got", "reason"),
    [
        (receipt(3), arrived(0), "nothing arrived"),
        (receipt(0), arrived(0), "nothing arrived"),
        (receipt(3, output_commit=b"x" * 32), arrived(3), "output_commit is not of what arrived"),
        (receipt(3, cum_charge=5), arrived(3), "cum_charge is 5, 716 is owed"),
        (receipt(3), arrived(3, fault="not of the schema"), "not of the schema"),
    ],
)
def test_what_cannot_be_so_is_disputed(a_receipt: Receipt, got: Delivered, reason: str) -> None:
    """At no charge, with the reason."""
    answer = said(a_receipt, got)
    assert (answer.verdict, answer.charge, answer.reason) == (Verdict.DISPUTED, 0, reason)


@pytest.mark.parametrize("finish", [Finish.ERROR, Finish.TIMEOUT])
def test_what_is_free_is_agreed_to(finish: Finish) -> None:
    """A node that says itself that it failed asks for nothing."""
    answer = said(receipt(3, finish=finish), arrived(0))
    assert answer.charge == 0
    assert answer.verdict is not Verdict.DISPUTED


def test_a_voucher_is_kept() -> None:
    """What was promised is paid, though less is known to have arrived; never more than the node asks for."""
    assert said(receipt(300), arrived(200), promised=600).charge == 600
    assert said(receipt(100), arrived(0, cancelled=True), promised=0).charge == 0
    assert said(receipt(100), arrived(50), promised=9000).charge == 210


# A gateway that died in the middle.


@pytest.mark.parametrize(
    ("out_units", "vouched", "paid"),
    [
        (255, 0, 255),
        (256, 0, 256),
        (300, 0, 256),
        (5000, 0, 256),
        (768, 256, 768),
        (5000, 256, 768),
        (5000, 300, 768),
        (5000, 3840, 5000),
    ],
)
def test_who_cannot_count_believes_up_to_the_next_voucher(out_units: int, vouched: int, paid: int) -> None:
    """A node that delivered more would have been promised more."""
    answer = said(receipt(out_units), None, charge_of(LONG.prices, 0, vouched))
    assert (answer.out_units, answer.charge) == (paid, 10 + 2 * paid)
    assert answer.verdict is (Verdict.ACCEPTED if paid == out_units else Verdict.ADJUSTED)


@given(
    st.sampled_from(list(Service)),
    st.integers(0, 70_000),
    st.integers(0, 70_000),
    st.integers(0, 10**7),
    st.booleans(),
)
def test_no_count_is_worse_than_the_truth(service: Service, truly: int, claimed: int, price: int, died: bool) -> None:
    """An honest node gets what it delivered; one that lies gets less than a distance of vouchers more than that."""
    prices = Prices(input=price, output=price)
    most = charge_of(prices, 100, 70_000)
    an_order = order(
        service=service, prices=prices, max_in=100, max_out=70_000, max_charge=most, cum_authorised=most + COST
    )
    promised = amount_due(an_order, truly)
    charge = charge_of(prices, 10, claimed)
    signed = replace(
        receipt(0, an_order), out_units=claimed, charge=charge, cum_charge=charge + COST, output_commit=b"c" * 32
    )
    answer = said(signed, None if died else Delivered(units=truly, commit=b"c" * 32), promised, an_order)

    if not died and not truly:
        assert answer.charge == 0
        return
    assert answer.charge >= charge_of(prices, 10, min(truly, claimed))
    limit = next_due(an_order, truly) if died else truly
    is_too_cheap = charge_of(prices, 0, limit) == promised  # a distance costs less than a µcredit
    assert answer.charge <= charge_of(prices, 10, limit) or is_too_cheap
    envelope = b"envelope"
    check_countersign(signed, envelope, GATEWAY.peer, answer, min(promised, signed.charge))


@given(st.sampled_from(list(Service)), st.integers(0, 10**7))
def test_the_next_place_is_the_first_that_is_due(service: Service, units: int) -> None:
    """Not one unit before."""
    an_order = order(service=service)
    after = next_due(an_order, units)
    assert due(service, after) == after > units
    assert due(service, after - 1) <= units
    assert after - due(service, units) <= FIRST_DISTANCE[service] * 16


def test_the_places_are_those_of_the_protocol() -> None:
    places = [0]
    while len(places) < 8:
        places.append(next_due(LONG, places[-1]))
    assert [after - before for before, after in pairwise(places)] == [256, 512, 1024, 2048, 4096, 4096, 4096]


# What contradicts itself.


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"lane": b"x" * 16}, "lane is not the order's"),
        ({"model_digest": b"x" * 32}, "model_digest is not the order's"),
        ({"request_commit": b"x" * 32}, "request_commit is not the order's"),
        ({"seq": 5}, "seq is not the order's"),
        ({"charge": 17}, "charge is 17, by the order's prices 16"),
        ({"in_units": 101, "charge": 107}, "in_units is 101, the order allowed 100"),
        ({"out_units": 5001, "charge": 10_012}, "out_units is 5001, the order allowed 5000"),
        ({"in_units": 101, "out_units": 5000, "charge": 10_101}, "charge is 10101, the order allowed 10100"),
        ({"cum_charge": COST + 10_101}, "cum_charge is 10801, the order allowed 10800"),
        ({"cached_units": 11}, "cached_units is over in_units"),
        ({"t_first_ms": 1}, "times are not in order"),
        ({"finish": Finish.ERROR, "charge": 16}, "charge is 16, by the order's prices 0"),
    ],
)
def test_a_receipt_may_contradict_its_order(changes: dict[str, Any], fault: str) -> None:
    assert contradiction(LONG, receipt(3)) == ""
    assert contradiction(LONG, replace(receipt(3), **changes)) == fault
