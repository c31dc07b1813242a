"""A text is cut into parts that are read aloud, and those into jobs: nothing is lost, nothing is too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.speech import FIRST_LETTERS_MAX, JOB_LETTERS_MAX, PART_LETTERS_MAX, has_sound, parts_to_read, split


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Hello. How are you?  Fine!", ["Hello.", "How are you?", "Fine!"]),
        ("Dr. Smith paid $3.50 to Mrs. Jones.", ["Dr. Smith paid $3.50 to Mrs. Jones."]),
        ("See e.g. the U.S. model. It works.", ["See e.g. the U.S. model.", "It works."]),
        ("One line\nanother line\n\nand a paragraph", ["One line", "another line", "and a paragraph"]),
        ("「こんにちは。」元気ですか？はい。", ["「こんにちは。」", "元気ですか？", "はい。"]),  # noqa: RUF001
        ('He said: "Stop!" She did.', ['He said: "Stop!"', "She did."]),
        ("<speak>Hi <break time='1s'/> there</speak>", ["Hi there"]),
        ("2 < 3 and 5 > 4", ["2 < 3 and 5 > 4"]),
        ("a [[h@loU]] b", ["a [ [h@loU] ] b"]),
        ("Wait... what?", ["Wait...", "what?"]),
        ("Hi 😀. 😀 😀. Bye.", ["Hi .", "Bye."]),
        ("... !!! ---", []),
        ("", []),
        ("\x00\x07 \n ", []),
    ],
)
def test_a_text_becomes_sentences(text: str, parts: list[str]) -> None:
    assert parts_to_read(text) == parts


def test_a_long_sentence_is_cut_where_one_breathes() -> None:
    """At a comma if there is one, else at a space, else anywhere."""
    commas = "First a clause of some length, " * 30
    words = "word " * 200
    letters = "x" * 1000

    assert all(part.endswith(",") for part in parts_to_read(commas))
    assert set(" ".join(parts_to_read(words)).split()) == {"word"}
    assert [len(part) for part in parts_to_read(letters)] == [100, 300, 300, 300]


@given(st.text(alphabet="abcXYZ019 .,!?\n<>[]é世。😀", max_size=2000))
def test_no_letter_is_lost_and_no_part_is_long(text: str) -> None:
    parts = parts_to_read(text.replace("<", "").replace(">", ""))

    heard = [letter for letter in text if has_sound(letter)]
    assert [letter for part in parts for letter in part if has_sound(letter)] == heard
    assert all(part.strip() == part and len(part) <= PART_LETTERS_MAX and has_sound(part) for part in parts)
    assert not parts or len(parts[0]) <= FIRST_LETTERS_MAX


@given(st.lists(st.sampled_from(["Short.", "Somewhat longer, this one is.", "x" * 400 + ".", "?"]), max_size=80))
def test_jobs_hold_the_same_parts(sentences: list[str]) -> None:
    """The first is a single part; the others grow up to a limit."""
    text = " ".join(sentences)
    jobs = split(text)

    assert " ".join(jobs) == " ".join(parts_to_read(text))
    assert not jobs or jobs[0] == parts_to_read(text)[0]
    assert all(len(job) <= JOB_LETTERS_MAX for job in jobs)


def test_ten_thousand_letters_are_a_few_jobs() -> None:
    """Each costs an order."""
    assert 34 <= len(split("A sentence of some thirty letters. " * 285)) <= 40
