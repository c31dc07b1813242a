from __future__ import annotations

import datetime
import itertools

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p import protocols
from cxp2p.errors import LocalProtocolError, RemoteProtocolError
from cxp2p.records import Accepted, Cancel, Failure, FailureCode, Order, Piece, Refusal, RefusalCode
from cxp2p.wire import RECORD_OF_TAG, FrameReader, decode, decode_frame, encode, encode_frame, encode_uvarint

counts = st.integers(0, 2**31 - 1)
reasons = st.text(max_size=64)
frames = st.one_of(
    st.builds(Accepted, queued=counts),
    st.builds(Refusal, code=st.sampled_from(RefusalCode), reason=reasons, retry_after_ms=counts),
    st.builds(Piece, text=st.text(max_size=200), token_ids=st.lists(st.integers(0, 2**32 - 1), max_size=50).map(tuple)),
    st.builds(Cancel),
    st.builds(Failure, code=st.sampled_from(FailureCode), reason=reasons, limit=counts, actual=counts),
)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 10_000), max_size=40))
def test_frames_survive_any_cut(sent: list[object], cuts: list[int]) -> None:
    """However the network cuts the bytes, the same records come out in the same order."""
    reader = FrameReader(protocols.FRAME_BYTES_MAX)
    received = []
    for part in cut(b"".join(encode_frame(each) for each in sent), cuts):
        reader.feed(part)
        while (value := reader.next()) is not None:
            received.append(value)

    assert sent == received
    assert reader.empty


@given(st.binary(max_size=300))
def test_garbage_is_the_peers_fault(data: bytes) -> None:
    """Any bytes either decode or raise RemoteProtocolError: nothing else escapes."""
    reader = FrameReader(200)
    reader.feed(data)
    try:
        while reader.next() is not None:
            pass
    except RemoteProtocolError:
        pass


cbor_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=4),
    max_leaves=20,
)


@given(st.sampled_from(sorted(RECORD_OF_TAG)), cbor_values)
def test_wrong_bodies_are_the_peers_fault(tag: int, body: object) -> None:
    """Valid CBOR in the wrong shape decodes to the right record or raises RemoteProtocolError."""
    try:
        value = decode_frame(cbor2.dumps([tag, body]))
    except RemoteProtocolError:
        return
    assert type(value) is RECORD_OF_TAG[tag]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (cbor2.dumps(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)), "tag"),
        (cbor2.dumps(2**70), "tag"),
        (b"\xd8\x2a\x00", "tag"),
        (b"\xa2\x61a\x01\x61a\x02", "Duplicate"),
        (b"\x9f\xff", "indefinite"),
        (b"\x81" * 40 + b"\x00", "depth"),
        (b"\x00\x00", "after the end"),
        (b"", "not valid CBOR"),
        (cbor2.dumps({"queued": 1, "more": 2}), "Accepted.more"),
        (cbor2.dumps({}), "Accepted.queued"),
        (cbor2.dumps({"queued": True}), "Accepted.queued"),
        (cbor2.dumps({"queued": 1.0}), "Accepted.queued"),
        (cbor2.dumps({"queued": -1}), "Accepted.queued"),
        (cbor2.dumps([1]), "Accepted"),
    ],
)
def test_decoding_is_strict(data: bytes, fault: str) -> None:
    """What is not exactly the record is refused, and the error names the fault."""
    with pytest.raises(RemoteProtocolError, match=fault):
        decode(Accepted, data)


def test_a_frame_over_the_limit_is_refused_before_it_arrives() -> None:
    """The length alone refuses a frame: nothing of it is buffered."""
    reader = FrameReader(100)
    reader.feed(encode_uvarint(101))

    with pytest.raises(RemoteProtocolError, match="over the limit of 100"):
        reader.next()


@pytest.mark.parametrize("header", [b"\xff\xff\xff\xff", b"\x80\x80\x80\x80\x01", b"\x80\x00"])
def test_a_hostile_length_is_refused(header: bytes) -> None:
    """Endless, oversized and padded lengths are protocol errors."""
    reader = FrameReader(protocols.ASK_BYTES_MAX)
    reader.feed(header)

    with pytest.raises(RemoteProtocolError):
        reader.next()


def test_a_record_without_a_tag_cannot_be_a_frame() -> None:
    """Sending a record that has no tag is our own bug."""
    with pytest.raises(LocalProtocolError, match="bytes has no frame tag"):
        encode_frame(b"")


def test_signed_records_hold_no_float() -> None:
    """Money and time are integers: a float in an order is refused."""
    fields = {name: 0 for name in Order.__dataclass_fields__}

    with pytest.raises(RemoteProtocolError):
        decode(Order, cbor2.dumps({**fields, "max_charge": 0.5}))


@given(frames)
def test_encoding_is_deterministic(value: object) -> None:
    """The same value always gives the same bytes, and they decode to it."""
    assert encode(value) == encode(decode(type(value), encode(value)))
