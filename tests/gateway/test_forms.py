"""Tools, tool calls, answer formats and log probabilities: from OpenAI's JSON and back to it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cxp2p.records import AnswerForm, CallPart, ChatJob, Logprob, Piece, Tool, ToolCall, ToolMode
from cxp2p_gateway.faults import Base, Fault, text_of
from cxp2p_gateway.openai import Chunks, Whole, chat_ask

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather.", "parameters": {"type": "object"}},
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
USER = {"role": "user", "content": "Hi"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **changes}


def job(**changes: Any) -> ChatJob:
    return chat_ask(body(**changes)).job


def test_tools_are_passed_on_with_their_schemas() -> None:
    asked = job(tools=[WEATHER, CLOCK])
    assert asked.tools == (
        Tool(name="weather", description="The weather.", parameters='{"type": "object"}'),
        Tool(name="clock"),
    )
    assert (asked.tool_mode, asked.parallel_calls) == (ToolMode.AUTO, True)
    assert job(functions=[WEATHER["function"]]).tools == asked.tools[:1]
    assert job(tools=[CLOCK], parallel_tool_calls=False).parallel_calls is False


@pytest.mark.parametrize(
    ("changes", "mode", "name", "count"),
    [
        ({"tool_choice": "none"}, ToolMode.NONE, None, 2),
        ({"tool_choice": "auto"}, ToolMode.AUTO, None, 2),
        ({"tool_choice": "required"}, ToolMode.REQUIRED, None, 2),
        ({"tool_choice": {"type": "function", "function": {"name": "clock"}}}, ToolMode.NAMED, "clock", 2),
        ({"function_call": {"name": "weather"}}, ToolMode.NAMED, "weather", 2),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CLOCK]}}},
            ToolMode.REQUIRED,
            None,
            1,
        ),
    ],
)
def test_every_kind_of_choice_is_understood(
    changes: dict[str, Any], mode: ToolMode, name: str | None, count: int
) -> None:
    asked = job(tools=[WEATHER, CLOCK], **changes)
    assert (asked.tool_mode, asked.tool_name, len(asked.tools)) == (mode, name, count)


@pytest.mark.parametrize(
    ("wanted", "form", "schema"),
    [
        (None, AnswerForm.TEXT, ""),
        ("text", AnswerForm.TEXT, ""),
        ({"type": "text"}, AnswerForm.TEXT, ""),
        ("json", AnswerForm.JSON_OBJECT, ""),
        ("json_object", AnswerForm.JSON_OBJECT, ""),
        ({"type": "json_object"}, AnswerForm.JSON_OBJECT, ""),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string"}, "strict": True}},
            AnswerForm.JSON_SCHEMA,
            '{"type": "string"}',
        ),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, AnswerForm.JSON_OBJECT, ""),
    ],
)
def test_every_kind_of_format_is_understood(wanted: Any, form: AnswerForm, schema: str) -> None:
    asked = job(response_format=wanted)
    assert (asked.form, asked.schema) == (form, schema)


@pytest.mark.parametrize(
    ("changes", "param", "problem"),
    [
        ({"tools": [{}]}, "tools[0].type", "it is not 'function'"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "only tools of type 'function' are available"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "expected an object, got null"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "1 to 64 letters"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": [1]}}]},
            "tools[0].function.parameters",
            "expected an object, got an array",
        ),
        ({"tools": [CLOCK] * 129}, "tools", "129 tools is not between 0 and 128"),
        ({"tool_choice": "required"}, "tool_choice", "only allowed when 'tools' is given"),
        ({"tools": [CLOCK], "tool_choice": "always"}, "tool_choice", "not one of none, auto, required"),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "map"}}},
            "tool_choice.function.name",
            "not the name of one of the tools",
        ),
        ({"tools": [CLOCK], "tool_choice": {}}, "tool_choice.type", "it is missing"),
        ({"response_format": "xml"}, "response_format", "not one of text, json_object, json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "expected an object, got null"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": ""}}},
            "response_format.json_schema.name",
            "1 to 64 letters",
        ),
        ({"top_logprobs": 2}, "top_logprobs", "only allowed when 'logprobs' is true"),
        (
            {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": None}]}]},
            "messages[1].tool_calls[0].id",
            "expected a string, got null",
        ),
        (
            {"messages": [USER, {"role": "tool", "content": "x", "tool_call_id": "call_9"}]},
            "messages[1].tool_call_id",
            "does not answer a tool call",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(changes: dict[str, Any], param: str, problem: str) -> None:
    with pytest.raises(Fault) as refused:
        chat_ask(body(**changes))
    assert refused.value.param == param
    assert problem in text_of(refused.value, Base.ALIAS)


def test_earlier_calls_and_their_answers_are_passed_on() -> None:
    asked = job(
        messages=[
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "Rain", "tool_call_id": "call_1"},
        ]
    )
    assert asked.messages[1].tool_calls == (ToolCall(id="call_1", name="weather", arguments='{"city": "Paris"}'),)
    assert asked.messages[2].tool_call_id == "call_1"


PIECES = (
    Piece(text="", token_ids=(1,), reasoning="Hm."),
    Piece(text="Look: ", token_ids=(2,)),
    Piece(text="", token_ids=(3,), calls=(CallPart(number=0, name="weather", arguments='{"ci'),)),
    Piece(text="", token_ids=(4,), calls=(CallPart(number=0, arguments='ty": 1}'), CallPart(number=1, name="clock"))),
    Piece(text="", token_ids=(5,), calls=(CallPart(number=1, arguments="{}"),)),
    Piece(text="", token_ids=(6,)),
)


def test_streamed_calls_have_right_indexes_and_ids() -> None:
    chunks = Chunks(chat_ask(body(stream=True)), "chatcmpl-7", 1)
    deltas = [json.loads(chunk[6:])["choices"][0]["delta"] for piece in PIECES if (chunk := chunks.piece(piece))]
    first = {"index": 0, "id": "call_7_0", "type": "function", "function": {"name": "weather", "arguments": '{"ci'}}
    second = {"index": 1, "id": "call_7_1", "type": "function", "function": {"name": "clock", "arguments": ""}}
    assert deltas == [
        {"reasoning_content": "Hm."},
        {"content": "Look: "},
        {"tool_calls": [first]},
        {"tool_calls": [{"index": 0, "function": {"arguments": 'ty": 1}'}}, second]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
    ]


def test_a_whole_answer_has_the_same_calls() -> None:
    whole = Whole()
    for piece in PIECES:
        whole.take(piece)
    message = whole.choice(chat_ask(body()), "chatcmpl-7", "tool_calls")["message"]
    assert message == {
        "role": "assistant",
        "content": "Look: ",
        "refusal": None,
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "call_7_0", "type": "function", "function": {"name": "weather", "arguments": '{"city": 1}'}},
            {"id": "call_7_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
        ],
    }
    only_calls = Whole()
    only_calls.take(PIECES[4])
    only_calls.take(PIECES[2])
    silent = only_calls.choice(chat_ask(body()), "chatcmpl-7", "tool_calls")["message"]
    assert isinstance(silent, dict)
    assert silent["content"] is None


def test_log_probabilities_have_openais_shape() -> None:
    logprob = Logprob(data=b"\xc3", logprob=-0.5)
    whole, chunks = Whole(), Chunks(chat_ask(body(stream=True, logprobs=True)), "chatcmpl-7", 1)
    piece = Piece(text="x", token_ids=(1,), logprobs=(logprob,))
    whole.take(piece)
    expected = {
        "content": [{"token": "\ufffd", "logprob": -0.5, "bytes": [195], "top_logprobs": []}],
        "refusal": None,
    }
    assert whole.choice(chat_ask(body(logprobs=True)), "chatcmpl-7", "stop")["logprobs"] == expected
    assert whole.choice(chat_ask(body()), "chatcmpl-7", "stop")["logprobs"] is None
    chunk = json.loads(chunks.piece(piece)[6:])["choices"][0]
    assert (chunk["delta"], chunk["logprobs"]) == ({"content": "x"}, expected)
