"""Sound as clients want it: from the network's samples to a file, or to a stream of one.

The network's samples are 22,050 a second, 16 bits signed, little-endian, of one channel. WAV and PCM need nothing; the
other forms are made by FFmpeg's libraries (PyAV), an extra of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import StrEnum
from fractions import Fraction
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

RATE: Final = 22_050
BYTES_PER_SAMPLE: Final = 2
UNKNOWN_SIZE: Final = 0xFFFFFFFF  # of a WAV stream whose end nobody knows yet
WAV_HEADER_BYTES: Final = 44


class AudioForm(StrEnum):
    """What the bytes are."""

    WAV = "wav"
    PCM = "pcm"
    MP3 = "mp3"
    OPUS = "opus"
    FLAC = "flac"
    AAC = "aac"


MIME: Final[Mapping[AudioForm, str]] = MappingProxyType(
    {
        AudioForm.WAV: "audio/wav",
        AudioForm.PCM: "audio/pcm",
        AudioForm.MP3: "audio/mpeg",
        AudioForm.OPUS: "audio/ogg; codecs=opus",
        AudioForm.FLAC: "audio/flac",
        AudioForm.AAC: "audio/aac",
    }
)


class _Codec(NamedTuple):
    container: str
    name: str
    rate: int
    sample: str


_CODECS: Final[Mapping[AudioForm, _Codec]] = MappingProxyType(
    {
        AudioForm.MP3: _Codec("mp3", "libmp3lame", RATE, "s16p"),
        AudioForm.OPUS: _Codec("ogg", "libopus", 48_000, "s16"),  # Opus knows no 22,050
        AudioForm.FLAC: _Codec("flac", "flac", RATE, "s16"),
        AudioForm.AAC: _Codec("adts", "aac", RATE, "fltp"),
    }
)


def forms() -> tuple[AudioForm, ...]:
    """The forms that can be made here."""
    return tuple(AudioForm) if find_spec("av") else (AudioForm.WAV, AudioForm.PCM)


def wav_header(byte_count: int | None) -> bytes:
    """The 44 bytes before so many bytes of samples; None: nobody knows how many will come."""
    size = UNKNOWN_SIZE if byte_count is None else byte_count
    whole = UNKNOWN_SIZE if byte_count is None else byte_count + WAV_HEADER_BYTES - 8
    form = struct.pack("<HHIIHH", 1, 1, RATE, RATE * BYTES_PER_SAMPLE, BYTES_PER_SAMPLE, 8 * BYTES_PER_SAMPLE)
    return (
        b"RIFF"
        + struct.pack("<I", whole)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
    )


class Encoder:
    """Turns samples into a stream of `form`, as they come. Not for concurrent use; a part may take milliseconds."""

    def __init__(self, form: AudioForm) -> None:
        self._head = wav_header(None) if form is AudioForm.WAV else b""
        self._odd = b""
        self._made = _Made() if form in _CODECS else None
        if self._made is not None:
            self._open(self._made, _CODECS[form])

    def feed(self, data: bytes) -> bytes:
        """What can be sent after these samples. `data` may end in the middle of one."""
        head, self._head = self._head, b""
        data = self._odd + data
        whole = len(data) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE
        self._odd = data[whole:]
        return head + (data[:whole] if self._made is None else self._encode(data[:whole]))

    def end(self) -> bytes:
        """What is still to be sent, when no more samples come."""
        head, self._head = self._head, b""
        if self._made is None:
            return head
        self._mux(self._resampler.resample(None))
        self._mux([None])
        self._container.close()
        return self._made.take()

    def _open(self, made: _Made, codec: _Codec) -> None:
        import av  # noqa: PLC0415  # an extra, and 35 MB of libraries

        self._av = av
        self._at = 0
        self._container = av.open(made, "w", format=codec.container)
        self._stream = cast("Any", self._container.add_stream(codec.name, rate=codec.rate))
        self._stream.layout = "mono"
        self._stream.format = codec.sample
        frame_size = self._stream.codec_context.frame_size or None
        self._resampler = av.AudioResampler(codec.sample, "mono", codec.rate, frame_size)

    def _encode(self, data: bytes) -> bytes:
        assert self._made is not None
        if data:
            count = len(data) // BYTES_PER_SAMPLE
            frame = self._av.AudioFrame("s16", "mono", count)
            frame.planes[0].update(data)
            frame.sample_rate = RATE
            frame.time_base = Fraction(1, RATE)
            frame.pts, self._at = self._at, self._at + count
            self._mux(self._resampler.resample(frame))
        return self._made.take()

    def _mux(self, frames: list[Any]) -> None:
        for frame in frames:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)


class _Made:
    """Where FFmpeg writes to: it can only go on, so what was written can be sent at once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        made = b"".join(self._parts)
        self._parts.clear()
        return made
