"""Samples of a voice as the network has them: 22,050 a second, 16 bits signed, little-endian, one channel. Pure."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

RATE = 22_050
FADE_S = 0.004  # at both ends of a sentence: two of them meet in silence, and nobody hears where
PEAK = 0.7  # of what a voice says to find out how loud it is: other sentences are up to a fifth louder
GAIN_MIN, GAIN_MAX = 0.25, 4.0
KNEE = 0.85  # what is louder is held back more and more, instead of cut off
SIDE = 16  # samples on either side that one of another rate is made of

Samples = NDArray[np.float32]


def gain_for(calibration: Samples) -> float:
    """How much louder a voice is made, for all that it says: sentences that follow each other are equally loud.

    Rounded, so that nodes whose processors count a little differently agree.
    """
    peak = float(np.abs(calibration).max(initial=0.0))
    return round(min(max(PEAK / peak, GAIN_MIN), GAIN_MAX), 2) if peak > 0 else 1.0


def encoded(sound: Samples, gain: float, *, begins: bool = False, ends: bool = False) -> bytes:
    """The bytes of some samples between -1 and 1. `begins`, `ends`: whether a sentence does so with them."""
    loud = sound * np.float32(gain)
    over = np.abs(loud) - KNEE
    held = np.sign(loud) * (KNEE + (1 - KNEE) * np.tanh(over / (1 - KNEE)))
    loud = np.where(over > 0, held, loud)
    fade = min(int(FADE_S * RATE), len(loud) // 2)
    ramp = np.linspace(0.0, 1.0, fade, endpoint=False, dtype=np.float32)
    if begins and fade:
        loud[:fade] *= ramp
    if ends and fade:
        loud[-fade:] *= ramp[::-1]
    return bytes(np.rint(loud * 32767).astype("<i2").tobytes())


def resampled(sound: Samples, rate: int, begin: int, end: int) -> Samples:
    """Samples `begin` to `end` of `sound`, which has `rate` a second, at 22,050 a second.

    Calls for neighbouring ranges give neighbouring samples: the parts can be put together. What is before and after the
    range in `sound` is looked at; beyond its ends is silence.
    """
    if rate == RATE:
        return sound[begin:end]
    common = math.gcd(rate, RATE)
    step, phases = rate // common, RATE // common  # one sample of ours is step / phases of theirs
    numbers = np.arange(-(-begin * phases // step), -(-end * phases // step))
    whole, phase = np.divmod(numbers * step, phases)
    padded = np.pad(sound, SIDE)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * SIDE)
    picked: Samples = np.einsum("ij,ij->i", windows[whole + 1], _kernels(step, phases)[phase])
    return picked


@cache
def _kernels(step: int, phases: int) -> Samples:
    """For each place between two samples the weights of those around it: a windowed sinc (Smith, resampling, CCRMA)."""
    low = min(1.0, phases / step)  # nothing above half of the lower rate
    places = np.arange(2 * SIDE)[None, :] - (SIDE - 1) - np.arange(phases)[:, None] / phases
    weights = low * np.sinc(low * places) * np.where(np.abs(places) < SIDE, np.cos(np.pi * places / (2 * SIDE)) ** 2, 0)
    kernels: Samples = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return kernels


def milliseconds(byte_count: int) -> int:
    """The length of so many bytes, rounded down."""
    return byte_count // 2 * 1000 // RATE
