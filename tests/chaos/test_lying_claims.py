"""Claims of nodes that signed what they should not have: each is found, and kept to be shown."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from claimants import Scene, says, scene
from cxp2p.evidence import Wrong
from cxp2p.records import (
    ClaimRefused,
    Countersign,
    Finish,
    RefusalCode,
    Verdict,
)
from liars import Told

__all__ = ["scene"]  # a fixture


async def test_a_second_receipt_convicts(autojump_clock: MockClock, scene: Scene) -> None:
    """The first was countersigned; the second says something else. It is refused, kept, and its node is not asked."""
    await scene.open(says("a ", "b "))
    await scene.gate.ask()
    await scene.claimant.claim(scene.claimant.receipt(finish=Finish.CANCELLED))
    refused = await scene.claimant.claim(scene.claimant.receipt(finish=Finish.STOP))
    assert isinstance(refused, ClaimRefused)
    assert "signed two receipts" in refused.reason
    assert refused.retry_after_ms == 0
    (kept,) = await scene.gate.evidence()
    assert (kept.peer, kept.wrong) == (scene.node.identity.peer, Wrong.TWO_RECEIPTS)
    (entry,) = scene.gate.net.offers()
    assert entry.suspended_until > trio.current_time()
    assert scene.count("cxp2p_evidence_total", wrong="two-receipts") == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_digest": b"x" * 32}, "model_digest is not the order's"),
        ({"request_commit": b"x" * 32}, "request_commit is not the order's"),
        ({"lane": b"x" * 16}, "lane is not the order's"),
        ({"charge": 8}, "by the order's prices 7"),
        ({"in_units": 10**6, "charge": 10**6 + 4}, "the order allowed"),
    ],
)
@pytest.mark.parametrize("late", [True, False])
async def test_a_receipt_that_contradicts_its_order_convicts(
    autojump_clock: MockClock, scene: Scene, changes: dict[str, Any], reason: str, late: bool
) -> None:
    """In time or as a claim: it ends nothing, costs nothing, and can be shown to anybody."""

    async def behave(told: Told) -> None:
        await told.accept()
        await told.say("a ", 1)
        await told.say("b ", 2)
        if late:
            await told.talk.stream.reset()
        else:
            await told.sign(told.receipt(**changes))

    await scene.open(behave)
    await scene.gate.ask()
    refused = await scene.claimant.claim(scene.claimant.receipt(**changes))
    if late:
        assert isinstance(refused, ClaimRefused)
        assert reason in refused.reason
    (kept,) = await scene.gate.evidence()
    assert (kept.peer, kept.wrong) == (scene.node.identity.peer, Wrong.CONTRADICTION)
    assert reason in kept.says
    assert await scene.paid() == (0, 0, 0)
    (entry,) = scene.gate.net.offers()
    assert entry.suspended_until > trio.current_time()


async def test_too_many_units_in_time_are_a_dispute(autojump_clock: MockClock, scene: Scene) -> None:
    """No bytes tell who is right: the papers are kept, as what they are."""

    async def behave(told: Told) -> None:
        await told.accept()
        await told.say("a ", 1)
        await told.sign(told.receipt(out_units=2, charge=7, cum_charge=7))

    await scene.open(behave)
    await scene.gate.ask()
    (kept,) = await scene.gate.evidence()
    assert kept.wrong == Wrong.DISPUTE
    assert "out_units is 2, 1 arrived" in kept.says
    assert "cannot tell" in kept.says
    assert scene.count("cxp2p_receipts_total", verdict="disputed") == 1


async def test_output_that_is_not_what_arrived_is_a_dispute(autojump_clock: MockClock, scene: Scene) -> None:
    """Of the same length, so that nothing was lost on the way."""
    await scene.open(says("a ", "b "))
    await scene.gate.ask()
    answer = await scene.claimant.claim(scene.claimant.receipt(output_commit=b"x" * 32))
    assert isinstance(answer, Countersign)
    assert answer.verdict is Verdict.DISPUTED
    assert [each.wrong for each in await scene.gate.evidence()] == [Wrong.DISPUTE]
    (entry,) = scene.gate.net.offers()
    assert entry.suspended_until > trio.current_time()


async def test_a_node_that_refused_or_failed_has_no_claim(autojump_clock: MockClock, scene: Scene) -> None:
    """What costs nothing by its own word costs nothing later."""

    async def behave(told: Told) -> None:
        await told.refuse(RefusalCode.BUSY)

    await scene.open(behave)
    await scene.gate.ask()
    refused = await scene.claimant.claim(scene.claimant.receipt())
    assert isinstance(refused, ClaimRefused)
    assert "without a debt" in refused.reason
