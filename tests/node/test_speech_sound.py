"""From what a network makes to the samples that the network of peers has."""

from __future__ import annotations

import numpy as np
import pytest

from cxp2p_node.engines.speech_sound import GAIN_MAX, PEAK, RATE, Samples, encoded, gain_for, milliseconds, resampled


def tone(rate: int, pitch: float, seconds: float = 1.0) -> Samples:
    made: Samples = np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate).astype(np.float32)
    return made


def samples(data: bytes) -> Samples:
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32767)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_a_tone_keeps_its_pitch_at_any_rate(rate: int) -> None:
    made = resampled(tone(rate, 1000), rate, 0, rate)

    assert made.size == RATE
    assert np.abs(made - tone(RATE, 1000))[100:-100].max() < 1e-3


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_what_is_resampled_in_parts_is_one_sound(rate: int) -> None:
    sound = tone(rate, 700)
    parts = [resampled(sound, rate, begin, min(begin + 256, rate)) for begin in range(0, rate, 256)]

    assert np.array_equal(np.concatenate(parts), resampled(sound, rate, 0, rate))


def test_what_is_too_high_for_the_rate_is_left_out() -> None:
    """It would come back as another tone."""
    made = resampled(tone(48_000, 15_000), 48_000, 0, 48_000)

    assert np.abs(made[100:-100]).max() < 0.02


def test_sentences_begin_and_end_in_silence() -> None:
    """Within 4 ms, and only where a sentence does: within it nothing is changed."""
    loud = np.full(RATE, 0.5, np.float32)
    whole = samples(encoded(loud, 1.0, begins=True, ends=True))
    middle = samples(encoded(loud, 1.0))

    assert abs(whole[0]) < 0.01
    assert abs(whole[-1]) < 0.01
    assert np.allclose(whole[100:-100], 0.5, atol=1e-4)
    assert np.abs(np.diff(whole)).max() < 0.01
    assert np.allclose(middle, 0.5, atol=1e-4)


def test_a_voice_is_made_as_loud_as_others() -> None:
    assert gain_for(tone(RATE, 400) * np.float32(0.35)) == pytest.approx(PEAK / 0.35, abs=0.01)
    assert gain_for(np.zeros(100, np.float32)) == 1.0
    assert gain_for(np.zeros(0, np.float32)) == 1.0
    assert gain_for(np.full(100, 1e-6, np.float32)) == GAIN_MAX


def test_what_is_too_loud_is_held_back_and_not_cut_off() -> None:
    """It stays below full scale, in its order; what is not too loud stays as it is."""
    made = samples(encoded(np.linspace(-2, 2, 401, dtype=np.float32), 1.0))

    assert np.abs(made).max() <= 1.0
    assert (np.diff(made) >= 0).all()
    assert made[240] == pytest.approx(0.4, abs=1e-4)
    assert made[300] < made[320] < made[340]


def test_lengths_are_rounded_down() -> None:
    assert (milliseconds(2 * RATE), milliseconds(2 * RATE - 1), milliseconds(0)) == (1000, 999, 0)


def test_no_samples_are_no_bytes() -> None:
    assert encoded(np.zeros(0, np.float32), 1.0, begins=True, ends=True) == b""
