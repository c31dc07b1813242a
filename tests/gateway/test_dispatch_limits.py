"""What dispatch does with many jobs, no node, no credit and no disk; and what it tells of the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cxp2p.client import Outcome
from cxp2p.errors import InsufficientCredit, JobFailed, NoNode
from cxp2p.ledger import HoldState
from cxp2p.net.memory import MemoryNetwork
from cxp2p.records import FailureCode
from cxp2p_gateway.asking import Overloaded
from cxp2p_gateway.dispatch import DAY_MS, FORGOTTEN_STEP, UPKEEP_S, DispatchOptions, open_dispatch
from cxp2p_gateway.keys import Key
from cxp2p_gateway.metrics import Metrics
from cxp2p_gateway.statements import Statements
from cxp2p_gateway.store import StoreError
from cxp2p_gateway.store.sqlite import open_store
from gates import CALLER, CREDIT, OTHER, Disk, Gateway, gateway, open_gate
from worlds import ScriptedEngine, world

# Fail-over and limits.


async def test_each_order_of_a_job_has_its_own_hold(autojump_clock: MockClock) -> None:
    """The first node fails unseen: its hold is void, the second's is posted, never both at once."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine(fail_at=0, pause_s=0.01))
        await here.node(ScriptedEngine(pause_s=0.02))
        await gate.live(2)
        attempts = [(await gate.ask(generation=f"chatcmpl-{index}")).attempts for index in range(6)]

        assert 2 in attempts
        states = [hold.state for hold in gate.holds]
        assert (states.count(HoldState.POSTED), states.count(HoldState.VOIDED)) == (6, sum(attempts) - 6)
        assert gate.balance() == CREDIT - 6 * 9


async def test_without_credit_no_node_hears_of_the_job(autojump_clock: MockClock) -> None:
    """What the job may cost at most is not there: it is refused here, at once."""
    async with gateway(credit=100) as (here, gate):
        engine = ScriptedEngine()
        await here.node(engine)
        await gate.live(1)
        with pytest.raises(InsufficientCredit, match="100 are available"):
            await gate.ask()

        assert engine.started == 0
        assert gate.holds == []


async def test_jobs_at_once_share_the_credit(autojump_clock: MockClock) -> None:
    """With credit for two holds, the third job is refused while two run, and taken once one has ended."""
    async with world() as here:
        await here.node(ScriptedEngine(slots=4))
        rich = await open_gate(here)
        await rich.live(1)
        await rich.ask()
        amount = rich.holds[0].amount
        gate = await open_gate(here, credit=2 * amount)
        await gate.live(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gate.ask)
            nursery.start_soon(gate.ask)
            await trio.sleep(0.15)
            assert gate.held() == 2 * amount
            with pytest.raises(InsufficientCredit):
                await gate.ask()
            await gate.ask(caller=OTHER)

        assert gate.balance() == 2 * amount - 18
        await gate.ask()


async def test_many_jobs_of_many_accounts_at_once(autojump_clock: MockClock) -> None:
    """Forty jobs over two nodes, each on its account: every µcredit is where it should be."""
    async with gateway() as (here, gate):
        nodes = [await here.node(ScriptedEngine(slots=8, queue_max=32)) for _ in range(2)]
        await gate.live(2)
        async with trio.open_nursery() as nursery:
            for index in range(40):
                caller = CALLER if index % 4 else OTHER
                nursery.start_soon(lambda i=index, c=caller: gate.ask(generation=f"chatcmpl-{i}", caller=c))

        assert (gate.balance("user_1"), gate.balance("user_2")) == (CREDIT - 30 * 9, CREDIT - 10 * 9)
        assert sum(gate.balance(f"node:{node.network.peer}") for node in nodes) == 40 * 9


async def test_jobs_over_the_limit_are_told_when_to_come_back(autojump_clock: MockClock) -> None:
    """The gateway itself takes so many jobs at once; the next is refused at once, and taken when one has ended."""
    async with gateway(options=DispatchOptions(jobs_max=2, retry_after_s=3)) as (here, gate):
        await here.node(ScriptedEngine())
        await gate.live(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gate.ask)
            nursery.start_soon(gate.ask)
            await wait_all_tasks_blocked()
            assert gate.dispatch.running == 2
            with pytest.raises(Overloaded) as caught:
                await gate.ask()
            assert caught.value.retry_after_s == 3

        assert gate.dispatch.running == 0
        await gate.ask()


async def test_a_full_disk_fails_the_job_and_nothing_else(autojump_clock: MockClock) -> None:
    """No job is done that could not be held; upkeep goes on, and so do jobs once there is room."""
    async with gateway() as (here, gate):
        engine = ScriptedEngine()
        await here.node(engine)
        await gate.live(1)
        gate.disk.full = True
        with pytest.raises(StoreError):
            await gate.ask()
        await trio.sleep(30)
        gate.disk.full = False

        assert engine.started == 0
        await gate.ask()


# Finding a first node.


async def test_a_young_gateway_waits_for_its_first_node(autojump_clock: MockClock) -> None:
    """A job that comes two seconds before the first node is done, not refused."""
    done = trio.Event()

    async def one(gate: Gateway) -> None:
        await gate.ask()
        done.set()

    async with trio.open_nursery() as nursery, gateway() as (here, gate):
        nursery.start_soon(one, gate)
        await trio.sleep(2)
        await here.node(ScriptedEngine())
        await done.wait()

        assert gate.texts == ["one ", "two ", "three "]


async def test_a_young_gateway_waits_only_so_long(autojump_clock: MockClock) -> None:
    """A few seconds, or the caller's deadline."""
    async with gateway(options=DispatchOptions(patience_s=4)) as (_, gate):
        started = trio.current_time()
        with pytest.raises(NoNode):
            await gate.ask()
        assert trio.current_time() - started == pytest.approx(4)
        with pytest.raises(JobFailed) as caught:
            await gate.ask(deadline_s=1)

        assert caught.value.code is FailureCode.TIMEOUT
        assert trio.current_time() - started == pytest.approx(5)
        assert gate.dispatch.running == 0


async def test_old_receipts_are_dropped_in_small_steps(autojump_clock: MockClock) -> None:
    """By number and by age, the oldest first, without a pause as long as there are more than fit in a step."""
    options = DispatchOptions(kept_max=3, kept_days=1)
    async with gateway(options=options) as (here, gate):
        await here.node(ScriptedEngine(pause_s=0.01))
        await gate.live(1)
        for number in range(5):
            await gate.ask("word", generation=f"chatcmpl-{number}")
        kept = gate.disk.tables.settled
        await trio.sleep(UPKEEP_S)
        assert [each.id for each in kept.values()] == ["chatcmpl-2", "chatcmpl-3", "chatcmpl-4"]
        newest = list(kept.items())
        kept.clear()
        for number in range(2 * FORGOTTEN_STEP + 1):
            old = replace(newest[0][1], order_id=f"old-{number}", created_at_ms=here.wall_ms() - DAY_MS)
            kept[old.order_id] = old
        kept.update(newest)
        await trio.sleep(UPKEEP_S + 1)
        assert [each.id for each in kept.values()] == ["chatcmpl-2", "chatcmpl-3", "chatcmpl-4"]
        gate.disk.full = True
        await trio.sleep(2 * UPKEEP_S)  # a disk that is full is no reason to stop
        gate.disk.full = False
        await gate.ask("word", generation="chatcmpl-5")
        await trio.sleep(UPKEEP_S)
        assert [each.id for each in kept.values()] == ["chatcmpl-3", "chatcmpl-4", "chatcmpl-5"]


async def test_a_deadline_that_is_over_is_a_timeout(autojump_clock: MockClock) -> None:
    """A caller may allow less time than it takes to begin."""
    async with gateway(options=DispatchOptions(young_s=0)) as (here, gate):
        await here.node(ScriptedEngine())
        await gate.live(1)
        for deadline_s in (0.0, -1.0):
            with pytest.raises(JobFailed) as caught:
                await gate.ask(deadline_s=deadline_s)
            assert caught.value.code is FailureCode.TIMEOUT


async def test_a_gateway_that_knows_the_network_says_no_at_once(autojump_clock: MockClock) -> None:
    """Once discovery had its time, a model that nobody offers is no reason to wait."""
    async with gateway(options=DispatchOptions(young_s=20)) as (_, gate):
        await trio.sleep(20)
        before = trio.current_time()
        with pytest.raises(NoNode):
            await gate.ask()

        assert trio.current_time() == before


# What there is.


async def test_the_models_are_those_of_live_nodes(autojump_clock: MockClock) -> None:
    """Two nodes make one card; it goes with them, but that the model was there is remembered."""
    async with gateway() as (here, gate):
        assert (gate.dispatch.models(), gate.dispatch.ready()) == ((), False)
        assert not gate.dispatch.knows("echo")
        await here.node(ScriptedEngine())
        nodes = [await here.node(ScriptedEngine("other", context_units=size)) for size in (2048, 8192)]
        await gate.live(3)
        await trio.sleep(1)
        since_s = here.wall_ms() // 1000
        echo, other = gate.dispatch.models()

        assert gate.dispatch.ready()
        assert [(card.model, card.nodes, card.context_units) for card in (echo, other)] == [
            ("echo", 1, 4096),
            ("other", 2, 8192),
        ]
        assert since_s - 5 <= other.since_s <= since_s
        for node in nodes:
            assert isinstance(node.network, MemoryNetwork)
            node.network.hang()
        await trio.sleep(10)
        assert gate.dispatch.models() == (echo,)
        assert gate.dispatch.knows("other")
        assert gate.dispatch.knows("from the catalogue")
        assert not gate.dispatch.knows("unheard-of")


async def test_a_model_is_known_as_soon_as_it_is_offered(autojump_clock: MockClock) -> None:
    """Also before anybody listed it: the error for it is not `unknown`."""
    async with gateway() as (here, gate):
        await gate.live(0)
        await here.node(ScriptedEngine("new"))
        await gate.live(1)

        assert gate.dispatch.knows("new")


async def test_a_model_that_nobody_listed_is_remembered(autojump_clock: MockClock) -> None:
    """A node came and went, and its offer is forgotten: the model is out of reach, not unknown."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine())
        await gate.live(1)
        await trio.sleep(10)
        gate.net.discovery.directory._entries.clear()

        assert gate.dispatch.knows("echo")


# Upkeep.


async def test_a_forgotten_hold_expires(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A hold that no job ends ends by itself, and the log says that it is a bug."""
    async with gateway() as (here, gate):
        await gate.store.reserve("forgotten", "user_1", 500, here.wall_ms() + 60_000)
        await trio.sleep(50)
        assert gate.held() == 500
        await trio.sleep(20)

        assert gate.held() == 0
        assert "please report this" in caplog.text


async def test_the_hold_of_a_long_job_does_not_expire(autojump_clock: MockClock) -> None:
    """It lives longer than the job's own deadline."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine(pause_s=60.0))
        await gate.live(1)
        await gate.ask("one two three four", deadline_s=300)

        assert [hold.state for hold in gate.holds] == [HoldState.POSTED]


async def test_over_the_store_on_disk(mock_clock: MockClock, tmp_path: Path) -> None:
    """The same with SQLite: jobs are paid, and their receipts outlive the gateway."""
    mock_clock.rate = 20.0  # a thread writes here, which an autojumping clock does not wait for
    path = tmp_path / "gateway.db"
    async with world() as here:
        await here.node(ScriptedEngine(slots=4))
        net = await here.asker()
        outcomes: dict[str, Outcome] = {}
        async with open_store(path, here.wall_ms) as store, open_dispatch(net, store, here.wall_ms) as dispatch:
            await store.grant("g", CALLER.account, CREDIT)
            await store.put_key(Key(id=CALLER.key, account=CALLER.account, digest=b"", created_at_ms=0))
            gate = Gateway(dispatch, net, store, Disk(), Metrics())

            async def one(generation: str) -> None:
                outcomes[generation] = await gate.ask(generation=generation)

            async with trio.open_nursery() as nursery:
                for index in range(4):
                    nursery.start_soon(one, f"chatcmpl-{index}")
        async with open_store(path, here.wall_ms) as store, open_dispatch(net, store, here.wall_ms):
            statements = Statements(store, here.wall_ms)
            for generation, outcome in outcomes.items():
                assert await statements.receipts(CALLER, generation) == (outcome.settlement,)
            assert await statements.receipts(CALLER, "\ud800") == ()
            assert len(outcomes) == 4
            assert (await store.balance(CALLER.account)).available == CREDIT - 4 * 9
            assert await store.audit() == ()
