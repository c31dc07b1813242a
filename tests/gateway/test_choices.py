"""Several choices of one request: as many jobs at once, one answer, and one end for all."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Emit
from cxp2p.errors import InsufficientCredit, JobFailed, PeerUnreachable
from cxp2p.records import CallPart, ChatJob, FailureCode, Finish, Piece
from cxp2p_gateway import choices, waiting
from doors import CHAT, OTHER_KEY, Answer, MemoryDoor, ask, chat_body, front, hangs, piece, says

USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


def each(*works: Callable[[ChatJob, Emit], Awaitable[Finish]]) -> Callable[[ChatJob, Emit], Awaitable[Finish]]:
    """The first job is done by the first of them, and so on; each job is told from the others by its seed."""

    async def work(job: ChatJob, emit: Emit) -> Finish:
        assert job.sampling.seed is not None
        return await works[job.sampling.seed](job, emit)

    return work


def fails_after(error: Exception, *texts: str, pause_s: float = 0.0) -> Callable[[ChatJob, Emit], Awaitable[Finish]]:
    async def work(job: ChatJob, emit: Emit) -> Finish:
        for text in texts:
            await trio.sleep(pause_s)
            await emit(piece(text))
        await trio.sleep(pause_s)
        raise error

    return work


async def calls(job: ChatJob, emit: Emit) -> Finish:
    await emit(Piece(token_ids=(1,), calls=(CallPart(number=0, name="f"),)))
    await emit(Piece(token_ids=(1,), calls=(CallPart(number=0, arguments="{}"),)))
    return Finish.STOP


async def post(door: MemoryDoor, n: int, leave_after_s: float | None = None, **changes: Any) -> Answer:
    headers = {"X-Cx-Metadata": "enabled"} if changes.pop("cx", False) else {}
    body = chat_body(**{"n": n, "seed": 0, **changes})
    return await ask(front(door), "POST", CHAT, body=body, headers=headers, leave_after_s=leave_after_s)


def joined(answer: Answer) -> dict[int, tuple[str, str | None]]:
    """Text and finish reason of each choice of a stream, put together as clients do it."""
    made: dict[int, tuple[str, str | None]] = {}
    for event in answer.events()[:-1]:
        for choice in event["choices"]:
            text, reason = made.get(choice["index"], ("", None))
            assert reason is None
            delta = choice["delta"]
            assert ("role" in delta) == (choice["index"] not in made)
            made[choice["index"]] = (text + (delta.get("content") or ""), choice["finish_reason"])
    return made


async def test_a_plain_answer_has_all_choices_in_order(autojump_clock: MockClock) -> None:
    """Whichever is ready first; the prompt counts once, as OpenAI counts it, and what was made in full."""
    work = each(says("slow", pause_s=9), says("quick", finish=Finish.LENGTH), calls)
    door = MemoryDoor(work=work)
    body = (await post(door, 3, cx=True)).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["stop", "length", "tool_calls"]
    assert [choice["message"]["content"] for choice in body["choices"]] == ["slow", "quick", None]
    assert body["choices"][2]["message"]["tool_calls"][0]["id"].endswith("_2_0")
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (10, 60)
    assert body["usage"]["total_tokens"] == 70
    assert [cx["attempts"] for cx in body["cx"]] == [2, 2, 2]
    assert trio.current_time() == pytest.approx(9)
    assert {run.generation for run in door.runs} == {body["id"]}
    assert sorted(run.job.sampling.seed or 0 for run in door.runs) == [0, 1, 2]


async def test_choices_of_no_seed_draw_each_their_own(autojump_clock: MockClock) -> None:
    """The orders of the jobs bring a seed each."""
    door = MemoryDoor()
    await post(door, 8, seed=None)
    assert [run.job.sampling.seed for run in door.runs] == [None] * 8


async def test_a_stream_mixes_the_choices_as_they_come(autojump_clock: MockClock) -> None:
    """All begin with their role chunks, in order; each has its finish chunk and its index; usage comes once, last."""
    work = each(says("a", "b", "c", pause_s=2), says("1", "2", pause_s=3), says())
    answer = await post(MemoryDoor(work=work), 3, cx=True, **USAGE)
    assert joined(answer) == {0: ("abc", "stop"), 1: ("12", "stop"), 2: ("", "stop")}
    *chunks, usage, done = answer.events()
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks[:4]] == ["assistant"] * 3 + [None]
    assert [chunk["choices"][0]["index"] for chunk in chunks[:3]] == [0, 1, 2]
    order = [chunk["choices"][0]["index"] for chunk in chunks if chunk["choices"][0]["delta"].get("content")]
    assert order in ([0, 1, 0, 1, 0], [0, 1, 0, 0, 1])
    assert usage["choices"] == []
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (10, 60)
    assert len(usage["cx"]) == 3
    assert all(chunk["usage"] is None and "cx" not in chunk for chunk in chunks)
    ends = [place for place, chunk in enumerate(chunks) if chunk["choices"][0]["finish_reason"]]
    assert ends[0] < len(chunks) - 3  # a choice that is whole says so at once
    first_parts = [at for at, data in answer.parts if b'"finish_reason":"stop"' in data]
    assert first_parts == pytest.approx([0, 6, 6])


async def test_all_choices_have_one_id_and_a_receipt_each(autojump_clock: MockClock) -> None:
    door = MemoryDoor()
    answer = await post(door, 4, stream=True)
    (made,) = {event["id"] for event in answer.events()[:-1]}
    app = front(door)
    kept = (await ask(app, "GET", f"/v1/receipts/{made}")).json()
    assert len(kept["data"]) == 4
    names = ("order", "receipt", "countersign", "counts", "inclusion")
    assert kept["data"][-1] == {name: kept[name] for name in names}
    assert (await ask(app, "GET", f"/v1/receipts/{made}", key=OTHER_KEY)).status == 404


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PeerUnreachable("x"), 503, "upstream_failed"),
        (InsufficientCredit("x"), 429, "insufficient_quota"),
        (KeyError("secret"), 500, "internal_error"),
    ],
)
async def test_one_that_fails_before_anything_was_sent_is_a_status(
    stream: bool, error: Exception, status: int, code: str, autojump_clock: MockClock
) -> None:
    """And the others are stopped: half an answer is none."""
    door = MemoryDoor(work=each(hangs, fails_after(error, pause_s=5), hangs))
    answer = await post(door, 3, stream=stream)
    assert (answer.status, answer.headers["x-error-code"]) == (status, code)
    assert [run.cancelled for run in door.runs].count(True) == 2
    assert {run.ended_at for run in door.runs} == {5.0}


async def test_one_that_fails_later_ends_the_stream_with_an_error(autojump_clock: MockClock) -> None:
    """Whether it had said something itself or not; no choice looks finished that is not, and no [DONE] comes."""
    broken = JobFailed(FailureCode.ENGINE_DIED, "")
    for late in (fails_after(broken, "x", pause_s=5), fails_after(broken, pause_s=5)):
        door = MemoryDoor(work=each(says("done"), says(*"abcdef", pause_s=3), late))
        answer = await post(door, 3, **USAGE)
        *chunks, last = answer.events()
        assert answer.complete
        assert set(last) == {"error", "id"}
        assert [chunk["choices"][0]["index"] for chunk in chunks if chunk["choices"][0]["finish_reason"]] == [0]
        assert {run.job.sampling.seed for run in door.runs if run.cancelled} == {1}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_all_its_jobs(stream: bool, autojump_clock: MockClock) -> None:
    door = MemoryDoor(work=each(hangs, says(*"abcdef", pause_s=1), hangs))
    answer = await post(door, 3, leave_after_s=3.5, stream=stream)
    assert not answer.complete
    assert [run.cancelled for run in door.runs] == [True] * 3
    assert {run.ended_at for run in door.runs} == {3.5}


@pytest.mark.parametrize("stream", [False, True])
async def test_one_silent_choice_holds_up_nothing_but_its_own(stream: bool, autojump_clock: MockClock) -> None:
    """All have one deadline, counted from the beginning."""
    door = MemoryDoor(work=each(says("a"), hangs))
    answer = await post(door, 2, stream=stream)
    assert trio.current_time() == pytest.approx(600)
    if stream:
        assert joined(Answer(parts=[*answer.parts[:-1], (0, b"data: [DONE]\n\n")])) == {0: ("a", "stop"), 1: ("", None)}
        assert answer.events()[-1]["error"]["code"] == "timeout"
    else:
        assert answer.headers["x-error-code"] == "timeout"


async def test_every_choice_takes_a_place_of_its_own(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """What does not fit into the gateway whole does not begin; what ends gives all of its places back."""
    monkeypatch.setattr(waiting, "JOBS_MAX", 5)
    app = front(MemoryDoor(work=hangs))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: ask(app, "POST", CHAT, body=chat_body(n=4), leave_after_s=10))
        await trio.sleep(1)
        assert (await ask(app, "POST", CHAT, body=chat_body(n=2))).headers["x-error-code"] == "overloaded"
        one = await ask(app, "POST", CHAT, body=chat_body(n=1), headers={"X-Stainless-Read-Timeout": "1"})
        assert one.headers["x-error-code"] == "timeout"
    again = await ask(app, "POST", CHAT, body=chat_body(n=5), headers={"X-Stainless-Read-Timeout": "1"})
    assert again.headers["x-error-code"] == "timeout"


async def test_all_choices_together_fit_into_one_answer(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(choices, "ANSWER_BYTES_MAX", 20)
    assert (await post(MemoryDoor(work=says("1234567890")), 2)).status == 200
    assert (await post(MemoryDoor(work=says("1234567890", "1")), 2)).status == 503


async def test_the_log_sums_the_choices_up(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cxp2p.gateway.access")
    await post(MemoryDoor(work=says("a", "b", pause_s=1)), 3)
    line = json.loads(caplog.messages[-1])
    assert (line["jobs"], line["pieces"], line["first_piece_ms"], line["attempts"]) == (3, 6, 1000, 6)
    assert (line["in"], line["out"]) == (30, 60)
