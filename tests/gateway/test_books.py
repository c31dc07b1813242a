"""The books of one request: its orders count once for the rates of its key, and what they told is remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from cxp2p.client import Settlement
from cxp2p_gateway import books
from cxp2p_gateway.asking import Caller, RateLimited
from cxp2p_gateway.books import JobBooks, RatesSeen
from cxp2p_gateway.keys import Key, Kind
from cxp2p_gateway.metrics import Metrics
from cxp2p_gateway.rates import Counted, Rate
from cxp2p_gateway.store import Store
from cxp2p_gateway.store.memory import memory_store
from doors import WALL_MS, settlement_of

NOW_US = WALL_MS * 1000
KEY = Key(id="abcd2345", account="user_1", digest=b"", created_at_ms=0, kind=Kind.VIRTUAL, rpm=2, tpm=10_000)
CALLER = Caller(account="user_1", key=KEY.id, kind=Kind.VIRTUAL, rpm=2, tpm=10_000, app="an app", streamed=True)


def settlement(number: int) -> Settlement:
    made = settlement_of()
    return replace(made, order=replace(made.order, order_id=number.to_bytes(16, "big")))


class Desk:
    """A store with a key, and books of requests over it."""

    def __init__(self) -> None:
        self.store: Store = memory_store(lambda: WALL_MS)
        self.seen = RatesSeen()

    async def open(self) -> Desk:
        await self.store.grant("g", "user_1", 10**9)
        await self.store.put_key(KEY)
        return self

    def request(self, name: str) -> JobBooks:
        return JobBooks(self.store, CALLER, name, lambda: WALL_MS, 60.0, Metrics().money, self.seen)

    def left(self) -> tuple[int, int]:
        told = self.seen.of(CALLER, NOW_US)
        return told[Counted.REQUESTS].remaining, told[Counted.TOKENS].remaining


@pytest.fixture
async def desk() -> Desk:
    return await Desk().open()


async def test_a_request_counts_once_however_many_orders_it_is(desk: Desk) -> None:
    """Also if they go at the same time, and if the first is given back."""
    assert desk.left() == (2, 10_000)
    request = desk.request("r1")
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(request.reserve, settlement(number).order, b"")
    assert desk.left() == (1, 10_000 - 25)  # the order allows 100 bytes
    await request.void(settlement(0).order, "a test")
    await request.reserve(settlement(9).order, b"")
    assert desk.left() == (1, 10_000 - 25)

    await desk.request("r2").reserve(settlement(10).order, b"")
    assert desk.left()[0] == 0
    with pytest.raises(RateLimited, match="2 requests per minute"):
        await desk.request("r3").reserve(settlement(11).order, b"")


async def test_tokens_are_those_that_were_signed(desk: Desk) -> None:
    """Of all orders of a request; the books and what is told of them say the same."""
    request = desk.request("r1")
    for number in range(2):
        await request.reserve(settlement(number).order, b"")
        await request.settle(settlement(number))
    assert desk.left() == (1, 10_000 - 2 * 30)
    standing = await desk.store.standing(KEY)
    assert standing.empty_at_us[Counted.TOKENS] - NOW_US == 2 * 30 * 6000


async def test_what_is_kept_says_who_asked_and_how(desk: Desk) -> None:
    request = desk.request("r1")
    await request.reserve(settlement(1).order, b"")
    await request.settle(settlement(1))
    (kept,) = await desk.store.generations("user_1", "r1")
    assert (kept.key, kept.app, kept.origin, kept.streamed, kept.service) == (KEY.id, "an app", "", True, "chat")


async def test_a_refusal_tells_where_the_rates_stand(desk: Desk) -> None:
    """Even if another process let in what used them up."""
    for number in range(2):
        await desk.request(f"r{number}").reserve(settlement(number).order, b"")
    here = RatesSeen()
    books_here = JobBooks(desk.store, CALLER, "r3", lambda: WALL_MS, 60.0, Metrics().money, here)
    assert here.of(CALLER, NOW_US)[Counted.REQUESTS].remaining == 2
    with pytest.raises(RateLimited):
        await books_here.reserve(settlement(3).order, b"")
    assert here.of(CALLER, NOW_US)[Counted.REQUESTS].remaining == 0


def test_rates_of_so_many_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that asked longest ago is forgotten: of it all is told to be left."""
    monkeypatch.setattr(books, "RATES_REMEMBERED_MAX", 3)
    seen = RatesSeen()
    used_up = {Counted.REQUESTS: Rate(limit=2, remaining=0, reset_us=60_000_000)}
    for name in ("a", "b", "c", "a", "d"):
        seen.see(name, used_up, NOW_US)
    left = {
        name: seen.of(replace(CALLER, key=name), NOW_US)[Counted.REQUESTS].remaining for name in ("a", "b", "c", "d")
    }
    assert left == {"a": 0, "b": 2, "c": 0, "d": 0}
    seen.see("e", {}, NOW_US)
    assert seen.of(replace(CALLER, key="c"), NOW_US)[Counted.REQUESTS].remaining == 0


def test_rates_come_back_with_time_and_change_with_the_key() -> None:
    seen = RatesSeen()
    seen.see(KEY.id, {Counted.REQUESTS: Rate(limit=2, remaining=0, reset_us=60_000_000)}, NOW_US)
    told = [seen.of(CALLER, NOW_US + at_s * 1_000_000)[Counted.REQUESTS].remaining for at_s in (0, 30, 60)]
    assert told == [0, 1, 2]
    assert seen.of(replace(CALLER, rpm=None, tpm=None), NOW_US) == {}
