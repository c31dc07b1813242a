"""What a node does about receipts that nobody answered: it trusts less, and claims."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from claimed import Till, agree, leave, shop, work
from cxp2p import protocols
from cxp2p.net import Stream, discover
from cxp2p.records import (
    ClaimRefused,
    ReceiptSent,
    Refusal,
    RefusalCode,
    Verdict,
)
from cxp2p_node import claims
from cxp2p_node.claims import CLAIM_INTERVAL_S
from cxp2p_node.papers import State


@pytest.fixture(autouse=True)
def quiet_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours pass here, in a network where nobody else is."""
    monkeypatch.setattr(discover, "EXCHANGE_S_FIRST", 300.0)


async def test_three_silences_end_the_work_and_claims_bring_it_back(autojump_clock: MockClock) -> None:
    """Each unanswered receipt takes a third off the limit; when the gateway answers the claims, all of it is back."""
    async with shop(exposure_max=3000) as one, one.open() as node:
        door = await one.asker(node)
        limits = []
        for number in range(3):
            await leave(door, number)
            await trio.sleep(31)
            limits.append(node.serving._till.lanes.exposures.limit(door.identity.peer, one.here.wall_ms()))
        (refused,) = await work(door, 4)
        owed = door.exposure()
        Till(door, agree(door)).open()
        await trio.sleep(600)  # the gateway did not speak of claims before

        assert limits == [2000, 1000, 0]
        assert isinstance(refused, Refusal)
        assert refused.code is RefusalCode.EXPOSURE
        assert owed == 27
        assert await one.states() == [State.SETTLED] * 3
        assert door.exposure() == 0
        assert isinstance((await work(door, 5, countersign=True))[-1], ReceiptSent)


async def test_a_claim_comes_soon_after_the_silence(autojump_clock: MockClock) -> None:
    """Half a minute of silence, then within ten seconds; it shows order, receipt and no voucher."""
    async with shop() as one, one.open() as node:
        door = await one.asker(node)
        till = Till(door, agree(door))
        till.open()
        sent = await leave(door)
        await trio.sleep(29)
        early = list(till.heard)
        await trio.sleep(1 + CLAIM_INTERVAL_S + 1)

        assert not early
        assert [claim.receipt for claim in till.heard] == [sent.envelope]
        assert till.heard[0].voucher is None
        assert await one.states() == [State.SETTLED]


@pytest.mark.parametrize(
    ("verdict", "charge", "state", "owed"),
    [
        (Verdict.ACCEPTED, 9, State.SETTLED, 0),
        (Verdict.ADJUSTED, 7, State.ADJUSTED, 0),
        (Verdict.DISPUTED, 0, State.DISPUTED, 9),
    ],
)
async def test_a_claim_is_settled_as_a_countersign_in_time(
    autojump_clock: MockClock, verdict: Verdict, charge: int, state: State, owed: int
) -> None:
    """Agreed to whole or in part it is paid; in dispute it stays held back."""
    async with shop() as one, one.open() as node:
        door = await one.asker(node)
        Till(door, agree(door, verdict=verdict, charge=charge, reason="so it is")).open()
        await leave(door)
        await trio.sleep(45)
        (paper,) = await one.papers.newest(2)

        assert (paper.state, paper.agreed, paper.note) == (state, charge, "so it is")
        assert paper.countersign_envelope is not None
        assert door.exposure() == owed


@pytest.mark.parametrize(
    "changes",
    [
        {"charge": 0},
        {"receipt_hash": b"x" * 32},
        {"verdict": Verdict.ADJUSTED, "charge": 10},
        {"verdict": Verdict.DISPUTED},
    ],
)
async def test_a_wrong_answer_settles_nothing(
    autojump_clock: MockClock, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for again a day later, here two hours, not at once."""
    monkeypatch.setattr(claims, "RETRY_MS_MAX", 7_200_000)
    async with shop() as one, one.open() as node:
        door = await one.asker(node)
        till = Till(door, agree(door, **changes))
        till.open()
        await leave(door)
        await trio.sleep(3600)

        assert await one.states() == [State.CLAIMED]
        assert door.exposure() == 9
        assert len(till.heard) == 1
        till.say = agree(door)
        await trio.sleep(7200)
        assert await one.states() == [State.SETTLED]


async def test_a_refusal_says_when_to_come_back(autojump_clock: MockClock) -> None:
    """Not before, and never if it is for good; what was refused is still owed."""
    async with shop() as one, one.open() as node:
        door = await one.asker(node)
        till = Till(door, lambda claim: ClaimRefused(reason="later", retry_after_ms=100_000))
        till.open()
        await leave(door)
        await trio.sleep(100)
        asked = len(till.heard)
        till.say = lambda claim: ClaimRefused(reason="never heard of it\n", retry_after_ms=0)
        await trio.sleep(7200)
        (paper,) = await one.papers.newest(2)

        assert asked == 1
        assert len(till.heard) == 2
        assert (paper.state, paper.note) == (State.REFUSED, "never heard of it ")
        assert door.exposure() == 9


async def test_claims_come_in_bounded_batches(autojump_clock: MockClock) -> None:
    """At most 64 on a stream, and one stream at a time."""
    async with shop() as one, one.open() as node:
        door = await one.asker(node)
        for number in range(150):
            await leave(door, number)
            if number % 3 == 2:  # or nothing more would be done for who leaves so often
                node.serving._till.lanes.exposures._accounts.clear()
        till = Till(door, agree(door))
        till.open()
        await trio.sleep(120)

        assert till.streams == [64, 64, 22]
        assert set(await one.states()) == {State.SETTLED}


async def hang(stream: Stream) -> None:
    await trio.sleep_forever()


async def end(stream: Stream) -> None:
    await stream.close()


async def babble(stream: Stream) -> None:
    await stream.send(b"\xff" * 1000)


@pytest.mark.parametrize("handle", [None, hang, end, babble])
async def test_a_gateway_that_does_not_answer_is_left_alone_for_longer_and_longer(
    autojump_clock: MockClock, handle: Callable[[Stream], Awaitable[None]] | None
) -> None:
    """It costs the node a stream an hour in the end, and others nothing: their claims go on meanwhile."""
    async with shop() as one, one.open() as node:
        silent, good = await one.asker(node), await one.asker(node)
        opened = 0

        async def count(stream: Stream) -> None:
            nonlocal opened
            opened += 1
            if handle is not None:
                await handle(stream)

        if handle is not None:
            silent.network.serve(protocols.CLAIM, count)
        Till(good, agree(good)).open()
        await leave(silent)
        await leave(good)
        await trio.sleep(45)
        settled_soon = (await one.states()).count(State.SETTLED)
        await trio.sleep(6 * 3600)

        assert settled_soon == 1
        assert (await one.states()).count(State.CLAIMED) == 1
        assert opened <= 6 + 6
        assert silent.exposure() == 9
