"""Speech requests: the user guide's `/tts`, and OpenAI's `/audio/speech`. Raises Fault, which names the parameter."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cxp2p.speech import TEXT_LETTERS_MAX, parts_to_read
from cxp2p_gateway import sse, voices
from cxp2p_gateway.audio import AudioForm, forms
from cxp2p_gateway.faults import Condition, Fault, invalid_type, out_of_range, unsupported
from cxp2p_gateway.fields import Fields, checked_text, kind_of, ranged_length

NAME_LENGTH_MAX: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechAsk:
    """A text to be read; `param` names it. `streamed`: sound is sent as it comes; `events`: as server-sent events."""

    text: str
    param: str
    voice: str
    model: str
    speed: float
    form: AudioForm
    streamed: bool
    events: bool = False


def tts_ask(body: dict[str, Any]) -> SpeechAsk:
    """The request of `/tts`: text, voice, and beyond the guide format, speed, stream, model."""
    fields = Fields(body)
    text = _text(fields, "text", Condition.TEXT_MISSING)
    voice = _voice(fields) or voices.DEFAULT
    return SpeechAsk(
        text=text,
        param="text",
        voice=voice,
        model=_name(fields.text("model") or "", "model"),
        speed=_speed(fields),
        form=_form(fields, "format", AudioForm.WAV),
        streamed=fields.flag("stream") or False,
    )


def speech_ask(body: dict[str, Any]) -> SpeechAsk:
    """OpenAI's request: model, input, voice, response_format, speed, stream_format. Instructions are not followed."""
    fields = Fields(body)
    model = fields.text("model")
    if not model:
        raise Fault(Condition.SPEECH_MISSING, "model")
    text = _text(fields, "input", Condition.SPEECH_MISSING)
    voice = _voice(fields)
    if voice is None:
        raise Fault(Condition.SPEECH_MISSING, "voice")
    return SpeechAsk(
        text=text,
        param="input",
        voice=voice,
        model=_name(model, "model"),
        speed=_speed(fields),
        form=_form(fields, "response_format", AudioForm.MP3),
        streamed=True,
        events=fields.choice("stream_format", ("audio", "sse")) == "sse",
    )


def voice_for(ask: SpeechAsk, offered: Sequence[str]) -> str:
    """The voice on offer that reads it: the one that is named, or the one that is nearest to an alias. Raises Fault."""
    if ask.model in offered and ask.voice not in offered:
        return ask.model
    try:
        voice = voices.resolve(ask.voice, offered)
    except voices.VoiceUnknownError as error:
        words = {"voice": ask.voice[:NAME_LENGTH_MAX], "near": ", ".join(error.near)}
        raise Fault(Condition.VOICE_UNKNOWN, "voice", words) from None
    if voice is None:
        raise Fault(Condition.NO_NODE, "voice", {"model": ask.voice})
    return voice


def voice_list(offered: Sequence[str]) -> dict[str, object]:
    """All voices on offer, each with the names that it also answers to."""
    spoken = voices.aliases_of(offered)
    return {
        "object": "list",
        "data": [
            {
                "id": voice,
                "object": "voice",
                "name": voice,
                "language": voices.language_of(voice),
                "gender": voices.gender_of(voice),
                "sample_rate": 22_050,
                "aliases": spoken[voice],
            }
            for voice in offered
        ],
    }


def audio_event(data: bytes) -> bytes:
    """A part of the sound, as an event."""
    audio = base64.b64encode(data).decode()
    return sse.event(json.dumps({"type": "speech.audio.delta", "audio": audio}, separators=(",", ":")))


def done_event(in_units: int, out_units: int) -> bytes:
    """The last event. Units: characters in, milliseconds out."""
    usage = {"input_tokens": in_units, "output_tokens": out_units, "total_tokens": in_units + out_units}
    return sse.event(json.dumps({"type": "speech.audio.done", "usage": usage}, separators=(",", ":")))


def _text(fields: Fields, name: str, missing: Condition) -> str:
    raw = fields.any(name)
    if raw is None or raw == "":
        raise Fault(missing, name)
    text = checked_text(raw, name)
    ranged_length(len(text), 1, TEXT_LETTERS_MAX, name, "characters")
    if not parts_to_read(text):
        raise out_of_range(name, "there is nothing in it that can be spoken")
    return text


def _voice(fields: Fields) -> str | None:
    raw = fields.any("voice")
    if isinstance(raw, dict):
        raw = raw.get("id")
    if raw is None or raw == "":
        return None
    if not isinstance(raw, str):
        raise invalid_type("voice", f"expected a string, got {kind_of(raw)}")
    return _name(checked_text(raw, "voice"), "voice")


def _name(name: str, param: str) -> str:
    ranged_length(len(name), 0, NAME_LENGTH_MAX, param, "characters")
    return name


def _speed(fields: Fields) -> float:
    speed = fields.number("speed", 0.25, 4)
    return 1.0 if speed is None else speed


def _form(fields: Fields, name: str, usual: AudioForm) -> AudioForm:
    wanted = fields.choice(name, [each.value for each in AudioForm])
    form = AudioForm(wanted) if wanted else usual
    if form not in forms():
        here = ", ".join(each.value for each in forms())
        raise unsupported(name, f"{form.value} cannot be made here; this gateway makes {here}")
    return form
