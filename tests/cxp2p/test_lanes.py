"""What a node refuses, and what it remembers of its gateways."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import cxp2p.exposure as exposure_module
import cxp2p.lanes as lanes_module
from cxp2p import protocols, receipts
from cxp2p.errors import ReceiptInvalid
from cxp2p.lanes import NodeLane, NodeLanes
from cxp2p.receipts import Lane
from cxp2p.records import Countersign, Order, Prices, Receipt, RefusalCode, Verdict
from orders import ABLE, COMMIT, GATEWAY, LANE, NODE, WALL, order, receipt_for


def refusal_of(lanes: NodeLanes, an_order: Order, **changes: Any) -> tuple[RefusalCode, str] | None:
    arguments: dict[str, Any] = {
        "signer": GATEWAY.peer,
        "asker": GATEWAY.peer,
        "commit": COMMIT,
        "capability": ABLE,
        "wall_ms": WALL,
    }
    refusal = lanes.check(order=an_order, **{**arguments, **changes})
    return (refusal.code, refusal.reason) if refusal else None


@pytest.mark.parametrize(
    ("changes", "arguments", "code", "reason"),
    [
        ({"node": GATEWAY.peer}, {}, RefusalCode.ORDER_INVALID, "for another node"),
        ({}, {"signer": NODE.peer}, RefusalCode.ORDER_INVALID, "not signed by the gateway"),
        ({}, {"asker": NODE.peer}, RefusalCode.ORDER_INVALID, "not signed by the gateway"),
        ({}, {"commit": b"x" * 32}, RefusalCode.ORDER_INVALID, "not about this request"),
        ({}, {"wall_ms": WALL + 90_001}, RefusalCode.ORDER_INVALID, "expired 30001 ms ago"),
        ({}, {"wall_ms": WALL - 30_001}, RefusalCode.ORDER_INVALID, "too far in the future"),
        ({"epoch": receipts.HOURS.epoch_of(WALL) + 2}, {}, RefusalCode.ORDER_INVALID, "epoch"),
        ({}, {"capability": None}, RefusalCode.MODEL_UNKNOWN, "not served here"),
        ({"model_digest": b"x" * 32}, {}, RefusalCode.MODEL_UNKNOWN, "not served here"),
        ({"prices": Prices(input=1, output=2_000_000)}, {}, RefusalCode.PRICE_TOO_LOW, "per million"),
        ({"max_charge": 1}, {}, RefusalCode.PRICE_TOO_LOW, "max_charge"),
        ({"seq": 1}, {}, RefusalCode.LANE_UNKNOWN, "open a new one"),
        ({"prev_receipt": b"p" * 32}, {}, RefusalCode.LANE_UNKNOWN, "open a new one"),
        ({"cum_authorised": 1}, {}, RefusalCode.ORDER_INVALID, "cum_authorised"),
    ],
)
def test_a_bad_order_is_refused_with_its_fault(
    changes: dict[str, Any], arguments: dict[str, Any], code: RefusalCode, reason: str
) -> None:
    """Each rule of an order refuses by itself, and says which rule it was."""
    refused = refusal_of(NodeLanes(NODE.peer, 10**9), order(**changes), **arguments)

    assert refused is not None
    assert (code, True) == (refused[0], reason in refused[1])


def test_a_good_order_is_taken_once() -> None:
    """The same order a second time is a replay, while it runs and after."""
    lanes, first = NodeLanes(NODE.peer, 10**9), order()
    assert refusal_of(lanes, first) is None
    lanes.take(first)
    running = refusal_of(lanes, first)
    lanes.finish(first, receipt_for(first, (1,)), b"receipt", WALL)
    after = refusal_of(lanes, first)

    assert running is not None
    assert after is not None
    assert running[0] == after[0] == RefusalCode.ORDER_INVALID
    assert "replay" in after[1]


def test_a_lane_is_a_chain() -> None:
    """The next order must name the last receipt; with it the lane goes on and its charge adds up."""
    lanes, lane = NodeLanes(NODE.peer, 10**9), Lane(lane=b"l" * 16)
    for number in range(3):
        an_order = order(lane)
        assert refusal_of(lanes, an_order) is None
        lanes.take(an_order)
        receipt = receipt_for(an_order, (1, 2), cum=lanes.cum_charge(an_order))
        lanes.finish(an_order, receipt, b"receipt %d" % number, WALL)
        lane = receipts.advance(lane, b"receipt %d" % number, receipt.charge)
    wrong = refusal_of(lanes, order(lane, prev_receipt=b"x" * 32))

    assert lane.cum_charge == 3 * receipts.charge_of(ABLE.prices, 10, 2)
    assert wrong == (RefusalCode.ORDER_INVALID, "prev_receipt is not the last receipt of the lane")


def test_an_abandoned_lane_is_closed() -> None:
    """After a job without a receipt its lane is unknown, so that the asker opens a new one."""
    lanes, first = NodeLanes(NODE.peer, 10**9), order()
    lanes.take(first)
    lanes.abandon(first)
    refused = refusal_of(lanes, order(Lane(lane=first.lane, seq=1, head=b"h" * 32)))

    assert refused is not None
    assert refused[0] is RefusalCode.LANE_UNKNOWN
    assert lanes.exposure(GATEWAY.peer, WALL) == 0


def test_unpaid_work_is_limited() -> None:
    """A gateway that does not countersign reaches its limit; its countersign, or time, makes room again."""
    first = order()
    lanes = NodeLanes(NODE.peer, first.max_charge + 5)
    lanes.take(first)
    receipt = receipt_for(first, (1, 2))
    lanes.finish(first, receipt, b"receipt", WALL)
    second = order(Lane(lane=b"m" * 16))
    silent = refusal_of(lanes, second)
    agreed = Countersign(
        receipt_hash=receipts.digest(b"receipt"),
        verdict=Verdict.ACCEPTED,
        reason="",
        in_units=receipt.in_units,
        out_units=receipt.out_units,
        charge=receipt.charge,
    )

    assert silent is not None
    assert silent[0] is RefusalCode.EXPOSURE
    with pytest.raises(ReceiptInvalid):
        lanes.settle(first, receipt, b"receipt", NODE.peer, agreed)
    with pytest.raises(ReceiptInvalid):
        lanes.settle(first, receipt, b"receipt", GATEWAY.peer, replace(agreed, charge=0))
    assert refusal_of(lanes, second) == silent
    lanes.settle(first, receipt, b"receipt", GATEWAY.peer, agreed)
    assert refusal_of(lanes, second) is None


def test_unpaid_work_of_a_vanished_gateway_is_owed_until_it_agrees() -> None:
    """Time alone forgives nothing; a countersign that comes days later does."""
    lanes, first = NodeLanes(NODE.peer, 10**9), order()
    lanes.take(first)
    receipt = receipt_for(first, (1, 2))
    lanes.finish(first, receipt, b"receipt", WALL)
    later = WALL + 7 * 24 * 3_600_000

    assert lanes.exposure(GATEWAY.peer, later) == receipt.charge
    lanes.settle(first, receipt, b"receipt", GATEWAY.peer, said_of(receipt))
    assert lanes.exposure(GATEWAY.peer, later) == 0


def said_of(receipt: Receipt, **changes: Any) -> Countersign:
    """What a gateway that agrees says of a receipt, or what it says instead."""
    agreed = Countersign(
        receipt_hash=receipts.digest(b"receipt"),
        verdict=Verdict.ACCEPTED,
        reason="",
        in_units=receipt.in_units,
        out_units=receipt.out_units,
        charge=receipt.charge,
    )
    return replace(agreed, **changes)


@pytest.mark.parametrize("verdict", [Verdict.ADJUSTED, Verdict.DISPUTED])
def test_what_is_not_accepted_ends_its_lane(verdict: Verdict) -> None:
    """The sums of both sides differ from here on, so the lane takes no more; an agreed lower charge is paid for."""
    lanes, first = NodeLanes(NODE.peer, 10**9), order()
    lanes.take(first)
    receipt = receipt_for(first, (1, 2))
    lanes.finish(first, receipt, b"receipt", WALL)
    charge = 0 if verdict is Verdict.DISPUTED else receipt.charge - 1
    lanes.settle(first, receipt, b"receipt", GATEWAY.peer, said_of(receipt, verdict=verdict, charge=charge))
    after = Lane(lane=first.lane, seq=1, head=receipts.digest(b"receipt"), cum_charge=receipt.charge)
    refused = refusal_of(lanes, order(after))

    assert refused is not None
    assert refused[0] is RefusalCode.LANE_UNKNOWN
    assert lanes.exposure(GATEWAY.peer, WALL) == (receipt.charge if verdict is Verdict.DISPUTED else 0)


@pytest.mark.parametrize(
    ("changes", "vouched"),
    [
        ({"charge": 10**6, "verdict": Verdict.ADJUSTED}, 0),
        ({"out_units": 3, "verdict": Verdict.ADJUSTED}, 0),
        ({"charge": 3, "verdict": Verdict.ADJUSTED}, 4),
        ({"verdict": Verdict.DISPUTED}, 0),
        ({"charge": 3}, 0),
    ],
)
def test_a_countersign_that_does_not_hold_together_is_none(changes: dict[str, Any], vouched: int) -> None:
    """More than was claimed, less than vouchers agreed to, a dispute that charges, an agreement to other numbers."""
    receipt = receipt_for(order(), (1, 2))
    with pytest.raises(ReceiptInvalid):
        lanes_module.check_countersign(receipt, b"receipt", GATEWAY.peer, said_of(receipt, **changes), vouched)


def test_a_lane_is_restored_as_it_was() -> None:
    """After a restart the next order of a lane is taken, the same one not; a lane in which a job ran is closed."""
    lanes, first = NodeLanes(NODE.peer, 10**9), order()
    until = lanes_module.replayable_until_ms(first)
    idle = NodeLane(seq=0, head=b"h" * 32, cum_charge=9, replayable_until_ms=until)
    lanes.restore(GATEWAY.peer, LANE.lane, idle)
    lanes.restore(GATEWAY.peer, b"b" * 16, NodeLane(seq=0, open=True, replayable_until_ms=until))
    replayed, broken = refusal_of(lanes, first), refusal_of(lanes, order(Lane(lane=b"b" * 16)))

    assert refusal_of(lanes, order(Lane(lane=LANE.lane, seq=1, head=b"h" * 32, cum_charge=9))) is None
    assert replayed == (RefusalCode.ORDER_INVALID, "seq 0 is not the next in its lane: a replay")
    assert broken == (RefusalCode.LANE_UNKNOWN, "this lane is closed: open a new one")


def test_what_a_gateway_can_make_a_node_remember_is_limited() -> None:
    """However many lanes and gateways appear, the node keeps a fixed number, and forgets idle ones first."""
    lanes = NodeLanes(NODE.peer, 10**12)
    kept = order(Lane(lane=bytes(16)))
    lanes.take(kept)
    for number in range(1, protocols.LANES_PER_GATEWAY_MAX + 50):
        another = order(Lane(lane=number.to_bytes(16, "big")))
        lanes.take(another)
        lanes.finish(another, receipt_for(another, ()), b"r", WALL)

    kept_lanes = lanes._lanes[GATEWAY.peer]
    assert len(kept_lanes) <= protocols.LANES_PER_GATEWAY_MAX
    assert kept.lane in kept_lanes


def test_a_closed_lane_is_remembered_while_its_order_could_come_again() -> None:
    """As long as the order is valid its lane takes nothing; then it is forgotten."""
    lanes, first = NodeLanes(NODE.peer, 10**9), order()
    lanes.take(first)
    lanes.abandon(first)
    valid_until = first.expires_at_ms + protocols.CLOCK_SKEW_MS_MAX

    for wall_ms in (WALL, valid_until):
        refused = refusal_of(lanes, first, wall_ms=wall_ms)
        assert refused is not None
        assert refused[0] is RefusalCode.LANE_UNKNOWN
    assert refusal_of(lanes, order(wall_ms=valid_until + 1), wall_ms=valid_until + 1) is None
    assert not lanes._closed


def test_closed_lanes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """When too many lanes were broken off at once, orders of any lane are refused until the first may be forgotten."""
    monkeypatch.setattr(lanes_module, "CLOSED_LANES_MAX", 20)
    lanes = NodeLanes(NODE.peer, 10**12)
    for number in range(20):
        broken = order(Lane(lane=number.to_bytes(16, "big")))
        assert refusal_of(lanes, broken) is None
        lanes.take(broken)
        lanes.abandon(broken)
    refused = refusal_of(lanes, order(Lane(lane=b"n" * 16)))

    assert refused is not None
    assert refused[0] is RefusalCode.EXPOSURE
    assert len(lanes._closed) == 20


def test_receipts_without_a_countersign_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little each costs, a gateway's unpaid receipts fill a fixed number of places."""
    monkeypatch.setattr(exposure_module, "UNSETTLED_MAX", 5)
    lanes = NodeLanes(NODE.peer, 10**12)
    for number in range(5):
        each = order(Lane(lane=number.to_bytes(16, "big")))
        lanes.take(each)
        lanes.finish(each, receipt_for(each, (1, 2)), number.to_bytes(32, "big"), WALL)
    refused = refusal_of(lanes, order(Lane(lane=b"n" * 16)))

    assert refused is not None
    assert refused[0] is RefusalCode.EXPOSURE


def test_a_forgotten_gateways_late_countersign_harms_nothing() -> None:
    """A countersign for a gateway that was pushed out meanwhile is about nothing any more."""
    lanes, first = NodeLanes(NODE.peer, 10**9), order()
    lanes.take(first)
    receipt = receipt_for(first, (1, 2))
    lanes.finish(first, receipt, b"receipt", WALL)
    lanes._forget_gateway()
    agreed = Countersign(
        receipt_hash=receipts.digest(b"receipt"),
        verdict=Verdict.ACCEPTED,
        reason="",
        in_units=receipt.in_units,
        out_units=receipt.out_units,
        charge=receipt.charge,
    )
    lanes.settle(first, receipt, b"receipt", GATEWAY.peer, agreed)

    assert not lanes._lanes
    assert refusal_of(lanes, first) is not None
