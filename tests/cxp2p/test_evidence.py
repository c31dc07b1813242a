from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.epochs import place_of
from cxp2p.errors import EpochInvalid
from cxp2p.evidence import (
    Evidence,
    Wrong,
    check_evidence,
    contradicted,
    dispute,
    evidence_in,
    omission,
    two_receipts,
    two_roots,
)
from cxp2p.identity import Kind
from cxp2p.receipts import digest
from cxp2p.records import Countersign, Verdict
from cxp2p.wire import encode
from hours import EPOCH, GATEWAY, NODES, entry, hour, receipt_of
from orders import GATEWAY as SIGNER
from orders import NODE as WORKER
from orders import order, receipt_for

ALL = [entry(number % 4, number // 4) for number in range(8)]
FIRST_ROOT, ROOT, ENTRIES, TREE = hour(*ALL)
OTHER_ROOT = hour(*ALL[:-1])[0]


def receipt(**changes: object) -> bytes:
    return NODES[0].seal(Kind.RECEIPT, encode(replace(receipt_of(), **changes)))  # type: ignore[arg-type]


def test_two_roots_of_one_hour_convict_their_gateway() -> None:
    """Whoever has both envelopes needs nothing else."""
    accusation = check_evidence(encode(two_roots(FIRST_ROOT, OTHER_ROOT)))

    assert (accusation.peer, accusation.wrong) == (GATEWAY.peer, Wrong.TWO_ROOTS)
    assert str(EPOCH) in accusation.says


def test_two_receipts_of_one_seq_convict_their_node() -> None:
    """A node that counts one way to its gateway and another way to the public is known by its own hand."""
    accusation = check_evidence(encode(two_receipts(receipt(), receipt(out_units=21))))

    assert (accusation.peer, accusation.wrong) == (NODES[0].peer, Wrong.TWO_RECEIPTS)


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (two_roots(FIRST_ROOT, FIRST_ROOT), "say the same"),
        (two_roots(FIRST_ROOT, hour(epoch=EPOCH + 1)[0]), "different gateways or epochs"),
        (two_roots(FIRST_ROOT, receipt()), "expected b'/cxp2p/epoch-root/1'"),
        (two_receipts(receipt(), receipt()), "say the same"),
        (two_receipts(receipt(), receipt(seq=1)), "different gateways, nodes, lanes or seqs"),
        (two_receipts(receipt(), receipt(node=NODES[1].peer)), "not signed by its node"),
        (Evidence(wrong=Wrong.TWO_ROOTS, envelopes=(b"", b"", b""), places=()), "has 3 envelopes, expected 2"),
        (replace(two_roots(FIRST_ROOT, OTHER_ROOT), places=(place_of(ENTRIES[0], TREE.proof(0)),)), "expected none"),
    ],
)
def test_what_proves_nothing_accuses_nobody(evidence: Evidence, reason: str) -> None:
    """The same thing signed twice, things of different places, and forgeries are refused."""
    with pytest.raises(EpochInvalid, match=reason):
        check_evidence(encode(evidence))


@given(st.sets(st.integers(0, 7)), st.integers(0, 7))
def test_a_receipt_that_was_left_out_is_shown_by_its_neighbours(kept: set[int], omitted: int) -> None:
    """Whatever a root counts: what is not in it can be shown, and what is in it cannot be said to be left out."""
    envelope, _, entries, tree = hour(*(ALL[number] for number in kept))
    evidence = encode(omission(envelope, ALL[omitted], entries, tree))

    if omitted in kept:
        with pytest.raises(EpochInvalid, match="counts a receipt of this node"):
            check_evidence(evidence)
    else:
        assert check_evidence(evidence).peer == GATEWAY.peer


def test_a_gap_must_have_no_room_in_it() -> None:
    """Neighbours that are further apart, or only one of two, show nothing."""
    omitted = entry(0, 9)
    evidence = omission(FIRST_ROOT, omitted, ENTRIES, TREE)
    far = tuple(place_of(ENTRIES[at], TREE.proof(at)) for at in (0, 7))

    assert check_evidence(encode(evidence)).peer == GATEWAY.peer
    for places in (far, evidence.places[:1], evidence.places[1:], (), evidence.places[:1] * 2):
        with pytest.raises(EpochInvalid, match="room between"):
            check_evidence(encode(replace(evidence, places=places)))


def test_a_receipt_of_another_hour_is_not_missed() -> None:
    """A root need not count what cannot count for it."""
    foreign = entry(0, 9, epoch=EPOCH + 1)

    with pytest.raises(EpochInvalid, match="cannot count for epoch"):
        check_evidence(encode(omission(FIRST_ROOT, foreign, ENTRIES, TREE)))


@given(st.data())
def test_evidence_with_a_flipped_bit_is_refused(data: st.DataObject) -> None:
    """Nobody can be accused with bytes that were changed on their way."""
    evidence = data.draw(
        st.sampled_from([two_roots(FIRST_ROOT, OTHER_ROOT), omission(FIRST_ROOT, entry(0, 9), ENTRIES, TREE)])
    )
    sent = encode(evidence)
    at = data.draw(st.integers(0, len(sent) * 8 - 1))
    flipped = bytearray(sent)
    flipped[at // 8] ^= 1 << at % 8

    with pytest.raises(EpochInvalid):
        check_evidence(bytes(flipped))


# Orders and their receipts.

ORDER = order(order_id=b"e" * 16)
ORDER_ENVELOPE = SIGNER.seal(Kind.ORDER, encode(ORDER))


def signed(**changes: object) -> bytes:
    """What the node signs for the order; honest, but for `changes`."""
    honest = receipt_for(ORDER, (1, 2, 3), order_hash=digest(ORDER_ENVELOPE))
    return WORKER.seal(Kind.RECEIPT, encode(replace(honest, **changes)))  # type: ignore[arg-type]


def countersigned(envelope: bytes, **changes: object) -> bytes:
    disputed = Countersign(
        receipt_hash=digest(envelope),
        verdict=Verdict.DISPUTED,
        reason="out_units is 3, 2 arrived",
        in_units=10,
        out_units=2,
        charge=0,
    )
    return SIGNER.seal(Kind.COUNTERSIGN, encode(replace(disputed, **changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_digest": b"x" * 32}, "model_digest is not the order's"),
        ({"request_commit": b"x" * 32}, "request_commit is not the order's"),
        ({"lane": b"x" * 16}, "lane is not the order's"),
        ({"charge": 17, "cum_charge": 17}, "charge is 17, by the order's prices 16"),
        ({"out_units": 51, "charge": 112, "cum_charge": 112}, "out_units is 51, the order allowed 50"),
    ],
)
def test_a_receipt_that_contradicts_its_order_convicts_its_node(changes: dict[str, object], says: str) -> None:
    """Both envelopes are enough; an honest receipt convicts nobody."""
    assert evidence_in(ORDER_ENVELOPE, signed()) is None
    found = evidence_in(ORDER_ENVELOPE, signed(**changes))
    assert found is not None
    accusation = check_evidence(encode(found))

    assert (accusation.peer, accusation.wrong, accusation.convicts) == (WORKER.peer, Wrong.CONTRADICTION, True)
    assert says in accusation.says


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (contradicted(ORDER_ENVELOPE, signed()), "does not contradict its order"),
        (contradicted(ORDER_ENVELOPE, signed(order_hash=b"x" * 32, seq=9)), "not about this order"),
        (contradicted(WORKER.seal(Kind.ORDER, encode(ORDER)), signed(seq=9)), "not signed by its gateway"),
        (contradicted(ORDER_ENVELOPE, SIGNER.seal(Kind.RECEIPT, encode(receipt_for(ORDER, ())))), "not signed by its"),
        (dispute(ORDER_ENVELOPE, signed(), countersigned(signed(), verdict=Verdict.ADJUSTED)), "expected disputed"),
        (dispute(ORDER_ENVELOPE, signed(), countersigned(b"another")), "about another receipt"),
    ],
)
def test_what_is_no_contradiction_accuses_nobody(evidence: Evidence, reason: str) -> None:
    """A gateway cannot make evidence against a node out of an order that the node never saw."""
    with pytest.raises(EpochInvalid, match=reason):
        check_evidence(encode(evidence))


def test_a_dispute_convicts_nobody() -> None:
    """How much arrived is one side's word against the other's, and the words say so."""
    accusation = check_evidence(encode(dispute(ORDER_ENVELOPE, signed(), countersigned(signed()))))

    assert (accusation.peer, accusation.wrong, accusation.convicts) == (WORKER.peer, Wrong.DISPUTE, False)
    assert "signed for 3 units" in accusation.says
    assert "counted 2 and disputes it: out_units is 3, 2 arrived" in accusation.says


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_byte_of_evidence_can_be_another(place: int, flip: int) -> None:
    """Whatever is changed on the way accuses nobody, or says the same."""
    found = evidence_in(ORDER_ENVELOPE, signed(seq=9))
    assert found is not None
    data = bytearray(encode(found))
    before = check_evidence(bytes(data))
    data[place % len(data)] ^= flip
    with suppress(EpochInvalid):
        assert check_evidence(bytes(data)) == before
