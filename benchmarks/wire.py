"""What the wire costs: frames encoded and decoded, envelopes signed and checked, one core.

The peers are bare: cbor2 without a frame or a check of the record, and Ed25519 of `cryptography` without an envelope.
The ratio tells what strictness costs.
"""

from __future__ import annotations

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.figures import Figure, side_by_side
from cxp2p import protocols
from cxp2p.identity import Kind, identity_from_seed, open_envelope
from cxp2p.records import Ask, Finish, Piece, Receipt, Service
from cxp2p.wire import FrameReader, encode, encode_frame

SEED = b"benchmark seed of thirty-two byt"
PIECE = Piece(text=" the answer", token_ids=(262, 3280))
ASK = Ask(order=b"o" * 600, salt=b"s" * 16, request=b"r" * 4096)
RECEIPT = Receipt(
    order_hash=b"o" * 32,
    gateway=identity_from_seed(SEED).peer,
    node=identity_from_seed(SEED).peer,
    owner="",
    lane=b"l" * 16,
    seq=41,
    epoch=500_000,
    service=Service.CHAT,
    model_digest=b"m" * 32,
    runtime="llama.cpp, CPU, Q4_1",
    in_units=512,
    cached_units=0,
    out_units=128,
    t_accept_ms=1_800_000_000_000,
    t_first_ms=1_800_000_000_080,
    t_end_ms=1_800_000_001_500,
    finish=Finish.STOP,
    request_commit=b"r" * 32,
    output_commit=b"c" * 32,
    seed=7,
    resume_of=None,
    offset=None,
    charge=18,
    cum_charge=900,
    prev_receipt=b"p" * 32,
)


def measure(seconds: float) -> list[Figure]:
    """Frames and signatures a second, in about `seconds`."""
    share = seconds / 6
    return [*_frames("piece", PIECE, share), *_frames("4 KiB ask", ASK, share), *_signatures(share)]


def _frames(what: str, record: object, seconds: float) -> list[Figure]:
    frame = encode_frame(record)
    body = cbor2.dumps(cbor2.loads(_without_length(frame)))
    value = cbor2.loads(body)
    reader = FrameReader(protocols.ASK_BYTES_MAX)

    def decode() -> None:
        reader.feed(frame)
        assert reader.next() is not None

    return [
        side_by_side(
            f"encode {what}, frames/s", lambda: encode_frame(record), lambda: cbor2.dumps(value), "cbor2", seconds
        ),
        side_by_side(f"decode {what}, frames/s", decode, lambda: cbor2.loads(body), "cbor2", seconds),
    ]


def _without_length(frame: bytes) -> bytes:
    start = next(index for index, byte in enumerate(frame) if byte < 0x80) + 1
    return frame[start:]


def _signatures(seconds: float) -> list[Figure]:
    identity = identity_from_seed(SEED)
    bare = Ed25519PrivateKey.from_private_bytes(SEED)
    public = bare.public_key()
    body = encode(RECEIPT)
    envelope = identity.seal(Kind.RECEIPT, body)
    signature = bare.sign(body)
    return [
        side_by_side(
            "sign receipt, envelopes/s",
            lambda: identity.seal(Kind.RECEIPT, body),
            lambda: bare.sign(body),
            "Ed25519",
            seconds,
        ),
        side_by_side(
            "verify receipt, envelopes/s",
            lambda: open_envelope(Kind.RECEIPT, envelope),
            lambda: public.verify(signature, body),
            "Ed25519",
            seconds,
        ),
    ]
