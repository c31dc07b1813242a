"""The OpenAPI document says what the gateway does: its routes, fields, limits, answers and errors, and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jsonschema_rs
import pytest
from trio.testing import MockClock

from cxp2p.errors import JobFailed
from cxp2p.records import FailureCode
from cxp2p_gateway.asking import NodeCard
from cxp2p_gateway.faults import TABLE, Base, Condition, Fault, row_of
from cxp2p_gateway.http import BASES
from cxp2p_gateway.middleware import Methods
from cxp2p_gateway.openai import EmbedRules, TokenInput, chat_ask, embed_ask, response_ask, speech_ask, tts_ask
from cxp2p_gateway.openapi.document import ALL, document
from cxp2p_gateway.openapi.epochs import EPOCH_OPERATIONS
from cxp2p_gateway.openapi.serving import POLICY
from cxp2p_gateway.pages import scrape_ask
from doors import CHAT, NODE, MemoryDoor, Work, ask, card, chat_body, fails, front, says
from key_requests import KEY_REQUESTS
from responding import CALLS, FORM, PATH, WEATHER, body, makes
from worlds import capability

DOCUMENT = document("1")
SERVED = NodeCard(node=NODE, capability=capability("smollm2:135m"))
READY = MemoryDoor(cards=(card(offered=(SERVED,)),))
Parse = Callable[[dict[str, Any]], object]

TOOL = {"type": "function", "function": {"name": "f", "description": "x", "parameters": {}, "strict": True}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TURNS = [
    {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "n"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "tool_calls": [CALL]},
    {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "tool", "tool_call_id": "c", "content": "x"},
]
SCHEMA = {"name": "x", "schema": {}, "strict": True}
SAMPLED: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.5,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "top_k": 1,
    "min_p": 0,
    "repetition_penalty": 1,
    "repeat_penalty": 1,
    "logit_bias": {"1": 1},
    "seed": 1,
}
CHATS: list[dict[str, Any]] = [
    {
        "model": "m",
        "messages": TURNS,
        **SAMPLED,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 1,
        "max_completion_tokens": 1,
        "n": 2,
        "stop": ["x"],
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema": SCHEMA},
        "tools": [TOOL],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": True},
        "modalities": ["text"],
        "prompt_cache_key": "k",
        "user": "u",
    },
    {
        "model": "m",
        "messages": [*TURNS, {"role": "function", "content": "x", "name": "f"}],
        "functions": [TOOL["function"]],
        "function_call": {"name": "f"},
        "response_format": "json",
    },
]
RESPONSES: list[dict[str, Any]] = [
    {
        "model": "m",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
            {"type": "reasoning", "summary": []},
        ],
        **SAMPLED,
        "instructions": "x",
        "stream": True,
        "stream_options": {},
        "max_output_tokens": 1,
        "text": {"format": {"type": "json_schema", **SCHEMA}},
        "tools": [WEATHER],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [WEATHER]},
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
        "metadata": {"a": "b"},
        "prompt_cache_key": "k",
        "user": "u",
        "store": True,
        "background": False,
        "previous_response_id": None,
        "conversation": None,
        "prompt": None,
    }
]
EMBEDS: list[dict[str, Any]] = [
    {
        "model": "nomic-embed-text",
        "input": ["x"],
        "encoding_format": "base64",
        "dimensions": 3,
        "truncate": False,
    },
    {"model": "m", "input": [[1, 2]]},
]
SPOKEN: dict[str, Any] = {"voice": {"id": "alloy"}, "model": "m", "speed": 1}
REQUESTS: dict[str, tuple[Parse, list[dict[str, Any]]]] = {
    "ChatCompletionRequest": (chat_ask, CHATS),
    "ResponseRequest": (response_ask, RESPONSES),
    "EmbeddingsRequest": (partial(embed_ask, rules=EmbedRules(token_input=TokenInput.NATIVE)), EMBEDS),
    "TtsRequest": (tts_ask, [{"text": "Hi", **SPOKEN, "format": "wav", "stream": True}]),
    "SpeechRequest": (speech_ask, [{"input": "Hi", **SPOKEN, "response_format": "wav", "stream_format": "sse"}]),
    "ScrapeRequest": (
        scrape_ask,
        [
            {
                "urls": ["x"],
                "format": "text",
                "only_main_content": False,
                "timeout": 3,
                "max_age": 3,
                "include_links": True,
                "render": "auto",
                "wait_for": 3,
                "model": "web",
            }
        ],
    ),
    **KEY_REQUESTS,
}


class Watched(dict[str, Any]):
    """A JSON object that remembers which fields were read."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def validator(name: str) -> jsonschema_rs.Draft202012Validator:
    """Of one of the document's schemas."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft202012Validator(schema)


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][name]["properties"]
    return found


def test_every_route_is_in_the_document() -> None:
    """With its methods, and nothing else is: below both bases, and at the root what needs no key."""
    served: dict[str, set[str]] = {}
    for route in front(READY).routes:
        assert isinstance(route.app, Methods)
        path = re.sub(r"^(/api)?/v1", "", route.path).replace(":path}", "}")
        served.setdefault(path, set()).update(method.lower() for method in route.app.endpoints)
    assert served == {path: set(methods) for path, methods in DOCUMENT["paths"].items()}
    assert [server["url"] for server in DOCUMENT["servers"]] == list(BASES)


def test_what_needs_a_key_is_told() -> None:
    keyless = {path for path, methods in DOCUMENT["paths"].items() for each in methods.values() if "security" in each}
    assert keyless == {"/health", "/ready", "/openapi.json", "/docs", *EPOCH_OPERATIONS}
    assert DOCUMENT["security"] == [{"key": []}]


@pytest.mark.parametrize("name", REQUESTS)
def test_every_field_that_is_read_is_in_the_document(name: str) -> None:
    """And every field in it is read."""
    parse, bodies = REQUESTS[name]
    read: set[str] = set()
    for each in bodies:
        watched = Watched(each)
        parse(watched)
        read |= watched.read
    assert read == set(properties(name))


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_accepted_is_valid(name: str) -> None:
    for each in REQUESTS[name][1]:
        validator(name).validate(each)
        validator(name).validate({**each, "something else": {"x": [1]}})


@pytest.mark.parametrize("name", REQUESTS)
def test_null_is_absence_in_both(name: str) -> None:
    """Optional fields as null are valid, and accepted."""
    parse, bodies = REQUESTS[name]
    required = DOCUMENT["components"]["schemas"][name].get("required", ())
    nulls = {field: None if field not in required else bodies[0][field] for field in properties(name)}
    validator(name).validate(nulls)
    parse(nulls)


def broken(schema: dict[str, Any], value: Any) -> Iterator[Any]:
    """Values that a field's schema forbids: of another type, beyond each bound, too long, too many."""
    yield {"type": 0, "an": "object"}
    if "minimum" in schema:
        yield schema["minimum"] - 1
    if "maximum" in schema:
        yield schema["maximum"] + 1
    if schema.get("maxLength"):
        yield "x" * (schema["maxLength"] + 1)
    if "enum" in schema:
        yield "none of these"
    if "maxItems" in schema:
        yield value * (schema["maxItems"] + 1)
    if schema.get("minItems"):
        yield []
    if "array" not in str(schema):
        yield [1]
    if "boolean" not in str(schema):
        yield True


FIELDS = [(name, field) for name in REQUESTS for field in properties(name)]


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=lambda value: str(value))
def test_what_the_document_forbids_is_refused(name: str, field: str) -> None:
    """And the refusal names the field: the limits in the document are those of the code."""
    parse, schema = REQUESTS[name][0], properties(name)[field]
    bodies = [each for each in REQUESTS[name][1] if field in each]
    checked = 0
    for value in broken(schema, bodies[0][field]):
        if validator(name).is_valid(bodies[0] | {field: value}):
            continue
        with pytest.raises(Fault) as caught:
            parse(bodies[0] | {field: value})
        assert (caught.value.param or "").startswith(field), (value, caught.value.param)
        checked += 1
    assert checked


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=lambda value: str(value))
def test_what_is_at_a_limit_is_accepted(name: str, field: str) -> None:
    """So that no limit in the document is narrower than that of the code."""
    parse, schema = REQUESTS[name][0], properties(name)[field]
    given = next(each for each in REQUESTS[name][1] if field in each)
    values = [schema[bound] for bound in ("minimum", "maximum") if bound in schema]
    values += [each for each in schema.get("enum", ()) if each is not None]
    for value in values:
        validator(name).validate(given | {field: value})
        try:
            parse(given | {field: value})
        except Fault as fault:
            assert fault.condition is Condition.PARAMETER_UNSUPPORTED  # noqa: PT017  # an encoder that is not here


def test_every_error_is_documented() -> None:
    """Each condition of the table is told of some operation, but for those of no path; with every status of it."""
    told = {condition for methods in ALL.values() for each in methods.values() for condition in each.conditions}
    assert told == set(TABLE) - {Condition.PATH_UNKNOWN, Condition.METHOD_UNKNOWN}
    for path, methods in ALL.items():
        for method, each in methods.items():
            answers = DOCUMENT["paths"][path][method]["responses"]
            rows = [
                row_of(Fault(condition), base)
                for condition in each.conditions
                for base in (Base.DOCUMENTED, Base.ALIAS)
            ]
            assert {str(row.status) for row in rows} | {"200"} == set(answers)
            assert all(row.code in answers[str(row.status)]["description"] for row in rows)


def test_all_schemas_are_schemas() -> None:
    """Of JSON Schema 2020-12, and what they refer to is there."""
    schemas = DOCUMENT["components"]["schemas"]
    for name, schema in schemas.items():
        jsonschema_rs.meta.validate(schema)
        validator(name)
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert referred == set(schemas)


CX = {"X-Cx-Metadata": "enabled"}
THINKS = makes(*CALLS)


@pytest.mark.parametrize("headers", [{}, CX])
@pytest.mark.parametrize(
    ("path", "asked", "work", "name"),
    [
        (CHAT, chat_body(n=2, logprobs=True), says("Hi"), "ChatCompletion"),
        (CHAT, chat_body(), THINKS, "ChatCompletion"),
        (CHAT, chat_body(functions=[TOOL["function"]]), THINKS, "ChatCompletion"),
        (CHAT, chat_body(stream=True, stream_options={"include_usage": True}), says("Hi"), "ChatCompletionChunk"),
        (CHAT, chat_body(stream=True), THINKS, "ChatCompletionChunk"),
        (CHAT, chat_body(stream=True, functions=[TOOL["function"]]), THINKS, "ChatCompletionChunk"),
        (PATH, body(metadata={"a": "b"}), says("Hi"), "Response"),
        (PATH, body(tools=[WEATHER]), THINKS, "Response"),
        (PATH, body(stream=True), says("Hi"), "ResponseEvent"),
        (PATH, body(stream=True), THINKS, "ResponseEvent"),
        (PATH, body(stream=True), fails(JobFailed(FailureCode.INTERNAL, "x"), "Hi"), "ResponseEvent"),
        (PATH, body(text=FORM), says('{"a": 1}'), "Response"),
    ],
)
async def test_answers_are_as_the_document_has_them(
    path: str, asked: dict[str, Any], work: Work, name: str, headers: dict[str, str], autojump_clock: MockClock
) -> None:
    answer = await ask(front(MemoryDoor(work=work)), "POST", path, body=asked, headers=headers)
    assert answer.status == 200
    answers = [event for event in answer.events() if event != "[DONE]"] if asked.get("stream") else [answer.json()]
    assert answers
    for each in answers:
        validator(name).validate(each)
    last = answers[-1].get("response", answers[-1])
    assert ("cx" in last) is (headers == CX and last.get("status") != "failed")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models", "Models"),
        ("/models/smollm2:135m", "Model"),
        ("/models/smollm2:135m/endpoints", "ModelEndpoints"),
        ("/audio/voices", "Voices"),
        ("/models/none", "Error"),
        ("/receipts/none", "Error"),
    ],
)
async def test_what_is_got_is_as_the_document_has_it(
    base: str, path: str, name: str, autojump_clock: MockClock
) -> None:
    validator(name).validate((await ask(front(READY), "GET", base + path)).json())


async def test_receipts_are_as_the_document_has_them(autojump_clock: MockClock) -> None:
    app = front(MemoryDoor())
    made = (await ask(app, "POST", CHAT, body=chat_body())).json()["id"]
    validator("Signed").validate((await ask(app, "GET", f"/v1/receipts/{made}")).json())


@pytest.mark.parametrize("base", ["", *BASES])
async def test_the_document_is_served_to_everybody(base: str, autojump_clock: MockClock) -> None:
    answer = await ask(front(READY), "GET", base + "/openapi.json", key=None)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    told = answer.json()
    assert told["paths"] == json.loads(json.dumps(DOCUMENT["paths"]))
    assert re.fullmatch(r"\d+\.\d+\.\d+.*|0\+source", told["info"]["version"])


async def test_the_page_needs_nothing_from_elsewhere(autojump_clock: MockClock) -> None:
    """No script, no address but its own document's, and a policy that allows no more."""
    answer = await ask(front(READY), "GET", "/docs", key=None)
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    page = answer.body.decode()
    assert "<script" not in page
    assert " style=" not in page
    assert re.findall(r"(?:href|src)=\"([^\"]*)\"", page) == ["openapi.json"]
    assert all(f"<code>{path}</code>" in page for path in DOCUMENT["paths"])
    assert all(f"<code>{field}</code>" in page for field in properties("ChatCompletionRequest"))
