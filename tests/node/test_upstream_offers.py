"""What a node offers of a server behind it: what it tells, and nothing while it is down, busy or not set up."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cxp2p.errors import JobFailed
from cxp2p.records import FailureCode
from cxp2p_node.engines.upstream import CONTEXT_UNITS_GUESS, FIRST_LOOK_S, Upstream
from cxp2p_node.engines.upstream_health import LOOK_S
from cxp2p_node.engines.upstream_http import SILENT_S_MAX
from upstreams import MODEL, Asked, Fake, Heard, Line, chunk, do, engine_on, failure, listing, refusing, saying
from worlds import ask, chat_job, settled, world


async def until(engine: Upstream, *, ready: bool) -> None:
    with trio.fail_after(120):
        while engine.ready is not ready:
            await engine._news.wait()


async def test_an_offer_says_what_the_server_tells(autojump_clock: MockClock) -> None:
    fake = Fake(saying("a"), listing(MODEL, owned_by="vllm", max_model_len=32768), {"/version": {"version": "0.19.1"}})
    async with engine_on(fake, output_units_max=2048) as engine:
        offered = engine.describe()
    assert offered.runtime == "upstream vllm 0.19.1"
    assert (offered.model, offered.context_units, offered.output_units_max) == ("model", 32768, 2048)


@pytest.mark.parametrize(
    ("owned_by", "facts", "runtime"),
    [
        ("sglang", {"/get_server_info": {"version": "0.5.3"}}, "upstream sglang 0.5.3"),
        ("llamacpp", {"/props": {"build_info": "b8681-abc", "total_slots": 4}}, "upstream llama.cpp b8681-abc"),
        ("library", {"/api/version": {"version": "0.12.6"}}, "upstream ollama 0.12.6"),
        ("organization_owner", {"/api/version": {"error": "Unexpected endpoint"}}, "upstream openai-compatible"),
        ("vllm", {"/version": {"version": "\n" + "x" * 10**5}}, "upstream vllm  " + "x" * 39),
        ("vllm", {"/version": []}, "upstream vllm"),
    ],
)
async def test_servers_are_told_apart_by_what_they_say_of_themselves(
    autojump_clock: MockClock, owned_by: str, facts: dict[str, Any], runtime: str
) -> None:
    async with engine_on(Fake(saying("a"), listing(MODEL, owned_by=owned_by), facts)) as engine:
        assert engine.describe().runtime == runtime


async def test_no_more_context_is_offered_than_the_server_has(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine_on(Fake(saying("a"), listing(MODEL, max_model_len=2048)), context_units=8192) as engine:
        assert engine.describe().context_units == 2048
    assert "context_units is 8192, but the server has 2048" in caplog.text


async def test_a_context_that_nobody_tells_is_a_small_one(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine_on(Fake(saying("a"))) as engine:
        assert engine.describe().context_units == CONTEXT_UNITS_GUESS
    assert "set context_units" in caplog.text


async def test_a_server_that_is_down_at_the_start_is_offered_when_it_comes(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """That is no error, and is said once."""
    caplog.set_level(logging.INFO, "cxp2p.node.upstream")
    fake = Fake(saying("a"), down=True)
    changes: list[bool] = []
    begun = trio.current_time()
    async with engine_on(fake) as engine:
        assert trio.current_time() - begun <= FIRST_LOOK_S
        assert not engine.ready
        assert "Connection refused" in engine.fault
        engine.on_change(lambda: changes.append(engine.ready))
        assert (await failure(engine)).code is FailureCode.ENGINE_DIED
        await trio.sleep(60)
        assert caplog.text.count("not offered") == 1
        assert "Connection refused" in caplog.text
        fake.down = False
        await until(engine, ready=True)
        assert changes == [True]
        assert engine.fault == ""
        assert (await do(engine, chat_job("hello"))).text == "a"


async def test_a_job_waits_a_little_for_a_server_that_comes_back(autojump_clock: MockClock) -> None:
    fake = Fake(saying("a"), down=True)
    async with engine_on(fake) as engine, trio.open_nursery() as nursery:
        heard: list[Heard] = []

        async def job() -> None:
            heard.append(await do(engine, chat_job("hello")))

        nursery.start_soon(job)
        await trio.sleep(0.1)
        fake.down = False
    assert heard[0].text == "a"


async def test_a_server_without_the_model_is_not_offered(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Fake(saying("a"), listing("org/model-8b", "other"))
    async with engine_on(fake) as engine:
        assert not engine.ready
        assert "it has no model 'org/model-7b'; near to it are org/model-8b: set `upstream_model`" in caplog.text
        fake.models = listing(MODEL)
        await until(engine, ready=True)


async def test_a_wrong_key_is_said_without_the_key(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    fake = Fake(saying("a"), (401, {"error": {"message": "Incorrect API key provided: sk-secret"}}))
    async with engine_on(fake, key="sk-secret") as engine:
        assert not engine.ready
    assert "check `key_env`" in caplog.text
    assert "sk-secret" not in caplog.text


async def test_a_job_that_breaks_off_takes_the_offer_back_at_once(autojump_clock: MockClock) -> None:
    """And brings it back when the server is there again."""

    async def script(asked: Asked, line: Line) -> None:
        await line.begin()
        await line.event(chunk("half"))
        fake.down = True

    fake = Fake(script)
    async with engine_on(fake) as engine:
        failed = await failure(engine)
        assert failed.code is FailureCode.ENGINE_DIED
        assert "upstream:8000" not in failed.reason
        assert not engine.ready
        await trio.sleep(5)
        assert not engine.ready
        fake.down, fake.script = False, saying("whole")
        await until(engine, ready=True)
        assert (await do(engine, chat_job("hello"))).text == "whole"


async def test_a_busy_server_is_not_offered_for_as_long_as_it_says(autojump_clock: MockClock) -> None:
    """So askers go elsewhere, and do not come to hold it against the node."""
    fake = Fake(refusing(429, {"error": "slow down"}, retry_after="7"))
    async with engine_on(fake) as engine:
        assert (await failure(engine)).code is FailureCode.ENGINE_DIED
        begun = trio.current_time()
        assert not engine.ready
        await until(engine, ready=True)
        assert 7 <= trio.current_time() - begun < 8


async def test_one_job_that_the_server_chokes_on_does_not_take_the_offer_from_others(autojump_clock: MockClock) -> None:
    fake = Fake(refusing(500, {"error": {"message": "oops"}}))
    async with engine_on(fake) as engine:
        await failure(engine)
        await trio.sleep(0.1)
        assert engine.ready
        assert fake.looks == 2
        fake.models = (500, {})
        await failure(engine)
        await trio.sleep(0.1)
        assert not engine.ready


async def test_a_server_that_hangs_fails_its_job_before_the_asker_leaves(autojump_clock: MockClock) -> None:
    async def hang(asked: Asked, line: Line) -> None:
        await line.until_left()

    async with engine_on(Fake(hang)) as engine:
        begun = trio.current_time()
        assert (await failure(engine)).code is FailureCode.ENGINE_DIED
        assert trio.current_time() - begun == SILENT_S_MAX
        assert not engine.ready


async def test_a_model_that_appears_under_another_program_is_met_anew(autojump_clock: MockClock) -> None:
    """Somebody stops Ollama and starts vLLM on the same port."""
    fake = Fake(saying("a"), listing(MODEL, owned_by="library"), {"/api/version": {"version": "1"}})
    async with engine_on(fake) as engine:
        fake.down = True
        await until(engine, ready=False)
        fake.models, fake.facts = listing(MODEL, owned_by="vllm", max_model_len=99), {}
        fake.down = False
        await until(engine, ready=True)
        assert (engine.describe().runtime, engine.describe().context_units) == ("upstream vllm", 99)


async def test_a_server_that_talks_is_not_looked_at(autojump_clock: MockClock) -> None:
    """llama-cpp-python's server breaks off what it says to whoever asks it anything else; and it is there, plainly."""

    async def slow(asked: Asked, line: Line) -> None:
        await line.begin()
        for _ in range(60):
            await trio.sleep(1)
            await line.event(chunk("word "))
        await line.event(chunk(end="stop"))
        await line.end()

    fake = Fake(slow)
    async with engine_on(fake) as engine:
        await do(engine, chat_job("hello"))
        assert fake.looks == 1
        await trio.sleep(2.5 * LOOK_S)
        assert fake.looks == 3


# In a network.


async def test_a_whole_network_is_served_by_it_and_notices_when_it_is_gone(autojump_clock: MockClock) -> None:
    """From an asker to the server and back; within a second of a failed job the node offers nothing."""
    fake = Fake(saying("one ", "two"))
    async with engine_on(fake, model="echo") as engine, world() as there:
        node = await there.node(engine)
        net = await there.asker()
        await settled(net, 1)
        assert await ask(net) == "one two"
        (entry,) = net.discovery.directory.entries()
        assert [each.runtime for each in entry.offer.capabilities] == ["upstream openai-compatible"]
        fake.down = True
        with pytest.raises(JobFailed):
            await ask(net)
        await trio.sleep(1)
        (entry,) = net.discovery.directory.entries()
        assert not entry.offer.capabilities
        fake.down = False
        await until(engine, ready=True)
        await trio.sleep(3)
        assert await ask(net) == "one two"
        assert node.serving is not None
