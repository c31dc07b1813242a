"""Who guesses keys learns nothing from how much work a guess makes: counted, not timed."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import pytest

from cxp2p_gateway.accounts import Accounts, issue_key
from cxp2p_gateway.keys import NOBODY, key_id, make_key, opens, rotated
from cxp2p_gateway.store import Store, Tables
from cxp2p_gateway.store.memory import MemoryTables
from test_store import NOW_MS, Clock

T = TypeVar("T")


class Work:
    """Counts what is done: transactions, look-ups in tables, digests that are compared."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: Counter[str] = Counter()
        compare = hmac.compare_digest

        def counted(left: bytes, right: bytes) -> bool:
            self.done[f"compared {len(left)} with {len(right)} bytes"] += 1
            return compare(left, right)

        monkeypatch.setattr(hmac, "compare_digest", counted)

    async def of(self, accounts: Accounts, token: str) -> Counter[str]:
        """The work of one guess, which is wrong."""
        self.done.clear()
        assert await accounts.authenticate(token, None) is None
        return Counter(self.done)


class Watched:
    """A disk whose every use is counted."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._tables = MemoryTables()

    async def __call__(self, act: Callable[[Tables], T], /) -> T:
        self._work.done["transactions"] += 1
        return act(self)

    def __getattr__(self, name: str) -> Any:
        self._work.done[f"table {name}"] += 1
        return getattr(self._tables, name)


def guess(name: str, seed: int = 99) -> str:
    """A wrong secret for the key of this id."""
    return make_key(Random(seed).randbytes, name).text


async def test_a_guess_costs_the_same_whether_there_is_such_a_key_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown id, a known one, one that was just used, one that was rotated, and one that is revoked."""
    work = Work(monkeypatch)
    store = Store(Watched(work), Clock())
    accounts = Accounts(store, Clock())
    fresh, used, turned, ended = [await issue_key(store, f"usr_{seed}", NOW_MS, Random(seed)) for seed in range(4)]
    ids = {
        name: key_id(key) or ""
        for name, key in zip("fresh used turned ended".split(), (fresh, used, turned, ended), strict=True)
    }
    assert await accounts.authenticate(used, None) is not None
    renewed = make_key(Random(50).randbytes, ids["turned"])
    await store.change_key(ids["turned"], lambda key: rotated(key, renewed, NOW_MS, 10**9))
    await store.change_key(ids["ended"], lambda key: replace(key, revoked_at_ms=NOW_MS))

    unknown = await work.of(accounts, guess("a" * 8))
    assert unknown["transactions"] == 1
    assert unknown["compared 32 with 32 bytes"] == 4
    for name, known in ids.items():
        assert await work.of(accounts, guess(known)) == unknown, name
    assert await work.of(accounts, turned[:-1] + ("A" if turned[-1] != "A" else "B")) == unknown


def test_nobodys_key_is_opened_by_none() -> None:
    """Its digest is that of no text that anybody knows, and it is as long as others."""
    assert len(NOBODY.digest) == len(make_key(Random(1).randbytes).digest)
    assert not any(opens(make_key(Random(seed).randbytes).text, NOBODY, 0) for seed in range(100))
