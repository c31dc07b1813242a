from __future__ import annotations

import datetime
import itertools

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p import protocols
from cxp2p.errors import LocalProtocolError, RemoteProtocolError
from cxp2p.records import Accepted, Cancel, ChatJob, Failure, FailureCode, Order, Piece, Refusal, RefusalCode
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


MANY = (200_000).to_bytes(4, "big")


@pytest.mark.parametrize("item", [b"\xa0", b"\x00", b"\x60", b"\x82\x00\x00", b"\xf9\x00\x00"])
def test_a_large_body_of_tiny_items_is_not_decoded(item: bytes) -> None:
    """A body may be large, but not made of so many parts that decoding them stops the program for seconds."""
    items = b"\x9a" + MANY + item * 200_000
    with pytest.raises(RemoteProtocolError, match="items"):
        decode(ChatJob, b"\xa2\x65model\x61x\x68messages" + items)
    with pytest.raises(RemoteProtocolError, match="items"):
        decode_frame(b"\x82\x01" + items)


def test_a_large_body_of_few_items_is_decoded() -> None:
    """The largest prompt of one message, and one of the most messages, both pass."""
    for turns, size in ((1, 15 * 2**20), (1024, 15 * 2**10)):
        messages = [{"role": "user", "content": "a" * size}] * turns
        assert len(decode(ChatJob, cbor2.dumps({"model": "x", "messages": messages})).messages) == turns


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", True, b"1", -0.1])
def test_a_number_is_a_number(value: object) -> None:
    """What samples is a finite number within its range: not a text that looks like one, and not NaN."""
    job = {"model": "x", "messages": [{"role": "user", "content": "a"}]}
    for sampling in ({"temperature": value}, {"top_p": value}, {"logit_bias": [[1, value]]}):
        if value == -0.1 and "logit_bias" in sampling:
            continue
        with pytest.raises(RemoteProtocolError):
            decode(ChatJob, cbor2.dumps({**job, "sampling": sampling}))
    assert decode(ChatJob, cbor2.dumps({**job, "sampling": {"temperature": 1}})).sampling.temperature == 1


def test_a_fault_tells_little_of_a_strangers_words() -> None:
    """A field name of kilobytes does not fill our log."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode(Accepted, cbor2.dumps({"queued": 1, "k" * 9000: 2}))
    assert len(str(caught.value)) < 300


def test_a_word_is_text() -> None:
    """The same letters as a byte string are refused, so that what is signed is said in one way only."""
    job = {"model": "x", "messages": [{"role": "user", "content": "a"}]}
    assert decode(ChatJob, cbor2.dumps(job)).messages[0].role.value == "user"
    for role in (b"user", 1, None, "nobody"):
        with pytest.raises(RemoteProtocolError, match="role"):
            decode(ChatJob, cbor2.dumps({**job, "messages": [{"role": role, "content": "a"}]}))
