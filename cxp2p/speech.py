"""Cuts a text into parts that are read aloud one after another, and those into jobs for several nodes. Pure.

A part is a sentence or, where that is long, some of it up to a comma, a space or, at last, a letter. The first part is
short, so that the first sound comes early.
"""

from __future__ import annotations

import re
import unicodedata

TEXT_LETTERS_MAX = 10_000
PART_LETTERS_MAX = 300
FIRST_LETTERS_MAX = 100  # about six seconds of speech
JOB_LETTERS_MAX = 300  # a quarter of a minute of speech, one second of work
TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,200}>")
SENTENCE_END = re.compile(r"(?:[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[」』）]*|\n\s*\n|\n)")  # noqa: RUF001
CLAUSE_END = re.compile(r"[,;:—–](?=\s)|[，、；：]")  # noqa: RUF001
SIGNS_READ = "°©®™№℃℉"  # of the symbols that have a name: all others, also emoji, are pictures
VARIATION_SELECTORS = "".join(map(chr, range(0xFE00, 0xFE10)))
ZERO_WIDTH_NON_JOINER = "\u200c"  # separates words, or parts of them
# After these a full stop ends no sentence.
ABBREVIATIONS = frozenset(
    {"mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "e.g", "i.e", "no", "fig", "approx", "inc", "ltd"}
)
LAST_WORD = re.compile(r"([^\s.]+(?:\.[^\s.]+)*)\.$")


def parts_to_read(text: str) -> list[str]:
    """The parts of a text, none empty and none without a letter or a digit: those have no sound.

    Tags as of SSML are left out, what is between them is read; so are emoji and other pictures. Square brackets in
    pairs would be phonemes to Piper, and are read as single ones.
    """
    plain = _plain(text)
    parts: list[str] = []
    for sentence in _sentences(plain):
        rest = sentence
        while rest:
            part, rest = _first_part(rest, FIRST_LETTERS_MAX if not parts else PART_LETTERS_MAX)
            if has_sound(part):
                parts.append(part)
    return parts


def split(text: str) -> list[str]:
    """The texts of the jobs that together read `text`: the first sentence, then more and more at once.

    Nothing is told of a job before it is whole, so that another node can do it again unheard. Empty: there is nothing
    to be heard in the text.
    """
    jobs: list[str] = []
    room = 0
    for part in parts_to_read(text):
        if jobs and len(jobs[-1]) + 1 + len(part) <= room:
            jobs[-1] += " " + part
        else:
            jobs.append(part)
            room = min(FIRST_LETTERS_MAX * len(jobs), JOB_LETTERS_MAX) if len(jobs) > 1 else 0
    return jobs


def has_sound(text: str) -> bool:
    """Whether there is a letter or a number in it: everything else is silent or not worth a word."""
    return any(unicodedata.category(letter)[0] in "LN" for letter in text)


def _plain(text: str) -> str:
    text = TAG.sub(" ", text).replace("[[", "[ [").replace("]]", "] ]")
    return "".join(letter if letter.isascii() and letter.isprintable() else _heard(letter) for letter in text)


def _heard(letter: str) -> str:
    """What of a letter outside ASCII's printable ones is read: pictures, and what is only for the eye, are not."""
    match unicodedata.category(letter):
        case "Cf" | "Me":
            return " " if letter == ZERO_WIDTH_NON_JOINER else ""
        case "So" | "Sk" | "Co" | "Cn" | "Cs":
            return letter if letter in SIGNS_READ else " "
        case "Cc":
            return letter if letter in "\n\t" else " "
    return "" if letter in VARIATION_SELECTORS else letter


def _sentences(text: str) -> list[str]:
    found: list[str] = []
    start = 0
    for match in SENTENCE_END.finditer(text):
        sentence = text[start : match.end()]
        if match[0] == "." and _is_abbreviated(sentence):
            continue
        found.append(sentence)
        start = match.end()
    found.append(text[start:])
    return [each for each in (" ".join(sentence.split()) for sentence in found) if each]


def _is_abbreviated(sentence: str) -> bool:
    last = LAST_WORD.search(sentence)
    if last is None:
        return False
    word = last[1].lower().lstrip("(\"'“‘[")  # noqa: RUF001
    return word in ABBREVIATIONS or all(len(each) == 1 and each.isalpha() for each in word.split("."))


def _first_part(sentence: str, letters_max: int) -> tuple[str, str]:
    """The first part of a sentence, and the rest of it."""
    if len(sentence) <= letters_max:
        return sentence, ""
    head = sentence[:letters_max]
    clauses = [match.end() for match in CLAUSE_END.finditer(head)]
    if clauses and clauses[-1] >= letters_max // 4:
        cut = clauses[-1]
    else:
        cut = head.rfind(" ") if " " in head[1:] else letters_max
    return sentence[:cut].strip(), sentence[cut:].strip()
