"""Which voice speaks for which name."""

from __future__ import annotations

import pytest

from cxp2p_gateway.voices import ALIASES, VoiceUnknownError, gender_of, language_of, resolve

OFFERED = ("de_DE-thorsten-high", "en_GB-alan-medium", "en_US-amy-low", "en_US-joe-medium", "en_US-lessac-high")
GUIDE = "af af_bella af_nicole af_sarah af_sky am_adam am_michael bf_emma bf_isabella bf_george bm_lewis bm_george"
OPENAI = "alloy ash ballad coral echo fable nova onyx sage shimmer verse"


@pytest.mark.parametrize(
    ("name", "voice"),
    [
        ("en_US-joe-medium", "en_US-joe-medium"),
        ("EN_us-JOE-medium", "en_US-joe-medium"),
        ("af_bella", "en_US-lessac-high"),  # the better of two
        ("am_adam", "en_US-joe-medium"),
        ("bm_george", "en_GB-alan-medium"),
        ("bf_emma", "en_GB-alan-medium"),  # the language counts before the sex
        ("AF_Bella", "en_US-lessac-high"),
        ("onyx", "en_US-joe-medium"),
        ("en_US-ryan-high", None),
    ],
)
def test_the_nearest_voice_speaks(name: str, voice: str | None) -> None:
    assert resolve(name, OFFERED) == voice


@pytest.mark.parametrize("name", [*GUIDE.split(), *OPENAI.split()])
def test_every_documented_name_is_spoken_for(name: str) -> None:
    """By any voice at all, if there is one; otherwise by nobody now."""
    assert name in ALIASES
    assert resolve(name, ("de_DE-thorsten-high",)) == "de_DE-thorsten-high"
    assert resolve(name, ()) is None


def test_an_unknown_name_is_told_its_like() -> None:
    """At most ten, the nearest first."""
    with pytest.raises(VoiceUnknownError) as caught:
        resolve("af_belle", OFFERED)
    with pytest.raises(VoiceUnknownError) as lost:
        resolve("?", OFFERED)

    assert caught.value.near[0] == "af_bella"
    assert len(lost.value.near) == 10


def test_a_name_tells_language_and_sex() -> None:
    """Where it is a Piper voice's, and its speaker is known."""
    assert (language_of("en_GB-alan-medium"), gender_of("en_GB-alan-medium")) == ("en-GB", "male")
    assert (language_of("my voice"), gender_of("my voice")) == (None, None)
