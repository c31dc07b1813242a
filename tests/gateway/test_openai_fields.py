"""Every field of a chat request through the HTTP front: what a node is asked for, and what a client gets for it."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from cxp2p.client import Emit
from cxp2p.records import (
    Alternative,
    AnswerForm,
    CallPart,
    ChatJob,
    Finish,
    Logprob,
    Message,
    Piece,
    Role,
    Sampling,
    Tool,
    ToolCall,
    ToolMode,
)
from doors import CHAT, Answer, MemoryDoor, ask, chat_body, front, says

FUNCTION = {"name": "f", "description": "Does it.", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
MADE = Tool(name="f", description="Does it.", parameters='{"type": "object"}')
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
USER: dict[str, Any] = {"role": "user", "content": "Hi"}


async def post(door: MemoryDoor, path: str = CHAT, **changes: Any) -> Answer:
    return await ask(front(door), "POST", path, body=chat_body(**changes))


async def job_of(**changes: Any) -> ChatJob:
    """The job that a node gets for a body."""
    door = MemoryDoor(work=says("{}"))
    await post(door, **changes)
    return door.runs[0].job


@pytest.mark.parametrize(
    ("sent", "sampling"),
    [
        ({}, Sampling(temperature=0.7)),
        ({"temperature": 0}, Sampling(temperature=0.0)),
        ({"top_p": 0.5}, Sampling(top_p=0.5)),
        ({"top_k": 40}, Sampling(top_k=40)),
        ({"min_p": 0.05}, Sampling(min_p=0.05)),
        ({"frequency_penalty": -2}, Sampling(frequency_penalty=-2.0)),
        ({"presence_penalty": 1.5}, Sampling(presence_penalty=1.5)),
        ({"repetition_penalty": 1.1}, Sampling(repeat_penalty=1.1)),
        ({"repeat_penalty": 1.1}, Sampling(repeat_penalty=1.1)),
        ({"logit_bias": {"50256": -100, "7": 1}}, Sampling(logit_bias=((50256, -100.0), (7, 1.0)))),
        ({"seed": -7}, Sampling(seed=-7)),
        ({"seed": 2**63 - 1}, Sampling(seed=2**63 - 1)),
    ],
    ids=str,
)
async def test_how_tokens_are_drawn_reaches_the_node(
    sent: dict[str, Any], sampling: Sampling, autojump_clock: MockClock
) -> None:
    assert (await job_of(**sent)).sampling == sampling


@pytest.mark.parametrize(
    ("sent", "changes"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"max_tokens": 6, "max_completion_tokens": None}, {"max_tokens": 6}),
        ({"stop": "a"}, {"stop": ("a",)}),
        ({"stop": ["a", "b", "c", "d"]}, {"stop": ("a", "b", "c", "d")}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 20}, {"logprobs": 20}),
        ({"response_format": "json"}, {"form": AnswerForm.JSON_OBJECT}),
        ({"response_format": {"type": "json_object"}}, {"form": AnswerForm.JSON_OBJECT}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
            {"form": AnswerForm.JSON_SCHEMA, "schema": '{"type": "object"}'},
        ),
        ({"tools": [TOOL]}, {"tools": (MADE,)}),
        ({"tools": [TOOL], "tool_choice": "none"}, {"tools": (MADE,), "tool_mode": ToolMode.NONE}),
        ({"tools": [TOOL], "parallel_tool_calls": False}, {"tools": (MADE,), "parallel_calls": False}),
        ({"tools": [TOOL, TOOL]}, {"tools": (MADE,)}),
        ({"functions": [FUNCTION]}, {"tools": (MADE,), "parallel_calls": False}),
        (
            {"functions": [FUNCTION], "function_call": "none"},
            {"tools": (MADE,), "tool_mode": ToolMode.NONE, "parallel_calls": False},
        ),
        ({"reasoning_effort": "none"}, {"thinking": False}),
        ({"chat_template_kwargs": {"enable_thinking": True}}, {"thinking": True}),
        ({"user": "u", "prompt_cache_key": "k", "safety_identifier": "s"}, {}),
        ({"store": True, "metadata": {"a": "b"}, "service_tier": "flex", "verbosity": "low"}, {}),
        ({"prediction": {"type": "content", "content": "x"}, "web_search_options": {}, "modalities": ["text"]}, {}),
        ({"no_such_field": {"at": ["all"]}, "n": None, "stream": None, "stop": None}, {}),
    ],
    ids=str,
)
async def test_what_is_asked_for_reaches_the_node(
    sent: dict[str, Any], changes: dict[str, Any], autojump_clock: MockClock
) -> None:
    """Everything else is as it is without the field; fields that nobody knows are never refused."""
    plain = ChatJob(model="smollm2:135m", messages=(Message(role=Role.USER, content="Hi"),))
    assert await job_of(**sent) == ChatJob(
        **{**{name: getattr(plain, name) for name in ("model", "messages")}, **changes}
    )


@pytest.mark.parametrize(
    ("sent", "turns"),
    [
        ([{"role": "developer", "content": "d"}, USER], (Message(role=Role.DEVELOPER, content="d"),)),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            (Message(role=Role.USER, content="a\nb"),),
        ),
        (
            [
                {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm.", "audio": None},
                {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "1"}]},
            ],
            (
                Message(
                    role=Role.ASSISTANT,
                    content="",
                    tool_calls=(ToolCall(id="call_1", name="f", arguments='{"a": 1}'),),
                ),
                Message(role=Role.TOOL, content="1", tool_call_id="call_1"),
            ),
        ),
        (
            [
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "1"},
            ],
            (
                Message(role=Role.ASSISTANT, content="", tool_calls=(ToolCall(id="call_0", name="f", arguments="{}"),)),
                Message(role=Role.TOOL, content="1", name="f"),
            ),
        ),
    ],
    ids=["developer", "parts", "tools", "functions"],
)
async def test_every_kind_of_turn_reaches_the_node(
    sent: list[dict[str, Any]], turns: tuple[Message, ...], autojump_clock: MockClock
) -> None:
    assert (await job_of(messages=sent)).messages[: len(turns)] == turns


@pytest.mark.parametrize(
    ("sent", "param", "text"),
    [
        ({"n": 9}, "n", "9 is not between 1 and 8"),
        ({"stop": ["a"] * 5}, "stop", "5 strings is not between 0 and 4"),
        ({"max_tokens": 0}, "max_tokens", "0 is less than 1"),
        ({"top_logprobs": 1}, "top_logprobs", "it is only allowed when 'logprobs' is true"),
        ({"messages": [USER, {"role": "bot"}]}, "messages[1].role", "it is not one of"),
        ({"tools": [TOOL, {"type": "function", "function": {"name": "f"}}]}, "tools[1].function.name", "another tool"),
        ({"functions": [FUNCTION] * 129}, "functions", "129 functions is not between 0 and 128"),
        ({"tools": [TOOL], "functions": [FUNCTION] * 128}, "functions", "128 functions is not between 0 and 127"),
    ],
)
async def test_what_cannot_be_is_a_400_that_names_it(
    sent: dict[str, Any], param: str, text: str, autojump_clock: MockClock
) -> None:
    """In both dialects, and no node is asked."""
    door = MemoryDoor()
    simple, full = [await post(door, path, **sent) for path in (CHAT, "/v1/chat/completions")]
    assert simple.status == full.status == 400
    error = full.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert text in error["message"]
    assert simple.json() == {"error": error["message"]}
    assert door.runs == []


async def calls_twice(job: ChatJob, emit: Emit) -> Finish:
    await emit(Piece(text="Well.", token_ids=(1,)))
    await emit(Piece(token_ids=(1,), calls=(CallPart(number=0, name="f"),)))
    await emit(Piece(token_ids=(1,), calls=(CallPart(number=0, arguments='{"a":'),)))
    await emit(Piece(token_ids=(1,), calls=(CallPart(number=0, arguments=" 1}"), CallPart(number=1, name="g"))))
    return Finish.STOP


async def test_who_asks_with_functions_is_answered_with_one(autojump_clock: MockClock) -> None:
    """As it was before there were tools: one call, no id, and a finish reason of its own."""
    answer = await post(MemoryDoor(work=calls_twice), functions=[FUNCTION])
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"] == {
        "role": "assistant",
        "content": "Well.",
        "refusal": None,
        "function_call": {"name": "f", "arguments": '{"a": 1}'},
    }
    chunks = (await post(MemoryDoor(work=calls_twice), functions=[FUNCTION], stream=True)).events()[:-1]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [delta["function_call"] for delta in deltas if "function_call" in delta] == [
        {"name": "f", "arguments": ""},
        {"arguments": '{"a":'},
        {"arguments": " 1}"},
    ]
    assert not any("tool_calls" in delta for delta in deltas)
    assert chunks[-1]["choices"][0]["finish_reason"] == "function_call"


async def test_who_asks_with_tools_is_answered_with_them(autojump_clock: MockClock) -> None:
    """Also beside functions: every call has its id and its place."""
    for changes in ({"tools": [TOOL]}, {"tools": [TOOL], "functions": [{"name": "g"}]}):
        (choice,) = (await post(MemoryDoor(work=calls_twice), **changes)).json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["f", "g"]


async def thinks(job: ChatJob, emit: Emit) -> Finish:
    await emit(Piece(reasoning="Hm. ", token_ids=(1, 2)))
    await emit(Piece(reasoning="Yes.", text="Yes!", token_ids=(3, 4)))
    return Finish.STOP


async def test_reasoning_stands_beside_the_answer_and_is_counted(autojump_clock: MockClock) -> None:
    (choice,) = (body := (await post(MemoryDoor(work=thinks))).json())["choices"]
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("Hm. Yes.", "Yes!")
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    usage: dict[str, Any] = {"stream_options": {"include_usage": True}}
    *chunks, last, _ = (await post(MemoryDoor(work=thinks), stream=True, **usage)).events()
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm. Yes."
    assert "".join(delta.get("content", "") for delta in deltas) == "Yes!"
    assert last["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}


async def sure(job: ChatJob, emit: Emit) -> Finish:
    top = (Alternative(data=b"a", logprob=-0.5), Alternative(data=b"\xff", logprob=-2.0))
    await emit(Piece(text="a", token_ids=(1,), logprobs=(Logprob(data=b"a", logprob=-0.5, top=top),)))
    return Finish.STOP


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_stand_beside_their_tokens(stream: bool, autojump_clock: MockClock) -> None:
    """In OpenAI's shape, where a token whose bytes are no character shows them."""
    answer = await post(MemoryDoor(work=sure), logprobs=True, top_logprobs=2, stream=stream)
    choice = (answer.events()[1] if stream else answer.json())["choices"][0]
    assert choice["logprobs"]["content"] == [
        {
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [
                {"token": "a", "logprob": -0.5, "bytes": [97]},
                {"token": "\ufffd", "logprob": -2.0, "bytes": [255]},
            ],
        }
    ]
