"""What a gateway keeps: accounts, keys, credit, and what was signed about each job.

`Store` is what the gateway calls. It decides with `cxp2p.ledger` and `cxp2p_gateway.limits`, and writes through
`Tables`, of which there are three: `store.sqlite` and `store.postgres` (on disk), and `store.memory` (their twin for
tests). All pass the same contract tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

import trio

from cxp2p import ledger
from cxp2p.ledger import NETWORK, NOTHING, Account, Book, Change, HoldState
from cxp2p_gateway import limits
from cxp2p_gateway.keys import Key
from cxp2p_gateway.limits import Admitted, Demand, Standing
from cxp2p_gateway.moments import day_of
from cxp2p_gateway.rates import Counted, Rate, corrected
from cxp2p_gateway.spending import charged, current
from cxp2p_gateway.store.epoch_rows import EntryOf, count
from cxp2p_gateway.store.orders import Arrived, end_order
from cxp2p_gateway.store.rows import GENERATIONS_MAX, Generation, SentOrder, Use, UseQuery, User, UseSum
from cxp2p_gateway.store.tables import Do, StoreError, StoreLocked, StoreUnavailable, Tables

__all__ = [
    "GENERATIONS_MAX",
    "Generation",
    "Store",
    "StoreError",
    "StoreLocked",
    "StoreUnavailable",
    "Tables",
    "node_account",
]

T = TypeVar("T")

APPS_MAX: Final = 200  # that are told apart on one day of one account
OTHER_APPS: Final = "(other)"
USES_MAX: Final = 10_000  # sums in one answer
SIGNED_MAX: Final = 100  # generations on one page
UNSURE_MAX: Final = 10_000  # holds that a lost database may have kept; over it they expire like forgotten ones
AGAIN_S: Final = 0.2  # until a settlement is tried again that the database did not take
SETTLE_S_MAX: Final = 30.0


def node_account(peer: str) -> str:
    """The account that a node's work is posted to."""
    return f"node:{peer}"


class Store:
    """Everything a gateway keeps. Each call is one transaction, on disk when it returns; ledger rules are in force.

    `entry_of` says for which epoch what is settled counts.
    """

    def __init__(self, do: Do, wall_ms: Callable[[], int], read: Do | None = None) -> None:
        self.do = do
        self.read = read or do
        self.wall_ms = wall_ms
        self.entry_of: EntryOf = _for_no_epoch
        self._unsure: dict[str, None] = {}

    # Credit.

    async def grant(self, transfer_id: str, account_id: str, amount: int) -> None:
        """Gives an account credit, once for each `transfer_id`."""
        await self._change(lambda book: ledger.transfer(book, transfer_id, NETWORK, account_id, amount))

    async def reserve(
        self,
        hold_id: str,
        account_id: str,
        amount: int,
        expires_at_ms: int,
        demand: Demand | None = None,
        sent: SentOrder | None = None,
    ) -> Mapping[Counted, Rate]:
        """Holds `amount`, if the key of `demand` may have it; says where the key's rates stand.

        `sent`: the order, which leaves when this returns. Raises InsufficientCredit; for the key also KeyEnded,
        RateLimited.
        """
        wall_ms = self.wall_ms()

        def act(tables: Tables) -> Mapping[Counted, Rate]:
            admitted = _NO_RATES if demand is None else _admit(tables, demand, wall_ms)
            key, request = ("", "") if demand is None else (demand.key, demand.request)
            change = ledger.reserve(tables, hold_id, account_id, amount, expires_at_ms, key=key, request=request)
            if change != NOTHING:
                for counted, empty_at_us in admitted.empty_at_us.items():
                    tables.put_rate(key, counted.value, empty_at_us)
                if sent is not None:
                    tables.put_order(sent)
                tables.write(change, wall_ms)
            return admitted.rates

        with self._doubting(hold_id):
            return await self.do(act)

    async def settle(self, generation: Generation, *, is_first: bool = True, tokens_expected: int = 0) -> None:
        """Posts the order's hold at `generation.charge` to its node's account, and keeps the signed bytes.

        `is_first`: nothing was settled for its request before. `tokens_expected`: what `Demand` said of it. A database
        that is away for a moment is waited for. Raises LedgerError, StoreError.
        """
        at_ms = self.wall_ms()

        def act(tables: Tables) -> None:
            to = node_account(generation.node)
            tables.write(ledger.post(tables, generation.order_id, generation.charge, to), at_ms)
            tables.drop_order(generation.order_id)
            if self.keep(tables, generation):
                _note_use(tables, generation, at_ms, 1 if is_first else 0)
                _charge_key(tables, generation, at_ms, tokens_expected)

        with self._doubting(generation.order_id):
            await self._insist(act)

    async def void(self, hold_id: str, arrived: Arrived | None = None) -> None:
        """Gives a whole hold back. If the database does not take it, `expire` does it later.

        `arrived`: its order ended without a receipt, and its node may claim it; otherwise the order is forgotten.
        """
        is_unsure = hold_id in self._unsure
        at_ms = self.wall_ms()

        def act(tables: Tables) -> None:
            change = _void_unsure(tables, [hold_id]) if is_unsure else ledger.void(tables, hold_id)
            if change != NOTHING:
                tables.write(change, at_ms)
            end_order(tables, hold_id, arrived)

        with self._doubting(hold_id):
            await self.do(act)

    async def void_all(self) -> int:
        """Gives every open hold back; returns how many there were. For holds of a process that is no more."""
        return len((await self._change(ledger.void_all)).holds)

    async def expire(self) -> int:
        """Ends the holds that are overdue; returns how many there were. Sessions that have expired are forgotten.

        It also gives back what was held, or was to be given back, when the database was lost.
        """
        wall_ms = self.wall_ms()
        if unsure := tuple(self._unsure):
            await self._change(lambda book: _void_unsure(book, unsure))
            for hold_id in unsure:
                self._unsure.pop(hold_id, None)

        def act(tables: Tables) -> int:
            tables.forget_sessions(wall_ms)
            change = ledger.expire(tables, wall_ms)
            tables.write(change, wall_ms)
            return len(change.holds)

        return await self.do(act)

    async def balance(self, account_id: str) -> Account:
        """What an account has and how much of it is held."""
        return await self.do(lambda tables: tables.account(account_id))

    async def audit(self) -> tuple[str, ...]:
        """What is wrong with the books; reads all of them, so for tests and for doubt."""
        return await self.do(
            lambda tables: ledger.audit(tables.all_balances(), tables.all_holds(), tables.all_transfers())
        )

    def keep(self, tables: Tables, generation: Generation) -> bool:
        """Keeps what was settled, and counts it for its epoch; False if it was kept already."""
        is_new = tables.add_generation(generation)
        entry = self.entry_of(generation) if is_new else None
        if entry is not None:
            count(tables, entry)
        return is_new

    async def _change(self, decide: Callable[[Book], Change]) -> Change:
        at_ms = self.wall_ms()

        def act(tables: Tables) -> Change:
            change = decide(tables)
            if change != NOTHING:
                tables.write(change, at_ms)
            return change

        return await self.do(act)

    @contextmanager
    def _doubting(self, hold_id: str) -> Iterator[None]:
        """Remembers a hold if nobody can say whether it was written, or ended."""
        try:
            yield
        except (StoreError, trio.Cancelled):
            if len(self._unsure) < UNSURE_MAX:
                self._unsure[hold_id] = None
            raise
        self._unsure.pop(hold_id, None)

    async def _insist(self, act: Callable[[Tables], None]) -> None:
        """Does what may be repeated, as soon as the database is there."""
        until = trio.current_time() + SETTLE_S_MAX
        while True:
            try:
                return await self.do(act)
            except StoreUnavailable:
                if trio.current_time() >= until:
                    raise
            await trio.sleep(AGAIN_S)

    # Accounts and keys.

    async def found(self, user: User, key: Key, credit: int) -> bool:
        """Makes the first account with its key and credit, unless there is an account. True if it was made."""
        at_ms = self.wall_ms()

        def act(tables: Tables) -> bool:
            if tables.user_count():
                return tables.user(user.id) == user
            _welcome(tables, user, key, credit, at_ms)
            return True

        return await self.do(act)

    async def accounts(self) -> tuple[str, ...]:
        """The accounts of clients, oldest first."""
        return await self.read(lambda tables: tables.client_accounts())

    async def key(self, key_id: str) -> Key | None:
        """What is kept of a key."""
        return await self.read(lambda tables: tables.key(key_id))

    async def usable_key(self, key_id: str) -> Key | None:
        """What is kept of a key; None if its account is disabled."""

        def look(tables: Tables) -> Key | None:
            key = tables.key(key_id)
            owner = tables.user("" if key is None else key.account)  # looked for in any case: it takes as long
            return None if owner is not None and owner.disabled_at_ms is not None else key

        return await self.read(look)

    async def keys_of(self, account_id: str) -> tuple[Key, ...]:
        """The keys of an account, oldest first, with those that are revoked."""
        return await self.read(lambda tables: tables.keys_of(account_id))

    async def put_key(self, key: Key) -> None:
        """Adds a key, or replaces the one with its id."""
        await self.do(lambda tables: tables.put_key(key))

    async def add_key(self, key: Key, valid_max: int, revoked_max: int) -> bool:
        """Adds a key unless its account has `valid_max` that were not revoked. True if it was added.

        Of those that were, only the last `revoked_max` are kept.
        """

        def act(tables: Tables) -> bool:
            kept = tables.keys_of(key.account)
            revoked = sorted((each.revoked_at_ms, each.id) for each in kept if each.revoked_at_ms is not None)
            if len(kept) - len(revoked) >= valid_max:
                return False
            for _, key_id in revoked[: max(0, len(revoked) - revoked_max)]:
                tables.drop_key(key_id)
            tables.put_key(key)
            return True

        return await self.do(act)

    async def standing(self, key: Key) -> Standing:
        """What a key has spent in its period, what is held for it, and where its rates stand."""
        wall_ms = self.wall_ms()
        return await self.read(lambda tables: _standing(tables, key, wall_ms))

    async def change_key(self, key_id: str, change: Callable[[Key], Key]) -> Key | None:
        """Replaces a key by what `change` makes of it, and returns that; None if there is no such key."""

        def act(tables: Tables) -> Key | None:
            key = tables.key(key_id)
            if key is None:
                return None
            changed = change(key)
            tables.put_key(changed)
            return changed

        return await self.do(act)

    # What was signed.

    async def generations(self, account_id: str, generation_id: str) -> tuple[Generation, ...]:
        """What was settled under an id, oldest first; nothing for another account's and unknown ones."""
        return await self.read(lambda tables: tables.generations(account_id, generation_id))

    async def latest_generations(self, account_id: str, limit: int, offset: int = 0) -> tuple[Generation, ...]:
        """The newest of an account, newest first; at most SIGNED_MAX."""
        return await self.read(lambda tables: tables.latest_generations(account_id, min(limit, SIGNED_MAX), offset))

    async def uses(self, query: UseQuery) -> tuple[UseSum, ...]:
        """What was used, in sums; at most USES_MAX of them."""
        return await self.read(lambda tables: tables.uses(query, USES_MAX))

    async def forget_generations(self, age_ms: int, kept_max: int, step: int) -> int:
        """Drops the oldest receipts: those over an age, and those beyond a number. Balances stay as they are.

        At most `step` in one call, so that jobs never wait for it; returns how many it were.
        """
        before_ms = self.wall_ms() - age_ms
        return await self.do(lambda tables: tables.forget_generations(before_ms, kept_max, step))


def _for_no_epoch(_: Generation) -> None:
    """Until a gateway says what its epochs are."""


def _void_unsure(book: Book, hold_ids: Iterable[str]) -> Change:
    """Ends those of these holds that were made and are open; what has become of the others is as it should be."""
    found = (book.hold(hold_id) for hold_id in hold_ids)
    return ledger.void_left(book, [hold for hold in found if hold is not None and hold.state is HoldState.OPEN])


def _welcome(tables: Tables, user: User, key: Key, credit: int, at_ms: int) -> None:
    tables.write(ledger.transfer(tables, f"grant:{user.id}", NETWORK, user.id, credit), at_ms)
    tables.add_user(user)
    tables.put_key(key)


def _standing(tables: Tables, key: Key, wall_ms: int) -> Standing:
    return Standing(
        spent=current(tables.budget(key.id), key.spend_reset, wall_ms).spent,
        held=tables.held_by_key(key.id),
        requests=tables.requests_of_key(key.id),
        empty_at_us={each: tables.rate_empty_at_us(key.id, each.value) for each in limits.limits_of(key)},
    )


_NO_RATES: Final = Admitted(empty_at_us={}, rates={})
_UNLIMITED: Final = Standing(spent=0, held=0, requests=frozenset(), empty_at_us={})


def _admit(tables: Tables, demand: Demand, wall_ms: int) -> Admitted:
    key = tables.key(demand.key)
    is_limited = key is not None and (key.spend_limit, key.rpm, key.tpm, key.parallel_max) != (None,) * 4
    standing = _standing(tables, key, wall_ms) if key is not None and is_limited else _UNLIMITED
    return limits.admit(key, demand, standing, wall_ms)


def _charge_key(tables: Tables, generation: Generation, at_ms: int, tokens_expected: int) -> None:
    key = tables.key(generation.key)
    if key is None:
        return
    if generation.charge:
        tables.put_budget(charged(tables.budget(key.id), key.spend_reset, at_ms, generation.charge))
    tokens = limits.tokens_of(generation.service, generation.in_units, generation.out_units)
    if key.tpm is not None and (tokens or tokens_expected):
        more = tokens - tokens_expected
        empty_at_us = tables.rate_empty_at_us(key.id, Counted.TOKENS.value)
        tables.put_rate(key.id, Counted.TOKENS.value, corrected(key.tpm, empty_at_us, at_ms * 1000, more))


def _note_use(tables: Tables, generation: Generation, at_ms: int, requests: int) -> None:
    day = day_of(at_ms)
    app = generation.app or generation.origin
    if app:
        known = tables.apps_of(generation.account, day, APPS_MAX)
        app = app if app in known or len(known) < APPS_MAX else OTHER_APPS
    tables.add_use(
        Use(
            account=generation.account,
            day=day,
            key=generation.key,
            service=generation.service,
            model=generation.model,
            app=app,
            requests=requests,
            in_units=generation.in_units,
            out_units=generation.out_units,
            charge=generation.charge,
        )
    )
