"""Answers that must have a form: JSON, schemas and tool calls, on a model that would rather say the alphabet."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from cxp2p.errors import JobFailed
from cxp2p.records import (
    AnswerForm,
    CallPart,
    ChatJob,
    FailureCode,
    Finish,
    Logprob,
    Message,
    Piece,
    Prices,
    Role,
    Sampling,
    Tool,
    ToolMode,
    Usage,
)
from cxp2p_node.engines.llama import Llama, LlamaSettings, open_llama
from tiny_model import ANSWER, TEMPLATE, write_tiny_model

pytestmark = pytest.mark.slow  # real processes

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
LINKS = [{"$ref": f"#/$defs/{at + 1}"} for at in range(4000)]
CHAIN = {"$defs": {**{str(at): link for at, link in enumerate(LINKS)}, "4000": {}}, "$ref": "#/$defs/0"}
TOWER = {"$defs": {**{str(at): {"items": link} for at, link in enumerate(LINKS)}, "4000": {}}, "$ref": "#/$defs/0"}
WEATHER = Tool(
    name="weather",
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        }
    ),
)
CLOCK = Tool(name="clock", parameters='{"type": "object", "properties": {}, "additionalProperties": false}')


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", context=2048)


@pytest.fixture
async def engine(model: Path) -> AsyncIterator[Llama]:
    settings = LlamaSettings(
        model="tiny",
        path=model,
        model_digest=b"d" * 32,
        prices=Prices(input=1, output=1),
        slots=2,
        queue_max=4,
        threads=1,
    )
    async with open_llama(settings) as opened:
        yield opened


def job(*, temperature: float = 1.0, **fields: Any) -> ChatJob:
    message = Message(role=Role.USER, content="hello")
    return ChatJob(model="tiny", messages=(message,), sampling=Sampling(temperature=temperature), **fields)


async def ask(engine: Llama, asked: ChatJob, seed: int = 1, max_out: int = 400) -> tuple[list[Piece], Usage]:
    pieces: list[Piece] = []

    async def emit(piece: Piece) -> None:
        await trio.lowlevel.checkpoint()
        pieces.append(piece)

    with trio.fail_after(20):
        usage = await engine.run(asked, seed, max_out, emit, lambda in_units, cached_units: None)
    return pieces, usage


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def calls(pieces: list[Piece]) -> list[tuple[str | None, Any]]:
    whole: dict[int, CallPart] = {}
    for part in (part for piece in pieces for part in piece.calls):
        before = whole.get(part.number, CallPart(number=part.number))
        name = before.name or part.name
        whole[part.number] = CallPart(number=part.number, name=name, arguments=before.arguments + part.arguments)
    return [(call.name, json.loads(call.arguments)) for call in whole.values()]


async def test_an_answer_to_a_schema_is_valid_every_time(engine: Llama) -> None:
    for seed in range(8):
        pieces, usage = await ask(engine, job(form=AnswerForm.JSON_SCHEMA, schema=json.dumps(PERSON)), seed)
        assert usage.finish is Finish.STOP
        person = json.loads(text(pieces))
        assert set(person) == {"name", "age", "tags"}
        assert 0 <= person["age"] <= 120
        assert 1 <= len(person["tags"]) <= 2


async def test_an_answer_is_valid_however_short_it_must_be(engine: Llama) -> None:
    """Strings and lists without a bound end in time, as soon as there is room for the shortest answer at all."""
    schema = {
        "type": "object",
        "properties": {"story": {"type": "string"}, "list": {"type": "array", "items": {"type": "string"}}},
        "required": ["story", "list"],
        "additionalProperties": False,
    }
    for max_out in (40, 60, 100, 200, 400):
        pieces, usage = await ask(engine, job(form=AnswerForm.JSON_SCHEMA, schema=json.dumps(schema)), max_out=max_out)
        assert usage.finish is Finish.STOP
        assert set(json.loads(text(pieces))) == {"story", "list"}
        assert usage.out_units <= max_out
    pieces, usage = await ask(engine, job(form=AnswerForm.JSON_OBJECT), max_out=30)
    assert isinstance(json.loads(text(pieces)), dict)
    for seed in range(6):
        pieces, usage = await ask(engine, job(tools=(WEATHER,), tool_mode=ToolMode.REQUIRED), seed, max_out=170 + seed)
        assert usage.finish is Finish.STOP  # also when there was no room for one call more
        assert {name for name, _ in calls(pieces)} == {"weather"}
    pieces, usage = await ask(engine, job(form=AnswerForm.JSON_SCHEMA, schema=json.dumps(schema)), max_out=5)
    assert usage.finish is Finish.LENGTH  # no room at all: and it says so


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ('{"type": "object", "properties": {"a": {"not": {"type": "string"}}}}', "not"),
        ('{"type": "integer", "minimum": 5, "maximum": 3}', "minimum"),
        ('{"$ref": "http://example.org/schema"}', "example.org"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
    ],
)
async def test_a_schema_that_cannot_be_followed_is_told(engine: Llama, schema: str, said: str) -> None:
    with pytest.raises(JobFailed, match=said) as failed:
        await ask(engine, job(form=AnswerForm.JSON_SCHEMA, schema=schema))
    assert failed.value.code is FailureCode.SCHEMA_INVALID
    pieces, _ = await ask(engine, job(temperature=0))
    assert text(pieces) == ANSWER  # and the next job does not notice


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": ["x" * 300_000]},
        {"type": "string", "pattern": "(((a{1,99}){1,99}){1,99}){1,99}"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1_000_000},
        CHAIN,
        TOWER,
        {"$ref": "#"},
    ],
    ids=["long", "deep", "many", "chain", "tower", "circle"],
)
async def test_a_schema_that_explodes_has_a_limit(engine: Llama, schema: dict[str, Any]) -> None:
    asked = job(form=AnswerForm.JSON_SCHEMA, schema=json.dumps(schema))
    ends: list[Finish | FailureCode] = []
    try:
        ends.append((await ask(engine, asked, max_out=20))[1].finish)
    except JobFailed as error:
        ends.append(error.code)
    assert ends[0] in (Finish.STOP, Finish.LENGTH, FailureCode.SCHEMA_INVALID)
    pieces, _ = await ask(engine, job(temperature=0))
    assert text(pieces) == ANSWER


@pytest.mark.parametrize(
    "parameters", ["{", "[]", '{"a":' * 200_000, '{"type": "nothing"}'], ids=["cut", "list", "deep", "no"]
)
@pytest.mark.parametrize("mode", [ToolMode.AUTO, ToolMode.REQUIRED])
async def test_a_tool_that_is_none_is_told(engine: Llama, parameters: str, mode: ToolMode) -> None:
    """To whoever brought it; the others, and the worker, do not notice."""
    pid = engine.worker.pid
    tool = Tool(name="f", parameters=parameters)
    with pytest.raises(JobFailed) as failed:
        await ask(engine, job(tools=(tool,), tool_mode=mode))
    assert failed.value.code is FailureCode.SCHEMA_INVALID
    assert engine.worker.pid == pid


async def test_who_may_call_may_answer_in_a_form(engine: Llama) -> None:
    """With tools and a schema: one or the other, and nothing else."""
    for seed in range(6):
        asked = job(tools=(WEATHER,), form=AnswerForm.JSON_SCHEMA, schema=json.dumps(PERSON))
        pieces, usage = await ask(engine, asked, seed)
        assert usage.finish is Finish.STOP
        if calls(pieces):
            assert [name for name, _ in calls(pieces)] == ["weather"] * len(calls(pieces))
            assert text(pieces) == ""
        else:
            assert set(json.loads(text(pieces))) == {"name", "age", "tags"}


async def test_a_call_that_is_required_comes(engine: Llama) -> None:
    for seed in range(4):
        asked = job(tools=(WEATHER, CLOCK), tool_mode=ToolMode.REQUIRED, parallel_calls=False)
        pieces, usage = await ask(engine, asked, seed)
        assert usage.finish is Finish.STOP
        assert text(pieces) == ""
        ((name, arguments),) = calls(pieces)
        assert (name, arguments) in [("weather", {"city": "Paris"}), ("weather", {"city": "Rome"}), ("clock", {})]


async def test_the_call_that_is_named_comes(engine: Llama) -> None:
    pieces, _ = await ask(engine, job(tools=(WEATHER, CLOCK), tool_mode=ToolMode.NAMED, tool_name="clock"))
    assert calls(pieces) == [("clock", {})]
    with pytest.raises(JobFailed, match="there is no tool 'map'"):
        await ask(engine, job(tools=(WEATHER,), tool_mode=ToolMode.NAMED, tool_name="map"))


async def test_who_may_call_but_does_not_says_its_text(engine: Llama) -> None:
    for mode in (ToolMode.AUTO, ToolMode.NONE):
        pieces, usage = await ask(engine, job(tools=(WEATHER,), tool_mode=mode, temperature=0))
        assert (text(pieces), usage.finish) == (ANSWER, Finish.STOP)
        assert calls(pieces) == []


async def test_log_probabilities_are_of_each_token(engine: Llama) -> None:
    pieces, _ = await ask(engine, job(logprobs=2, temperature=0), max_out=5)
    logprobs = [logprob for piece in pieces for logprob in piece.logprobs]
    assert b"".join(each.data for each in logprobs) == b"abcde"
    for each in logprobs:
        assert each.top[0] == each.top[0].__class__(data=each.data, logprob=each.logprob)
        assert len(each.top) == 2
        assert each.logprob > math.log(0.9)
    pieces, _ = await ask(engine, job(logprobs=0, temperature=0), max_out=3)
    assert [logprob.top for piece in pieces for logprob in piece.logprobs] == [(), (), ()]
    pieces, _ = await ask(engine, job(temperature=0), max_out=3)
    assert not any(piece.logprobs for piece in pieces)
    assert isinstance(logprobs[0], Logprob)


async def test_nothing_is_told_of_a_stop_string(engine: Llama) -> None:
    """Neither its text nor the log probabilities of its tokens."""
    pieces, usage = await ask(engine, job(logprobs=1, temperature=0, stop=("efg",)))
    assert text(pieces) == "abcd"
    assert b"".join(logprob.data for piece in pieces for logprob in piece.logprobs) == b"abcd"
    assert usage.out_units == len("abcdefg")


SAYS_CALL = '{"name": "weather", "arguments": {"city": "Paris"}}'
SHOWS_TOOLS = "{{ tools | tojson if tools else '' }}"
CHANNELS = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>", "<|return|>")


@pytest.mark.parametrize(
    ("shown", "says", "control"),
    [
        ("[TOOL_CALLS]", ("[TOOL_CALLS]", f"[{SAYS_CALL}]"), ("[TOOL_CALLS]",)),
        ("<tool_call>", ("<tool_call>", f"\n{SAYS_CALL}\n", "</tool_call>"), ()),
        ("<|tool_call|>", ("<|tool_call|>", f"[{SAYS_CALL}]", "<|/tool_call|>"), ("<|tool_call|>", "<|/tool_call|>")),
        (
            "<|channel|><|message|>",
            (
                *("<|channel|>", "analysis", "<|message|>", "Hm.", "<|end|>", "<|start|>"),
                *("assistant to=functions.weather", " json", '<|message|>{"city": "Paris"}', "<|call|>", "<|return|>"),
            ),
            CHANNELS,
        ),
    ],
    ids=["mistral", "qwen", "phi", "gpt-oss"],
)
async def test_marks_that_are_tokens_of_their_own_are_seen(
    tmp_path: Path, shown: str, says: tuple[str, ...], control: tuple[str, ...]
) -> None:
    """Also those that llama.cpp does not show; and the model may write them where calls may come."""
    path = write_tiny_model(
        tmp_path / "m.gguf",
        context=2048,
        says=says,
        control=control,
        template=f"{{# {shown} #}}{SHOWS_TOOLS}{TEMPLATE}",
    )
    settings = LlamaSettings(
        model="tiny",
        path=path,
        model_digest=b"d" * 32,
        prices=Prices(input=1, output=1),
        slots=2,
        queue_max=4,
        threads=1,
    )
    async with open_llama(settings) as engine:
        pieces, usage = await ask(engine, job(tools=(WEATHER,), temperature=0, parallel_calls=False))
        assert text(pieces) == ""
        assert calls(pieces) in ([("weather", {"city": "Paris"})], [("weather", {"city": "Rome"})])
        assert usage.finish is Finish.STOP
        reasoning = "".join(piece.reasoning for piece in pieces)
        assert reasoning == ("Hm." if control == CHANNELS else "")
        for seed in range(3):
            asked = job(tools=(WEATHER, CLOCK), tool_mode=ToolMode.REQUIRED, parallel_calls=False)
            pieces, _ = await ask(engine, asked, seed)
            assert len(calls(pieces)) == 1
            pieces, _ = await ask(engine, job(form=AnswerForm.JSON_SCHEMA, schema=json.dumps(PERSON)), seed)
            assert set(json.loads(text(pieces))) == {"name", "age", "tags"}
