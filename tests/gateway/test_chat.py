"""POST /chat/completions over a door in memory: whole answers, streams, deadlines, and clients that leave."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cxp2p.errors import InsufficientCredit, JobFailed, JobRefused, LocalProtocolError, PeerUnreachable
from cxp2p.records import FailureCode, Finish, RefusalCode
from cxp2p_gateway import chat, choices, waiting
from cxp2p_gateway.asking import Overloaded
from cxp2p_gateway.waiting import Patience
from doors import CHAT, NODE, RECEIPT, Answer, MemoryDoor, ask, chat_body, fails, front, hangs, says
from test_faults import NO_PROVISIONS

ALIAS = "/v1/chat/completions"
CX = {
    "node": NODE[:16],
    "attempts": 2,
    "resumed": 0,
    "queue_ms": 3,
    "route": "load",
    "found": {"via": "dht", "lookup_ms": 41},
    "receipt": RECEIPT,
}


async def post(door: MemoryDoor, path: str = CHAT, patience: Patience | None = None, **options: Any) -> Answer:
    body = options.pop("body", None) or chat_body(**options.pop("changes", {}))
    return await ask(front(door, patience), "POST", path, body=body, **options)


async def stream(door: MemoryDoor, path: str = CHAT, **options: Any) -> Answer:
    changes = {"stream": True, **options.pop("changes", {})}
    return await post(door, path, changes=changes, **options)


async def test_a_whole_answer(autojump_clock: MockClock) -> None:
    """The guide's shape; the id stands in a header too, and the receipt is kept under it."""
    door = MemoryDoor()
    answer = await post(door)
    body = answer.json()
    assert (answer.status, answer.complete) == (200, True)
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert body["id"] == answer.headers["x-cx-generation-id"] == door.runs[0].generation
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["created"] == 1_700_000_000
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello there", "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == 30
    assert "cx" not in body
    kept = await ask(front(door), "GET", f"/v1/receipts/{body['id']}")
    assert kept.json()["id"] == body["id"]


async def test_a_stream(autojump_clock: MockClock) -> None:
    """Role first, text as it comes, one finish chunk, [DONE], and nothing after it."""
    answer = await stream(MemoryDoor(work=says("Hel", "lo", pause_s=1)))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    *chunks, done = answer.events()
    assert done == "[DONE]"
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert {chunk["id"] for chunk in chunks} == {answer.headers["x-cx-generation-id"]}
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert all("usage" not in chunk and "cx" not in chunk for chunk in chunks)
    assert [round(at - answer.parts[0][0]) for at, _ in answer.parts] == [0, 1, 1]


async def test_what_waits_together_is_sent_together(autojump_clock: MockClock) -> None:
    """A client that reads slowly gets fewer, larger writes; and the node waits for it, piece by piece."""
    door = MemoryDoor(work=says(*"abcdefgh" * 100))
    answer = await stream(door, read_pause_s=1)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in answer.events()[:-1])
    assert text == "abcdefgh" * 100
    assert len(answer.parts) <= 800 / chat.PIECES_WAITING_MAX + 3


async def test_usage_comes_in_a_chunk_of_its_own_if_it_is_asked_for(autojump_clock: MockClock) -> None:
    """Null in all others; choices are empty in that one."""
    answer = await stream(MemoryDoor(), changes={"stream_options": {"include_usage": True}})
    *chunks, last, _ = answer.events()
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 20


@pytest.mark.parametrize(("header", "shown"), [("enabled", True), ("Enabled", True), ("true", False), ("", False)])
async def test_how_it_came_about_is_told_to_who_asks(header: str, shown: bool, autojump_clock: MockClock) -> None:
    """`X-Cx-Metadata: enabled` adds one object: to the answer, or to a stream's last chunk."""
    headers = {"X-Cx-Metadata": header}
    whole = await post(MemoryDoor(), headers=headers)
    assert whole.json().get("cx") == (CX if shown else None)
    for changes in ({}, {"stream_options": {"include_usage": True}}):
        *chunks, last, _ = (await stream(MemoryDoor(), headers=headers, changes=changes)).events()
        assert last.get("cx") == (CX if shown else None)
        assert all("cx" not in chunk for chunk in chunks)


@pytest.mark.parametrize("finish", [Finish.STOP, Finish.LENGTH])
async def test_an_empty_answer_is_still_a_whole_one(finish: Finish, autojump_clock: MockClock) -> None:
    door = MemoryDoor(work=says(finish=finish))
    assert (await post(door)).json()["choices"][0]["message"]["content"] == ""
    first, last, done = (await stream(door)).events()
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0]["finish_reason"] == finish.value
    assert done == "[DONE]"


FAILURES = [
    (JobRefused(RefusalCode.BUSY, "", 7_000), 503, "overloaded", "No capacity for model 'smollm2:135m' right now", "7"),
    (Overloaded(3), 503, "overloaded", "No capacity for model 'smollm2:135m' right now", "3"),
    (InsufficientCredit("x"), 429, "insufficient_quota", "Spend limit of this API key reached", None),
    (PeerUnreachable("x"), 503, "upstream_failed", "All providers failed for this request", "1"),
    (
        JobFailed(FailureCode.CONTEXT_LENGTH, "", 10, 11),
        400,
        "context_length_exceeded",
        "This model's maximum context length is 10 tokens; your request has 11",
        None,
    ),
    (JobFailed(FailureCode.TIMEOUT, ""), 503, "timeout", "The answer took too long", None),
    (LocalProtocolError("x"), 500, "internal_error", "Internal server error (request {})", None),
    (KeyError("secret"), 500, "internal_error", "Internal server error (request {})", None),
]


@pytest.mark.parametrize(("error", "status", "code", "text", "retry_after"), FAILURES)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_failure_before_the_first_piece_is_a_status(
    error: Exception,
    status: int,
    code: str,
    text: str,
    retry_after: str | None,
    streamed: bool,
    autojump_clock: MockClock,
) -> None:
    """In both renderings, for plain requests and streams alike."""
    for path in (CHAT, ALIAS):
        answer = await post(MemoryDoor(work=fails(error, after_s=5)), path, changes={"stream": streamed})
        message = text.format(answer.headers["x-request-id"])
        assert (answer.status, answer.headers["x-error-code"]) == (status, code)
        assert answer.headers.get("retry-after") == retry_after
        shown = answer.json()["error"]
        assert (shown if path == CHAT else shown["message"]) == message
        assert b"secret" not in answer.body


@pytest.mark.parametrize(("model", "code"), [("asleep:1b", "no_healthy_providers"), ("nix", "model_not_found")])
async def test_a_model_without_a_node(model: str, code: str, autojump_clock: MockClock) -> None:
    """One that is known may come back; one that never was is not worth a retry, and 404 on the alias."""
    documented, alias = [await post(MemoryDoor(), path, changes={"model": model}) for path in (CHAT, ALIAS)]
    assert (documented.status, documented.json()) == (503, {"error": NO_PROVISIONS})
    assert documented.headers["x-error-code"] == alias.headers["x-error-code"] == code
    if code == "no_healthy_providers":
        assert (alias.status, alias.json()["error"]["message"]) == (503, NO_PROVISIONS)
        assert documented.headers["retry-after"] == "5"
    else:
        assert (alias.status, alias.json()["error"]["message"]) == (404, "The model 'nix' does not exist")
        assert documented.headers["x-should-retry"] == alias.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (fails(JobFailed(FailureCode.ENGINE_DIED, ""), "a", "b"), "upstream_disconnected"),
        (fails(JobFailed(FailureCode.TIMEOUT, ""), "a", "b"), "timeout"),
        (fails(KeyError("secret"), "a", "b", after_s=1), "internal_error"),
        (says("a", "b", finish=Finish.CANCELLED), "upstream_disconnected"),
    ],
)
async def test_a_stream_that_breaks_never_looks_finished(work: Any, code: str, autojump_clock: MockClock) -> None:
    """An error event, always an object, the end of the body, and no [DONE]."""
    answer = await stream(MemoryDoor(work=work))
    assert (answer.status, answer.complete) == (200, True)
    *chunks, last = answer.events()
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "a", "b"]
    assert set(last) == {"error", "id"}
    assert last["id"] == answer.headers["x-cx-generation-id"]
    assert last["error"].keys() == {"message", "type", "param", "code"}
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", code)
    assert b"secret" not in answer.body


async def test_a_plain_answer_that_breaks_is_an_error(autojump_clock: MockClock) -> None:
    """Nothing of it was sent yet: a status, not half an answer."""
    answer = await post(MemoryDoor(work=fails(JobFailed(FailureCode.ENGINE_DIED, ""), "a", "b")))
    assert (answer.status, answer.headers["x-error-code"]) == (503, "upstream_failed")
    answer = await post(MemoryDoor(work=says("a", finish=Finish.CANCELLED)))
    assert (answer.status, answer.headers["x-error-code"]) == (503, "upstream_failed")


async def test_a_silent_stream_is_kept_alive(autojump_clock: MockClock) -> None:
    """The status line is held back for the first piece; then comments come, between pieces too."""
    patience = Patience(hold_s=10, keep_alive_s=14)
    answer = await stream(MemoryDoor(work=says("a", "b", pause_s=40)), patience=patience)
    comments = [round(at - answer.parts[0][0]) for at, data in answer.parts if data == b": keep-alive\n\n"]
    assert comments == [0, 14, 28, 44, 58]
    assert answer.events()[-1] == "[DONE]"
    assert (await stream(MemoryDoor(work=fails(PeerUnreachable("x"), after_s=14)))).status == 503
    late = await stream(MemoryDoor(work=fails(PeerUnreachable("x"), after_s=16)))
    assert late.status == 200
    assert late.events()[-1]["error"]["code"] == "upstream_failed"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("header", "wait_s"), [("7", 7), ("0.5", 0.5), (" 9 ", 9), ("1e-9", 0), ("9999", 600)])
async def test_what_the_client_waits_is_the_deadline(
    streamed: bool, header: str, wait_s: float, autojump_clock: MockClock
) -> None:
    """`X-Stainless-Read-Timeout`, at most the gateway's own 600 s, for an answer that does not begin."""
    door = MemoryDoor(work=hangs)
    began = trio.current_time()
    headers = {"X-Stainless-Read-Timeout": header}
    answer = await post(door, changes={"stream": streamed}, headers=headers)
    assert trio.current_time() - began == pytest.approx(wait_s, abs=0.01)
    assert door.runs[0].cancelled
    if streamed and wait_s > 15:
        assert answer.events()[-1]["error"]["code"] == "timeout"
    else:
        assert (answer.status, answer.headers["x-error-code"]) == (503, "timeout")


@pytest.mark.parametrize("header", ["", "x", "nan", "-1", "0", "inf", "1, 2"])
async def test_a_senseless_read_timeout_is_none(header: str, autojump_clock: MockClock) -> None:
    answer = await post(MemoryDoor(work=says("a", pause_s=500)), headers={"X-Stainless-Read-Timeout": header})
    assert answer.status == 200


async def test_a_stream_that_flows_outlives_the_read_timeout(autojump_clock: MockClock) -> None:
    """An SDK waits that long for bytes, not for the end; a plain answer comes at its end, or never."""
    door = MemoryDoor(work=says(*"abcdef", pause_s=5))
    headers = {"X-Stainless-Read-Timeout": "12"}
    assert (await stream(door, headers=headers)).events()[-1] == "[DONE]"
    assert (await post(door, headers=headers)).status == 503


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("leave_after_s", [0.5, 14, 16, 31])
async def test_a_client_that_leaves_cancels_its_job(
    streamed: bool, leave_after_s: float, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """At once: before the first piece, before the status line, and after both. The log says 499."""
    caplog.set_level("INFO", "cxp2p.gateway.access")
    for work in (hangs, says("a", "b", "c", pause_s=15.5)):
        door = MemoryDoor(work=work)
        began = trio.current_time()
        answer = await post(door, changes={"stream": streamed}, leave_after_s=leave_after_s)
        (run,) = door.runs
        assert run.cancelled
        assert run.ended_at == pytest.approx(began + leave_after_s)
        assert not answer.complete
        assert '"status":499' in caplog.messages[-1]


async def test_a_client_that_leaves_while_it_sends_begins_no_job(autojump_clock: MockClock) -> None:
    door = MemoryDoor()
    answer = await post(door, parts=[(0, b'{"model"'), (10, b"")], leave_after_s=5)
    assert (answer.status, door.runs) == (0, [])


async def test_more_jobs_than_the_front_holds_are_told_to_come_back(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """And there is room again when one has ended, however it ended."""
    monkeypatch.setattr(waiting, "JOBS_MAX", 2)
    app = front(MemoryDoor(work=hangs))
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(lambda: ask(app, "POST", CHAT, body=chat_body(), leave_after_s=10))
        await trio.sleep(1)
        refused = await ask(app, "POST", CHAT, body=chat_body())
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
    again = await ask(app, "POST", CHAT, body=chat_body(), headers={"X-Stainless-Read-Timeout": "1"})
    assert again.headers["x-error-code"] == "timeout"


async def test_an_answer_larger_than_the_gateway_holds_is_refused(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Plain ones are gathered up to a limit; streams have none."""
    monkeypatch.setattr(choices, "ANSWER_BYTES_MAX", 10)
    assert (await post(MemoryDoor(work=says("12345", "67890")))).status == 200
    assert (await post(MemoryDoor(work=says("12345", "67890", "1")))).status == 503
    assert (await stream(MemoryDoor(work=says("12345", "67890", "1")))).events()[-1] == "[DONE]"
