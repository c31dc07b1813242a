"""Answers that must have a form: looked at before they count, asked for once more, and never charged if wrong."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Emit
from cxp2p.errors import JobFailed, NoNode
from cxp2p.records import CallPart, ChatJob, FailureCode, Finish, Piece
from cxp2p_gateway.openai import chat_ask
from cxp2p_gateway.schemas import CheckerDown, Here, Uncheckable
from doors import CHAT, Answer, MemoryDoor, ask, chat_body, fails, front, piece, says

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer", "maximum": 120}}, "required": ["age"]}
RIGHT, WRONG = '{"age": 5}', '{"age": 500}'
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
WEATHER: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
STRICT: dict[str, Any] = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
NAMED = {"type": "function", "function": {"name": "weather"}}

Doing = Callable[[ChatJob, Emit], Awaitable[Finish]]


def schema_form(strict: bool | None = None, schema: Any = SCHEMA) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}


def calls(*made: tuple[str, str], text: str = "") -> Doing:
    """A node that calls these tools, arguments in two parts each."""

    async def work(job: ChatJob, emit: Emit) -> Finish:
        if text:
            await emit(piece(text))
        for number, (name, arguments) in enumerate(made):
            half = len(arguments) // 2
            await emit(Piece(token_ids=(1,), calls=(CallPart(number=number, name=name, arguments=arguments[:half]),)))
            await emit(Piece(token_ids=(1,), calls=(CallPart(number=number, arguments=arguments[half:]),)))
        return Finish.STOP

    return work


def first(*works: Doing) -> Doing:
    """The first job is done by the first of them, and so on."""
    waiting = list(works)

    async def work(job: ChatJob, emit: Emit) -> Finish:
        return await waiting.pop(0)(job, emit)

    return work


async def post(work: Doing, **changes: Any) -> Answer:
    headers = {"X-Cx-Metadata": "enabled"}
    return await ask(front(MemoryDoor(work=work)), "POST", CHAT, body=chat_body(**changes), headers=headers)


# Plain answers.


@pytest.mark.parametrize(
    "form", ["json", "json_object", {"type": "json_object"}, schema_form(), schema_form(strict=True)], ids=str
)
async def test_a_right_answer_is_passed_on_as_it_is(form: Any, autojump_clock: MockClock) -> None:
    answer = await post(says('{"age"', ": 5}"), response_format=form)
    assert answer.json()["choices"][0]["message"]["content"] == RIGHT
    assert answer.json()["cx"]["attempts"] == 2


@pytest.mark.parametrize(
    ("form", "wrong"),
    [
        ("json_object", "Sure! Here it is"),
        ({"type": "json_object"}, "[1, 2]"),
        (schema_form(), WRONG),
        (schema_form(strict=True), WRONG),
        (schema_form(), ""),
    ],
    ids=str,
)
async def test_a_wrong_answer_is_asked_for_once_more(form: Any, wrong: str, autojump_clock: MockClock) -> None:
    """Nothing of it is left in the one that counts, and its tokens are not in the usage."""
    answer = await post(first(says(wrong), says(RIGHT)), response_format=form)
    body = answer.json()
    assert body["choices"][0]["message"]["content"] == RIGHT
    assert body["usage"]["completion_tokens"] == 20
    assert body["cx"]["attempts"] == 3


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (says("{}"), "it breaks 'required' of its schema"),
        (fails(NoNode("x")), "it breaks 'maximum' of its schema"),
    ],
)
async def test_a_second_wrong_answer_is_an_error(second: Doing, problem: str, autojump_clock: MockClock) -> None:
    """And so is the first, if nobody else can be asked. It may be tried again."""
    answer = await post(first(says(WRONG), second), response_format=schema_form())
    assert (answer.status, answer.headers["x-error-code"]) == (503, "schema_violation")
    assert answer.json() == {"error": f"The answer is not what the request demands: {problem}"}
    assert answer.headers["retry-after"] == "1"
    assert "x-should-retry" not in answer.headers


async def test_what_was_refused_has_a_receipt_too(autojump_clock: MockClock) -> None:
    """Under the same id: what was signed about it is nobody's secret."""
    door = MemoryDoor(work=first(says(WRONG), says(RIGHT)))
    app = front(door)
    made = (await ask(app, "POST", CHAT, body=chat_body(response_format=schema_form()))).json()["id"]
    assert len((await ask(app, "GET", f"/v1/receipts/{made}")).json()["data"]) == 2


async def test_an_answer_that_was_cut_off_is_told_as_it_is(autojump_clock: MockClock) -> None:
    """It cannot be valid; `length` says why, and asking again would not help."""
    for stream in (False, True):
        work = says('{"age": 5', finish=Finish.LENGTH)
        answer = await post(work, response_format=schema_form(strict=True), stream=stream)
        if stream:
            assert answer.events()[-2]["choices"][0]["finish_reason"] == "length"
        else:
            assert answer.json()["choices"][0]["finish_reason"] == "length"
            assert answer.json()["choices"][0]["message"]["content"] == '{"age": 5'


async def test_reasoning_is_not_a_part_of_the_answer(autojump_clock: MockClock) -> None:
    async def thinks(job: ChatJob, emit: Emit) -> Finish:
        await emit(Piece(reasoning="not { JSON", token_ids=(1, 2)))
        await emit(piece(RIGHT))
        return Finish.STOP

    body = (await post(thinks, response_format=schema_form())).json()
    assert body["choices"][0]["message"]["reasoning_content"] == "not { JSON"
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


async def test_each_choice_is_asked_for_again_by_itself(autojump_clock: MockClock) -> None:
    answer = await post(first(says(RIGHT), says(WRONG), says(RIGHT)), response_format=schema_form(), n=2)
    assert [choice["message"]["content"] for choice in answer.json()["choices"]] == [RIGHT, RIGHT]
    assert sorted(cx["attempts"] for cx in answer.json()["cx"]) == [2, 3]


# Streams.


@pytest.mark.parametrize(
    ("form", "wrong", "told"),
    [
        ("json_object", "Sure!", True),
        (schema_form(strict=True), WRONG, True),
        (schema_form(strict=False), WRONG, False),
        (schema_form(), WRONG, False),
    ],
    ids=str,
)
async def test_a_stream_that_is_wrong_in_the_end_says_so(
    form: Any, wrong: str, told: bool, autojump_clock: MockClock
) -> None:
    """It cannot be taken back: an error event, no [DONE]; one that did not ask to be strict is left as it is."""
    answer = await post(says(*wrong), response_format=form, stream=True)
    assert answer.status == 200
    if told:
        assert answer.events()[-1]["error"]["code"] == "schema_violation"
    else:
        assert answer.events()[-1] == "[DONE]"


async def test_a_stream_that_is_right_ends_as_any_other(autojump_clock: MockClock) -> None:
    answer = await post(says(*RIGHT), response_format=schema_form(strict=True), stream=True)
    assert answer.events()[-1] == "[DONE]"


# Calls.


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [WEATHER], "tool_choice": "required"},
        {"tools": [WEATHER, CLOCK], "tool_choice": NAMED},
        {"tools": [STRICT]},
        {"functions": [WEATHER["function"]], "function_call": {"name": "weather"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', '{"city"', "{}", ""])
async def test_arguments_that_must_be_right_are_looked_at(
    changes: dict[str, Any], stream: bool, arguments: str, autojump_clock: MockClock
) -> None:
    """Those of a tool that was forced, and of one that is strict."""
    wrong, right = calls(("weather", arguments)), calls(("weather", '{"city": "Rome"}'))
    answer = await post(first(wrong, right), stream=stream, **changes)
    if stream:
        assert answer.events()[-1]["error"]["code"] == "schema_violation"
    else:
        message = answer.json()["choices"][0]["message"]
        call = message["function_call"] if "functions" in changes else message["tool_calls"][0]["function"]
        assert call == {"name": "weather", "arguments": '{"city": "Rome"}'}


@pytest.mark.parametrize(
    ("changes", "work", "problem"),
    [
        ({"tools": [WEATHER], "tool_choice": "required"}, says("No."), "it calls no tool"),
        ({"tools": [WEATHER, CLOCK], "tool_choice": NAMED}, calls(("clock", "{}")), "that it was not offered"),
        ({"tools": [CLOCK], "tool_choice": "required"}, calls(("clock", "[]")), "'type'"),
        (
            {"tools": [STRICT, CLOCK]},
            calls(("weather", '{"city": "Rome"}'), ("weather", "{}"), text="Well."),
            "'required'",
        ),
    ],
)
async def test_a_call_that_was_not_asked_for_is_none(
    changes: dict[str, Any], work: Doing, problem: str, autojump_clock: MockClock
) -> None:
    answer = await post(work, **changes)
    assert answer.headers["x-error-code"] == "schema_violation"
    assert problem in answer.json()["error"]


@pytest.mark.parametrize(
    ("changes", "work"),
    [
        ({"tools": [WEATHER]}, calls(("weather", "{}"))),
        ({"tools": [STRICT]}, says("No need to.")),
        ({"tools": [STRICT, CLOCK]}, calls(("clock", "[]"))),
        ({"tools": [STRICT], "tool_choice": "none"}, calls(("weather", "{}"))),
        ({"tools": [STRICT], "response_format": schema_form()}, calls(("weather", '{"city": "Rome"}'))),
        (
            {"tools": [WEATHER], "tool_choice": "required", "response_format": "json"},
            calls(("weather", '{"city":"Rome"}')),
        ),
    ],
)
async def test_what_nobody_was_held_to_is_left_as_it_is(
    changes: dict[str, Any], work: Doing, autojump_clock: MockClock
) -> None:
    """Neither a tool that is not strict, nor the text beside a call."""
    assert (await post(work, **changes)).status == 200


@pytest.mark.parametrize(
    ("changes", "stop", "checked"),
    [
        ({}, ("}",), False),
        ({"response_format": "json"}, (), True),
        ({"response_format": schema_form(), "stream": True}, (), False),
        ({"tools": [WEATHER], "tool_choice": "required"}, (), True),
        ({"tools": [STRICT]}, ("}",), False),
        ({"tools": [STRICT], "tool_choice": "none"}, ("}",), False),
    ],
    ids=str,
)
def test_a_stop_string_breaks_no_form(changes: dict[str, Any], stop: tuple[str, ...], checked: bool) -> None:
    """An answer that has a form ends where that ends; of free text that was cut nothing is demanded."""
    asked = chat_ask(chat_body(stop="}", **changes))
    assert asked.job.stop == stop
    assert bool(asked.demand) is checked


# Schemas.


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"response_format": schema_form(schema={"type": "strin"})}, "response_format.json_schema.schema"),
        ({"response_format": schema_form(schema={"$ref": "http://e.org/x"})}, "response_format.json_schema.schema"),
        (
            {
                "tools": [CLOCK, {"type": "function", "function": {"name": "f", "parameters": {"type": "strin"}}}],
                "tool_choice": "required",
            },
            "tools[1].function.parameters",
        ),
        ({"functions": [{"name": "f", "parameters": {"type": 5}, "strict": True}]}, "functions[0].parameters"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_that_is_none_is_refused_before_any_job(
    changes: dict[str, Any], param: str, stream: bool, autojump_clock: MockClock
) -> None:
    """With its place, unlike what only a node finds out."""
    if stream and "response_format" in changes:
        changes["response_format"]["json_schema"]["strict"] = True
    door = MemoryDoor()
    answer = await ask(front(door), "POST", "/v1/chat/completions", body=chat_body(stream=stream, **changes))
    assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_json_schema")
    assert answer.json()["error"]["param"] == param
    assert door.runs == []


def test_a_schema_is_looked_at_once() -> None:
    """However many tools have it; and only if something is held to it."""
    tools = [{"type": "function", "function": {"name": f"f{at}", "parameters": CITY}} for at in range(5)]
    demand = chat_ask(chat_body(tools=tools, tool_choice="required")).demand
    assert [rule.schema for rule in demand.rules] == [json.dumps(CITY)]
    assert not chat_ask(chat_body(tools=tools)).demand
    assert not chat_ask(chat_body()).demand


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"response_format": schema_form()}, "response_format"), ({"tools": [WEATHER]}, "tools")],
)
async def test_a_schema_that_only_the_node_refuses_is_named_too(
    changes: dict[str, Any], param: str, autojump_clock: MockClock
) -> None:
    door = MemoryDoor(work=fails(JobFailed(FailureCode.SCHEMA_INVALID, "Unimplemented keys: not")))
    answer = await ask(front(door), "POST", "/v1/chat/completions", body=chat_body(**changes))
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)


class Overwhelmed(Here):
    """A checker to which no answer is simple enough."""

    async def breach(self, schema: str, answer: str) -> str:
        await trio.lowlevel.checkpoint()
        raise Uncheckable("an answer cannot be checked against it in 1 s")


class Down(Here):
    """A checker that is not there, from the first question on or only later."""

    def __init__(self, *, early: bool) -> None:
        super().__init__()
        self._early = early

    async def refusal(self, schema: str) -> str:
        await trio.lowlevel.checkpoint()
        if self._early:
            raise CheckerDown("it cannot be started")
        return ""

    async def breach(self, schema: str, answer: str) -> str:
        await trio.lowlevel.checkpoint()
        raise CheckerDown("it cannot be started")


@pytest.mark.parametrize(("early", "jobs"), [(True, 0), (False, 1)])
async def test_without_a_checker_nothing_passes_unseen(early: bool, jobs: int, autojump_clock: MockClock) -> None:
    """The client may come back; it is neither its fault nor the node's."""
    door = MemoryDoor(work=says(RIGHT))
    app = front(door, schemas=Down(early=early))
    answer = await ask(app, "POST", CHAT, body=chat_body(response_format=schema_form()))
    assert (answer.status, answer.headers["x-error-code"], answer.headers["retry-after"]) == (503, "overloaded", "2")
    assert len(door.runs) == jobs


@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_that_takes_too_long_is_its_authors_fault(stream: bool, autojump_clock: MockClock) -> None:
    """The node's work is paid, nobody is asked again, and the client is told why."""
    door = MemoryDoor(work=says(RIGHT))
    app = front(door, schemas=Overwhelmed())
    body = chat_body(stream=stream, response_format=schema_form(strict=True))
    answer = await ask(app, "POST", CHAT, body=body)
    text = "The JSON schema cannot be followed: an answer cannot be checked against it in 1 s"
    if stream:
        assert answer.events()[-1]["error"]["code"] == "invalid_json_schema"
        assert answer.events()[-1]["error"]["message"] == text
    else:
        assert (answer.status, answer.json()) == (400, {"error": text})
    assert len(door.runs) == 1
