"""Answers in OpenAI's JSON as schemas."""

from __future__ import annotations

from typing import Final

from cxp2p_gateway.openai.response_answer import Status
from cxp2p_gateway.openapi.words import (
    ANYTHING,
    NULL,
    Schema,
    any_of,
    flag,
    given,
    just,
    many,
    maybe,
    number,
    one_of,
    ref,
    text,
    whole,
)

COUNT: Final = whole(0)
ONE_CX: Final = given(
    {
        "node": text(),
        "attempts": whole(1),
        "resumed": COUNT,
        "queue_ms": COUNT,
        "route": text(),
        "found": given({"via": text(), "lookup_ms": COUNT}),
        "receipt": text(pattern="^[0-9a-f]{64}$"),
    }
)

BYTES: Final = many(whole(0, 255))
TOKEN: Final = {"token": text(), "logprob": number(), "bytes": BYTES}
HEARD: Final = many(given({**TOKEN, "top_logprobs": many(given(TOKEN))}))
LOGPROBS: Final = maybe(given({"content": HEARD, "refusal": NULL}))

USAGE: Final = given(
    {
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "prompt_tokens_details": given({"cached_tokens": COUNT}),
        "completion_tokens_details": given({"reasoning_tokens": COUNT}),
    }
)
REASONS: Final = ("stop", "length", "tool_calls", "function_call")
CALLED: Final = given({"name": text(), "arguments": text()})
MESSAGE: Final = given(
    {"role": just("assistant"), "content": maybe(text()), "refusal": NULL},
    {
        "reasoning_content": text(),
        "function_call": CALLED,
        "tool_calls": many(given({"id": text(), "type": just("function"), "function": CALLED}), 1),
    },
)
DELTA: Final = given(
    {},
    {
        "role": just("assistant"),
        "content": text(),
        "reasoning_content": text(),
        "function_call": given({"arguments": text()}, {"name": text()}),
        "tool_calls": many(
            given(
                {"index": COUNT, "function": given({"arguments": text()}, {"name": text()})},
                {"id": text(), "type": just("function")},
            ),
            1,
        ),
    },
)


def _chat(kind: str) -> dict[str, Schema]:
    return {"id": text(), "object": just(kind), "created": COUNT, "model": text()}


PART: Final = given({"type": just("output_text"), "text": text(), "annotations": many(ANYTHING), "logprobs": HEARD})
THOUGHT: Final = given({"type": just("reasoning_text"), "text": text()})
ITEM_STATUS: Final = one_of([Status.IN_PROGRESS, Status.COMPLETED, Status.INCOMPLETE])
ITEM: Final = any_of(
    given(
        {"type": just("message"), "id": text(), "role": just("assistant"), "content": many(PART), "status": ITEM_STATUS}
    ),
    given(
        {
            "type": just("function_call"),
            "id": text(),
            "call_id": text(),
            "name": text(),
            "arguments": text(),
            "status": ITEM_STATUS,
        }
    ),
    given(
        {
            "type": just("reasoning"),
            "id": text(),
            "summary": many(ANYTHING),
            "content": many(THOUGHT),
            "status": ITEM_STATUS,
        }
    ),
)
RESPONSE: Final = given(
    {
        "id": text(),
        "object": just("response"),
        "created_at": COUNT,
        "status": one_of(list(Status)),
        "error": maybe(given({"code": text(), "message": text()})),
        "incomplete_details": maybe(given({"reason": just("max_output_tokens")})),
        "model": text(),
        "output": many(ref("OutputItem")),
        "instructions": maybe(text()),
        "max_output_tokens": maybe(whole(1)),
        "metadata": {"type": "object", "additionalProperties": text()},
        "parallel_tool_calls": flag(),
        "previous_response_id": NULL,
        "reasoning": given({"effort": maybe(text()), "summary": NULL}),
        "store": {"type": "boolean", "const": False},
        "temperature": number(0, 2),
        "text": given({"format": ANYTHING}),
        "tool_choice": ANYTHING,
        "tools": many(ANYTHING),
        "top_logprobs": COUNT,
        "top_p": number(0, 1),
        "truncation": just("disabled"),
        "background": {"type": "boolean", "const": False},
        "usage": maybe(
            given(
                {
                    "input_tokens": COUNT,
                    "input_tokens_details": given({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
                    "output_tokens": COUNT,
                    "output_tokens_details": given({"reasoning_tokens": COUNT}),
                    "total_tokens": COUNT,
                }
            )
        ),
    },
    {"cx": ref("Cx")},
)
AT: Final = {"item_id": text(), "output_index": COUNT}
INSIDE: Final = {**AT, "content_index": COUNT}


def _event(kind: str, fields: dict[str, Schema]) -> Schema:
    return given({"type": just(f"response.{kind}"), "sequence_number": COUNT, **fields})


EVENT: Final = any_of(
    *(
        _event(kind, {"response": ref("Response")})
        for kind in ("created", "in_progress", "completed", "incomplete", "failed")
    ),
    *(_event(f"output_item.{what}", {"output_index": COUNT, "item": ref("OutputItem")}) for what in ("added", "done")),
    *(_event(f"content_part.{what}", {**INSIDE, "part": any_of(PART, THOUGHT)}) for what in ("added", "done")),
    _event("output_text.delta", {**INSIDE, "delta": text(), "logprobs": HEARD}),
    _event("output_text.done", {**INSIDE, "text": text(), "logprobs": HEARD}),
    _event("reasoning_text.delta", {**INSIDE, "delta": text()}),
    _event("reasoning_text.done", {**INSIDE, "text": text()}),
    _event("function_call_arguments.delta", {**AT, "delta": text()}),
    _event("function_call_arguments.done", {**AT, "name": text(), "arguments": text()}),
)

PRICE: Final = text(description="Credits for each unit, as a decimal.", pattern="^[0-9]+([.][0-9]+)?$")
ARCHITECTURE: Final = given({"input_modalities": many(text()), "output_modalities": many(text())})
PRICING: Final = given({"prompt": PRICE, "completion": PRICE})
ENDPOINT: Final = given(
    {
        "name": text(),
        "model_name": text(),
        "provider_name": text(),
        "tag": text(),
        "context_length": COUNT,
        "max_prompt_tokens": COUNT,
        "max_completion_tokens": maybe(COUNT),
        "pricing": PRICING,
        "quantization": maybe(text()),
        "supported_parameters": many(text()),
        "status": whole(),
        "uptime_last_30m": NULL,
        "runtime": text(),
        "slots": COUNT,
        "queue_max": COUNT,
        "load": given(
            {"running": COUNT, "queued": COUNT, "ttft_ms": maybe(COUNT), "tps": maybe(COUNT), "loading_ms": COUNT}
        ),
    }
)
MODEL: Final = given(
    {
        "id": text(),
        "object": just("model"),
        "created": COUNT,
        "owned_by": text(),
        "context_length": COUNT,
        "max_output_tokens": maybe(COUNT),
        "architecture": ARCHITECTURE,
        "quantization": maybe(text()),
        "supported_parameters": many(text()),
        "pricing": PRICING,
        "providers": given({"count": COUNT, "p50_ttft_ms": maybe(COUNT), "p50_tps": maybe(COUNT)}),
    }
)
VOICE: Final = given(
    {
        "id": text(),
        "object": just("voice"),
        "name": text(),
        "language": maybe(text()),
        "gender": maybe(one_of(("female", "male"))),
        "sample_rate": whole(1),
        "aliases": many(text()),
    }
)


def listed(items: Schema) -> Schema:
    """A list as OpenAI has it."""
    return given({"object": just("list"), "data": many(items)})


VECTOR: Final = any_of(many(number()), text(description="base64 of float32, little-endian."))

ANSWERS: Final[dict[str, Schema]] = {
    "Cx": any_of(ONE_CX, many(ONE_CX), description="How the answer came about, for `X-Cx-Metadata: enabled`."),
    "TokenUsage": USAGE,
    "ChatCompletion": given(
        {
            **_chat("chat.completion"),
            "choices": many(
                given({"index": COUNT, "message": MESSAGE, "logprobs": LOGPROBS, "finish_reason": one_of(REASONS)}), 1
            ),
            "usage": ref("TokenUsage"),
        },
        {"cx": ref("Cx")},
    ),
    "ChatCompletionChunk": given(
        {
            **_chat("chat.completion.chunk"),
            "choices": many(
                given({"index": COUNT, "delta": DELTA, "logprobs": LOGPROBS, "finish_reason": maybe(one_of(REASONS))})
            ),
        },
        {"usage": maybe(ref("TokenUsage")), "cx": ref("Cx")},
    ),
    "OutputItem": ITEM,
    "Response": RESPONSE,
    "ResponseEvent": EVENT,
    "Embeddings": given(
        {
            "object": just("list"),
            "data": many(given({"object": just("embedding"), "embedding": VECTOR, "index": COUNT}), 1),
            "model": text(),
            "usage": given({"prompt_tokens": COUNT, "total_tokens": COUNT}),
        },
        {"cx": ref("Cx")},
    ),
    "Model": MODEL,
    "Models": listed(ref("Model")),
    "ModelEndpoints": given(
        {
            "data": given(
                {
                    "id": text(),
                    "name": text(),
                    "created": COUNT,
                    "description": text(),
                    "architecture": ARCHITECTURE,
                    "endpoints": many(ENDPOINT),
                }
            )
        }
    ),
    "Voices": listed(VOICE),
}
