"""A Piper voice as a file: an ONNX network and its settings, which Piper keeps as JSON in a second file beside it.

Here they are one file: the settings become a named note of the network (`metadata_props` of onnx.proto3), behind all
else, so that the rest stays as it was. A digest of both is then one of a file. Where somebody's own voice is two files,
they are served, and digested, as if they were that one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Final

from cxp2p_node.models import protobuf
from cxp2p_node.models.header import HeaderError
from cxp2p_node.models.protobuf import ProtobufError

ENDING: Final = ".onnx"
SETTINGS_ENDING: Final = ".json"  # behind the other one, as Piper has it
NOTE: Final = "piper_config"
SETTINGS_BYTES_MAX = 1 << 20  # those of 900 speakers have 30 kB
MODEL_GRAPH, MODEL_NOTES, NOTE_KEY, NOTE_VALUE = 7, 14, 1, 2
FIELDS_MAX = 4096  # of the outermost message: the files of today have 5
PHONEMES: Final = frozenset({"espeak", "text"})  # what others need is neither here nor in Piper's package
SCALES: Final = ("length_scale", "noise_scale", "noise_w")
RATE_MIN, RATE_MAX = 4_000, 192_000
SPEAKERS_MAX = 100_000
PARAMETER_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceFacts:
    """What a voice's file says of it. `language` is eSpeak's name of it, `settings` all that Piper wants to know."""

    language: str
    quality: str
    rate: int
    speakers: int
    parameters: int
    file_bytes: int
    settings: Mapping[str, Any]


def piper_here() -> str:
    """What speaks with voices on this machine. Raises PackageNotFoundError if it is not installed."""
    return f"piper {version('piper-tts')} onnxruntime {version('onnxruntime')}"


def voice_facts(path: Path) -> VoiceFacts:
    """The facts of the voice at `path`. Raises HeaderError, and OSError if it cannot be read."""
    size = path.stat().st_size
    settings = _checked(_parsed(read_settings(path)))
    return VoiceFacts(
        language=settings["espeak"]["voice"],
        quality=str(settings["audio"].get("quality", ""))[:32],
        rate=settings["audio"]["sample_rate"],
        speakers=settings["num_speakers"],
        parameters=size // PARAMETER_BYTES,
        file_bytes=size,
        settings=settings,
    )


def read_settings(path: Path) -> bytes:
    """The settings in the voice's file, or those beside it. Raises HeaderError if the file is not whole or has none."""
    notes = _notes(path)
    if NOTE in notes:
        return notes[NOTE]
    beside = path.with_name(path.name + SETTINGS_ENDING)
    try:
        with beside.open("rb") as source:
            settings = source.read(SETTINGS_BYTES_MAX + 1)
    except FileNotFoundError:
        raise HeaderError(f"it has no settings: {beside.name} should stand beside it, as Piper has it") from None
    if len(settings) > SETTINGS_BYTES_MAX:
        raise HeaderError(f"{beside.name} has more than {SETTINGS_BYTES_MAX >> 10} KiB")
    return settings


def note(settings: bytes) -> bytes:
    """What stands behind a network that has these settings."""
    named = protobuf.field(NOTE_KEY, NOTE.encode()) + protobuf.field(NOTE_VALUE, settings)
    return protobuf.field(MODEL_NOTES, named)


def join_voice(network: Path, settings: bytes, target: Path) -> None:
    """Writes a voice of one file. Raises HeaderError if the settings are none, and OSError."""
    if len(settings) > SETTINGS_BYTES_MAX:
        raise HeaderError(f"its settings have more than {SETTINGS_BYTES_MAX >> 10} KiB")
    _checked(_parsed(settings))
    whole = NOTE in _notes(network)
    shutil.copyfile(network, target)
    with target.open("ab") as sink:
        sink.write(b"" if whole else note(settings))
        sink.flush()
        os.fsync(sink.fileno())


def voice_digest(path: Path) -> bytes:
    """SHA-256 of the voice as one file, whether it is one or two. Raises HeaderError and OSError."""
    notes = _notes(path)
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256")
    if NOTE not in notes:
        digest.update(note(read_settings(path)))
    return digest.digest()


def _notes(path: Path) -> dict[str, bytes]:
    """The notes of a network. Raises HeaderError for a file that is none, or not whole."""
    with path.open("rb") as source:
        if not path.stat().st_size:
            raise HeaderError("it is empty")
        mapped = mmap(source.fileno(), 0, access=ACCESS_READ)  # not closed here: an error would still hold parts of it
    try:
        return _notes_in(memoryview(mapped))
    except ProtobufError as error:
        raise HeaderError(f"it is not an ONNX file: {error}") from None


def _notes_in(data: memoryview) -> dict[str, bytes]:
    notes, graphs = {}, 0
    for count, each in enumerate(protobuf.fields(data)):
        if count >= FIELDS_MAX:
            raise ProtobufError(f"it has more than {FIELDS_MAX} fields")
        graphs += each.number == MODEL_GRAPH
        if each.number == MODEL_NOTES:
            if len(each.content) > SETTINGS_BYTES_MAX:
                raise ProtobufError(f"it has a note of more than {SETTINGS_BYTES_MAX >> 10} KiB")
            parts = {part.number: bytes(part.content) for part in protobuf.fields(each.content)}
            notes[parts.get(NOTE_KEY, b"").decode(errors="replace")] = parts.get(NOTE_VALUE, b"")
    if graphs != 1:
        raise ProtobufError(f"it has {graphs} networks, expected is one")
    return notes


def _parsed(settings: bytes) -> dict[str, Any]:
    try:
        found = json.loads(settings)
    except ValueError as error:
        raise HeaderError(f"its settings are not JSON: {error}") from None
    except RecursionError:
        raise HeaderError("its settings are nested too deep") from None
    if not isinstance(found, dict):
        raise HeaderError("its settings are not an object")
    return found


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that name what is needed. Raises HeaderError for others."""
    audio, espeak, symbols = (_object(settings, name) for name in ("audio", "espeak", "phoneme_id_map"))
    _number(audio, "sample_rate", RATE_MIN, RATE_MAX)
    _number(settings, "num_speakers", 1, SPEAKERS_MAX)
    _number(settings, "num_symbols", 1, SPEAKERS_MAX)
    language = espeak.get("voice")
    if not isinstance(language, str) or not 0 < len(language) <= 32 or not language.isprintable():
        raise HeaderError("its settings have no language: the field espeak.voice should be a name, as en-us")
    kind = settings.get("phoneme_type", "espeak")
    if kind not in PHONEMES:
        raise HeaderError(f"it needs phonemes of the kind {str(kind)[:32]!r}; known are {', '.join(sorted(PHONEMES))}")
    scales = settings.get("inference", {})
    if not isinstance(scales, dict) or not all(_is_scale(scales.get(name, 1)) for name in SCALES):
        raise HeaderError(f"its settings have an inference in which one of {', '.join(SCALES)} is no number up to 10")
    ids = [each for numbers in symbols.values() for each in (numbers if isinstance(numbers, list) else [None])]
    if not all(isinstance(each, int) and 0 <= each < settings["num_symbols"] for each in ids):
        raise HeaderError("its settings give phonemes numbers that its network does not have")
    if not all(mark in symbols for mark in "^$_"):
        raise HeaderError("its settings lack the phonemes ^, $ or _")
    return settings


def _is_scale(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 10


def _object(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = settings.get(name)
    if not isinstance(found, dict):
        raise HeaderError(f"its settings have no object {name!r}")
    return found


def _number(settings: Mapping[str, Any], name: str, least: int, most: int) -> None:
    found = settings.get(name)
    if not isinstance(found, int) or not least <= found <= most:
        raise HeaderError(f"its settings say {name} {str(found)[:32]}, expected is a number from {least} to {most}")
