"""An embeddings request and its answer in OpenAI's JSON, to the letter of the user guide."""

from __future__ import annotations

import base64
import json
import struct
from array import array
from math import hypot
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.records import Service
from cxp2p_gateway.faults import Base, Fault, row_of, text_of
from cxp2p_gateway.openai.embeddings import (
    EmbedAsk,
    EmbedRules,
    Encoding,
    TokenInput,
    embed_ask,
    embeddings_json,
    fitted,
)
from cxp2p_gateway.openai.floats import floats_json
from cxp2p_node.catalog import CATALOG
from embedders import vector_of

REJECT = EmbedRules()
NATIVE = EmbedRules(token_input=TokenInput.NATIVE)
HINT = "token ids mean something else to each model; pass strings (LangChain: check_embedding_ctx_length=False)"


def asked(rules: EmbedRules = REJECT, **changes: Any) -> EmbedAsk:
    return embed_ask({"model": "m", "input": "x", **changes}, rules)


def refusal(body: dict[str, Any], rules: EmbedRules = REJECT) -> tuple[str, str | None, str]:
    """Code, param and text that a body is refused with."""
    with pytest.raises(Fault) as caught:
        embed_ask(body, rules)
    fault = caught.value
    return row_of(fault, Base.ALIAS).code, fault.param, text_of(fault, Base.ALIAS)


# The request.


def test_the_guides_request() -> None:
    """With its defaults: floats, and cut if it is too long."""
    ask = embed_ask({"model": "nomic-embed-text", "input": "Your text to embed", "truncate": True}, REJECT)

    assert ask == EmbedAsk(
        model="nomic-embed-text",
        inputs=("Your text to embed",),
        truncate=True,
        encoding=Encoding.FLOAT,
        dimensions=None,
    )
    assert asked() == asked(truncate=None, encoding_format=None, dimensions=None, user=None)
    assert asked() == asked(user="me", anything={"else": [1]}, input_type="query")


@pytest.mark.parametrize(
    ("raw", "inputs"),
    [
        ("a text", ("a text",)),
        (["a", "b"], ("a", "b")),
        ([" "], (" ",)),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        ([0, 2**32 - 1], ((0, 2**32 - 1),)),
        (["a", [7]], ("a", (7,))),
        (["x"] * 2048, ("x",) * 2048),
        ([1] * 30_000, ((1,) * 30_000,)),
    ],
)
def test_every_shape_of_input(raw: Any, inputs: tuple[object, ...]) -> None:
    """A string, an array of them, token ids, an array of those."""
    assert asked(NATIVE, input=raw).inputs == inputs


@pytest.mark.parametrize(
    ("body", "code", "param", "text"),
    [
        ({}, "missing_required_parameter", "model", "Missing required parameter: model or input"),
        ({"model": "m"}, "missing_required_parameter", "input", "Missing required parameter: model or input"),
        (
            {"model": "", "input": "x"},
            "missing_required_parameter",
            "model",
            "Missing required parameter: model or input",
        ),
        (
            {"model": "m", "input": None},
            "missing_required_parameter",
            "input",
            "Missing required parameter: model or input",
        ),
        (
            {"model": "m", "input": ""},
            "missing_required_parameter",
            "input",
            "Missing required parameter: model or input",
        ),
        (
            {"model": "m", "input": []},
            "missing_required_parameter",
            "input",
            "Missing required parameter: model or input",
        ),
        ({"model": 3, "input": "x"}, "invalid_type", "model", "expected a string, got a number"),
        ({"model": "x" * 129, "input": "x"}, "model_not_found", "model", "does not exist"),
        ({"model": "m\ud800", "input": "x"}, "invalid_type", "model", "not valid Unicode"),
    ],
)
def test_what_is_missing_is_named(body: dict[str, Any], code: str, param: str, text: str) -> None:
    """In the guide's words."""
    found = refusal(body)

    assert found[:2] == (code, param)
    assert text in found[2]


@pytest.mark.parametrize(
    ("change", "code", "param", "problem"),
    [
        ({"input": 3}, "invalid_type", "input", "expected a string or an array, got a number"),
        ({"input": True}, "invalid_type", "input", "expected a string or an array, got a boolean"),
        ({"input": {"text": "x"}}, "invalid_type", "input", "expected a string or an array, got an object"),
        ({"input": ["a", 3]}, "invalid_type", "input[1]", "expected a string, got a number"),
        ({"input": ["a", None]}, "invalid_type", "input[1]", "expected a string, got null"),
        ({"input": [True]}, "invalid_type", "input[0]", "expected a string, got a boolean"),
        ({"input": [1.5]}, "invalid_type", "input[0]", "expected a string, got a number"),
        ({"input": ["a", "b", "c", ""]}, "out_of_range", "input[3]", "it is empty"),
        ({"input": ["a", "\ud800"]}, "invalid_type", "input[1]", "it is not valid Unicode text"),
        ({"input": "\ud800"}, "invalid_type", "input", "it is not valid Unicode text"),
        ({"input": ["x"] * 2049}, "out_of_range", "input", "2049 inputs is not between 1 and 2048"),
        ({"input": [1, "a"]}, "invalid_type", "input[1]", "expected a token id, got a string"),
        ({"input": [1, True]}, "invalid_type", "input[1]", "expected a token id, got a boolean"),
        ({"input": [1, 2.0]}, "invalid_type", "input[1]", "expected a token id, got a number"),
        ({"input": [[1], [2, -1]]}, "out_of_range", "input[1][1]", "it is not between 0 and 4294967295"),
        ({"input": [[1], []]}, "out_of_range", "input[1]", "0 tokens is not between 1 and 32703"),
        ({"input": [1] * 32_704}, "out_of_range", "input", "32704 tokens is not between 1 and 32703"),
        ({"encoding_format": "int8"}, "out_of_range", "encoding_format", "it is not one of float, base64"),
        ({"encoding_format": 1}, "invalid_type", "encoding_format", "expected a string, got a number"),
        ({"truncate": "yes"}, "invalid_type", "truncate", "expected a boolean, got a string"),
        ({"dimensions": "8"}, "invalid_type", "dimensions", "expected a number, got a string"),
        ({"dimensions": 0}, "out_of_range", "dimensions", "0 is not between 1 and 8192"),
        ({"dimensions": 8193}, "out_of_range", "dimensions", "8193 is not between 1 and 8192"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], code: str, param: str, problem: str) -> None:
    """To the single input, and the single token."""
    expected = (code, param, f"Invalid value for '{param}': {problem}")

    assert refusal({"model": "m", "input": "x", **change}, NATIVE) == expected


@pytest.mark.parametrize(("raw", "param"), [([1, 2], "input"), ([[1], [2]], "input[0]"), (["a", [2]], "input[1]")])
def test_token_ids_are_refused_unless_the_operator_takes_them(raw: Any, param: str) -> None:
    """LangChain sends those of OpenAI's tokenizer by default, whatever the model is; the error says what to do."""
    expected = ("unsupported_input_type", param, f"Unsupported type of '{param}': {HINT}")

    assert refusal({"model": "m", "input": raw}) == expected


@pytest.mark.parametrize(
    ("model", "shortens"),
    [
        ("nomic-embed-text", True),
        ("nomic-embed-text:v1.5", True),
        ("nomic-embed-text-v1.5", True),
        ("qwen3-embedding:0.6b", True),
        ("all-minilm-l6-v2", False),
        ("nomic-embed-text-v1", False),
    ],
)
def test_only_some_models_can_be_shortened(model: str, shortens: bool) -> None:
    """Others say so, naming the field; and an operator may name more of them."""
    body = {"model": model, "input": "x", "dimensions": 64}
    if shortens:
        assert embed_ask(body, REJECT).dimensions == 64
    else:
        text = "Unsupported parameter 'dimensions': vectors of this model cannot be shortened"
        assert refusal(body) == ("unsupported_parameter", "dimensions", text)
    assert embed_ask(body, EmbedRules(matryoshka=(model,))).dimensions == 64


def test_the_catalogue_and_the_gateway_agree_on_what_can_be_shortened() -> None:
    """The gateway cannot ask a node for that, so it has a table of its own."""
    named = {entry.name: entry.matryoshka for entry in CATALOG if entry.service is Service.EMBED}

    assert {name: REJECT.shortens(name) for name in named} == named
    assert {True, False} <= set(named.values())


# The answer.


def answered(vectors: list[array[float]], cx: object = None, **changes: Any) -> tuple[Any, list[bytes]]:
    ask = asked(EmbedRules(matryoshka=("m",)), **changes)
    parts = list(embeddings_json(ask, fitted(vectors, ask.dimensions), 8, cx))
    return json.loads(b"".join(parts)), parts


def test_the_guides_answer() -> None:
    """Its keys in its order; nothing else, but `cx` for who asked for that."""
    vectors = [array("f", [0.5, -0.5, 0.5, 0.5])]
    answer, parts = answered(vectors)

    assert b"".join(parts).decode() == (
        '{"object":"list","data":[{"object":"embedding","embedding":[0.5,-0.5,0.5,0.5],"index":0}],'
        '"model":"m","usage":{"prompt_tokens":8,"total_tokens":8}}'
    )
    assert answered(vectors, {"node": "x"})[0] == {**answer, "cx": {"node": "x"}}


@pytest.mark.parametrize("dimensions", [1, 8, 384, 1024, 1025, 8192])
def test_both_encodings_hold_the_same_numbers(dimensions: int) -> None:
    """To the bit; in order by index."""
    vectors = [vector_of(str(number), dimensions) for number in range(5)]
    floats, parts = answered(vectors)
    encoded, _ = answered(vectors, encoding_format="base64")

    assert [each["index"] for each in floats["data"]] == [0, 1, 2, 3, 4]
    assert [array("f", each["embedding"]) for each in floats["data"]] == vectors
    for each, vector in zip(encoded["data"], vectors, strict=True):
        assert struct.unpack(f"<{dimensions}f", base64.b64decode(each["embedding"], validate=True)) == tuple(vector)
    assert max(len(part) for part in parts) <= 20 * 1024


def test_shortened_vectors_have_length_1_again() -> None:
    """And a model that makes shorter ones says how long they are."""
    vectors = [vector_of(str(number), 64) for number in range(3)]
    answer, _ = answered(vectors, dimensions=16)
    whole, _ = answered(vectors, dimensions=64)

    assert [len(each["embedding"]) for each in answer["data"]] == [16] * 3
    assert all(abs(hypot(*each["embedding"]) - 1) < 1e-6 for each in answer["data"])
    assert [array("f", each["embedding"]) for each in whole["data"]] == vectors
    with pytest.raises(Fault) as caught:
        answered(vectors, dimensions=65)
    assert text_of(caught.value, Base.ALIAS) == "Invalid value for 'dimensions': the model's vectors have 64 numbers"


def digits(text: str) -> str:
    return text.lower().partition("e")[0].replace(".", "").replace("-", "").strip("0")


SMALLEST = float(np.finfo(np.float32).tiny)
NUMBERS = (
    st.floats(-1, 1, width=32).filter(lambda number: not 0 < abs(number) < SMALLEST)
    | st.floats(2**-10, 2**-10 + 2**-16, width=32)
    | st.integers(-(10**6), 10**6).map(lambda number: float(np.float32(number / 10**6)))
    | st.integers(976_563, 999_999).map(lambda number: float(np.float32(number / 10**9)))
)


@given(st.lists(NUMBERS, max_size=40))
def test_numbers_are_as_short_as_they_can_be(numbers: list[float]) -> None:
    """As NumPy writes a float32, which is known to be the shortest; and they are read back as the same."""
    text = floats_json(array("f", numbers))
    written = text.split(",") if text else []

    assert array("f", json.loads(f"[{text}]")) == array("f", numbers)
    assert [digits(each) for each in written] == [digits(str(np.float32(number))) for number in numbers]


def test_numbers_too_small_for_all_digits_are_read_back_too() -> None:
    """Subnormal ones, which no model makes on purpose."""
    numbers = array("f", [1e-45, -1e-40, 1.1754942e-38, 0.0, -0.0])

    assert array("f", json.loads(f"[{floats_json(numbers)}]")) == numbers
