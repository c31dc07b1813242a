"""What a store needs of the rows that it keeps: the seam between its rules and a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from cxp2p.errors import CxError
from cxp2p.ledger import Account, Book, Change, Hold, Transfer
from cxp2p_gateway.keys import Key
from cxp2p_gateway.spending import Budget
from cxp2p_gateway.store.epoch_rows import EpochTables
from cxp2p_gateway.store.rows import Generation, KeptEvidence, SentOrder, Session, Use, UseQuery, User, UseSum

T = TypeVar("T")


class StoreError(CxError):
    """The gateway's database cannot be used. The message says why, and what to do."""


class StoreUnavailable(StoreError):
    """The database cannot be reached or does not answer for now. What was asked for may have been done all the same."""


class StoreLocked(StoreError):
    """Another process keeps the database. `keeper`: its id, or "unknown"."""

    def __init__(self, message: str, keeper: str) -> None:
        super().__init__(message)
        self.keeper = keeper


class Tables(Book, EpochTables, Protocol):
    """The kept rows, inside of one transaction."""

    def write(self, change: Change, at_ms: int) -> None:
        """Writes what a ledger rule decided."""

    # People.

    def add_user(self, user: User) -> None:
        """Adds one whose id and e-mail are new."""

    def replace_user(self, user: User) -> None:
        """Replaces the one with its id."""

    def user(self, user_id: str) -> User | None: ...

    def user_by_email(self, email: str) -> User | None: ...

    def users(self, limit: int, offset: int) -> tuple[User, ...]:
        """Oldest first."""

    def user_count(self) -> int: ...

    def client_accounts(self) -> tuple[str, ...]:
        """The accounts of clients, oldest first."""

    def referred_count(self, user_id: str) -> int:
        """How many a user brought."""

    def session(self, digest: bytes) -> Session | None: ...

    def add_session(self, session: Session, kept_max: int) -> None:
        """Adds one; of its account's, only the newest `kept_max` are kept."""

    def end_session(self, digest: bytes) -> None: ...

    def end_sessions(self, account_id: str) -> None:
        """All of an account."""

    def forget_sessions(self, wall_ms: int) -> int:
        """Drops those that have expired; says how many."""

    # Keys, and what they may.

    def key(self, key_id: str) -> Key | None: ...

    def keys_of(self, account_id: str) -> tuple[Key, ...]:
        """The keys of an account, oldest first."""

    def put_key(self, key: Key) -> None:
        """Adds a key, or replaces the one with its id."""

    def drop_key(self, key_id: str) -> None:
        """Forgets a key, and where its limits stand. What was signed and used with it stays."""

    def budget(self, key_id: str) -> Budget:
        """What a key has spent; one that never spent is empty."""

    def put_budget(self, budget: Budget) -> None: ...

    def held_by_key(self, key_id: str) -> int:
        """What is held for a key's jobs."""

    def requests_of_key(self, key_id: str) -> frozenset[str]:
        """Those of a key's requests for which there are open holds."""

    def rate_empty_at_us(self, key_id: str, kind: str) -> int:
        """Where a rate of a key stands; 0 for one that never was used."""

    def put_rate(self, key_id: str, kind: str, empty_at_us: int) -> None: ...

    # What was signed.

    def generations(self, account_id: str, generation_id: str) -> tuple[Generation, ...]:
        """The newest of this account under this id, at most GENERATIONS_MAX, oldest first."""

    def latest_generations(self, account_id: str, limit: int, offset: int) -> tuple[Generation, ...]:
        """The newest of this account, newest first."""

    def add_generation(self, generation: Generation) -> bool:
        """Adds one; the same order again changes nothing. True if it was added."""

    def forget_generations(self, before_ms: int, kept_max: int, step: int) -> int:
        """Of the `step` oldest, drops those from before `before_ms` and those beyond `kept_max`; says how many."""

    def generation(self, order_id: str) -> Generation | None: ...

    def late_charge(self, node: str, since_ms: int) -> int:
        """What a node was paid since then for orders that were settled late."""

    # Orders on their way, and those that ended without a receipt.

    def order(self, order_id: str) -> SentOrder | None: ...

    def put_order(self, order: SentOrder) -> None:
        """Adds an order, or what arrived of the one with its id."""

    def drop_order(self, order_id: str) -> None: ...

    def forget_orders(self, before_ms: int, kept_max: int, step: int) -> int:
        """Drops those from before `before_ms` and those beyond the newest `kept_max`, at most `step`; says how many."""

    # Evidence.

    def add_evidence(self, evidence: KeptEvidence) -> bool:
        """Adds what is not there yet. True if it was added."""

    def evidence_count(self, peer: str, wrong: str) -> int:
        """How much of one kind is kept about a peer."""

    def evidence(self, limit: int, offset: int) -> tuple[KeptEvidence, ...]:
        """Newest first."""

    def forget_evidence(self, kept_max: int) -> int:
        """Drops the oldest beyond a number; says how many."""

    # What was used.

    def add_use(self, use: Use) -> None:
        """Adds to what was used on that day of the same."""

    def apps_of(self, account_id: str, day: str, limit: int) -> frozenset[str]:
        """The apps that an account was used by on a day."""

    def uses(self, query: UseQuery, limit: int) -> tuple[UseSum, ...]:
        """Sums, by what they are grouped by and by service."""

    # All of them, for the audit.

    def all_balances(self) -> tuple[Account, ...]: ...

    def all_holds(self) -> tuple[Hold, ...]: ...

    def all_transfers(self) -> tuple[Transfer, ...]: ...


class Do(Protocol):
    """Does one act whole or not at all, and returns when it is on disk. Cancelled, it has not begun.

    What the act raises comes out, and nothing of it is written. Raises StoreError.
    """

    async def __call__(self, act: Callable[[Tables], T], /) -> T: ...
