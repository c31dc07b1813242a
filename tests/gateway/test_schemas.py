"""Whether an answer is what its schema says: the checker, and the processes in which hostile schemas end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
import trio

from cxp2p_gateway.schemas import Here, Uncheckable
from cxp2p_gateway.schemas.apart import CHECK_S_MAX, WORKERS_MAX, Apart, open_schemas
from cxp2p_gateway.schemas.checking import ANSWER_CHARS_MAX, KEPT_MAX, SCHEMA_CHARS_MAX, Checker

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name"],
    "additionalProperties": False,
}
# Each level is tried twice, and fails: 2**40 steps.
ENDLESS = {
    "$defs": {
        **{f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2 + [{"type": "null"}]} for at in range(40)},
        "d40": False,
    },
    "$ref": "#/$defs/d0",
}


@pytest.fixture
async def apart() -> AsyncIterator[Apart]:
    async with open_schemas() as schemas:
        yield schemas


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ('{"name": "Ann", "age": 5}', ""),
        ('  {"name": "Ann"}\n', ""),
        ('{"name": "Ann", "age": 5', "it is not JSON"),
        ('{"name": "Ann"} and more', "it is not JSON"),
        ('{"name": "Ann", "age": NaN}', "it is not JSON"),
        ("", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ('{"name": "Ann", "age": 121}', "it breaks 'maximum' of its schema"),
        ('{"name": "ann"}', "it breaks 'pattern' of its schema"),
        ('{"age": 5}', "it breaks 'required' of its schema"),
        ('{"name": "Ann", "x": 1}', "it breaks 'additionalProperties' of its schema"),
        ("[]", "it breaks 'type' of its schema"),
        ('{"name": "Ann", "age": -1E400}', ""),
        ('{"name": "Ann", "age": 1E400}', "it breaks 'maximum' of its schema"),
        (f'{{"name": "Ann", "age": -{"9" * 5000}}}', ""),
        (f'"{"x" * ANSWER_CHARS_MAX}"', f"it is longer than {ANSWER_CHARS_MAX} characters"),
    ],
)
async def test_an_answer_is_told_by_the_keyword_that_it_breaks(answer: str, fault: str) -> None:
    """Never by its words: what is wrong is signed, sent to the node and kept."""
    assert await Here().breach(json.dumps(PERSON), answer) == fault


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ('{"type": "strin"}', "\"strin\" is not valid under any of the schemas listed in the 'anyOf' keyword at type"),
        ('{"$ref": "http://example.org/x"}', "cannot fetch http://example.org/x"),
        ('{"$ref": "file:///etc/passwd"}', "cannot fetch file:///etc/passwd"),
        ('{"$ref": "#/$defs/nowhere"}', "nowhere"),
        ('{"$schema": "http://example.org/mine"}', "Unknown meta-schema: 'http://example.org/mine'"),
        ('{"properties": {"a": {"pattern": "(?=a)b"}}}', 'is not a "regex" at properties/a/pattern'),
        ('{"pattern": "(((a{1,99}){1,99}){1,99}){1,99}"}', 'is not a "regex"'),
        ('{"properties": {"a": {"maximum": NaN}}}', "NaN is not JSON"),
        ("{", "Expecting property name"),
        ("[]", 'is not of types "boolean", "object"'),
        ('{"not":' * 5000 + "{}" + "}" * 5000, "recursion"),
        (json.dumps({"enum": ["x" * SCHEMA_CHARS_MAX]}), f"it is longer than {SCHEMA_CHARS_MAX} characters"),
    ],
)
async def test_a_schema_that_is_none_is_refused_with_the_reason(schema: str, said: str) -> None:
    """Nothing is fetched, and no pattern takes more than linear time or its room."""
    refusal = await Here().refusal(schema)
    assert said in refusal
    assert len(refusal) <= 300


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "array", "items": [{"type": "integer"}], "additionalItems": False}, "[1]", "[1, 2]"),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, "4", "3"),
        ({"definitions": {"a": {"type": "null"}}, "$ref": "#/definitions/a"}, "null", "1"),
    ],
)
async def test_schemas_of_older_drafts_are_known(schema: Any, right: str, wrong: str) -> None:
    """Also those that do not say so, if they are nothing by the rules of today."""
    here = Here()
    assert await here.breach(json.dumps(schema), right) == ""
    assert await here.breach(json.dumps(schema), wrong) != ""


async def test_a_pattern_takes_linear_time() -> None:
    with trio.fail_after(5):
        schema = json.dumps({"pattern": "^(a+)+$"})
        assert await Here().breach(schema, json.dumps("a" * 100_000 + "b")) == "it breaks 'pattern' of its schema"


async def test_schemas_are_remembered_up_to_a_limit() -> None:
    checker = Checker()
    for number in range(KEPT_MAX + 5):
        assert checker.refusal(json.dumps({"maximum": number})) == ""
    assert len(checker._kept) == KEPT_MAX


def processes() -> list[psutil.Process]:
    """The checkers that this test has started."""
    return [child for child in psutil.Process().children() if "cxp2p_gateway.schemas.worker" in child.cmdline()]


async def test_a_process_of_its_own_says_the_same(apart: Apart) -> None:
    """It starts with the first check, and is gone with the gateway."""
    assert processes() == []
    assert await apart.refusal(json.dumps(PERSON)) == ""
    assert "not-there" in await apart.refusal('{"$ref": "#/not-there"}')
    assert await apart.breach(json.dumps(PERSON), '{"name": "Ann\u2028"}') == ""
    assert await apart.breach(json.dumps(PERSON), '{"name": "ann"}') == "it breaks 'pattern' of its schema"
    (worker,) = processes()
    await apart.close()
    assert not worker.is_running()


async def test_many_checks_at_once_use_few_processes(apart: Apart) -> None:
    async def check(number: int) -> None:
        schema = json.dumps({"maximum": number})
        assert await apart.breach(schema, str(number)) == ""
        assert await apart.breach(schema, str(number + 1)) == "it breaks 'maximum' of its schema"

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(check, number)
    assert 1 <= len(processes()) <= WORKERS_MAX


async def test_a_schema_that_takes_for_ever_is_given_up(apart: Apart) -> None:
    """Its process is killed, and the next check has a fresh one."""
    assert await apart.refusal(json.dumps(ENDLESS)) == ""
    (first,) = processes()
    began = trio.current_time()
    with pytest.raises(Uncheckable, match="cannot be checked"):
        await apart.breach(json.dumps(ENDLESS), "1")
    assert CHECK_S_MAX <= trio.current_time() - began < CHECK_S_MAX + 3
    assert not first.is_running()
    assert await apart.breach('{"type": "null"}', "null") == ""


@pytest.mark.parametrize("depth", [900, 5_000, 400_000])
async def test_an_answer_nested_without_end_ends_no_gateway(apart: Apart, depth: int) -> None:
    """It is no JSON for us, or it ends its checker; the next check goes on."""
    nested = "[" * depth + "]" * depth
    with suppress(Uncheckable):
        assert await apart.breach('{"items": {"$ref": "#"}}', nested) in ("", "it is not JSON")
    assert await apart.breach('{"type": "null"}', "null") == ""


async def test_a_checker_that_is_killed_is_replaced(apart: Apart) -> None:
    assert await apart.refusal('{"type": "null"}') == ""
    (worker,) = processes()
    worker.kill()
    worker.wait(5)
    assert await apart.breach('{"type": "null"}', "null") == ""


async def test_a_client_that_leaves_leaves_no_check_half_done(apart: Apart) -> None:
    """What the next one asks is what it is told."""
    assert await apart.refusal('{"type": "null"}') == ""
    with trio.CancelScope() as leaving:
        leaving.cancel()
        await apart.breach('{"type": "null"}', "1")
    assert await apart.breach('{"type": "null"}', "null") == ""
