"""Keys as their owners have them: what they may be limited to, and who may change what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cxp2p_gateway import key_ring
from cxp2p_gateway.accounts import Accounts
from cxp2p_gateway.key_ring import (
    KeyIsBase,
    KeyRevoked,
    KeyRing,
    KeysTooMany,
    KeyUnknown,
    TermWrong,
    check_terms,
    terms_of,
)
from cxp2p_gateway.keys import Key, Kind, Terms
from cxp2p_gateway.spending import Reset
from cxp2p_gateway.store import Store, postgres
from cxp2p_gateway.store.memory import memory_store
from cxp2p_gateway.store.sqlite import open_store

NOW_MS = 1_700_000_000_000
ACCOUNT, OTHER = "usr_1", "usr_2"
FULL = Terms(
    name="Weather app",
    spend_limit=5_000_000,
    spend_reset=Reset.MONTHLY,
    services=("chat", "embed"),
    models=("smollm2:135m",),
    rpm=60,
    tpm=10_000,
    parallel_max=4,
    expires_at_ms=NOW_MS + 86_400_000,
)


class Clock:
    """A wall clock that moves when it is told to."""

    wall_ms = NOW_MS

    def __call__(self) -> int:
        return self.wall_ms


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


@pytest.fixture
def accounts(store: Store, clock: Clock) -> Accounts:
    return Accounts(store, clock)


@pytest.fixture
def ring(store: Store, accounts: Accounts, clock: Clock) -> KeyRing:
    return KeyRing(accounts, store, clock, Random(1))


async def base_key(store: Store) -> Key:
    key = Key(id="abcd2345", account=ACCOUNT, digest=b"d" * 32, created_at_ms=NOW_MS)
    await store.put_key(key)
    return key


async def test_a_key_is_kept_as_it_was_made(ring: KeyRing, accounts: Accounts) -> None:
    """All terms come back; the whole key opens the door, and what is kept of it does not have its text."""
    made = await ring.make(ACCOUNT, FULL)

    assert terms_of(await ring.key(ACCOUNT, made.key.id)) == FULL
    assert made.key.kind is Kind.VIRTUAL
    assert await ring.list(ACCOUNT) == (made.key,)
    assert made.text not in repr(made)
    caller = await accounts.authenticate(made.text, None)
    assert caller is not None
    assert (caller.account, caller.key, caller.kind) == (ACCOUNT, made.key.id, Kind.VIRTUAL)
    assert (caller.services, caller.models) == (FULL.services, FULL.models)


@pytest.mark.parametrize(
    ("changes", "term", "problem"),
    [
        ({"name": "x" * 81}, "name", "81 characters is not between 0 and 80"),
        ({"name": "a\x1b[31m"}, "name", "it has characters that cannot be printed"),
        ({"spend_limit": -1}, "spend_limit", "it is not between 0 and 1000000000 credits"),
        ({"spend_limit": 10**15 + 1}, "spend_limit", "it is not between 0 and 1000000000 credits"),
        ({"services": ("chat", "video")}, "services[1]", "it is not one of chat, embed, speech, scrape"),
        ({"services": ("chat",) * 5}, "services", "5 services is not between 0 and 4"),
        ({"models": ("m",) * 65}, "models", "65 models is not between 0 and 64"),
        ({"models": ("",)}, "models[0]", "0 characters is not between 1 and 128"),
        ({"models": ("m", "x" * 129)}, "models[1]", "129 characters is not between 1 and 128"),
        ({"rpm": 0}, "rpm", "0 requests a minute is not between 1 and 1000000"),
        ({"tpm": 10**9 + 1}, "tpm", "1000000001 tokens a minute is not between 1 and 1000000000"),
        ({"parallel_max": 0}, "max_parallel", "0 requests at once is not between 1 and 10000"),
        ({"expires_at_ms": NOW_MS}, "expires_at", "it is not in the future"),
        ({"expires_at_ms": 10**16}, "expires_at", "it is not in the future"),
    ],
)
def test_terms_that_cannot_be_are_named(changes: dict[str, Any], term: str, problem: str) -> None:
    """What is wrong, under the name that requests have for it."""
    with pytest.raises(TermWrong) as caught:
        check_terms(replace(FULL, **changes), NOW_MS)
    assert (caught.value.term, caught.value.problem) == (term, problem)


def test_the_least_and_the_most_can_be() -> None:
    """The ends of each range are inside of it."""
    least = Terms(spend_limit=0, rpm=1, tpm=1, parallel_max=1, expires_at_ms=NOW_MS + 1)
    most = Terms(
        name="x" * 80,
        spend_limit=10**15,
        models=("x" * 128,) * 64,
        rpm=10**6,
        tpm=10**9,
        parallel_max=10**4,
        expires_at_ms=key_ring.EXPIRES_AT_MS_MAX,
    )
    for terms in (Terms(), least, most):
        check_terms(terms, NOW_MS)


async def test_a_limit_can_be_taken_away_again(ring: KeyRing) -> None:
    """A change is of what it names; None is no limit."""
    made = await ring.make(ACCOUNT, FULL)
    await ring.change(ACCOUNT, made.key.id, lambda terms: replace(terms, spend_limit=None, rpm=7))
    assert terms_of(await ring.key(ACCOUNT, made.key.id)) == replace(FULL, spend_limit=None, rpm=7)


async def test_a_wrong_change_changes_nothing(ring: KeyRing) -> None:
    """The key is as it was."""
    made = await ring.make(ACCOUNT, FULL)
    with pytest.raises(TermWrong):
        await ring.change(ACCOUNT, made.key.id, lambda terms: replace(terms, rpm=0))
    assert terms_of(await ring.key(ACCOUNT, made.key.id)) == FULL


async def test_a_key_that_has_expired_can_be_renamed_and_prolonged(ring: KeyRing, clock: Clock) -> None:
    """Only a new end has to be in the future."""
    made = await ring.make(ACCOUNT, FULL)
    clock.wall_ms = NOW_MS + 10 * 86_400_000
    await ring.change(ACCOUNT, made.key.id, lambda terms: replace(terms, name="old"))
    with pytest.raises(TermWrong, match="expires_at"):
        await ring.change(ACCOUNT, made.key.id, lambda terms: replace(terms, expires_at_ms=clock.wall_ms - 1))
    changed = await ring.change(ACCOUNT, made.key.id, lambda terms: replace(terms, expires_at_ms=clock.wall_ms + 1))
    assert (changed.name, changed.expires_at_ms) == ("old", clock.wall_ms + 1)


async def test_nobody_has_a_hand_on_others_keys(ring: KeyRing, accounts: Accounts) -> None:
    """Another account's key is as unknown as one that never was, and stays good."""
    made = await ring.make(ACCOUNT, FULL)
    for key_id in (made.key.id, "zzzzzzzz", "", "x" * 1000):
        with pytest.raises(KeyUnknown):
            await ring.key(OTHER, key_id)
        with pytest.raises(KeyUnknown):
            await ring.change(OTHER, key_id, lambda terms: replace(terms, name="mine"))
        with pytest.raises(KeyUnknown):
            await ring.rotate(OTHER, key_id)
        with pytest.raises(KeyUnknown):
            await ring.revoke(OTHER, key_id)
    assert await ring.list(OTHER) == ()
    assert await ring.key(ACCOUNT, made.key.id) == made.key
    assert await accounts.authenticate(made.text, None) is not None


async def test_the_base_key_has_no_limits_and_no_end(ring: KeyRing, store: Store) -> None:
    """It can only be rotated: an account without a key could not get in."""
    key = await base_key(store)
    with pytest.raises(KeyIsBase):
        await ring.change(ACCOUNT, key.id, lambda terms: replace(terms, rpm=1))
    with pytest.raises(KeyIsBase):
        await ring.revoke(ACCOUNT, key.id)
    rotated = await ring.rotate(ACCOUNT, key.id)
    assert (rotated.key.id, rotated.key.kind) == (key.id, Kind.BASE)


async def test_a_rotated_key_keeps_its_id_and_its_limits(ring: KeyRing, accounts: Accounts, clock: Clock) -> None:
    """The old one is good for as long as was said, to the millisecond, and one before it ends at once."""
    first = await ring.make(ACCOUNT, replace(FULL, expires_at_ms=None))
    assert await accounts.authenticate(first.text, None)  # so that it is remembered
    second = await ring.rotate(ACCOUNT, first.key.id, 60)
    assert second.key.id == first.key.id
    assert terms_of(second.key) == terms_of(first.key)

    clock.wall_ms = NOW_MS + 59_999
    assert await accounts.authenticate(first.text, None)
    assert await accounts.authenticate(second.text, None)
    clock.wall_ms = NOW_MS + 60_000
    assert await accounts.authenticate(first.text, None) is None
    assert await accounts.authenticate(second.text, None)

    third = await ring.rotate(ACCOUNT, first.key.id)
    assert await accounts.authenticate(second.text, None) is None
    assert await accounts.authenticate(third.text, None)


async def test_a_third_secret_ends_the_first_at_once(ring: KeyRing, accounts: Accounts) -> None:
    """At most two are good at a time."""
    first = await ring.make(ACCOUNT, Terms())
    second = await ring.rotate(ACCOUNT, first.key.id, 600)
    third = await ring.rotate(ACCOUNT, first.key.id, 600)
    good = [await accounts.authenticate(each.text, None) is not None for each in (first, second, third)]
    assert good == [False, True, True]


@pytest.mark.parametrize("grace_s", [-1, key_ring.GRACE_S_MAX + 1])
async def test_a_grace_has_an_end(ring: KeyRing, grace_s: int) -> None:
    """Thirty days are the most."""
    made = await ring.make(ACCOUNT, Terms())
    with pytest.raises(TermWrong, match=r"grace_seconds: .* is not between 0 and 2592000"):
        await ring.rotate(ACCOUNT, made.key.id, grace_s)


async def test_a_revoked_key_ends_at_once_and_for_ever(ring: KeyRing, accounts: Accounts, clock: Clock) -> None:
    """It is still told of, and once more changes nothing, but it can no longer be changed or rotated."""
    made = await ring.make(ACCOUNT, FULL)
    assert await accounts.authenticate(made.text, None)
    await ring.revoke(ACCOUNT, made.key.id)
    assert await accounts.authenticate(made.text, None) is None

    clock.wall_ms += 1000
    assert (await ring.revoke(ACCOUNT, made.key.id)).revoked_at_ms == NOW_MS
    with pytest.raises(KeyRevoked):
        await ring.change(ACCOUNT, made.key.id, lambda terms: replace(terms, rpm=None))
    with pytest.raises(KeyRevoked):
        await ring.rotate(ACCOUNT, made.key.id)


async def test_an_account_has_so_many_keys_and_no_more(
    ring: KeyRing, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is revoked makes room; of the revoked only the last are told of; others' keys do not count."""
    monkeypatch.setattr(key_ring, "KEYS_MAX", 3)
    monkeypatch.setattr(key_ring, "REVOKED_MAX", 2)
    await ring.make(OTHER, Terms())
    made = [await ring.make(ACCOUNT, Terms(name=str(number))) for number in range(3)]
    with pytest.raises(KeysTooMany, match="at most 3 keys"):
        await ring.make(ACCOUNT, Terms())

    for number in range(3, 8):
        clock.wall_ms += 1
        await ring.revoke(ACCOUNT, made[-1].key.id)
        made.append(await ring.make(ACCOUNT, Terms(name=str(number))))
    kept = await ring.list(ACCOUNT)
    assert [key.name for key in kept if key.revoked_at_ms is None] == ["0", "1", "7"]
    assert [key.name for key in kept if key.revoked_at_ms is not None] == ["5", "6"]
