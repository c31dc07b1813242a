"""The money of a job, with real nodes and a real asker in memory and virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from cxp2p.errors import AnswerRefused, JobFailed, JobRefused
from cxp2p.ledger import HoldState
from cxp2p.net.memory import MemoryNetwork
from cxp2p.records import Finish, Piece, Verdict
from cxp2p_gateway.store import StoreError
from gates import CALLER, CREDIT, OTHER, Gateway, gateway
from worlds import ScriptedEngine, chat_job

# The money of one job.


async def test_a_job_is_held_before_and_posted_after(autojump_clock: MockClock) -> None:
    """While it runs the most that it may cost is held; its receipt moves what it cost to the node."""
    async with gateway() as (here, gate):
        node = await here.node(ScriptedEngine())
        await gate.live(1)
        held: list[int] = []

        async def look(piece: Piece) -> None:
            held.append(gate.held())
            await trio.lowlevel.checkpoint()

        outcome = await gate.dispatch.run(CALLER, "chatcmpl-1", chat_job(), look, deadline_s=600)

        order = outcome.settlement.order
        assert held == [order.max_charge] * 3
        assert outcome.settlement.countersign.charge == 3 + 6
        assert gate.balance() == CREDIT - 9
        assert gate.balance(f"node:{node.network.peer}") == 9
        (hold,) = gate.holds
        assert (hold.id, hold.state, hold.charge) == (order.order_id.hex(), HoldState.POSTED, 9)
        assert gate.held() == 0


async def test_an_answer_that_is_refused_is_not_charged(autojump_clock: MockClock) -> None:
    """The caller has its credit, the node has nothing, and both receipts are kept under the one id."""
    async with gateway() as (here, gate):
        node = await here.node(ScriptedEngine())
        await gate.live(1)
        faults = ["it is not JSON", ""]

        async def judge(finish: Finish) -> str:
            await trio.lowlevel.checkpoint()
            return faults.pop(0)

        with pytest.raises(AnswerRefused):
            await gate.dispatch.run(CALLER, "chatcmpl-1", chat_job(), gate.take, deadline_s=60, judge=judge)
        assert (gate.balance(), gate.held()) == (CREDIT, 0)
        await gate.dispatch.run(CALLER, "chatcmpl-1", chat_job(), gate.take, deadline_s=60, judge=judge)
        assert gate.balance() == CREDIT - 9
        assert gate.balance(f"node:{node.network.peer}") == 9
        kept = await gate.receipts(CALLER, "chatcmpl-1")
        assert [each.countersign.verdict for each in kept] == [Verdict.DISPUTED, Verdict.ACCEPTED]
        assert [each.countersign.reason for each in kept] == ["it is not JSON", ""]


async def test_the_hold_is_on_disk_before_the_order_leaves(autojump_clock: MockClock) -> None:
    """A disk that takes a minute keeps the node from hearing of the job for a minute."""
    async with gateway() as (here, gate):
        engine = ScriptedEngine()
        await here.node(engine)
        await gate.live(1)
        gate.disk.slow = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gate.ask)
            await trio.sleep(60)
            assert engine.started == 0
            gate.disk.slow.set()

        assert engine.started == 1


async def test_the_receipt_is_kept_as_it_was_signed(autojump_clock: MockClock) -> None:
    """Read back from disk it is what the outcome said, values and bytes."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine())
        await gate.live(1)
        outcome = await gate.ask(generation="chatcmpl-1")
        await gate.ask("other words", generation="chatcmpl-2")

        assert await gate.receipts(CALLER, "chatcmpl-1") == (outcome.settlement,)
        (kept,) = await gate.store.generations("user_1", "chatcmpl-1")
        assert (kept.key, kept.model, kept.node) == ("key-1", "echo", outcome.node)
        assert (kept.charge, kept.in_units, kept.out_units, kept.finish) == (9, 3, 3, "stop")


@pytest.mark.parametrize("generation", ["chatcmpl-2", "", "\ud800", "x" * 10_000_000, "chatcmpl-1\x00"])
async def test_a_receipt_is_its_accounts_alone(autojump_clock: MockClock, generation: str) -> None:
    """Another account's, an unknown one and a stranger's garbage are nothing."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine())
        await gate.live(1)
        await gate.ask(generation="chatcmpl-1")

        assert await gate.receipts(OTHER, "chatcmpl-1") == ()
        assert await gate.receipts(CALLER, generation) == ()


async def test_a_changed_receipt_on_disk_is_told(autojump_clock: MockClock) -> None:
    """Signatures are checked again when a receipt is read."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine())
        await gate.live(1)
        await gate.ask()
        for order_id, kept in gate.disk.tables.settled.items():
            forged = kept.receipt_envelope[:-1] + bytes([kept.receipt_envelope[-1] ^ 1])
            gate.disk.tables.settled[order_id] = replace(kept, receipt_envelope=forged)

        with pytest.raises(StoreError, match="no longer what was signed"):
            await gate.receipts(CALLER, "chatcmpl-1")


# What does not cost anything.


async def test_a_refused_job_costs_nothing(autojump_clock: MockClock) -> None:
    """A full node says no before any work: the hold is void."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine(slots=1, queue_max=0))
        await gate.live(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gate.ask)
            await trio.sleep(0.1)
            with pytest.raises(JobRefused, match="busy"):
                await gate.ask(caller=OTHER)

        assert gate.balance("user_2") == CREDIT
        assert sorted(hold.state for hold in gate.holds) == [HoldState.POSTED, HoldState.VOIDED]


@pytest.mark.parametrize("fail_at", [0, 2])
async def test_a_failed_job_costs_nothing(autojump_clock: MockClock, fail_at: int) -> None:
    """Before the first piece and in the middle: no receipt, no charge."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine(fail_at=fail_at))
        await gate.live(1)
        with pytest.raises(JobFailed, match="engine_died"):
            await gate.ask()

        assert gate.balance() == CREDIT
        assert [hold.state for hold in gate.holds] == [HoldState.VOIDED]
        assert await gate.receipts(CALLER, "chatcmpl-1") == ()


async def test_a_job_past_its_deadline_costs_nothing_if_the_node_is_silent(autojump_clock: MockClock) -> None:
    """The deadline is the caller's; a node that hangs then gives no receipt."""
    async with gateway() as (here, gate):
        node = await here.node(ScriptedEngine(hang_at=0))
        await gate.live(1)
        assert isinstance(node.network, MemoryNetwork)
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                with pytest.raises(JobFailed, match="timeout"):
                    await gate.ask(deadline_s=2)

            nursery.start_soon(one)
            await trio.sleep(1)
            node.network.hang()

        assert gate.balance() == CREDIT
        assert [hold.state for hold in gate.holds] == [HoldState.VOIDED]


async def test_a_cancelled_job_pays_for_what_was_delivered(autojump_clock: MockClock) -> None:
    """The client left: the node's receipt for the part is posted, and the rest is free."""
    async with gateway() as (here, gate):
        engine = ScriptedEngine()
        await here.node(engine)
        await gate.live(1)
        with trio.move_on_after(0.35):
            await gate.ask(" ".join(["word"] * 50))

        (settlement,) = await gate.receipts(CALLER, "chatcmpl-1")
        assert settlement is not None
        assert settlement.receipt.finish is Finish.CANCELLED
        assert CREDIT - gate.balance() == settlement.countersign.charge == 50 + 2 * engine.made


async def test_a_cancel_without_a_receipt_costs_nothing(autojump_clock: MockClock) -> None:
    """The client left, and the node hangs: after a short grace the hold is void."""
    async with gateway() as (here, gate):
        node = await here.node(ScriptedEngine())
        await gate.live(1)
        assert isinstance(node.network, MemoryNetwork)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gate.ask, " ".join(["word"] * 50))
                await trio.sleep(0.35)
                node.network.hang()
                scope.cancel()

        assert len(gate.texts) > 0
        assert gate.balance() == CREDIT
        assert [hold.state for hold in gate.holds] == [HoldState.VOIDED]


@pytest.mark.parametrize("cancel_ms", range(0, 500, 20))
async def test_a_cancel_at_any_time_ends_the_hold(autojump_clock: MockClock, cancel_ms: int) -> None:
    """Whenever the client leaves, also while the disk is waited for, no hold is left open and no job is counted."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine())
        await gate.live(1)
        gate.disk.slow = trio.Event()
        async with trio.open_nursery() as nursery:
            client = trio.CancelScope()
            client.deadline = trio.current_time() + cancel_ms / 1000
            nursery.start_soon(_ask_within, gate, client)
            await trio.sleep(0.1)
            gate.disk.slow.set()

        assert all(hold.state is not HoldState.OPEN for hold in gate.holds)
        assert gate.dispatch.running == 0


async def _ask_within(gate: Gateway, scope: trio.CancelScope) -> None:
    with scope:
        await gate.ask()
