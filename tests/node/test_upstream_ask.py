"""What a job becomes for each kind of server, and what one tells of itself."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest

from cxp2p.errors import JobFailed
from cxp2p.records import (
    AnswerForm,
    ChatJob,
    EmbedJob,
    FailureCode,
    Message,
    Role,
    Sampling,
    Tool,
    ToolCall,
    ToolMode,
)
from cxp2p_node.engines.upstream_ask import (
    Facts,
    Maker,
    chat_body,
    declared_digest,
    facts_of_models,
    prompt_units_least,
)
from cxp2p_node.engines.upstream_faults import Kind, ServerFault
from cxp2p_node.engines.upstream_vectors import (
    INPUTS_PER_REQUEST,
    NUMBERS_MAX,
    batches,
    embed_body,
    shortened,
    units_least,
    vectors_of,
)
from upstreams import MODEL, listing

TURN = Message(role=Role.USER, content="hello")
WEATHER = Tool(name="weather", description="of a city", parameters='{"type": "object", "properties": {"c": {}}}')


def facts(maker: Maker = Maker.OTHER) -> Facts:
    return Facts(maker=maker, model=MODEL)


def body(maker: Maker = Maker.OTHER, tokens_max: int | None = None, **fields: Any) -> dict[str, Any]:
    return chat_body(ChatJob(model="m", messages=(TURN,), **fields), facts(maker), tokens_max)


# A chat.


def test_a_strict_server_gets_openais_own_fields_only() -> None:
    assert body(tokens_max=9) == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "top_p": 1.0,
        "max_tokens": 9,
    }


def test_what_is_set_is_sent_to_any_server() -> None:
    sampling = Sampling(
        temperature=0.1,
        top_k=5,
        min_p=0.2,
        repeat_penalty=1.1,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        logit_bias=((7, -100.0),),
        seed=-1,
    )
    sent = body(sampling=sampling, stop=("a", "b"), logprobs=3)
    told = {
        "temperature": 0.1,
        "top_k": 5,
        "min_p": 0.2,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {"7": -100.0},
        "seed": 2**31 - 1,
        "stop": ["a", "b"],
        "logprobs": True,
        "top_logprobs": 3,
    }
    assert {name: sent[name] for name in told} == told


@pytest.mark.parametrize(
    ("maker", "told"),
    [
        (Maker.VLLM, {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}),
        (Maker.SGLANG, {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}),
        (Maker.LLAMA_CPP, {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "timings_per_token": True}),
    ],
)
def test_servers_that_sample_their_own_way_are_told_not_to(maker: Maker, told: dict[str, Any]) -> None:
    """llama-server's own top_k is 40, vLLM's what the model's files say: a job means what it says on every node."""
    assert {name: body(maker).get(name) for name in told} == told


def test_counts_in_every_event_are_asked_for_where_they_are_known() -> None:
    continuous = {"include_usage": True, "continuous_usage_stats": True}
    assert body(Maker.VLLM)["stream_options"] == body(Maker.SGLANG)["stream_options"] == continuous
    assert body(Maker.OLLAMA)["stream_options"] == {"include_usage": True}


def test_salted_jobs_share_no_cache() -> None:
    """vLLM and SGLang take the salt; llama-server's slots know none, so they keep nothing."""
    salt = base64.b64encode(b"salt").decode()
    assert body(Maker.VLLM, cache_salt=b"salt")["cache_salt"] == salt
    assert body(Maker.SGLANG, cache_salt=b"salt")["cache_salt"] == salt
    assert body(Maker.LLAMA_CPP, cache_salt=b"salt")["cache_prompt"] is False
    assert "cache_prompt" not in body(Maker.LLAMA_CPP)


def test_thinking_is_switched_as_each_server_has_it() -> None:
    assert body(Maker.VLLM, thinking=True)["chat_template_kwargs"] == {"enable_thinking": True}
    assert body(Maker.OLLAMA, thinking=False)["reasoning_effort"] == "none"
    assert "reasoning_effort" not in body(thinking=True)


@pytest.mark.parametrize(
    "sampling", [Sampling(top_k=4), Sampling(min_p=0.1), Sampling(repeat_penalty=1.2), Sampling(logit_bias=((1, 2.0),))]
)
def test_what_ollama_would_drop_in_silence_is_refused(sampling: Sampling) -> None:
    with pytest.raises(JobFailed, match="does not know") as failed:
        body(Maker.OLLAMA, sampling=sampling)
    assert failed.value.code is FailureCode.REQUEST_UNSUPPORTED


def test_turns_are_passed_on_with_their_calls() -> None:
    """A developer is a system to all but OpenAI's own models."""
    turns = (
        Message(role=Role.DEVELOPER, content="be brief"),
        Message(role=Role.ASSISTANT, content="", tool_calls=(ToolCall(id="c1", name="weather", arguments="{}"),)),
        Message(role=Role.TOOL, content="sunny", tool_call_id="c1", name="weather"),
    )
    sent = chat_body(ChatJob(model="m", messages=turns), facts(), None)["messages"]
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert sent == [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "name": "weather", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize(
    ("mode", "choice"),
    [
        (ToolMode.AUTO, "auto"),  # vLLM's own default is none
        (ToolMode.REQUIRED, "required"),
        (ToolMode.NAMED, {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_tools_are_passed_on_with_the_choice(mode: ToolMode, choice: object) -> None:
    sent = body(tools=(WEATHER,), tool_mode=mode, tool_name="weather", parallel_calls=False)
    parameters = {"type": "object", "properties": {"c": {}}}
    function = {"name": "weather", "description": "of a city", "parameters": parameters}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert sent["tool_choice"] == choice
    assert sent["parallel_tool_calls"] is False


def test_llama_server_is_given_the_named_tool_alone() -> None:
    """It takes a choice that is an object for `auto`, without a word."""
    sent = body(Maker.LLAMA_CPP, tools=(WEATHER, Tool(name="b")), tool_mode=ToolMode.NAMED, tool_name="b")
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["b"]
    assert sent["tool_choice"] == "required"


def test_tools_that_may_not_be_called_are_not_told() -> None:
    """A server that ignores the choice can then not get it wrong."""
    sent = body(tools=(WEATHER,), tool_mode=ToolMode.NONE)
    assert "tools" not in sent
    assert "tool_choice" not in sent


def test_forms_are_response_formats() -> None:
    sent = body(form=AnswerForm.JSON_SCHEMA, schema='{"type": "object"}')["response_format"]
    assert sent["json_schema"] == {"name": "answer", "schema": {"type": "object"}, "strict": True}
    assert body(form=AnswerForm.JSON_OBJECT)["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize("bad", ["{", "[" * 100_000])
def test_a_schema_that_is_no_json_is_the_jobs_fault(bad: str) -> None:
    with pytest.raises(JobFailed) as failed:
        body(form=AnswerForm.JSON_SCHEMA, schema=bad)
    assert failed.value.code is FailureCode.SCHEMA_INVALID


def test_a_prompt_that_nobody_counts_is_charged_less_than_it_has() -> None:
    """A token of English has four bytes, and so has one of most other things."""
    job = ChatJob(model="m", messages=(Message(role=Role.USER, content="eight by" * 10), TURN), tools=(WEATHER,))
    assert prompt_units_least(job) == (80 + 5 + len(WEATHER.description + WEATHER.parameters)) // 8 + 2


# What a server tells.


@pytest.mark.parametrize(
    ("listed", "maker", "context_units"),
    [
        (listing(MODEL, owned_by="vllm", max_model_len=32768), Maker.VLLM, 32768),
        (listing(MODEL, owned_by="sglang", max_model_len=8192), Maker.SGLANG, 8192),
        (listing(MODEL, owned_by="llamacpp", meta={"n_ctx": 4096}), Maker.LLAMA_CPP, 4096),
        (listing("x", MODEL, owned_by="library"), Maker.OTHER, 0),
        (listing(MODEL + ":latest", owned_by="library"), Maker.OTHER, 0),
        (listing("path.gguf", owned_by="llamacpp", aliases=[MODEL]), Maker.LLAMA_CPP, 0),
        (listing(MODEL, max_model_len="many", meta=[]), Maker.OTHER, 0),
    ],
)
def test_a_listing_tells_what_the_server_is(listed: Any, maker: Maker, context_units: int) -> None:
    found = facts_of_models(listed, MODEL, sole=False)
    assert (found.maker, found.context_units) == (maker, context_units)


def test_the_only_model_of_a_server_is_meant_whatever_its_name() -> None:
    assert facts_of_models(listing("a.gguf"), "llama3", sole=True).model == "a.gguf"
    with pytest.raises(ServerFault, match=r"near to it are llama3\.1"):
        facts_of_models(listing("llama3.1", "qwen"), "llama3", sole=True)


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (listing(*(f"other-{n}" for n in range(100))), "it has 100, for instance other-0, other-1"),
        (listing(), "nor any other"),
        ({"error": "x"}, "list of models"),
        ([], "list of models"),
        ({"data": [1, {"id": 5}]}, "nor any other"),
    ],
)
def test_a_server_without_the_model_is_told_what_it_has(listed: Any, words: str) -> None:
    with pytest.raises(ServerFault, match=words):
        facts_of_models(listed, "llama3", sole=False)


def test_the_digest_is_what_is_declared() -> None:
    """Not where the server is: two nodes in front of one model offer the same."""
    assert declared_digest("a", "") == declared_digest("a", "")
    assert len({declared_digest("a", ""), declared_digest("b", ""), declared_digest("a", "ff")}) == 3


# Embeddings.


def answer(*vectors: Any, **more: Any) -> bytes:
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    return json.dumps({"data": data, **more}).encode()


def test_vectors_are_read_from_numbers_and_base64_and_made_as_long_as_one() -> None:
    coded = base64.b64encode(struct.pack("<2f", 3.0, 4.0)).decode()
    data, numbers, units = vectors_of(answer([3.0, 4.0], coded, usage={"prompt_tokens": 6}), 2)
    assert (numbers, units) == (2, 6)
    assert np.frombuffer(data, "<f4").tolist() == pytest.approx([0.6, 0.8, 0.6, 0.8])


def test_vectors_come_in_the_order_of_the_inputs() -> None:
    told = {"data": [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [5, 0]}]}
    data, _, units = vectors_of(json.dumps(told).encode(), 2)
    assert np.frombuffer(data, "<f4").tolist() == [1, 0, 0, 1]
    assert units == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        answer([1.0]),
        answer([1.0], [1.0], [1.0]),
        answer([1.0], [1.0, 2.0]),
        answer([1.0], []),
        answer([1.0], [0.0]),
        answer([1.0], ["x"]),
        answer([1.0], "?"),
        answer([1.0], "AAA="),
        answer([1.0], None),
        answer([1.0], [[1.0]]),
        answer([1e200] * (NUMBERS_MAX + 1), [1.0] * (NUMBERS_MAX + 1)),
        b'{"data": [{"embedding": [1]}, {"embedding": [NaN]}]}',
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": {}, "embedding": [1]}]}',
        b'{"error": {"message": "it died", "code": 500}}',
    ],
)
def test_an_answer_that_is_not_so_many_vectors_is_the_servers_fault(body: bytes) -> None:
    with pytest.raises(ServerFault) as found:
        vectors_of(body, 2)
    assert found.value.kind is Kind.BROKEN


def test_inputs_are_asked_for_in_their_order_and_by_their_kind() -> None:
    """Texts and tokens do not mix in one request, and none is larger than is answered soon."""
    inputs: tuple[str | tuple[int, ...], ...] = (
        "a",
        "b",
        (1, 2),
        (3,),
        "c",
        *["d"] * INPUTS_PER_REQUEST,
        "e" * 10**6,
        "f",
    )
    found = list(batches(EmbedJob(model="m", inputs=inputs)))
    assert found[:2] == [["a", "b"], [[1, 2], [3]]]
    assert [len(each) for each in found] == [2, 2, INPUTS_PER_REQUEST, 1, 1, 1]
    assert [one for each in found for one in each] == [list(one) if isinstance(one, tuple) else one for one in inputs]


def test_only_vllm_is_asked_to_cut_what_is_too_long() -> None:
    assert embed_body(["a"], facts(Maker.VLLM), truncate=True)["truncate_prompt_tokens"] == -1
    assert "truncate_prompt_tokens" not in embed_body(["a"], facts(Maker.VLLM), truncate=False)
    assert embed_body(["a"], facts(), truncate=True) == {"model": MODEL, "input": ["a"], "encoding_format": "base64"}


def test_an_input_that_is_too_long_is_cut_by_what_the_server_told() -> None:
    known = ServerFault(Kind.CONTEXT, "", limit=512, actual=1024)
    assert len(shortened("x" * 1000, known, 0)) == 475
    assert len(shortened([1] * 1000, known, 0)) == 510
    assert len(shortened("x" * 1000, ServerFault(Kind.CONTEXT, ""), 0)) == 500
    assert len(shortened("x", ServerFault(Kind.CONTEXT, ""), 0)) == 1


def test_inputs_that_nobody_counts_are_charged_less_than_they_have() -> None:
    assert units_least(["x" * 80, "x", [1, 2, 3]]) == 10 + 1 + 3
