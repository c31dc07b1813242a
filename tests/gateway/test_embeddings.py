"""POST /embeddings over a door in memory: answers, errors, deadlines, limits, and clients that leave."""

from __future__ import annotations

import base64
import logging
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Embeddings, Took
from cxp2p.embed import Input
from cxp2p.errors import (
    AnswerRefused,
    CxError,
    InsufficientCredit,
    JobFailed,
    JobRefused,
    LocalProtocolError,
    PeerUnreachable,
)
from cxp2p.records import FailureCode, RefusalCode
from cxp2p_gateway import reading, waiting
from cxp2p_gateway.asking import Caller
from cxp2p_gateway.http import make_app
from cxp2p_gateway.long_answers import WRITE_BYTES
from cxp2p_gateway.openai import EmbedRules
from cxp2p_gateway.waiting import Patience
from doors import KEY, NODE, RECEIPT, Answer, MemoryDoor, ask, chat_body, front, hangs, outcome_of
from embedders import vector_of
from test_faults import NO_PROVISIONS

PATH = "/api/v1/embeddings"
ALIAS = "/v1/embeddings"
MODEL = "smollm2:135m"  # the one that MemoryDoor knows
CX = {
    "node": NODE[:16],
    "attempts": 2,
    "resumed": 0,
    "queue_ms": 3,
    "route": "load",
    "found": {"via": "dht", "lookup_ms": 41},
    "receipt": RECEIPT,
}


@dataclass
class Call:
    """One call of `Door.embed`."""

    caller: Caller
    generation: str
    inputs: Sequence[Input]
    truncate: bool
    deadline_s: float
    cancelled: bool = False


@dataclass
class VectorDoor(MemoryDoor):
    """A door behind which vectors are made: of `dimensions`, in `jobs` jobs, after `after_s`, or `error`."""

    dimensions: int = 8
    jobs: int = 1
    after_s: float = 0.0
    error: Exception | None = None
    calls: list[Call] = field(default_factory=list)

    async def embed(
        self,
        caller: Caller,
        generation: str,
        model: str,
        inputs: Sequence[Input],
        *,
        truncate: bool,
        took: Took,
        deadline_s: float,
    ) -> Embeddings:
        call = Call(caller, generation, inputs, truncate, deadline_s)
        self.calls.append(call)
        try:
            if model != MODEL:
                return await super().embed(
                    caller, generation, model, inputs, truncate=truncate, took=took, deadline_s=deadline_s
                )
            await trio.sleep(self.after_s)
        except trio.Cancelled:
            call.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        for _ in inputs:
            took(4 * self.dimensions)
        outcomes = (outcome_of(),) * self.jobs
        self.kept[generation] = [(caller.account, outcome.settlement) for outcome in outcomes]
        vectors = tuple(vector_of(each, self.dimensions) for each in inputs)
        return Embeddings(vectors=vectors, in_units=10 * self.jobs, outcomes=outcomes)


def body(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": "Your text to embed", **changes}


async def post(door: VectorDoor, path: str = PATH, patience: Patience | None = None, **options: Any) -> Answer:
    changes = options.pop("changes", {})
    return await ask(front(door, patience), "POST", path, body=options.pop("body", None) or body(**changes), **options)


# Answers.


async def test_the_guides_answer(autojump_clock: MockClock) -> None:
    """To the letter, with an id in a header under which the receipt is kept."""
    door = VectorDoor()
    app = front(door)
    for path in (PATH, ALIAS):
        answer = await ask(app, "POST", path, body=body())
        assert answer.status == 200
        assert answer.json() == {
            "object": "list",
            "data": [{"object": "embedding", "embedding": answer.json()["data"][0]["embedding"], "index": 0}],
            "model": MODEL,
            "usage": {"prompt_tokens": 10, "total_tokens": 10},
        }
        assert array("f", answer.json()["data"][0]["embedding"]) == vector_of("Your text to embed")
        assert answer.headers["content-type"] == "application/json"
        assert int(answer.headers["content-length"]) == len(answer.body)
        made = answer.headers["x-cx-generation-id"]
        assert made == door.calls[-1].generation
        assert made.startswith("embd-")
        assert (await ask(app, "GET", f"/v1/receipts/{made}")).json()["id"] == made
    assert door.calls[0].truncate


async def test_many_texts_in_order_as_base64(autojump_clock: MockClock) -> None:
    """What both official SDKs ask for unless they are told otherwise."""
    texts = [f"text {number}" for number in range(2048)]
    answer = await post(VectorDoor(), changes={"input": texts, "encoding_format": "base64", "truncate": False})
    data = answer.json()["data"]

    assert [each["index"] for each in data] == list(range(2048))
    decoded = [array("f", struct.unpack("<8f", base64.b64decode(each["embedding"]))) for each in data]
    assert decoded == [vector_of(text) for text in texts]


async def test_a_long_answer_is_sent_in_parts(autojump_clock: MockClock) -> None:
    """Nobody holds its text as a whole; others get their turn while it is written."""
    door = VectorDoor(dimensions=1024)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        answer = await post(door, changes={"input": ["x", "y"] * 100})
        nursery.cancel_scope.cancel()
    assert answer.complete
    assert "content-length" not in answer.headers
    assert [len(each["embedding"]) for each in answer.json()["data"]] == [1024] * 200
    assert turns > 200
    sizes = [len(part) for _, part in answer.parts]
    assert len(sizes) > 4
    assert max(sizes) < WRITE_BYTES + 32 * 1024


@pytest.mark.parametrize("jobs", [1, 3])
async def test_how_it_came_about_is_told_to_who_asks(jobs: int, autojump_clock: MockClock) -> None:
    """One object, or a list if it took several jobs, as with several choices of a chat."""
    answer = await post(VectorDoor(jobs=jobs), headers={"X-Cx-Metadata": "enabled"})

    assert answer.json()["cx"] == (CX if jobs == 1 else [CX] * 3)
    assert answer.json()["usage"] == {"prompt_tokens": 10 * jobs, "total_tokens": 10 * jobs}
    assert list(answer.json()) == ["object", "data", "model", "usage", "cx"]


async def test_all_receipts_of_a_request_are_kept(autojump_clock: MockClock) -> None:
    """For its own account only."""
    door = VectorDoor(jobs=3)
    app = front(door)
    made = (await ask(app, "POST", PATH, body=body())).headers["x-cx-generation-id"]

    kept = (await ask(app, "GET", f"/v1/receipts/{made}")).json()
    assert len(kept["data"]) == 3
    other = await ask(app, "GET", f"/v1/receipts/{made}", key="sk-cx-0002")
    assert other.status == 404


async def test_the_access_log_says_how_much_it_was(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Numbers, nodes and the model; no text and no vector."""
    caplog.set_level(logging.INFO, "cxp2p.gateway.access")
    await post(VectorDoor(jobs=2), changes={"input": ["secret", "words"]})
    (line,) = caplog.messages

    for said in (
        '"inputs":2',
        '"in":20',
        '"attempts":4',
        f'"node":"{NODE}"',
        f'"model":"{MODEL}"',
        '"generation":"embd-',
    ):
        assert said in line
    assert "secret" not in line


@pytest.mark.parametrize(("dimensions", "status"), [(4, 200), (8, 200), (9, 400)])
async def test_vectors_can_be_shortened(dimensions: int, status: int, autojump_clock: MockClock) -> None:
    """Of models where that makes sense; what the model does not have is an error."""
    door = VectorDoor()
    app = make_app(door, embed_rules=EmbedRules(matryoshka=(MODEL,)))
    answer = await ask(app, "POST", PATH, body=body(dimensions=dimensions))

    assert answer.status == status
    if status == 200:
        assert len(answer.json()["data"][0]["embedding"]) == dimensions
    else:
        assert answer.json() == {"error": "Invalid value for 'dimensions': the model's vectors have 8 numbers"}
    refused = await ask(front(door), "POST", ALIAS, body=body(dimensions=4))
    assert refused.json()["error"]["code"] == "unsupported_parameter"
    assert refused.json()["error"]["param"] == "dimensions"


# Errors.

FAILURES = [
    (JobRefused(RefusalCode.BUSY, "", 7_000), 503, "overloaded", f"No capacity for model '{MODEL}' right now", "7"),
    (InsufficientCredit("x"), 429, "insufficient_quota", "Spend limit of this API key reached", None),
    (PeerUnreachable("x"), 503, "upstream_failed", "All providers failed for this request", "1"),
    (AnswerRefused("x"), 503, "upstream_failed", "All providers failed for this request", "1"),
    (
        JobFailed(FailureCode.ENGINE_DIED, ""),
        503,
        "upstream_failed",
        "All providers failed for this request",
        "1",
    ),
    (
        JobFailed(FailureCode.CONTEXT_LENGTH, "", 512, 600),
        400,
        "context_length_exceeded",
        "This model's maximum context length is 512 tokens; your request has 600",
        None,
    ),
    (JobFailed(FailureCode.TIMEOUT, ""), 503, "timeout", "The answer took too long", None),
    (LocalProtocolError("x"), 500, "internal_error", "Internal server error (request {})", None),
    (KeyError("secret"), 500, "internal_error", "Internal server error (request {})", None),
]


@pytest.mark.parametrize(("error", "status", "code", "text", "retry_after"), FAILURES)
async def test_a_failure_is_a_status(
    error: Exception, status: int, code: str, text: str, retry_after: str | None, autojump_clock: MockClock
) -> None:
    """In both renderings, with the parameter."""
    documented, alias = [await post(VectorDoor(error=error, after_s=5), path) for path in (PATH, ALIAS)]
    for answer in (documented, alias):
        assert (answer.status, answer.headers["x-error-code"]) == (status, code)
        assert answer.headers.get("retry-after") == retry_after
        assert b"secret" not in answer.body
    assert documented.json() == {"error": text.format(documented.headers["x-request-id"])}
    assert alias.json()["error"]["message"] == text.format(alias.headers["x-request-id"])
    if code == "context_length_exceeded":
        assert alias.json()["error"]["param"] == "input"
        assert alias.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("missing", ["model", "input"])
async def test_the_guides_error(missing: str, autojump_clock: MockClock) -> None:
    """To the letter."""
    sent = {name: value for name, value in body().items() if name != missing}
    documented, alias = [await post(VectorDoor(), path, body=sent) for path in (PATH, ALIAS)]

    assert (documented.status, documented.json()) == (400, {"error": "Missing required parameter: model or input"})
    assert alias.json()["error"] == {
        "message": "Missing required parameter: model or input",
        "type": "invalid_request_error",
        "param": missing,
        "code": "missing_required_parameter",
    }


@pytest.mark.parametrize(("model", "status"), [("asleep:1b", 503), ("nix", 404)])
async def test_a_model_without_a_node(model: str, status: int, autojump_clock: MockClock) -> None:
    """As for chats: in the guide's words, and 404 on the alias for one that never was."""
    documented, alias = [await post(VectorDoor(), path, changes={"model": model}) for path in (PATH, ALIAS)]

    assert (documented.status, documented.json()) == (503, {"error": NO_PROVISIONS})
    assert alias.status == status


async def test_a_body_that_is_too_large(autojump_clock: MockClock) -> None:
    """One text of 16 MiB is one byte too many with what is round it; a smaller one is taken."""
    door = VectorDoor()
    answer = await post(door, changes={"input": "x" * 16 * 1024 * 1024})
    assert (answer.status, answer.headers["x-error-code"]) == (413, "payload_too_large")
    assert (await post(door, changes={"input": "x" * (16 * 1024 * 1024 - 100)})).status == 200
    assert len(door.calls) == 1


# Time, room, and clients that leave.


async def test_no_answer_comes_after_its_deadline(autojump_clock: MockClock) -> None:
    """The gateway's own, or what the client's SDK says it waits."""
    for headers, deadline_s in [({}, 30.0), ({"X-Stainless-Read-Timeout": "10"}, 10.0)]:
        door = VectorDoor(after_s=1000)
        started = trio.current_time()
        answer = await post(door, patience=Patience(deadline_s=30), headers=headers)
        assert (answer.status, answer.headers["x-error-code"]) == (503, "timeout")
        assert trio.current_time() - started == pytest.approx(deadline_s)
        assert door.calls[0].deadline_s == deadline_s
        assert door.calls[0].cancelled


async def test_a_client_that_leaves_ends_its_jobs(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """At once; nothing is sent to it, and the log says 499."""
    caplog.set_level(logging.INFO, "cxp2p.gateway.access")
    door = VectorDoor(after_s=1000)
    started = trio.current_time()
    answer = await post(door, leave_after_s=3)

    assert answer.status == 0
    assert door.calls[0].cancelled
    assert trio.current_time() - started < 4
    assert '"status":499' in caplog.messages[-1]


async def test_a_client_that_leaves_in_the_middle_of_its_answer(autojump_clock: MockClock) -> None:
    """What it has never looks whole."""
    answer = await post(VectorDoor(dimensions=1024), changes={"input": ["x"] * 500}, read_pause_s=1, leave_after_s=3)

    assert answer.status == 200
    assert answer.parts
    assert not answer.complete


async def test_vectors_count_as_what_the_gateway_holds(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Bodies and vectors of all requests share one budget; over it a client is told to come back."""
    monkeypatch.setattr(reading.BodyBudget.__init__, "__defaults__", (3000,))
    door = VectorDoor(dimensions=256)
    app = front(door)
    full = await ask(app, "POST", PATH, body=body(input=["a", "b", "c"]))
    assert (full.status, full.headers["x-error-code"]) == (503, "overloaded")
    assert full.headers["retry-after"] == "2"
    for _ in range(3):  # what it held was given back
        assert (await ask(app, "POST", PATH, body=body(input=["a", "b"]))).status == 200


async def test_requests_of_all_kinds_share_their_places(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """A place is free again when its request has ended, however it ended."""
    monkeypatch.setattr(waiting, "JOBS_MAX", 2)
    door = VectorDoor(after_s=1000, work=hangs)
    app = front(door)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ask(app, "POST", PATH, body=body(), leave_after_s=10))
        nursery.start_soon(lambda: ask(app, "POST", "/v1/chat/completions", body=chat_body(), leave_after_s=10))
        await trio.sleep(1)
        refused = await ask(app, "POST", PATH, body=body())
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
    door.after_s = 0
    assert (await ask(app, "POST", PATH, body=body())).status == 200


async def test_who_has_no_key_is_not_read(autojump_clock: MockClock) -> None:
    """The key comes first, then the body."""
    door = VectorDoor()
    for key in ("sk-cx-wrong", None):
        assert (await post(door, key=key)).status == 401
    assert (await post(door, headers={"Authorization": f"Bearer {KEY}", "X-User-Id": "someone"})).status == 401
    assert door.calls == []


async def test_an_error_of_its_own_is_an_answer_too(autojump_clock: MockClock) -> None:
    """Even one that nobody foresaw."""
    answer = await post(VectorDoor(error=CxError("new")))
    assert (answer.status, answer.headers["x-error-code"]) == (503, "upstream_failed")
