"""The money and the receipts of embeddings, with real nodes and a real asker in memory and virtual time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Embeddings
from cxp2p.errors import CxError, InsufficientCredit, JobFailed, NoNode
from cxp2p.records import FailureCode, Service, Verdict
from cxp2p_gateway.asking import Overloaded
from cxp2p_gateway.dispatch import DispatchOptions
from cxp2p_gateway.store import GENERATIONS_MAX
from embedders import FEW, MANY, MODEL, VectorEngine, right
from gates import CALLER, CREDIT, OTHER, Gateway, gateway
from worlds import ScriptedEngine


def nothing(size: int) -> None:
    """Has room for everything."""


async def embed(
    gate: Gateway, inputs: Sequence[str], generation: str = "embd-1", *, model: str = MODEL, deadline_s: float = 600.0
) -> Embeddings:
    return await gate.dispatch.embed(
        CALLER, generation, model, inputs, truncate=True, took=nothing, deadline_s=deadline_s
    )


async def test_all_parts_are_paid_to_the_nodes_that_did_them(autojump_clock: MockClock) -> None:
    """Each is held before and posted after; all receipts are kept under one id, for its account only."""
    async with gateway() as (here, gate):
        nodes = [await here.node(VectorEngine()) for _ in range(3)]
        await gate.live(3)
        got = await embed(gate, MANY)
        kept = await gate.receipts(CALLER, "embd-1")

        assert got.vectors == right(MANY)
        assert len(got.outcomes) > 4
        cost = sum(len(each.split()) for each in MANY) + 2 * len(MANY)
        assert sum(outcome.settlement.countersign.charge for outcome in got.outcomes) == cost
        assert gate.balance() == CREDIT - cost
        assert sum(gate.balance(f"node:{node.network.peer}") for node in nodes) == cost
        assert all(gate.balance(f"node:{node.network.peer}") for node in nodes)
        assert gate.held() == 0
        assert {each.order_envelope for each in kept} == {each.settlement.order_envelope for each in got.outcomes}
        assert sum(each.receipt.in_units for each in kept) == got.in_units
        assert await gate.receipts(OTHER, "embd-1") == ()


async def test_a_part_that_broke_off_costs_nothing(autojump_clock: MockClock) -> None:
    """What is asked for again elsewhere is paid there, once."""
    async with gateway() as (here, gate):
        dying = await here.node(VectorEngine(fail_at=2))
        await here.node(VectorEngine())
        await gate.live(2)
        assert (await embed(gate, MANY)).vectors == right(MANY)

        assert gate.balance(f"node:{dying.network.peer}") == 0
        assert gate.balance() >= CREDIT - sum(len(each.split()) for each in MANY) - 2 * len(MANY)
        assert gate.held() == 0
        assert all(each.countersign.verdict is Verdict.ACCEPTED for each in await gate.receipts(CALLER, "embd-1"))


async def test_little_credit_does_one_part_after_another(autojump_clock: MockClock) -> None:
    """What orders may cost at most is more than they cost; too little for one of them is an error."""
    async with gateway(credit=15_500) as (here, gate):
        for _ in range(2):
            await here.node(VectorEngine())
        await gate.live(2)
        got = await embed(gate, MANY[:300])
        assert got.vectors == right(MANY[:300])
        most = [outcome.settlement.order.max_charge for outcome in got.outcomes]
        assert len(most) == 4
        assert 2 * min(most) > 15_500
        with pytest.raises(InsufficientCredit):
            await embed(gate, [" ".join(MANY)] * 200)
        assert gate.held() == 0


async def test_a_large_request_takes_no_more_jobs_than_there_is_room_for(autojump_clock: MockClock) -> None:
    """It is slower then; and while it runs its jobs count, so that the next one is told to come back."""
    async with gateway(options=DispatchOptions(jobs_max=3)) as (here, gate):
        engines = [VectorEngine(slots=4) for _ in range(3)]
        for engine in engines:
            await here.node(engine)
        await gate.live(3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(embed, gate, MANY)
            await trio.sleep(0.5)
            assert gate.dispatch.running == 3
            assert sum(engine.running for engine in engines) == 3
            with pytest.raises(Overloaded):
                await embed(gate, FEW)
        assert gate.dispatch.running == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(embed, gate, FEW)
            await trio.sleep(0.05)
            assert gate.dispatch.running == 1


async def test_no_request_has_more_receipts_than_are_shown(autojump_clock: MockClock) -> None:
    """2,048 long texts on many nodes: the parts stay few."""
    async with gateway(credit=10**12) as (here, gate):
        for _ in range(4):
            await here.node(VectorEngine(slots=16, queue_max=64, pause_s=0.01))
        await gate.live(4)
        got = await embed(gate, ["word " * 400] * 2048)
        assert len(got.outcomes) < GENERATIONS_MAX
        assert len(await gate.receipts(CALLER, "embd-1")) == len(got.outcomes)


async def test_a_young_gateway_waits_for_its_first_node(autojump_clock: MockClock) -> None:
    """As for chats: for a moment, then it says that there is none."""
    async with gateway() as (here, gate):
        async with trio.open_nursery() as nursery:

            async def late() -> None:
                assert (await embed(gate, FEW)).vectors == right(FEW)

            nursery.start_soon(late)
            await trio.sleep(1)
            assert gate.dispatch.running == 1
            nursery.cancel_scope.cancel()
        await here.node(VectorEngine())
        assert (await embed(gate, FEW)).vectors == right(FEW)
        with pytest.raises(NoNode):
            await embed(gate, FEW, model="nobody:1b")
        with pytest.raises(JobFailed) as failed:
            await embed(gate, FEW, model="nobody:1b", deadline_s=1)
        assert failed.value.code is FailureCode.TIMEOUT


async def test_a_model_is_listed_by_its_service(autojump_clock: MockClock) -> None:
    """Nobody has to ask for embeddings first; a chat with an embedding model finds no node."""
    async with gateway() as (here, gate):
        await here.node(VectorEngine(), ScriptedEngine())
        await gate.live(1)
        await trio.sleep(2)
        assert [(card.model, card.service) for card in gate.dispatch.models()] == [
            ("echo", Service.CHAT),
            (MODEL, Service.EMBED),
        ]
        with pytest.raises(NoNode):
            await gate.ask(model=MODEL)
        with pytest.raises(NoNode):
            await embed(gate, FEW, model="echo")


async def test_whoever_takes_the_vectors_may_refuse_them(autojump_clock: MockClock) -> None:
    """The gateway's memory is full: nothing stays held, and nothing runs on."""

    def full(size: int) -> None:
        raise CxError("no room")

    async with gateway() as (here, gate):
        engine = VectorEngine()
        await here.node(engine)
        await gate.live(1)
        with pytest.raises(CxError, match="no room"):
            await gate.dispatch.embed(CALLER, "embd-1", MODEL, FEW, truncate=True, took=full, deadline_s=600)
        await trio.sleep(3)
        assert engine.running == 0
        assert gate.held() == 0
