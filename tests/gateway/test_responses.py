"""POST /responses over a door in memory: texts, calls, forms, lengths, and what cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response
from trio.testing import MockClock

from cxp2p.errors import JobFailed
from cxp2p.records import ChatJob, FailureCode, Finish, Piece, Role, ToolMode
from doors import MemoryDoor, ask, fails, front, says
from responding import CALLS, CITIES, FORM, PATH, SCHEMA, WEATHER, body, makes, respond, types


async def job_of(**changes: Any) -> ChatJob:
    door = MemoryDoor(work=makes(*CALLS) if changes.get("tool_choice") else says("Hello"))
    answer = await ask(front(door), "POST", PATH, body=body(**changes))
    assert answer.status == 200, answer.json()
    return door.runs[0].job


async def refused(**changes: Any) -> tuple[str, str | None, str]:
    answer = await respond(**changes)
    assert answer.status == 400
    error = answer.json()["error"]
    return error["code"], error["param"], error["message"]


@pytest.mark.parametrize("base", ["/v1", "/api/v1"])
async def test_a_text(base: str, autojump_clock: MockClock) -> None:
    """The whole object, as OpenAI's package has it in every field that it knows."""
    door = MemoryDoor()
    answer = await ask(front(door), "POST", f"{base}/responses", body=body(metadata={"a": "b"}))
    assert answer.status == 200
    told = answer.json()
    Response.model_validate(told, strict=True)
    made = answer.headers["x-cx-generation-id"].removeprefix("resp_")
    assert told["id"] == f"resp_{made}" == door.runs[0].generation
    assert (told["object"], told["status"], told["store"], told["metadata"]) == (
        "response",
        "completed",
        False,
        {"a": "b"},
    )
    part = {"type": "output_text", "text": "Hello there", "annotations": [], "logprobs": []}
    message = {"id": f"msg_{made}_0", "type": "message", "role": "assistant", "content": [part], "status": "completed"}
    assert told["output"] == [message]
    assert told["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 30,
    }


async def test_thoughts_text_and_calls_are_items(autojump_clock: MockClock) -> None:
    pieces = (Piece(reasoning="Hm.", token_ids=(9,)), Piece(text="Let me see.", token_ids=(8,)), *CALLS)
    told = (await respond(makes(*pieces), tools=[WEATHER])).json()
    Response.model_validate(told, strict=True)
    assert [item["type"] for item in told["output"]] == ["reasoning", "message", "function_call", "function_call"]
    thought, message, first, second = told["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert message["content"][0]["text"] == "Let me see."
    assert (first["name"], first["arguments"], second["arguments"]) == ("get_weather", *CITIES)
    assert len({first["call_id"], second["call_id"]}) == 2
    assert told["usage"]["output_tokens_details"] == {"reasoning_tokens": 1}
    assert told["tools"] == [{**WEATHER, "description": None, "strict": False}]


async def test_an_answer_that_had_no_room_is_incomplete(autojump_clock: MockClock) -> None:
    work = says("Hello", finish=Finish.LENGTH)
    told = (await respond(work, max_output_tokens=1)).json()
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert told["output"][0]["status"] == "incomplete"
    streamed = await respond(work, max_output_tokens=1, stream=True)
    assert types(streamed)[-1] == "response.incomplete"
    assert streamed.events()[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_what_goes_to_the_node(autojump_clock: MockClock) -> None:
    job = await job_of(
        instructions="Be brief.",
        temperature=0.1,
        top_p=0.5,
        max_output_tokens=7,
        reasoning={"effort": "none", "summary": "auto"},
        parallel_tool_calls=False,
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "get_weather"},
    )
    assert [(turn.role, turn.content) for turn in job.messages] == [(Role.SYSTEM, "Be brief."), (Role.USER, "Hi")]
    assert (job.sampling.temperature, job.sampling.top_p, job.max_tokens, job.thinking) == (0.1, 0.5, 7, False)
    assert (job.tool_mode, job.tool_name, job.parallel_calls) == (ToolMode.NAMED, "get_weather", False)
    assert json.loads(job.tools[0].parameters) == WEATHER["parameters"]
    assert (await job_of(top_logprobs=3)).logprobs == 3
    plain = await job_of()
    assert (plain.sampling.temperature, plain.max_tokens, plain.thinking, plain.logprobs) == (0.7, None, None, None)


async def test_items_become_turns(autojump_clock: MockClock) -> None:
    """A text and the calls that follow it are one turn; thoughts are left out; parts stand on lines."""
    call = {"type": "function_call", "name": "get_weather", "arguments": "{}", "id": "fc_1", "status": "completed"}
    job = await job_of(
        input=[
            {"role": "developer", "content": "Be kind."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": t} for t in ("A", "B")]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
            {**call, "call_id": "c1"},
            {**call, "call_id": "c2"},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "sun"}]},
            {**call, "call_id": "c3"},
        ]
    )
    assert [turn.role.value for turn in job.messages] == [
        "developer",
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    assert [turn.content for turn in job.messages] == ["Be kind.", "A\nB", "Wait.", "rain", "sun", ""]
    assert [[call.id for call in turn.tool_calls] for turn in job.messages] == [[], [], ["c1", "c2"], [], [], ["c3"]]
    assert [turn.tool_call_id for turn in job.messages] == [None, None, None, "c1", "c2", None]


NOT_KEPT = "this gateway keeps no responses; send the whole conversation as 'input'"


@pytest.mark.parametrize(
    ("changes", "code", "param", "text"),
    [
        ({"model": None}, "missing_required_parameter", "model", "Missing required parameter: model or input"),
        ({"input": []}, "missing_required_parameter", "input", "Missing required parameter: model or input"),
        ({"input": 3}, "invalid_type", "input", "expected a string or an array of items, got a number"),
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id", NOT_KEPT),
        ({"conversation": "c"}, "unsupported_parameter", "conversation", NOT_KEPT),
        ({"prompt": {"id": "p"}}, "unsupported_parameter", "prompt", NOT_KEPT),
        ({"background": True}, "unsupported_parameter", "background", NOT_KEPT),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_parameter", "input[0].type", NOT_KEPT),
        ({"input": [{"type": "computer_call"}]}, "unsupported_parameter", "input[0].type", "only messages"),
        ({"input": [{"role": "king", "content": "x"}]}, "out_of_range", "input[0].role", "it is not one of user"),
        ({"input": [{"content": "x"}]}, "out_of_range", "input[0].role", "it is missing"),
        ({"input": [{"role": "user"}]}, "invalid_type", "input[0].content", "got null"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "unsupported_modality",
            "input[0].content[0].type",
            "images are not available",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "invalid_type",
            "input[0].content[0].text",
            "expected a string, got null",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
            "out_of_range",
            "input[0].call_id",
            "it does not answer a function call",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f"}]},
            "invalid_type",
            "input[0].arguments",
            "expected a string, got null",
        ),
        ({"max_output_tokens": 0}, "out_of_range", "max_output_tokens", "0 is less than 1"),
        ({"temperature": "x"}, "invalid_type", "temperature", "expected a number, got a string"),
        ({"reasoning": {"effort": "wild"}}, "out_of_range", "reasoning.effort", "it is not one of none"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools[0].type", "only tools of type"),
        ({"tools": [{"type": "function"}]}, "out_of_range", "tools[0].name", "1 to 64 letters"),
        ({"tool_choice": "required"}, "out_of_range", "tool_choice", "only allowed when 'tools' is given"),
        ({"text": {"format": {"type": "xml"}}}, "out_of_range", "text.format.type", "it is not one of text"),
        ({"text": {"format": {"type": "json_schema"}}}, "out_of_range", "text.format.name", "1 to 64 letters"),
        ({"stream_options": {}}, "out_of_range", "stream_options", "only allowed when 'stream' is true"),
        ({"metadata": {"a": 1}}, "invalid_type", "metadata.a", "expected a string, got a number"),
        ({"metadata": {str(n): "" for n in range(17)}}, "out_of_range", "metadata", "17 entries"),
        ({"metadata": {"k" * 65: ""}}, "out_of_range", "metadata", "65 characters of a name"),
        ({"metadata": {"k": "v" * 513}}, "out_of_range", "metadata.k", "513 characters"),
        ({"input": [{"role": "user", "content": "x"}] * 1025}, "out_of_range", "input", "1025 items"),
        (
            {"instructions": "x", "input": [{"role": "user", "content": "x"}] * 1024},
            "out_of_range",
            "input",
            "1025 messages",
        ),
        (
            {
                "input": [
                    {"type": "function_call", "call_id": str(n), "name": "f", "arguments": "{}"} for n in range(129)
                ]
            },
            "out_of_range",
            "input[128].type",
            "129 calls in a row",
        ),
    ],
)
async def test_what_cannot_be_is_named(
    changes: dict[str, Any], code: str, param: str, text: str, autojump_clock: MockClock
) -> None:
    got = await refused(**changes)
    assert got[:2] == (code, param)
    assert text in got[2]


async def test_nulls_and_unknown_fields_are_nothing(autojump_clock: MockClock) -> None:
    nulls = "instructions max_output_tokens metadata tools tool_choice text reasoning include store background stream"
    assert (await respond(**dict.fromkeys(nulls.split()), made_up={"x": [1]}, service_tier="auto")).status == 200


async def test_a_schema_is_held_to(autojump_clock: MockClock) -> None:
    assert json.loads((await job_of_form('{"a": 1}')).schema) == SCHEMA
    broken = await respond(says("{}"), text=FORM)
    assert (broken.status, broken.headers["x-error-code"]) == (503, "schema_violation")
    streamed = await respond(says("{}"), text=FORM, stream=True)
    assert types(streamed)[-1] == "response.failed"


async def job_of_form(text: str) -> ChatJob:
    door = MemoryDoor(work=says(text))
    answer = await ask(front(door), "POST", PATH, body=body(text=FORM))
    assert answer.json()["text"] == FORM
    return door.runs[0].job


async def test_faults_of_a_job_name_this_api_s_parameters(autojump_clock: MockClock) -> None:
    too_long = fails(JobFailed(FailureCode.CONTEXT_LENGTH, "x", limit=5, actual=9))
    assert (await respond(too_long)).json()["error"]["param"] == "input"
    bad = fails(JobFailed(FailureCode.SCHEMA_INVALID, "x"))
    assert (await respond(bad, text=FORM)).json()["error"]["param"] == "text.format"
