"""Streams of POST /responses: their events in order, how they break off, and OpenAI's own client."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import trio
from trio.testing import MockClock

from cxp2p.errors import JobFailed
from cxp2p.records import CallPart, FailureCode, Logprob, Piece
from cxp2p_gateway.waiting import Patience
from doors import Answer, MemoryDoor, ask, fails, front, hangs, says
from responding import CALLS, CITIES, PATH, WEATHER, body, check_events, makes, respond, types


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
