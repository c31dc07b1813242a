"""OpenAI's JSON: the exact shapes of answers, whole and in chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.records import CallPart, Finish, Piece
from cxp2p_gateway import openai
from cxp2p_gateway.openai import Chunks, chat_ask
from doors import RECEIPT, chat_body, outcome_of, settlement_of


def data(event: bytes) -> Any:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    return json.loads(event[6:])


def said(text: str) -> Piece:
    return Piece(text=text, token_ids=(1,))


def whole(text: str) -> openai.Whole:
    made = openai.Whole()
    made.take(said(text))
    return made


def chunks(index: int = 0, **changes: Any) -> Chunks:
    return Chunks(chat_ask(chat_body(stream=True, **changes)), "chatcmpl-1", 1_700_000_000, index)


HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "smollm2:135m"}


def choice(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}


def test_chunks_have_exactly_openais_shape() -> None:
    """Role, text and finish chunks: the same id, time and model in all, and no usage key unless it was asked for."""
    made = chunks()
    assert data(made.role()) == HEAD | choice({"role": "assistant", "content": ""})
    assert made.role() == b""
    assert data(made.piece(said("Hello"))) == HEAD | choice({"content": "Hello"})
    assert data(made.finish("length", None)) == HEAD | choice({}, "length")
    assert openai.DONE == b"data: [DONE]\n\n"


def test_chunks_of_another_choice_have_its_index() -> None:
    """Text by the quick way, everything else by the other, and the end."""
    made = chunks(index=3)
    call = Piece(token_ids=(1,), calls=(CallPart(number=0, name="f"),))
    for chunk in (made.role(), made.piece(said("x")), made.piece(call), made.finish("stop", None)):
        assert [each["index"] for each in data(chunk)["choices"]] == [3]
    assert data(made.piece(call))["choices"][0]["delta"]["tool_calls"][0]["id"] == "call_1_3_0"


def test_usage_is_null_in_all_chunks_but_the_last_if_it_was_asked_for() -> None:
    """With include_usage every chunk has the key, and one chunk without choices has the numbers."""
    made = chunks(stream_options={"include_usage": True})
    for chunk in (made.role(), made.piece(said("x")), made.finish("stop", None)):
        assert data(chunk)["usage"] is None
    counts = openai.usage([settlement_of()])
    assert data(made.usage(counts, None)) == HEAD | {"choices": [], "usage": counts}
    assert data(made.usage(counts, {"a": 1})) == HEAD | {"choices": [], "usage": counts, "cx": {"a": 1}}


def test_usage_counts_a_prompt_once_and_every_token_made() -> None:
    """As OpenAI does for several choices; what was thought is a part of what was made."""
    assert openai.usage([settlement_of()], 5) == {
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "total_tokens": 30,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    several = openai.usage([settlement_of()] * 3, 1000)
    assert several["prompt_tokens"] == 10
    assert several["completion_tokens"] == 60
    assert several["total_tokens"] == 70
    assert several["completion_tokens_details"] == {"reasoning_tokens": 60}


@pytest.mark.parametrize(
    ("piece", "count"),
    [
        (Piece(text="a", token_ids=(1, 2)), 0),
        (Piece(reasoning="a", token_ids=(1, 2)), 2),
        (Piece(reasoning="aaa", text="b", token_ids=(1, 2, 3, 4)), 3),
        (Piece(reasoning="aa", calls=(CallPart(number=0, name="f", arguments="x"),), token_ids=(1, 2)), 1),
        (Piece(token_ids=(1, 2)), 0),
    ],
)
def test_tokens_of_reasoning_are_counted(piece: Piece, count: int) -> None:
    """Where reasoning turns into an answer inside of one piece, by their letters."""
    assert openai.reasoning_units(piece) == count


@given(st.text(min_size=1))
def test_any_text_survives_the_byte_splice(text: str) -> None:
    """What a client decodes from a chunk is what the node said, and no line ending of any kind splits the event."""
    chunk = chunks().piece(said(text))
    assert data(chunk)["choices"][0]["delta"]["content"] == text
    assert len(chunk.decode().rstrip("\n").splitlines()) == 1


def test_a_model_name_cannot_break_out_of_its_chunk() -> None:
    """Quotes, newlines and line separators in the model's name stay inside the JSON string."""
    model = 'a"\n\n\u2028data: [DONE]'
    assert data(chunks(model=model).piece(said("x")))["model"] == model


def test_a_whole_answer_has_exactly_openais_shape() -> None:
    """The documented example's fields, and those the specification requires, and cx only when it is asked for."""
    ask = chat_ask(chat_body())
    cx = openai.cx_object(outcome_of())
    counts = openai.usage([settlement_of()])
    choices = [whole("Hi!").choice(ask, "chatcmpl-1", "stop"), whole("Ho!").choice(ask, "chatcmpl-1", "length", 1)]
    body = openai.completion(ask, "chatcmpl-1", 1_700_000_000, choices, counts, None)
    assert body == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "smollm2:135m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            },
            {
                "index": 1,
                "message": {"role": "assistant", "content": "Ho!", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            },
        ],
        "usage": counts,
    }
    assert openai.completion(ask, "chatcmpl-1", 1_700_000_000, choices, counts, cx) == body | {"cx": cx}
    assert openai.cx_object(outcome_of(), 1) == cx | {"attempts": 3}
    assert cx == {
        "node": "12D3KooWAbCdEfGh",
        "attempts": 2,
        "resumed": 0,
        "queue_ms": 3,
        "route": "load",
        "found": {"via": "dht", "lookup_ms": 41},
        "receipt": RECEIPT,
    }


def test_only_a_job_that_ended_by_itself_has_a_finish_reason() -> None:
    """A receipt that says cancelled, error, time-out or handed off never makes an answer look whole."""
    reasons = {finish: openai.finish_reason(settlement_of(finish), called=False) for finish in Finish}
    assert {finish for finish, reason in reasons.items() if reason} == {Finish.STOP, Finish.LENGTH}
    assert (reasons[Finish.STOP], reasons[Finish.LENGTH]) == ("stop", "length")
    assert openai.finish_reason(settlement_of(Finish.STOP), called=True) == "tool_calls"
    assert openai.finish_reason(settlement_of(Finish.STOP), called=True, older_calls=True) == "function_call"
    assert openai.finish_reason(settlement_of(Finish.LENGTH), called=True) == "length"
