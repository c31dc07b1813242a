"""Signed receipts of one gateway's hour, for tests of epochs and rewards."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from cxp2p.epochs import Entry, close_epoch, open_entry
from cxp2p.identity import Identity, Kind, identity_from_seed
from cxp2p.merkle import SumTree
from cxp2p.receipts import digest
from cxp2p.records import Countersign, EpochRoot, Finish, Receipt, Service, Verdict
from cxp2p.wire import encode

EPOCH = 500_000
GATEWAY = identity_from_seed(b"g" * 32)
OTHER_GATEWAY = identity_from_seed(b"h" * 32)
NODES = tuple(identity_from_seed(bytes([number]) * 32) for number in range(1, 5))
RULES_HASH = b"r" * 32


def receipt_of(node: Identity = NODES[0], **changes: Any) -> Receipt:
    """A receipt, signed by nobody yet."""
    fields = Receipt(
        order_hash=b"o" * 32,
        gateway=GATEWAY.peer,
        node=node.peer,
        owner="",
        lane=b"l" * 16,
        seq=0,
        epoch=EPOCH,
        service=Service.CHAT,
        model_digest=b"m" * 32,
        runtime="test",
        in_units=10,
        cached_units=0,
        out_units=20,
        t_accept_ms=1,
        t_first_ms=2,
        t_end_ms=3,
        finish=Finish.STOP,
        request_commit=b"c" * 32,
        output_commit=b"d" * 32,
        seed=7,
        resume_of=None,
        offset=None,
        charge=100,
        cum_charge=100,
        prev_receipt=None,
    )
    return replace(fields, **changes)


def seal(
    receipt: Receipt, node: Identity = NODES[0], gateway: Identity = GATEWAY, **changes: Any
) -> tuple[bytes, bytes]:
    """Both envelopes; `changes` are of the countersign."""
    envelope = node.seal(Kind.RECEIPT, encode(receipt))
    answer = Countersign(
        receipt_hash=digest(envelope),
        verdict=Verdict.ACCEPTED,
        reason="",
        in_units=receipt.in_units,
        out_units=receipt.out_units,
        charge=receipt.charge,
    )
    return envelope, gateway.seal(Kind.COUNTERSIGN, encode(replace(answer, **changes)))


@cache
def entry(node_number: int = 0, seq: int = 0, charge: int = 100, epoch: int = EPOCH) -> Entry:
    """One accepted receipt of a node."""
    node = NODES[node_number]
    return open_entry(*seal(receipt_of(node, seq=seq, charge=charge, epoch=epoch), node))


def hour(*entries: Entry, **changes: Any) -> tuple[bytes, EpochRoot, tuple[Entry, ...], SumTree]:
    """A closed epoch: the root's envelope, the root, the entries in order and their tree."""
    root, ordered, tree = close_epoch(GATEWAY.peer, EPOCH, entries, None, RULES_HASH)
    root = replace(root, **changes)
    return GATEWAY.seal(Kind.EPOCH_ROOT, encode(root)), root, ordered, tree
