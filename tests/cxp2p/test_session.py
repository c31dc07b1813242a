from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p import protocols
from cxp2p.errors import LocalProtocolError, RemoteProtocolError
from cxp2p.records import (
    Accepted,
    Ask,
    Cancel,
    CountersignSent,
    Failure,
    FailureCode,
    Piece,
    ReceiptSent,
    Refusal,
    RefusalCode,
    VoucherSent,
)
from cxp2p.session import Event, Session, Side, State
from cxp2p.wire import encode_frame

ASK = Ask(order=b"o", salt=b"s" * 16, request=b"r")
ACCEPTED = Accepted(queued=0)
REFUSAL = Refusal(code=RefusalCode.BUSY, reason="full", retry_after_ms=5)
PIECE = Piece(text="é", token_ids=(1, 2))
CANCEL = Cancel()
FAILURE = Failure(code=FailureCode.ENGINE_DIED, reason="gone", limit=0, actual=0)
RECEIPT = ReceiptSent(envelope=b"e")
COUNTERSIGN = CountersignSent(envelope=b"c")
VOUCHER = VoucherSent(envelope=b"v")
EVERYTHING: list[Event] = [ASK, ACCEPTED, REFUSAL, PIECE, CANCEL, FAILURE, RECEIPT, COUNTERSIGN, VOUCHER]

WHOLE: list[list[tuple[Side, Event]]] = [
    [(Side.ASKER, ASK), (Side.NODE, REFUSAL)],
    [(Side.ASKER, ASK), (Side.NODE, ACCEPTED), (Side.NODE, FAILURE)],
    [(Side.ASKER, ASK), (Side.NODE, ACCEPTED), (Side.NODE, RECEIPT), (Side.ASKER, COUNTERSIGN)],
    [
        (Side.ASKER, ASK),
        (Side.ASKER, CANCEL),
        (Side.NODE, ACCEPTED),
        (Side.NODE, PIECE),
        (Side.NODE, RECEIPT),
        (Side.ASKER, COUNTERSIGN),
    ],
    [
        (Side.ASKER, ASK),
        (Side.NODE, ACCEPTED),
        *[(Side.NODE, PIECE)] * 5,
        (Side.ASKER, VOUCHER),
        (Side.NODE, PIECE),
        (Side.ASKER, VOUCHER),
        (Side.NODE, RECEIPT),
        (Side.ASKER, COUNTERSIGN),
    ],
]


class Pair:
    """Two real sessions on a cable that cuts where it is told."""

    def __init__(self, cuts: list[int]) -> None:
        self.ends = {side: Session(side) for side in Side}
        self.cuts = cuts

    def say(self, side: Side, event: Event) -> list[Event]:
        data = self.ends[side].send(event)
        other = self.ends[Side.NODE if side is Side.ASKER else Side.ASKER]
        edges = sorted({0, len(data), *(c % (len(data) + 1) for c in self.cuts)})
        heard: list[Event] = []
        for start, end in itertools.pairwise(edges):
            heard += other.receive(data[start:end])
        return heard


@pytest.mark.parametrize("talk", WHOLE)
@given(cuts=st.lists(st.integers(0, 500), max_size=30))
def test_a_whole_conversation_ends_done_on_both_sides(talk: list[tuple[Side, Event]], cuts: list[int]) -> None:
    """Both ends agree on every event and on the end, wherever the bytes are cut."""
    pair = Pair(cuts)
    for side, event in talk:
        assert [event] == pair.say(side, event)
        assert pair.ends[Side.ASKER].states == pair.ends[Side.NODE].states

    assert pair.ends[Side.ASKER].states[Side.NODE] is State.DONE
    assert pair.ends[Side.ASKER].receive(b"") == []


@given(st.lists(st.tuples(st.sampled_from(Side), st.sampled_from(EVERYTHING)), max_size=12))
def test_both_ends_apply_the_same_rules(talk: list[tuple[Side, Event]]) -> None:
    """What one end may not say, the other end would not have accepted: the tables are the same for both."""
    pair = Pair([])
    for side, event in talk:
        other = pair.ends[Side.NODE if side is Side.ASKER else Side.ASKER]
        states = dict(pair.ends[side].states)
        try:
            pair.ends[side].send(event)
        except LocalProtocolError:
            assert pair.ends[side].states == states
            with pytest.raises(RemoteProtocolError):
                other.receive(encode_frame(event))
            return
        other.receive(encode_frame(event))


def test_a_cancel_may_cross_the_receipt() -> None:
    """The asker cancels while the receipt is on its way: both are legal, and the countersign still follows."""
    asker, node = Session(Side.ASKER), Session(Side.NODE)
    node.receive(asker.send(ASK))
    asker.receive(node.send(ACCEPTED))
    receipt = node.send(RECEIPT)
    cancel = asker.send(CANCEL)

    assert node.receive(cancel) == [CANCEL]
    assert asker.receive(receipt) == [RECEIPT]
    assert node.receive(asker.send(COUNTERSIGN)) == [COUNTERSIGN]


@pytest.mark.parametrize("spoken", [[], [ACCEPTED], [ACCEPTED, PIECE]])
def test_an_end_in_the_middle_never_looks_like_the_end(spoken: list[Event]) -> None:
    """A stream that ended before the receipt is a protocol error, not an answer."""
    asker, node = Session(Side.ASKER), Session(Side.NODE)
    node.receive(asker.send(ASK))
    for event in spoken:
        asker.receive(node.send(event))

    with pytest.raises(RemoteProtocolError, match="middle of the conversation"):
        asker.receive(b"")


def test_an_end_inside_a_frame_is_an_error() -> None:
    """Bytes that stop inside a frame are a protocol error."""
    asker, node = Session(Side.ASKER), Session(Side.NODE)
    node.receive(asker.send(ASK))
    asker.receive(node.send(REFUSAL)[:-1])

    with pytest.raises(RemoteProtocolError):
        asker.receive(b"")


def test_only_the_ask_may_be_large() -> None:
    """After the Ask a node accepts no frame over 64 KiB."""
    asker, node = Session(Side.ASKER), Session(Side.NODE)
    big = Ask(order=b"o", salt=b"s" * 16, request=bytes(1024 * 1024))
    assert node.receive(asker.send(big)) == [big]

    with pytest.raises(RemoteProtocolError, match="over the limit"):
        node.receive(encode_frame(CountersignSent(envelope=bytes(protocols.FRAME_BYTES_MAX))))


def test_we_cannot_send_what_the_peer_would_refuse() -> None:
    """A piece over the frame limit is our own bug, found before it is sent."""
    asker, node = Session(Side.ASKER), Session(Side.NODE)
    node.receive(asker.send(ASK))
    node.send(ACCEPTED)

    with pytest.raises(LocalProtocolError, match="over the limit"):
        node.send(Piece(text="x" * protocols.FRAME_BYTES_MAX, token_ids=()))


def test_the_repr_tells_the_state() -> None:
    """A session shows both sides' states."""
    asker = Session(Side.ASKER)
    asker.send(ASK)

    assert repr(asker) == "<Session ASKER [asker ASKED, node FRESH]>"


@pytest.mark.parametrize("spoken", [[], [(Side.NODE, ACCEPTED), (Side.ASKER, CANCEL)]])
def test_a_voucher_is_about_a_running_job(spoken: list[tuple[Side, Event]]) -> None:
    """Not before the job is taken, and not after a cancel."""
    pair = Pair([])
    pair.say(Side.ASKER, ASK)
    for side, event in spoken:
        pair.say(side, event)

    with pytest.raises(LocalProtocolError, match="may not send VoucherSent"):
        pair.ends[Side.ASKER].send(VOUCHER)
    with pytest.raises(RemoteProtocolError, match="may not send VoucherSent"):
        pair.ends[Side.NODE].receive(encode_frame(VOUCHER))
