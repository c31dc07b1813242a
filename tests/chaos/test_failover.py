"""What an asker sees when nodes die, hang, refuse and lie, and what a node does when askers do. Virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.errors import JobFailed, JobRefused, NoNode, PeerUnreachable
from cxp2p.net.memory import MemoryNetwork
from cxp2p.records import FailureCode, Finish, Piece, RefusalCode, Service, Verdict
from worlds import EPOCH_MS, Ledgerbook, ScriptedEngine, ask, chat_job, settled, world


async def test_a_job_is_answered_and_settled(autojump_clock: MockClock) -> None:
    """Order, pieces, receipt and countersign: both sides agree to the µcredit."""
    async with world() as here:
        node, net, books = await here.node(ScriptedEngine()), await here.asker(), Ledgerbook()
        await settled(net, 1)
        assert await ask(net, books=books) == "one two three "
        await node.serving.idle()

        (settlement,) = books.settled
        assert not books.held
        assert settlement.countersign.verdict is Verdict.ACCEPTED
        assert settlement.countersign.charge == settlement.receipt.charge == 3 + 6
        assert node.serving._till.lanes.exposure(net.peer, here.wall_ms()) == 0


async def test_a_node_that_dies_before_its_first_piece_is_never_seen(autojump_clock: MockClock) -> None:
    """The engine fails before a piece: the answer comes whole from the other node, and only it is paid."""
    async with world() as here:
        await here.node(ScriptedEngine(fail_at=0, pause_s=0.01))
        await here.node(ScriptedEngine())
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 2)
        for _ in range(6):
            assert await ask(net, books=books) == "one two three "

        assert len(books.settled) == 6
        assert not books.held


async def test_a_killed_node_is_never_seen(autojump_clock: MockClock) -> None:
    """The connection breaks before a piece: the job moves on at once."""
    async with world() as here:
        first, second = ScriptedEngine(hang_at=0), ScriptedEngine()
        node = await here.node(first)
        await here.node(second)
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 2)
        answers: list[str] = []
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                answers.append(await ask(net, books=books))

            for _ in range(4):
                nursery.start_soon(one)
            await trio.sleep(0.05)
            assert isinstance(node.network, MemoryNetwork)
            await node.network.kill(net.peer)

        assert answers == ["one two three "] * 4
        assert first.started > 0
        assert not books.held


async def test_a_node_that_hangs_is_noticed_by_its_heartbeat(autojump_clock: MockClock) -> None:
    """A stopped process never ends a stream: three missed beats do, and the job goes elsewhere."""
    async with world() as here:
        hung = ScriptedEngine(pause_s=0.5)
        node = await here.node(hung)
        net = await here.asker()
        await settled(net, 1)
        await here.node(ScriptedEngine())
        await settled(net, 2)
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            answers: list[str] = []

            async def one() -> None:
                answers.append(await ask(net))

            for _ in range(4):
                nursery.start_soon(one)
            await trio.sleep(0.1)
            assert isinstance(node.network, MemoryNetwork)
            node.network.hang()

        assert answers == ["one two three "] * 4
        assert hung.started > 0
        assert trio.current_time() - started < protocols.WATCH_BEAT_S * 5


async def test_a_node_that_hung_comes_back(autojump_clock: MockClock) -> None:
    """The directory drops a hung node, and uses it again after it woke."""
    async with world() as here:
        node, net = await here.node(ScriptedEngine()), await here.asker()
        await settled(net, 1)
        assert isinstance(node.network, MemoryNetwork)
        node.network.hang()
        await trio.sleep(5)
        with pytest.raises(NoNode):
            await ask(net)
        node.network.wake()
        await settled(net, 1)

        assert await ask(net) == "one two three "


async def test_after_the_first_piece_a_failure_is_told(autojump_clock: MockClock) -> None:
    """A node that dies in the middle fails the job: nothing is repeated, nothing looks finished."""
    async with world() as here:
        await here.node(ScriptedEngine(fail_at=2))
        net, books, texts = await here.asker(), Ledgerbook(), list[str]()

        async def take(piece: Piece) -> None:
            texts.append(piece.text)
            await trio.lowlevel.checkpoint()

        await settled(net, 1)
        with pytest.raises(JobFailed, match="engine_died"):
            await net.run(chat_job(), take, books)

        assert texts == ["one ", "two "]
        assert len(books.voided) == 1
        assert not books.held


async def test_a_cancelled_asker_stops_the_engine_within_100_ms(autojump_clock: MockClock) -> None:
    """The cancel reaches the engine at once; what was delivered is receipted, countersigned and paid."""
    async with world() as here:
        engine = ScriptedEngine()
        node = await here.node(engine)
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        with trio.move_on_after(0.35) as scope:
            await ask(net, " ".join(["word"] * 50), books)
        await node.serving.idle()

        (settlement,) = books.settled
        assert engine.stopped_at[0] - scope.deadline < 0.1
        assert settlement.receipt.finish is Finish.CANCELLED
        assert settlement.receipt.out_units == engine.made > 0
        assert settlement.receipt.in_units == 50
        assert settlement.countersign.verdict is Verdict.ACCEPTED


async def test_a_vanished_asker_stops_the_engine_within_100_ms(autojump_clock: MockClock) -> None:
    """When the connection breaks the engine stops and the node's queue is clean; what was delivered is still owed."""
    async with world() as here:
        engine = ScriptedEngine()
        node, net = await here.node(engine), await here.asker()
        await settled(net, 1)

        async def one() -> None:
            with pytest.raises(JobFailed, match="stopped in the middle"):
                await ask(net, " ".join(["word"] * 50))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await trio.sleep(0.3)
            broken_at = trio.current_time()
            await net.network.kill(node.network.peer)
            await node.serving.idle()

        assert engine.stopped_at[0] - broken_at < 0.1
        desk = node.benches[Service.CHAT, "echo"].desk
        assert (desk.running, desk.queued) == (0, 0)
        assert node.serving._till.lanes.exposure(net.peer, here.wall_ms()) == 50 + 2 * engine.made


async def test_a_cancel_in_the_queue_costs_nothing(autojump_clock: MockClock) -> None:
    """A job that is cancelled while it waits never runs, and its receipt is over nothing."""
    async with world() as here:
        engine = ScriptedEngine(slots=1)
        node = await here.node(engine)
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, net, " ".join(["word"] * 20))
            await trio.sleep(0.2)
            with trio.move_on_after(0.2):
                await ask(net, "never", books)
        await node.serving.idle()

        assert engine.started == 1
        (settlement,) = books.settled
        assert (settlement.receipt.finish, settlement.receipt.charge) == (Finish.CANCELLED, 0)


async def test_a_full_queue_refuses_with_a_time(autojump_clock: MockClock) -> None:
    """Over slots and queue the node says no, and when to come back; those that were taken all finish."""
    async with world() as here:
        await here.node(ScriptedEngine(slots=1, queue_max=2))
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        answers: list[str] = []
        refusals: list[JobRefused] = []

        async def one() -> None:
            try:
                answers.append(await ask(net, books=books))
            except JobRefused as refused:
                refusals.append(refused)

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(one)

        assert (len(answers), len(refusals)) == (3, 3)
        assert {refused.code for refused in refusals} == {RefusalCode.BUSY}
        assert all(refused.retry_after_ms >= 250 for refused in refusals)
        assert not books.held


async def test_a_slow_reader_never_makes_the_node_buffer(autojump_clock: MockClock) -> None:
    """An asker that stops reading stops the engine's pieces: the network's window and a few pieces, no more."""
    async with world() as here:
        engine = ScriptedEngine(pause_s=0.0, context_units=8192, output_units_max=8192)
        await here.node(engine)
        net = await here.asker()
        await settled(net, 1)
        reading = trio.Event()

        async def take(piece: Piece) -> None:
            await reading.wait()

        text = " ".join(["x" * 100] * 6000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(net.run, chat_job(text), take, Ledgerbook())
            await trio.sleep(30)
            made_while_stalled = engine.made
            reading.set()

        assert made_while_stalled < 4000
        assert engine.made == 6000


async def test_a_restarted_node_gets_a_new_lane(autojump_clock: MockClock) -> None:
    """A node that forgot the lane refuses it; the asker opens another and the job is done, unseen."""
    async with world() as here:
        node, net, books = await here.node(ScriptedEngine()), await here.asker(), Ledgerbook()
        await settled(net, 1)
        await ask(net, books=books)
        node.serving._till.lanes._lanes.clear()

        assert await ask(net, books=books) == "one two three "
        assert [each.order.seq for each in books.settled] == [0, 0]
        assert len({each.order.lane for each in books.settled}) == 2


async def test_one_lane_serves_jobs_one_after_another(autojump_clock: MockClock) -> None:
    """Sequential jobs chain in one lane; parallel ones open more, and give them back."""
    async with world() as here:
        await here.node(ScriptedEngine(pause_s=0.01))
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        for _ in range(3):
            await ask(net, books=books)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask, net, "a b", books)

        chain = books.settled[:3]
        assert [each.order.seq for each in chain] == [0, 1, 2]
        assert len({each.order.lane for each in books.settled}) == 4
        assert chain[2].receipt.cum_charge == sum(each.receipt.charge for each in chain)


async def test_a_request_that_no_node_can_hold_is_the_requests_fault(autojump_clock: MockClock) -> None:
    """Too long a prompt is told with both numbers, by one node, and none is suspended for it."""
    fault = JobFailed(FailureCode.CONTEXT_LENGTH, "too long", limit=4096, actual=9000)
    async with world() as here:
        for _ in range(2):
            await here.node(ScriptedEngine(fail_at=0, fault=fault))
        net = await here.asker()
        await settled(net, 2)
        with pytest.raises(JobFailed) as caught:
            await ask(net, "word " * 4000)

        assert (caught.value.code, caught.value.limit, caught.value.actual) == (fault.code, 4096, 9000)
        assert all(not entry.suspended_until for entry in net.offers())


async def test_a_roomier_node_is_tried_for_a_long_prompt(autojump_clock: MockClock) -> None:
    """A prompt that is too long for one node goes to one that offers more context."""
    fault = JobFailed(FailureCode.CONTEXT_LENGTH, "too long", limit=4096, actual=9000)
    async with world() as here:
        await here.node(ScriptedEngine(fail_at=0, pause_s=0.001, fault=fault))
        await here.node(ScriptedEngine(context_units=16_384))
        net = await here.asker()
        await settled(net, 2)

        for _ in range(4):
            assert await ask(net, "word " * 3000) == "word " * 1024


async def test_all_nodes_failing_is_told_once(autojump_clock: MockClock) -> None:
    """At most three nodes are tried; then the last fault is the answer and every hold is void."""
    async with world() as here:
        engines = [ScriptedEngine(fail_at=0) for _ in range(5)]
        for engine in engines:
            await here.node(engine)
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 5)
        with pytest.raises(JobFailed, match="engine_died"):
            await ask(net, books=books)

        assert sum(engine.started for engine in engines) == 3
        assert len(books.voided) == 3
        assert not books.held


async def test_the_deadline_ends_a_job(autojump_clock: MockClock) -> None:
    """A job that is not done in time fails as a timeout, and the node is told."""
    async with world() as here:
        engine = ScriptedEngine(hang_at=1)
        node, net, books = await here.node(engine), await here.asker(), Ledgerbook()
        await settled(net, 1)
        with pytest.raises(JobFailed, match="timeout"):
            await net.run(chat_job(), _ignore, books, deadline_s=5)
        await node.serving.idle()

        assert engine.stopped_at
        assert not books.held


async def _ignore(piece: Piece) -> None:
    await trio.lowlevel.checkpoint()


async def test_an_unknown_model_is_no_node(autojump_clock: MockClock) -> None:
    """A model that nobody offers is NoNode at once: there is no look-up on the hot path."""
    async with world() as here:
        await here.node(ScriptedEngine())
        net = await here.asker()
        await settled(net, 1)
        before = trio.current_time()
        with pytest.raises(NoNode):
            await ask(net, model="unheard-of")

        assert trio.current_time() == before


async def test_a_node_with_a_wrong_clock_is_not_used(autojump_clock: MockClock) -> None:
    """An offer from more than 30 s in the future is not believed."""

    def ahead() -> int:
        return EPOCH_MS + 60_000 + round(trio.current_time() * 1000)

    async with world() as here:
        await here.node(ScriptedEngine(), wall_ms=ahead)
        net = await here.asker()
        await trio.sleep(20)

        assert net.offers() == ()


async def test_a_draining_node_finishes_and_takes_no_more(autojump_clock: MockClock) -> None:
    """Drain: what runs is finished, the offer says so at once, and a new job is refused."""
    async with world() as here:
        node, net = await here.node(ScriptedEngine()), await here.asker()
        await settled(net, 1)
        answers: list[str] = []
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                answers.append(await ask(net))

            nursery.start_soon(one)
            await trio.sleep(0.1)
            await node.drain()
            await trio.sleep(1)

        assert answers == ["one two three "]
        with pytest.raises((NoNode, PeerUnreachable, JobRefused)):
            await ask(net)


async def test_many_jobs_leave_nothing_behind(autojump_clock: MockClock) -> None:
    """After 300 jobs there is no task, stream, lane or hold more than after the first few."""
    async with world(latency_s=0.0) as here:
        node, net, books = await here.node(ScriptedEngine(pause_s=0.0)), await here.asker(), Ledgerbook()
        await settled(net, 1)
        for _ in range(5):
            await ask(net, books=books)
        await node.serving.idle()
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(300):
            await ask(net, books=books)
        await node.serving.idle()

        assert trio.lowlevel.current_statistics().tasks_living <= before + 1
        assert not books.held
        assert len(node.serving._till.lanes._lanes[net.peer]) == 1
