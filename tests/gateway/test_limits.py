"""What a key is for, and what it may at a moment; the same on all three stores, with many at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from cxp2p.errors import InsufficientCredit
from cxp2p.records import Service
from cxp2p_gateway.asking import KeyEnded, KeyForbids, Limit, RateLimited
from cxp2p_gateway.keys import Key, Kind
from cxp2p_gateway.limits import Demand, Standing, admit, forbid, may_use, tokens_of
from cxp2p_gateway.rates import MINUTE_US, ROUNDING_US, Counted
from cxp2p_gateway.spending import Reset
from cxp2p_gateway.store import Store, postgres
from cxp2p_gateway.store.memory import memory_store
from cxp2p_gateway.store.sqlite import open_store
from test_store import NOW_MS, Clock, generation

NOW_US = NOW_MS * 1000
KEY = Key(id="abcdefgh", account="user_1", digest=b"d" * 32, created_at_ms=NOW_MS, kind=Kind.VIRTUAL)
ASK = Demand(key=KEY.id, request="r1", tokens=10, first=True)
NOTHING = Standing(spent=0, held=0, requests=frozenset(), empty_at_us={})


def key(**changes: Any) -> Key:
    return replace(KEY, **changes)


@pytest.mark.parametrize(
    ("changes", "service", "model", "kept_from"),
    [
        ({}, Service.CHAT, "any", None),
        ({"services": ("chat",)}, Service.CHAT, "any", None),
        ({"services": ("chat",)}, Service.EMBED, "any", Limit.SERVICE),
        ({"models": ("smollm2:135m",)}, Service.CHAT, "smollm2:135m", None),
        ({"models": ("smollm2:135m",)}, Service.CHAT, "smollm2:1.7b", Limit.MODEL),
        ({"models": ("smollm2",)}, Service.CHAT, "smollm2:1.7b", None),
        ({"models": ("smollm",)}, Service.CHAT, "smollm2:1.7b", Limit.MODEL),
        ({"models": ("x", "y")}, Service.CHAT, "y", None),
        ({"models": ("Meta/Llama",)}, Service.CHAT, "meta/llama", Limit.MODEL),
        ({"models": ("m",)}, Service.SCRAPE, "web", None),
        ({"models": ("m",), "services": ("chat",)}, Service.SCRAPE, "web", Limit.SERVICE),
        ({"models": ("m",)}, Service.SPEECH, "en_US-amy-low", Limit.MODEL),
        ({"models": ("text-embedding-3-small",)}, Service.EMBED, "text-embedding-3-small", None),
    ],
)
def test_a_key_is_for_its_services_and_models(
    changes: dict[str, Any], service: Service, model: str, kept_from: Limit | None
) -> None:
    """What is listed and what is let in are the same."""
    assert may_use(key(**changes), service, model) == (kept_from is None)
    if kept_from is None:
        forbid(key(**changes), service, model)
        return
    with pytest.raises(KeyForbids) as caught:
        forbid(key(**changes), service, model)
    assert caught.value.limit is kept_from


@pytest.mark.parametrize(
    ("changes", "at_ms"), [({"revoked_at_ms": NOW_MS}, NOW_MS), ({"expires_at_ms": NOW_MS}, NOW_MS)]
)
def test_a_key_that_has_ended_holds_nothing(changes: dict[str, Any], at_ms: int) -> None:
    """Even if it was good when the request came."""
    with pytest.raises(KeyEnded):
        admit(key(**changes), ASK, NOTHING, at_ms)
    with pytest.raises(KeyEnded):
        admit(None, ASK, NOTHING, at_ms)


def test_so_many_requests_at_once() -> None:
    """One that has a hold already is the same request."""
    two = replace(NOTHING, requests=frozenset({"r2", "r3"}))
    admit(key(parallel_max=3), ASK, two, NOW_MS)
    admit(key(parallel_max=2), replace(ASK, request="r2"), two, NOW_MS)
    with pytest.raises(RateLimited, match="2 requests at once") as caught:
        admit(key(parallel_max=2), ASK, two, NOW_MS)
    assert caught.value.retry_after_s == 1


@pytest.mark.parametrize(("spent", "held", "fits"), [(0, 0, True), (99, 0, True), (50, 50, False), (100, 0, False)])
def test_a_spend_limit_counts_what_is_held(spent: int, held: int, fits: bool) -> None:
    standing = replace(NOTHING, spent=spent, held=held)
    if fits:
        admit(key(spend_limit=100), ASK, standing, NOW_MS)
        return
    with pytest.raises(InsufficientCredit, match="may spend 100 µcredits"):
        admit(key(spend_limit=100), ASK, standing, NOW_MS)


def test_nothing_may_be_spent_of_nothing() -> None:
    with pytest.raises(InsufficientCredit):
        admit(key(spend_limit=0), ASK, NOTHING, NOW_MS)


@pytest.mark.parametrize(
    ("changes", "empty", "text", "wait_s"),
    [
        ({"rpm": 60}, {Counted.REQUESTS: MINUTE_US + ROUNDING_US}, "60 requests per minute", 1.0),
        ({"rpm": 1}, {Counted.REQUESTS: ROUNDING_US + 1}, "1 requests per minute", 0.000001),
        ({"tpm": 600}, {Counted.TOKENS: MINUTE_US + ROUNDING_US}, "600 tokens per minute", 1.0),
        ({"rpm": 60, "tpm": 600}, {Counted.TOKENS: MINUTE_US + 5_001_000}, "600 tokens per minute", 6.0),
    ],
)
def test_a_rate_that_is_used_up_says_until_when(
    changes: dict[str, Any], empty: dict[Counted, int], text: str, wait_s: float
) -> None:
    """To the microsecond; and nothing is taken of the other rate."""
    standing = replace(NOTHING, empty_at_us={counted: NOW_US + at_us for counted, at_us in empty.items()})
    with pytest.raises(RateLimited) as caught:
        admit(key(**changes), ASK, standing, NOW_MS)
    error = caught.value
    assert (error.limit, error.retry_after_s) == (text, wait_s)
    assert {counted: rate.remaining for counted, rate in error.rates.items()} == {
        counted: 0 if counted in empty else changes["rpm"] for counted in error.rates
    }


def test_only_the_first_hold_of_a_request_counts() -> None:
    """A job that goes on at another node is no second request."""
    full = replace(NOTHING, empty_at_us={Counted.REQUESTS: NOW_US + MINUTE_US})
    admitted = admit(key(rpm=1), replace(ASK, first=False), full, NOW_MS)
    assert (admitted.empty_at_us, admitted.rates) == ({}, {})
    first = admit(key(rpm=2, tpm=100), ASK, NOTHING, NOW_MS)
    assert {counted: rate.remaining for counted, rate in first.rates.items()} == {
        Counted.REQUESTS: 1,
        Counted.TOKENS: 90,
    }


def test_tokens_are_of_texts() -> None:
    assert [tokens_of(each, 3, 4) for each in Service] == [
        {"chat": 7, "embed": 3}.get(each.value, 0) for each in Service
    ]


# Over the stores.


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(place: Path | str | None, clock: Clock) -> AsyncIterator[Store]:
    if place is None:
        yield memory_store(clock)
        return
    opening = postgres.open_store(place, clock) if isinstance(place, str) else open_store(place, clock)
    async with opening as opened:
        yield opened


@pytest.mark.parametrize("seed", range(3))
async def test_holds_at_once_never_go_over_by_more_than_one(store: Store, seed: int) -> None:
    """64 tasks hold, post and give back at the limit, in an order that nobody chose."""
    rng, limit, largest = Random(seed), 10_000, 900
    limited = key(spend_limit=limit)
    await store.grant("g", KEY.account, 10**9)
    await store.put_key(limited)
    totals: list[int] = []
    refused: list[str] = []

    async def spend(name: str, amounts: list[int]) -> None:
        for number, amount in enumerate(amounts):
            order = f"{name}-{number}"
            demand = Demand(key=KEY.id, request=order, tokens=0, first=True)
            try:
                await store.reserve(order, KEY.account, amount, 2**60, demand)
            except InsufficientCredit:
                refused.append(order)
                continue
            standing = await store.standing(limited)
            totals.append(standing.spent + standing.held)
            if amount % 5 == 0:
                await store.void(order)
            else:
                await store.settle(generation(order, amount - amount % 7, id=order, key=KEY.id))

    async with trio.open_nursery() as nursery:
        for task in range(64):
            amounts = [rng.randrange(1, largest + 1) for _ in range(4)]
            nursery.start_soon(spend, f"t{task}", amounts)

    standing = await store.standing(limited)
    assert refused
    assert standing.held == 0
    assert limit - largest <= standing.spent < limit + largest
    assert max(totals) < limit + largest
    assert await store.audit() == ()


async def test_a_rate_lets_in_exactly_what_it_says(store: Store, clock: Clock) -> None:
    """Of 64 at once as many as the limit; then who comes when told."""
    await store.grant("g", KEY.account, 10**9)
    await store.put_key(key(rpm=20))
    let_in, waits = [], []

    async def one(name: str) -> bool:
        try:
            rates = await store.reserve(name, KEY.account, 1, 2**60, replace(ASK, request=name))
        except RateLimited as error:
            waits.append(error.retry_after_s)
            return False
        let_in.append(rates[Counted.REQUESTS].remaining)
        return True

    async with trio.open_nursery() as nursery:
        for task in range(64):
            nursery.start_soon(one, f"t{task}")
    assert sorted(let_in) == list(range(20))
    assert waits == [2.999] * 44
    clock.wall_ms += 2998
    assert not await one("before")
    clock.wall_ms += 1
    assert await one("then")
    assert not await one("another")


async def test_tokens_are_corrected_when_they_are_known(store: Store) -> None:
    """A long answer counts after it was given: the next one waits for it."""
    await store.grant("g", KEY.account, 10**9)
    await store.put_key(key(tpm=1000))
    first = await store.reserve("o1", KEY.account, 1, 2**60, replace(ASK, tokens=100))
    assert first[Counted.TOKENS].remaining == 900
    await store.settle(generation("o1", 1, key=KEY.id, in_units=50, out_units=850), tokens_expected=100)
    second = await store.reserve("o2", KEY.account, 1, 2**60, replace(ASK, request="r2", tokens=100))
    assert second[Counted.TOKENS].remaining == 0
    with pytest.raises(RateLimited, match="1000 tokens per minute"):
        await store.reserve("o3", KEY.account, 1, 2**60, replace(ASK, request="r3", tokens=1))


async def test_a_limit_begins_anew_with_its_period(store: Store, clock: Clock) -> None:
    """And what was held over midnight counts in the day that it is posted in."""
    limited = key(spend_limit=100, spend_reset=Reset.DAILY)
    await store.grant("g", KEY.account, 10**9)
    await store.put_key(limited)
    await store.reserve("o1", KEY.account, 100, 2**60, replace(ASK, request="o1"))
    with pytest.raises(InsufficientCredit):
        await store.reserve("o2", KEY.account, 1, 2**60, replace(ASK, request="o2"))
    clock.wall_ms += 86_400_000
    assert (await store.standing(limited)).held == 100
    await store.settle(generation("o1", 40, key=KEY.id))
    assert (await store.standing(limited)).spent == 40
    clock.wall_ms += 86_400_000
    assert (await store.standing(limited)).spent == 0
