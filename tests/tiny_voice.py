"""A Piper voice of some kilobytes: real Piper in tests, with nothing to fetch.

It is cut like a real one (lengths with noise, frames with noise, a decoder of convolutions), but nobody would take what
it says for speech: each phoneme is 40 ms of a tone that depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxp2p_node.models.protobuf import VARINT, encoded, field, key, packed
from cxp2p_node.models.voice import SETTINGS_ENDING

HOP = 256
FRAMES_PER_PHONEME = 4
CHANNELS = 4
RATE = 22_050
PHONEMES = "_^$ !',-.:;?abcdefhijklmnopqrstuvwxyzæðŋɐɑɒɔəɚɛɜɡɪɹɾʃʊʌʒˈˌːθ0123456789"  # noqa: RUF001
FLOAT, INT64 = 1, 7


def settings_of(**changes: Any) -> dict[str, Any]:
    """What Piper keeps beside a voice."""
    return {
        "audio": {"sample_rate": RATE, "quality": "medium"},
        "espeak": {"voice": "en-us"},
        "inference": {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8},
        "phoneme_type": "espeak",
        "num_symbols": 256,
        "num_speakers": 1,
        "phoneme_id_map": {phoneme: [number] for number, phoneme in enumerate(PHONEMES)},
        **changes,
    }


def write_tiny_voice(path: Path, settings: Mapping[str, Any] | None = None, *, network: bytes | None = None) -> Path:
    """Both files, as Piper has them."""
    path.write_bytes(tiny_network() if network is None else network)
    beside = path.with_name(path.name + SETTINGS_ENDING)
    beside.write_text(json.dumps(settings_of() if settings is None else settings))
    return path


def tiny_network(
    *, channels: int = CHANNELS, noises: int = 2, decoder: str = "dec.conv_pre.weight", extra: Sequence[bytes] = ()
) -> bytes:
    """The network. `noises`, `decoder`: what it is that this program looks for. `extra`: nodes more."""
    rng = np.random.RandomState(3)
    weights: dict[str, npt.NDArray[Any]] = {
        "spread": np.linspace(-0.5, 0.5, channels, dtype=np.float32).reshape(1, channels, 1),
        "scale": np.array(1 / 40, np.float32),
        decoder: rng.standard_normal((8, channels, 7)).astype(np.float32) / 8,
        "bias": np.zeros(8, np.float32),
        "up": rng.standard_normal((8, 2, 2 * HOP)).astype(np.float32) / 4,
        "two": np.array(2.0, np.float32),
        "post": rng.standard_normal((1, 2, 7)).astype(np.float32) / 8,
    }
    whole = {"zero": [0], "one": [1], "axes": [1], "last": [2], "mid": [1]}
    nodes = [
        node("Cast", ["input"], ["floats"], to=FLOAT),
        node("Unsqueeze", ["floats", "axes"], ["line"]),
        node("Gather", ["scales", "zero"], ["noise_scale"]),
        node("Gather", ["scales", "last"], ["length_noise_scale"]),
        node("Concat", ["line", "line"], ["pair"], axis=1),
        node("RandomNormalLike" if noises else "Identity", ["pair"], ["drawn"]),
        node("Mul", ["drawn", "length_noise_scale"], ["scaled"]),
        node("ReduceMean", ["scaled"], ["mean"], axes=[1], keepdims=1),
        node("Add", ["line", "mean"], ["felt"]),
        node("Mul", ["felt", "spread"], ["wide"]),
        node("Mul", ["wide", "scale"], ["small"]),
        node("Concat", ["small"] * FRAMES_PER_PHONEME, ["moments"], axis=2),
        node("RandomNormalLike" if noises > 1 else "Identity", ["moments"], ["grain"]),
        node("Mul", ["grain", "noise_scale"], ["grains"]),
        node("Mul", ["grains", "scale"], ["fine"]),
        node("Add", ["moments", "fine"], ["frames"]),
        node("Conv", ["frames", decoder, "bias"], ["begun"], kernel_shape=[7], pads=[3, 3], strides=[1], dilations=[1]),
        node("LeakyRelu", ["begun"], ["bent"]),
        node("ConvTranspose", ["bent", "up"], ["long"], kernel_shape=[2 * HOP], strides=[HOP], pads=[HOP // 2] * 2),
        node("Add", ["long", "long"], ["doubled"]),
        node("Div", ["doubled", "two"], ["halved"]),
        node("Conv", ["halved", "post"], ["sum"], kernel_shape=[7], pads=[3, 3]),
        node("Tanh", ["sum"], ["sound"]),
        *extra,
        node("Unsqueeze", ["sound", "mid"], ["output"]),
    ]
    parts = [
        *nodes,
        field(2, b"tiny"),
        *(field(5, tensor(name, each)) for name, each in weights.items()),
        *(field(5, tensor(name, np.array(each, np.int64))) for name, each in whole.items()),
        *(field(11, value(name, INT64)) for name in ("input", "input_lengths")),
        field(11, value("scales", FLOAT)),
        field(12, value("output", FLOAT)),
    ]
    return number(1, 8) + field(8, number(2, 13)) + field(7, b"".join(parts))


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: int | list[int]) -> bytes:
    """One operation, as ONNX has it."""
    body = [field(1, each.encode()) for each in inputs] + [field(2, each.encode()) for each in outputs]
    body.append(field(4, kind.encode()))
    for name, told in attributes.items():
        content = packed(8, told) + number(20, 7) if isinstance(told, list) else number(3, told) + number(20, 2)
        body.append(field(5, field(1, name.encode()) + content))
    return field(1, b"".join(body))


def tensor(name: str, values: npt.NDArray[Any]) -> bytes:
    kind = INT64 if values.dtype == np.int64 else FLOAT
    return packed(1, values.shape) + number(2, kind) + field(8, name.encode()) + field(9, values.tobytes())


def value(name: str, kind: int) -> bytes:
    return field(1, name.encode()) + field(2, field(1, number(1, kind)))


def number(place: int, told: int) -> bytes:
    return key(place, VARINT) + encoded(told)
