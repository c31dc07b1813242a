"""People over every store: what two gateways on one database know of the same person."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import trio

from browsers import EMAIL, OPEN, PASSWORD
from cxp2p_gateway.accounts import Accounts
from cxp2p_gateway.passwords import Argon2
from cxp2p_gateway.people import FormWrong, LinkSpent, People, Welcome
from cxp2p_gateway.store import Store, postgres, sqlite
from cxp2p_gateway.store.memory import memory_store

WALL_MS = 1_790_000_000_000


def wall_ms() -> int:
    return WALL_MS


@asynccontextmanager
async def store_at(place: Path | str | None) -> AsyncIterator[Store]:
    if place is None:
        yield memory_store(wall_ms)
    elif isinstance(place, Path):
        async with sqlite.open_store(place, wall_ms) as store:
            yield store
    else:
        async with postgres.open_store(place, wall_ms) as store:
            yield store


def people_of(store: Store, seed: int) -> tuple[People, Accounts]:
    """What one gateway process has."""
    accounts = Accounts(store, wall_ms, is_alone=False)
    hashing = Argon2(memory_kib=64, passes=1)
    people = People(store, accounts, hashing, OPEN, now=trio.current_time, wall_ms=wall_ms, rng=Random(seed))
    return people, accounts


async def test_a_session_and_its_end_are_known_to_every_gateway(place: Path | str | None) -> None:
    """Signed up at one, known at the other; logged out or shut out at the other, gone at the first."""
    async with store_at(place) as store:
        (one, accounts), (other, _) = people_of(store, 1), people_of(store, 2)
        ada = await one.sign_up(EMAIL, PASSWORD, "", None)
        assert await other.visitor(ada.token) == ada.user
        token = await other.log_in(EMAIL, PASSWORD, None)
        await other.log_out(ada.token)
        assert await one.visitor(ada.token) is None
        assert await one.visitor(token) == ada.user
        assert await accounts.authenticate(ada.key, ada.user.id) is not None
        await other.set_disabled(ada.user.id, True)
        assert await one.visitor(token) is None
        assert await accounts.authenticate(ada.key, ada.user.id) is None
        brought = await other.sign_up("bob@example.org", PASSWORD, ada.user.id, None)
        assert brought.user.referred_by is None  # who is shut out brings nobody
        assert await store.audit() == ()


async def test_an_address_that_is_taken_at_once_has_one_account(place: Path | str | None) -> None:
    """Ten forms with one address, half of them at each of two gateways: one account, one grant."""
    async with store_at(place) as store:
        made: list[Welcome] = []
        refused = 0

        async def sign_up(people: People) -> None:
            nonlocal refused
            try:
                made.append(await people.sign_up(EMAIL, PASSWORD, "", None))
            except FormWrong:
                refused += 1

        gateways = [people_of(store, seed)[0] for seed in (1, 2)]
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(sign_up, gateways[number % 2])
        (ada,) = made
        assert refused == 9
        assert await store.accounts() == (ada.user.id,)
        assert (await store.balance(ada.user.id)).balance == OPEN.signup_credit


async def test_a_first_link_works_at_every_gateway_once(place: Path | str | None) -> None:
    """Each start of a worker makes one; the first that is used ends them all."""
    async with store_at(place) as store:
        one, other = (people_of(store, seed)[0] for seed in (1, 2))
        ada = await one.sign_up(EMAIL, PASSWORD, "", None)
        await one.set_admin(ada.user.id, True)
        assert await one.first_link() is None  # it has a password
        await store.do(
            lambda tables: tables.replace_user(replace(tables.users(1, 0)[0], email=None, password_hash=None))
        )
        links = [str(await each.first_link()) for each in (one, other)]
        assert await other.visitor(await other.claim(links[0], EMAIL, PASSWORD)) is not None
        assert await one.first_link() is None
        with pytest.raises(LinkSpent):
            await one.claim(links[1], "eve@example.org", PASSWORD)
