"""What of a text a voice can read: letters of scripts that its language lacks would be spelled by their names. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# The first word of a letter's name in Unicode is its script, or what it is for. eSpeak reads these in every language.
EVERYWHERE: Final = frozenset({"LATIN", "GREEK", "CYRILLIC", "MODIFIER", "COMBINING", "FEMININE", "MASCULINE", "MICRO"})
SCRIPTS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        language: frozenset(names.split())
        for languages, names in {
            "ar fa ku ps sd ug ur": "ARABIC",
            "as bn bpy": "BENGALI",
            "hi mr ne kok": "DEVANAGARI",
            "am ti": "ETHIOPIC",
            "ka": "GEORGIAN",
            "gu": "GUJARATI",
            "pa": "GURMUKHI",
            "he": "HEBREW",
            "hy hyw": "ARMENIAN",
            "ja": "CJK HIRAGANA KATAKANA KATAKANA-HIRAGANA HALFWIDTH",
            "kn": "KANNADA",
            "ko": "HANGUL",
            "ml": "MALAYALAM",
            "my": "MYANMAR",
            "or": "ORIYA",
            "si": "SINHALA",
            "ta": "TAMIL",
            "te": "TELUGU",
            "th": "THAI",
            "cmn yue hak zh": "CJK BOPOMOFO",
        }.items()
        for language in languages.split()
    }
)


def readable(text: str, language: str) -> str:
    """The text without letters of other scripts than a voice of `language` (as eSpeak names it, `en-us`) can read."""
    known = EVERYWHERE | SCRIPTS.get(language.partition("-")[0], frozenset())
    kept = (letter if letter.isascii() else _read(letter, known) for letter in text)
    return " ".join("".join(kept).split())


def _read(letter: str, known: frozenset[str]) -> str:
    """A letter, or what stands for it: a fullwidth or a mathematical one is only another form of a usual one."""
    return next((form for form in (letter, unicodedata.normalize("NFKC", letter)) if _is_known(form, known)), " ")


def _is_known(form: str, known: frozenset[str]) -> bool:
    """Whether all letters of it, and marks on letters, are of a script that is known; other signs are of all."""
    return all(
        unicodedata.name(each, "").partition(" ")[0] in known for each in form if unicodedata.category(each)[0] in "LM"
    )
