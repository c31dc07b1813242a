"""Evidence: what a peer signed that it should not have, checked by anybody from the bytes alone. Pure.

A peer that signs two roots for one hour, or two receipts for one seq, convicts itself. A countersigned receipt that a
root leaves out is shown by the neighbours between which it would stand: it may still count in a later root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from annotated_types import Len

from cxp2p.epochs import Entry, Place, check_belongs, check_place, open_entry, open_receipt, open_root, place_of
from cxp2p.errors import EpochInvalid, RemoteProtocolError
from cxp2p.kinds import Blob, record
from cxp2p.merkle import SumTree
from cxp2p.records import EpochRoot
from cxp2p.wire import decode


class Wrong(StrEnum):
    """What evidence is of."""

    TWO_ROOTS = "two-roots"
    TWO_RECEIPTS = "two-receipts"
    OMITTED = "omitted"


@record
class Evidence:
    """`envelopes`: the two roots; the two receipts; or root, receipt and countersign. `places`: the neighbours."""

    wrong: Wrong
    envelopes: Annotated[tuple[Blob, ...], Len(2, 3)]
    places: Annotated[tuple[Place, ...], Len(0, 2)]


@dataclass(frozen=True, slots=True)
class Accusation:
    """Who did it, and what, in words."""

    peer: str
    wrong: Wrong
    says: str


def two_roots(first: bytes, second: bytes) -> Evidence:
    """Evidence of a gateway that signed two accounts of one hour."""
    return Evidence(wrong=Wrong.TWO_ROOTS, envelopes=(first, second), places=())


def two_receipts(first: bytes, second: bytes) -> Evidence:
    """Evidence of a node that signed two receipts for one place in a lane."""
    return Evidence(wrong=Wrong.TWO_RECEIPTS, envelopes=(first, second), places=())


def omission(root_envelope: bytes, omitted: Entry, entries: Sequence[Entry], tree: SumTree) -> Evidence:
    """Evidence that a root leaves a receipt out: `entries`, in order, and their tree are the epoch's."""
    after = next((at for at, entry in enumerate(entries) if entry.key > omitted.key), len(entries))
    near = [at for at in (after - 1, after) if 0 <= at < len(entries)]
    return Evidence(
        wrong=Wrong.OMITTED,
        envelopes=(root_envelope, omitted.receipt_envelope, omitted.countersign_envelope),
        places=tuple(place_of(entries[at], tree.proof(at)) for at in near),
    )


def check_evidence(data: bytes) -> Accusation:
    """What encoded evidence proves. Raises EpochInvalid, with the reason, if it proves nothing."""
    try:
        evidence = decode(Evidence, data)
    except RemoteProtocolError as error:
        raise EpochInvalid(str(error)) from None
    wanted = 3 if evidence.wrong is Wrong.OMITTED else 2
    if len(evidence.envelopes) != wanted:
        raise EpochInvalid(f"evidence of {evidence.wrong} has {len(evidence.envelopes)} envelopes, expected {wanted}")
    if evidence.places and evidence.wrong is not Wrong.OMITTED:
        raise EpochInvalid(f"evidence of {evidence.wrong} has places, expected none")
    match evidence.wrong:
        case Wrong.TWO_ROOTS:
            return _two_roots(*evidence.envelopes)
        case Wrong.TWO_RECEIPTS:
            return _two_receipts(*evidence.envelopes)
        case Wrong.OMITTED:
            root, receipt, countersign = evidence.envelopes
            return _omitted(root, receipt, countersign, evidence.places)


def _two_roots(first: bytes, second: bytes) -> Accusation:
    one, other = open_root(first), open_root(second)
    if (one.gateway, one.epoch) != (other.gateway, other.epoch):
        raise EpochInvalid("the two roots are of different gateways or epochs")
    if one == other:
        raise EpochInvalid("the two roots say the same")
    return Accusation(one.gateway, Wrong.TWO_ROOTS, f"signed two roots for epoch {one.epoch}")


def _two_receipts(first: bytes, second: bytes) -> Accusation:
    one, other = open_receipt(first), open_receipt(second)
    if (one.gateway, one.node, one.lane, one.seq) != (other.gateway, other.node, other.lane, other.seq):
        raise EpochInvalid("the two receipts are of different gateways, nodes, lanes or seqs")
    if one == other:
        raise EpochInvalid("the two receipts say the same")
    says = f"signed two receipts for seq {one.seq} of lane {one.lane.hex()} of gateway {one.gateway}"
    return Accusation(one.node, Wrong.TWO_RECEIPTS, says)


def _omitted(root_envelope: bytes, receipt: bytes, countersign: bytes, places: Sequence[Place]) -> Accusation:
    root, omitted = open_root(root_envelope), open_entry(receipt, countersign)
    check_belongs(root.gateway, root.epoch, omitted)
    _check_gap(root, omitted, places)
    says = f"countersigned {omitted.countersign.receipt_hash.hex()} and left it out of the root of epoch {root.epoch}"
    return Accusation(root.gateway, Wrong.OMITTED, says)


def _check_gap(root: EpochRoot, omitted: Entry, places: Sequence[Place]) -> None:
    """The places must be all neighbours that the receipt would have, and leave no room between them."""
    found = [(place.index, check_place(root, place).key) for place in places]
    before = [index for index, key in found if key < omitted.key]
    after = [index for index, key in found if key > omitted.key]
    if len(before) + len(after) != len(found):
        raise EpochInvalid("the root counts a receipt of this node, lane and seq")
    left = before[0] if before else -1
    right = after[0] if after else root.count
    if len(before) > 1 or len(after) > 1 or right != left + 1:
        raise EpochInvalid("the places are not the neighbours of the receipt: there is room between them")
