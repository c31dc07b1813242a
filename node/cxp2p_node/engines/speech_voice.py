"""A Piper voice, loaded: what a text sounds like, part by part. Used in the speech worker only.

The same text always sounds the same: its noise is drawn from a seed that is made of it. So another node goes on in the
middle of a text where one broke off. What Piper itself does is here only the way from letters to phonemes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cxp2p.errors import one_line
from cxp2p_node.engines.speech_graph import GraphError, Piece, Pieces, cut
from cxp2p_node.engines.speech_sound import Samples, resampled
from cxp2p_node.engines.speech_text import readable
from cxp2p_node.models.voice import voice_facts

log = logging.getLogger("cxp2p.node.speech")

OVERLAP = 10  # frames: what lies further off changes no sample by one of its 16 bits (measured; 12: by nothing)
PHONEMES_MAX = 300  # at once, at speed 1: what a sentence takes of memory, and how early it is heard
PAUSES = frozenset(",;:")
CALIBRATION = "One, two, three, four, five."

Floats = NDArray[np.float32]


class VoiceError(Exception):
    """The voice cannot be used, or not for this. The text says why."""


class Stop:
    """Ends a computation from another thread."""

    def __init__(self) -> None:
        import onnxruntime  # noqa: PLC0415  # only the worker has it

        self.options = onnxruntime.RunOptions()

    def set(self) -> None:
        self.options.terminate = True

    @property
    def is_set(self) -> bool:
        return bool(self.options.terminate)


class Sentence(Protocol):
    """What is to be heard of a sentence, as so many frames."""

    @property
    def frames(self) -> int: ...

    def sound(self, begin: int, end: int, stop: Stop) -> Samples:
        """The samples of some frames, between -1 and 1, 22,050 a second. Calls for ranges in a row give one sound."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A sentence whose frames are made, and whose samples are not."""

    voice: CutVoice
    data: Floats

    @property
    def frames(self) -> int:
        return int(self.data.shape[-1])

    def sound(self, begin: int, end: int, stop: Stop) -> Samples:
        low, high = max(0, begin - OVERLAP), min(self.frames, end + OVERLAP)
        made = self.voice.samples_of(np.ascontiguousarray(self.data[..., low:high]), stop)
        step = len(made) // (high - low)
        return resampled(made, self.voice.rate, (begin - low) * step, (end - low) * step)


@dataclass(frozen=True, slots=True)
class Recording:
    """A sentence that was made in one go."""

    data: Samples
    rate: int
    step: int = 256

    @property
    def frames(self) -> int:
        return -(-len(self.data) // self.step)

    def sound(self, begin: int, end: int, stop: Stop) -> Samples:
        return resampled(self.data, self.rate, begin * self.step, min(end * self.step, len(self.data)))


class Voice(ABC):
    """What all voices share: from letters to the numbers of phonemes. Made by `load`. Raises VoiceError."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from piper import PiperConfig, PiperVoice  # noqa: PLC0415  # under the GPL, and only here

        self._config = PiperConfig.from_dict(dict(settings))
        self._reader: Any = PiperVoice(session=None, config=self._config)
        self.rate = int(self._config.sample_rate)

    def shapes(self, text: str, speed: float, stop: Stop) -> list[Sentence]:
        """The sentences of a text, none if it has nothing that this voice can read."""
        noise = np.random.RandomState(int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:4]))
        scales = (self._config.noise_scale, self._config.length_scale / speed, self._config.noise_w_scale)
        most = round(PHONEMES_MAX * min(speed, 1.0))
        return [self.shape(numbers, scales, noise, stop) for numbers in self._numbers(text, most)]

    def calibration(self) -> Samples:
        """What the voice says to find out how loud it is: without noise, the same everywhere."""
        stop, scales = Stop(), (0.0, self._config.length_scale, 0.0)
        said = [self.shape(numbers, scales, np.random.RandomState(0), stop) for numbers in self._numbers(CALIBRATION)]
        return np.concatenate([each.sound(0, each.frames, stop) for each in said] or [np.zeros(0, np.float32)])

    @abstractmethod
    def shape(
        self,
        numbers: list[int],
        scales: tuple[float, float, float],
        noise: np.random.RandomState,
        stop: Stop,
    ) -> Sentence:
        """A sentence from the numbers of its phonemes. `scales`: of noise, of lengths, of the lengths' noise."""

    def _numbers(self, text: str, most: int = PHONEMES_MAX) -> list[list[int]]:
        """The numbers of phonemes, sentence by sentence."""
        readable_text = readable(text, self._config.espeak_voice)
        if not readable_text:
            return []
        try:
            sentences = self._reader.phonemize(readable_text)
        except RuntimeError as error:  # as eSpeak has it
            raise VoiceError(
                f"eSpeak cannot read {self._config.espeak_voice!r}: {one_line(str(error), 200)}"
            ) from error
        return [self._reader.phonemes_to_ids(part) for phonemes in sentences for part in portions(phonemes, most)]

    def _fed(self, numbers: list[int], scales: tuple[float, float, float]) -> dict[str, NDArray[Any]]:
        fed: dict[str, NDArray[Any]] = {
            "input": np.array([numbers], dtype=np.int64),
            "input_lengths": np.array([len(numbers)], dtype=np.int64),
            "scales": np.array(scales, dtype=np.float32),
        }
        if self._config.num_speakers > 1:
            fed["sid"] = np.array([self._config.default_speaker_id], dtype=np.int64)
        return fed


class CutVoice(Voice):
    """A voice in three pieces: its frames are made by `threads` threads, and samples of them by whoever calls."""

    def __init__(self, settings: Mapping[str, Any], pieces: Pieces, threads: int) -> None:
        super().__init__(settings)
        self._timing = Network(pieces.timing, threads)
        self._frames = Network(pieces.frames, threads)
        self._samples = Network(pieces.samples, 1)
        self._length_noise, self._frame_noise = pieces.length_noise, pieces.frame_noise
        self._moments, self._flat = pieces.moments, pieces.flat

    def shape(
        self,
        numbers: list[int],
        scales: tuple[float, float, float],
        noise: np.random.RandomState,
        stop: Stop,
    ) -> Shape:
        fed = self._fed(numbers, scales)
        fed[self._length_noise] = _drawn(noise, (1, 2, len(numbers)))
        fed |= self._timing.run(fed, stop)
        fed[self._frame_noise] = _drawn(noise, fed[self._moments].shape)
        (frames,) = self._frames.run(fed, stop).values()
        return Shape(self, frames)

    def samples_of(self, frames: Floats, stop: Stop) -> Samples:
        """What some frames sound like."""
        (name, *more) = self._samples.inputs
        fed: dict[str, NDArray[Any]] = {name: frames[:, :, None, :] if self._flat else frames}
        if more:
            fed |= self._fed([], (0, 0, 0))
        (made,) = self._samples.run(fed, stop).values()
        return made.reshape(-1)


class WholeVoice(Voice):
    """A voice whose network is not of the usual kind: a sentence is made in one go, and never twice the same."""

    def __init__(self, settings: Mapping[str, Any], path: Path, threads: int) -> None:
        super().__init__(settings)
        self._network = Network(None, threads, path)

    def shape(
        self,
        numbers: list[int],
        scales: tuple[float, float, float],
        noise: np.random.RandomState,
        stop: Stop,
    ) -> Recording:
        made = next(iter(self._network.run(self._fed(numbers, scales), stop).values()))
        return Recording(made.reshape(-1), self.rate)


class Network:
    """A network that can be run from several threads at once. Each run computes with `threads` threads."""

    def __init__(self, piece: Piece | None, threads: int, path: Path | None = None) -> None:
        import onnxruntime  # noqa: PLC0415  # only the worker has it

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # a run that is stopped is an error to it
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other workers want the cores too
        try:
            with _file_of(piece) if piece else open(path or "", "rb") as source:
                place = f"/proc/self/fd/{source.fileno()}"  # given bytes, onnxruntime would keep them all
                self._session = onnxruntime.InferenceSession(place, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime has no error of its own to catch: whatever it raises means that the file is of no use.
            raise VoiceError(f"onnxruntime cannot load it: {one_line(str(error), 200)}") from error
        self.inputs = tuple(each.name for each in self._session.get_inputs())
        self.outputs = tuple(each.name for each in self._session.get_outputs())

    def run(self, fed: Mapping[str, NDArray[Any]], stop: Stop) -> dict[str, NDArray[Any]]:
        """What comes out, by name. Raises VoiceError, also when it was stopped."""
        try:
            made = self._session.run(self.outputs, {name: fed[name] for name in self.inputs}, stop.options)
        except Exception as error:
            # As above. The worker goes on with other jobs.
            raise VoiceError(f"the voice cannot say this: {one_line(str(error), 200)}") from error
        return dict(zip(self.outputs, made, strict=True))


def load(path: Path, threads: int) -> Voice:
    """The voice at `path`. Raises VoiceError, HeaderError and OSError."""
    settings = voice_facts(path).settings
    with path.open("rb") as source:
        mapped = mmap(source.fileno(), 0, access=ACCESS_READ)  # not closed here: an error would still hold parts of it
    try:
        return CutVoice(settings, cut(memoryview(mapped)), threads)
    except (GraphError, VoiceError) as error:
        log.warning("%s is used whole: %s", path.name, error)
    return WholeVoice(settings, path, threads)


def portions(phonemes: list[str], most: int) -> Iterator[list[str]]:
    """A sentence's phonemes, at most so many at once: cut at a pause, else between words, else anywhere."""
    rest = phonemes
    while len(rest) > most:
        spaces = [at + 1 for at in range(1, most) if rest[at] == " "]
        pauses = [at for at in spaces if rest[at - 2] in PAUSES and at > most // 4]
        at = (pauses or spaces or [most])[-1]
        yield rest[:at]
        rest = rest[at:]
    if rest:
        yield rest


def _drawn(noise: np.random.RandomState, shape: tuple[int, ...]) -> Floats:
    """Numbers that are the same for the same seed in every release of NumPy, which is promised for this class only."""
    return noise.standard_normal(shape).astype(np.float32)


def _file_of(piece: Piece) -> Any:
    """A file in memory."""
    file = os.fdopen(os.memfd_create("voice"), "wb")
    for part in piece.parts:
        file.write(part)
    file.flush()
    return file
