"""What a node gains that only wants to be asked: by its load, its price, its refusals, its comings and goings."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from cxp2p.errors import CxError, JobFailed, JobRefused, PeerUnreachable
from cxp2p.records import (
    Failure,
    FailureCode,
    Load,
    Piece,
    Prices,
    RefusalCode,
    Verdict,
)
from liars import Behaviour, Told, hold_on, liar
from worlds import Ledgerbook, ScriptedEngine, ask, capability, chat_job, settled, world

BEST = Load(running=0, queued=0, first_piece_ms=1, units_per_s=10**6, loading_ms=0)


async def full(told: Told) -> None:
    await told.refuse(RefusalCode.BUSY, 0)


async def too_long(told: Told) -> None:
    await told.accept()
    await told.talk.say(Failure(code=FailureCode.CONTEXT_LENGTH, reason="no", limit=2**31 - 1, actual=2**31 - 1))


async def unsupported(told: Told) -> None:
    await told.accept()
    await told.talk.say(Failure(code=FailureCode.REQUEST_UNSUPPORTED, reason="no", limit=0, actual=0))


async def draining(told: Told) -> None:
    await told.refuse(RefusalCode.DRAINING)


async def dies(told: Told) -> None:
    await told.accept()
    await told.talk.stream.reset()


async def too_slow(told: Told) -> None:
    await told.accept()
    await told.talk.say(Failure(code=FailureCode.ASKER_TOO_SLOW, reason="no", limit=0, actual=0))


@pytest.mark.parametrize("behave", [full, too_long, unsupported, draining, dies, too_slow])
async def test_the_best_looking_nodes_cannot_turn_every_job_away(autojump_clock: MockClock, behave: Behaviour) -> None:
    """Idle, fast and free, and never willing, whatever the reason they give: the jobs go to the node that works."""
    async with world() as here:
        bad = [await liar(here, behave, load=BEST, slots=10_000) for _ in range(4 if behave is not unsupported else 1)]
        await here.node(ScriptedEngine(pause_s=0.01))
        net = await here.asker()
        await settled(net, len(bad) + 1)
        answers = []
        for _ in range(60):
            try:
                answers.append(await ask(net))
            except CxError as error:
                answers.append(str(error))
            await trio.sleep(0.5)

        good = answers.count("one two three ")
        assert good >= 55, answers
        assert sum(each.asked for each in bad) < 60


async def test_a_time_to_come_back_is_bounded(autojump_clock: MockClock) -> None:
    """A node cannot send a caller away for weeks."""

    async def away(told: Told) -> None:
        await told.refuse(RefusalCode.BUSY, 2**31 - 1)

    async with world() as here:
        await liar(here, away)
        net = await here.asker()
        await settled(net, 1)
        for _ in range(2):
            with pytest.raises(JobRefused) as caught:
                await ask(net)
            assert caught.value.retry_after_ms <= 60_000


async def test_a_node_that_is_slower_than_it_says_is_found_out(autojump_clock: MockClock) -> None:
    """What counts is the time that the first piece took, not what the offer says of it."""

    async def late(told: Told) -> None:
        await told.accept()
        await trio.sleep(30)
        await told.say("late ", 1)
        await told.sign(told.receipt())

    async with world() as here:
        bad = await liar(here, late, load=BEST, slots=10_000)
        await here.node(ScriptedEngine(pause_s=0.1))
        net = await here.asker()
        await settled(net, 2)
        for _ in range(20):
            await ask(net)
        assert bad.asked == 1


async def test_a_fortune_is_asked_in_vain(autojump_clock: MockClock) -> None:
    """A node that looks best and costs a hundred times the usual is asked when nobody else is left."""

    async def never(told: Told) -> None:
        await told.refuse(RefusalCode.BUSY)

    async with world() as here:
        dear = await liar(here, never, load=BEST, prices=Prices(input=10**8, output=2 * 10**8))
        for _ in range(2):
            await here.node(ScriptedEngine(pause_s=0.01))
        net = await here.asker()
        await settled(net, 3)
        for _ in range(10):
            assert await ask(net) == "one two three "
        assert dear.asked == 0


async def test_a_price_that_rises_after_the_look_is_not_paid(autojump_clock: MockClock) -> None:
    """The order stands at the price that was offered: the node may refuse it, not change it."""
    prices: list[Prices] = []

    async def dearer(told: Told) -> None:
        prices.append(told.order.prices)
        await told.accept()
        await told.say("a ", 1)
        charge = 10 * (3 + 2)
        answer = await told.sign(told.receipt(charge=charge, cum_charge=charge))
        assert answer is not None
        assert answer.verdict is Verdict.DISPUTED

    async with world() as here:
        bad = await liar(here, dearer)
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        before = capability().prices
        assert bad.advertiser is not None
        bad.offered = capability(prices=Prices(input=10**7, output=2 * 10**7))  # and no offer tells of it
        await ask(net, books=books)

        assert prices == [before]
        assert books.settled[0].countersign.charge == 0


async def test_a_digest_that_changes_is_followed_by_orders(autojump_clock: MockClock) -> None:
    """The order names the weights of the newest offer, and a receipt over others is worth nothing."""
    digests: list[bytes] = []

    async def swap(told: Told) -> None:
        digests.append(told.order.model_digest)
        await told.accept()
        await told.say("a ", 1)
        await told.sign(told.receipt())

    async with world() as here:
        bad = await liar(here, swap)
        net = await here.asker()
        await settled(net, 1)
        await ask(net)
        bad.offer(capability(model_digest=b"e" * 32))
        await trio.sleep(1)
        await ask(net)

        assert digests == [b"d" * 32, b"e" * 32]


async def test_a_node_that_comes_and_goes_keeps_its_failures(autojump_clock: MockClock) -> None:
    """A new heartbeat is no excuse for the jobs that failed."""

    async with world() as here:
        bad = await liar(here, dies, load=BEST)
        net = await here.asker()
        await settled(net, 1)
        for turn in range(1, 4):
            with pytest.raises((JobFailed, PeerUnreachable)):
                await ask(net)
            assert net.offers()[0].failures == turn
            await bad.network.kill(net.peer)
            await trio.sleep(30)
            await settled(net, 1)


async def test_callers_without_patience_do_not_shut_out_a_node(autojump_clock: MockClock) -> None:
    """A deadline that no node could meet is no node's fault."""
    async with world() as here:
        await here.node(ScriptedEngine(pause_s=2.0))
        net = await here.asker()
        await settled(net, 1)
        for _ in range(10):
            with pytest.raises(JobFailed, match="timeout"):
                await net.run(chat_job(), _ignore, Ledgerbook(), deadline_s=1)
        assert net.offers()[0].failures == 0
        assert await ask(net) == "one two three "


async def test_a_node_that_never_begins_is_found_out_by_callers_without_patience(autojump_clock: MockClock) -> None:
    """A job that was given up tells at least how long it waited."""

    async with world() as here:
        bad = await liar(here, hold_on, load=BEST)
        await here.node(ScriptedEngine())
        net = await here.asker()
        await settled(net, 2)
        answers = 0
        for _ in range(10):
            try:
                await net.run(chat_job(), _ignore, Ledgerbook(), deadline_s=20)
                answers += 1
            except JobFailed:
                await trio.sleep(1)
        assert answers >= 8
        assert bad.asked <= 2


async def _ignore(piece: Piece) -> None:
    await trio.lowlevel.checkpoint()
