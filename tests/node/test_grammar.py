"""Grammars: which answers they let through, tried letter by letter with no model at all."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import numpy as np
import pytest

from cxp2p.errors import JobFailed
from cxp2p.records import AnswerForm, ChatJob, FailureCode, Message, Role, Tool, ToolMode
from cxp2p_node.engines.constraints import Constraints, GrammarError
from cxp2p_node.engines.grammar import grammar_of
from cxp2p_node.engines.marks import HARMONY, HERMES, LLAMA3, MISTRAL, PIPED, ToolFormat
from cxp2p_node.engines.schema import pattern_of, read_schema

TOKENIZER = llguidance.LLTokenizer("byte")
END = TOKENIZER.eos_token
CONSTRAINTS = Constraints(
    TOKENIZER, TOKENIZER.vocab_size, lambda token: bytes([token]) if token < 256 else b"", lambda token: token == END
)
CITY = Tool(
    name="city",
    parameters=json.dumps(
        {"type": "object", "properties": {"c": {"enum": ["x"]}}, "required": ["c"], "additionalProperties": False}
    ),
)
CLOCK = Tool(name="clock", parameters='{"type": "object", "properties": {}, "additionalProperties": false}')
ONE = '<tool_call>\n{"name": "city", "arguments": {"c": "x"}}\n</tool_call>'
TWO = f'{ONE}\n<tool_call>\n{{"name": "clock", "arguments": {{}}}}\n</tool_call>'
LISTED = '[TOOL_CALLS][{"name": "city", "arguments": {"c": "x"}}]'
LISTED_TWO = '[TOOL_CALLS][{"name": "city", "arguments": {"c": "x"}}, {"name": "clock", "arguments": {}}]'
PIPES = f"{LISTED.replace('[TOOL_CALLS]', '<|tool_call|>')}<|/tool_call|>"
ON_CHANNEL = '<|channel|>commentary to=functions.city <|constrain|>json<|message|>{"c": "x"}'
BARE = '{"name": "city", "parameters": {"c": "x"}}'


def job(**fields: Any) -> ChatJob:
    return ChatJob(model="m", messages=(Message(role=Role.USER, content="x"),), **fields)


def lets_through(asked: ChatJob, answer: str, form: ToolFormat = HERMES) -> bool:
    """Whether this can be the whole answer."""
    grammar = grammar_of(asked, form)
    assert grammar is not None
    constraint = CONSTRAINTS.constrain(grammar.text, lands=False)
    try:
        for byte in answer.encode():
            constraint.take(byte)
    except GrammarError:
        return False
    if constraint.complete:
        return True
    logits = np.zeros(TOKENIZER.vocab_size, dtype=np.float32)
    constraint.apply(logits)
    return bool(logits[END] == 0)


@pytest.mark.parametrize(
    ("mode", "parallel", "right", "wrong"),
    [
        (ToolMode.REQUIRED, True, [ONE, TWO], ["", "Hi", f"Hi {ONE}", ONE[:-3], f"{ONE} bye"]),
        (ToolMode.REQUIRED, False, [ONE], ["", TWO]),
        (ToolMode.NAMED, True, [ONE], ["", TWO, ONE.replace("city", "clock")]),
        (ToolMode.AUTO, True, ["", "Hi <there>", ONE, TWO, f"Hi {ONE}", f"{ONE} bye"], [ONE.replace('"x"', '"y"')]),
        (ToolMode.AUTO, False, ["", "Hi", ONE, f"Hi {ONE}"], [ONE.replace("city", "map")]),
    ],
)
def test_calls_between_marks(mode: ToolMode, parallel: bool, right: list[str], wrong: list[str]) -> None:
    """In Hermes' and Qwen's format: as many as may be, of those tools, with those arguments."""
    name = "city" if mode is ToolMode.NAMED else None
    asked = job(tools=(CITY, CLOCK), tool_mode=mode, tool_name=name, parallel_calls=parallel)
    assert [lets_through(asked, answer) for answer in right] == [True] * len(right)
    assert [lets_through(asked, answer) for answer in wrong] == [False] * len(wrong)


@pytest.mark.parametrize("mode", [ToolMode.REQUIRED, ToolMode.AUTO])
@pytest.mark.parametrize("parallel", [False, True])
def test_calls_in_a_list(mode: ToolMode, parallel: bool) -> None:
    """In Mistral's format several calls stand in one list, if there may be several."""
    asked = job(tools=(CITY, CLOCK), tool_mode=mode, parallel_calls=parallel)
    assert lets_through(asked, LISTED, MISTRAL)
    assert lets_through(asked, LISTED_TWO, MISTRAL) is parallel
    assert not lets_through(asked, "[TOOL_CALLS][]", MISTRAL)
    assert lets_through(asked, "Hi", MISTRAL) is (mode is ToolMode.AUTO)


@pytest.mark.parametrize("mode", [ToolMode.REQUIRED, ToolMode.AUTO])
def test_calls_in_a_list_between_marks(mode: ToolMode) -> None:
    """In Phi's and Granite's format."""
    asked = job(tools=(CITY, CLOCK), tool_mode=mode)
    assert lets_through(asked, PIPES, PIPED)
    assert not lets_through(asked, PIPES.replace('"x"', '"y"'), PIPED)


def test_calls_on_a_channel() -> None:
    """In gpt-oss's format; an answer in a form is on a channel too, and where a call may come nothing is demanded."""
    asked = job(tools=(CITY, CLOCK), tool_mode=ToolMode.REQUIRED)
    assert lets_through(asked, ON_CHANNEL, HARMONY)
    assert not lets_through(asked, ON_CHANNEL.replace('"x"', '"y"'), HARMONY)
    assert not lets_through(asked, "<|channel|>final<|message|>Hi", HARMONY)
    assert grammar_of(job(tools=(CITY,)), HARMONY) is None
    formed = job(form=AnswerForm.JSON_SCHEMA, schema='{"type": "integer"}')
    assert lets_through(formed, "<|channel|>final<|message|>12", HARMONY)
    assert not lets_through(formed, "12", HARMONY)
    either = job(tools=(CITY,), form=AnswerForm.JSON_OBJECT)
    assert lets_through(either, ON_CHANNEL, HARMONY)
    assert lets_through(either, "<|channel|>final<|message|>{}", HARMONY)


def test_a_bare_call_is_the_whole_answer() -> None:
    """In Llama's format; and nothing can be told apart where a call may come or not."""
    assert lets_through(job(tools=(CITY,), tool_mode=ToolMode.REQUIRED), BARE, LLAMA3)
    assert not lets_through(job(tools=(CITY,), tool_mode=ToolMode.REQUIRED), "Hi", LLAMA3)
    assert grammar_of(job(tools=(CITY,)), LLAMA3) is None


@pytest.mark.parametrize(("form", "call"), [(HERMES, ONE), (MISTRAL, LISTED)])
@pytest.mark.parametrize("schema", ['{"type": "integer"}', ""])
def test_who_may_call_may_also_answer_in_the_form(form: ToolFormat, call: str, schema: str) -> None:
    """Tools beside a response format: a call or JSON, and no other word."""
    kind = AnswerForm.JSON_SCHEMA if schema else AnswerForm.JSON_OBJECT
    asked = job(tools=(CITY,), form=kind, schema=schema)
    assert lets_through(asked, call, form)
    assert lets_through(asked, "12" if schema else '{"a": 1}', form)
    assert not lets_through(asked, "Hi", form)
    assert not lets_through(job(tools=(CITY,), tool_mode=ToolMode.NONE, form=kind, schema=schema), call, form)
    assert lets_through(job(tools=(CITY,), form=AnswerForm.JSON_OBJECT), '{"a": 1}', LLAMA3)  # a bare call is one, too


def test_nothing_is_demanded_of_free_text() -> None:
    assert grammar_of(job(), HERMES) is None
    assert grammar_of(job(tools=(CITY,), tool_mode=ToolMode.NONE), HERMES) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"a":' * 100_000, "nested too deep"),
        (r'{"properties": {"a": {"pattern": "^[a-z&&[^b]]$"}}}', "with a backslash"),
        (r'{"patternProperties": {"[[:alpha:]]": {}}}', "with a backslash"),
    ],
)
def test_what_is_no_schema_is_told(text: str, said: str) -> None:
    """And stops nothing: not even one that is all brackets."""
    with pytest.raises(JobFailed, match=said) as failed:
        read_schema(text)
    assert failed.value.code is FailureCode.SCHEMA_INVALID


def test_formats_that_nobody_knows_are_ignored() -> None:
    """As JSON Schema has it, at any depth; values that only look like schemas are left alone."""
    schema = {
        "properties": {"format": {"format": "password"}, "b": {"items": [{"format": "date"}, {"format": "binary"}]}},
        "enum": [{"format": "password", "pattern": "\\s"}],
    }
    assert read_schema(json.dumps(schema)) == {
        "properties": {"format": {}, "b": {"items": [{"format": "date"}, {}]}},
        "enum": [{"format": "password", "pattern": "\\s"}],
    }


@pytest.mark.parametrize(
    "schemas",
    [
        [{"type": "integer", "minimum": 1}, {"type": "integer", "maximum": 5}],
        [{"type": "integer"}, {"type": "number"}],
        [{"const": 1}, {"const": True}],
        [{"type": "object", "properties": {"k": {"const": 1}}}, {"type": "object", "properties": {"k": {"const": 2}}}],
        [{"enum": [1, 2]}, {"enum": [2, 3]}],
        [{}, {"type": "null"}],
        [{"type": 5, "enum": 5, "required": 5, "properties": 5}, {"type": {}, "enum": {}}],
        ["x"],
    ],
)
def test_one_of_schemas_that_overlap_is_not_any_of_them(schemas: Any) -> None:
    """It would let an answer through which is of two."""
    assert read_schema(json.dumps({"oneOf": schemas})) == {"oneOf": schemas}


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        (r"^\s$", [" ", "\u00a0"], ["\x85", "\ufeff", "x"]),
        (r"^[\sx]$", [" ", "x"], ["\x85", "\ufeff", "s"]),
        (r"^\S$", ["x"], [" ", "\x85", "\ufeff"]),
        (r"^[\S]$", ["x"], [" ", "\x85", "\ufeff"]),
        (r"^\\s$", ["\\\\s"], [" "]),
        (r"^a&&b--\[x\]$", ["a&&b--[x]"], ["a"]),
        (r"^[\[:]$", ["[", ":"], ["a"]),
        (r"^[a][&]$", ["a&"], ["a"]),
    ],
)
def test_patterns_mean_the_same_to_both(pattern: str, right: list[str], wrong: list[str]) -> None:
    """ECMA-262 and Rust count other characters as space: neither gets one that the other would not."""
    asked = job(form=AnswerForm.JSON_SCHEMA, schema=json.dumps({"type": "string", "pattern": pattern}))
    assert [lets_through(asked, f'"{each}"') for each in right] == [True] * len(right)
    assert [lets_through(asked, f'"{each}"') for each in wrong] == [False] * len(wrong)


def test_a_pattern_without_space_stays_as_it_is() -> None:
    for pattern in (r"^[A-Z]{2}\d+$", r"a\]b", "", r"\\"):
        assert pattern_of(pattern) == pattern


def test_an_error_of_the_matcher_is_one_line() -> None:
    """What it dumps of its state is for nobody."""
    constraint = CONSTRAINTS.constrain(str(grammar_of(_endless(), HERMES)[0]), lands=True)  # type: ignore[index]
    with pytest.raises(GrammarError) as failed:
        constraint.apply(np.zeros(TOKENIZER.vocab_size, dtype=np.float32))
    assert "\n" not in str(failed.value)


def _endless() -> ChatJob:
    return job(form=AnswerForm.JSON_SCHEMA, schema='{"$ref": "#"}')
