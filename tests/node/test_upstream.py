"""The upstream engine in front of a server that does what a test tells it: jobs, cancels, and what it offers."""

from __future__ import annotations

from random import Random
from typing import Any

import psutil
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cxp2p.errors import JobFailed
from cxp2p.records import ChatJob, FailureCode, Finish, Message, Role
from cxp2p_node.engines import upstream
from cxp2p_node.engines.upstream import open_upstream
from cxp2p_node.engines.upstream_http import Client
from upstreams import (
    MODEL,
    Asked,
    Fake,
    Heard,
    Line,
    chunk,
    do,
    engine_on,
    failure,
    listing,
    on_loopback,
    refusing,
    saying,
    upstream_settings,
    usage,
)
from worlds import chat_job

LONG = {"error": {"message": "maximum context length is 4096 tokens. However, you requested 5000 tokens"}}


# Jobs.


async def test_a_job_is_asked_streamed_and_counted(autojump_clock: MockClock) -> None:
    """Units are as many as there are ids, and the usage is the server's own."""
    fake = Fake(saying("Hel", "lo ", "you", prompt=21))
    async with engine_on(fake) as engine:
        heard = await do(engine, chat_job("hello there, this is a prompt"))
    assert heard.text == "Hello you"
    assert heard.usage.out_units == len(heard.token_ids) == 3
    assert (heard.usage.in_units, heard.usage.finish) == (21, Finish.STOP)
    assert fake.asked[0].path == "/v1/chat/completions"
    assert fake.asked[0].body["messages"] == [{"role": "user", "content": "hello there, this is a prompt"}]


async def test_the_prompt_is_counted_before_the_first_piece(autojump_clock: MockClock) -> None:
    """By what the server tells so far, or the least that it has: an asker that cancels then owes it."""
    counted_at: list[tuple[int, int]] = []
    fake = Fake(saying("a", "b", prompt=21))
    async with engine_on(fake) as engine:
        heard = Heard()

        def count(in_units: int, cached_units: int) -> None:
            counted_at.append((in_units, len(heard.pieces)))

        await engine.run(chat_job("x" * 80), 1, 10, heard.emit, count)
    assert counted_at == [(11, 0), (21, 2)]


async def test_a_prompt_that_the_order_does_not_pay_ends_the_job(autojump_clock: MockClock) -> None:
    """What `counted` raises leaves the engine, and the connection is closed."""

    def refuse(in_units: int, cached_units: int) -> None:
        raise JobFailed(FailureCode.REQUEST_UNSUPPORTED, "too dear")

    fake = Fake(saying("a"))
    async with engine_on(fake) as engine:
        with pytest.raises(JobFailed, match="too dear"):
            await engine.run(chat_job("hello"), 1, 10, Heard().emit, refuse)
        await wait_all_tasks_blocked()
        assert fake.open == 0


@pytest.mark.parametrize(
    ("max_tokens", "max_out", "cap", "sent"),
    [(5, 5, None, 5), (None, 4096, None, None), (None, 100, 100, 100), (9999, 4096, None, 4096)],
)
async def test_a_limit_is_told_only_if_there_is_one(
    autojump_clock: MockClock, max_tokens: int | None, max_out: int, cap: int | None, sent: int | None
) -> None:
    """A job that may fill the context would be refused by servers that add the prompt to its limit."""
    fake = Fake(saying("a"), models=listing(MODEL, max_model_len=4096))
    async with engine_on(fake, output_units_max=cap) as engine:
        await do(engine, chat_job("hello", max_tokens=max_tokens), max_out)
    assert fake.asked[0].body.get("max_tokens") == sent


async def test_a_limit_that_does_not_fit_beside_the_prompt_is_left_away(autojump_clock: MockClock) -> None:
    """vLLM refuses what it could answer in part; a prompt that is too long itself is refused twice, and told."""

    async def script(asked: Asked, line: Line) -> None:
        if "max_tokens" in asked.body:
            await line.respond(400, LONG)
        else:
            await saying("a")(asked, line)

    fake = Fake(script)
    async with engine_on(fake) as engine:
        assert (await do(engine, chat_job("hello", max_tokens=4000))).text == "a"
        assert len(fake.asked) == 2
        fake.script = refusing(400, LONG)
        failed = await failure(engine, chat_job("hello", max_tokens=4000))
    assert (failed.code, failed.limit, failed.actual) == (FailureCode.CONTEXT_LENGTH, 4096, 5000)
    assert len(fake.asked) == 4


async def test_a_prompt_that_is_too_long_by_nobody_knows_how_much_is_one_too_long(autojump_clock: MockClock) -> None:
    fake = Fake(refusing(400, {"error": {"message": "the input length exceeds the context length"}}))
    async with engine_on(fake, context_units=1000) as engine:
        failed = await failure(engine)
        assert engine.ready
    assert (failed.limit, failed.actual) == (1000, 1001)


async def test_the_servers_words_about_a_request_reach_its_asker(autojump_clock: MockClock) -> None:
    async with engine_on(Fake(refusing(422, {"detail": "no such response_format"}))) as engine:
        failed = await failure(engine)
        assert engine.ready
    assert failed.code is FailureCode.REQUEST_UNSUPPORTED
    assert "no such response_format" in failed.reason


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        ({"error": {"message": "bad schema", "code": 400}}, "application/json", FailureCode.REQUEST_UNSUPPORTED),
        ({"choices": []}, "application/json", FailureCode.ENGINE_DIED),
        (b"<html>", "text/html", FailureCode.ENGINE_DIED),
    ],
)
async def test_an_answer_that_is_no_stream_is_a_failure(
    autojump_clock: MockClock, body: Any, kind: str, code: FailureCode
) -> None:
    """An error in a 200 is an error."""
    async with engine_on(Fake(refusing(200, body, content_type=kind))) as engine:
        assert (await failure(engine)).code is code


async def test_a_whole_answer_whose_counts_do_not_come_is_whole(autojump_clock: MockClock) -> None:
    """After the reason to end, the rest is waited for a little, and may break off."""

    async def script(asked: Asked, line: Line) -> None:
        await line.begin()
        await line.event(chunk("all", end="stop"))
        await trio.sleep(3600)

    async with engine_on(Fake(script)) as engine:
        with trio.fail_after(10):
            heard = await do(engine, chat_job("hello"))
    assert (heard.text, heard.usage.finish) == ("all", Finish.STOP)


async def test_a_server_that_tells_no_usage_makes_receipts_that_say_so(autojump_clock: MockClock) -> None:
    async def script(asked: Asked, line: Line) -> None:
        await line.begin()
        for text in "12345678":
            await line.event(chunk(text))
        await line.event(chunk(end="stop"))
        await line.event("[DONE]")
        await line.end()

    async with engine_on(Fake(script)) as engine:
        assert engine.describe().runtime == "upstream openai-compatible"
        heard = await do(engine, chat_job("x" * 80))
        assert engine.describe().runtime == "upstream openai-compatible, counts estimated"
    assert (heard.usage.in_units, heard.usage.out_units) == (11, 7)
    assert len(heard.token_ids) == 7


async def test_a_stream_without_an_end_is_ended(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments without end, which no count of tokens sees, are bounded in bytes."""
    monkeypatch.setattr(upstream, "STREAM_BYTES_SPARE", 100_000)

    async def script(asked: Asked, line: Line) -> None:
        await line.begin()
        while True:
            await line.part(b": nothing\n" * 1000)

    async with engine_on(Fake(script)) as engine:
        failed = await failure(engine, chat_job("hello", max_tokens=1))
    assert failed.code is FailureCode.ENGINE_DIED


# Cancels.


async def endless(asked: Asked, line: Line) -> None:
    await line.begin()
    for number in range(10**6):
        await line.event(chunk("word ", usage=usage(3, number + 1)))


async def test_a_cancel_in_the_middle_owes_what_was_told_until_then(autojump_clock: MockClock) -> None:
    fake = Fake(endless)
    async with engine_on(fake) as engine:
        heard = Heard()
        with trio.CancelScope() as scope:

            async def emit(piece: Any) -> None:
                heard.pieces.append(piece)
                if len(heard.pieces) == 5:
                    scope.cancel()
                await trio.lowlevel.checkpoint()

            await engine.run(chat_job("hello"), 1, 100, emit, heard.count)
        assert scope.cancelled_caught
        assert len(heard.token_ids) == 5
        assert heard.counts == [(3, 0)]
        await wait_all_tasks_blocked()
        assert (fake.open, engine.ready) == (0, True)


@pytest.mark.slow
async def test_a_thousand_cancels_at_any_moment_leave_nothing_open() -> None:
    """Over real sockets: no connection, no task and no file is left, and the engine works as before."""
    rng = Random(7)
    fake = Fake(endless)
    async with on_loopback(fake) as server, open_upstream(upstream_settings(), Client(server)) as engine:
        await fake.until_quiet()
        tasks, files = trio.lowlevel.current_statistics().tasks_living, psutil.Process().num_fds()

        async def cancelled_job(moment_s: float) -> None:
            with trio.move_on_after(moment_s):
                await do(engine, chat_job("hello"), 10**6)

        for _ in range(100):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(cancelled_job, rng.uniform(0, 0.02))
        await fake.until_quiet()
        assert fake.opened > 500
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert psutil.Process().num_fds() == files
        fake.script = saying("well")
        assert (await do(engine, chat_job("hello"))).text == "well"


# Safety.


async def test_what_an_asker_says_reaches_the_server_as_it_is(autojump_clock: MockClock) -> None:
    """Whatever is in it: it is JSON there, never a header or a path."""
    strange = 'x\r\nHost: evil\r\n\r\n"}]} \u2028 \U0001f600 \x00'
    fake = Fake(saying("a"))
    async with engine_on(fake) as engine:
        await do(engine, ChatJob(model="../../x", messages=(Message(role=Role.USER, content=strange),)))
    assert fake.asked[0].path == "/v1/chat/completions"
    assert fake.asked[0].body["messages"][0]["content"] == strange
    assert fake.asked[0].body["model"] == MODEL
