"""OpenAI's JSON: what a body becomes, what is refused and how it is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.records import ChatJob, Message, Role, Sampling
from cxp2p_gateway import openai
from cxp2p_gateway.faults import Base, Condition, Dialect, Fault, render
from cxp2p_gateway.openai import ChatAsk, chat_ask
from doors import chat_body, refusal


def test_a_small_body_gets_the_products_defaults() -> None:
    """Stream is off and the temperature is 0.7, as the user guide says, not OpenAI's 1."""
    assert chat_ask(chat_body()) == ChatAsk(
        job=ChatJob(
            model="smollm2:135m",
            messages=(Message(role=Role.USER, content="Hi"),),
            max_tokens=None,
            stop=(),
            sampling=Sampling(temperature=0.7),
        ),
        stream=False,
        include_usage=False,
    )


def test_every_field_that_is_honoured_reaches_the_job() -> None:
    """All of OpenAI's fields that change an answer end up in the job."""
    body = chat_body(
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        temperature=0,
        top_p=0.5,
        max_tokens=10,
        max_completion_tokens=20,
        stop=["a", "b"],
        seed=-5,
        frequency_penalty=-2,
        presence_penalty=2,
        logit_bias={"5": -100, "0": 1.5},
    )
    ask = chat_ask(body)
    assert (ask.stream, ask.include_usage) == (True, True)
    assert ask.job.max_tokens == 20
    assert ask.job.stop == ("a", "b")
    assert ask.job.sampling == Sampling(
        temperature=0.0,
        top_p=0.5,
        frequency_penalty=-2.0,
        presence_penalty=2.0,
        logit_bias=((5, -100.0), (0, 1.5)),
        seed=-5,
    )


def test_null_is_absence_and_unknown_fields_are_ignored() -> None:
    """SDKs send explicit nulls, and tools send fields nobody knows: both change nothing."""
    nulls = dict.fromkeys(
        "stream stream_options temperature top_p max_tokens max_completion_tokens n stop seed frequency_penalty "
        "presence_penalty logit_bias logprobs top_logprobs response_format tools tool_choice functions function_call "
        "modalities audio user store metadata reasoning_effort chat_template_kwargs parallel_tool_calls "
        "prompt_cache_key service_tier verbosity prediction".split()
    )
    extras = {
        "x": [1],
        "verbosity": 7,
        "metadata": {"a": "b"},
        "store": True,
        "prompt_cache_options": {},
        "safety_identifier": "s",
        "service_tier": "auto",
        "prediction": {"type": "content", "content": "x"},
        "web_search_options": {},
        "moderation": {},
        "provider": {"order": ["a"]},
    }
    assert chat_ask(chat_body(**nulls)) == chat_ask(chat_body()) == chat_ask(chat_body(**extras))


def test_what_asks_for_nothing_special_is_accepted() -> None:
    """Fields that name a feature without using it are no reason to refuse."""
    harmless = {
        "tools": [],
        "functions": [],
        "tool_choice": "auto",
        "function_call": "none",
        "n": 1,
        "logprobs": False,
        "top_logprobs": 0,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "stop": [],
        "logit_bias": {},
        "parallel_tool_calls": False,
    }
    assert chat_ask(chat_body(**harmless)) == chat_ask(chat_body())
    assert chat_ask(chat_body(response_format="text")) == chat_ask(chat_body())


@pytest.mark.parametrize(
    ("value", "tokens"),
    [(1, 1), (100.0, 100), (2**31, 2**31 - 1), (10**300, 2**31 - 1), (1e300, 2**31 - 1)],
)
def test_more_tokens_than_any_model_has_is_no_limit(value: float, tokens: int) -> None:
    """A huge max_tokens is clamped to what a record holds; 100.0 is a whole number."""
    assert chat_ask(chat_body(max_tokens=value)).job.max_tokens == tokens


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        ({"messages": [{"role": "user", "content": "x"}]}, "model"),
        ({"model": None, "messages": [{"role": "user", "content": "x"}]}, "model"),
        ({"model": "", "messages": [{"role": "user", "content": "x"}]}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": None}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
    ],
)
def test_missing_model_or_messages_is_the_documented_error(body: dict[str, Any], param: str) -> None:
    """The user guide's text, word for word, also for null, the empty string and the empty array."""
    text = "Missing required parameter: model or messages"
    assert refusal(body) == ("missing_required_parameter", param, text)


@pytest.mark.parametrize(
    ("changes", "code", "param", "problem"),
    [
        ({"model": 5}, "invalid_type", "model", "expected a string, got a number"),
        ({"messages": "x"}, "invalid_type", "messages", "expected an array, got a string"),
        ({"messages": {"a": 1}}, "invalid_type", "messages", "expected an array, got an object"),
        ({"stream": 1}, "invalid_type", "stream", "expected a boolean, got a number"),
        ({"stream": "true"}, "invalid_type", "stream", "expected a boolean, got a string"),
        ({"temperature": 3}, "out_of_range", "temperature", "3 is not between 0 and 2"),
        ({"temperature": -0.5}, "out_of_range", "temperature", "-0.5 is not between 0 and 2"),
        ({"temperature": 10**50}, "out_of_range", "temperature", f"{str(10**50)[:32]} is not between 0 and 2"),
        ({"temperature": float("inf")}, "out_of_range", "temperature", "inf is not between 0 and 2"),
        ({"temperature": "1"}, "invalid_type", "temperature", "expected a number, got a string"),
        ({"temperature": True}, "invalid_type", "temperature", "expected a number, got a boolean"),
        ({"top_p": 1.1}, "out_of_range", "top_p", "1.1 is not between 0 and 1"),
        ({"frequency_penalty": 2.5}, "out_of_range", "frequency_penalty", "2.5 is not between -2 and 2"),
        ({"presence_penalty": -3}, "out_of_range", "presence_penalty", "-3 is not between -2 and 2"),
        ({"max_tokens": 0}, "out_of_range", "max_tokens", "0 is less than 1"),
        ({"max_tokens": 1.5}, "invalid_type", "max_tokens", "expected an integer, got 1.5"),
        ({"max_tokens": [1]}, "invalid_type", "max_tokens", "expected a number, got an array"),
        ({"max_completion_tokens": -1}, "out_of_range", "max_completion_tokens", "-1 is less than 1"),
        ({"max_tokens": 0, "max_completion_tokens": 5}, "out_of_range", "max_tokens", "0 is less than 1"),
        ({"seed": 2**63}, "out_of_range", "seed", f"{2**63} is not between {-(2**63)} and {2**63 - 1}"),
        ({"n": 0}, "out_of_range", "n", "0 is not between 1 and 8"),
        ({"n": 9}, "out_of_range", "n", "9 is not between 1 and 8"),
        ({"n": "2"}, "invalid_type", "n", "expected a number, got a string"),
        (
            {"reasoning_effort": "hard"},
            "out_of_range",
            "reasoning_effort",
            "it is not one of none, minimal, low, medium, high, xhigh, max",
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": 0}},
            "invalid_type",
            "chat_template_kwargs.enable_thinking",
            "expected a boolean, got a number",
        ),
        ({"chat_template_kwargs": True}, "invalid_type", "chat_template_kwargs", "expected an object, got a boolean"),
        ({"logprobs": True, "top_logprobs": 21}, "out_of_range", "top_logprobs", "21 is not between 0 and 20"),
        ({"stop": 5}, "invalid_type", "stop", "expected an array, got a number"),
        ({"stop": ["a"] * 5}, "out_of_range", "stop", "5 strings is not between 0 and 4"),
        ({"stop": ["a", 1]}, "invalid_type", "stop[1]", "expected a string, got a number"),
        ({"stop": ""}, "out_of_range", "stop", "0 characters is not between 1 and 1024"),
        ({"stop": ["x" * 1025]}, "out_of_range", "stop[0]", "1025 characters is not between 1 and 1024"),
        ({"logit_bias": [1]}, "invalid_type", "logit_bias", "expected an object, got an array"),
        ({"logit_bias": {"5": 101}}, "out_of_range", "logit_bias.5", "101 is not between -100 and 100"),
        (
            {"logit_bias": {"x": 1}},
            "out_of_range",
            "logit_bias",
            "its keys are token ids, whole numbers from 0 to 4294967295",
        ),
        (
            {"logit_bias": {str(i): 1 for i in range(1025)}},
            "out_of_range",
            "logit_bias",
            "1025 entries is not between 0 and 1024",
        ),
        (
            {"stream_options": {"include_usage": True}},
            "out_of_range",
            "stream_options",
            "it is only allowed when 'stream' is true",
        ),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "invalid_type",
            "stream_options.include_usage",
            "expected a boolean, got a number",
        ),
        (
            {"response_format": {"type": "xml"}},
            "out_of_range",
            "response_format.type",
            "it is not one of text, json_object, json_schema",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}] * 1025},
            "out_of_range",
            "messages",
            "1025 messages is not between 1 and 1024",
        ),
        ({"tools": {}}, "invalid_type", "tools", "expected an array, got an object"),
        ({"tool_choice": 1}, "invalid_type", "tool_choice", "expected a string or an object, got a number"),
        ({"modalities": "audio"}, "invalid_type", "modalities", "expected an array, got a string"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(changes: dict[str, Any], code: str, param: str, problem: str) -> None:
    """Wrong types and values out of range are refused with the field's name and what is wrong with it."""
    assert refusal(chat_body(**changes)) == (code, param, f"Invalid value for '{param}': {problem}")


@pytest.mark.parametrize(
    ("changes", "thinking"),
    [
        ({}, None),
        ({"reasoning_effort": None, "chat_template_kwargs": None}, None),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, True),
        ({"reasoning_effort": "high"}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}, True),
        ({"chat_template_kwargs": {"another": 1}, "reasoning_effort": "none"}, False),
    ],
)
def test_whether_a_model_should_think_reaches_the_job(changes: dict[str, Any], thinking: bool | None) -> None:
    """No effort is no thinking; what is said to the template wins; nothing said leaves it to the template."""
    assert chat_ask(chat_body(**changes)).job.thinking is thinking


@pytest.mark.parametrize(
    ("seed", "seeds"),
    [(None, [None, None, None]), (5, [5, 6, 7]), (2**63 - 2, [2**63 - 2, 2**63 - 1, -(2**63)])],
)
def test_each_choice_is_a_job_with_a_seed_of_its_own(seed: int | None, seeds: list[int | None]) -> None:
    """From a given seed they count up, so that the same request has the same choices again."""
    ask = chat_ask(chat_body(n=3, seed=seed))
    assert ask.choices == 3
    jobs = [ask.job_of(index) for index in range(3)]
    assert [job.sampling.seed for job in jobs] == seeds
    assert {replace(job, sampling=Sampling()) for job in jobs} == {replace(ask.job, sampling=Sampling())}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content[0].type"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
def test_media_is_an_unsupported_modality(changes: dict[str, Any], param: str) -> None:
    """Images, audio and files are refused as such, with the place where they stand."""
    code, named, _ = refusal(chat_body(**changes))
    assert (code, named) == ("unsupported_modality", param)


@pytest.mark.parametrize("model", ["m" * 129, "\ud800", "m" * 1_000_000])
def test_a_model_that_cannot_be_named_is_unknown(model: str) -> None:
    """A model name that no record can hold is one that nobody serves, not a crash and not a type error."""
    with pytest.raises(Fault) as caught:
        chat_ask(chat_body(model=model))
    assert caught.value.condition is Condition.MODEL_UNKNOWN


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "model messages stream stream_options temperature top_p max_tokens max_completion_tokens n stop seed logit_bias "
    "frequency_penalty presence_penalty logprobs top_logprobs response_format tools tool_choice functions "
    "function_call modalities reasoning_effort chat_template_kwargs parallel_tool_calls"
).split()
PARTS = "role content name tool_calls tool_call_id function_call".split()
wild_messages = st.lists(
    st.dictionaries(st.sampled_from(PARTS), json_values | st.sampled_from(openai.ask.ROLES)), max_size=3
)


@given(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6), st.none() | wild_messages, st.booleans())
def test_any_json_is_a_request_or_a_clean_refusal(body: dict[str, Any], turns: Any, has_model: bool) -> None:
    """Whatever a body holds, it becomes a job or a 4xx (or 503) with text; never another exception."""
    if turns is not None:
        body["messages"] = turns
    if has_model:
        body["model"] = "smollm2:135m"
    try:
        made: ChatAsk | Fault = chat_ask(body)
    except Fault as fault:
        made = fault
    if isinstance(made, Fault):
        assert {render(made, dialect, Base.DOCUMENTED).status for dialect in Dialect} <= {400, 503}
