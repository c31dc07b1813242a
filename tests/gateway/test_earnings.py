"""What epochs bring is the same for whoever computes it; owners are told what is held, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from trio.testing import MockClock

from cxp2p.epochs import open_entry
from cxp2p.kept_files import jsonable
from cxp2p.receipts import HOURS
from cxp2p.rewards import DEFAULT_RULES, rewards, rules_hash
from cxp2p_gateway.archive import EpochArchive
from cxp2p_gateway.closing import Closing
from cxp2p_gateway.earnings import COMPUTED_MAX, Earnings, Hold
from cxp2p_gateway.epoch_answers import earnings_object
from cxp2p_gateway.store import Store
from cxp2p_gateway.store.memory import memory_store
from cxp2p_gateway.store.rows import User
from doors import Answer, MemoryDoor, ask, front
from hours import EPOCH, GATEWAY, NODES, receipt_of, seal
from ledgers import MemoryBooks
from test_closing import BEGIN_MS, CLOSES_MS, Unreached, opened, settle
from test_epoch_http import validated
from test_store import USER, Clock, generation

OWNER = "user_1"  # who asked, and of node 0
FRIEND = User(id="user_2", created_at_ms=1)
ENTRIES = [
    open_entry(*seal(receipt_of(NODES[number % 2], seq=number, owner=("", OWNER)[number % 2 == 0], charge=10**6), node))
    for number in range(6)
    for node in (NODES[number % 2],)
]


async def closed(clock: Clock, count: int = 6) -> Store:
    """A store in which an hour with so many receipts is closed, by the default rules."""
    store = memory_store(clock)
    books = await opened(store)
    await store.do(lambda tables: tables.replace_user(replace(USER, referred_by=FRIEND.id)))
    await settle(store, *ENTRIES[:count])
    clock.wall_ms = CLOSES_MS
    closing = Closing(GATEWAY, books, Unreached(), HOURS, rules_hash(DEFAULT_RULES), clock)
    assert await closing.close_next() is not None
    return store


def earnings_of(store: Store) -> Earnings:
    return MemoryBooks(books=store).earnings


async def told(store: Store, before: int = 2**62) -> dict[str, Any]:
    """What `GET /rewards` tells the owner."""
    return earnings_object(OWNER, await earnings_of(store).of_account(OWNER, before, 24), HOURS)


async def get(store: Store, path: str, **options: Any) -> Answer:
    return await ask(front(MemoryDoor(books=store)), "GET", "/v1" + path, **options)


async def test_what_everybody_gets_is_what_anybody_computes(autojump_clock: MockClock) -> None:
    """To the µcredit, from the published receipts alone; nothing in it tells who asked."""
    store = await closed(Clock())
    body = validated("/epochs/{epoch}/rewards", (await get(store, f"/epochs/{EPOCH}/rewards", key=None)).json())
    expected = rewards(DEFAULT_RULES, ENTRIES)

    assert body["rewards"]["nodes"] == [
        jsonable({name: getattr(each, name) for name in each.__dataclass_fields__}) for each in expected.nodes
    ]
    assert body["rewards"]["points"] == dict(expected.points)
    assert set(body["rewards"]["points"]) == {GATEWAY.peer}
    assert (body["rewards"]["fee"], body["rewards"]["charged"]) == (expected.fee, 6 * 10**6)
    assert OWNER not in str(body["rewards"]["points"])
    missing = await get(store, f"/epochs/{EPOCH + 1}/rewards", key=None)
    assert (missing.status, missing.json()["error"]["code"]) == (404, "epoch_open")


async def test_an_owner_is_told_what_is_held_and_until_when(autojump_clock: MockClock) -> None:
    """For a day, in which an audit may find a receipt invalid; then it is released."""
    clock = Clock()
    store = await closed(clock)
    held = validated("/rewards", await told(store))
    (epoch,) = held["epochs"]
    assert [each["node"] for each in epoch["nodes"]] == [NODES[0].peer]
    assert (epoch["state"], epoch["until"]) == ("held", "2027-01-16T09:10:00.000Z")
    assert "audits" in epoch["why"]
    assert held["held"] == held["earned"] == epoch["earned"] > 0 == held["released"]
    assert held["points"] == epoch["points"] > 0

    clock.wall_ms = CLOSES_MS + HOURS.late_ms
    released: Any = await told(store)
    assert (released["held"], released["released"]) == (0, held["held"])
    assert released["epochs"][0]["until"] is None
    assert (await told(store, before=EPOCH))["epochs"] == []
    over_http = validated("/rewards", (await get(store, "/rewards")).json())
    assert [each["epoch"] for each in over_http["epochs"]] == [EPOCH]


async def test_who_brought_somebody_gets_a_part_of_the_fee(autojump_clock: MockClock) -> None:
    """Only this gateway knows who did, so it is not in what is published."""
    store = await closed(Clock())
    (earned,) = await earnings_of(store).of_account(FRIEND.id, 2**62, 10)
    everybody = await earnings_of(store).of_epoch(EPOCH)

    assert earned.referrals == earned.amount > 0
    assert not isinstance(everybody, Hold)
    assert not everybody.referrals


async def test_what_is_not_computed_here_says_why(autojump_clock: MockClock) -> None:
    """Other rules, receipts that are gone, too many of them."""
    clock = Clock()
    store = await closed(clock)
    archive = MemoryBooks(books=store).archive
    other = Earnings(archive, store, replace(DEFAULT_RULES, name="others"), clock)
    assert await other.of_epoch(EPOCH) is Hold.OTHER_RULES
    assert [each.hold for each in await other.of_account(OWNER, 2**62, 5)] == [Hold.OTHER_RULES]
    clock.wall_ms = BEGIN_MS + 10**9
    await store.forget_generations(10, 10, 100)
    assert await earnings_of(store).of_epoch(EPOCH) is Hold.DROPPED
    row = await archive.books.root(GATEWAY.peer, EPOCH)
    assert row is not None

    async def roots(epoch: int) -> tuple[Any, ...]:
        return (replace(row, is_whole=True, count=COMPUTED_MAX + 1),)

    large = EpochArchive(archive.books, HOURS, clock)
    large.books.roots = roots  # type: ignore[method-assign]
    assert await Earnings(large, store, DEFAULT_RULES, clock).of_epoch(EPOCH) is Hold.LARGE


async def test_what_was_computed_is_remembered(autojump_clock: MockClock) -> None:
    """Though its receipts are dropped: the root stands for them."""
    clock = Clock()
    store = await closed(clock)
    earnings = earnings_of(store)
    before = await earnings.of_epoch(EPOCH)
    clock.wall_ms = BEGIN_MS + 10**9
    assert await store.forget_generations(10, 10, 100) == 6
    assert await earnings.of_epoch(EPOCH) == before


@pytest.mark.parametrize("query", ["limit=0", "limit=25", "before=x"])
async def test_a_query_that_cannot_be_meant_is_refused(query: str, autojump_clock: MockClock) -> None:
    answer = await get(memory_store(Clock()), f"/rewards?{query}")
    assert answer.status == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


async def test_rewards_are_for_the_accounts_own_key(autojump_clock: MockClock) -> None:
    """Nobody sees them without a key."""
    answer = await get(memory_store(Clock()), "/rewards", key=None)
    assert answer.status == 401


def test_the_entries_are_of_two_owners() -> None:
    """What the tests above compare is not all alike."""
    assert {each.receipt.owner for each in ENTRIES} == {"", OWNER}
    assert generation("o").account == OWNER
