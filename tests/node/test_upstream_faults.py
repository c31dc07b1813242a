"""What the errors of the servers mean, and when one that failed is asked again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cxp2p.records import FailureCode
from cxp2p_node.engines.upstream_faults import RETRY_S_MAX, WORDS_CHARS_MAX, Kind, ServerFault, fault_of_status
from cxp2p_node.engines.upstream_health import LOOK_S, REST_S_MAX, STRIKES_MAX, Health, State
from cxp2p_node.engines.upstream_health import RETRY_S_MAX as LOOK_AGAIN_S_MAX

VLLM_LONG = (
    "This model's maximum context length is 4096 tokens. However, you requested 5100 tokens (1100 in the messages, "
    "4000 in the completion). Please reduce the length of the messages or completion."
)
SGLANG_LONG = "The input (9000 tokens) is longer than the model's context length (8192 tokens)."


@pytest.mark.parametrize(
    ("status", "error", "limit", "actual"),
    [
        (400, {"message": VLLM_LONG, "code": 400}, 4096, 1100),
        (400, {"message": "maximum context length is 10 tokens, but the prompt contains 12 input tokens"}, 10, 12),
        (400, {"message": "too long", "code": "context_length_exceeded"}, 0, 0),
        (
            400,
            {
                "message": "request (6031 tokens) exceeds the available context size (4096 tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 6031,
                "n_ctx": 4096,
            },
            4096,
            6031,
        ),
        (
            400,
            {"message": "The input (9000 tokens) is longer than the model's context length (8192 tokens)."},
            8192,
            9000,
        ),
        (400, {"message": "the input length exceeds the context length"}, 0, 0),
        (
            500,
            {
                "message": "input (600 tokens) is too large to process. increase the physical batch size "
                "(current batch size: 512)"
            },
            512,
            600,
        ),
    ],
)
def test_a_prompt_that_is_too_long_is_known_by_each_servers_words(
    status: int, error: dict[str, Any], limit: int, actual: int
) -> None:
    fault = fault_of_status(status, json.dumps({"error": error}).encode())
    assert (fault.kind, fault.limit, fault.actual) == (Kind.CONTEXT, limit, actual)
    assert fault.for_asker(2048).code is FailureCode.CONTEXT_LENGTH
    assert fault.for_asker(2048).limit == (limit or 2048)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"error": {"message": "bad schema"}}', Kind.REQUEST),
        (422, b'{"detail": [{"loc": ["body"], "msg": "field required"}]}', Kind.REQUEST),
        (400, b'{"object": "error", "message": "no such thing"}', Kind.REQUEST),
        (501, b'{"error": "not here"}', Kind.REQUEST),
        (401, b'{"error": {"message": "who are you"}}', Kind.SETUP),
        (403, b"", Kind.SETUP),
        (404, b'{"error": {"message": "The model `x` does not exist."}}', Kind.SETUP),
        (308, b"", Kind.SETUP),
        (429, b"slow down", Kind.BUSY),
        (503, b'{"error": {"message": "Loading model"}}', Kind.BUSY),
        (500, b"<html>oops</html>", Kind.BROKEN),
        (500, b'{"error": {"message": "the context window of the user interface"}}', Kind.BROKEN),
        (418, b"\xff\x00", Kind.BROKEN),
        (502, b"[" * 100_000, Kind.BROKEN),
    ],
)
def test_every_status_says_whose_fault_it_is(status: int, body: bytes, kind: Kind) -> None:
    assert fault_of_status(status, body).kind is kind


def test_an_asker_hears_the_servers_words_about_his_request_only() -> None:
    """Where the server is, and what is wrong with it, is the operator's to know."""
    told = fault_of_status(400, b'{"error": {"message": "bad\\nschema \\u001b[31m"}}').for_asker(1)
    assert told.reason == "the server of the model says: bad schema  [31m"
    for kind in (Kind.GONE, Kind.BUSY, Kind.SETUP, Kind.BROKEN):
        hidden = ServerFault(kind, "10.0.0.7 refused key sk-1").for_asker(1)
        assert hidden.code is FailureCode.ENGINE_DIED
        assert "10.0.0.7" not in hidden.reason


def test_words_are_short_and_without_the_key() -> None:
    fault = fault_of_status(400, json.dumps({"error": {"message": "key sk-secret " * 500}}).encode(), key="sk-secret")
    assert "sk-secret" not in fault.words
    assert len(fault.words) < WORDS_CHARS_MAX + 50


@pytest.mark.parametrize(
    ("told", "wait_s"), [("7", 7.0), ("100000", RETRY_S_MAX), ("", 1.0), ("Wed, 21 Oct 2026", 1.0), ("-5", 1.0)]
)
def test_a_busy_server_says_when_to_come_back(told: str, wait_s: float) -> None:
    assert fault_of_status(429, b"", told).retry_s == wait_s


# Health.


def well() -> Health:
    health = Health()
    health.seen(0)
    return health


def fault(kind: Kind, retry_s: float = 0.0) -> ServerFault:
    return ServerFault(kind, "words", retry_s=retry_s)


def test_a_server_is_well_when_it_was_seen() -> None:
    health = Health()
    states = [health.state]
    assert health.unseen(fault(Kind.GONE)) == 0.5
    states.append(health.state)
    assert health.seen(1) == LOOK_S
    assert [*states, health.state] == [State.UNSEEN, State.DOWN, State.WELL]


def test_looks_at_a_server_that_is_down_grow_rarer() -> None:
    health = Health()
    pauses = [health.unseen(fault(Kind.GONE)) for _ in range(100)]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == LOOK_AGAIN_S_MAX


def test_a_server_that_comes_up_is_looked_at_more_often() -> None:
    """From the moment on in which it answers that it loads its model."""
    health = Health()
    for _ in range(10):
        health.unseen(fault(Kind.GONE))
    pauses = [health.unseen(fault(Kind.BUSY)) for _ in range(3)]
    assert pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("kind", [Kind.CONTEXT, Kind.REQUEST])
def test_a_fault_of_the_request_says_nothing_of_the_server(kind: Kind) -> None:
    """A bad request of one user must not take the node from all others."""
    health = well()
    assert not any(health.failed(fault(kind), 0) for _ in range(10))
    assert health.state is State.WELL


def test_one_failure_inside_is_looked_into_and_several_in_a_row_are_a_rest() -> None:
    health = well()
    assert [health.failed(fault(Kind.BROKEN), 0) for _ in range(STRIKES_MAX - 1)] == [True] * (STRIKES_MAX - 1)
    states = [health.state]
    health.done()
    for _ in range(STRIKES_MAX):
        health.failed(fault(Kind.BROKEN), 0)
    assert health.seen(0.5) == 0.5
    states.append(health.state)
    assert health.seen(1.0) == LOOK_S
    assert [*states, health.state] == [State.WELL, State.DOWN, State.WELL]


def test_a_server_that_broke_off_is_back_as_soon_as_it_is_seen_but_not_again_and_again() -> None:
    health = well()
    health.failed(fault(Kind.GONE), 0)
    assert health.state is State.DOWN
    assert health.seen(0) == LOOK_S
    health.failed(fault(Kind.GONE), 0)
    assert health.seen(0) == 2.0
    for now in range(1000, 2000, 100):
        health.seen(now)
        health.failed(fault(Kind.GONE), now)
    assert health.seen(now) == REST_S_MAX


def test_a_busy_server_is_left_alone_for_as_long_as_it_says() -> None:
    health = well()
    health.failed(fault(Kind.BUSY, 7.0), 0)
    assert health.seen(0) == 7.0


def test_many_jobs_that_fail_together_are_one_failure() -> None:
    health = well()
    for _ in range(50):
        health.failed(fault(Kind.BUSY), 0)
    assert health.seen(0) == 1.0
