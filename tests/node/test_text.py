"""What text may leave: any bytes, cut anywhere, with any stop strings."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cxp2p_node.engines.text import TextFilter

# Few letters, so that stop strings overlap with the text and with themselves.
TEXTS = st.text(alphabet="abé🙂", max_size=30)
STOPS = st.lists(st.text(alphabet="abé🙂", min_size=1, max_size=4), max_size=4)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def first_stop(text: str, stops: list[str]) -> int:
    """Where the answer ends: the stop string that is complete first; of several, the one that begins first."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return min(starts)
    return len(text)


@given(TEXTS, STOPS)
def test_by_single_characters_nothing_is_lost_and_no_stop_string_leaves(text: str, stops: list[str]) -> None:
    made = TextFilter(stops)
    out = ""
    for letter in text:
        out += made.feed(letter.encode())
        assert not any(stop in out for stop in stops)
    out += made.end()
    assert out == text[: first_stop(text, stops)]
    assert made.stopped == (first_stop(text, stops) < len(text))


@given(TEXTS, STOPS, st.lists(st.integers(0, 200), max_size=20))
def test_however_tokens_cut_the_bytes_no_stop_string_leaves(text: str, stops: list[str], places: list[int]) -> None:
    made = TextFilter(stops)
    out = ""
    for token in cut(text.encode(), places):
        said = made.feed(token)
        said.encode()  # whole characters only
        out += said
    out += made.end()
    assert text.startswith(out)
    assert not any(stop in out for stop in stops)
    if not any(stop in text for stop in stops):
        assert out == text
        assert not made.stopped


@given(st.lists(st.binary(max_size=6), max_size=20))
def test_bytes_that_are_no_text_never_fail(tokens: list[bytes]) -> None:
    made = TextFilter(("a",))
    for token in tokens:
        made.feed(token).encode()
    made.end().encode()


def test_a_character_is_sent_when_it_is_whole() -> None:
    made = TextFilter()
    smile = "🙂".encode()
    assert [made.feed(smile[:1]), made.feed(smile[1:3])] == ["", ""]
    assert not made.whole
    assert made.feed(smile[3:] + b"!") == "🙂!"
    assert made.whole


def test_text_that_may_begin_a_stop_string_waits() -> None:
    made = TextFilter(("STOP",))
    assert made.feed(b"one ST") == "one "
    assert not made.whole
    assert made.feed(b"ART") == "START"
    assert made.feed(b" STOP never") == " "
    assert made.stopped
    assert made.feed(b"more") == ""
