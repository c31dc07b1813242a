"""Vouchers in running jobs: long answers under a small limit, askers that send none or wrong ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cxp2p import protocols
from cxp2p.client import Net
from cxp2p.errors import JobRefused, NoNode, PeerUnreachable, RemoteProtocolError
from cxp2p.identity import Kind
from cxp2p.net.pump import Conversation, converse
from cxp2p.receipts import charge_of
from cxp2p.records import (
    Finish,
    Job,
    Order,
    Piece,
    ReceiptSent,
    RefusalCode,
    Usage,
    Verdict,
    VoucherSent,
)
from cxp2p.vouchers import make_voucher, reserve
from cxp2p.wire import encode
from cxp2p_node.engines import Counted, Emit
from strangers import REQUEST, Gate, gate, lane
from worlds import PRICES, Ledgerbook, ScriptedEngine, chat_job, settled, world

WINDOW = charge_of(PRICES, 0, 5 * 1024)  # what may be on its way of a long job


@dataclass
class LongEngine(ScriptedEngine):
    """Makes as many tokens as were ordered, `at_once` in each piece."""

    pause_s: float = 0.01
    at_once: int = 32
    context_units: int = 65_536
    output_units_max: int = 65_536
    slots: int = 32
    queue_max: int = 64
    running: set[int] = field(default_factory=set)

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        self.started += 1
        counted(3, 0)
        for start in range(0, max_out, self.at_once):
            await trio.sleep(self.pause_s)
            ids = tuple(range(start, min(max_out, start + self.at_once)))
            await emit(Piece(text="x", token_ids=ids))
            self.made += len(ids)
        return Usage(in_units=3, cached_units=0, out_units=max_out, finish=Finish.LENGTH)


async def ignore(piece: Piece) -> None:
    await trio.lowlevel.checkpoint()


async def until_done(net: Net, books: Ledgerbook, max_tokens: int) -> None:
    """Asks until the node has room for this gateway. Nothing else may keep it from being done."""
    done = False
    while not done:
        try:
            await net.run(chat_job("go", max_tokens=max_tokens), ignore, books)
            done = True
        except (JobRefused, NoNode) as error:  # it is left alone for as long as it said
            if isinstance(error, JobRefused) and error.code is not RefusalCode.EXPOSURE:
                raise
            await trio.sleep(1)


async def test_a_long_job_runs_under_a_small_limit(autojump_clock: MockClock) -> None:
    """60,000 tokens for a gateway that may owe 5,120: the vouchers cover the rest, and it never owes more."""
    limit = 2 * WINDOW
    async with world() as here:
        node = await here.node(engine := LongEngine(), exposure_max=limit)
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        worst = 0
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal worst
                while True:
                    await trio.sleep(0.05)
                    (account,) = node.serving._till.lanes.exposures._accounts.values()
                    (lanes,) = node.serving._till.lanes._lanes.values()
                    (one,) = lanes.values()
                    worst = max(worst, charge_of(PRICES, 3, engine.made) - one.vouched, account.reserved)

            nursery.start_soon(watch)
            await net.run(chat_job("go", max_tokens=60_000), ignore, books)
            nursery.cancel_scope.cancel()

        assert books.settled[0].receipt.out_units == 60_000
        assert books.settled[0].countersign.verdict is Verdict.ACCEPTED
        assert 4096 * 2 < worst <= limit
        amounts = [voucher.cum_amount for voucher in books.vouchers]
        assert [amount // 2 for amount in amounts[:5]] == [256, 768, 1792, 3840, 7936]
        assert amounts == sorted(set(amounts))
        (paper,) = await node.serving._till.papers.newest(5)
        assert (paper.vouched, paper.agreed) == (amounts[-1], books.settled[0].receipt.charge)


async def test_a_short_job_needs_no_voucher(autojump_clock: MockClock) -> None:
    """Under 256 tokens nothing is sent while it runs."""
    async with world() as here:
        await here.node(LongEngine())
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        await net.run(chat_job("go", max_tokens=255), ignore, books)

        assert books.settled[0].receipt.out_units == 255
        assert not books.vouchers


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_parallel_long_jobs_never_wait_for_each_other(autojump_clock: MockClock, seed: int) -> None:
    """Under a limit that has room for two or three at once all of twenty end, whatever their lengths and pace."""
    rng = Random(seed)
    async with world(latency_s=rng.choice([0.001, 0.05, 0.4])) as here:
        engine = LongEngine(pause_s=rng.choice([0.001, 0.05]), at_once=rng.choice([7, 100, 1024]))
        await here.node(engine, exposure_max=rng.choice([2, 3]) * (WINDOW + 1000))
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        lengths = [rng.choice([10, 300, 4000, 12_000]) for _ in range(20)]
        with trio.fail_after(3600):
            async with trio.open_nursery() as nursery:
                for length in lengths:
                    nursery.start_soon(until_done, net, books, length)

        assert sorted(each.receipt.out_units for each in books.settled) == sorted(lengths)
        assert {each.countersign.verdict for each in books.settled} == {Verdict.ACCEPTED}


# Who sends none, or wrong ones.


@asynccontextmanager
async def long_talk(door: Gate, **changes: Any) -> AsyncIterator[tuple[Conversation, Order]]:
    """A hand-made order for a long answer, asked."""
    order = door.order(REQUEST, lane(), max_out=60_000)
    most = charge_of(PRICES, order.max_in, order.max_out)
    order = replace(order, max_charge=most, cum_authorised=most, **changes)
    async with converse(door.network, door.node.network.peer) as talk:
        await talk.say(door.ask(order, REQUEST))
        yield talk, order


async def hear_units(talk: Conversation, units: int) -> int:
    """Hears pieces until at least so many units arrived, and returns how many did."""
    arrived = 0
    while arrived < units:
        event = await talk.hear()
        arrived += len(event.token_ids) if isinstance(event, Piece) else 0
    return arrived


async def test_who_sends_no_voucher_gets_no_more_than_was_reserved(autojump_clock: MockClock) -> None:
    """After 30 s of waiting the job ends, with a receipt for what was delivered; its finish is handoff."""
    async with gate(LongEngine()) as door:
        async with long_talk(door) as (talk, order):
            started, arrived = trio.current_time(), 0
            while not isinstance(event := await talk.hear(), ReceiptSent):
                arrived += len(event.token_ids) if isinstance(event, Piece) else 0
            receipt, waited = door.opened(event), trio.current_time() - started
            await talk.say(door.countersign(event))
        await door.node.serving.idle()

        assert receipt.finish is Finish.HANDOFF
        assert receipt.out_units == arrived
        assert receipt.charge <= reserve(order)
        assert arrived > 5 * 1024 - 100
        assert protocols.VOUCHER_TIMEOUT_S < waited < protocols.VOUCHER_TIMEOUT_S + 5
        assert door.exposure() == 0


async def test_who_sends_each_voucher_late_has_thirty_seconds_in_all(autojump_clock: MockClock) -> None:
    """A slot is not held by an asker that dawdles at every voucher."""
    async with gate(LongEngine()) as door, long_talk(door) as (talk, order):
        started, said = trio.current_time(), 0
        async with trio.open_nursery() as nursery:

            async def dawdle() -> None:
                nonlocal said
                while True:
                    await trio.sleep(20)
                    said += 5 * 1024
                    voucher = make_voucher(order, 0, said)
                    await talk.say(VoucherSent(envelope=door.identity.seal(Kind.VOUCHER, encode(voucher))))

            nursery.start_soon(dawdle)
            while not isinstance(event := await talk.hear(), ReceiptSent):
                pass
            nursery.cancel_scope.cancel()
        assert door.opened(event).finish is Finish.HANDOFF
        assert 30 < trio.current_time() - started < 60
        await talk.say(door.countersign(event))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"seq": 1}, Kind.VOUCHER),
        ({"lane": b"x" * 16}, Kind.VOUCHER),
        ({"cum_amount": 10**9}, Kind.VOUCHER),
        ({"cum_amount": 0}, Kind.VOUCHER),
        ({}, Kind.ORDER),
    ],
)
async def test_a_wrong_voucher_ends_the_job_and_is_owed_for(
    autojump_clock: MockClock, changes: dict[str, Any], kind: Kind
) -> None:
    """Another job's, one over what was authorised, one that does not rise, or a signature of another kind."""
    async with gate(LongEngine()) as door:
        async with long_talk(door) as (talk, order):
            arrived = await hear_units(talk, 300)
            voucher = replace(make_voucher(order, 0, arrived), **changes)
            await talk.say(VoucherSent(envelope=door.identity.seal(kind, encode(voucher))))
            with pytest.raises((PeerUnreachable, RemoteProtocolError)):
                await hear_units(talk, 10**6)
        await door.node.serving.idle()
        (paper,) = await door.node.serving._till.papers.newest(5)

        assert paper.voucher_envelope is None
        assert paper.finish == "cancelled"
        assert door.exposure() == paper.charge >= 600


async def test_vouchers_of_a_job_are_limited(autojump_clock: MockClock) -> None:
    """One that rises by a µcredit each time is heard 64 times."""
    async with gate(LongEngine()) as door:
        async with long_talk(door) as (talk, order):
            await hear_units(talk, 300)
            for number in range(protocols.VOUCHERS_PER_JOB_MAX + 1):
                voucher = replace(make_voucher(order, 0, 0), cum_amount=number + 1)
                await talk.say(VoucherSent(envelope=door.identity.seal(Kind.VOUCHER, encode(voucher))))
            with pytest.raises((PeerUnreachable, RemoteProtocolError)):
                await hear_units(talk, 10**6)
        await door.node.serving.idle()
        (paper,) = await door.node.serving._till.papers.newest(5)

        assert paper.vouched == protocols.VOUCHERS_PER_JOB_MAX


async def test_a_voucher_that_crosses_the_receipt_harms_nothing(autojump_clock: MockClock) -> None:
    """It comes too late to matter, and the countersign is heard after it."""
    async with gate(LongEngine()) as door:
        order = door.order(REQUEST, lane())
        async with converse(door.network, door.node.network.peer) as talk:
            await talk.say(door.ask(order, REQUEST))
            while not isinstance(event := await talk.hear(), ReceiptSent):
                pass
            voucher = make_voucher(order, 0, 1)
            await talk.say(VoucherSent(envelope=door.identity.seal(Kind.VOUCHER, encode(voucher))))
            await talk.say(door.countersign(event))
        await door.node.serving.idle()

        assert door.exposure() == 0
