"""Requests for embeddings and speech as schemas."""

from __future__ import annotations

from typing import Final

from cxp2p.embed import DIMENSIONS_MAX
from cxp2p.speech import TEXT_LETTERS_MAX
from cxp2p_gateway import voices
from cxp2p_gateway.audio import AudioForm
from cxp2p_gateway.openai import embeddings, speech
from cxp2p_gateway.openapi.words import Schema, any_of, flag, many, number, one_of, record, text, whole

TOKENS: Final = many(whole(0, embeddings.TOKEN_ID_MAX), 1, embeddings.TOKENS_MAX)
INPUT: Final = any_of(
    text(1),
    many(text(1), 1, embeddings.INPUTS_MAX),
    TOKENS,
    many(TOKENS, 1, embeddings.INPUTS_MAX),
    description="Token ids are taken where the operator allows them.",
)
VOICE_TOLD: Final = "A name from `GET /audio/voices`, or one that it stands for."
VOICE_NAME: Final = text(1, speech.NAME_LENGTH_MAX)
VOICE: Final = any_of(VOICE_NAME, record({"id": VOICE_NAME}), description=VOICE_TOLD, examples=[voices.DEFAULT])
NAME: Final = text(0, speech.NAME_LENGTH_MAX)
VOICE_OR_NONE: Final = any_of(NAME, record({}, {"id": NAME}), description=VOICE_TOLD)
FORMS: Final = [form.value for form in AudioForm]
SPOKEN: Final = text(1, TEXT_LETTERS_MAX, description="Something in it can be spoken.", examples=["Hello!"])
SPEED: Final = number(0.25, 4, default=1)

SERVICES: Final[dict[str, Schema]] = {
    "EmbeddingsRequest": record(
        {"model": text(1, examples=["all-minilm-l6-v2"]), "input": INPUT},
        {
            "encoding_format": one_of(list(embeddings.Encoding), default="float"),
            "dimensions": whole(1, DIMENSIONS_MAX, description="Only of models whose vectors may be shortened."),
            "truncate": flag(default=True),
        },
    ),
    "TtsRequest": record(
        {"text": SPOKEN},
        {
            "voice": {**VOICE_OR_NONE, "default": voices.DEFAULT},
            "model": NAME,
            "speed": SPEED,
            "format": one_of(FORMS, default="wav"),
            "stream": flag(default=False),
        },
    ),
    "SpeechRequest": record(
        {"model": text(1, speech.NAME_LENGTH_MAX), "input": SPOKEN, "voice": VOICE},
        {
            "speed": SPEED,
            "response_format": one_of(FORMS, default="mp3"),
            "stream_format": one_of(("audio", "sse"), default="audio"),
        },
    ),
}
