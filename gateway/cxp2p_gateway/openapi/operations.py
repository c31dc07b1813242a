"""What each path of the gateway takes and answers, and how it can fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cxp2p_gateway.audio import MIME
from cxp2p_gateway.faults import Condition
from cxp2p_gateway.openapi.words import Schema, any_of, just, ref, text

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
HTML: Final = "text/html"

BODY: Final = frozenset(
    {
        Condition.JSON_INVALID,
        Condition.JSON_TOO_DEEP,
        Condition.JSON_TOO_RICH,
        Condition.TYPE_INVALID,
        Condition.OUT_OF_RANGE,
        Condition.BODY_TOO_LARGE,
        Condition.BODY_TOO_SLOW,
        Condition.BODIES_TOO_MANY,
        Condition.MEDIA_TYPE,
        Condition.CONTENT_ENCODING,
    }
)
JOB: Final = frozenset(
    {
        Condition.MODEL_FORBIDDEN,
        Condition.SERVICE_FORBIDDEN,
        Condition.MODEL_UNKNOWN,
        Condition.CREDIT_SPENT,
        Condition.RATE_LIMITED,
        Condition.OVERLOADED,
        Condition.NO_NODE,
        Condition.UPSTREAM_FAILED,
        Condition.UPSTREAM_CUT,
        Condition.DEADLINE,
        Condition.REQUEST_UNSUPPORTED,
        Condition.CONTEXT_EXCEEDED,
    }
)
CHATTED: Final = frozenset(
    {
        Condition.MODALITY_UNSUPPORTED,
        Condition.PARAMETER_UNSUPPORTED,
        Condition.SCHEMA_INVALID,
        Condition.SCHEMA_VIOLATED,
    }
)
OWN: Final = (
    BODY
    | JOB
    | CHATTED
    | {
        Condition.PARAMETER_MISSING,
        Condition.INPUT_MISSING,
        Condition.INPUT_UNSUPPORTED,
        Condition.TEXT_MISSING,
        Condition.URLS_MISSING,
        Condition.SPEECH_MISSING,
        Condition.VOICE_UNKNOWN,
        Condition.MODEL_NOT_LISTED,
        Condition.RECEIPT_UNKNOWN,
        Condition.EPOCH_UNKNOWN,
        Condition.EPOCH_OPEN,
        Condition.KEYS_FORBIDDEN,
        Condition.KEY_UNKNOWN,
        Condition.KEY_REVOKED,
        Condition.KEY_IS_BASE,
        Condition.KEYS_TOO_MANY,
        Condition.ID_MISSING,
        Condition.GENERATION_UNKNOWN,
        Condition.NOT_READY,
        Condition.KEY_MISSING,
        Condition.KEY_INVALID,
    }
)
"""What only some paths say. All else can be said anywhere."""

ANYWHERE: Final = frozenset(Condition) - OWN - {Condition.PATH_UNKNOWN, Condition.METHOD_UNKNOWN}
KEYED: Final = frozenset({Condition.KEY_MISSING, Condition.KEY_INVALID})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of a path. `request`: the name of its body's schema; `answers`: of a 200, by media type.

    `faults`: what is told here and not everywhere. `keyed`: a key is asked for. `parameters` are in the path; `query`:
    what may stand in a query, and its schema.
    """

    name: str
    summary: str
    answers: Mapping[str, Schema]
    request: str | None = None
    request_required: bool = True
    faults: frozenset[Condition] = field(default_factory=frozenset)
    keyed: bool = True
    parameters: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, tuple[str, Schema]] = field(default_factory=dict)
    query_required: frozenset[str] = frozenset()

    @property
    def is_work(self) -> bool:
        """Whether nodes do something for it."""
        return bool(self.faults & JOB)

    @property
    def conditions(self) -> frozenset[Condition]:
        """All that can go wrong."""
        return ANYWHERE | self.faults | (KEYED if self.keyed else frozenset())


def _events(data: Schema, *ends: str) -> Schema:
    """One event of a stream: `data` is what its data is, as JSON; `ends`: texts that are none."""
    told = text(contentMediaType=JSON, contentSchema=data)
    either = any_of(told, *(just(end) for end in ends)) if ends else told
    return {"type": "object", "properties": {"data": either, "event": text()}, "required": ["data"]}


SOUND: Final[Schema] = {}
SOUNDS: Final[dict[str, Schema]] = {kind.partition(";")[0]: SOUND for kind in MIME.values()}
WORK: Final = BODY | JOB

OPERATIONS: Final[Mapping[str, Mapping[str, Operation]]] = {
    "/chat/completions": {
        "post": Operation(
            name="createChatCompletion",
            summary="Answers a conversation.",
            request="ChatCompletionRequest",
            answers={
                JSON: ref("ChatCompletion"),
                EVENTS: _events(ref("ChatCompletionChunk"), "[DONE]"),
            },
            faults=WORK | CHATTED | {Condition.PARAMETER_MISSING},
        )
    },
    "/responses": {
        "post": Operation(
            name="createResponse",
            summary="Answers a conversation, in the words of OpenAI's Responses API. Nothing is stored.",
            request="ResponseRequest",
            answers={JSON: ref("Response"), EVENTS: _events(ref("ResponseEvent"))},
            faults=WORK | CHATTED | {Condition.INPUT_MISSING},
        )
    },
    "/embeddings": {
        "post": Operation(
            name="createEmbeddings",
            summary="Makes a vector of each text.",
            request="EmbeddingsRequest",
            answers={JSON: ref("Embeddings")},
            faults=WORK | {Condition.INPUT_MISSING, Condition.INPUT_UNSUPPORTED, Condition.PARAMETER_UNSUPPORTED},
        )
    },
    "/tts": {
        "post": Operation(
            name="speak",
            summary="Reads a text aloud.",
            request="TtsRequest",
            answers=SOUNDS,
            faults=WORK | {Condition.TEXT_MISSING, Condition.VOICE_UNKNOWN, Condition.PARAMETER_UNSUPPORTED},
        )
    },
    "/audio/speech": {
        "post": Operation(
            name="createSpeech",
            summary="Reads a text aloud, in OpenAI's words.",
            request="SpeechRequest",
            answers={**SOUNDS, EVENTS: _events({})},
            faults=WORK | {Condition.SPEECH_MISSING, Condition.VOICE_UNKNOWN, Condition.PARAMETER_UNSUPPORTED},
        )
    },
    "/scrape": {
        "post": Operation(
            name="scrape",
            summary="Fetches web pages and reads them.",
            request="ScrapeRequest",
            answers={JSON: ref("ScrapeResults")},
            faults=WORK | {Condition.URLS_MISSING},
        )
    },
    "/audio/voices": {
        "get": Operation(name="listVoices", summary="The voices on offer.", answers={JSON: ref("Voices")})
    },
    "/models": {
        "get": Operation(name="listModels", summary="What live nodes offer now.", answers={JSON: ref("Models")})
    },
    "/models/{model}": {
        "get": Operation(
            name="getModel",
            summary="One model. Its name may have slashes and colons.",
            answers={JSON: ref("Model")},
            faults=frozenset({Condition.MODEL_NOT_LISTED}),
            parameters={"model": "A name from `GET /models`, or another name of it."},
        )
    },
    "/models/{model}/endpoints": {
        "get": Operation(
            name="listEndpoints",
            summary="The nodes that serve a model, with the load and speed that they tell of themselves.",
            answers={JSON: ref("ModelEndpoints")},
            faults=frozenset({Condition.MODEL_NOT_LISTED}),
            parameters={"model": "A name from `GET /models`, or another name of it."},
        )
    },
    "/receipts/{generation}": {
        "get": Operation(
            name="getReceipt",
            summary="What both sides signed about an answer.",
            answers={JSON: ref("Signed")},
            faults=frozenset({Condition.RECEIPT_UNKNOWN}),
            parameters={"generation": "The `x-cx-generation-id` of the answer."},
        )
    },
    "/health": {
        "get": Operation(
            name="health",
            summary="Whether the gateway runs.",
            answers={JSON: {"type": "object", "properties": {"status": just("ok")}, "required": ["status"]}},
            keyed=False,
        )
    },
    "/ready": {
        "get": Operation(
            name="ready",
            summary="Whether it knows a live node.",
            answers={JSON: {"type": "object", "properties": {"status": just("ready")}, "required": ["status"]}},
            faults=frozenset({Condition.NOT_READY}),
            keyed=False,
        )
    },
    "/openapi.json": {
        "get": Operation(name="openapi", summary="This document.", answers={JSON: {"type": "object"}}, keyed=False)
    },
    "/docs": {"get": Operation(name="docs", summary="This document as a page.", answers={HTML: text()}, keyed=False)},
}
"""By path, below the base, and method."""
