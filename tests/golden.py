"""The golden bytes in `tests/vectors/`: one whole job and one offer, as they go over the wire.

`python tests/golden.py` writes the files. Do that for a new record; if it changes bytes that were there, every peer
that runs the version of today stops understanding this one: that needs a new protocol id (see PROTOCOL.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from cxp2p.epoch_files import published
from cxp2p.epoch_frames import (
    AbsentCode,
    EpochAbsent,
    FileWanted,
    InclusionSent,
    PairSent,
    ProofWanted,
    RootSent,
    RootWanted,
)
from cxp2p.epochs import Inclusion, close_epoch, open_entry, place_of
from cxp2p.evidence import two_receipts, two_roots
from cxp2p.identity import Kind, identity_from_seed
from cxp2p.merkle import SumTree, sum_leaf
from cxp2p.receipts import Lane, Terms, charge_of, digest, make_order, request_commit
from cxp2p.records import (
    Accepted,
    Ask,
    Cancel,
    Capability,
    ChatJob,
    ClaimRefused,
    ClaimSent,
    Countersign,
    CountersignSent,
    Failure,
    FailureCode,
    Finish,
    Load,
    Message,
    Offer,
    OfferSent,
    OffersKnown,
    OffersWanted,
    Piece,
    Prices,
    Receipt,
    ReceiptSent,
    Refusal,
    RefusalCode,
    Role,
    Sampling,
    Service,
    Verdict,
    Voucher,
    VoucherSent,
)
from cxp2p.units import output_commit
from cxp2p.wire import RECORD_OF_TAG, encode, encode_frame

VECTORS = Path(__file__).parent / "vectors"
NODE_SEED: Final = b"n" * 32
GATEWAY_SEED: Final = b"g" * 32
NODE = identity_from_seed(NODE_SEED)
GATEWAY = identity_from_seed(GATEWAY_SEED)
WALL_MS: Final = 1_800_000_000_000
SALT: Final = bytes(range(16))
TOKEN_IDS: Final = (13347, 11, 2159, 0)

CAPABILITY = Capability(
    service=Service.CHAT,
    model="smollm2:135m",
    model_digest=digest(b"the weights"),
    runtime="llama.cpp, CPU, Q4_1",
    context_units=2048,
    output_units_max=1024,
    prices=Prices(input=20_000, output=60_000),
    slots=4,
    queue_max=32,
    load=Load(running=1, queued=0, first_piece_ms=80, units_per_s=150, loading_ms=0),
)
OFFER = Offer(
    peer=NODE.peer,
    sequence=7,
    issued_at_ms=WALL_MS,
    expires_at_ms=WALL_MS + 600_000,
    addresses=(f"/ip4/203.0.113.7/tcp/4001/p2p/{NODE.peer}",),
    agent="cxp2p/0.1.0",
    owner="",
    draining=False,
    capabilities=(CAPABILITY,),
)
JOB = ChatJob(
    model="smollm2:135m",
    messages=(
        Message(role=Role.SYSTEM, content="Be brief."),
        Message(role=Role.USER, content="Grüße, 世界!", name="ada"),
    ),
    max_tokens=16,
    stop=("\n\n",),
    sampling=Sampling(temperature=0.5, logit_bias=((0, -100.0),), seed=-1),
)
REQUEST = encode(JOB)
ORDER = make_order(
    Terms(
        gateway=GATEWAY.peer,
        node=NODE.peer,
        capability=CAPABILITY,
        request_commit=request_commit(SALT, REQUEST),
        max_in=600,
        max_out=16,
        seed=42,
    ),
    Lane(lane=b"l" * 16, seq=3, head=digest(b"the receipt before"), cum_charge=100),
    order_id=b"o" * 16,
    wall_ms=WALL_MS,
)
ORDER_ENVELOPE = GATEWAY.seal(Kind.ORDER, encode(ORDER))
VOUCHER = Voucher(gateway=GATEWAY.peer, node=NODE.peer, lane=ORDER.lane, seq=ORDER.seq, cum_amount=100 + 1)
VOUCHER_ENVELOPE = GATEWAY.seal(Kind.VOUCHER, encode(VOUCHER))
RECEIPT = Receipt(
    order_hash=digest(ORDER_ENVELOPE),
    gateway=GATEWAY.peer,
    node=NODE.peer,
    owner="",
    lane=ORDER.lane,
    seq=ORDER.seq,
    epoch=ORDER.epoch,
    service=ORDER.service,
    model_digest=ORDER.model_digest,
    runtime=CAPABILITY.runtime,
    in_units=31,
    cached_units=0,
    out_units=len(TOKEN_IDS),
    t_accept_ms=WALL_MS + 5,
    t_first_ms=WALL_MS + 85,
    t_end_ms=WALL_MS + 120,
    finish=Finish.STOP,
    request_commit=ORDER.request_commit,
    output_commit=output_commit(TOKEN_IDS),
    seed=ORDER.seed,
    resume_of=None,
    offset=None,
    charge=charge_of(ORDER.prices, 31, len(TOKEN_IDS)),
    cum_charge=100 + charge_of(ORDER.prices, 31, len(TOKEN_IDS)),
    prev_receipt=ORDER.prev_receipt,
)
RECEIPT_ENVELOPE = NODE.seal(Kind.RECEIPT, encode(RECEIPT))
COUNTERSIGN = Countersign(
    receipt_hash=digest(RECEIPT_ENVELOPE),
    verdict=Verdict.ACCEPTED,
    reason="",
    in_units=RECEIPT.in_units,
    out_units=RECEIPT.out_units,
    charge=RECEIPT.charge,
)
COUNTERSIGN_ENVELOPE = GATEWAY.seal(Kind.COUNTERSIGN, encode(COUNTERSIGN))
OFFER_ENVELOPE = NODE.seal(Kind.OFFER, encode(OFFER))


def _settled(receipt: Receipt) -> tuple[bytes, bytes]:
    envelope = NODE.seal(Kind.RECEIPT, encode(receipt))
    answer = replace(COUNTERSIGN, receipt_hash=digest(envelope), charge=receipt.charge)
    return envelope, GATEWAY.seal(Kind.COUNTERSIGN, encode(answer))


EPOCH_ENTRIES = [
    open_entry(*_settled(replace(RECEIPT, seq=RECEIPT.seq + number, charge=RECEIPT.charge + number)))
    for number in range(3)
]
EPOCH_ROOT, _ENTRIES, _TREE = close_epoch(
    GATEWAY.peer, ORDER.epoch, EPOCH_ENTRIES, digest(b"the root before"), digest(b"the rules")
)
EPOCH_ROOT_ENVELOPE = GATEWAY.seal(Kind.EPOCH_ROOT, encode(EPOCH_ROOT))
INCLUSION = Inclusion(root=EPOCH_ROOT_ENVELOPE, place=place_of(_ENTRIES[1], _TREE.proof(1)))
OTHER_ROOT_ENVELOPE = GATEWAY.seal(Kind.EPOCH_ROOT, encode(replace(EPOCH_ROOT, prev_root=None)))
OTHER_RECEIPT_ENVELOPE = NODE.seal(Kind.RECEIPT, encode(replace(RECEIPT, out_units=5)))

FRAMES: Final[Mapping[str, object]] = {
    "ask": Ask(order=ORDER_ENVELOPE, salt=SALT, request=REQUEST),
    "accepted": Accepted(queued=2),
    "refusal": Refusal(code=RefusalCode.BUSY, reason="all 4 slots are busy", retry_after_ms=1500),
    "piece": Piece(text="Hello, world!", token_ids=TOKEN_IDS),
    "piece without tokens": Piece(text="é", token_ids=()),
    "cancel": Cancel(),
    "failure": Failure(code=FailureCode.CONTEXT_LENGTH, reason="the prompt is too long", limit=2048, actual=3000),
    "receipt": ReceiptSent(envelope=RECEIPT_ENVELOPE),
    "countersign": CountersignSent(envelope=COUNTERSIGN_ENVELOPE),
    "offers wanted": OffersWanted(service=Service.CHAT, model="smollm2:135m", limit=8),
    "any offers wanted": OffersWanted(service=None, model=None, limit=32),
    "offers known": OffersKnown(envelopes=(OFFER_ENVELOPE,)),
    "offer": OfferSent(envelope=OFFER_ENVELOPE),
    "voucher": VoucherSent(envelope=VOUCHER_ENVELOPE),
    "claim": ClaimSent(order=ORDER_ENVELOPE, receipt=RECEIPT_ENVELOPE, voucher=VOUCHER_ENVELOPE),
    "claim without voucher": ClaimSent(order=ORDER_ENVELOPE, receipt=RECEIPT_ENVELOPE, voucher=None),
    "root wanted": RootWanted(gateway=GATEWAY.peer, epoch=500_000),
    "newest root wanted": RootWanted(gateway=GATEWAY.peer, epoch=None),
    "file wanted": FileWanted(gateway=GATEWAY.peer, epoch=500_000),
    "proof wanted": ProofWanted(receipt=digest(RECEIPT_ENVELOPE)),
    "root": RootSent(envelope=EPOCH_ROOT_ENVELOPE),
    "pair": PairSent(receipt=RECEIPT_ENVELOPE, countersign=COUNTERSIGN_ENVELOPE),
    "inclusion": InclusionSent(inclusion=encode(INCLUSION)),
    "epoch absent": EpochAbsent(code=AbsentCode.OPEN, reason="the epoch is not closed yet", retry_after_ms=60_000),
    "claim refused": ClaimRefused(reason="this order is not known here", retry_after_ms=0),
}
ENVELOPES: Final[Mapping[Kind, tuple[bytes, object, bytes]]] = {
    Kind.OFFER: (NODE_SEED, OFFER, OFFER_ENVELOPE),
    Kind.ORDER: (GATEWAY_SEED, ORDER, ORDER_ENVELOPE),
    Kind.VOUCHER: (GATEWAY_SEED, VOUCHER, VOUCHER_ENVELOPE),
    Kind.RECEIPT: (NODE_SEED, RECEIPT, RECEIPT_ENVELOPE),
    Kind.COUNTERSIGN: (GATEWAY_SEED, COUNTERSIGN, COUNTERSIGN_ENVELOPE),
    Kind.EPOCH_ROOT: (GATEWAY_SEED, EPOCH_ROOT, EPOCH_ROOT_ENVELOPE),
}
REFUSED: Final[Mapping[str, str]] = {
    "a tag that nothing has": "04" + "821863a0",
    "a length that is not minimal": "8300" + "8205a0",
    "a length of five bytes": "8080808001",
    "a missing field": "038202a0",
    "an unknown field": "0c" + "8205a1" + "676e6f7468696e67" + "00",
    "a float for an integer": "0d" + "8202a1" + "66717565756564" + "f93c00",
    "an indefinite map": "048205bfff",
    "bytes after the record": "048205a000",
    "a CBOR tag": "048205c1a0",
    "a body that is no map": "03820580",
}


def plain(value: object) -> Any:
    """A value as JSON can hold it: bytes in hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return value


def fields(record: Any) -> Any:
    """A record's fields as JSON can hold them."""
    return plain(asdict(record))


def files() -> dict[str, Any]:
    """What each file holds."""
    tags = {kind: tag for tag, kind in RECORD_OF_TAG.items()}
    return {
        "frames.json": [
            {
                "name": name,
                "tag": tags[type(record)],
                "record": type(record).__name__,
                "fields": fields(record),
                "frame": encode_frame(record).hex(),
            }
            for name, record in FRAMES.items()
        ],
        "envelopes.json": [
            {
                "kind": str(kind),
                "seed": seed.hex(),
                "peer": identity_from_seed(seed).peer,
                "record": type(record).__name__,
                "fields": fields(record),
                "body": encode(record).hex(),
                "envelope": envelope.hex(),
                "sha256": digest(envelope).hex(),
            }
            for kind, (seed, record, envelope) in ENVELOPES.items()
        ],
        "commitments.json": {
            "request": {
                "salt": SALT.hex(),
                "fields": fields(JOB),
                "request": REQUEST.hex(),
                "request_commit": ORDER.request_commit.hex(),
            },
            "output": [
                {"token_ids": f"0..{count - 1}" if count else "", "output_commit": output_commit(range(count)).hex()}
                for count in (0, 1, 32, 33, 64, 65, 160)
            ],
        },
        "epochs.json": _epoch(),
        "sums.json": [_sum_tree(size) for size in (0, 1, 2, 3, 5, 8, 13)],
        "refused.json": [{"why": why, "frame": frame} for why, frame in REFUSED.items()],
    }


def _epoch() -> Any:
    """A published epoch, what it is made of, and evidence against both who signed."""
    return {
        "published": b"".join(published(EPOCH_ROOT_ENVELOPE, _ENTRIES)).hex(),
        "root": EPOCH_ROOT_ENVELOPE.hex(),
        "entries": [
            {
                "amount": entry.amount,
                "receipt": entry.receipt_envelope.hex(),
                "countersign": entry.countersign_envelope.hex(),
                "leaf": entry.leaf().hash.hex(),
                "inclusion": encode(
                    Inclusion(root=EPOCH_ROOT_ENVELOPE, place=place_of(entry, _TREE.proof(index)))
                ).hex(),
            }
            for index, entry in enumerate(_ENTRIES)
        ],
        "evidence": {
            "two-roots": encode(two_roots(EPOCH_ROOT_ENVELOPE, OTHER_ROOT_ENVELOPE)).hex(),
            "two-receipts": encode(two_receipts(RECEIPT_ENVELOPE, OTHER_RECEIPT_ENVELOPE)).hex(),
        },
    }


def _sum_tree(size: int) -> Any:
    """A tree of `size` leaves; the leaf at n is of the content `leaf n` and worth 10 n + 1. Each with its proof."""
    contents = [(10 * number + 1, f"leaf {number}".encode()) for number in range(size)]
    leaves = [sum_leaf(amount, content) for amount, content in contents]
    tree = SumTree(leaves)
    return {
        "root": plain(asdict(tree.root)),
        "leaves": [
            {
                "amount": amount,
                "content": content.hex(),
                "hash": leaf.hash.hex(),
                "path": [plain(asdict(node)) for node in tree.proof(index).path],
            }
            for index, ((amount, content), leaf) in enumerate(zip(contents, leaves, strict=True))
        ],
    }


def text(content: object) -> str:
    """The text of one file."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, content in files().items():
        (VECTORS / name).write_text(text(content))
