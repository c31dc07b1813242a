"""When a voucher is due, what it says, and which ones are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p import protocols
from cxp2p.errors import RemoteProtocolError
from cxp2p.lanes import NodeLanes
from cxp2p.receipts import Lane, charge_of, digest
from cxp2p.records import Order, Prices, Service
from cxp2p.units import OUTPUT_UNITS_MAX, audio_ms_max
from cxp2p.vouchers import FIRST_DISTANCE, amount_due, check_voucher, due, make_voucher, reserve
from orders import GATEWAY, NODE, WALL, order, receipt_for

SERVICES = st.sampled_from(Service)


def long_order(**changes: Any) -> Order:
    prices = changes.get("prices", order().prices)
    max_in, max_out = changes.get("max_in", 100), changes.get("max_out", OUTPUT_UNITS_MAX)
    most = charge_of(prices, max_in, max_out)
    return order(**{"max_out": max_out, "max_charge": most, "cum_authorised": most, **changes})


def test_distances_double_up_to_4096_tokens() -> None:
    """256, then 512 more, and so on; from 4,096 on they stay."""
    dues = sorted({due(Service.CHAT, units) for units in range(24_000)})
    assert dues == [0, 256, 768, 1792, 3840, 7936, 12032, 16128, 20224]


@given(SERVICES, st.integers(0, 10**7))
def test_a_voucher_is_never_due_before_its_output(service: Service, units: int) -> None:
    """The last place at which one was due is reached, is one itself, and is less than the longest distance away."""
    last = due(service, units)
    assert last <= units < last + protocols.VOUCHER_DISTANCE_MAX * FIRST_DISTANCE[service]
    assert due(service, last) == last


@pytest.mark.parametrize(
    ("service", "longest"),
    [(Service.CHAT, OUTPUT_UNITS_MAX), (Service.EMBED, 2048), (Service.SPEECH, audio_ms_max(10_000, 0.5))],
)
def test_the_longest_job_has_fewer_vouchers_than_a_node_takes(service: Service, longest: int) -> None:
    """At half its speed the longest text is over four hours of speech at the very most."""
    count = len({due(service, units) for units in range(0, longest + 1, FIRST_DISTANCE[service])}) - 1
    assert 0 < count <= protocols.VOUCHERS_PER_JOB_MAX


def test_a_short_job_is_reserved_whole_and_a_long_one_in_part() -> None:
    """The longest distance and the room for what is on its way, however much was ordered."""
    assert reserve(order()) == order().max_charge
    assert reserve(long_order()) == charge_of(order().prices, 100, 5 * 1024)
    assert reserve(long_order()) < long_order().max_charge // 10


@given(
    service=SERVICES,
    price=st.integers(0, 10**7),
    input_price=st.integers(0, 10**7),
    max_out=st.integers(1, 200_000),
    pieces=st.lists(st.integers(1, 5_000), max_size=200),
    in_units=st.integers(0, 100),
    delay=st.integers(0, 3),
)
def test_no_job_waits_for_a_voucher_that_is_not_due(
    service: Service, price: int, input_price: int, max_out: int, pieces: list[int], in_units: int, delay: int
) -> None:
    """Asker and node by their rules, vouchers on their way: a node that waits has one coming, whatever the prices."""
    prices = Prices(input=input_price, output=price)
    job = long_order(service=service, prices=prices, max_out=max_out)
    lanes = NodeLanes(NODE.peer, 10**15)
    lanes.take(job)
    made = arrived = vouched_at = said = 0
    coming: list[int] = []  # the units that a voucher on its way covers
    for piece in pieces:
        piece = min(piece, max_out - made)
        while not lanes.may_hand_on(job, in_units, made, made + piece):
            arrived = made  # all that was handed on arrives in the end
            if due(service, arrived) > vouched_at:
                vouched_at = arrived
                coming.append(arrived)
            assert coming, "the node waits and no voucher comes"
            voucher = make_voucher(job, 0, coming.pop(0))
            if voucher.cum_amount > said:
                said = voucher.cum_amount
                lanes.check_voucher(job, GATEWAY.peer, voucher)
                lanes.vouch(job, voucher)
        made += piece
        arrived = max(arrived, made - delay * piece)
        if due(service, arrived) > vouched_at:
            vouched_at = arrived
            coming.append(arrived)
        most = max(protocols.VOUCHER_ROOM * FIRST_DISTANCE[service], piece)
        window = charge_of(prices, 100, FIRST_DISTANCE[service] * protocols.VOUCHER_DISTANCE_MAX + most)
        assert charge_of(prices, in_units, made) - lanes.vouched(job) <= window
    assert charge_of(prices, in_units, made) <= job.max_charge


@pytest.mark.parametrize(
    ("changes", "signer", "last", "fault"),
    [
        ({}, NODE.peer, 0, "not signed by the gateway"),
        ({"gateway": NODE.peer}, GATEWAY.peer, 0, "gateway is not the order's"),
        ({"node": GATEWAY.peer}, GATEWAY.peer, 0, "node is not the order's"),
        ({"lane": b"x" * 16}, GATEWAY.peer, 0, "lane is not the order's"),
        ({"seq": 1}, GATEWAY.peer, 0, "seq is not the order's"),
        ({"cum_amount": 20}, GATEWAY.peer, 20, "20 were agreed to before"),
        ({"cum_amount": 19}, GATEWAY.peer, 20, "20 were agreed to before"),
        ({"cum_amount": 10**9}, GATEWAY.peer, 0, "the order over"),
    ],
)
def test_a_voucher_that_is_not_about_the_job_is_refused(
    changes: dict[str, Any], signer: str, last: int, fault: str
) -> None:
    """Another signer, recipient, lane or job; one that does not rise; one over what the order authorised."""
    job = order()
    voucher = make_voucher(job, 0, 10)

    check_voucher(job, GATEWAY.peer, voucher, 0)
    with pytest.raises(RemoteProtocolError, match=fault):
        check_voucher(job, signer, replace(voucher, **changes), last)


def test_what_a_voucher_covers_is_known() -> None:
    """What a voucher says beyond what its lane had cost is covered."""
    job = long_order()
    lanes = NodeLanes(NODE.peer, 10**9)
    lanes.take(job)
    lanes.vouch(job, make_voucher(job, 0, 5000))

    assert lanes.vouched(job) == charge_of(job.prices, 0, 5000)
    assert amount_due(job, 5000) == charge_of(job.prices, 0, 3840)


def test_what_vouchers_cover_is_not_owed() -> None:
    """The receipt adds to what a gateway owes only the rest; the next job of the lane begins without a voucher."""
    job = long_order()
    lanes = NodeLanes(NODE.peer, 10**9)
    lanes.take(job)
    lanes.vouch(job, make_voucher(job, 0, 2))
    receipt = receipt_for(job, (1, 2, 3))
    lanes.finish(job, receipt, b"receipt", WALL)
    assert lanes.exposure(GATEWAY.peer, WALL) == receipt.charge - charge_of(job.prices, 0, 2)

    after = Lane(lane=job.lane, seq=1, head=digest(b"receipt"), cum_charge=receipt.charge)
    lanes.take(order(after))
    assert lanes.vouched(order(after)) == 0
