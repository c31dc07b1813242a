"""What any store must do: the one on disk and its twin in memory pass the same tests."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cxp2p.errors import CxError, InsufficientCredit
from cxp2p.ledger import Account, LedgerError
from cxp2p_gateway.keys import Key
from cxp2p_gateway.store import GENERATIONS_MAX, Generation, Store, postgres
from cxp2p_gateway.store.memory import memory_store
from cxp2p_gateway.store.rows import User
from cxp2p_gateway.store.sqlite import open_store

NOW_MS = 1_700_000_000_000
LATER_MS = NOW_MS + 1000
USER = User(id="user_1", created_at_ms=NOW_MS)
KEY = Key(id="abcdefgh", account="user_1", digest=b"d" * 32, created_at_ms=NOW_MS)


class Clock:
    """A wall clock that moves when it is told to."""

    def __init__(self) -> None:
        self.wall_ms = NOW_MS

    def __call__(self) -> int:
        return self.wall_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(place: Path | str | None, clock: Clock) -> AsyncIterator[Store]:
    if place is None:
        yield memory_store(clock)
    else:
        opening = postgres.open_store(place, clock) if isinstance(place, str) else open_store(place, clock)
        async with opening as opened:
            yield opened


def generation(order_id: str = "o1", charge: int = 7, **changes: Any) -> Generation:
    fields: dict[str, Any] = {
        "order_id": order_id,
        "id": "chatcmpl-1",
        "account": "user_1",
        "key": KEY.id,
        "model": "smollm2:135m",
        "node": "peer",
        "charge": charge,
        "in_units": 3,
        "out_units": 4,
        "finish": "stop",
        "created_at_ms": NOW_MS,
        "order_envelope": b"order \x00\xff",
        "receipt_envelope": b"receipt",
        "countersign_envelope": b"countersign",
    }
    return Generation(**{**fields, **changes})


async def test_a_job_is_paid_from_hold_to_node(store: Store) -> None:
    """Reserve, settle: the charge is the node's, the rest is free again, and what was signed is kept to the byte."""
    await store.found(USER, KEY, 100)
    await store.reserve("o1", "user_1", 60, LATER_MS)
    assert await store.balance("user_1") == Account(id="user_1", balance=100, held=60)
    await store.settle(generation())

    assert await store.balance("user_1") == Account(id="user_1", balance=93, held=0)
    assert await store.balance("node:peer") == Account(id="node:peer", balance=7, held=0)
    assert await store.balance("network") == Account(id="network", balance=-100, held=0)
    assert await store.generations("user_1", "chatcmpl-1") == (generation(),)
    assert await store.audit() == ()


async def test_no_more_is_held_than_there_is(store: Store) -> None:
    """InsufficientCredit changes nothing, and a smaller job still fits."""
    await store.found(USER, KEY, 100)
    with pytest.raises(InsufficientCredit):
        await store.reserve("o1", "user_1", 101, LATER_MS)
    await store.reserve("o1", "user_1", 100, LATER_MS)
    with pytest.raises(InsufficientCredit):
        await store.reserve("o2", "user_1", 1, LATER_MS)

    assert (await store.balance("user_1")).held == 100
    assert await store.audit() == ()


async def test_holds_at_once_never_overdraw(store: Store) -> None:
    """Of twenty jobs at once that each may cost a tenth of the credit, ten are let in."""
    await store.found(USER, KEY, 100)
    refused: list[int] = []

    async def one(index: int) -> None:
        try:
            await store.reserve(f"o{index}", "user_1", 10, LATER_MS)
        except InsufficientCredit:
            refused.append(index)

    async with trio.open_nursery() as nursery:
        for index in range(20):
            nursery.start_soon(one, index)

    assert len(refused) == 10
    assert await store.balance("user_1") == Account(id="user_1", balance=100, held=100)


async def test_a_void_gives_all_back(store: Store) -> None:
    """Also when it is said twice; but a settled job cannot be voided, nor a voided one settled."""
    await store.found(USER, KEY, 100)
    for order_id in ("o1", "o2"):
        await store.reserve(order_id, "user_1", 50, LATER_MS)
    await store.void("o1")
    await store.void("o1")
    await store.settle(generation("o2"))

    assert (await store.balance("user_1")).available == 93
    with pytest.raises(LedgerError, match="it is posted"):
        await store.void("o2")
    with pytest.raises(LedgerError, match="cannot be posted"):
        await store.settle(generation("o1"))
    with pytest.raises(LedgerError, match="no hold"):
        await store.void("o3")
    assert await store.generations("user_1", "chatcmpl-1") == (generation("o2"),)


async def test_settling_twice_pays_once(store: Store) -> None:
    """The same settlement again, as after a crash, changes nothing."""
    await store.found(USER, KEY, 100)
    await store.reserve("o1", "user_1", 50, LATER_MS)
    await store.settle(generation())
    await store.settle(generation())

    assert (await store.balance("user_1")).balance == 93
    assert await store.audit() == ()


async def test_a_charge_over_the_hold_is_refused_whole(store: Store) -> None:
    """Nothing is posted, nothing is kept, and the hold is still there to be ended."""
    await store.found(USER, KEY, 100)
    await store.reserve("o1", "user_1", 5, LATER_MS)
    with pytest.raises(LedgerError):
        await store.settle(generation(charge=6))

    assert await store.generations("user_1", "chatcmpl-1") == ()
    assert (await store.balance("user_1")).held == 5


async def test_overdue_holds_expire(store: Store, clock: Clock) -> None:
    """By the wall clock, and only those whose time has come."""
    await store.found(USER, KEY, 100)
    await store.reserve("o1", "user_1", 50, LATER_MS)
    await store.reserve("o2", "user_1", 20, LATER_MS + 1)

    assert await store.expire() == 0
    clock.wall_ms = LATER_MS
    assert await store.expire() == 1
    assert (await store.balance("user_1")).held == 20
    assert await store.void_all() == 1
    assert (await store.balance("user_1")).held == 0
    assert await store.audit() == ()


async def test_the_first_account_is_made_once(store: Store) -> None:
    """A second start finds the account and changes nothing."""
    assert await store.accounts() == ()
    assert await store.found(USER, KEY, 100)
    assert not await store.found(
        replace(USER, id="user_2"), Key(id="other", account="user_2", digest=b"", created_at_ms=0), 100
    )

    assert await store.accounts() == ("user_1",)
    assert await store.key("other") is None
    assert (await store.balance("network")).balance == -100


async def test_keys_are_kept_and_replaced(store: Store) -> None:
    """Every field comes back; a change of one is made on what is kept, not on what somebody remembers."""
    await store.put_key(KEY)
    assert await store.key(KEY.id) == KEY
    revoked = replace(KEY, revoked_at_ms=5, expires_at_ms=6)
    await store.put_key(revoked)
    used = await store.change_key(KEY.id, lambda key: replace(key, used_at_ms=7))

    assert used == replace(revoked, used_at_ms=7) == await store.key(KEY.id)
    assert await store.key("unknown") is None
    assert await store.change_key("unknown", lambda key: key) is None


async def test_a_generation_is_its_accounts_alone(store: Store) -> None:
    """Another account's id finds nothing, also when both use the same one; its orders come in their order."""
    await store.found(USER, KEY, 100)
    await store.grant("g2", "user_2", 100)
    for order_id, account in (("o1", "user_1"), ("o2", "user_1"), ("o3", "user_2")):
        await store.reserve(order_id, account, 10, LATER_MS)
    await store.settle(generation("o1"))
    await store.settle(generation("o2", created_at_ms=LATER_MS))
    assert await store.generations("user_2", "chatcmpl-1") == ()
    await store.settle(generation("o3", account="user_2", created_at_ms=LATER_MS + 1))

    both = (generation("o1"), generation("o2", created_at_ms=LATER_MS))
    assert await store.generations("user_1", "chatcmpl-1") == both
    assert await store.generations("user_1", "chatcmpl-2") == ()


@pytest.mark.slow
async def test_of_very_many_under_one_id_the_newest_are_shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one look-up may cost has a limit."""
    await store.found(USER, KEY, 5000)
    orders = [f"o{number:03}" for number in range(GENERATIONS_MAX + 5)]
    for order_id in orders:
        await store.reserve(order_id, "user_1", 10, LATER_MS)
        await store.settle(generation(order_id))

    assert [each.order_id for each in await store.generations("user_1", "chatcmpl-1")] == orders[5:]


async def test_the_largest_numbers_are_exact(store: Store) -> None:
    """Money is kept to the µcredit up to 2**63 - 1."""
    most = 2**63 - 1
    await store.found(USER, KEY, most)
    await store.reserve("o1", "user_1", most, most)

    assert await store.balance("user_1") == Account(id="user_1", balance=most, held=most)
    with pytest.raises(LedgerError):
        await store.grant("more", "user_1", 1)


async def test_a_cancelled_call_has_not_begun(store: Store) -> None:
    """A job that is cancelled before it is held leaves no hold behind."""
    await store.found(USER, KEY, 100)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.reserve("o1", "user_1", 50, LATER_MS)

    assert scope.cancelled_caught
    assert (await store.balance("user_1")).held == 0


# Old receipts.


async def kept(store: Store, count: int = 9) -> list[int]:
    """Which of the first so many receipts are there."""
    return [number for number in range(count) if await store.generations("user_1", f"chatcmpl-{number}")]


async def settle_some(store: Store, clock: Clock, count: int, pause_ms: int = 0) -> None:
    await store.found(USER, KEY, 1000)
    for number in range(count):
        await store.reserve(f"o{number}", "user_1", 10, 2**60)
        await store.settle(generation(f"o{number}", id=f"chatcmpl-{number}", created_at_ms=clock.wall_ms))
        clock.wall_ms += pause_ms


async def test_receipts_over_an_age_are_dropped_oldest_first(store: Store, clock: Clock) -> None:
    """In steps; those that are young enough stay, and so does the credit."""
    await settle_some(store, clock, 9, pause_ms=1000)
    before = await store.balance("user_1")

    assert await store.forget_generations(10_000, 100, 3) == 0
    assert await store.forget_generations(4_000, 100, 3) == 3
    assert await kept(store) == [3, 4, 5, 6, 7, 8]
    assert await store.forget_generations(4_000, 100, 3) == 2
    assert await store.forget_generations(4_000, 100, 3) == 0
    assert await kept(store) == [5, 6, 7, 8]
    assert await store.balance("user_1") == before
    assert await store.audit() == ()


async def test_receipts_beyond_a_number_are_dropped_oldest_first(store: Store, clock: Clock) -> None:
    """However young they are; what comes later is counted anew."""
    await settle_some(store, clock, 7)

    assert await store.forget_generations(1, 5, 10) == 2
    assert await kept(store) == [2, 3, 4, 5, 6]
    assert await store.forget_generations(1, 5, 10) == 0
    await store.reserve("o7", "user_1", 10, LATER_MS)
    await store.settle(generation("o7", id="chatcmpl-7"))
    assert await store.forget_generations(1, 5, 10) == 1
    assert await kept(store) == [3, 4, 5, 6, 7]
    assert await store.forget_generations(1, 0, 10) == 5
    assert await kept(store) == []
    assert await store.audit() == ()


# The twins do the same, whatever is done to them.

IDS = st.sampled_from(["a", "b", "c"])
ACTS = st.one_of(
    st.tuples(st.just("put_key"), st.builds(replace, st.just(KEY), id=IDS, created_at_ms=st.integers(0, 2))),
    st.tuples(st.just("grant"), IDS, st.sampled_from(["user_1", "network"]), st.integers(-1, 50)),
    st.tuples(st.just("reserve"), IDS, st.sampled_from(["user_1", "user_2"]), st.integers(-1, 50), st.just(LATER_MS)),
    st.tuples(st.just("settle"), st.builds(generation, IDS, st.integers(-1, 50), account=st.just("user_1"))),
    st.tuples(st.just("void"), IDS),
    st.tuples(st.just("void_all")),
    st.tuples(st.just("expire")),
    st.tuples(st.just("balance"), st.sampled_from(["user_1", "node:peer", "network"])),
    st.tuples(st.just("generations"), st.just("user_1"), st.just("chatcmpl-1")),
    st.tuples(st.just("forget_generations"), st.integers(-1, 1), st.integers(0, 2), st.integers(0, 3)),
    st.tuples(st.just("keys_of"), st.sampled_from(["user_1", "user_2"])),
)


async def _answers(store: Store, acts: list[tuple[Any, ...]]) -> list[object]:
    answers: list[object] = []
    for name, *arguments in acts:
        call: Callable[..., Coroutine[Any, Any, object]] = getattr(store, name)
        try:
            answers.append(await call(*arguments))
        except CxError as error:
            answers.append((type(error), str(error)))
    return [*answers, await store.audit()]


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(ACTS, max_size=30))
def test_the_twins_answer_alike(acts: list[tuple[Any, ...]]) -> None:
    """Any calls in any order: the same answers, the same errors, and books that are right in the end."""

    async def main() -> tuple[list[object], list[object]]:
        with tempfile.TemporaryDirectory() as folder:
            async with open_store(Path(folder) / "gateway.db", Clock()) as kept:
                return await _answers(kept, acts), await _answers(memory_store(Clock()), acts)

    kept, remembered = trio.run(main)

    assert kept == remembered
    assert kept[-1] == ()
