"""What a node keeps of its orders: the contract of the papers, in memory and on disk."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from cxp2p.exposure import DISPUTE_MS, SILENCE_MS
from cxp2p.receipts import Lane, digest
from cxp2p.records import Receipt
from cxp2p_node.papers import NEVER_MS, Answer, LaneKept, OwedKept, Paper, Papers, PapersError, State, Sums, taken
from cxp2p_node.papers.memory import MemoryPapers
from cxp2p_node.papers.sqlite import SqlitePapers, open_papers, read_papers
from orders import GATEWAY, WALL, order, receipt_for

Opener = Callable[[], AbstractAsyncContextManager[Papers]]
GRANTED = Answer(state=State.SETTLED, agreed=14, note="", envelope=b"countersign")


@pytest.fixture(params=["memory", "sqlite"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens the same papers again and again, as a node does that is started again."""
    kept = MemoryPapers()

    @asynccontextmanager
    async def open_() -> AsyncIterator[Papers]:
        if request.param == "memory":
            yield kept
        else:
            async with open_papers(tmp_path / "receipts.db") as papers:
                yield papers

    return open_


def paper(number: int = 0, seq: int = 0, *, gateway: str = GATEWAY.peer, at_ms: int = WALL) -> Paper:
    lane = Lane(lane=number.to_bytes(16, "big"), seq=seq)
    return replace(taken(order(lane), f"order {number} {seq}".encode(), at_ms), gateway=gateway)


def receipt(units: int = 2, **changes: Any) -> tuple[Receipt, bytes]:
    made = receipt_for(order(), tuple(range(units)), **changes)
    return made, f"receipt {units} {changes}".encode()


async def done(papers: Papers, each: Paper, *, at_ms: int = WALL, **changes: Any) -> bytes:
    """An order that got a receipt. Returns the receipt's hash."""
    made, envelope = receipt(**changes)
    envelope += each.lane + bytes([each.seq])
    await papers.take(each)
    await papers.finish(each, made, envelope, at_ms)
    return digest(envelope)


async def test_an_order_is_known_after_a_restart(opener: Opener) -> None:
    """Where each lane stands: the last seq, its receipt, the sum; a job that ran then is lost."""
    async with opener() as papers:
        await papers.start(WALL)
        await done(papers, paper(1))
        head = await done(papers, paper(1, seq=1), units=3)
        await papers.take(paper(2))
        await papers.vouch(paper(2), b"voucher", 5)
    async with opener() as papers:
        kept = await papers.start(WALL)
        found = {each.seq: each for each in await papers.newest(10)}

    until = paper().replayable_until_ms
    assert list(kept.lanes) == [
        LaneKept(
            gateway=GATEWAY.peer,
            lane=paper(1).lane,
            seq=1,
            state=State.CLAIMED,
            head=head,
            cum_charge=16,
            replayable_until_ms=until,
        ),
        LaneKept(
            gateway=GATEWAY.peer,
            lane=paper(2).lane,
            seq=0,
            state=State.LOST,
            head=None,
            cum_charge=0,
            replayable_until_ms=until,
        ),
    ]
    assert found[1].order_envelope == b"order 1 1"
    assert [each.amount for each in kept.owed] == [14, 16]


async def test_a_paper_holds_what_was_signed(opener: Opener) -> None:
    """The four envelopes as they were, and the numbers that are listed."""
    async with opener() as papers:
        await papers.take(paper())
        await papers.vouch(paper(), b"voucher", 5)
        made, envelope = receipt()
        await papers.finish(paper(), made, envelope, WALL + 7)
        assert await papers.settle(paper(), GRANTED)
        (kept,) = await papers.newest(10)

    assert (kept.order_envelope, kept.voucher_envelope, kept.receipt_envelope, kept.countersign_envelope) == (
        b"order 0 0",
        b"voucher",
        envelope,
        b"countersign",
    )
    assert (kept.vouched, kept.charge, kept.cum_charge, kept.agreed) == (5, 14, 14, 14)
    assert (kept.in_units, kept.out_units, kept.finish, kept.ended_at_ms) == (10, 2, "stop", WALL + 7)
    assert (kept.state, kept.service, kept.model, kept.receipt_hash) == (
        State.SETTLED,
        "chat",
        "echo",
        digest(envelope),
    )


async def test_no_seq_is_used_twice_and_no_order_has_two_receipts(opener: Opener) -> None:
    """Whatever the node believes, its papers refuse it."""
    async with opener() as papers:
        await done(papers, paper())
        with pytest.raises(PapersError, match="seq 0 of this lane is used already"):
            await papers.take(paper())
        made, envelope = receipt(units=9)
        with pytest.raises(PapersError, match="no job runs for seq 0"):
            await papers.finish(paper(), made, envelope, WALL)
        with pytest.raises(PapersError, match="no job runs for seq 0"):
            await papers.vouch(paper(), b"voucher", 5)
        with pytest.raises(PapersError, match="no job runs for seq 0"):
            await papers.lose(paper())
        with pytest.raises(PapersError, match="no job runs"):
            await papers.finish(paper(7), made, envelope, WALL)


async def test_an_order_of_before_a_restart_gets_no_receipt(opener: Opener) -> None:
    """It ended when the node died."""
    async with opener() as papers:
        await papers.take(paper())
    async with opener() as papers:
        await papers.start(WALL)
        made, envelope = receipt()
        with pytest.raises(PapersError, match="no job runs"):
            await papers.finish(paper(), made, envelope, WALL)
        (kept,) = await papers.newest(1)
    assert kept.state is State.LOST


async def test_a_receipt_is_settled_once(opener: Opener) -> None:
    """A second countersign changes nothing, nor does one for an order without a receipt."""
    async with opener() as papers:
        await done(papers, paper())
        await papers.take(paper(1))
        dispute = Answer(state=State.DISPUTED, agreed=0, note="no", envelope=b"dispute")

        assert not await papers.settle(paper(1), dispute)
        assert not await papers.settle(paper(9), dispute)
        assert await papers.settle(paper(), GRANTED)
        assert not await papers.settle(paper(), dispute)
        assert {each.seq: each.state for each in await papers.newest(1, 1)} == {0: State.SETTLED}
        assert [each.state for each in await papers.newest(5, states=frozenset({State.OPEN}))] == [State.OPEN]


async def test_what_costs_nothing_is_not_claimed(opener: Opener) -> None:
    """A receipt over nothing needs no countersign."""
    async with opener() as papers:
        await done(papers, paper(), charge=0, cum_charge=0)
        kept = await papers.start(WALL)

        assert not await papers.claims([GATEWAY.peer], WALL + 10**6, 10)
        assert not kept.owed


async def test_what_is_claimed(opener: Opener) -> None:
    """Receipts that are unanswered for longer than a countersign takes, of these gateways, the oldest first."""
    late = WALL + SILENCE_MS
    async with opener() as papers:
        for number in range(5):
            await done(papers, paper(number), at_ms=WALL + number)
        await done(papers, paper(9, gateway="another"))
        await papers.settle(paper(0), GRANTED)
        await papers.put_off(paper(1), late + 1000, "busy")
        await papers.put_off(paper(2), NEVER_MS, "unknown")

        async def claimed(at_ms: int, *gateways: str) -> list[int]:
            return [each.lane[-1] for each in await papers.claims(gateways, at_ms, 2)]

        assert await claimed(late + 2, GATEWAY.peer) == []
        assert await claimed(late + 3, GATEWAY.peer) == [3]
        assert await claimed(late + 999, GATEWAY.peer) == [3, 4]
        assert await claimed(late + 1000, GATEWAY.peer) == [1, 3]
        assert await claimed(late + 1000, "another") == [9]
        assert await claimed(late + 1000, "another", GATEWAY.peer) == [1, 3]
        assert await claimed(late + 1000, "nobody") == []
        noted = {each.lane[-1]: (each.state, each.note) for each in await papers.newest(10)}
        assert noted[1] == (State.CLAIMED, "busy")
        assert noted[2] == (State.REFUSED, "unknown")


async def test_what_weighs_after_a_restart(opener: Opener) -> None:
    """Unanswered and refused receipts, less what vouchers cover; disputes of a day that were not made up for."""
    async with opener() as papers:
        keys = [await done(papers, paper(number)) for number in range(5)]
        for number in (1, 2, 3):
            await papers.settle(paper(number), Answer(state=State.DISPUTED, agreed=0, note="", envelope=b"x"))
        await papers.forgive(GATEWAY.peer, keys[2])
        await papers.put_off(paper(4), NEVER_MS, "no")
        await papers.take(paper(5))
        await papers.vouch(paper(5), b"voucher", 10)
        made, envelope = receipt()
        await papers.finish(paper(5), made, envelope, WALL)
    async with opener() as papers:
        owed = (await papers.start(WALL + 5)).owed
        later = (await papers.start(WALL + DISPUTE_MS)).owed

    def kept(key: bytes, amount: int = 14, *, disputed: bool = False) -> OwedKept:
        return OwedKept(gateway=GATEWAY.peer, receipt_hash=key, amount=amount, since_ms=WALL, disputed=disputed)

    last = kept(digest(envelope), 4)
    assert list(owed) == [
        kept(keys[0]),
        kept(keys[1], disputed=True),
        kept(keys[3], disputed=True),
        kept(keys[4]),
        last,
    ]
    assert list(later) == [kept(keys[0]), kept(keys[4]), last]


async def test_old_papers_are_dropped_in_steps(opener: Opener) -> None:
    """Older ones, oldest first, whatever became of them; never the order of a job that runs."""
    async with opener() as papers:
        await papers.take(paper(0))
        keys = [await done(papers, paper(number, at_ms=WALL + number)) for number in range(1, 6)]
        await papers.settle(paper(2), GRANTED)
        first = await papers.drop(WALL + 4, 100, 2)
        second = await papers.drop(WALL + 4, 100, 2)
        third = await papers.drop(WALL + 4, 100, 2)
        left = [each.lane[-1] for each in await papers.newest(10)]

    assert (first.count, list(first.owed)) == (2, [(GATEWAY.peer, keys[0])])
    assert (second.count, list(second.owed)) == (1, [(GATEWAY.peer, keys[2])])
    assert third.count == 0
    assert left == [5, 4, 0]


async def test_too_many_papers_are_dropped_what_is_owed_last(opener: Opener) -> None:
    """However many a stranger makes."""
    async with opener() as papers:
        for number in range(10):
            await done(papers, paper(number))
            if number % 2:
                await papers.settle(paper(number), GRANTED)
        counts = [(await papers.drop(0, 4, 3)).count for _ in range(4)]
        left = [each.lane[-1] for each in await papers.newest(10)]

    assert counts == [3, 3, 0, 0]
    assert left == [8, 6, 4, 2]


async def test_sums_are_of_all_papers(opener: Opener) -> None:
    """By state: how many, what they charge, what is paid."""
    async with opener() as papers:
        for number in range(3):
            await done(papers, paper(number))
        await papers.settle(paper(0), GRANTED)
        await papers.settle(paper(1), Answer(state=State.ADJUSTED, agreed=9, note="fewer", envelope=b"x"))
        sums = await papers.sums()

    assert sums == {State.SETTLED: Sums(1, 14, 14), State.ADJUSTED: Sums(1, 14, 9), State.CLAIMED: Sums(1, 14, 0)}


async def test_one_node_keeps_its_papers_and_others_may_read(tmp_path: Path) -> None:
    """A second node on them is refused; a reader sees what is there, and changes nothing."""
    path = tmp_path / "receipts.db"
    async with open_papers(path) as papers:
        await done(papers, paper())
        with pytest.raises(PapersError, match="are kept by another node"):
            async with open_papers(path):
                pass
        async with read_papers(path) as reading:
            assert [each.state for each in await reading.newest(5)] == [State.CLAIMED]
            with pytest.raises(PapersError, match="cannot be written"):
                await reading.take(paper(1))
    async with read_papers(path) as reading:
        assert len(await reading.newest(5)) == 1


def other_program(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE other (x)")


def newer_program(path: Path) -> None:
    async def make() -> None:
        async with open_papers(path):
            pass

    trio.run(make)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 99")


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)


@pytest.mark.parametrize(
    ("make", "fault"),
    [(other_program, "is not a node's papers"), (newer_program, "have version 99"), (garbage, "cannot be used")],
)
def test_files_that_are_not_ours_are_left_alone(make: Callable[[Path], None], fault: str, tmp_path: Path) -> None:
    """Another program's database, a newer one, garbage: refused with the reason, and not changed."""
    path = tmp_path / "receipts.db"
    make(path)
    before = path.read_bytes()

    async def open_it() -> None:
        async with open_papers(path):
            pass

    with pytest.raises(PapersError, match=fault):
        trio.run(open_it)
    assert path.read_bytes() == before


async def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    """When nothing more fits, an order is refused; what was there is there, and works again when there is room."""
    path = tmp_path / "receipts.db"
    async with open_papers(path) as papers:
        await papers.take(paper(0))
        await limit_pages(papers, 10)

        async def fill() -> None:
            for number in range(1, 200):
                await papers.take(replace(paper(number), order_envelope=os.urandom(2000)))

        with pytest.raises(PapersError, match="full"):
            await fill()
        count = len(await papers.newest(500))
        await limit_pages(papers, 10_000)
        await papers.take(paper(300))
        assert len(await papers.newest(500)) == count + 1


async def limit_pages(papers: SqlitePapers, pages: int) -> None:
    await papers.writer.do(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchall())
