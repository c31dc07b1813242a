"""An answer that its asker refuses: disputed, not paid, and not held against the node for long."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Net, Outcome
from cxp2p.errors import AnswerRefused
from cxp2p.net.attempt import JUDGE_S
from cxp2p.records import Finish, Piece, Verdict
from worlds import Ledgerbook, ScriptedEngine, ask, chat_job, settled, world


async def judged(net: Net, books: Ledgerbook, fault: str, pause_s: float = 0.0) -> tuple[Outcome, list[Finish]]:
    """One job whose judge takes a while and then finds `fault`; how it ended, and of which ends the judge was told."""
    ends: list[Finish] = []

    async def judge(finish: Finish) -> str:
        ends.append(finish)
        await trio.sleep(pause_s)
        return fault

    async def take(piece: Piece) -> None:
        await trio.lowlevel.checkpoint()

    return await net.run(chat_job(max_tokens=20), take, books, judge=judge), ends


async def test_an_answer_that_is_refused_costs_nothing(autojump_clock: MockClock) -> None:
    """Both sides sign why; the next job goes to another node, and this one is still there."""
    async with world() as here:
        for _ in range(2):
            await here.node(ScriptedEngine())
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 2)
        with pytest.raises(AnswerRefused, match="not JSON"):
            await judged(net, books, "it is not JSON")
        (settlement,) = books.settled
        agreed = settlement.countersign
        assert (agreed.verdict, agreed.reason, agreed.charge) == (Verdict.DISPUTED, "it is not JSON", 0)
        assert not books.held
        refused = settlement.order.node
        outcome, ends = await judged(net, books, "")
        assert {refused, outcome.node} == {entry.offer.peer for entry in net.offers()}
        assert outcome.settlement.countersign.verdict is Verdict.ACCEPTED
        assert ends == [Finish.STOP]
        assert all(entry.suspended_until <= trio.current_time() for entry in net.offers())


async def test_the_only_node_may_try_again(autojump_clock: MockClock) -> None:
    """A request that one node answers wrongly does not take the node away from all others."""
    async with world() as here:
        await here.node(ScriptedEngine())
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        with pytest.raises(AnswerRefused):
            await judged(net, books, "it calls no tool")
        assert await ask(net, "still here", books) == "still here "


async def test_a_judge_that_takes_too_long_is_not_waited_for(autojump_clock: MockClock) -> None:
    """The node's receipt is not held up by whoever looks at the answer."""
    async with world() as here:
        await here.node(ScriptedEngine())
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        outcome, _ = await judged(net, books, "too late", pause_s=JUDGE_S + 1)
        assert outcome.settlement.countersign.verdict is Verdict.ACCEPTED


async def test_a_caller_that_leaves_while_its_answer_is_judged_still_pays(autojump_clock: MockClock) -> None:
    """All was delivered, and is settled."""
    async with world() as here:
        await here.node(ScriptedEngine())
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        with trio.move_on_after(2) as leaving:
            await judged(net, books, "", pause_s=3)
        assert leaving.cancel_called
        assert [each.countersign.verdict for each in books.settled] == [Verdict.ACCEPTED]
