"""Samples of a voice as the network has them: 22,050 a second, 16 bits signed, little-endian, one channel. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 22_050
FADE_S = 0.004  # at both ends of a part: two parts meet in silence, and nobody hears where


def samples(audio: NDArray[np.float32], rate: int) -> bytes:
    """The bytes of one part, from numbers between -1 and 1 at `rate` a second."""
    if not audio.size:
        return b""
    sound = resampled(audio.astype(np.float64), rate)
    fade = min(int(FADE_S * RATE), len(sound) // 2)
    if fade:
        ramp = np.linspace(0.0, 1.0, fade, endpoint=False)
        sound[:fade] *= ramp
        sound[-fade:] *= ramp[::-1]
    return (np.clip(sound, -1.0, 1.0) * 32767).astype("<i2").tobytes()


def resampled(audio: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """The same sound at 22,050 samples a second, by straight lines between samples: voices of other rates are few."""
    if rate == RATE:
        return audio.copy()
    count = max(1, round(len(audio) * RATE / rate))
    places = np.arange(count) * (rate / RATE)
    sound: NDArray[np.float64] = np.interp(places, np.arange(len(audio)), audio)
    return sound


def milliseconds(byte_count: int) -> int:
    """The length of so many bytes, rounded down."""
    return byte_count // 2 * 1000 // RATE
