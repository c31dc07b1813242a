"""Nodes that send what is no page of the job: not paid, not passed on, and not asked first again. Virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

import cxp2p.scrape
from cxp2p import receipts
from cxp2p.errors import AnswerRefused, CxError, JobFailed
from cxp2p.records import Finish, PageFault, Piece, Prices, ScrapedPage, Service, Verdict
from cxp2p.scrape import MODEL
from cxp2p.units import BYTES_PER_PAGE_MAX, Output
from cxp2p.wire import encode_bare_frame, encode_uvarint
from liars import Liar, Told, hold_on, liar
from scrapers import PageEngine, frames_of, network_of, page_of, right, scrape, urls_of
from worlds import Ledgerbook, World, settled, world

URLS = urls_of(hosts=2, each=3)
FREE = Prices(input=0, output=0)


async def give(told: Told, data: bytes, units: int, *after: Piece, finish: Finish = Finish.STOP) -> Verdict | None:
    """An answer of these bytes, with an honest receipt for it; what the asker said to that."""
    await told.accept()
    output = Output(Service.SCRAPE)
    size = 16_384
    parts = [data[start : start + size] for start in range(0, max(1, len(data)), size)]
    pieces = [*(Piece(data=part) for part in parts[:-1]), Piece(data=parts[-1], units=units), *after]
    for piece in pieces:
        output.add(piece)
        await told.talk.say(piece)
    order = told.order
    charge = receipts.charge_owed(order.prices, finish, 3, output.units)
    countersign = await told.sign(
        told.receipt(
            out_units=output.units,
            output_commit=output.commit(),
            finish=finish,
            charge=charge,
            cum_charge=order.cum_authorised - order.max_charge + charge,
        )
    )
    return countersign.verdict if countersign else None


async def one_liar(here: World, behave: Callable[[Told], Awaitable[None]], prices: Prices = FREE) -> Liar:
    return await liar(here, behave, model=MODEL, service=Service.SCRAPE, slots=8, queue_max=64, prices=prices)


def fine(count: int) -> list[ScrapedPage]:
    return [page_of(f"https://lie.example/p{number}", number) for number in range(count)]


LIES: dict[str, Callable[[int], tuple[bytes, int]]] = {
    "a wrong number": lambda count: (frames_of([*fine(count)[:-1], replace(fine(1)[0], number=count)]), count),
    "a page twice": lambda count: (frames_of([fine(1)[0], *fine(count)]), count),
    "a page too few": lambda count: (frames_of(fine(count)[:-1]), count - 1),
    "no page": lambda count: (b"", 0),
    "a frame that is cut off": lambda count: (frames_of(fine(count))[:-1], count - 1),
    "a page too long": lambda count: (encode_uvarint(BYTES_PER_PAGE_MAX + 1) + b"x" * 70_000, 0),
    "no record": lambda count: (b"\x01\x00" * count, count),
    "units for faults": lambda count: (
        b"".join(encode_bare_frame(ScrapedPage(number=number, fault=PageFault.TIMEOUT)) for number in range(count)),
        count,
    ),
    "units before pages": lambda count: (frames_of(fine(count))[:1], count),
    "fewer units than pages": lambda count: (frames_of(fine(count)), count - 1),
}


@pytest.mark.parametrize("how", LIES)
async def test_what_is_no_page_of_the_job_comes_from_elsewhere(how: str, autojump_clock: MockClock) -> None:
    """It is not paid, nothing of it is passed on, and its node does not keep the host."""
    async with world() as here:
        verdicts: list[Verdict | None] = []

        async def lie(told: Told) -> None:
            try:
                verdicts.append(await give(told, *LIES[how](told.order.max_out)))
            except CxError:
                verdicts.append(None)
            await hold_on(told)

        false = await one_liar(here, lie, Prices(input=1_000_000, output=2_000_000))
        net, books = await network_of(here, PageEngine())
        await settled(net, 2)
        for turn in range(6):
            urls = [url.replace("h0", f"h0-{turn}") for url in URLS]
            assert (await scrape(net, urls, books)).pages == right(urls)

        assert false.asked > 0
        assert Verdict.ACCEPTED not in verdicts
        paid = [each for each in books.settled if each.receipt.node == false.identity.peer and each.countersign.charge]
        assert not paid
        assert not books.held


async def test_units_without_bytes_are_not_paid_either(autojump_clock: MockClock) -> None:
    """A piece that is nothing but units, after all pages."""
    async with world() as here:

        async def lie(told: Told) -> None:
            faults = [ScrapedPage(number=number, fault=PageFault.TIMEOUT) for number in range(told.order.max_out)]
            await give(told, frames_of(faults), 0, Piece(units=told.order.max_out))

        false = await one_liar(here, lie, Prices(input=1_000_000, output=2_000_000))
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        with pytest.raises((AnswerRefused, JobFailed)):
            await scrape(net, URLS, books)

        assert false.asked
        assert not any(each.countersign.charge for each in books.settled)


async def test_a_node_that_dies_before_its_receipt_is_not_believed_alone(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """All pages are there: one is asked for again, so that somebody has signed for each share."""
    monkeypatch.setattr(cxp2p.scrape, "HOME_S", 60.0)
    async with world() as here:

        async def die(told: Told) -> None:
            await told.accept()
            await told.talk.say(Piece(data=frames_of(right(URLS[::2])), units=3))
            await trio.sleep(0.1)
            await told.talk.stream.reset()

        dying = await one_liar(here, die)
        engine = PageEngine(prices=Prices(input=10, output=10))
        net, books = await network_of(here, engine)
        await settled(net, 2)
        for _ in range(8):
            got = await scrape(net, URLS[::2], books)
            assert got.pages == right(URLS[::2])
            assert len(got.outcomes) == 1
            await trio.sleep(61)

        assert dying.asked
        assert URLS[4:5] in [list(job.urls) for job in engine.jobs]
        assert not books.held


async def test_a_node_that_sends_without_end_is_stopped(autojump_clock: MockClock) -> None:
    """At four megabytes for each page; nothing of it is kept."""
    async with world() as here:
        sent = 0

        async def flood(told: Told) -> None:
            nonlocal sent
            await told.accept()
            try:
                await told.talk.say(Piece(data=encode_uvarint(BYTES_PER_PAGE_MAX)))
                while True:
                    await told.talk.say(Piece(data=b"\x00" * 32_768))
                    sent += 32_768
            except CxError:
                await trio.lowlevel.checkpoint()

        await one_liar(here, flood)
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        with pytest.raises(JobFailed):
            await scrape(net, ["https://a.example/"], books)
        assert BYTES_PER_PAGE_MAX <= sent < BYTES_PER_PAGE_MAX + 64 * 32_768
        assert not books.held


async def test_a_liar_alone_gets_no_page_told(autojump_clock: MockClock) -> None:
    """It is asked three times, not more."""
    async with world() as here:

        async def lie(told: Told) -> None:
            await give(told, frames_of(fine(told.order.max_out)[1:]), told.order.max_out - 1)

        false = await one_liar(here, lie)
        net, books = await here.asker(), Ledgerbook()
        await settled(net, 1)
        with pytest.raises(AnswerRefused, match="page 0 is missing, and 0 more of 3"):
            await scrape(net, URLS[::2], books)
        assert false.asked == 3
        assert {each.countersign.verdict for each in books.settled} == {Verdict.DISPUTED}
        assert not books.held


async def test_a_receipt_of_a_job_that_nobody_cancelled_is_disputed(autojump_clock: MockClock) -> None:
    """Half of the pages and `cancelled` is a job that broke off: what is there is kept, and not paid."""
    async with world() as here:

        async def stop_early(told: Told) -> None:
            await give(told, frames_of(right(URLS[::2])[:1]), 1, finish=Finish.CANCELLED)

        await one_liar(here, stop_early)
        engine = PageEngine()
        net, books = await network_of(here, engine)
        await settled(net, 2)
        assert (await scrape(net, URLS[::2], books)).pages == right(URLS[::2])
        for _ in range(4):
            with_new = [url.replace("h0", f"h{len(books.settled) + 10}") for url in URLS[::2]]
            assert len((await scrape(net, with_new, books)).pages) == 3
        charged = [each for each in books.settled if each.countersign.charge]
        assert {each.receipt.finish for each in charged} == {Finish.STOP}
        assert not books.held
