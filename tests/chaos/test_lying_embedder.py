"""Nodes that send what is no vector: not paid, not passed on, and not asked first again. Virtual time."""

from __future__ import annotations

import math
from array import array
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from cxp2p import receipts
from cxp2p.errors import AnswerRefused, CxError, JobFailed, PeerUnreachable, RemoteProtocolError
from cxp2p.net import embedding
from cxp2p.records import Finish, Piece, Prices, Service, Verdict
from cxp2p.units import Output
from embedders import FEW, MANY, MODEL, WORDS_DIGEST, VectorEngine, bytes_of, embed, network_of, right, vector_of
from liars import Liar, Told, hold_on, liar
from worlds import Ledgerbook, World, settled, world


async def give(told: Told, data: bytes, units: int, finish: Finish = Finish.STOP) -> Verdict | None:
    """An answer of these bytes, with an honest receipt for it; what the asker said to that."""
    await told.accept()
    output = Output(Service.EMBED)
    for start in range(0, max(1, len(data)), 16_384):
        part = data[start : start + 16_384]
        piece = Piece(data=part, units=units if start + 16_384 >= len(data) else 0)
        output.add(piece)
        await told.talk.say(piece)
    order = told.order
    charge = receipts.charge_owed(order.prices, finish, 3, units)
    receipt = told.receipt(
        out_units=units,
        output_commit=output.commit(),
        finish=finish,
        charge=charge,
        cum_charge=order.cum_authorised - order.max_charge + charge,
    )
    countersign = await told.sign(receipt)
    return countersign.verdict if countersign else None


def bad_vectors(count: int) -> dict[str, bytes]:
    fine = [vector_of(str(number)) for number in range(count)]
    return {
        "too few": bytes_of(fine[:-1]),
        "a byte too few": bytes_of(fine)[:-1],
        "a byte too many": bytes_of(fine) + b"x",
        "none": b"",
        "not a number": bytes_of([*fine[:-1], array("f", [math.nan] * 8)]),
        "infinite": bytes_of([array("f", [math.inf] + [0.0] * 7), *fine[1:]]),
        "zeros": bytes(len(fine) * 32),
        "too long": bytes_of([array("f", [2 * number for number in each]) for each in fine]),
    }


async def one_liar(here: World, behave: Callable[[Told], Awaitable[None]], digest: bytes = WORDS_DIGEST) -> Liar:
    """A node that says it is free and cheap, and so is asked first."""
    return await liar(
        here,
        behave,
        model=MODEL,
        service=Service.EMBED,
        model_digest=digest,
        slots=8,
        queue_max=64,
        prices=Prices(input=0, output=0),
    )


@pytest.mark.parametrize("how", bad_vectors(1))
async def test_what_is_no_vector_comes_from_elsewhere(how: str, autojump_clock: MockClock) -> None:
    """It is not paid, it is not passed on, and its node is not asked first again."""
    async with world() as here:
        verdicts: list[Verdict | None] = []

        async def lie(told: Told) -> None:
            try:
                verdicts.append(await give(told, bad_vectors(told.order.max_out)[how], told.order.max_out))
            except PeerUnreachable:
                verdicts.append(None)
            await hold_on(told)

        false = await one_liar(here, lie)
        net, books = await network_of(here, VectorEngine(slots=1, pause_s=0.3))
        await settled(net, 2)
        for _ in range(4):
            assert (await embed(net, MANY, books)).vectors == right(MANY)
            assert (await embed(net, FEW, books)).vectors == right(FEW)
        assert false.asked > 0
        assert Verdict.ACCEPTED not in verdicts
        paid = [each for each in books.settled if each.receipt.node == false.identity.peer and each.countersign.charge]
        assert not paid
        assert not books.held


async def test_the_length_of_vectors_does_not_change_between_nodes(autojump_clock: MockClock) -> None:
    """Nobody can tell who of two is right, but an answer never has both."""
    async with world() as here:

        async def lie(told: Told) -> None:
            vectors = [vector_of(str(number), 16) for number in range(told.order.max_out)]
            await trio.sleep(0.01)
            await give(told, bytes_of(vectors), len(vectors))

        await one_liar(here, lie)
        net, books = await network_of(here, VectorEngine(), VectorEngine())
        await settled(net, 3)
        for _ in range(4):
            try:
                got = await embed(net, MANY, books)
            except (AnswerRefused, JobFailed):
                continue
            assert len({len(vector) for vector in got.vectors}) == 1
        assert not books.held


async def test_answers_that_end_at_once_are_not_mixed_either(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Although others get their turn while vectors are looked at."""
    monkeypatch.setattr(embedding, "NUMBERS_AT_ONCE", 1)
    async with world() as here:

        def of_length(dimensions: int) -> Callable[[Told], Awaitable[None]]:
            async def give_those(told: Told) -> None:
                vectors = [vector_of(str(number), dimensions) for number in range(told.order.max_out)]
                await give(told, bytes_of(vectors), len(vectors))

            return give_those

        for dimensions in (8, 16):
            await one_liar(here, of_length(dimensions))
        net = await here.asker()
        await settled(net, 2)
        lengths: set[frozenset[int]] = set()
        for _ in range(20):
            try:
                got = await embed(net, MANY, Ledgerbook())
            except (AnswerRefused, JobFailed, RemoteProtocolError):
                continue
            lengths.add(frozenset(len(vector) for vector in got.vectors))
        assert lengths <= {frozenset({8}), frozenset({16})}
        assert lengths


async def test_a_node_that_dies_before_its_receipt_is_not_believed_alone(autojump_clock: MockClock) -> None:
    """All vectors are there: the last one is asked for again, so that somebody has signed for each part."""
    async with world() as here:

        async def die(told: Told) -> None:
            await told.accept()
            data = bytes_of([vector_of(text) for text in FEW])
            await told.talk.say(Piece(data=data, units=len(FEW)))
            await trio.sleep(0.1)
            await told.talk.stream.reset()

        dying = await one_liar(here, die)
        engine = VectorEngine(prices=Prices(input=10, output=10))
        net, books = await network_of(here, engine)
        await settled(net, 2)
        for _ in range(10):
            got = await embed(net, FEW, books)
            assert got.vectors == right(FEW)
            assert len(got.outcomes) == 1
            await trio.sleep(60)
        assert dying.asked
        assert FEW[-1:] in [list(job.inputs) for job in engine.jobs]
        assert not books.held


async def test_a_node_that_sends_without_end_is_stopped(autojump_clock: MockClock) -> None:
    """At 8,192 numbers for each input; its bytes are not kept any longer."""
    async with world() as here:
        sent = 0

        async def flood(told: Told) -> None:
            nonlocal sent
            await told.accept()
            try:
                while True:
                    await told.talk.say(Piece(data=bytes(32_768)))
                    sent += 32_768
            except CxError:
                await trio.lowlevel.checkpoint()

        await one_liar(here, flood)
        net, books = await network_of(here, VectorEngine(pause_s=0.5))
        await settled(net, 2)
        assert (await embed(net, FEW, books)).vectors == right(FEW)
        assert sent < 5 * 33 * 1024 + 3 * 65_536 + 20 * 32_768  # and what is on the way
        assert not books.held


async def test_a_liar_alone_makes_no_vectors(autojump_clock: MockClock) -> None:
    """Three answers are looked at, not more."""
    async with world() as here:

        async def lie(told: Told) -> None:
            await give(told, bytes(3), told.order.max_out)

        false = await one_liar(here, lie)
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        with pytest.raises(AnswerRefused, match="3 bytes are not 5 vectors"):
            await embed(net, FEW, books)
        assert false.asked == 3
        assert not books.held
