"""The upstream engine in front of a real server: llama.cpp's own, on a tiny model whose answer is known."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from cxp2p.errors import JobFailed
from cxp2p.records import AnswerForm, ChatJob, EmbedJob, FailureCode, Finish, Sampling, Service, Tool, ToolMode
from cxp2p_node.engines.upstream import Upstream, open_upstream
from cxp2p_node.engines.upstream_events import STAND_IN
from cxp2p_node.engines.upstream_http import Client, server_of
from tiny_model import ANSWER, token_ids, write_tiny_model
from upstreams import Heard, do, failure, llama_server, upstream_settings
from worlds import chat_job

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
CONTEXT_UNITS = 512
# Of a model that knows tools, in the way of Hermes.
TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: <tools>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>\n"
    "Answer with <tool_call>\n{...}\n</tool_call><|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SWITCH = Tool(
    name="switch",
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {"on": {"type": "boolean"}},
            "required": ["on"],
            "additionalProperties": False,
        }
    ),
)


CALLING = ("I will.", " ", "<tool", "_call>\n", '{"name": "switch", "arguments": {"on": true}}', "\n</tool_call>")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_model(folder / "tiny.gguf")
    write_tiny_model(folder / "calling.gguf", says=CALLING)
    write_tiny_model(folder / "endless.gguf", loop=True, context=1 << 16)
    return folder


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    """A server of the model that ends."""
    with llama_server(models / "tiny.gguf", template=TEMPLATE) as address:
        yield address


@pytest.fixture(scope="module")
def endless_url(models: Path) -> Iterator[str]:
    """A server of the model that goes on for ever, two at once."""
    with llama_server(models / "endless.gguf", context=1 << 15) as address:
        yield address


@asynccontextmanager
async def engine_at(url: str, key: str = "", **changes: Any) -> AsyncIterator[Upstream]:
    """The engine in front of the server at `url`, once that is well."""
    settings = upstream_settings(**{"upstream_model": "tiny", **changes})
    async with open_upstream(settings, Client(server_of(url, key))) as engine:
        with trio.fail_after(PATIENCE_S):
            while not engine.ready:
                await engine._news.wait()
            yield engine


def greedy(text: str = "hello", **fields: Any) -> ChatJob:
    return ChatJob(model="tiny", messages=chat_job(text).messages, sampling=Sampling(temperature=0), **fields)


async def get(url: str, path: str) -> Any:
    async with Client(server_of(url)).exchange("GET", path) as response:
        return json.loads(await response.body(1 << 20))


async def test_a_real_server_is_met_asked_and_counted(url: str) -> None:
    async with engine_at(url, context_units=4096) as engine:
        offered = engine.describe()
        assert offered.runtime.startswith("upstream llama.cpp")
        assert offered.context_units == CONTEXT_UNITS
        heard = await do(engine, greedy())
        again = await do(engine, greedy())
    assert heard.text == ANSWER
    assert heard.usage.finish is Finish.STOP
    assert heard.usage.out_units == len(heard.token_ids) == len(ANSWER.encode()) + 1  # and the end
    assert all(each >= STAND_IN for each in heard.token_ids)
    assert heard.counts[0] == (heard.usage.in_units, 0)
    assert again.usage.in_units == heard.usage.in_units
    assert 0 < again.usage.cached_units < again.usage.in_units


async def test_jobs_of_one_salt_find_what_they_left_and_no_others_do(url: str) -> None:
    """Two slots, three accounts: each finds its own words, as long as no third one needed the slot."""

    async def reused(salt: bytes) -> bool:
        return (await do(engine, greedy(cache_salt=salt))).usage.cached_units > 0

    async with engine_at(url) as engine:
        found = [await reused(salt) for salt in (b"a", b"b", b"a", b"b", b"a", b"c", b"a", b"b", b"a")]
    assert found == [False, False, True, True, True, False, True, False, True]


async def test_a_node_with_more_slots_than_the_server_reuses_nothing_that_is_salted(url: str) -> None:
    """It cannot know then which slot a job gets."""
    async with engine_at(url, slots=3) as engine:
        for _ in range(3):
            assert (await do(engine, greedy(cache_salt=b"a"))).usage.cached_units == 0


async def test_with_log_probabilities_the_ids_are_the_models_own(url: str) -> None:
    async with engine_at(url) as engine:
        heard = await do(engine, greedy(logprobs=2), 10)
    assert tuple(heard.token_ids) == token_ids("abcdefghij")
    told = [each for piece in heard.pieces for each in piece.logprobs]
    assert [each.data.decode() for each in told] == list("abcdefghij")
    assert all(len(each.top) == 2 and each.top[0].data == each.data for each in told)
    assert heard.usage.finish is Finish.LENGTH


async def test_stops_and_limits_are_the_servers(url: str) -> None:
    async with engine_at(url) as engine:
        stopped = await do(engine, greedy(stop=("fg",)))
        assert (stopped.text, stopped.usage.finish) == ("abcde", Finish.STOP)
        short = await do(engine, greedy(max_tokens=3), 3)
        assert (short.text, short.usage.out_units, short.usage.finish) == ("abc", 3, Finish.LENGTH)


@pytest.mark.parametrize("mode", [ToolMode.AUTO, ToolMode.REQUIRED, ToolMode.NAMED])
async def test_a_call_is_streamed_as_a_call(models: Path, mode: ToolMode) -> None:
    """Also one that the model announces first."""
    with llama_server(models / "calling.gguf", template=TEMPLATE) as url:
        async with engine_at(url) as engine:
            heard = await do(engine, greedy(tools=(SWITCH,), tool_mode=mode, tool_name="switch"), 200)
    parts = [part for piece in heard.pieces for part in piece.calls]
    assert [part.name for part in parts if part.name] == ["switch"]
    assert json.loads("".join(part.arguments for part in parts)) == {"on": True}
    assert heard.text.strip() == "I will."
    assert heard.usage.finish is Finish.STOP
    assert heard.usage.out_units == len(heard.token_ids) == len(CALLING) + 1


async def test_a_call_that_must_be_and_is_not_fails_the_job(models: Path) -> None:
    """With this template the server does not force it: what the model says instead is not passed on."""
    with llama_server(models / "tiny.gguf") as url:
        async with engine_at(url) as engine:
            failed = await failure(engine, greedy(tools=(SWITCH,), tool_mode=ToolMode.REQUIRED))
    assert failed.code is FailureCode.REQUEST_UNSUPPORTED
    assert "tool_choice" in failed.reason


async def test_a_schema_is_held_to(url: str) -> None:
    """The model knows only the alphabet: what it says is what the server's grammar lets it."""
    schema = {"type": "object", "properties": {"on": {"enum": [1, 2]}}, "required": ["on"]}
    closed = json.dumps({**schema, "additionalProperties": False})
    async with engine_at(url) as engine:
        heard = await do(engine, greedy(form=AnswerForm.JSON_SCHEMA, schema=closed), 400)
    assert json.loads(heard.text)["on"] in (1, 2)
    assert heard.usage.out_units == len(heard.token_ids)


async def test_what_the_server_refuses_is_told_in_its_own_words(url: str) -> None:
    async with engine_at(url) as engine:
        failed = await failure(engine, greedy(form=AnswerForm.JSON_SCHEMA, schema='{"type": "nonsense"}'))
        assert failed.code is FailureCode.REQUEST_UNSUPPORTED
        assert "nonsense" in failed.reason
        failed = await failure(engine, greedy("x" * 2000))
        assert failed.code is FailureCode.CONTEXT_LENGTH
        assert failed.limit == CONTEXT_UNITS < 2000 < failed.actual
        assert (await do(engine, greedy())).text == ANSWER


async def test_a_cancel_frees_the_servers_slot(endless_url: str) -> None:
    """Both slots are busy; after two cancels the next job does not wait for either."""
    async with engine_at(endless_url) as engine:
        heard = [Heard(), Heard()]
        scopes = [trio.CancelScope(), trio.CancelScope()]

        async def job(number: int) -> None:
            with scopes[number]:
                await engine.run(greedy(), 1, 1 << 14, heard[number].emit, heard[number].count)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job, 0)
            nursery.start_soon(job, 1)
            while not (heard[0].pieces and heard[1].pieces):
                await get(endless_url, "/health")
            assert [slot["is_processing"] for slot in await get(endless_url, "/slots")] == [True, True]
            for scope in scopes:
                scope.cancel()
        begun = trio.current_time()
        while any(slot["is_processing"] for slot in await get(endless_url, "/slots")):
            await trio.lowlevel.checkpoint()
        assert trio.current_time() - begun < 1.0
        assert (await do(engine, greedy(max_tokens=4), 4)).text == "abcd"
    assert all(scope.cancelled_caught for scope in scopes)


async def test_a_server_that_is_killed_and_comes_back_is_offered_again(models: Path) -> None:
    """Its job fails, the offer is taken back at once, and stands again when the server does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = partial(llama_server, models / "endless.gguf", context=1 << 15, port=port)
    offered: list[bool] = []
    heard = Heard()
    settings = upstream_settings(upstream_model="tiny")
    async with open_upstream(settings, Client(server_of(f"http://127.0.0.1:{port}"))) as engine:
        engine.on_change(lambda: offered.append(engine.ready))
        with trio.fail_after(PATIENCE_S), ExitStack() as running:
            assert not engine.ready
            running.enter_context(server())
            while not engine.ready:
                await engine._news.wait()

            async def job() -> None:
                with pytest.raises(JobFailed) as failed:
                    await engine.run(greedy(), 1, 1 << 14, heard.emit, heard.count)
                assert failed.value.code is FailureCode.ENGINE_DIED
                offered.append(engine.ready)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(job)
                while not heard.pieces:
                    await trio.lowlevel.checkpoint()
                running.close()
            running.enter_context(server())
            while not engine.ready:
                await engine._news.wait()
            assert (await do(engine, greedy(max_tokens=4), 4)).text == "abcd"
    assert offered == [True, False, False, True]


async def test_a_key_is_asked_for_and_sent(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without it nothing is offered, and the log says what to check."""
    with llama_server(models / "tiny.gguf", keys=["sk-right"]) as url:
        async with engine_at(url, "sk-right") as engine:
            assert (await do(engine, greedy())).text == ANSWER
        async with open_upstream(upstream_settings(), Client(server_of(url, "sk-wrong"))) as engine:
            assert not engine.ready
    assert "check `key_env`" in caplog.text
    assert "sk-wrong" not in caplog.text


async def test_embeddings_come_from_a_real_server(models: Path) -> None:
    """Texts and tokens, each of length one, the same ones the same; what is too long is cut, or fails the job."""
    with llama_server(models / "tiny.gguf", embedding=True) as url:
        async with engine_at(url, service=Service.EMBED) as engine:
            tokens = token_ids("hello")
            heard = await do(engine, EmbedJob(model="m", inputs=("hello", tokens, "other", "x" * 2000)))
            with pytest.raises(JobFailed) as failed:
                await do(engine, EmbedJob(model="m", inputs=("x" * 2000,), truncate=False))
    rows = np.frombuffer(b"".join(piece.data for piece in heard.pieces), "<f4").reshape(4, -1)
    assert np.linalg.norm(rows, axis=1).tolist() == pytest.approx([1.0] * 4)
    assert rows[0] @ rows[1] == pytest.approx(1.0)
    assert rows[0] @ rows[2] < 0.99
    assert heard.usage.in_units >= len("hello") * 2 + len("other") + 400
    assert failed.value.code is FailureCode.CONTEXT_LENGTH
