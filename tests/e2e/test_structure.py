"""Tools and structured output with the official client and the real model: valid every time."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from e2e.conftest import MODEL, Up

pytestmark = pytest.mark.slow

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 40}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
ASKED: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


class Person(BaseModel):
    name: str = Field(max_length=30)
    age: int = Field(ge=0, le=120)
    hobbies: list[str] = Field(max_length=2)


def test_a_required_call_is_valid_every_time(up: Up) -> None:
    with up.client() as client:
        for _ in range(5):
            answer = client.chat.completions.create(
                model=MODEL, messages=ASKED, tools=[WEATHER], tool_choice="required", max_tokens=100
            )
            choice = answer.choices[0]
            assert choice.finish_reason == "tool_calls"
            assert choice.message.tool_calls
            call: Any = choice.message.tool_calls[0]
            arguments = json.loads(call.function.arguments)
            assert (call.function.name, set(arguments)) == ("get_weather", {"city", "unit"})
            assert arguments["unit"] in ("C", "F")


def test_a_streamed_call_is_put_together_by_the_client(up: Up) -> None:
    with (
        up.client() as client,
        client.chat.completions.stream(
            model=MODEL,
            messages=ASKED,
            tools=[WEATHER],
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
            max_tokens=100,
        ) as stream,
    ):
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls
    assert set(json.loads(message.tool_calls[0].function.arguments)) == {"city", "unit"}


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


def test_a_schema_that_cannot_be_followed_is_a_bad_request(up: Up) -> None:
    schema: Any = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with up.client(max_retries=0) as client, pytest.raises(openai.BadRequestError) as failed:
        client.chat.completions.create(model=MODEL, messages=ASKED, response_format=form)
    assert failed.value.code == "invalid_json_schema"
    assert "not" in failed.value.message
