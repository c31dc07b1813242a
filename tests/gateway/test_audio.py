"""Sound as clients want it: every form holds the same sound, also when it was made piece by piece."""

from __future__ import annotations

import io
import math
import struct
import wave
from itertools import pairwise

import av
import pytest

from cxp2p_gateway.audio import RATE, AudioForm, Encoder, forms, wav_header

SECONDS = 2
TONE = b"".join(
    struct.pack("<h", round(9000 * math.sin(at * 2 * math.pi * 441 / RATE))) for at in range(SECONDS * RATE)
)


def encoded(form: AudioForm, step: int) -> bytes:
    """The tone as `form`, fed in parts of `step` bytes."""
    encoder = Encoder(form)
    parts = [encoder.feed(TONE[start : start + step]) for start in range(0, len(TONE), step)]
    return b"".join([*parts, encoder.end()])


def decoded(data: bytes) -> list[float]:
    """The samples in a file, as FFmpeg reads it, at 22,050 a second."""
    values: list[float] = []
    with av.open(io.BytesIO(data), "r") as container:
        resampler = av.AudioResampler("s16", "mono", RATE)
        for frame in [*container.decode(audio=0), None]:
            for part in resampler.resample(frame):
                values += struct.unpack(f"<{part.samples}h", bytes(part.planes[0])[: part.samples * 2])
    return values


def crossings(values: list[float]) -> int:
    """How often the sound goes through zero: twice for each of its waves."""
    return sum((a < 0) != (b < 0) for a, b in pairwise(values))


def test_a_wav_file_has_the_right_sizes() -> None:
    """Any reader of WAV files reads it: 22,050 samples a second, one channel, 16 bits."""
    with wave.open(io.BytesIO(wav_header(len(TONE)) + TONE)) as reader:
        assert reader.getparams()[:4] == (1, 2, RATE, SECONDS * RATE)
        assert reader.readframes(SECONDS * RATE) == TONE


def test_a_wav_stream_has_no_size_yet() -> None:
    """Players take the highest size as "until the end"."""
    data = encoded(AudioForm.WAV, 1000)

    assert data[4:8] == data[40:44] == b"\xff\xff\xff\xff"
    assert data[44:] == TONE


def test_pcm_is_the_samples_alone() -> None:
    """Whatever the steps are in which they came."""
    assert encoded(AudioForm.PCM, 4096) == encoded(AudioForm.PCM, 333) == TONE


@pytest.mark.parametrize("form", [AudioForm.MP3, AudioForm.OPUS, AudioForm.FLAC, AudioForm.AAC])
@pytest.mark.parametrize("step", [40_000, 1001])
def test_every_form_holds_the_same_tone(form: AudioForm, step: int) -> None:
    """As long as before, but for the encoder's own lead, and of the same pitch."""
    values = decoded(encoded(form, step))

    assert SECONDS <= len(values) / RATE < SECONDS + 0.15
    assert crossings(values[RATE // 2 : RATE // 2 + RATE]) == pytest.approx(2 * 441, rel=0.01)
    assert max(values) == pytest.approx(9000, rel=0.1)


def test_flac_loses_nothing() -> None:
    """It is the one form besides WAV and PCM that can be checked bit by bit."""
    assert decoded(encoded(AudioForm.FLAC, 5000)) == list(struct.unpack(f"<{SECONDS * RATE}h", TONE))


def test_sound_is_sent_as_it_comes() -> None:
    """An MP3 of which half was fed is nearly half there."""
    encoder = Encoder(AudioForm.MP3)
    early = encoder.feed(TONE[: len(TONE) // 2])

    assert len(early) > 0.7 * len(encoder.feed(TONE[len(TONE) // 2 :]) + encoder.end())


@pytest.mark.parametrize("form", list(AudioForm))
def test_silence_that_never_began_is_a_file_too(form: AudioForm) -> None:
    """No samples at all break no encoder."""
    assert isinstance(Encoder(form).end(), bytes)


def test_all_forms_are_there_with_the_extra() -> None:
    """Here it is installed."""
    assert forms() == tuple(AudioForm)
