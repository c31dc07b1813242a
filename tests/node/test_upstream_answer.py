"""What a server streams becomes pieces, and how much of it may be charged."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p.errors import JobFailed
from cxp2p.records import CallPart, ChatJob, FailureCode, Finish, Piece, Tool, ToolMode
from cxp2p_node.engines.upstream_answer import BYTES_SPARE, CALLS_MAX, IDS_PER_PIECE, MARKS_MAX, Answer, stand_in
from cxp2p_node.engines.upstream_events import NAME_CHARS_MAX, STAND_IN
from cxp2p_node.engines.upstream_faults import Kind, ServerFault
from upstreams import chunk, usage
from worlds import chat_job

TOOLS = (Tool(name="weather"),)


def job(**fields: Any) -> ChatJob:
    return ChatJob(model="m", messages=chat_job("hello").messages, **fields)


def say(answer: Answer, *events: Any) -> list[Piece]:
    """The pieces of these events, each JSON or text as it is."""
    data = (event if isinstance(event, str) else json.dumps(event) for event in events)
    return [piece for each in data for piece in answer.take(each.encode())]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def ids_of(pieces: list[Piece]) -> list[int]:
    return [token for piece in pieces for token in piece.token_ids]


def call(index: int | None, name: str | None = None, arguments: str = "", call_id: str | None = None) -> dict[str, Any]:
    told: dict[str, Any] = {"index": index, "function": {"name": name, "arguments": arguments}}
    return chunk(delta={"tool_calls": [told if call_id is None else {**told, "id": call_id}]})


# Counting.


def test_the_ids_that_vllm_tells_are_the_ones_of_the_pieces() -> None:
    """With `return_token_ids` each event has its own, and the first tells how long the prompt is."""
    answer = Answer(job(), 10)
    first = {**chunk("", delta={"role": "assistant"}), "prompt_token_ids": [5] * 21}
    pieces = say(answer, first, chunk("Hel", token_ids=[11]), chunk("lo", token_ids=[12, 13]))
    assert answer.prompt == (21, 0)
    assert ids_of(pieces) == [11, 12, 13]
    assert [piece.text for piece in pieces] == ["Hel", "lo"]


def test_counts_in_every_event_are_units_at_once() -> None:
    """`continuous_usage_stats` of vLLM and SGLang: a cancel in the middle owes what was made until then."""
    answer = Answer(job(), 10)
    pieces = say(answer, chunk("a b", usage=usage(9, 2, 4)), chunk(" c", usage=usage(9, 3, 4)))
    assert answer.prompt == (9, 4)
    assert [len(piece.token_ids) for piece in pieces] == [2, 1]
    assert ids_of(pieces) == [stand_in(0, "a b"), stand_in(1, "a b"), stand_in(2, " c")]


def test_the_timings_of_llama_server_count_as_well() -> None:
    answer = Answer(job(), 10)
    pieces = say(answer, chunk("a", timings={"cache_n": 24, "prompt_n": 9, "predicted_n": 1}))
    assert answer.prompt == (33, 24)
    assert len(ids_of(pieces)) == 1


def test_log_probabilities_carry_ids_at_llama_server() -> None:
    """Each has the id of its token there; elsewhere they say at least how many there are."""
    content = [{"id": 7, "token": "a", "bytes": [97], "logprob": -0.5, "top_logprobs": []}]
    there = say(Answer(job(logprobs=0), 10), chunk("a", logprobs={"content": content}))
    elsewhere = say(
        Answer(job(logprobs=0), 10), chunk("a", logprobs={"content": [{"token": "a", "logprob": -math.inf}]})
    )
    assert ids_of(there) == [7]
    assert ids_of(elsewhere) == [stand_in(0, "a")]
    assert elsewhere[0].logprobs[0].data == b"a"
    assert elsewhere[0].logprobs[0].logprob == -9999.0


def test_a_server_that_counts_only_at_the_end_is_set_right_there() -> None:
    """Until then seven of eight events are told, so that a cancel never owes more than was made."""
    answer = Answer(job(), 100)
    pieces = say(answer, *[chunk("x") for _ in range(16)])
    assert len(ids_of(pieces)) == 14
    pieces = say(answer, chunk(end="stop"), {"choices": [], "usage": usage(5, 16)}, "[DONE]")
    assert len(ids_of(pieces + answer.end())) == 2
    assert answer.over
    assert answer.usage(99).out_units == 16
    assert answer.usage(99).in_units == 5


def test_a_server_that_never_counts_gets_what_it_surely_made() -> None:
    answer = Answer(job(), 100)
    say(answer, *[chunk("word ") for _ in range(8)], chunk(end="stop"), "[DONE]")
    answer.end()
    assert not answer.counts
    assert answer.usage(3).out_units == 7
    assert answer.usage(3).in_units == 3


def test_tokens_that_were_not_delivered_are_not_charged() -> None:
    """A server that thinks in secret reports what nobody got: no token is shorter than a byte, but for a few marks."""
    answer = Answer(job(), 5000)
    pieces = say(answer, chunk("abc"), chunk(end="stop"), {"choices": [], "usage": usage(5, 4000)}, "[DONE]")
    assert len(ids_of(pieces + answer.end())) == 3 + MARKS_MAX


def test_no_more_is_told_than_was_ordered() -> None:
    answer = Answer(job(), 3)
    pieces = say(answer, chunk("a b c d e", usage=usage(1, 5)), chunk(end="length"), "[DONE]")
    assert len(ids_of(pieces + answer.end())) == 3
    assert answer.usage(0).finish is Finish.LENGTH


def test_a_server_that_does_not_know_where_to_end_is_ended() -> None:
    """What comes after the ordered tokens is not passed on, and nothing more is read."""
    answer = Answer(job(), 3)
    pieces = say(answer, *[chunk("a", usage=usage(1, made)) for made in range(1, 5)])
    assert not answer.over
    pieces += say(answer, chunk("more", usage=usage(1, 5)))
    assert answer.over
    assert answer.cut
    assert text_of(pieces) == "aaaa"
    assert len(ids_of(pieces + answer.end())) == 3
    assert answer.usage(0).finish is Finish.LENGTH


def test_the_end_mark_needs_no_text() -> None:
    answer = Answer(job(), 10)
    pieces = say(answer, chunk("a", usage=usage(1, 1)), chunk(end="stop", usage=usage(1, 2)), "[DONE]")
    assert [(piece.text, len(piece.token_ids)) for piece in pieces] == [("a", 1), ("", 1)]


def test_many_tokens_at_once_are_several_pieces() -> None:
    """A server that sends its whole answer in one event is within the limits of a piece."""
    count = 3 * IDS_PER_PIECE + 1
    pieces = say(Answer(job(), count), chunk("x" * count, usage=usage(1, count)))
    assert [len(piece.token_ids) for piece in pieces] == [IDS_PER_PIECE] * 3 + [1]
    assert text_of(pieces) == "x" * count


def test_stand_ins_are_above_every_vocabulary() -> None:
    """Whoever reads a receipt's ids can tell them from those of a model."""
    ids = {stand_in(number, "text") for number in range(1000)}
    assert len(ids) == 1000
    assert all(STAND_IN <= each < 2**32 for each in ids)
    assert stand_in(1, "a") == stand_in(1, "a") != stand_in(1, "b")


# Text, thoughts, calls.


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_are_told_apart_from_the_answer(field: str) -> None:
    """DeepSeek, SGLang and llama-server call them one thing, vLLM and Ollama another."""
    (piece,) = say(Answer(job(), 10), chunk(delta={field: "hmm"}))
    assert (piece.text, piece.reasoning) == ("", "hmm")


def test_a_tool_call_is_streamed_by_its_parts() -> None:
    answer = Answer(job(tools=TOOLS), 50)
    pieces = say(answer, call(0, "weather", '{"ci', "call_1"), call(0, None, 'ty": 1}'), chunk(end="tool_calls"))
    parts = [part for piece in pieces for part in piece.calls]
    assert parts == [CallPart(number=0, name="weather", arguments='{"ci'), CallPart(number=0, arguments='ty": 1}')]
    answer.end()
    assert answer.usage(0).finish is Finish.STOP


@pytest.mark.parametrize(
    "events",
    [
        [call(0, "a", "1", "x"), call(1, "b", "2", "y")],
        [call(0, "a", "1", "x"), call(0, "b", "2", "y")],  # every call has the index 0
        [call(None, "a", "1"), call(None, "b", "2")],  # and here none
        [call(3, "a", "1"), call(5, "b", "2")],
        [call(0, "a", "", "x"), call(0, "a", "1", "x"), call(1, "b", "2", "y")],  # the name comes again
    ],
)
def test_calls_are_numbered_anew(events: list[Any]) -> None:
    pieces = say(Answer(job(tools=TOOLS), 50), *events)
    found: dict[int, list[str]] = {}
    for part in (part for piece in pieces for part in piece.calls):
        found.setdefault(part.number, []).append((part.name or "") + part.arguments)
    assert {number: "".join(texts) for number, texts in found.items()} == {0: "a1", 1: "b2"}


def test_arguments_may_come_as_an_object() -> None:
    told = {"index": 0, "function": {"name": "weather", "arguments": {"city": "Köln"}}}
    (piece,) = say(Answer(job(tools=TOOLS), 50), chunk(delta={"tool_calls": [told]}))
    assert json.loads(piece.calls[0].arguments) == {"city": "Köln"}


@pytest.mark.parametrize("mode", [ToolMode.REQUIRED, ToolMode.NAMED])
def test_a_server_that_knows_no_must_is_found_out_before_anything_is_passed_on(mode: ToolMode) -> None:
    """llama-server drops tool_choice in silence when the model's template has no tools: that is no answer."""
    answer = Answer(job(tools=TOOLS, tool_mode=mode, tool_name="weather"), 50)
    pieces = say(answer, *[chunk("It is sunny. ") for _ in range(9)], chunk(end="stop"), "[DONE]")
    assert text_of(pieces) == ""
    with pytest.raises(JobFailed, match="tool_choice") as failed:
        answer.end()
    assert failed.value.code is FailureCode.REQUEST_UNSUPPORTED


def test_another_call_than_the_one_that_must_be_is_not_passed_on() -> None:
    answer = Answer(job(tools=TOOLS, tool_mode=ToolMode.NAMED, tool_name="weather"), 50)
    with pytest.raises(JobFailed, match="tool_choice"):
        say(answer, call(0, "other", "{}"))


def test_words_before_the_call_that_must_be_come_with_it() -> None:
    """A model may say what it will do, then do it."""
    answer = Answer(job(tools=TOOLS, tool_mode=ToolMode.REQUIRED), 50)
    pieces = say(answer, chunk("I will "), chunk("look. "), call(0, "weather", "{}"), chunk(" So."), chunk(end="stop"))
    assert [(piece.text, len(piece.calls)) for piece in pieces if piece.text] == [("I will look. ", 1), (" So.", 0)]


def test_words_that_were_cut_off_before_the_call_are_passed_on() -> None:
    answer = Answer(job(tools=TOOLS, tool_mode=ToolMode.REQUIRED), 2)
    pieces = say(answer, chunk("I will "), chunk("look", usage=usage(1, 2)), chunk(end="length"), "[DONE]")
    pieces += answer.end()
    assert text_of(pieces) == "I will look"
    assert answer.usage(0).finish is Finish.LENGTH
    assert len(ids_of(pieces)) == 2


def test_words_that_wait_for_a_call_are_bounded() -> None:
    answer = Answer(job(tools=TOOLS, tool_mode=ToolMode.REQUIRED), 2)
    with pytest.raises(ServerFault, match="too long for 2 tokens"):
        say(answer, chunk("x" * (BYTES_SPARE + 300)))


def test_log_probabilities_that_do_not_come_fail_the_job_before_its_text() -> None:
    with pytest.raises(JobFailed, match="log probabilities") as failed:
        say(Answer(job(logprobs=2), 10), chunk("a"))
    assert failed.value.code is FailureCode.REQUEST_UNSUPPORTED


def test_halves_of_characters_do_not_get_through() -> None:
    """JSON can hold lone surrogates, a piece cannot."""
    (piece,) = say(Answer(job(), 10), '{"choices": [{"delta": {"content": "a\\ud83d"}}]}')
    assert piece.text == "a\ufffd"


# Ends.


def test_a_stream_that_did_not_finish_never_looks_finished() -> None:
    answer = Answer(job(), 10)
    say(answer, chunk("a"), "[DONE]")
    with pytest.raises(ServerFault, match="without a reason") as fault:
        answer.end()
    assert fault.value.kind is Kind.GONE


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_server_that_gave_up_did_not_finish(reason: str) -> None:
    with pytest.raises(ServerFault, match=reason):
        say(Answer(job(), 10), chunk("a"), chunk(end=reason))


def test_a_filtered_answer_is_no_whole_one() -> None:
    with pytest.raises(JobFailed, match="filter"):
        say(Answer(job(), 10), chunk("a"), chunk(end="content_filter"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "the engine died", "code": 500}, Kind.BROKEN),
        ("the engine died", Kind.BROKEN),
        ({"message": "maximum context length is 10 tokens", "code": 400}, Kind.CONTEXT),
        ({"message": "no such field", "code": 400}, Kind.REQUEST),
        ({"message": "busy", "code": 503}, Kind.BUSY),
    ],
)
def test_an_error_in_the_stream_is_the_servers_own(error: object, kind: Kind) -> None:
    with pytest.raises(ServerFault) as fault:
        say(Answer(job(), 10), chunk("a"), {"error": error})
    assert fault.value.kind is kind


@pytest.mark.parametrize(
    "event",
    [
        "no json",
        "[]",
        "[" * 100_000,
        '{"choices": 1}',
        '{"choices": [1]}',
        {"choices": [{"delta": [1]}]},
        chunk(delta={"content": 5}),
        chunk(delta={"tool_calls": {}}),
        chunk(delta={"tool_calls": [1]}),
        chunk(delta={"tool_calls": [{"function": 1}]}),
        call(0, None, "{}"),
        call(0, "n" * (NAME_CHARS_MAX + 1)),
        chunk("a", token_ids=["1"]),
        chunk("a", token_ids=[-1]),
        chunk("a", token_ids=[STAND_IN]),
        chunk("a", logprobs={"content": [1]}),
        chunk("a", logprobs={"content": [{"logprob": "x"}]}),
        '{"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [{"logprob": NaN}]}}]}',
    ],
)
def test_what_nobody_understands_is_the_servers_fault(event: Any) -> None:
    with pytest.raises(ServerFault) as fault:
        say(Answer(job(), 10), event)
    assert fault.value.kind is Kind.BROKEN


def test_more_calls_than_an_answer_may_have_end_it() -> None:
    answer = Answer(job(tools=TOOLS), 5000)
    say(answer, *[call(number, "a") for number in range(CALLS_MAX)])
    with pytest.raises(ServerFault, match="tool calls"):
        say(answer, call(CALLS_MAX, "a"))


def test_more_text_than_the_ordered_tokens_can_be_ends_the_answer() -> None:
    """An asker takes so many bytes for each token and no more."""
    answer = Answer(job(), 2)
    with pytest.raises(ServerFault, match="too much for 2 tokens"):
        say(answer, chunk("x" * (BYTES_SPARE + 300)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    "choices delta content reasoning tool_calls usage timings index function name error arguments finish_reason "
    "token_ids logprobs prompt_tokens completion_tokens logprob id".split()
)
STRANGE = st.recursive(
    JSON,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(STRANGE, max_size=5))
def test_strange_events_never_do_worse_than_fail_the_job(events: list[Any]) -> None:
    answer = Answer(job(tools=TOOLS), 20)
    pieces: list[Piece] = []
    try:
        pieces += say(answer, *events)
        pieces += answer.end()
    except (ServerFault, JobFailed):
        pass
    assert len(ids_of(pieces)) <= 20


@given(
    st.integers(1, 30),
    st.lists(st.tuples(st.text(max_size=4), st.integers(0, 40), st.integers(0, 3)), max_size=20),
)
def test_units_are_never_more_than_ordered_made_or_delivered(max_out: int, told: list[tuple[str, int, int]]) -> None:
    """Whatever mixture of counts and ids a server tells."""
    answer = Answer(job(), max_out)
    pieces: list[Piece] = []
    reported = ids = events = delivered = 0
    try:
        for text, made, count in told:
            more: dict[str, Any] = {"usage": usage(1, made)} if made else {}
            pieces += say(answer, chunk(text, token_ids=list(range(count)), **more))
            reported, ids, events = max(reported, made), ids + count, events + 1
            delivered += len(text.encode(errors="replace"))
        pieces += say(answer, chunk(end="stop"))
        pieces += answer.end()
    except ServerFault:
        pass
    units = len(ids_of(pieces))
    assert units <= max_out
    assert units <= reported + ids + events
    assert units <= delivered + MARKS_MAX
