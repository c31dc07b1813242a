"""Vectors of many inputs: which weights, which parts, and what comes of a node's bytes."""

from __future__ import annotations

import math
import struct
from array import array
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p import embed, protocols
from cxp2p.directory import Entry, Via
from cxp2p.embed import PART_BYTES, Gathering, digests, no_room, nodes_fault, parts_max, places, shortened, split
from cxp2p.errors import (
    AnswerRefused,
    CxError,
    InsufficientCredit,
    JobFailed,
    JobRefused,
    NoNode,
    PeerUnreachable,
    RemoteProtocolError,
)
from cxp2p.records import EmbedJob, FailureCode, Piece, RefusalCode, Service
from cxp2p.routing import Candidate, rank
from cxp2p.testing.records import make_capability, make_identity, make_offer
from cxp2p.wire import decode, encode
from embedders import bytes_of, vector_of

TEXTS = st.text(max_size=30) | st.integers(1, 3 * PART_BYTES).map(lambda size: "x" * size)
TOKENS = st.integers(1, 20_000).map(lambda count: (7,) * count)


def vectors(count: int, dimensions: int = 8) -> list[array[float]]:
    return [vector_of(str(number), dimensions) for number in range(count)]


def fed(gathering: Gathering, data: bytes, units: int, step: int = 50) -> Gathering:
    """Takes bytes in small pieces, the units with the last one."""
    for start in range(0, len(data), step):
        last = start + step >= len(data)
        gathering.take(Piece(data=data[start : start + step], units=units if last else 0))
    return gathering


# Parts.


@given(st.lists(TEXTS | TOKENS, min_size=1, max_size=60), st.integers(1, 16))
def test_parts_are_all_inputs_in_order(inputs: list[str | tuple[int, ...]], places: int) -> None:
    """None is empty, none is larger than an order holds, and there are not many more of them than places."""
    parts = split(inputs, places)

    assert [index for part in parts for index in part] == list(range(len(inputs)))
    assert all(part for part in parts)
    for part in parts:
        job = EmbedJob(model="m", inputs=tuple(inputs[part.start : part.stop]))
        data = encode(job)
        assert len(data) < protocols.ASK_BYTES_MAX
        assert decode(EmbedJob, data) == job
    forced = sum(len(each) for each in inputs if not isinstance(each, str)) // (embed.PART_VALUES_MAX // 2)
    assert len(parts) <= embed.PARTS_PER_PLACE * places + forced + 1


@pytest.mark.parametrize("places", [1, 2, 5, 16])
def test_parts_are_about_equal(places: int) -> None:
    """By their bytes, not by their number: one long text weighs as much as a hundred short ones."""
    rng = Random(places)
    inputs = ["x" * round(rng.expovariate(1 / 400)) for _ in range(2048)]
    parts = split(inputs, places)
    weights = [sum(len(inputs[index]) + embed.INPUT_BYTES for index in part) for part in parts]
    longest = max(len(each) for each in inputs) + embed.INPUT_BYTES

    assert len(parts) == (1 if places == 1 else min(sum(weights) // PART_BYTES, places * embed.PARTS_PER_PLACE))
    assert max(weights) - min(weights) <= 2 * longest


def test_a_small_request_stays_whole() -> None:
    """An order costs more than it saves."""
    small = ["a text of twenty bytes"] * 100

    assert split(small, 16) == [range(100)]
    assert parts_max(small) == 1
    assert parts_max(small * 10) == 4
    assert len(split(small * 10, 16)) == 4


def test_a_part_is_one_order() -> None:
    """However many nodes there are: 2,048 inputs, 32,768 values and 17 MiB fit into one."""
    assert split([""] * 5000, 1) == [range(2048), range(2048, 4096), range(4096, 5000)]
    assert split([(1,) * 20_000] * 2, 1) == [range(1), range(1, 2)]
    assert split(["x" * 9_000_000] * 2, 1) == [range(1), range(1, 2)]


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ([], "there is no input"),
        (["fine", (1,) * 32_768], "input 1 is larger"),
        (["x" * 17_900_000], "input 0 is larger"),
        (["é" * 9_000_000], "input 0 is larger"),
    ],
)
def test_an_input_that_no_order_holds_is_refused(inputs: list[str | tuple[int, ...]], why: str) -> None:
    """Here, not by a node that would break the conversation off for it."""
    with pytest.raises(JobRefused, match=why) as refused:
        split(inputs, 4)
    assert refused.value.code is RefusalCode.REQUEST_INVALID


# Weights.


def candidate(digest: bytes, *, useful: bool = False, slots: int = 2) -> Candidate:
    able = make_capability(service=Service.EMBED, model_digest=digest * 32, slots=slots)
    entry = Entry(make_offer(make_identity(1), 1), b"", Via.DHT, 0)
    entry.useful_at = 5.0 if useful else -math.inf
    return entry, able


@pytest.mark.parametrize(
    ("offered", "useful", "order"),
    [
        ("aab", "", "ab"),
        ("abb", "", "ba"),
        ("ba", "", "ab"),
        ("abbb", "a", "ab"),
        ("aabbb", "ab", "ba"),
        ("", "", ""),
    ],
)
def test_the_weights_of_most_nodes_are_taken(offered: str, useful: str, order: str) -> None:
    """But those of nodes that did jobs of ours first: peers that nobody knows can be made in any number."""
    candidates = [candidate(each.encode()) for each in offered]
    candidates += [candidate(each.encode(), useful=True) for each in useful]

    assert [digest[:1] for digest in digests(candidates)] == [each.encode() for each in order]


@pytest.mark.parametrize(
    ("slots", "most"), [([], 1), ([64], 1), ([1, 1], 2), ([0, 1], 2), ([4, 8], 12), ([2**31 - 1] * 2, 16)]
)
def test_as_many_parts_run_at_once_as_nodes_have_slots(slots: list[int], most: int) -> None:
    """But at most 16, whatever they say; and one if there is one node."""
    assert places([candidate(b"a", slots=each) for each in slots]) == most


def asked(candidates: list[Candidate], times: int) -> list[int]:
    """How many of so many jobs at once each of these gets."""
    rng = Random(7)
    for _ in range(times):
        entry, _able = rank(candidates, (), rng, 0.0)[0]
        entry.jobs += 1
    return [entry.jobs for entry, _able in candidates]


def test_parts_at_once_go_to_all_nodes() -> None:
    """Also to one that nobody knows yet, and whatever others say of their slots and their speed."""
    quick, unknown, slow = (candidate(b"a", slots=slots) for slots in (64, 16, 16))
    quick[0].first_piece_ms, slow[0].first_piece_ms = 5.0, 5000.0
    quick[0].measured_at = slow[0].measured_at = 0.0

    assert asked([quick, unknown, slow], 30) == [10, 10, 10]


def test_a_full_node_gets_no_more_parts_while_another_has_room() -> None:
    """Then they are queued where fewest are."""
    small, large = candidate(b"a", slots=2), candidate(b"a", slots=8)

    assert asked([small, large], 10) == [2, 8]
    assert asked([small, large], 6) == [8, 8]


def test_a_node_that_has_to_load_the_model_first_comes_last() -> None:
    """A part that waits for it would keep the others waiting."""
    ready, later = candidate(b"a", slots=4), candidate(b"a", slots=4)
    later = later[0], replace(later[1], load=replace(later[1].load, loading_ms=900))

    assert asked([later, ready], 6) == [2, 4]


# What comes of bytes.


@pytest.mark.parametrize("dimensions", [1, 8, 384, 8192])
@pytest.mark.parametrize("step", [1000, 65_536])
def test_vectors_are_what_was_sent(dimensions: int, step: int) -> None:
    """However the bytes were cut, and however many are made at once."""
    sent = vectors(5, dimensions)
    gathering = fed(Gathering(5), bytes_of(sent), 5, step)

    assert gathering.end(0) == ""
    assert (gathering.dimensions, gathering.cut(2), gathering.cut(2), gathering.cut(2)) == (
        dimensions,
        True,
        True,
        False,
    )
    assert gathering.vectors == sent


@pytest.mark.parametrize(
    ("size", "dimensions", "fault"),
    [
        (0, 0, "0 bytes are not 3 vectors"),
        (4 * 8 * 3 - 1, 0, "95 bytes are not 3 vectors"),
        (4 * 8 * 2, 0, "64 bytes are not 3 vectors"),
        (4 * 8 * 3, 16, "the vectors have 8 numbers, those of other nodes 16"),
        (4 * 8 * 3, 8, ""),
        (4 * 8192 * 3, 0, ""),
    ],
)
def test_an_answer_has_the_right_size(size: int, dimensions: int, fault: str) -> None:
    """Every vector has as many numbers as those of other nodes."""
    assert fed(Gathering(3), bytes(size), 3, 60_000).end(dimensions) == fault


def test_more_bytes_than_vectors_may_have_are_not_taken() -> None:
    """8,192 numbers each, and not one byte more."""
    gathering = fed(Gathering(2), bytes(2 * 8192 * 4), 2, 65_536)

    with pytest.raises(RemoteProtocolError, match="65537 bytes are more than 2 vectors"):
        gathering.take(Piece(data=b"x"))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 0.0, 1.1, 3e38])
@pytest.mark.parametrize("place", [0, 2])
def test_what_is_not_of_length_1_is_no_vector(number: float, place: int) -> None:
    """And what came with it is not kept either."""
    sent = vectors(3)
    sent[place] = array("f", [number] * 8)
    gathering = fed(Gathering(3), bytes_of(sent), 3)

    assert gathering.end(0) == ""
    with pytest.raises(RemoteProtocolError, match="length 1"):
        gathering.cut(10)
    assert gathering.vectors == []


@pytest.mark.parametrize(("length", "taken"), [(0.9985, False), (0.9995, True), (1.0005, True), (1.0015, False)])
def test_a_length_is_right_to_a_thousandth(length: float, taken: bool) -> None:
    """Half precision is ten times more exact than that."""
    gathering = fed(Gathering(1), struct.pack("<2f", length, 0), 1)
    assert gathering.end(0) == ""

    if taken:
        assert not gathering.cut(1)
    else:
        with pytest.raises(RemoteProtocolError):
            gathering.cut(1)


@pytest.mark.parametrize(
    ("size", "units", "dimensions", "kept"),
    [
        (4 * 32, 4, 0, 4),  # four whole ones, as the node says
        (4 * 32, 4, 8, 4),
        (4 * 32 + 5, 4, 8, 4),  # and a beginning of the next
        (4 * 32 + 5, 4, 0, 0),  # nobody can tell where one ends
        (4 * 32, 0, 0, 0),
        (4 * 32, 0, 8, 4),
        (9 * 32, 9, 0, 9),
        (10 * 32, 10, 0, 9),  # the last one is asked for again
        (10 * 32, 10, 8, 9),
    ],
)
def test_what_is_whole_of_an_answer_that_broke_off_is_kept(size: int, units: int, dimensions: int, kept: int) -> None:
    """As far as it can be told where a vector ends: from other answers, or because the bytes end with one."""
    sent = vectors(10)
    gathering = fed(Gathering(10), bytes_of(sent)[:size], units)
    gathering.break_off(dimensions, 9)

    assert not gathering.cut(100)
    assert gathering.vectors == sent[:kept]


def test_a_wrong_guess_of_their_length_is_seen() -> None:
    """One vector and a half are not one of twelve numbers."""
    gathering = fed(Gathering(10), bytes_of(vectors(2))[:48], 1)
    gathering.break_off(0, 9)

    with pytest.raises(RemoteProtocolError):
        gathering.cut(100)
    assert gathering.vectors == []


def test_a_vector_can_be_shortened() -> None:
    """Its first numbers, of length 1 again; one that has only zeros there stays as it is."""
    vector = vector_of("x", 64)
    short = shortened(vector, 16)

    assert math.isclose(math.hypot(*short), 1, rel_tol=1e-6)
    assert all(math.isclose(a / b, short[0] / vector[0], rel_tol=1e-5) for a, b in zip(short, vector, strict=False))
    assert list(shortened(array("f", [0, 0, 1]), 2)) == [0, 0]


# Whose fault.


@pytest.mark.parametrize(
    ("error", "elsewhere", "later"),
    [
        (NoNode("x"), True, False),
        (PeerUnreachable("x"), True, False),
        (RemoteProtocolError("x"), True, False),
        (AnswerRefused("x"), True, False),
        (InsufficientCredit("x"), True, True),
        (JobRefused(RefusalCode.BUSY, ""), True, True),
        (JobRefused(RefusalCode.PRICE_TOO_LOW, ""), True, False),
        (JobRefused(RefusalCode.REQUEST_INVALID, ""), False, False),
        (JobFailed(FailureCode.ENGINE_DIED, ""), True, False),
        (JobFailed(FailureCode.TIMEOUT, ""), False, False),
        (JobFailed(FailureCode.CONTEXT_LENGTH, ""), False, False),
        (CxError("x"), False, False),
    ],
)
def test_only_what_is_a_nodes_fault_is_tried_elsewhere(error: CxError, elsewhere: bool, later: bool) -> None:
    """A request that cannot be done is not done by asking again, and a deadline does not come back."""
    assert (nodes_fault(error), no_room(error)) == (elsewhere, later)
