"""Texts to tokens as BERT's makers do it. Vectors of real texts in many scripts are in test_embed_reference."""

# ruff: noqa: RUF001 - letters of many scripts

from __future__ import annotations

import time
from itertools import count

import pytest

from cxp2p_node.engines import wordpiece
from cxp2p_node.engines.wordpiece import WordPiece

STARTS = "the ship un able a b c i ' - . ! ? é e s σ 東 京 ᄒ न x ½ ‐ $".split()
RESTS = "##able ##s ##a ##b ##ᅡ ##ᆫ ##म ##x ##σ".split()
NUMBERS = dict(zip([*STARTS, *RESTS], count(), strict=False))
UNKNOWN = 99


def pieces(**options: bool) -> WordPiece:
    starts = {word: NUMBERS[word] for word in STARTS}
    rests = {word.removeprefix("##"): NUMBERS[word] for word in RESTS}
    return WordPiece(starts, rests, UNKNOWN, **options)


def read(text: str, **options: bool) -> str:
    names = {number: word for word, number in NUMBERS.items()} | {UNKNOWN: "[UNK]"}
    return " ".join(names[token] for token in pieces(**options).tokens(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \t\n\u3000", ""),
        ("The Ship", "the ship"),
        ("ships", "ship ##s"),
        ("unable", "un ##able"),  # the longest beginning that is known, then the longest rest
        ("unables", "un ##able ##s"),
        ("unablex", "un ##able ##x"),
        ("unablec", "[UNK]"),  # one piece that is not known makes the whole word unknown
        ("the-ship!?", "the - ship ! ?"),
        ("a‐b $", "a ‐ b $"),  # punctuation of all scripts, and the symbols of ASCII
        ("É é e\u0301", "e e e"),
        ("東京a", "東 京 a"),
        ("한", "ᄒ ##ᅡ ##ᆫ"),  # a syllable is its three letters
        ("नम", "न ##म"),
        ("ΑΣ Σ", "[UNK] σ"),
        ("ΣΣ", "σ ##σ"),  # also at the end of a word, where Python alone would write another one
        ("a\u200bb\x00\ufffdb a\x85b", "a ##b ##b a ##b"),  # what is not to be seen does not part words
        ("a\u2028b", "a b"),
        ("\ud800a", "a"),
        ("½", "½"),
        ("[SEP]", "[UNK] [UNK] [UNK]"),  # a mark that is written out is text
    ],
)
def test_words_as_the_makers_cut_them(text: str, expected: str) -> None:
    assert read(text) == expected


def test_a_word_of_a_hundred_letters_is_read_and_a_longer_one_is_unknown() -> None:
    assert read("x" * 100) == "x" + " ##x" * 99
    assert read("x" * 101) == "[UNK]"


def test_case_and_accents_are_kept_where_the_model_knows_them() -> None:
    assert read("The é", lowercase=False, strip_accents=False) == "[UNK] é"
    assert read("THE É", lowercase=True, strip_accents=False) == "the é"


def test_what_is_remembered_of_strangers_words_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "WORDS_KEPT_MAX", 50)
    monkeypatch.setattr(wordpiece, "LETTERS_KEPT_MAX", 60)
    words = pieces()
    for number in range(500):
        words.tokens(f"a{number} {chr(0x400 + number)} {'y' * 200}{number}")
        assert len(words._words) <= 50
        assert len(words._letters) <= 60
    assert all(len(word) <= wordpiece.WORD_LETTERS_MAX for word in words._words)


@pytest.mark.slow
def test_a_megabyte_takes_seconds_at_most_whatever_is_in_it() -> None:
    words = pieces()
    for text in ("x" * 1_000_000, "xy " * 333_333, "\u0301" * 1_000_000, "東" * 333_333, "a-" * 500_000):
        begun = time.process_time()
        words.tokens(text)
        assert time.process_time() - begun < 5
