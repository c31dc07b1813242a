"""Pieces cut to fit into frames, and joined when they wait: nothing is lost, whatever they hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p import protocols
from cxp2p.net.pump import join_pieces, split_piece
from cxp2p.records import Alternative, CallPart, Logprob, Piece
from cxp2p.wire import encode_frame

TEXTS = st.text(max_size=40).map(lambda text: text * 400) | st.text(max_size=20)
LOGPROBS = st.builds(
    Logprob,
    data=st.binary(max_size=40),
    logprob=st.floats(-100, 0),
    top=st.lists(st.builds(Alternative, data=st.binary(max_size=40), logprob=st.floats(-100, 0)), max_size=20).map(
        tuple
    ),
)
CALLS = st.lists(
    st.builds(CallPart, number=st.integers(0, 2), name=st.none() | st.just("f"), arguments=TEXTS), max_size=3
)
PIECES = st.builds(
    Piece,
    text=TEXTS,
    token_ids=st.lists(st.integers(0, 2**32 - 1), max_size=600).map(tuple)
    | st.integers(1024, 4096).map(lambda count: tuple(range(count))),
    reasoning=TEXTS,
    calls=CALLS.map(tuple),
    logprobs=st.lists(LOGPROBS, max_size=40).map(tuple),
    data=st.binary(max_size=40).map(lambda data: data * 2000) | st.just(b""),
    units=st.integers(0, 9),
)


def meaning(pieces: list[Piece]) -> tuple[object, ...]:
    """What pieces say together. A call's arguments may come in any number of parts."""
    parts: list[tuple[int, str | None, str]] = []
    for part in (part for piece in pieces for part in piece.calls):
        if parts and part.name is None and parts[-1][0] == part.number:
            parts[-1] = (part.number, parts[-1][1], parts[-1][2] + part.arguments)
        else:
            parts.append((part.number, part.name, part.arguments))
    return (
        "".join(piece.text for piece in pieces),
        "".join(piece.reasoning for piece in pieces),
        [token for piece in pieces for token in piece.token_ids],
        [logprob for piece in pieces for logprob in piece.logprobs],
        parts,
        b"".join(piece.data for piece in pieces),
        sum(piece.units for piece in pieces),
    )


@given(PIECES)
def test_a_piece_of_any_size_is_cut_into_frames_that_say_the_same(piece: Piece) -> None:
    parts = split_piece(piece)
    assert meaning(parts) == meaning([piece])
    assert all(len(encode_frame(part)) <= protocols.FRAME_BYTES_MAX for part in parts)


@pytest.mark.parametrize("count", [0, 1, 1024, 1025, 4096])
def test_token_ids_without_a_text_are_cut_too(count: int) -> None:
    """A model that says only special tokens makes pieces of ids alone; joined after the cut they are still pieces."""
    parts = split_piece(Piece(text="", token_ids=tuple(range(count))))
    join_pieces([*[Piece(text="x", token_ids=(1,))] * 1638, parts[0]])

    assert [token for part in parts for token in part.token_ids] == list(range(count))


@pytest.mark.slow
@given(st.lists(PIECES.filter(lambda piece: len(piece.token_ids) < 1024), min_size=1, max_size=4))
def test_joined_pieces_say_the_same(pieces: list[Piece]) -> None:
    assert meaning([join_pieces(pieces)]) == meaning(pieces)
