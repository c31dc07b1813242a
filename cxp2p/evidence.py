"""Evidence: what a peer signed that it should not have, checked by anybody from the bytes alone. Pure.

A peer that signs two roots for one hour, two receipts for one seq, or a receipt that contradicts its own order,
convicts itself. A countersigned receipt that a root leaves out is shown by the neighbours between which it would
stand: it may still count in a later root. How much arrived is one side's word against the other's: the papers of such a
dispute are kept in the same form, and convict nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final

from annotated_types import Len

from cxp2p.epochs import (
    Entry,
    Place,
    check_belongs,
    check_place,
    open_entry,
    open_receipt,
    open_root,
    open_signed,
    place_of,
)
from cxp2p.errors import EpochInvalid, RemoteProtocolError
from cxp2p.identity import Kind
from cxp2p.kinds import Blob, Word, record
from cxp2p.merkle import SumTree
from cxp2p.receipts import contradiction, digest
from cxp2p.records import EpochRoot, Order, Receipt, Verdict
from cxp2p.wire import decode, encode


class Wrong(Word):
    """What evidence is of."""

    TWO_ROOTS = "two-roots"
    TWO_RECEIPTS = "two-receipts"
    OMITTED = "omitted"
    CONTRADICTION = "contradiction"
    DISPUTE = "dispute"


ENVELOPES: Final = MappingProxyType(
    {
        Wrong.TWO_ROOTS: 2,
        Wrong.TWO_RECEIPTS: 2,
        Wrong.OMITTED: 3,
        Wrong.CONTRADICTION: 2,
        Wrong.DISPUTE: 3,
    }
)


@record
class Evidence:
    """`envelopes`: the two roots; the two receipts; root, receipt and countersign; order and receipt, if these
    contradict each other; or order, receipt and the countersign that disputes it. `places`: the neighbours.
    """

    wrong: Wrong
    envelopes: Annotated[tuple[Blob, ...], Len(2, 3)]
    places: Annotated[tuple[Place, ...], Len(0, 2)]


@dataclass(frozen=True, slots=True)
class Accusation:
    """Who did it, and what, in words. A dispute convicts nobody: `peer` is the node whose receipt is disputed."""

    peer: str
    wrong: Wrong
    says: str

    @property
    def convicts(self) -> bool:
        return self.wrong is not Wrong.DISPUTE


def two_roots(first: bytes, second: bytes) -> Evidence:
    """Evidence of a gateway that signed two accounts of one hour."""
    return Evidence(wrong=Wrong.TWO_ROOTS, envelopes=(first, second), places=())


def two_receipts(first: bytes, second: bytes) -> Evidence:
    """Evidence of a node that signed two receipts for one place in a lane."""
    return Evidence(wrong=Wrong.TWO_RECEIPTS, envelopes=(first, second), places=())


def contradicted(order: bytes, receipt: bytes) -> Evidence:
    """Evidence of a node that signed for what its order did not say."""
    return Evidence(wrong=Wrong.CONTRADICTION, envelopes=(order, receipt), places=())


def dispute(order: bytes, receipt: bytes, countersign: bytes) -> Evidence:
    """The papers of a receipt that its gateway disputes."""
    return Evidence(wrong=Wrong.DISPUTE, envelopes=(order, receipt, countersign), places=())


def omission(root_envelope: bytes, omitted: Entry, entries: Sequence[Entry], tree: SumTree) -> Evidence:
    """Evidence that a root leaves a receipt out: `entries`, in order, and their tree are the epoch's."""
    after = next((at for at, entry in enumerate(entries) if entry.key > omitted.key), len(entries))
    near = [at for at in (after - 1, after) if 0 <= at < len(entries)]
    return Evidence(
        wrong=Wrong.OMITTED,
        envelopes=(root_envelope, omitted.receipt_envelope, omitted.countersign_envelope),
        places=tuple(place_of(entries[at], tree.proof(at)) for at in near),
    )


def evidence_in(order: bytes, receipt: bytes) -> Evidence | None:
    """Evidence in a receipt that was sent for an order, if the two convict its node."""
    found = contradicted(order, receipt)
    try:
        check_evidence(encode(found))
    except EpochInvalid:
        return None
    return found


def check_evidence(data: bytes) -> Accusation:
    """What encoded evidence proves. Raises EpochInvalid, with the reason, if it proves nothing."""
    try:
        evidence = decode(Evidence, data)
    except RemoteProtocolError as error:
        raise EpochInvalid(str(error)) from None
    wanted = ENVELOPES[evidence.wrong]
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
        case Wrong.CONTRADICTION:
            return _contradicted(*evidence.envelopes)
        case Wrong.DISPUTE:
            return _disputed(*evidence.envelopes)


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


def _open_pair(order_envelope: bytes, receipt_envelope: bytes) -> tuple[Order, Receipt]:
    """An order signed by its gateway, and a receipt for it by the node that it is for."""
    signer, order = open_signed(Kind.ORDER, Order, order_envelope)
    receipt = open_receipt(receipt_envelope)
    if signer != order.gateway:
        raise EpochInvalid("the order is not signed by its gateway", order_envelope)
    if receipt.order_hash != digest(order_envelope):
        raise EpochInvalid("the receipt is not about this order", receipt_envelope)
    if receipt.node != order.node:
        raise EpochInvalid("the order is for another node than the receipt's", order_envelope)
    return order, receipt


def _contradicted(order_envelope: bytes, receipt_envelope: bytes) -> Accusation:
    order, receipt = _open_pair(order_envelope, receipt_envelope)
    fault = contradiction(order, receipt)
    if not fault:
        raise EpochInvalid("the receipt does not contradict its order")
    says = f"signed a receipt that contradicts order {order.order_id.hex()} of gateway {order.gateway}: {fault}"
    return Accusation(receipt.node, Wrong.CONTRADICTION, says)


def _disputed(order_envelope: bytes, receipt_envelope: bytes, countersign_envelope: bytes) -> Accusation:
    order, receipt = _open_pair(order_envelope, receipt_envelope)
    said = open_entry(receipt_envelope, countersign_envelope).countersign
    if said.verdict is not Verdict.DISPUTED:
        raise EpochInvalid(f"the countersign says {said.verdict}, expected {Verdict.DISPUTED}")
    says = (
        f"signed for {receipt.out_units} units of output of order {order.order_id.hex()}; gateway {order.gateway} "
        f"counted {said.out_units} and disputes it: {said.reason}. These bytes cannot tell which of the two is right"
    )
    return Accusation(receipt.node, Wrong.DISPUTE, says)


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
