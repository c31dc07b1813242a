"""The pipe between a node and its worker: whatever comes out of it, the node knows what it is."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.errors import RemoteProtocolError
from cxp2p.records import CallPart, FailureCode, Finish, Piece
from cxp2p_node.engines.frames import (
    FRAME_BYTES_MAX,
    Alive,
    Counted,
    Credit,
    Done,
    Failed,
    Frames,
    Loaded,
    Made,
    Message,
    Start,
    Stop,
    Unfit,
    pack,
)

MESSAGES: tuple[Message, ...] = (
    Start(job=1, request=b"request", seed=2, max_out=3, credit=4),
    Credit(job=1, pieces=2),
    Stop(job=1),
    Loaded(runtime="llama.cpp", context_units=512),
    Unfit(reason="no"),
    Counted(job=1, in_units=2, cached_units=1),
    Made(job=1, piece=Piece(text="é", token_ids=(1, 2), calls=(CallPart(number=0, name="f"),))),
    Done(job=1, finish=Finish.STOP),
    Failed(job=1, code=FailureCode.CONTEXT_LENGTH, reason="long", limit=1, actual=2),
    Alive(),
)


@given(st.lists(st.sampled_from(MESSAGES), max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
def test_frames_come_out_as_they_went_in_however_the_pipe_cuts_them(said: list[Message], places: list[int]) -> None:
    data = b"".join(map(pack, said))
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    frames = Frames()
    heard: list[Message] = []
    for start, end in itertools.pairwise(edges):
        heard += frames.feed(data[start:end])
    assert heard == said


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_garbage_is_a_protocol_error_and_nothing_else(chunks: list[bytes]) -> None:
    frames = Frames()
    with contextlib.suppress(RemoteProtocolError):
        for chunk in chunks:
            frames.feed(chunk)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((FRAME_BYTES_MAX + 1).to_bytes(4, "big"), f"frame of {FRAME_BYTES_MAX + 1} bytes"),
        (b"\0\0\0\0", "frame of 0 bytes"),
        (b"\0\0\0\2\x63\xa0", "unknown worker frame tag 99"),
        (b"\0\0\0\2\x0e\xa0", r"Done\.\w+: Field required"),
    ],
)
def test_a_frame_that_is_none_is_refused_by_what_is_wrong(data: bytes, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=said):
        Frames().feed(data)
