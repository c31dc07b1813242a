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
PIPER_NAME: Final = re.compile(r"(?P<language>[a-z]{2,3}_[A-Z]{2})-(?P<speaker>\w+)-(?P<quality>x_low|low|medium|high)")
QUALITIES: Final = ("x_low", "low", "medium", "high")

# Piper's speakers of one sex, as their model cards say.
GENDERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        speaker: gender
        for gender, speakers in {
            "female": "alba amy cori eva_k hfc_female irina jenny_dioco kathleen kerstin kristin lessac ljspeech paola "
            "ramona siwis southern_english_female",
            "male": "alan bryce carlfm danny davefx hfc_male joe john karlsson kusal norman northern_english_male pau "
            "reza_ibrahim riccardo ryan sam thorsten tom",
        }.items()
        for speaker in speakers.split()
    }
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an alias stands for."""

    language: str
    male: bool


# Kokoro's names begin with the country (American, British) and the sex; the order is that of the list of voices.
ALIASES: Final[Mapping[str, Wanted]] = MappingProxyType(
    {
        name: wanted
        for wanted, names in {
            Wanted("en_US", False): "af af_bella af_nicole af_sarah af_sky alloy coral marin nova sage shimmer",
            Wanted("en_US", True): "am_adam am_michael ash cedar echo onyx verse",
            Wanted("en_GB", False): "bf_emma bf_george bf_isabella",
            Wanted("en_GB", True): "bm_george bm_lewis ballad fable",
        }.items()
        for name in names.split()
    }
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
    return named["language"].replace("_", "-") if named else None


def gender_of(voice: str) -> str | None:
    """`male` or `female`, if it is known."""
    named = PIPER_NAME.fullmatch(voice)
    return GENDERS.get(named["speaker"] if named else voice)


def _fit(voice: str, wanted: Wanted) -> tuple[int, int, int]:
    named = PIPER_NAME.fullmatch(voice)
    if named is None:
        return (0, 0, 0)
    spoken, gender = named["language"], gender_of(voice)
    language = 2 if spoken == wanted.language else int(spoken[:2] == wanted.language[:2])
    sex = 1 if gender is None else 2 * ((gender == "male") == wanted.male)
    return (language, sex, QUALITIES.index(named["quality"]))
