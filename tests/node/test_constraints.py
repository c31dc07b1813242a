"""Answers that must have a form end within their length, whatever the model would rather say."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import llguidance
import numpy as np
import pytest

from cxp2p_gateway.schemas.checking import Checker
from cxp2p_node.engines.constraints import Constraints, GrammarError
from cxp2p_node.engines.grammar import of_schema

TOKENIZER = llguidance.LLTokenizer("byte")
END = TOKENIZER.eos_token
CONSTRAINTS = Constraints(
    TOKENIZER, TOKENIZER.vocab_size, lambda token: bytes([token]) if token < 256 else b"", lambda token: token == END
)


def said(schema: Any, rng: Random, length: int) -> str | None:
    """What a model says that draws any token alike; None if it was cut off."""
    constraint = CONSTRAINTS.constrain(of_schema(json.dumps(schema)), lands=True)
    out = bytearray()
    for left in range(length, 0, -1):
        logits = np.array([rng.gauss(0, 2) for _ in range(TOKENIZER.vocab_size)], dtype=np.float32)
        constraint.apply(logits)
        token = constraint.steer(int(logits.argmax()), left)
        if token == END:
            return out.decode(errors="replace")
        constraint.take(token)
        out.append(token)
        if constraint.complete:
            return out.decode(errors="replace")
    return None


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS: list[Any] = [
    closed(name={"type": "string"}, age={"type": "integer", "minimum": 0, "maximum": 120}),
    closed(a=closed(b=closed(c={"type": "array", "items": closed(d={"type": "boolean"}), "minItems": 2}))),
    {"type": "object"},
    {},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}},
    {"type": "object", "minProperties": 2, "maxProperties": 3, "additionalProperties": {"type": "integer"}},
    {"type": "object", "patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": False},
    {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 5},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
    {"enum": ["a", 1, None, {"x": [1]}, 2.5, 'ü"\\']},
    {"const": {"a": [1, "x"]}},
    {"type": ["integer", "null"]},
    {"type": "number", "minimum": -1.5, "exclusiveMaximum": 3.25},
    {"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 8},
    {"type": "integer", "multipleOf": 7},
    {"type": "number", "multipleOf": 0.1, "minimum": 0, "maximum": 5},
    {"type": "string", "minLength": 3, "maxLength": 6},
    {"type": "string", "pattern": "^[A-Z]{2}\\d{3}\\s\\S\\w$"},
    {"type": "string", "pattern": "^(a|bc)+[^x-z]$"},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}, closed(x={"const": 1})]},
    {"oneOf": [closed(k={"const": "a"}, v={"type": "integer"}), closed(k={"const": "b"}, v={"type": "null"})]},
    {"oneOf": [closed(k={"const": 0}, v={"type": "integer"}), closed(k={"enum": [1, 2]}, v={"const": [1]})]},
    closed(a={"oneOf": [{"type": "number"}, {"type": ["string", "null"]}, closed(x={"const": 1.5})]}),
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    {
        "$defs": {"n": closed(v={"type": "integer"}, next={"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]})},
        "$ref": "#/$defs/n",
    },
    closed(c={"type": "array", "items": {"$ref": "#"}, "maxItems": 2}),
    {"type": "object", "required": ["z"]},
    *(
        {"type": "string", "format": name}
        for name in ("date-time", "date", "time", "duration", "email", "uuid", "ipv6")
    ),
    *({"type": "string", "format": name} for name in ("hostname", "ipv4", "uri", "password")),
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_what_a_node_lets_through_its_asker_accepts(schema: Any) -> None:
    """Two programs read the same schema, the one that makes the answer and the one that pays for it."""
    checker, rng = Checker(), Random(1)
    assert checker.refusal(json.dumps(schema)) == ""
    answers = [said(schema, rng, 300) for _ in range(8)]
    assert None not in answers
    assert [checker.breach(json.dumps(schema), str(answer)) for answer in answers] == [""] * len(answers)


@pytest.mark.parametrize("length", [40, 60, 100, 200])
def test_an_end_is_found_that_closing_alone_does_not_find(length: int) -> None:
    """A multiple of seven needs the right digit, a duration a unit, an address its @."""
    schema = closed(
        b={"type": "integer", "multipleOf": 7},
        c={"type": "string", "format": "duration"},
        d={"type": "string", "format": "email"},
        e={"type": "string", "pattern": "^a|b$"},
    )
    for seed in range(6):
        answer = said(schema, Random(seed), length)
        if length > 60:  # what the names and the shortest values take
            assert answer is not None
            assert json.loads(answer)["b"] % 7 == 0


def test_a_long_text_that_must_come_is_no_circle() -> None:
    for seed in range(3):
        answer = said(closed(a={"type": "string", "minLength": 150}, b={"type": "null"}), Random(seed), 400)
        assert answer is not None
        assert len(json.loads(answer)["a"]) >= 150


def test_an_end_that_nobody_finds_leaves_the_model_its_say() -> None:
    """It is cut off by its length, and what it said until then is its own."""
    word = "abracadabra simsalabim"
    schema = {"type": "string", "pattern": word}
    assert said(schema, Random(1), 200) is None
    constraint = CONSTRAINTS.constrain(of_schema(json.dumps(schema)), lands=True)
    for left, token in zip(range(300, 0, -1), f'"oh: {word}!"'.encode(), strict=False):
        assert constraint.steer(token, left) == token
        constraint.take(token)
    assert constraint.complete


def test_garbage_is_a_grammar_error_and_nothing_else() -> None:
    """Whatever a stranger calls a schema."""
    rng = Random(7)
    words = "type properties items enum anyOf $ref $defs pattern format minimum maxLength minItems not a".split()
    values = [None, True, 0, -1, 1e300, 10**30, "", "string", "#", "#/$defs/a", "^a*$", "(", "\\", "\ud800", "a" * 500]

    def garbage(depth: int) -> Any:
        kind = rng.random()
        if depth == 0 or kind < 0.3:
            return rng.choice(values)
        if kind < 0.5:
            return [garbage(depth - 1) for _ in range(rng.randrange(4))]
        return {rng.choice(words): garbage(depth - 1) for _ in range(rng.randrange(5))}

    ends = set()
    for _ in range(1500):
        try:
            said(
                {"properties": garbage(4), "type": "object"} if rng.random() < 0.5 else {"allOf": [garbage(4)]}, rng, 3
            )
            ends.add("said")
        except GrammarError:
            ends.add("refused")
    assert ends == {"said", "refused"}
