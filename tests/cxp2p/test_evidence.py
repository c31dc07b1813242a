from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.epochs import place_of
from cxp2p.errors import EpochInvalid
from cxp2p.evidence import Evidence, Wrong, check_evidence, omission, two_receipts, two_roots
from cxp2p.identity import Kind
from cxp2p.wire import encode
from hours import EPOCH, GATEWAY, NODES, entry, hour, receipt_of

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
