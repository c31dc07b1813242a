"""Tools and structured output with the official client and the real model: valid every time."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from cxp2p_gateway.schemas.checking import Checker
from e2e.conftest import MODEL, Up

pytestmark = pytest.mark.slow

SEEDS = range(20)
AT_ONCE = 4


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS: dict[str, Any] = {
    "nested objects and lists": closed(
        person=closed(name={"type": "string"}, address=closed(street={"type": "string"}, floor={"type": "integer"})),
        tags={"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 1, "maxItems": 3},
    ),
    "numbers": closed(
        any={"type": "number"},
        some={"type": "integer", "minimum": -5, "maximum": 5},
        share={"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        seven={"type": "integer", "multipleOf": 7},
    ),
    "references": {
        "$defs": {
            "node": closed(value={"type": "boolean"}, next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})
        },
        "$ref": "#/$defs/node",
    },
    "alternatives": closed(
        x={"anyOf": [{"type": "string"}, {"type": "integer"}, closed(y={"const": 1})]},
        y={"oneOf": [closed(kind={"const": "a"}, a={"type": "null"}), closed(kind={"const": "b"}, b={"enum": [1, 2]})]},
        z={"type": ["boolean", "null"]},
    ),
    "patterns and formats": closed(
        id={"type": "string", "pattern": "^[A-Z]{3}-\\d{4}$"},
        mail={"type": "string", "format": "email"},
        day={"type": "string", "format": "date"},
        word={"type": "string", "minLength": 3, "maxLength": 12},
    ),
    "open objects": {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]},
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": closed(city={"type": "string", "maxLength": 40}, unit={"enum": ["C", "F"]}),
    },
}
BOOK: Any = {
    "type": "function",
    "function": {
        "name": "book",
        "description": "Books seats.",
        "parameters": closed(
            who=closed(name={"type": "string"}, ages={"type": "array", "items": {"type": "integer"}, "maxItems": 2}),
            seats={"type": "integer", "minimum": 1, "maximum": 9},
        ),
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock", "description": "The time.", "strict": True}}
TOOLS = [WEATHER, BOOK, CLOCK]
PARAMETERS = {each["function"]["name"]: each["function"].get("parameters", {"type": "object"}) for each in TOOLS}
ASKED: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


class Person(BaseModel):
    name: str = Field(max_length=30)
    age: int = Field(ge=0, le=120)
    hobbies: list[str] = Field(max_length=2)


def is_valid(schema: Any, text: str | None) -> bool:
    return text is not None and Checker().breach(json.dumps(schema), text) == ""


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_to_a_schema_is_valid_every_time(up: Up, name: str) -> None:
    """At temperature 1, whatever the model would rather say; and by its first try, not by the gateway's second."""

    def ask(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Make up a record with {name}."}],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "record", "schema": SCHEMAS[name], "strict": True},
            },
            temperature=1,
            seed=seed,
            max_tokens=160,
        )
        assert answer.choices[0].finish_reason == "stop"
        assert answer.model_extra is not None
        assert answer.model_extra["cx"]["attempts"] == 1
        return answer.choices[0].message.content

    with up.client(max_retries=0) as client, ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(ask, SEEDS))
    assert [is_valid(SCHEMAS[name], answer) for answer in answers] == [True] * len(answers)
    assert len(set(answers)) > 1


@pytest.mark.parametrize(
    ("choice", "parallel", "names", "most"),
    [
        ("required", True, set(PARAMETERS), 99),
        ("required", False, set(PARAMETERS), 1),
        ({"type": "function", "function": {"name": "book"}}, True, {"book"}, 1),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CLOCK, WEATHER]}},
            True,
            {"clock", "get_weather"},
            99,
        ),
    ],
    ids=["required", "one", "named", "allowed"],
)
def test_a_call_that_must_come_is_valid_every_time(
    up: Up, choice: Any, parallel: bool, names: set[str], most: int
) -> None:
    def ask(seed: int) -> None:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=ASKED,
            tools=TOOLS,
            tool_choice=choice,
            parallel_tool_calls=parallel,
            temperature=1,
            seed=seed,
            max_tokens=200,
        )
        made = answer.choices[0]
        calls: Any = made.message.tool_calls
        assert made.finish_reason == "tool_calls"
        assert made.message.content is None
        assert 1 <= len(calls) <= most
        assert {call.function.name for call in calls} <= names
        assert len({call.id for call in calls}) == len(calls)
        assert all(is_valid(PARAMETERS[call.function.name], call.function.arguments) for call in calls)

    with up.client(max_retries=0) as client, ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(ask, SEEDS))


def test_streamed_calls_are_put_together_by_the_client(up: Up) -> None:
    """Each begins with its id and name, goes on with its place, and is whole in the end; several do not mix."""
    counts = set()
    with up.client(max_retries=0) as client:
        for seed in SEEDS[:8]:
            asked: Any = {
                "model": MODEL,
                "messages": ASKED,
                "tools": TOOLS,
                "tool_choice": "required",
                "temperature": 1,
                "seed": seed,
                "max_tokens": 200,
            }
            begun: list[int] = []
            for chunk in client.chat.completions.create(stream=True, **asked):
                for part in chunk.choices[0].delta.tool_calls or ():
                    if part.index not in begun:
                        assert part.index == len(begun)
                        assert part.id
                        assert part.type == "function"
                        assert part.function is not None
                        assert part.function.name in PARAMETERS
                        begun.append(part.index)
                    else:
                        assert part.index == begun[-1]
                        assert part.id is None
                        assert part.function is not None
                        assert part.function.name is None
            with client.chat.completions.stream(**asked) as stream:
                message = stream.get_final_completion().choices[0].message
            calls = message.tool_calls or []
            assert len(calls) == len(begun) >= 1
            assert all(is_valid(PARAMETERS[call.function.name], call.function.arguments) for call in calls)
            counts.add(len(calls))
    assert len(counts) > 1


def test_who_may_call_or_not_says_something_else(up: Up) -> None:
    """A model of this size never calls by itself; what it says is text, and with a form it is that or a call."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS["open objects"], "strict": True}}
    kinds = set()
    with up.client(max_retries=0) as client:
        for choice in ("auto", "none"):
            free = client.chat.completions.create(
                model=MODEL, messages=ASKED, tools=TOOLS, tool_choice=choice, max_tokens=40, seed=1
            )
            assert free.choices[0].message.content
            assert not free.choices[0].message.tool_calls
        for seed in range(10):
            answer = client.chat.completions.create(
                model=MODEL, messages=ASKED, tools=TOOLS, response_format=form, max_tokens=160, seed=seed, temperature=1
            )
            message = answer.choices[0].message
            kinds.add(answer.choices[0].finish_reason)
            calls: Any = message.tool_calls or []
            assert all(is_valid(PARAMETERS[call.function.name], call.function.arguments) for call in calls)
            assert calls or is_valid(SCHEMAS["open objects"], message.content)
    assert kinds <= {"stop", "tool_calls"}


def test_functions_are_answered_as_functions(up: Up) -> None:
    """By the fields that there were before tools."""
    with up.client(max_retries=0) as client:
        asked: Any = {"model": MODEL, "messages": ASKED, "functions": [WEATHER["function"]], "max_tokens": 100}
        answer = client.chat.completions.create(**asked, function_call={"name": "get_weather"})
        made = answer.choices[0]
        assert made.finish_reason == "function_call"
        assert made.message.function_call is not None
        assert made.message.function_call.name == "get_weather"
        assert is_valid(PARAMETERS["get_weather"], made.message.function_call.arguments)


def test_the_clients_parse_gets_an_object_of_the_class(up: Up) -> None:
    with up.client() as client:
        for _ in range(3):
            parsed = client.chat.completions.parse(
                model=MODEL,
                messages=[{"role": "user", "content": "Describe a person."}],
                response_format=Person,
                max_tokens=300,
            )
            person = parsed.choices[0].message.parsed
            assert isinstance(person, Person)


def test_json_of_any_form_is_an_object_every_time(up: Up) -> None:
    """By both of its names, whole and streamed."""
    with up.client(max_retries=0) as client:
        for seed, form in enumerate(["json_object", {"type": "json_object"}, "json"] * 3):
            asked: Any = {"model": MODEL, "messages": ASKED, "response_format": form, "seed": seed, "max_tokens": 120}
            answer = client.chat.completions.create(**asked, temperature=1)
            assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
            chunks = client.chat.completions.create(**asked, temperature=1, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            assert isinstance(json.loads(text), dict)


def test_an_answer_without_room_for_its_form_says_so(up: Up) -> None:
    with up.client(max_retries=0) as client:
        form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS["numbers"], "strict": True}}
        answer = client.chat.completions.create(model=MODEL, messages=ASKED, response_format=form, max_tokens=5)
    assert answer.choices[0].finish_reason == "length"


def test_a_call_and_its_answer_go_on_as_a_conversation(up: Up) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    turns: Any = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Rain, 12 degrees."},
    ]
    with up.client() as client:
        answer = client.chat.completions.create(model=MODEL, messages=turns, tools=[WEATHER], max_tokens=30)
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def test_log_probabilities_arrive_for_each_token(up: Up) -> None:
    with up.client() as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=ASKED, logprobs=True, top_logprobs=3, max_tokens=5
        )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 5
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in logprobs.content)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "not"),  # the node's word
        ({"type": "object", "properties": {"a": {"type": "strin"}}}, "properties/a/type"),  # the gateway's
        ({"$ref": "http://example.org/schema"}, "example.org"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_a_bad_request(up: Up, schema: Any, said: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with up.client(max_retries=0) as client, pytest.raises(openai.BadRequestError) as failed:
        client.chat.completions.create(model=MODEL, messages=ASKED, response_format=form)
    assert failed.value.code == "invalid_json_schema"
    assert said in failed.value.message
