"""Who comes in and who does not, and that a request needs no disk to find out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cxp2p_gateway import accounts
from cxp2p_gateway.accounts import USED_STEP_MS, Accounts, FirstAccount, UserIdRule, found_account, issue_key
from cxp2p_gateway.asking import Caller
from cxp2p_gateway.keys import key_id
from cxp2p_gateway.store import Store, StoreError, Tables
from cxp2p_gateway.store.memory import MemoryTables
from test_store import NOW_MS, Clock

T = TypeVar("T")
CREDIT = 5_000_000


@dataclass
class Disk:
    """A store in memory that counts its transactions, and can be full or slow."""

    tables: MemoryTables = field(default_factory=MemoryTables)
    acts: int = 0
    waiting: int = 0
    full: bool = False
    slow: trio.Event | None = None

    async def __call__(self, act: Callable[[Tables], T], /) -> T:
        await trio.lowlevel.checkpoint()
        self.acts += 1
        if self.full:
            raise StoreError("the disk is full")
        result = act(self.tables)
        if self.slow is not None:
            self.waiting += 1
            await self.slow.wait()
        return result


@dataclass
class Lobby:
    """A store with the first account, and the accounts over it."""

    disk: Disk
    store: Store
    clock: Clock
    accounts: Accounts
    first: FirstAccount

    @property
    def caller(self) -> Caller:
        name = key_id(self.first.key)
        assert name is not None
        return Caller(account=self.first.user_id, key=name)


@pytest.fixture
async def lobby() -> Lobby:
    return await make_lobby()


async def make_lobby(rule: UserIdRule = UserIdRule.MATCH) -> Lobby:
    disk, clock = Disk(), Clock()
    store = Store(disk, clock)
    first = await found_account(store, CREDIT, NOW_MS, Random(1))
    assert first is not None
    return Lobby(disk, store, clock, Accounts(store, clock, rule), first)


async def test_the_first_start_makes_one_account(lobby: Lobby) -> None:
    """It has its credit and a key that works; its key is not kept, and the next start makes nothing."""
    assert lobby.first.user_id.startswith("usr_")
    assert len(lobby.first.user_id) == len("usr_") + 26
    assert lobby.first.key not in repr(lobby.first) + repr(lobby.disk.tables)
    assert (await lobby.store.balance(lobby.first.user_id)).available == CREDIT
    assert await found_account(lobby.store, CREDIT, NOW_MS, Random(2)) is None
    assert await lobby.store.accounts() == (lobby.first.user_id,)

    assert await lobby.accounts.authenticate(lobby.first.key, None) == lobby.caller


@pytest.mark.parametrize("token", ["", "x", "sk-cx-", "sk-cx-aaaaaaaa-" + "A" * 43, "\ud800" * 58, "x" * 100_000])
async def test_other_tokens_are_nobodys(lobby: Lobby, token: str) -> None:
    """Garbage of any kind, and a well-formed key that nobody was given."""
    assert await lobby.accounts.authenticate(token, None) is None


async def test_a_key_of_the_right_id_and_wrong_secret_is_nobodys(lobby: Lobby) -> None:
    """Before and after the right one was seen."""
    wrong = lobby.first.key[:-1] + ("A" if lobby.first.key[-1] != "A" else "B")
    assert await lobby.accounts.authenticate(wrong, None) is None
    assert await lobby.accounts.authenticate(lobby.first.key, None) == lobby.caller

    assert await lobby.accounts.authenticate(wrong, None) is None


@pytest.mark.parametrize(
    ("rule", "user_id", "comes_in"),
    [
        (UserIdRule.MATCH, None, True),
        (UserIdRule.MATCH, "the owner", True),
        (UserIdRule.MATCH, "somebody else", False),
        (UserIdRule.MATCH, "", False),
        (UserIdRule.REQUIRE, None, False),
        (UserIdRule.REQUIRE, "the owner", True),
        (UserIdRule.REQUIRE, "somebody else", False),
    ],
)
async def test_the_user_id_is_the_owners(rule: UserIdRule, user_id: str | None, comes_in: bool) -> None:
    """Sent, it must be the key's owner; `require` wants it sent."""
    lobby = await make_lobby(rule)
    if user_id == "the owner":
        user_id = lobby.first.user_id

    for _ in range(2):
        assert (await lobby.accounts.authenticate(lobby.first.key, user_id) is not None) == comes_in


async def test_a_known_key_needs_no_disk(lobby: Lobby) -> None:
    """After the first request the disk is left alone, apart from one note an hour that the key is in use."""
    await lobby.accounts.authenticate(lobby.first.key, None)
    before = lobby.disk.acts
    for _ in range(100):
        await lobby.accounts.authenticate(lobby.first.key, None)
    assert lobby.disk.acts == before

    lobby.clock.wall_ms += USED_STEP_MS
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(lobby.accounts.authenticate, lobby.first.key, None)
    assert lobby.disk.acts == before + 1
    kept = await lobby.store.key(lobby.caller.key)
    assert kept is not None
    assert kept.used_at_ms == NOW_MS + USED_STEP_MS


async def test_a_revoked_key_ends_at_once(lobby: Lobby) -> None:
    """Also when it is remembered; another key of the account goes on."""
    other = await issue_key(lobby.store, lobby.first.user_id, NOW_MS, Random(3))
    assert await lobby.accounts.authenticate(lobby.first.key, None) == lobby.caller
    assert await lobby.accounts.revoke(lobby.caller.key)

    assert await lobby.accounts.authenticate(lobby.first.key, None) is None
    found = await lobby.accounts.authenticate(other, None)
    assert found is not None
    assert found.account == lobby.first.user_id
    assert not await lobby.accounts.revoke("unknown")


async def test_a_key_that_is_revoked_while_it_is_looked_up_is_not_remembered(lobby: Lobby) -> None:
    """What was read before the revocation does not live on after it."""
    lobby.disk.slow = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lobby.accounts.authenticate, lobby.first.key, None)
        await wait_all_tasks_blocked()
        slow, lobby.disk.slow = lobby.disk.slow, None
        await lobby.accounts.revoke(lobby.caller.key)
        slow.set()

    assert await lobby.accounts.authenticate(lobby.first.key, None) is None
    kept = await lobby.store.key(lobby.caller.key)
    assert kept is not None
    assert kept.revoked_at_ms == NOW_MS


async def test_an_expired_key_ends_though_it_is_remembered(lobby: Lobby) -> None:
    """Its time is looked at on every request."""
    await lobby.store.change_key(lobby.caller.key, lambda key: replace(key, expires_at_ms=NOW_MS + 1))
    assert await lobby.accounts.authenticate(lobby.first.key, None) == lobby.caller
    lobby.clock.wall_ms += 1

    assert await lobby.accounts.authenticate(lobby.first.key, None) is None


async def test_keys_remembered_are_bounded(lobby: Lobby, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused are forgotten; made-up keys push nobody out."""
    monkeypatch.setattr(accounts, "KEYS_REMEMBERED_MAX", 3)
    keys = [await issue_key(lobby.store, lobby.first.user_id, NOW_MS, Random(seed)) for seed in range(10, 20)]
    for key in keys:
        assert await lobby.accounts.authenticate(key, None) is not None
    for seed in range(20, 40):
        made_up = await issue_key(Store(Disk(), lobby.clock), "nobody", NOW_MS, Random(seed))
        assert await lobby.accounts.authenticate(made_up, None) is None

    assert list(lobby.accounts._remembered) == [key_id(key) for key in keys[-3:]]


async def test_made_up_keys_do_not_crowd_the_disk(lobby: Lobby) -> None:
    """However many come at once, few of them are looked up at once; a known key does not wait for them."""
    await lobby.accounts.authenticate(lobby.first.key, None)
    lobby.disk.slow = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(lobby.accounts.authenticate, "sk-cx-aaaaaaaa-" + "A" * 43, None)
        await wait_all_tasks_blocked()
        assert lobby.disk.waiting == accounts.LOOK_UPS_MAX
        assert await lobby.accounts.authenticate(lobby.first.key, None) == lobby.caller
        lobby.disk.slow.set()


async def test_a_full_disk_keeps_nobody_out(lobby: Lobby, caplog: pytest.LogCaptureFixture) -> None:
    """That a key was used is not worth an error; that it could not be noted is logged."""
    await lobby.accounts.authenticate(lobby.first.key, None)
    lobby.clock.wall_ms += USED_STEP_MS
    lobby.disk.full = True

    assert await lobby.accounts.authenticate(lobby.first.key, None) == lobby.caller
    assert "could not be noted" in caplog.text
