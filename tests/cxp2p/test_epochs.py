from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p import protocols
from cxp2p.epochs import (
    Inclusion,
    Tally,
    check_follows,
    check_inclusion,
    check_total,
    close_epoch,
    open_entry,
    open_root,
    place_of,
)
from cxp2p.errors import EpochInvalid
from cxp2p.identity import Kind
from cxp2p.protocols import EPOCH_MS
from cxp2p.receipts import HOURS, Calendar, digest
from cxp2p.records import Finish, Verdict
from cxp2p.wire import decode, encode
from hours import EPOCH, GATEWAY, NODES, OTHER_GATEWAY, RULES_HASH, entry, hour, receipt_of, seal

END_MS = (EPOCH + 1) * EPOCH_MS
MINUTE_MS = 60_000


@pytest.mark.parametrize(
    ("at_ms", "counts"),
    [
        (END_MS - 1, EPOCH),
        (END_MS - 2 * EPOCH_MS, EPOCH),  # of a clock that is behind
        (END_MS + 10 * MINUTE_MS - 1, EPOCH),
        (END_MS + 10 * MINUTE_MS, EPOCH + 1),
        (END_MS + 70 * MINUTE_MS - 1, EPOCH + 1),
        (END_MS + 70 * MINUTE_MS, EPOCH + 2),
        (END_MS + 24 * EPOCH_MS - 1, EPOCH + 24),
        (END_MS + 24 * EPOCH_MS, None),
    ],
)
def test_a_receipt_counts_for_its_epoch_then_for_the_next_then_for_none(at_ms: int, counts: int | None) -> None:
    """Ten minutes of grace, then late in the epoch that is still open, for a day."""
    assert HOURS.counts_for(EPOCH, at_ms) == counts


def test_the_table_of_limits_is_that_of_hours() -> None:
    """Grace and lateness of an hour are what the protocol says; those of a shorter epoch keep the proportion."""
    assert (HOURS.epoch_ms, HOURS.grace_ms, HOURS.late_ms) == (EPOCH_MS, 10 * MINUTE_MS, protocols.EPOCH_LATE_MS)
    short = Calendar(6_000)
    assert (short.grace_ms, short.late_ms, short.closes_at_ms(9)) == (1_000, 144_000, 61_000)
    assert short.epoch_of(59_999) == 9


@given(st.sampled_from([1_000, 5_000, EPOCH_MS]), st.integers(1, 10**6), st.floats(-2, 30))
def test_what_counts_is_open_and_may_stand_there(epoch_ms: int, epoch: int, later: float) -> None:
    """Whatever the time, a receipt counts for an epoch that is not closed, and which a verifier lets it stand in."""
    calendar = Calendar(epoch_ms)
    at_ms = max(0, round((epoch + later) * epoch_ms))
    counts = calendar.counts_for(epoch, at_ms)

    if counts is None:
        assert at_ms >= (epoch + 1) * epoch_ms + calendar.late_ms
    else:
        assert at_ms < calendar.closes_at_ms(counts)
        assert 0 <= counts - epoch <= protocols.EPOCHS_LATE_MAX


def test_the_root_does_not_depend_on_the_order_of_arrival() -> None:
    """The leaves are sorted by node, lane and seq."""
    entries = [entry(0, 1), entry(1, 0), entry(0, 0)]
    roots = {hour(*each)[1] for each in permutations(entries)}

    assert len(roots) == 1
    (root,) = roots
    assert (root.count, root.sum) == (3, 300)
    assert [each.key for each in hour(*entries)[2]] == sorted(each.key for each in entries)


def test_an_hour_without_receipts_has_a_root() -> None:
    """Nothing is worth nothing, and says so."""
    envelope, root, entries, _ = hour()

    assert (root.count, root.sum, entries) == (0, 0, ())
    assert open_root(envelope) == root
    check_total(root, Tally(GATEWAY.peer, EPOCH).total())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"charge": 99}, "charge is 99, the receipt's is 100"),
        ({"in_units": 9}, "in_units is 9"),
        ({"out_units": 21}, "out_units is 21"),
        ({"verdict": Verdict.DISPUTED}, "disputed, but charge is 100"),
        ({"verdict": Verdict.ADJUSTED, "charge": 101}, "over the receipt's 100"),
        ({"receipt_hash": b"x" * 32}, "about another receipt"),
    ],
)
def test_a_countersign_that_does_not_fit_is_refused(changes: dict[str, Any], reason: str) -> None:
    """What a gateway may say of a receipt is limited: its own words must agree with its verdict."""
    with pytest.raises(EpochInvalid, match=reason) as caught:
        open_entry(*seal(receipt_of(), **changes))
    assert caught.value.evidence


@pytest.mark.parametrize("finish", [Finish.ERROR, Finish.TIMEOUT])
def test_a_job_that_failed_is_not_charged(finish: Finish) -> None:
    """A gateway and a node cannot agree on pay for an error."""
    with pytest.raises(EpochInvalid, match="expected 0"):
        open_entry(*seal(receipt_of(finish=finish)))
    assert open_entry(*seal(receipt_of(finish=finish, charge=0))).amount == 0


def test_disputes_and_adjustments_stand_in_an_epoch_with_what_was_agreed() -> None:
    """A disputed receipt is worth nothing, an adjusted one what its gateway says."""
    disputed = open_entry(*seal(receipt_of(), verdict=Verdict.DISPUTED, charge=0, out_units=3))
    adjusted = open_entry(*seal(receipt_of(seq=1), verdict=Verdict.ADJUSTED, charge=40, out_units=8))

    assert hour(disputed, adjusted)[1].sum == 40


def test_only_the_named_peers_sign() -> None:
    """A receipt of another node, a countersign or a root of another gateway is refused."""
    with pytest.raises(EpochInvalid, match="not signed by its node"):
        open_entry(*seal(receipt_of(NODES[0]), NODES[1]))
    with pytest.raises(EpochInvalid, match="not signed by the receipt's gateway"):
        open_entry(*seal(receipt_of(), gateway=OTHER_GATEWAY))
    with pytest.raises(EpochInvalid, match="not signed by its gateway"):
        open_root(OTHER_GATEWAY.seal(Kind.EPOCH_ROOT, encode(hour(entry())[1])))
    with pytest.raises(EpochInvalid, match="expected b'/cxp2p/epoch-root/1'"):
        open_root(GATEWAY.seal(Kind.ORDER, encode(hour(entry())[1])))
    with pytest.raises(EpochInvalid, match="count is"):
        open_root(hour(entry(), count=protocols.EPOCH_RECEIPTS_MAX + 1)[0])


def test_a_seq_stands_once_and_foreign_receipts_do_not() -> None:
    """Two receipts of one place in a lane, of another gateway or another time cannot be counted."""
    foreign = open_entry(*seal(receipt_of(gateway=OTHER_GATEWAY.peer), gateway=OTHER_GATEWAY))

    with pytest.raises(EpochInvalid, match="stands twice"):
        hour(entry(charge=1), entry(charge=2))
    with pytest.raises(EpochInvalid, match="is of gateway"):
        hour(foreign)
    for epoch in (EPOCH + 1, EPOCH - protocols.EPOCHS_LATE_MAX - 1):
        with pytest.raises(EpochInvalid, match=f"is of epoch {epoch}, which cannot count"):
            hour(entry(epoch=epoch))
    assert hour(entry(epoch=EPOCH - protocols.EPOCHS_LATE_MAX))[1].count == 1


def test_entries_must_come_in_order() -> None:
    """A verifier does not sort: an order of its own would let a gateway hide a gap."""
    tally = Tally(GATEWAY.peer, EPOCH)
    tally.add(entry(0, 1))

    with pytest.raises(EpochInvalid, match="out of order"):
        tally.add(entry(0, 0))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"count": 3}, "there are 2 receipts, the root counts 3"),
        ({"sum": 199}, "sum to 200, the root says 199"),
        ({"root": b"x" * 32}, "do not make the root"),
    ],
)
def test_a_root_that_says_otherwise_is_refused(changes: dict[str, Any], reason: str) -> None:
    """Count, sum and hash are each compared."""
    _, root, entries, tree = hour(entry(0, 0), entry(0, 1), **changes)
    assert len(entries) == 2

    with pytest.raises(EpochInvalid, match=reason):
        check_total(root, tree.root)


def test_roots_form_a_chain() -> None:
    """Each root names the envelope of the one before it, of the same gateway and an earlier hour."""
    first, before, _, _ = hour(entry())
    root, _, _ = close_epoch(GATEWAY.peer, EPOCH + 2, [entry(0, 1)], digest(first), RULES_HASH)

    check_follows(root, before, first)
    for changes, reason in (
        ({"prev_root": b"x" * 32}, "prev_root is not"),
        ({"prev_root": None}, "prev_root is not"),
        ({"epoch": EPOCH}, "not before"),
        ({"gateway": OTHER_GATEWAY.peer}, "is of gateway"),
    ):
        with pytest.raises(EpochInvalid, match=reason):
            check_follows(replace(root, **changes), before, first)


@given(st.integers(1, 12), st.data())
def test_an_inclusion_is_checked_from_its_bytes_and_any_other_bit_refuses(size: int, data: st.DataObject) -> None:
    """Node and user get bytes that show their receipt under the root; no bit of them can be another."""
    envelope, root, entries, tree = hour(*(entry(number % 4, number // 4) for number in range(size)))
    index = data.draw(st.integers(0, size - 1))
    sent = encode(Inclusion(root=envelope, place=place_of(entries[index], tree.proof(index))))

    assert check_inclusion(decode(Inclusion, sent)) == (root, entries[index])
    at = data.draw(st.integers(0, len(sent) * 8 - 1))
    flipped = bytearray(sent)
    flipped[at // 8] ^= 1 << at % 8
    with pytest.raises(Exception, match=r"\w") as caught:
        check_inclusion(decode(Inclusion, bytes(flipped)))
    assert type(caught.value).__name__ in ("EpochInvalid", "RemoteProtocolError")
