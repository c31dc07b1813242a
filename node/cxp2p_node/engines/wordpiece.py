"""Texts to tokens for models of BERT's kind, as Hugging Face's fast BERT tokenizer does it. Pure.

llama.cpp has its own, which loses vowel signs of Indian scripts and the ends of Korean syllables, and takes very long
words apart that are one unknown word to the model's makers: the vectors of such texts would not be the model's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

WORD_LETTERS_MAX = 100  # longer words are unknown; the makers' own limit
WORDS_KEPT_MAX = 20_000  # more than most languages use often; a few megabytes
LETTERS_KEPT_MAX = 20_000
LETTERS_AT_ONCE = 1 << 15

# Letters that are words of their own. The fifth block begins late, as it does at the model's makers.
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


CONTROLS = frozenset({"Cc", "Cf", "Co", "Cs"})


class WordPiece:
    """A vocabulary: `starts` are whole words and how words begin, `rests` how they go on."""

    def __init__(
        self,
        starts: Mapping[str, int],
        rests: Mapping[str, int],
        unknown: int,
        *,
        lowercase: bool = True,
        strip_accents: bool = True,
    ) -> None:
        self._starts = starts
        self._rests = rests
        self._unknown = (unknown,)
        self._longest = max(map(len, (*starts, *rests)), default=1)
        self._letters = _Letters(lowercase, strip_accents)
        self._words: dict[str, tuple[int, ...]] = {}

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, without marks of its beginning and end."""
        # In parts, as nothing else in this process runs meanwhile.
        parts = (text[at : at + LETTERS_AT_ONCE] for at in range(0, len(text), LETTERS_AT_ONCE))
        words = "".join(part.translate(self._letters) for part in parts).split()
        return [token for word in words for token in self._word(word)]

    def _word(self, word: str) -> tuple[int, ...]:
        known = self._words.get(word)
        if known is None:
            known = self._cut(word)
            if len(self._words) >= WORDS_KEPT_MAX:
                self._words.clear()
            if len(word) <= WORD_LETTERS_MAX:
                self._words[word] = known
        return known

    def _cut(self, word: str) -> tuple[int, ...]:
        """The longest piece that is known, again and again; one that is not known makes the whole word unknown."""
        if len(word) > WORD_LETTERS_MAX:
            return self._unknown
        tokens: list[int] = []
        at = 0
        while at < len(word):
            pieces = self._rests if at else self._starts
            for end in range(min(len(word), at + self._longest), at, -1):
                token = pieces.get(word[at:end])
                if token is not None:
                    tokens.append(token)
                    at = end
                    break
            else:
                return self._unknown
        return tuple(tokens)


class _Letters(dict[int, str]):
    """What a letter becomes, by its code point; spaces stand where words end."""

    def __init__(self, lowercase: bool, strip_accents: bool) -> None:
        super().__init__()
        self._lowercase = lowercase
        self._strip_accents = strip_accents

    def __missing__(self, code: int) -> str:
        if len(self) >= LETTERS_KEPT_MAX:
            self.clear()
        self[code] = made = self._make(chr(code))
        return made

    def _make(self, letter: str) -> str:
        if letter == "\ufffd" or (letter not in "\t\n\r" and unicodedata.category(letter) in CONTROLS):
            return ""
        if letter.isspace():
            return " "
        made = letter
        if self._strip_accents:
            parts = unicodedata.normalize("NFD", letter)
            made = "".join(part for part in parts if unicodedata.category(part) != "Mn")
        if self._lowercase:
            made = made.lower()  # of one letter at a time, so a sigma at the end of a word is as any other
        made = "".join(f" {part} " if _is_punctuation(part) else part for part in made)
        return f" {made} " if any(first <= ord(letter) <= last for first, last in IDEOGRAPHS) else made


def _is_punctuation(letter: str) -> bool:
    return (letter.isascii() and letter.isprintable() and not letter.isalnum() and letter != " ") or (
        unicodedata.category(letter)[0] == "P"
    )
