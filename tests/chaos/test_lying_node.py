"""What a node gains that counts wrong, says too much or nothing, signs something else, or only wants every job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cxp2p.client import Net
from cxp2p.errors import CxError, JobFailed, JobRefused
from cxp2p.identity import identity_from_seed
from cxp2p.records import (
    Finish,
    Load,
    Piece,
    Prices,
    RefusalCode,
    Verdict,
)
from cxp2p.wire import encode_frame
from liars import Behaviour, Told, hold_on, liar
from worlds import Ledgerbook, ScriptedEngine, ask, chat_job, settled, world

BEST = Load(running=0, queued=0, first_piece_ms=1, units_per_s=10**6, loading_ms=0)
STRANGER = identity_from_seed(b"s" * 32)


async def run(net: Net, books: Ledgerbook, max_tokens: int | None = 20, **options: Any) -> list[Piece]:
    pieces: list[Piece] = []

    async def take(piece: Piece) -> None:
        pieces.append(piece)
        await trio.lowlevel.checkpoint()

    await net.run(chat_job(max_tokens=max_tokens), take, books, **options)
    return pieces


async def alone(behave: Behaviour, then: Callable[[Net, Ledgerbook], Awaitable[None]], **changes: Any) -> None:
    """One lying node and one asker."""
    async with world() as here:
        await liar(here, behave, **changes)
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        await then(net, books)
        assert not books.held


# Receipts.


@pytest.mark.parametrize(
    "changes",
    [
        {"out_units": 3, "charge": 9, "cum_charge": 9},
        {"in_units": 10**6, "charge": 10**6 + 4, "cum_charge": 10**6 + 4},
        {"charge": 1000},
        {"cum_charge": 1000},
        {"output_commit": b"x" * 32},
        {"t_first_ms": 9},
        {"finish": Finish.CANCELLED},
    ],
)
async def test_a_receipt_that_counts_wrong_is_not_paid(autojump_clock: MockClock, changes: dict[str, Any]) -> None:
    """The asker disputes it, pays nothing, and does not come back at once: the answer it has is not held against it."""
    verdicts: list[Verdict | None] = []

    async def cheat(told: Told) -> None:
        await told.accept()
        await told.say("a b ", 1, 2)
        answer = await told.sign(told.receipt(**changes))
        verdicts.append(answer.verdict if answer else None)
        assert answer is None or answer.charge == 0

    async def then(net: Net, books: Ledgerbook) -> None:
        try:
            await run(net, books)
        except JobFailed:
            assert changes.get("finish") is Finish.CANCELLED
        (entry,) = net.offers()
        assert sum(each.countersign.charge for each in books.settled) == 0
        assert entry.failures == 1
        assert entry.suspended_until > trio.current_time()

    await alone(cheat, then)
    assert verdicts == [Verdict.DISPUTED]


@pytest.mark.parametrize(
    "changes",
    [
        {"order_hash": b"x" * 32},
        {"gateway": STRANGER.peer},
        {"node": STRANGER.peer},
        {"lane": b"l" * 16},
        {"seq": 7},
        {"epoch": 7},
        {"model_digest": b"x" * 32},
        {"request_commit": b"x" * 32},
        {"prev_receipt": b"x" * 32},
        {"seed": 9},
        {"resume_of": b"r" * 16},
    ],
)
async def test_a_receipt_for_another_order_ends_nothing(autojump_clock: MockClock, changes: dict[str, Any]) -> None:
    """The job fails, the hold is void, and what looks like an answer never looks finished."""

    async def cheat(told: Told) -> None:
        await told.accept()
        await told.say("a ", 1)
        await told.sign(told.receipt(**changes))

    async def then(net: Net, books: Ledgerbook) -> None:
        with pytest.raises(JobFailed):
            await run(net, books)
        assert not books.settled
        assert net.offers()[0].failures == 1

    await alone(cheat, then)


async def test_a_receipt_of_another_signer_ends_nothing(autojump_clock: MockClock) -> None:
    """A receipt is the word of the node that took the order."""

    async def cheat(told: Told) -> None:
        await told.accept()
        await told.say("a ", 1)
        await told.sign(told.receipt(), STRANGER)

    async def then(net: Net, books: Ledgerbook) -> None:
        with pytest.raises(JobFailed):
            await run(net, books)
        assert not books.settled

    await alone(cheat, then)


async def test_a_replayed_receipt_ends_nothing(autojump_clock: MockClock) -> None:
    """The receipt of the job before, sent again, is not this job's."""
    kept = []

    async def cheat(told: Told) -> None:
        await told.accept()
        await told.say("a ", 1)
        kept.append(told.receipt())
        await told.sign(kept[0])

    async def then(net: Net, books: Ledgerbook) -> None:
        await run(net, books)
        with pytest.raises(JobFailed):
            await run(net, books)
        assert len(books.settled) == 1

    await alone(cheat, then)


@pytest.mark.parametrize("finish", [Finish.CANCELLED, Finish.HANDOFF, Finish.ERROR, Finish.TIMEOUT])
@pytest.mark.parametrize("pieces", [0, 1])
async def test_an_answer_that_the_node_broke_off_never_looks_finished(
    autojump_clock: MockClock, finish: Finish, pieces: int
) -> None:
    """Without a cancel of ours such a receipt is a failure: another node is asked, or the caller is told."""

    async def give_up(told: Told) -> None:
        await told.accept()
        for number in range(pieces):
            await told.say("x ", number)
        free = finish in (Finish.ERROR, Finish.TIMEOUT)
        honest = told.receipt(finish=finish)
        await told.sign(replace(honest, charge=0, cum_charge=0) if free else honest)

    async with world() as here:
        await liar(here, give_up, load=BEST)
        await here.node(ScriptedEngine())
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 2)
        if pieces:
            with pytest.raises(JobFailed):
                await run(net, books)
        else:
            assert "".join(piece.text for piece in await run(net, books)) == "one two three "
        assert not books.held


# Pieces.


async def test_more_units_than_ordered_are_not_taken(autojump_clock: MockClock) -> None:
    """The job ends with the piece that is too much, and costs nothing."""

    async def babble(told: Told) -> None:
        await told.accept()
        for number in range(100):
            await told.say("x ", number)
        await hold_on(told)

    async def then(net: Net, books: Ledgerbook) -> None:
        with pytest.raises(JobFailed):
            await run(net, books)
        assert len(books.voided) == 1

    await alone(babble, then)


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    [
        Piece(text="x" * 10_000, token_ids=()),
        Piece(text="", token_ids=(), reasoning="x" * 10_000),
        Piece(text="", token_ids=()),
    ],
    ids=["text", "reasoning", "nothing"],
)
@pytest.mark.parametrize(
    ("max_tokens", "bytes_max"), [(20, 300_000), pytest.param(None, 20_000_000, marks=pytest.mark.slow)]
)
async def test_text_without_units_ends_soon(
    autojump_clock: MockClock, piece: Piece, max_tokens: int | None, bytes_max: int
) -> None:
    """A node that sends text and no token ids cannot fill the asker's memory, whatever it offers to make."""
    sent = 0

    async def babble(told: Told) -> None:
        nonlocal sent
        await told.accept()
        while sent < 50_000_000:
            await told.talk.say(piece)
            sent += len(encode_frame(piece))
        await hold_on(told)

    async def then(net: Net, books: Ledgerbook) -> None:
        with pytest.raises(CxError):
            await run(net, books, max_tokens)
        assert sent < bytes_max

    huge = 2**31 - 1
    await alone(babble, then, context_units=huge, output_units_max=huge, prices=Prices(input=0, output=0))


async def test_units_without_end_end(autojump_clock: MockClock) -> None:
    """However much a node offers to make, an order asks for a bounded number of units."""
    ordered = []

    async def count(told: Told) -> None:
        ordered.append(told.order.max_out)
        await told.refuse(RefusalCode.BUSY)

    async def then(net: Net, books: Ledgerbook) -> None:
        with pytest.raises(JobRefused):
            await run(net, books, None)

    huge = 2**31 - 1
    await alone(count, then, context_units=huge, output_units_max=huge)
    assert ordered[0] <= 131_072


async def test_a_node_with_no_room_is_not_asked(autojump_clock: MockClock) -> None:
    """An offer of nought units is no offer."""

    async def never(told: Told) -> None:
        raise AssertionError("asked")

    async with world() as here:
        bad = await liar(here, never, output_units_max=0, load=BEST)
        await here.node(ScriptedEngine())
        net = await here.asker()
        await settled(net, 2)
        assert await ask(net) == "one two three "
        assert bad.asked == 0


async def test_pieces_that_drip_end_with_the_deadline_and_are_remembered(autojump_clock: MockClock) -> None:
    """A piece every two minutes keeps a job alive until its deadline; then the node is not the next one's choice."""

    async def drip(told: Told) -> None:
        await told.accept()
        for number in range(20):
            await told.say("x ", number)
            with trio.move_on_after(119):
                await hold_on(told)
                return

    async def then(net: Net, books: Ledgerbook) -> None:
        began = trio.current_time()
        with pytest.raises(JobFailed, match="timeout"):
            await run(net, books, deadline_s=600)
        assert trio.current_time() - began < 605
        assert net.offers()[0].failures == 1

    await alone(drip, then)


@pytest.mark.parametrize("accepts", [False, True])
async def test_a_node_that_says_nothing_is_left_in_time(autojump_clock: MockClock, accepts: bool) -> None:
    """Its heartbeat goes on, its jobs do not: the job goes elsewhere, and the next one too."""

    async def sit(told: Told) -> None:
        if accepts:
            await told.accept()
        await hold_on(told)

    async with world() as here:
        bad = await liar(here, sit, load=BEST)
        await here.node(ScriptedEngine())
        net = await here.asker()
        await settled(net, 2)
        for _ in range(3):
            assert await ask(net) == "one two three "
        assert bad.asked < 3
