"""What any store must keep beside the ledger: people, sessions, budgets, rates, uses, and keys with their limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import trio

from cxp2p.errors import InsufficientCredit
from cxp2p.ledger import LedgerError
from cxp2p_gateway.asking import KeyEnded, RateLimited
from cxp2p_gateway.keys import Key, Kind
from cxp2p_gateway.limits import Demand
from cxp2p_gateway.rates import Counted
from cxp2p_gateway.spending import Budget, Reset
from cxp2p_gateway.store import APPS_MAX, OTHER_APPS, SIGNED_MAX, Store, StoreError
from cxp2p_gateway.store.rows import GroupBy, Session, Use, UseQuery, User
from cxp2p_gateway.store.tables import Tables
from test_store import KEY, LATER_MS, NOW_MS, USER, Clock, clock, generation, store

__all__ = ["clock", "store"]  # fixtures

T = TypeVar("T")

ADA = User(id="ada", created_at_ms=1, email="ada@example.org", password_hash="$argon2id$x", is_admin=True)
BOB = User(id="bob", created_at_ms=2, email="bob@example.org", disabled_at_ms=5, referred_by="ada")
CY = User(id="cy", created_at_ms=2, referred_by="ada")
DAY = "2023-11-14"  # of NOW_MS


async def look(store: Store, act: Callable[[Tables], T]) -> T:
    """Read beside the one that writes, as pages are."""
    return await store.read(act)


# People.


async def test_people_are_kept(store: Store) -> None:
    """Every field comes back, by id and by e-mail; replaced as a whole; listed oldest first."""
    for user in (BOB, ADA, CY):
        await store.do(lambda tables, user=user: tables.add_user(user))  # type: ignore[misc]

    assert await look(store, lambda tables: tables.user("ada")) == ADA
    assert await look(store, lambda tables: tables.user_by_email("bob@example.org")) == BOB
    assert await look(store, lambda tables: tables.user("nobody")) is None
    assert await look(store, lambda tables: tables.user_by_email("nobody@example.org")) is None
    assert await look(store, lambda tables: tables.users(2, 0)) == (ADA, BOB)
    assert await look(store, lambda tables: tables.users(2, 2)) == (CY,)
    assert await look(store, lambda tables: tables.user_count()) == 3
    assert await look(store, lambda tables: tables.client_accounts()) == ("ada", "bob", "cy")
    assert await look(store, lambda tables: tables.referred_count("ada")) == 2
    changed = replace(BOB, email=None, password_hash="h", disabled_at_ms=None)
    await store.do(lambda tables: tables.replace_user(changed))
    await store.do(lambda tables: tables.replace_user(replace(CY, id="nobody")))
    assert await look(store, lambda tables: tables.users(9, 0)) == (ADA, changed, CY)
    assert await look(store, lambda tables: tables.user_by_email("bob@example.org")) is None


async def test_an_e_mail_is_one_persons(store: Store) -> None:
    """A second one with the same is refused, and so is the same id; any number may have none."""
    await store.do(lambda tables: tables.add_user(ADA))
    for twin in (replace(ADA, id="other"), replace(ADA, email="other@example.org")):
        with pytest.raises(StoreError) as told:
            await store.do(lambda tables, twin=twin: tables.add_user(twin))  # type: ignore[misc]
        assert "argon2id" not in str(told.value)
    for name in ("x", "y"):
        await store.do(lambda tables, name=name: tables.add_user(User(id=name, created_at_ms=0)))  # type: ignore[misc]

    assert await look(store, lambda tables: tables.user_count()) == 3


async def test_sessions_end(store: Store) -> None:
    """One, all of an account, those that have expired, and the oldest when there are too many."""

    def session(number: int, account: str = "ada") -> Session:
        return Session(digest=bytes([number]) * 32, account=account, created_at_ms=number, expires_at_ms=100 + number)

    async def there() -> list[int]:
        found = [await look(store, lambda tables, n=n: tables.session(bytes([n]) * 32)) for n in range(9)]  # type: ignore[misc]
        assert all(each == session(n, each.account) for n, each in enumerate(found) if each)
        return [n for n, each in enumerate(found) if each]

    for number in range(5):
        await store.do(lambda tables, n=number: tables.add_session(session(n), 3))  # type: ignore[misc]
    await store.do(lambda tables: tables.add_session(session(7, "bob"), 3))
    assert await there() == [2, 3, 4, 7]
    await store.do(lambda tables: tables.end_session(bytes([3]) * 32))
    assert await there() == [2, 4, 7]
    assert await store.do(lambda tables: tables.forget_sessions(102)) == 1
    assert await there() == [4, 7]
    assert await store.expire() == 0  # all of these have expired long ago, by the wall clock
    assert await there() == []
    await store.do(lambda tables: tables.add_session(session(7, "bob"), 3))
    await store.do(lambda tables: tables.add_session(session(8), 3))
    await store.do(lambda tables: tables.end_sessions("ada"))
    assert await there() == [7]


# Keys and what they may.

LIMITED = Key(
    id="limited1",
    account="user_1",
    digest=b"\x00\xff" * 16,
    created_at_ms=NOW_MS,
    expires_at_ms=NOW_MS + 10**10,
    used_at_ms=3,
    kind=Kind.VIRTUAL,
    name="Ünïcode 🔑 'quoted'",
    spend_limit=100,
    spend_reset=Reset.DAILY,
    services=("chat", "embed"),
    models=("smollm2:135m",),
    rpm=3,
    tpm=1000,
    parallel_max=2,
    old_digest=b"o" * 32,
    old_until_ms=9,
)


async def test_every_term_of_a_key_comes_back(store: Store) -> None:
    """Also the largest numbers, and when it is replaced; dropped, its limits begin anew."""
    await store.put_key(LIMITED)
    assert await store.key(LIMITED.id) == LIMITED
    largest = replace(LIMITED, spend_limit=2**63 - 1, rpm=2**31, tpm=2**63 - 1, services=(), old_digest=None)
    await store.put_key(largest)
    assert await store.keys_of("user_1") == (largest,)
    await store.do(lambda tables: tables.put_budget(Budget(key=LIMITED.id, since_ms=1, spent=2)))
    await store.do(lambda tables: tables.put_rate(LIMITED.id, "requests", 3))
    await store.do(lambda tables: tables.drop_key(LIMITED.id))
    assert await store.key(LIMITED.id) is None
    assert await look(store, lambda tables: tables.budget(LIMITED.id)) == Budget(key=LIMITED.id)
    assert await look(store, lambda tables: tables.rate_empty_at_us(LIMITED.id, "requests")) == 0


async def test_budgets_and_rates_are_kept(store: Store) -> None:
    """Each key's own, each kind's own, to the last µs; one that was never written is empty."""
    far_us = 2**62 + 1
    await store.do(lambda tables: tables.put_budget(Budget(key="a", since_ms=5, spent=2**62)))
    await store.do(lambda tables: tables.put_budget(Budget(key="a", since_ms=6, spent=7)))
    for kind, at_us in (("requests", 1), ("requests", far_us), ("tokens", -5)):
        await store.do(lambda tables, kind=kind, at_us=at_us: tables.put_rate("a", kind, at_us))  # type: ignore[misc]

    assert await look(store, lambda tables: tables.budget("a")) == Budget(key="a", since_ms=6, spent=7)
    assert await look(store, lambda tables: tables.budget("b")) == Budget(key="b")
    assert await look(store, lambda tables: tables.rate_empty_at_us("a", "requests")) == far_us
    assert await look(store, lambda tables: tables.rate_empty_at_us("a", "tokens")) == -5
    assert await look(store, lambda tables: tables.rate_empty_at_us("b", "tokens")) == 0


async def reserve(store: Store, order: str, amount: int = 10, *, first: bool = True, key: str = "limited1") -> Any:
    demand = Demand(key=key, request=order.partition("/")[0], tokens=0, first=first)
    return await store.reserve(order, "user_1", amount, LATER_MS, demand)


async def founded(store: Store, key: Key = LIMITED) -> None:
    await store.found(USER, KEY, 10_000)
    await store.put_key(key)


async def test_what_a_key_holds_is_told(store: Store) -> None:
    """Its open holds, and the requests that they are for; ended ones and other keys' do not count."""
    await founded(store, replace(LIMITED, rpm=None, spend_limit=None, parallel_max=None))
    for order in ("a/1", "a/2", "b"):
        await reserve(store, order)
    await reserve(store, "c", key=KEY.id)

    def told(tables: Tables) -> tuple[int, frozenset[str]]:
        return tables.held_by_key("limited1"), tables.requests_of_key("limited1")

    assert await look(store, told) == (30, frozenset({"a", "b"}))
    await store.settle(generation("a/1", key="limited1"))
    assert await look(store, told) == (20, frozenset({"a", "b"}))
    await store.void("a/2")
    assert await look(store, told) == (10, frozenset({"b"}))
    standing = await store.standing(replace(LIMITED, rpm=None))
    assert (standing.spent, standing.held, standing.requests) == (7, 10, frozenset({"b"}))


async def test_a_spend_limit_holds(store: Store, clock: Clock) -> None:
    """Of thirty at once that may cost 60 each, two are let in under a limit of 100; the next day it begins anew."""
    await founded(store, replace(LIMITED, rpm=None, tpm=None, parallel_max=None))
    let_in: list[str] = []

    async def one(order: str) -> None:
        try:
            await reserve(store, order, 60)
        except InsufficientCredit:
            return
        let_in.append(order)

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(one, f"o{number}")
    assert len(let_in) == 2
    for order in let_in:
        await store.settle(generation(order, 60, key="limited1"))
    with pytest.raises(InsufficientCredit, match="may spend 100 µcredits: 120 are spent, 0 held"):
        await reserve(store, "more")
    clock.wall_ms += 86_400_000
    await reserve(store, "next day")
    assert await look(store, lambda tables: tables.budget("limited1").spent) == 120
    await store.settle(generation("next day", 5, key="limited1"))
    assert await look(store, lambda tables: tables.budget("limited1").spent) == 5


async def test_rates_and_parallel_hold(store: Store, clock: Clock) -> None:
    """A refused one costs nothing; one request may have several orders; an ended key ends at once."""
    await founded(store)
    rates = await reserve(store, "a/1")
    assert rates[Counted.REQUESTS].remaining == 2
    await reserve(store, "a/2", first=False)
    await reserve(store, "b")
    with pytest.raises(RateLimited, match="2 requests at once"):
        await reserve(store, "c")
    await store.void("b")
    await reserve(store, "c")
    await store.void("c")
    with pytest.raises(RateLimited, match="3 requests per minute") as refused:
        await reserve(store, "d")
    assert 19.9 < refused.value.retry_after_s <= 20
    clock.wall_ms += 19_900
    with pytest.raises(RateLimited):
        await reserve(store, "d")
    clock.wall_ms += 100
    await reserve(store, "d")
    await store.change_key("limited1", lambda key: replace(key, revoked_at_ms=1))
    for key in ("limited1", "unknown"):
        with pytest.raises(KeyEnded):
            await reserve(store, "e", key=key)
    assert await store.audit() == ()


async def test_tokens_are_counted_as_they_were_used(store: Store) -> None:
    """What was expected is put right when it is settled; other services have no tokens."""
    await founded(store, replace(LIMITED, rpm=None, parallel_max=None))
    demand = Demand(key="limited1", request="a", tokens=500, first=True)
    rates = await store.reserve("a", "user_1", 10, LATER_MS, demand)
    assert rates[Counted.TOKENS].remaining == 500
    await store.settle(generation("a", key="limited1", in_units=100, out_units=100), tokens_expected=500)
    left = (await store.reserve("b", "user_1", 1, LATER_MS, replace(demand, request="b", tokens=0)))[Counted.TOKENS]
    assert left.remaining == 800
    await store.settle(generation("b", 1, key="limited1", service="speech", in_units=900))
    left = (await store.reserve("c", "user_1", 1, LATER_MS, replace(demand, request="c", tokens=0)))[Counted.TOKENS]
    assert left.remaining == 800


# Use.


def use(**changes: Any) -> Use:
    fields: dict[str, Any] = {"account": "ada", "day": DAY, "key": "k", "service": "chat", "model": "m", "app": ""}
    counted = {"requests": 1, "in_units": 2, "out_units": 3, "charge": 4}
    return Use(**{**fields, **counted, **changes})


async def test_use_is_summed(store: Store) -> None:
    """By each thing that it can be grouped by, of some days, one account, one key, or all of them."""
    rows = [
        use(),
        use(charge=2**61),
        use(service="speech", model="joe", app="radio"),
        use(key="l", model="n", app="cat"),
        use(day="2023-11-15"),
        use(account="bob", charge=100),
    ]
    for row in rows:
        await store.do(lambda tables, row=row: tables.add_use(row))  # type: ignore[misc]

    async def groups(limit: int = 100, **query: Any) -> list[tuple[str, str, int, int]]:
        wanted = UseQuery(**{"first_day": DAY, "last_day": "2023-11-15", "account": "ada", **query})
        sums = await look(store, lambda tables: tables.uses(wanted, limit))
        assert all(each.in_units == 2 * each.requests for each in sums)
        return [(each.group, each.service, each.requests, each.charge) for each in sums]

    much = 2**61 + 4
    assert await groups() == [(DAY, "chat", 3, much + 4), (DAY, "speech", 1, 4), ("2023-11-15", "chat", 1, 4)]
    assert await groups(limit=1) == [(DAY, "chat", 3, much + 4)]
    assert await groups(group_by=GroupBy.MODEL) == [
        ("joe", "speech", 1, 4),
        ("m", "chat", 3, much + 4),
        ("n", "chat", 1, 4),
    ]
    assert await groups(group_by=GroupBy.SERVICE) == [("chat", "chat", 4, much + 8), ("speech", "speech", 1, 4)]
    assert await groups(group_by=GroupBy.APP, last_day=DAY) == [
        ("", "chat", 2, much),
        ("cat", "chat", 1, 4),
        ("radio", "speech", 1, 4),
    ]
    assert await groups(key="l") == [(DAY, "chat", 1, 4)]
    assert await groups(account=None, group_by=GroupBy.KEY, last_day=DAY) == [
        ("k", "chat", 3, much + 100),
        ("k", "speech", 1, 4),
        ("l", "chat", 1, 4),
    ]
    assert await groups(first_day="2024-01-01", last_day="2024-01-02") == []


async def test_a_settlement_is_counted_once(store: Store) -> None:
    """A second order of a request is not another request; the same settlement again is nothing."""
    await store.found(USER, KEY, 1000)
    for order in ("o1", "o2", "o3"):
        await store.reserve(order, "user_1", 50, LATER_MS)
    await store.settle(generation("o1", app="radio", origin="https://example.org"))
    await store.settle(generation("o2", app="radio"), is_first=False)
    await store.settle(generation("o2", app="radio"), is_first=False)
    await store.settle(generation("o3", 0, origin="https://example.org", streamed=True))

    by_app = await store.uses(UseQuery(first_day=DAY, last_day=DAY, group_by=GroupBy.APP))
    assert [(each.group, each.requests, each.charge) for each in by_app] == [
        ("https://example.org", 1, 0),
        ("radio", 1, 14),
    ]
    assert await look(store, lambda tables: tables.budget(KEY.id).spent) == 14
    kept = await store.latest_generations("user_1", 10)
    assert [(each.order_id, each.app, each.streamed) for each in kept] == [
        ("o3", "", True),
        ("o2", "radio", False),
        ("o1", "radio", False),
    ]
    assert kept[0].origin == "https://example.org"


async def test_apps_that_are_told_apart_have_a_most(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends a new name with each request fills one row, not the disk."""
    monkeypatch.setattr("cxp2p_gateway.store.APPS_MAX", 3)
    await store.found(USER, KEY, 1000)
    for number in range(6):
        await store.reserve(f"o{number}", "user_1", 10, LATER_MS)
        await store.settle(generation(f"o{number}", app=f"app {number % 5}"))

    by_app = await store.uses(UseQuery(first_day=DAY, last_day=DAY, group_by=GroupBy.APP))
    assert {each.group: each.requests for each in by_app} == {"app 0": 2, "app 1": 1, "app 2": 1, OTHER_APPS: 2}
    assert APPS_MAX == 200


async def test_the_latest_come_in_pages(store: Store) -> None:
    """Newest first, an account's own, never more than a page."""
    await store.found(USER, KEY, 10_000)
    await store.grant("g", "user_2", 100)
    for number in range(SIGNED_MAX + 2):
        await store.reserve(f"o{number}", "user_1", 10, LATER_MS)
        await store.settle(generation(f"o{number}"))
    await store.reserve("other", "user_2", 10, LATER_MS)
    await store.settle(generation("other", account="user_2"))

    newest = [f"o{number}" for number in reversed(range(SIGNED_MAX + 2))]
    assert [each.order_id for each in await store.latest_generations("user_1", 1000)] == newest[:SIGNED_MAX]
    assert [each.order_id for each in await store.latest_generations("user_1", 3, SIGNED_MAX)] == newest[SIGNED_MAX:]


# What is repeated, and what fails in the middle.


async def test_a_hold_that_ended_is_never_held_again(store: Store) -> None:
    """Repeating what is so changes nothing, its rates neither."""
    await founded(store, replace(LIMITED, parallel_max=None))
    for _ in range(2):
        await reserve(store, "a", first=False)
    await store.void("a")
    with pytest.raises(LedgerError):
        await reserve(store, "a", first=False)

    assert await store.found(USER, KEY, 10_000)
    assert await store.audit() == ()


async def test_half_of_an_act_is_nothing(store: Store, place: object) -> None:
    """What an act wrote before it failed is not there; of the twin in memory that is asked of rules only."""
    if place is None:
        pytest.skip("rules decide before they write: in memory nothing is undone")

    def act(tables: Tables) -> None:
        tables.add_user(ADA)
        tables.put_key(LIMITED)
        tables.add_use(use())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.do(act)
    assert await look(store, lambda tables: tables.user_count()) == 0
    assert await store.key(LIMITED.id) is None
    assert await store.uses(UseQuery(first_day=DAY, last_day=DAY)) == ()


async def test_who_reads_cannot_write(store: Store, place: object) -> None:
    """The connections of readers refuse it, whoever asks."""
    if place is None:
        pytest.skip("in memory there is one connection")
    with pytest.raises(StoreError, match=r"read-?only"):
        await store.read(lambda tables: tables.put_key(KEY))
    assert await store.key(KEY.id) is None
