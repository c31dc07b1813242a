"""A chat request as schemas."""

from __future__ import annotations

from typing import Final

from cxp2p_gateway.openai import ask, forms
from cxp2p_gateway.openapi.words import (
    ANYTHING,
    NULL,
    Schema,
    any_of,
    flag,
    just,
    many,
    maybe,
    number,
    one_of,
    only_with,
    record,
    ref,
    text,
    whole,
)

MODEL: Final = text(1, description="A name from `GET /models`.", examples=["smollm2:135m"])
TOOL_NAME: Final = text(pattern="^[A-Za-z0-9_-]{1,64}$")
JSON_SCHEMA: Final[Schema] = {"type": "object", "description": "A JSON Schema."}
MODES: Final = ("none", "auto", "required")

SAMPLING: Final[dict[str, Schema]] = {
    "temperature": number(0, 2, default=ask.DEFAULTS.temperature),
    "top_p": number(0, 1, default=ask.DEFAULTS.top_p),
    "frequency_penalty": number(-2, 2, default=0),
    "presence_penalty": number(-2, 2, default=0),
    "top_k": whole(0, 2**31 - 1),
    "min_p": number(0, 1),
    "repetition_penalty": number(0.01, 10),
    "repeat_penalty": number(0.01, 10, description="Another name of repetition_penalty, which wins."),
    "logit_bias": {
        "type": "object",
        "description": "Token id of the model → bias.",
        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
        "additionalProperties": maybe(number(-100, 100)),
        "maxProperties": ask.BIASES_MAX,
    },
    "seed": whole(-(2**63), 2**63 - 1),
}

NAME: Final = text(1, ask.NAME_LENGTH_MAX)
TEXT_PART: Final = record({"type": just("text"), "text": text()})
REFUSAL_PART: Final = record({"type": just("refusal"), "refusal": text()})


def _content(*parts: Schema) -> Schema:
    return any_of(text(), many(any_of(*parts) if len(parts) > 1 else parts[0], 1, ask.MESSAGES_MAX))


CALL: Final = record(
    {
        "id": text(1, forms.ID_LENGTH_MAX),
        "function": record({"name": text(1, forms.ID_LENGTH_MAX), "arguments": text()}),
    },
    {"type": just("function")},
)
FUNCTION_CALL: Final = record({"name": text(1, forms.ID_LENGTH_MAX), "arguments": text()})
CALLED: Final = {"tool_calls": many(CALL, None, forms.CALLS_MAX), "function_call": FUNCTION_CALL}
ASSISTANT: Final = just("assistant")

TOOL: Final = record({"name": TOOL_NAME}, {"description": text(), "parameters": JSON_SCHEMA, "strict": flag()})
NAMED: Final = record({"name": TOOL_NAME})
ALLOWED: Final = record(
    {"tools": many(ANYTHING, 1)}, {"mode": one_of(("auto", "required"))}, description="Some of the tools."
)

SAID: Final = {"name": NAME}
MESSAGE: Final = any_of(
    record({"role": one_of(("system", "developer", "user")), "content": _content(TEXT_PART)}, SAID),
    record({"role": ASSISTANT, "content": _content(TEXT_PART, REFUSAL_PART)}, SAID | CALLED),
    record({"role": ASSISTANT, "tool_calls": many(CALL, 1, forms.CALLS_MAX)}, SAID | CALLED | {"content": NULL}),
    record({"role": ASSISTANT, "function_call": FUNCTION_CALL}, SAID | CALLED | {"content": NULL}),
    record(
        {"role": just("tool"), "content": _content(TEXT_PART), "tool_call_id": text()},
        SAID,
        description="`tool_call_id` is the id of a call in an earlier message.",
    ),
    record({"role": just("function")}, SAID | {"content": _content(TEXT_PART)}),
)
AFFINITY: Final[dict[str, Schema]] = {
    "prompt_cache_key": text(description="Requests with the same go to the same node while it has room."),
    "user": text(description="In the place of `prompt_cache_key`."),
}
RESPONSE_FORMAT: Final = any_of(
    one_of(("text", "json", "json_object")),
    record({"type": one_of(("text", "json", "json_object"))}),
    record(
        {
            "type": just("json_schema"),
            "json_schema": record({"name": TOOL_NAME}, {"schema": JSON_SCHEMA, "strict": flag()}),
        }
    ),
)
TOOL_CHOICE: Final = any_of(
    one_of(MODES),
    record({"type": just("function"), "function": NAMED}),
    record({"type": just("function"), "name": TOOL_NAME}),
    record({"type": just("allowed_tools"), "allowed_tools": ALLOWED}),
    record({"type": just("allowed_tools"), **ALLOWED["properties"]}),
    description="`required`, and a name, only with `tools` that have it.",
)

CHAT: Final[dict[str, Schema]] = {
    "Message": MESSAGE,
    "Tool": record({"type": just("function"), "function": TOOL}),
    "ChatCompletionRequest": record(
        {"model": MODEL, "messages": many(ref("Message"), 1, ask.MESSAGES_MAX)},
        {
            **SAMPLING,
            "stream": flag(default=False),
            "stream_options": record({}, {"include_usage": flag()}),
            "max_tokens": whole(1),
            "max_completion_tokens": whole(1, description="Wins over max_tokens."),
            "n": whole(1, ask.CHOICES_MAX, default=1),
            "stop": any_of(text(1, ask.STOP_LENGTH_MAX), many(text(1, ask.STOP_LENGTH_MAX), None, ask.STOPS_MAX)),
            "logprobs": flag(default=False),
            "top_logprobs": whole(0, ask.LOGPROBS_MAX),
            "response_format": RESPONSE_FORMAT,
            "tools": many(ref("Tool"), None, forms.TOOLS_MAX),
            "tool_choice": TOOL_CHOICE,
            "parallel_tool_calls": flag(default=True),
            "functions": many(TOOL, None, forms.TOOLS_MAX, description="What `tools` was before."),
            "function_call": any_of(one_of(MODES), NAMED, description="What `tool_choice` was before."),
            "reasoning_effort": one_of(ask.EFFORTS),
            "chat_template_kwargs": record({}, {"enable_thinking": flag()}),
            "modalities": many(just("text")),
            **AFFINITY,
        },
        allOf=[only_with("stream_options", "stream"), only_with("top_logprobs", "logprobs", whole(0, 0))],
    ),
}
