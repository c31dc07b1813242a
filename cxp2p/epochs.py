"""Epochs: which receipts count for an hour, in which order, under which root. Pure.

A gateway closes each hour with a signed root over every receipt that it countersigned, disputed ones included. Whoever
has the receipts makes the same root; whoever has one receipt gets a proof that it is among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, TypeAlias, TypeVar

from annotated_types import Len
from pydantic import Strict

from cxp2p import protocols
from cxp2p.errors import EpochInvalid, RemoteProtocolError
from cxp2p.identity import Kind, open_envelope
from cxp2p.kinds import Blob, Natural, record
from cxp2p.merkle import NODE_BYTES, Proof, RunningSum, Sum, SumTree, check_proof, sum_leaf, unpacked
from cxp2p.receipts import digest
from cxp2p.records import Countersign, EpochRoot, Finish, Receipt, Verdict
from cxp2p.wire import decode

T = TypeVar("T")
Key: TypeAlias = tuple[str, bytes, int]
FREE = (Finish.ERROR, Finish.TIMEOUT)
PackedNode = Annotated[bytes, Strict(), Len(NODE_BYTES, NODE_BYTES)]


# A receipt and what was said of it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One receipt of an epoch, with its gateway's countersign, and the bytes of both as they were signed."""

    receipt: Receipt
    countersign: Countersign
    receipt_envelope: bytes
    countersign_envelope: bytes

    @property
    def key(self) -> Key:
        """What orders the leaves: node, lane, seq. In one gateway's epoch no two have the same."""
        return (self.receipt.node, self.receipt.lane, self.receipt.seq)

    @property
    def amount(self) -> int:
        """What it is worth: the charge that its gateway agreed to."""
        return self.countersign.charge

    def leaf(self) -> Sum:
        """Its leaf in the tree."""
        return sum_leaf(self.amount, self.receipt_envelope + self.countersign_envelope)


def open_signed(kind: Kind, record: type[T], envelope: bytes) -> tuple[str, T]:
    """Who signed, and what. Raises EpochInvalid, with the bytes, for whatever does not hold."""
    try:
        opened = open_envelope(kind, envelope)
        return opened.peer, decode(record, opened.body)
    except RemoteProtocolError as error:
        raise EpochInvalid(str(error), envelope) from None


def open_receipt(envelope: bytes) -> Receipt:
    """A receipt, signed by the node that it names. Raises EpochInvalid."""
    signer, receipt = open_signed(Kind.RECEIPT, Receipt, envelope)
    if signer != receipt.node:
        raise EpochInvalid("the receipt is not signed by its node", envelope)
    return receipt


def open_root(envelope: bytes) -> EpochRoot:
    """A root, signed by the gateway that it names. Raises EpochInvalid."""
    signer, root = open_signed(Kind.EPOCH_ROOT, EpochRoot, envelope)
    if signer != root.gateway:
        raise EpochInvalid("the epoch's root is not signed by its gateway", envelope)
    if root.count > protocols.EPOCH_RECEIPTS_MAX:
        raise EpochInvalid(f"count is {root.count}, expected {protocols.EPOCH_RECEIPTS_MAX} at most", envelope)
    return root


def check_root(gateway: str, epoch: int, envelope: bytes) -> None:
    """Raises EpochInvalid unless it is this gateway's root of this epoch, and no larger than a root may be."""
    if len(envelope) > protocols.ENVELOPE_BYTES_MAX:
        raise EpochInvalid(f"a root of {len(envelope)} bytes, expected {protocols.ENVELOPE_BYTES_MAX} at most")
    root = open_root(envelope)
    if (root.gateway, root.epoch) != (gateway, epoch):
        raise EpochInvalid(
            f"the root is of epoch {root.epoch} of {root.gateway}, expected {epoch} of {gateway}", envelope
        )


def open_entry(receipt_envelope: bytes, countersign_envelope: bytes) -> Entry:
    """A receipt with the countersign that is about it, by its gateway. Raises EpochInvalid, with the reason."""
    receipt = open_receipt(receipt_envelope)
    signer, countersign = open_signed(Kind.COUNTERSIGN, Countersign, countersign_envelope)
    if signer != receipt.gateway:
        raise EpochInvalid("the countersign is not signed by the receipt's gateway", countersign_envelope)
    if countersign.receipt_hash != digest(receipt_envelope):
        raise EpochInvalid("the countersign is about another receipt", countersign_envelope)
    if fault := _disagreement(receipt, countersign):
        raise EpochInvalid(f"the countersign says {countersign.verdict}, but {fault}", countersign_envelope)
    return Entry(
        receipt=receipt,
        countersign=countersign,
        receipt_envelope=receipt_envelope,
        countersign_envelope=countersign_envelope,
    )


def _disagreement(receipt: Receipt, countersign: Countersign) -> str:
    match countersign.verdict:
        case Verdict.ACCEPTED:
            for name in ("in_units", "out_units", "charge"):
                if getattr(countersign, name) != getattr(receipt, name):
                    return f"{name} is {getattr(countersign, name)}, the receipt's is {getattr(receipt, name)}"
        case Verdict.DISPUTED if countersign.charge:
            return f"charge is {countersign.charge}, expected 0"
        case Verdict.ADJUSTED if countersign.charge > receipt.charge:
            return f"charge is {countersign.charge}, over the receipt's {receipt.charge}"
    if receipt.finish in FREE and countersign.charge:
        return f"charge is {countersign.charge} for a job that ended as {receipt.finish}, expected 0"
    return ""


# An hour.


class Tally:
    """Entries of one gateway's epoch as they come, in order: each is looked at, and all make the root."""

    def __init__(self, gateway: str, epoch: int) -> None:
        self._gateway, self._epoch = gateway, epoch
        self._last: Entry | None = None
        self._tree = RunningSum()

    def add(self, entry: Entry) -> None:
        """The next one. Raises EpochInvalid: of another gateway or epoch, too late, out of order, twice."""
        check_belongs(self._gateway, self._epoch, entry)
        if self._last is not None and self._last.key >= entry.key:
            same = self._last.key == entry.key
            fault = "stands twice" if same else "is out of order: by node, lane and seq"
            raise EpochInvalid(f"the receipt of {_named(entry)} {fault}", entry.receipt_envelope)
        self._last = entry
        self._tree.add(entry.leaf())

    def total(self) -> Sum:
        """Over all so far."""
        return self._tree.root()


def check_belongs(gateway: str, epoch: int, entry: Entry) -> None:
    """Raises EpochInvalid unless the receipt may count for this epoch of this gateway."""
    receipt = entry.receipt
    if receipt.gateway != gateway:
        raise EpochInvalid(f"the receipt of {_named(entry)} is of gateway {receipt.gateway}", entry.receipt_envelope)
    late = epoch - receipt.epoch
    if not 0 <= late <= protocols.EPOCHS_LATE_MAX:
        fault = f"is of epoch {receipt.epoch}, which cannot count for epoch {epoch}"
        raise EpochInvalid(f"the receipt of {_named(entry)} {fault}", entry.receipt_envelope)


def _named(entry: Entry) -> str:
    return f"node {entry.receipt.node}, lane {entry.receipt.lane.hex()}, seq {entry.receipt.seq}"


def close_epoch(
    gateway: str, epoch: int, entries: Iterable[Entry], prev_root: bytes | None, rules_hash: bytes
) -> tuple[EpochRoot, tuple[Entry, ...], SumTree]:
    """The root to sign, the entries in the order of their leaves, and the tree that proves each.

    `prev_root` is the SHA-256 of the envelope of the root before it. Raises EpochInvalid for an entry that does not
    belong, and for two of one node, lane and seq.
    """
    ordered = tuple(sorted(entries, key=lambda entry: entry.key))
    tally = Tally(gateway, epoch)
    for entry in ordered:
        tally.add(entry)
    total = tally.total()
    root = EpochRoot(
        gateway=gateway,
        epoch=epoch,
        root=total.hash,
        sum=total.amount,
        count=total.count,
        prev_root=prev_root,
        rules_hash=rules_hash,
    )
    return root, ordered, SumTree(entry.leaf() for entry in ordered)


def check_total(root: EpochRoot, total: Sum) -> None:
    """Raises EpochInvalid, with the reason, unless a root is of these leaves."""
    if total.count != root.count:
        raise EpochInvalid(f"there are {total.count} receipts, the root counts {root.count}")
    if total.amount != root.sum:
        raise EpochInvalid(f"the receipts sum to {total.amount}, the root says {root.sum}")
    if total.hash != root.root:
        raise EpochInvalid("the receipts do not make the root: one of them, or a countersign, is another")


def check_follows(root: EpochRoot, before: EpochRoot, before_envelope: bytes) -> None:
    """Raises EpochInvalid unless `root` is the next after `before` of the same gateway."""
    if root.gateway != before.gateway:
        raise EpochInvalid(f"the root before is of gateway {before.gateway}, expected {root.gateway}", before_envelope)
    if root.epoch <= before.epoch:
        raise EpochInvalid(f"the root before is of epoch {before.epoch}, not before {root.epoch}", before_envelope)
    if root.prev_root != digest(before_envelope):
        raise EpochInvalid("prev_root is not the root before", before_envelope)


# One receipt's proof.


@record
class Place:
    """A receipt, its countersign, and where both stand in a tree. `path`: packed nodes, the lowest first."""

    receipt: Blob
    countersign: Blob
    index: Natural
    path: Annotated[tuple[PackedNode, ...], Len(0, 64)]


@record
class Inclusion:
    """All that it takes to see that a root counts a receipt. `root` is the root's envelope."""

    root: Blob
    place: Place


def place_of(entry: Entry, proof: Proof) -> Place:
    """An entry with its proof, as it is sent."""
    return Place(
        receipt=entry.receipt_envelope,
        countersign=entry.countersign_envelope,
        index=proof.index,
        path=tuple(node.packed() for node in proof.path),
    )


def check_place(root: EpochRoot, place: Place) -> Entry:
    """The entry at a place under a root. Raises EpochInvalid, with the reason, if it is not there."""
    entry = open_entry(place.receipt, place.countersign)
    check_belongs(root.gateway, root.epoch, entry)
    proof = Proof(place.index, root.count, tuple(unpacked(node) for node in place.path))
    check_proof(Sum(root.sum, root.count, root.root), entry.leaf(), proof)
    return entry


def check_inclusion(inclusion: Inclusion) -> tuple[EpochRoot, Entry]:
    """The root and the entry that it counts, from bytes alone. Raises EpochInvalid, with the reason."""
    root = open_root(inclusion.root)
    return root, check_place(root, inclusion.place)
