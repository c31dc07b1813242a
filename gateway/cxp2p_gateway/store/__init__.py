"""What a gateway keeps: accounts, keys, credit, and what was signed about each job.

`Store` is what the gateway calls. It decides with `cxp2p.ledger` and writes through `Tables`, of which there are two:
`store.sqlite` (on disk) and `store.memory` (its twin for tests). Both pass the same contract tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from cxp2p import ledger
from cxp2p.errors import CxError
from cxp2p.ledger import NETWORK, NOTHING, Account, Book, Change, Hold, Transfer
from cxp2p_gateway.keys import Key

T = TypeVar("T")

GENERATIONS_MAX: Final = 256  # shown of one id, 2 KB each; no request is more jobs


class StoreError(CxError):
    """The gateway's database cannot be used. The message says why, and what to do."""


class StoreLocked(StoreError):
    """Another process keeps the database. `keeper`: its id, or "unknown"."""

    def __init__(self, message: str, keeper: str) -> None:
        super().__init__(message)
        self.keeper = keeper


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One settled order of one account, and the exact bytes that were signed about it.

    `order_id` is the id of its hold. `id` is what the client was given; an id may have more than one order.
    """

    order_id: str
    id: str
    account: str
    key: str
    model: str
    node: str
    charge: int
    in_units: int
    out_units: int
    finish: str
    created_at_ms: int
    order_envelope: bytes
    receipt_envelope: bytes
    countersign_envelope: bytes


class Tables(Book, Protocol):
    """The kept rows, inside of one transaction."""

    def write(self, change: Change, at_ms: int) -> None:
        """Writes what a ledger rule decided."""

    def add_account(self, account_id: str, at_ms: int) -> None: ...

    def client_accounts(self) -> tuple[str, ...]:
        """The accounts of clients, oldest first."""

    def key(self, key_id: str) -> Key | None: ...

    def keys_of(self, account_id: str) -> tuple[Key, ...]:
        """The keys of an account, oldest first."""

    def put_key(self, key: Key) -> None:
        """Adds a key, or replaces the one with its id."""

    def generations(self, account_id: str, generation_id: str) -> tuple[Generation, ...]:
        """The newest of this account under this id, at most GENERATIONS_MAX, oldest first."""

    def add_generation(self, generation: Generation) -> None:
        """Adds one; the same order again changes nothing."""

    def forget_generations(self, before_ms: int, kept_max: int, step: int) -> int:
        """Of the `step` oldest, drops those from before `before_ms` and those beyond `kept_max`; says how many."""

    def all_balances(self) -> tuple[Account, ...]: ...

    def all_holds(self) -> tuple[Hold, ...]: ...

    def all_transfers(self) -> tuple[Transfer, ...]: ...


class Do(Protocol):
    """Does one act whole or not at all, and returns when it is on disk. Cancelled, it has not begun.

    What the act raises comes out, and nothing of it is written. Raises StoreError.
    """

    async def __call__(self, act: Callable[[Tables], T], /) -> T: ...


def node_account(peer: str) -> str:
    """The account that a node's work is posted to."""
    return f"node:{peer}"


class Store:
    """Everything a gateway keeps. Each call is one transaction, on disk when it returns; ledger rules are in force."""

    def __init__(self, do: Do, wall_ms: Callable[[], int]) -> None:
        self._do = do
        self._wall_ms = wall_ms

    # Credit.

    async def grant(self, transfer_id: str, account_id: str, amount: int) -> None:
        """Gives an account credit, once for each `transfer_id`."""
        await self._change(lambda book: ledger.transfer(book, transfer_id, NETWORK, account_id, amount))

    async def reserve(self, hold_id: str, account_id: str, amount: int, expires_at_ms: int) -> None:
        """Holds `amount`. Raises InsufficientCredit."""
        await self._change(lambda book: ledger.reserve(book, hold_id, account_id, amount, expires_at_ms))

    async def settle(self, generation: Generation) -> None:
        """Posts the order's hold at `generation.charge` to its node's account, and keeps the signed bytes."""
        at_ms = self._wall_ms()

        def act(tables: Tables) -> None:
            to = node_account(generation.node)
            tables.write(ledger.post(tables, generation.order_id, generation.charge, to), at_ms)
            tables.add_generation(generation)

        await self._do(act)

    async def void(self, hold_id: str) -> None:
        """Gives a whole hold back."""
        await self._change(lambda book: ledger.void(book, hold_id))

    async def void_all(self) -> int:
        """Gives every open hold back; returns how many there were. For holds of a process that is no more."""
        return len((await self._change(ledger.void_all)).holds)

    async def expire(self) -> int:
        """Ends the holds that are overdue; returns how many there were."""
        wall_ms = self._wall_ms()
        return len((await self._change(lambda book: ledger.expire(book, wall_ms))).holds)

    async def balance(self, account_id: str) -> Account:
        """What an account has and how much of it is held."""
        return await self._do(lambda tables: tables.account(account_id))

    async def audit(self) -> tuple[str, ...]:
        """What is wrong with the books; reads all of them, so for tests and for doubt."""
        return await self._do(
            lambda tables: ledger.audit(tables.all_balances(), tables.all_holds(), tables.all_transfers())
        )

    async def _change(self, decide: Callable[[Book], Change]) -> Change:
        at_ms = self._wall_ms()

        def act(tables: Tables) -> Change:
            change = decide(tables)
            if change != NOTHING:
                tables.write(change, at_ms)
            return change

        return await self._do(act)

    # Accounts and keys.

    async def found(self, account_id: str, key: Key, credit: int) -> bool:
        """Makes the first account with its key and credit, unless there is an account. True if it was made."""
        at_ms = self._wall_ms()

        def act(tables: Tables) -> bool:
            if tables.client_accounts():
                return False
            granted = ledger.transfer(tables, f"grant:{account_id}", NETWORK, account_id, credit)
            tables.write(granted, at_ms)
            tables.add_account(account_id, at_ms)
            tables.put_key(key)
            return True

        return await self._do(act)

    async def accounts(self) -> tuple[str, ...]:
        """The accounts of clients, oldest first."""
        return await self._do(lambda tables: tables.client_accounts())

    async def key(self, key_id: str) -> Key | None:
        """What is kept of a key."""
        return await self._do(lambda tables: tables.key(key_id))

    async def keys_of(self, account_id: str) -> tuple[Key, ...]:
        """The keys of an account, oldest first, with those that are revoked."""
        return await self._do(lambda tables: tables.keys_of(account_id))

    async def put_key(self, key: Key) -> None:
        """Adds a key, or replaces the one with its id."""
        await self._do(lambda tables: tables.put_key(key))

    async def change_key(self, key_id: str, change: Callable[[Key], Key]) -> Key | None:
        """Replaces a key by what `change` makes of it, and returns that; None if there is no such key."""

        def act(tables: Tables) -> Key | None:
            key = tables.key(key_id)
            if key is None:
                return None
            changed = change(key)
            tables.put_key(changed)
            return changed

        return await self._do(act)

    # What was signed.

    async def generations(self, account_id: str, generation_id: str) -> tuple[Generation, ...]:
        """What was settled under an id, oldest first; nothing for another account's and unknown ones."""
        return await self._do(lambda tables: tables.generations(account_id, generation_id))

    async def forget_generations(self, age_ms: int, kept_max: int, step: int) -> int:
        """Drops the oldest receipts: those over an age, and those beyond a number. Balances stay as they are.

        At most `step` in one call, so that jobs never wait for it; returns how many it were.
        """
        before_ms = self._wall_ms() - age_ms
        return await self._do(lambda tables: tables.forget_generations(before_ms, kept_max, step))
