"""POST /responses over a door in memory: whole and streamed, calls, lengths, faults, and OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
import trio
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from trio.testing import MockClock

from cxp2p.client import Emit
from cxp2p.errors import JobFailed
from cxp2p.records import CallPart, ChatJob, FailureCode, Finish, Logprob, Piece, Role, ToolMode
from cxp2p_gateway.waiting import Patience
from doors import Answer, MemoryDoor, Work, ask, fails, front, hangs, says

PATH = "/v1/responses"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CITIES = ('{"city":"Oslo"}', '{"city":"Rome"}')
CALLS = (
    Piece(calls=(CallPart(number=0, name="get_weather"),), token_ids=(1,)),
    Piece(calls=(CallPart(number=0, arguments='{"city":'),), token_ids=(2,)),
    Piece(
        calls=(
            CallPart(number=0, arguments='"Oslo"}'),
            CallPart(number=1, name="get_weather", arguments='{"city":"Rome"}'),
        ),
        token_ids=(3,),
    ),
)


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "smollm2:135m", "input": "Hi", **changes}


def makes(*pieces: Piece, finish: Finish = Finish.STOP) -> Work:
    """A node that sends these pieces."""

    async def work(job: ChatJob, emit: Emit) -> Finish:
        for piece in pieces:
            await emit(piece)
        return finish

    return work


async def respond(work: Work | None = None, *, patience: Patience | None = None, **changes: Any) -> Answer:
    door = MemoryDoor() if work is None else MemoryDoor(work=work)
    return await ask(front(door, patience), "POST", PATH, body=body(**changes))


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


def types(answer: Answer) -> list[str]:
    return [event["type"] for event in answer.events()]


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


async def test_the_events_of_a_text(autojump_clock: MockClock) -> None:
    """In OpenAI's order, numbered; the last repeats all; no [DONE]."""
    answer = await respond(stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert types(answer) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    check_events(answer)
    assert answer.events()[-1]["response"]["output"][0]["content"][0]["text"] == "Hello there"


def check_events(answer: Answer) -> None:
    """OpenAI's package reads all events; their names stand before them; numbers go up by one."""
    for number, event in enumerate(answer.events()):
        EVENT.validate_python(event)
        assert event["sequence_number"] == number
    blocks = [block for block in answer.body.decode().split("\n\n") if block and not block.startswith(":")]
    names = [block.split("\n")[0] for block in blocks]
    assert names == [f"event: {kind}" for kind in types(answer)]


async def test_the_events_of_thoughts_text_and_calls(autojump_clock: MockClock) -> None:
    """A text ends where a call begins; calls grow side by side; what is done is what the last event repeats."""
    pieces = (Piece(reasoning="Hm.", token_ids=(9,)), Piece(text="Well", token_ids=(8,)), *CALLS)
    answer = await respond(makes(*pieces, Piece(text="!", token_ids=(7,))), stream=True, tools=[WEATHER])
    check_events(answer)
    kinds = [kind.removeprefix("response.") for kind in types(answer)]
    assert kinds[2:6] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
    ]
    assert kinds.index("output_text.done") < kinds.index("function_call_arguments.delta")
    events, last = answer.events(), answer.events()[-1]["response"]
    done = {each["output_index"]: each["item"] for each in events if each["type"] == "response.output_item.done"}
    assert [done[index] for index in range(5)] == last["output"]
    assert [item["type"] for item in last["output"]] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
        "message",
    ]
    deltas: dict[int, str] = {}
    for each in events:
        if each["type"] == "response.function_call_arguments.delta":
            deltas[each["output_index"]] = deltas.get(each["output_index"], "") + each["delta"]
    assert deltas == {2: CITIES[0], 3: CITIES[1]}


async def test_a_part_of_a_call_that_nobody_named_is_left_out(autojump_clock: MockClock) -> None:
    """As where the answer is whole."""
    work = makes(Piece(calls=(CallPart(number=3, arguments="{}"),), token_ids=(1,)))
    assert (await respond(work)).json()["output"][0]["type"] == "message"
    streamed = await respond(work, stream=True)
    assert [item["type"] for item in streamed.events()[-1]["response"]["output"]] == ["message"]


async def test_log_probabilities_are_told_when_they_are_included(autojump_clock: MockClock) -> None:
    heard = Piece(text="Hi", token_ids=(1,), logprobs=(Logprob(data=b"Hi", logprob=-0.5),))
    told = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    asked: Any = {"include": ["message.output_text.logprobs", "reasoning.encrypted_content"]}
    assert (await respond(makes(heard), **asked)).json()["output"][0]["content"][0]["logprobs"] == [told]
    streamed = await respond(makes(heard), stream=True, **asked)
    check_events(streamed)
    assert streamed.events()[4]["logprobs"] == streamed.events()[5]["logprobs"] == [told]
    assert (await respond(makes(heard))).json()["output"][0]["content"][0]["logprobs"] == []
    assert (await job_of(top_logprobs=3)).logprobs == 3


async def test_a_stream_that_breaks_off_is_failed(autojump_clock: MockClock) -> None:
    """With what there is of it, and nothing after."""
    work = fails(JobFailed(FailureCode.INTERNAL, "x"), "Hel", "lo")
    answer = await respond(work, stream=True)
    check_events(answer)
    last = answer.events()[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {
        "code": "server_error",
        "message": "The provider stopped before the answer was complete",
    }
    assert last["response"]["output"][0]["content"][0]["text"] == "Hello"
    assert last["response"]["output"][0]["status"] == "incomplete"
    assert answer.complete


async def test_a_failure_before_the_first_piece_has_a_status(autojump_clock: MockClock) -> None:
    answer = await respond(fails(JobFailed(FailureCode.INTERNAL, "x")), stream=True)
    assert (answer.status, answer.headers["x-error-code"]) == (503, "upstream_failed")


async def test_silence_is_kept_alive_and_failed_at_the_deadline(autojump_clock: MockClock) -> None:
    """A stream that had only comments still begins with its first event."""
    answer = await respond(hangs, patience=Patience(hold_s=1, keep_alive_s=1, deadline_s=5), stream=True)
    assert answer.body.startswith(b": keep-alive\n\n")
    check_events(answer)
    assert types(answer) == ["response.created", "response.in_progress", "response.failed"]


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


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORM = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}


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


class Recorded(httpx.BaseTransport):
    """Answers every request with one that was made before."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(self.answer.status, headers=self.answer.headers, content=self.answer.body)


def client(answer: Answer) -> openai.OpenAI:
    recorded: Any = httpx.Client(transport=Recorded(answer))  # the package has a name of its own for this class
    return openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=recorded)


async def test_openai_s_client_puts_a_stream_together(autojump_clock: MockClock) -> None:
    answer = await respond(makes(Piece(text="Well", token_ids=(8,)), *CALLS), stream=True, tools=[WEATHER])
    with client(answer).responses.stream(model="m", input="Hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds == types(answer)
    assert final.output_text == "Well"
    assert [item.arguments for item in final.output if item.type == "function_call"] == [*CITIES]


async def test_openai_s_client_reads_a_whole_answer(autojump_clock: MockClock) -> None:
    told = client(await respond()).responses.create(model="m", input="Hi")
    assert told.output_text == "Hello there"
    assert told.usage is not None
    assert told.usage.total_tokens == 30


async def test_a_client_that_leaves_ends_the_job(autojump_clock: MockClock) -> None:
    door = MemoryDoor(work=says("a", "b", "c", pause_s=10))
    await ask(front(door), "POST", PATH, body=body(stream=True), leave_after_s=15)
    assert door.runs[0].cancelled
    assert trio.current_time() < 20
