"""Which voice speaks: the names that clients know, and the voices that the network has. Pure.

A Piper voice is named `en_US-joe-medium`: language, speaker, quality. The names of Kokoro's and OpenAI's voices are
aliases: what is taken is the voice on offer that is nearest in language, then in sex, then in quality.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

DEFAULT: Final = "af_bella"
NEAR_MAX: Final = 10
PIPER_NAME: Final = re.compile(r"([a-z]{2,3})_([A-Z]{2})-([\w]+)-(x_low|low|medium|high)")
QUALITIES: Final = ("x_low", "low", "medium", "high")

# Piper's speakers of one sex, as their model cards say.
_FEMALE = (
    "alba amy cori eva_k hfc_female irina jenny_dioco kathleen kerstin kristin lessac ljspeech paola ramona siwis "
    "southern_english_female"
)
_MALE = (
    "alan bryce carlfm danny davefx hfc_male joe john karlsson kusal norman northern_english_male pau reza_ibrahim "
    "riccardo ryan sam thorsten tom"
)
FEMALE, MALE = frozenset(_FEMALE.split()), frozenset(_MALE.split())


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an alias stands for."""

    language: str
    male: bool


# Kokoro's names begin with the country (American, British) and the sex.
KOKORO = "af af_bella af_nicole af_sarah af_sky am_adam am_michael bf_emma bf_isabella bf_george bm_george bm_lewis"
COUNTRIES: Final = MappingProxyType({"a": "en_US", "b": "en_GB"})
OPENAI: Final = MappingProxyType(
    {
        Wanted("en_US", False): "alloy coral marin nova sage shimmer",
        Wanted("en_US", True): "ash cedar echo onyx verse",
        Wanted("en_GB", True): "ballad fable",
    }
)
ALIASES: Final[Mapping[str, Wanted]] = MappingProxyType(
    {name: Wanted(COUNTRIES[name[0]], name[1] == "m") for name in KOKORO.split()}
    | {name: wanted for wanted, names in OPENAI.items() for name in names.split()}
)


class VoiceUnknownError(Exception):
    """Nobody knows a voice of this name. `near`: names like it, the nearest first."""

    def __init__(self, name: str, near: Sequence[str]) -> None:
        super().__init__(name)
        self.near = tuple(near)


def resolve(name: str, offered: Sequence[str]) -> str | None:
    """The voice on offer that speaks for `name`; None if none does now. Raises VoiceUnknownError."""
    by_lower = {voice.lower(): voice for voice in offered}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    wanted = ALIASES.get(name.lower())
    if wanted is not None:
        return max(offered, key=lambda voice: (*_fit(voice, wanted), voice), default=None)
    if PIPER_NAME.fullmatch(name):
        return None
    known = [*offered, *ALIASES]
    near = difflib.get_close_matches(name.lower(), known, n=NEAR_MAX, cutoff=0.3)
    raise VoiceUnknownError(name, near or known[:NEAR_MAX])


def aliases_of(offered: Sequence[str]) -> dict[str, list[str]]:
    """For each voice on offer the aliases that it speaks for."""
    spoken: dict[str, list[str]] = {voice: [] for voice in offered}
    for alias in ALIASES:
        voice = resolve(alias, offered)
        if voice is not None:
            spoken[voice].append(alias)
    return spoken


def language_of(voice: str) -> str | None:
    """`en-US` of `en_US-joe-medium`."""
    named = PIPER_NAME.fullmatch(voice)
    return f"{named[1]}-{named[2]}" if named else None


def gender_of(voice: str) -> str | None:
    """`male` or `female`, if it is known."""
    male = _is_male(voice)
    return None if male is None else "male" if male else "female"


def _is_male(voice: str) -> bool | None:
    named = PIPER_NAME.fullmatch(voice)
    speaker = named[3] if named else voice
    return True if speaker in MALE else False if speaker in FEMALE else None


def _fit(voice: str, wanted: Wanted) -> tuple[int, int, int]:
    named = PIPER_NAME.fullmatch(voice)
    if named is None:
        return (0, 0, 0)
    language = 2 if f"{named[1]}_{named[2]}" == wanted.language else int(named[1] == wanted.language[:2])
    male = _is_male(voice)
    sex = 1 if male is None else 2 * (male == wanted.male)
    return (language, sex, QUALITIES.index(named[4]))
