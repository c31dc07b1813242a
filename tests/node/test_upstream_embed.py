"""Embeddings by the server behind a node: in their order, of length one, cut where they may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from trio.testing import MockClock

from cxp2p.errors import JobFailed
from cxp2p.records import EmbedJob, FailureCode, Finish, Service
from cxp2p_node.engines.upstream import CUTS_MAX
from cxp2p_node.engines.upstream_vectors import INPUTS_PER_REQUEST
from upstreams import Asked, Fake, Heard, Line, Script, do, engine_on


def embedding(words_max: int | None = None, told: str = "", **fields: Any) -> Script:
    """Makes of a text the vector of its length and its first letter; of tokens their number and the first."""

    async def script(asked: Asked, line: Line) -> None:
        inputs = asked.body["input"]
        if words_max is not None and any(len(each) > words_max for each in inputs):
            await line.respond(400, {"error": {"message": told or "the input length exceeds the context length"}})
            return
        vectors = [[len(each), ord(each[0]) if isinstance(each, str) else each[0]] for each in inputs]
        data = [{"index": at, "embedding": vector} for at, vector in enumerate(vectors)]
        await line.respond(200, {"data": data, **fields})

    return script


def embed_job(*inputs: str | tuple[int, ...], truncate: bool = True) -> EmbedJob:
    return EmbedJob(model="m", inputs=inputs, truncate=truncate)


def vectors(heard: Heard) -> list[list[float]]:
    """The vectors, turned back so that their second number is whole."""
    rows = np.frombuffer(b"".join(piece.data for piece in heard.pieces), "<f4").reshape(-1, 2)
    assert np.linalg.norm(rows, axis=1).tolist() == pytest.approx([1] * len(rows))
    return rows.tolist()


def unit(*numbers: float) -> Any:
    return pytest.approx([number / float(np.linalg.norm(numbers)) for number in numbers])


async def test_every_input_gets_its_vector_in_order(autojump_clock: MockClock) -> None:
    """A unit each, in requests of a size that is answered soon; the prompt is counted as it is told."""
    inputs = tuple("x" * (1 + number) for number in range(INPUTS_PER_REQUEST + 3))
    fake = Fake(embedding(usage={"prompt_tokens": 10}))
    async with engine_on(fake, service=Service.EMBED) as engine:
        assert engine.describe().service is Service.EMBED
        heard = await do(engine, embed_job(*inputs))
    assert vectors(heard) == [unit(len(each), ord("x")) for each in inputs]
    assert [piece.units for piece in heard.pieces] == [INPUTS_PER_REQUEST, 3]
    assert heard.counts == [(10, 0), (20, 0)]
    assert heard.usage.in_units == 20
    assert (heard.usage.out_units, heard.usage.finish) == (len(inputs), Finish.STOP)
    assert {asked.path for asked in fake.asked} == {"/v1/embeddings"}


async def test_tokens_are_passed_on_as_tokens(autojump_clock: MockClock) -> None:
    fake = Fake(embedding())
    async with engine_on(fake, service=Service.EMBED) as engine:
        heard = await do(engine, embed_job("a", (5, 6, 7), "b"))
    assert [asked.body["input"] for asked in fake.asked] == [["a"], [[5, 6, 7]], ["b"]]
    assert vectors(heard)[1] == unit(3, 5)
    assert heard.usage.in_units == 1 + 3 + 1


async def test_an_input_that_is_too_long_is_cut_and_the_others_are_not(autojump_clock: MockClock) -> None:
    fake = Fake(embedding(words_max=100))
    async with engine_on(fake, service=Service.EMBED) as engine:
        heard = await do(engine, embed_job("a" * 30, "b" * 350, "c" * 100))
    assert vectors(heard) == [unit(30, ord("a")), unit(87, ord("b")), unit(100, ord("c"))]
    assert sum(piece.units for piece in heard.pieces) == 3


async def test_a_cut_goes_by_what_the_server_tells(autojump_clock: MockClock) -> None:
    told = "input (200 tokens) is too large to process. increase the physical batch size (current batch size: 100)"
    fake = Fake(embedding(words_max=100, told=told))
    async with engine_on(fake, service=Service.EMBED) as engine:
        heard = await do(engine, embed_job("b" * 200))
    assert vectors(heard) == [unit(95, ord("b"))]


async def test_an_input_that_may_not_be_cut_fails_the_job(autojump_clock: MockClock) -> None:
    fake = Fake(embedding(words_max=100))
    async with engine_on(fake, service=Service.EMBED, context_units=100) as engine:
        with pytest.raises(JobFailed) as failed:
            await do(engine, embed_job("a", "b" * 101, truncate=False))
        assert engine.ready
    assert (failed.value.code, failed.value.limit) == (FailureCode.CONTEXT_LENGTH, 100)


async def test_a_server_to_which_everything_is_too_long_is_asked_so_often_and_no_more(
    autojump_clock: MockClock,
) -> None:
    fake = Fake(embedding(words_max=0))
    async with engine_on(fake, service=Service.EMBED) as engine:
        with pytest.raises(JobFailed) as failed:
            await do(engine, embed_job("b" * 10**6))
    assert failed.value.code is FailureCode.CONTEXT_LENGTH
    assert len(fake.asked) == CUTS_MAX + 1


async def test_vectors_that_change_their_length_are_the_servers_fault(autojump_clock: MockClock) -> None:
    async def script(asked: Asked, line: Line) -> None:
        length = 2 + len(fake.asked)
        data = [{"index": at, "embedding": [1.0] * length} for at in range(len(asked.body["input"]))]
        await line.respond(200, {"data": data})

    fake = Fake(script)
    async with engine_on(fake, service=Service.EMBED) as engine:
        with pytest.raises(JobFailed) as failed:
            await do(engine, embed_job(*["a"] * (INPUTS_PER_REQUEST + 1)))
    assert failed.value.code is FailureCode.ENGINE_DIED


async def test_a_server_that_makes_no_embeddings_says_so(autojump_clock: MockClock) -> None:
    async def script(asked: Asked, line: Line) -> None:
        await line.respond(501, {"error": {"message": "Start it with `--embeddings`"}})

    async with engine_on(Fake(script), service=Service.EMBED) as engine:
        with pytest.raises(JobFailed, match="--embeddings") as failed:
            await do(engine, embed_job("a"))
    assert failed.value.code is FailureCode.REQUEST_UNSUPPORTED
