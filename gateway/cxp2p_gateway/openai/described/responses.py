"""A request of the Responses API as schemas."""

from __future__ import annotations

from typing import Final

from cxp2p_gateway.openai import ask, forms
from cxp2p_gateway.openai.described.chat import AFFINITY, JSON_SCHEMA, MODEL, MODES, SAMPLING, TOOL_NAME
from cxp2p_gateway.openai.response_ask import (
    LOGPROBS_INCLUDED,
    METADATA_KEY_MAX,
    METADATA_MAX,
    METADATA_VALUE_MAX,
    ROLES,
    STORED,
    TEXT_PARTS,
)
from cxp2p_gateway.openapi.words import (
    ANYTHING,
    Schema,
    any_of,
    flag,
    just,
    many,
    one_of,
    only_with,
    record,
    ref,
    text,
    whole,
)

ID: Final = text(1, forms.ID_LENGTH_MAX)
PARTS: Final = any_of(
    text(),
    many(
        any_of(
            record({"type": one_of(TEXT_PARTS), "text": text()}),
            record({"type": just("refusal"), "refusal": text()}),
        ),
        1,
        ask.MESSAGES_MAX,
    ),
)
ITEM: Final = any_of(
    record({"role": one_of(ROLES), "content": PARTS}, {"type": just("message")}),
    record({"type": just("function_call"), "call_id": ID, "name": ID, "arguments": text()}),
    record(
        {"type": just("function_call_output"), "call_id": text(), "output": PARTS},
        description="`call_id` is that of a function call in an earlier item.",
    ),
    record({"type": just("reasoning")}, description="Is not read."),
)
FORMAT: Final = any_of(
    record({"type": one_of(("text", "json", "json_object"))}),
    record({"type": just("json_schema"), "name": TOOL_NAME}, {"schema": JSON_SCHEMA, "strict": flag()}),
)
TOOL_CHOICE: Final = any_of(
    one_of(MODES),
    record({"type": just("function"), "name": TOOL_NAME}),
    record({"type": just("allowed_tools"), "tools": many(ANYTHING, 1)}, {"mode": one_of(("auto", "required"))}),
    description="`required`, and a name, only with `tools` that have it.",
)
METADATA: Final[Schema] = {
    "type": "object",
    "additionalProperties": text(0, METADATA_VALUE_MAX, type=["string", "null"]),
    "propertyNames": {"maxLength": METADATA_KEY_MAX},
    "maxProperties": METADATA_MAX,
}

RESPONSES: Final[dict[str, Schema]] = {
    "InputItem": ITEM,
    "ResponseTool": record(
        {"type": just("function"), "name": TOOL_NAME},
        {"description": text(), "parameters": JSON_SCHEMA, "strict": flag()},
    ),
    "ResponseRequest": record(
        {"model": MODEL, "input": any_of(text(1), many(ref("InputItem"), 1, ask.MESSAGES_MAX))},
        {
            **SAMPLING,
            "instructions": text(),
            "stream": flag(default=False),
            "stream_options": record({}),
            "max_output_tokens": whole(1),
            "text": record({}, {"format": FORMAT}),
            "tools": many(ref("ResponseTool"), None, forms.TOOLS_MAX),
            "tool_choice": TOOL_CHOICE,
            "parallel_tool_calls": flag(default=True),
            "reasoning": record({}, {"effort": one_of(ask.EFFORTS)}),
            "include": many(text(), examples=[[LOGPROBS_INCLUDED]]),
            "top_logprobs": whole(0, ask.LOGPROBS_MAX),
            "metadata": METADATA,
            **AFFINITY,
            "store": flag(description="Nothing is stored, whatever it says."),
            "background": {"type": "boolean", "const": False},
            **{name: {"type": "null", "description": "Nothing is stored."} for name in STORED},
        },
        allOf=[only_with("stream_options", "stream")],
    ),
}
