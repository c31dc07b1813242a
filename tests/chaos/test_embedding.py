"""Vectors of many inputs over several nodes: in order, of one set of weights, whatever a node does. Virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Embeddings
from cxp2p.embed import AT_ONCE_MAX, PARTS_PER_PLACE
from cxp2p.errors import (
    CxError,
    InsufficientCredit,
    JobFailed,
    JobRefused,
    NoNode,
)
from cxp2p.net.memory import MemoryNetwork
from cxp2p.records import FailureCode, Finish, Order, RefusalCode, Verdict
from embedders import FEW, MANY, MODEL, WORDS_DIGEST, VectorEngine, embed, network_of, right, vector_of
from worlds import Ledgerbook, settled, world


def times_asked(engines: Sequence[VectorEngine]) -> dict[str, int]:
    """How often each input was worked on."""
    asked: dict[str, int] = {}
    for engine in engines:
        for job in engine.jobs:
            for each in job.inputs:
                assert isinstance(each, str)
                asked[each] = asked.get(each, 0) + 1
    return asked


# As it should be.


async def test_a_few_texts_are_one_order(autojump_clock: MockClock) -> None:
    """With its receipt; all tokens and vectors are paid, to the µcredit."""
    async with world() as here:
        engines = [VectorEngine(), VectorEngine()]
        net, books = await network_of(here, *engines)
        got = await embed(net, FEW, books)

    assert got.vectors == right(FEW)
    assert got.in_units == 10
    (outcome,), (settlement,) = got.outcomes, books.settled
    assert outcome.settlement == settlement
    assert settlement.countersign.verdict is Verdict.ACCEPTED
    assert settlement.countersign.charge == 10 + 2 * 5
    assert sum(len(engine.jobs) for engine in engines) == 1


async def test_the_library_asks_for_vectors_in_one_call(autojump_clock: MockClock) -> None:
    """A string is one text; who has just come waits for the first node; without one it says so."""
    async with world() as here:
        net = await here.asker()
        await here.node(VectorEngine())
        assert (await net.embed(MODEL, "text 0")).vectors == right(["text 0"])
        assert (await net.embed(MODEL, [(1, 2, 3)])).vectors == (vector_of((1, 2, 3)),)
        with pytest.raises(NoNode, match="no live node"):
            await net.embed("nobody:1b", FEW, patience_s=1)
        with pytest.raises(JobFailed) as failed:
            await net.embed(MODEL, ["word " * 300], truncate=False)
        assert (failed.value.code, failed.value.limit, failed.value.actual) == (FailureCode.CONTEXT_LENGTH, 256, 300)


async def test_many_texts_are_split_over_nodes_in_order(autojump_clock: MockClock) -> None:
    """Each part is an order with a receipt of its own; all nodes work at once."""
    async with world() as here:
        engines = [VectorEngine(), VectorEngine(), VectorEngine(slots=2)]
        net, books = await network_of(here, *engines)
        started = trio.current_time()
        got = await embed(net, MANY, books)
        took_s = trio.current_time() - started

    assert got.vectors == right(MANY)
    assert set(times_asked(engines).values()) == {1}
    assert got.in_units == sum(len(each.split()) for each in MANY)
    assert got.in_units == sum(settlement.receipt.in_units for settlement in books.settled)
    assert 4 < len(got.outcomes) == len(books.settled) <= 4 * PARTS_PER_PLACE
    assert {outcome.node for outcome in got.outcomes} == {entry.offer.peer for entry in net.offers()}
    assert took_s < 1000 / 16 * 0.1 / 4 * 2  # four slots; alone it takes four times as long
    assert not books.held


async def test_a_fast_node_does_more_parts(autojump_clock: MockClock) -> None:
    """A slow one does not keep all waiting for an equal share."""
    async with world() as here:
        fast, slow = VectorEngine(pause_s=0.05), VectorEngine(pause_s=0.5)
        net, books = await network_of(here, fast, slow)
        got = await embed(net, MANY, books)

    assert got.vectors == right(MANY)
    assert len(fast.jobs) >= 3 * len(slow.jobs) > 0


async def test_not_many_orders_run_at_once(autojump_clock: MockClock) -> None:
    """Whatever nodes say of their slots, and fewer if the caller wants that."""
    async with world() as here:
        engines = [VectorEngine(slots=50) for _ in range(2)]
        net, _ = await network_of(here, *engines)
        peak = 0

        class Counting(Ledgerbook):
            async def reserve(self, order: Order, envelope: bytes) -> None:
                nonlocal peak
                await super().reserve(order, envelope)
                peak = max(peak, len(self.held))

        await embed(net, MANY * 4, Counting())
        assert 2 < peak <= AT_ONCE_MAX
        peak = 0
        await net.run_embed(MODEL, MANY * 4, Counting(), at_once=3)
        assert peak == 3


# Weights.


async def test_vectors_of_different_weights_are_never_mixed(autojump_clock: MockClock) -> None:
    """The weights of most nodes make all of them, although a third node would be free."""
    async with world() as here:
        most = [VectorEngine(), VectorEngine()]
        other = VectorEngine(digest=b"q" * 32, pause_s=0.0)
        net, books = await network_of(here, *most, other)
        for _ in range(3):
            assert (await embed(net, MANY, books)).vectors == right(MANY)
            assert (await embed(net, FEW, books)).vectors == right(FEW)

    assert {settlement.receipt.model_digest for settlement in books.settled} == {WORDS_DIGEST}
    assert other.jobs == []


async def test_if_all_nodes_of_the_weights_fail_the_next_ones_make_all(autojump_clock: MockClock) -> None:
    """Even in the middle: what had come is dropped, so that all are alike."""
    async with world() as here:
        most = [VectorEngine(fail_at=3), VectorEngine(fail_at=3)]
        other = VectorEngine(digest=b"q" * 32, dimensions=16)
        net, books = await network_of(here, *most, other)
        got = await embed(net, MANY, books)

    assert got.vectors == right(MANY, 16, b"q" * 32)
    assert {outcome.settlement.receipt.model_digest for outcome in got.outcomes} == {b"q" * 32}
    assert got.in_units == sum(len(each.split()) for each in MANY)
    assert not books.held


# Failures.


async def test_an_engine_that_dies_in_the_middle_is_not_seen(autojump_clock: MockClock) -> None:
    """Only what is missing is asked for again, on the other node."""
    async with world() as here:
        dying, sound = VectorEngine(fail_at=2, slots=4), VectorEngine(pause_s=0.3, slots=1)
        net, books = await network_of(here, dying, sound)
        got = await embed(net, MANY, books)

    assert got.vectors == right(MANY)
    assert dying.jobs
    asked = times_asked([dying, sound])
    assert max(asked.values()) == 2
    salvaged = [each for job in dying.jobs for each in job.inputs[:32] if asked[str(each)] == 1]
    assert len(salvaged) >= 32
    assert not books.held


async def test_a_node_that_is_killed_in_the_middle_is_not_seen(autojump_clock: MockClock) -> None:
    """Its parts go to the other one; the killed one's orders are void."""
    async with world() as here:
        engines = [VectorEngine(), VectorEngine()]
        killed = await here.node(engines[0])
        await here.node(engines[1])
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 2)
        results: list[Embeddings] = []
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                results.append(await embed(net, MANY, books))

            nursery.start_soon(one)
            await trio.sleep(0.5)
            assert isinstance(killed.network, MemoryNetwork)
            await killed.network.kill(net.peer)

    assert results[0].vectors == right(MANY)
    assert books.voided
    assert not books.held


async def test_a_single_node_that_breaks_off_says_so(autojump_clock: MockClock) -> None:
    """And not that there is none: it is only not used for a while."""
    async with world() as here:
        net, books = await network_of(here, VectorEngine(fail_at=1))
        with pytest.raises(JobFailed) as failed:
            await embed(net, MANY, books)
        assert failed.value.code is FailureCode.ENGINE_DIED
        assert not books.held


async def test_a_part_that_fails_everywhere_fails_the_request(autojump_clock: MockClock) -> None:
    """The others are stopped at once; what they had delivered is settled."""
    async with world() as here:
        engines = [VectorEngine(context_units=40) for _ in range(3)]
        net, books = await network_of(here, *engines)
        with pytest.raises(JobFailed) as failed:
            await net.run_embed(MODEL, [*MANY, "word " * 41], books, truncate=False)
        assert (failed.value.code, failed.value.limit, failed.value.actual) == (FailureCode.CONTEXT_LENGTH, 40, 41)
        assert not books.held
        await trio.sleep(1)
        assert [engine.running for engine in engines] == [0, 0, 0]


async def test_who_leaves_stops_all_parts(autojump_clock: MockClock) -> None:
    """Within a tenth of a second, and owes what was made until then."""
    async with world() as here:
        engines = [VectorEngine(slots=2) for _ in range(3)]
        net, books = await network_of(here, *engines)
        with trio.move_on_after(0.75) as scope:
            await embed(net, MANY, books)
        assert scope.cancelled_caught
        left = scope.deadline
        await trio.sleep(1)
        stopped = [at for engine in engines for at in engine.stopped_at]
        assert len(stopped) == 6
        assert all(at - left < 0.1 for at in stopped)
        assert {settlement.receipt.finish for settlement in books.settled} == {Finish.CANCELLED, Finish.STOP}
        assert not books.held


async def test_a_deadline_ends_all_parts(autojump_clock: MockClock) -> None:
    """And is not tried again with other weights."""
    async with world() as here:
        hung = [VectorEngine(hang_at=1), VectorEngine(hang_at=1)]
        other = VectorEngine(digest=b"q" * 32)
        net, books = await network_of(here, *hung, other)
        started = trio.current_time()
        with pytest.raises(JobFailed) as failed:
            await embed(net, MANY, books, deadline_s=20)
        assert failed.value.code is FailureCode.TIMEOUT
        assert 20 <= trio.current_time() - started < 23
        assert other.jobs == []
        assert not books.held


# No room.


async def test_parts_without_room_wait_for_those_that_run(autojump_clock: MockClock) -> None:
    """Two nodes of one slot and no queue, and somebody else's work on one of them: everything is done all the same."""
    async with world() as here:
        engines = [VectorEngine(queue_max=0), VectorEngine(queue_max=0, slots=1)]
        net, books = await network_of(here, *engines)
        other = await here.asker()
        await settled(other, 2)
        results: list[Embeddings] = []
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                results.append(await embed(net, MANY, books))

            nursery.start_soon(partial(embed, other, FEW * 20, Ledgerbook()))
            await trio.sleep(0.1)
            nursery.start_soon(one)

    assert results[0].vectors == right(MANY)
    assert [engine.running_max for engine in engines] == [1, 1]


async def test_a_network_without_any_room_says_so(autojump_clock: MockClock) -> None:
    """At once, with when to come back."""
    async with world() as here:
        net, books = await network_of(here, *[VectorEngine(queue_max=0, hang_at=0) for _ in range(2)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(embed, net, MANY, books)
            await trio.sleep(1)
            with pytest.raises(JobRefused) as refused:
                await embed(net, MANY, books)
            nursery.cancel_scope.cancel()
        assert refused.value.code is RefusalCode.BUSY
        assert refused.value.retry_after_ms > 0


async def test_credit_for_one_part_at_a_time_is_enough(autojump_clock: MockClock) -> None:
    """Holds are for the most that an order may cost, so several at once may be more than there is."""

    class Poor(Ledgerbook):
        async def reserve(self, order: Order, envelope: bytes) -> None:
            await trio.lowlevel.checkpoint()
            if self.held:
                raise InsufficientCredit("one at a time")
            await super().reserve(order, envelope)

    async with world() as here:
        net, _ = await network_of(here, VectorEngine(), VectorEngine())
        books = Poor()
        assert (await embed(net, MANY, books)).vectors == right(MANY)
        assert not books.held


async def test_no_credit_at_all_is_told(autojump_clock: MockClock) -> None:
    """Once, not as an endless wait."""

    class Empty(Ledgerbook):
        async def reserve(self, order: Order, envelope: bytes) -> None:
            await trio.lowlevel.checkpoint()
            raise InsufficientCredit("none")

    async with world() as here:
        net, _ = await network_of(here, VectorEngine(), VectorEngine())
        with pytest.raises(InsufficientCredit):
            await embed(net, MANY, Empty())


async def test_who_takes_the_bytes_can_end_the_request(autojump_clock: MockClock) -> None:
    """It is told of every piece before that is kept."""
    sizes: list[int] = []

    def took(size: int) -> None:
        sizes.append(size)
        if sum(sizes) > 8 * 4 * 100:
            raise CxError("no more room")

    async with world() as here:
        engines = [VectorEngine(), VectorEngine()]
        net, books = await network_of(here, *engines)
        with pytest.raises(CxError, match="no more room"):
            await net.run_embed(MODEL, MANY, books, took=took)
        assert sum(sizes) <= 8 * 4 * (100 + 2 * 16)  # two nodes, 16 vectors in a piece
        await trio.sleep(1)
        assert [engine.running for engine in engines] == [0, 0]
        assert not books.held
