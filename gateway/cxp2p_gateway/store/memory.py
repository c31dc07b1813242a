"""The store's twin in memory, for tests in virtual time: nothing outlives the process, and no thread is needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import trio

from cxp2p.ledger import NETWORK, Account, Change, Hold, Transfer
from cxp2p_gateway.keys import Key
from cxp2p_gateway.spending import Budget
from cxp2p_gateway.store import GENERATIONS_MAX, Generation, Store, StoreError, Tables
from cxp2p_gateway.store.memory_epochs import MemoryEpochs
from cxp2p_gateway.store.rows import GroupBy, KeptEvidence, SentOrder, Session, Use, UseQuery, User, UseSum

T = TypeVar("T")


@dataclass(slots=True)
class MemoryTables(MemoryEpochs):
    """`Tables` in dicts. A ledger rule decides before anything is written, so that nothing is ever half written."""

    people: dict[str, User] = field(default_factory=dict)
    sessions: dict[bytes, Session] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    budgets: dict[str, Budget] = field(default_factory=dict)
    rates: dict[tuple[str, str], int] = field(default_factory=dict)
    sent: dict[str, SentOrder] = field(default_factory=dict)
    wrongs: dict[str, KeptEvidence] = field(default_factory=dict)
    used: dict[tuple[str, ...], Use] = field(default_factory=dict)

    def write(self, change: Change, at_ms: int) -> None:
        self.apply(change)

    # People.

    def add_user(self, user: User) -> None:
        if user.id in self.people or (user.email is not None and self.user_by_email(user.email)):
            raise StoreError(f"there is a user {user.id} or {user.email} already")
        self.people[user.id] = user

    def replace_user(self, user: User) -> None:
        if user.id in self.people:
            self.people[user.id] = user

    def user(self, user_id: str) -> User | None:
        return self.people.get(user_id)

    def user_by_email(self, email: str) -> User | None:
        return next((each for each in self.people.values() if each.email == email), None)

    def users(self, limit: int, offset: int) -> tuple[User, ...]:
        ordered = sorted(self.people.values(), key=lambda user: (user.created_at_ms, user.id))
        return tuple(ordered[offset : offset + limit])

    def user_count(self) -> int:
        return len(self.people)

    def client_accounts(self) -> tuple[str, ...]:
        return tuple(user.id for user in self.users(len(self.people), 0))

    def referred_count(self, user_id: str) -> int:
        return sum(each.referred_by == user_id for each in self.people.values())

    def session(self, digest: bytes) -> Session | None:
        return self.sessions.get(digest)

    def add_session(self, session: Session, kept_max: int) -> None:
        self.sessions[session.digest] = session
        ours = [each for each in self.sessions.values() if each.account == session.account]
        for each in sorted(ours, key=lambda kept: (-kept.created_at_ms, kept.digest))[kept_max:]:
            del self.sessions[each.digest]

    def end_session(self, digest: bytes) -> None:
        self.sessions.pop(digest, None)

    def end_sessions(self, account_id: str) -> None:
        self.sessions = {digest: each for digest, each in self.sessions.items() if each.account != account_id}

    def forget_sessions(self, wall_ms: int) -> int:
        over = [digest for digest, each in self.sessions.items() if each.expires_at_ms <= wall_ms]
        for digest in over:
            del self.sessions[digest]
        return len(over)

    # Keys, and what they may.

    def key(self, key_id: str) -> Key | None:
        return self.keys.get(key_id)

    def keys_of(self, account_id: str) -> tuple[Key, ...]:
        kept = (key for key in self.keys.values() if key.account == account_id)
        return tuple(sorted(kept, key=lambda key: (key.created_at_ms, key.id)))

    def put_key(self, key: Key) -> None:
        self.keys[key.id] = key

    def drop_key(self, key_id: str) -> None:
        self.keys.pop(key_id, None)
        self.budgets.pop(key_id, None)
        self.rates = {name: each for name, each in self.rates.items() if name[0] != key_id}

    def budget(self, key_id: str) -> Budget:
        return self.budgets.get(key_id) or Budget(key=key_id)

    def put_budget(self, budget: Budget) -> None:
        self.budgets[budget.key] = budget

    def held_by_key(self, key_id: str) -> int:
        return sum(hold.amount for hold in self.open_holds() if hold.key == key_id)

    def requests_of_key(self, key_id: str) -> frozenset[str]:
        return frozenset(hold.request for hold in self.open_holds() if hold.key == key_id)

    def rate_empty_at_us(self, key_id: str, kind: str) -> int:
        return self.rates.get((key_id, kind), 0)

    def put_rate(self, key_id: str, kind: str, empty_at_us: int) -> None:
        self.rates[key_id, kind] = empty_at_us

    # What was signed.

    def generations(self, account_id: str, generation_id: str) -> tuple[Generation, ...]:
        found = [each for each in self.settled.values() if (each.account, each.id) == (account_id, generation_id)]
        return tuple(sorted(found, key=lambda each: each.created_at_ms)[-GENERATIONS_MAX:])

    def latest_generations(self, account_id: str, limit: int, offset: int) -> tuple[Generation, ...]:
        found = [each for each in reversed(self.settled.values()) if each.account == account_id]
        return tuple(found[offset : offset + limit])

    def add_generation(self, generation: Generation) -> bool:
        return self.settled.setdefault(generation.order_id, generation) is generation

    def forget_generations(self, before_ms: int, kept_max: int, step: int) -> int:
        over = len(self.settled) - kept_max
        oldest = list(self.settled.values())[:step]
        dropped = [each for place, each in enumerate(oldest) if place < over or each.created_at_ms < before_ms]
        dropped = [each for each in dropped if not self._awaits_root(each)]
        for each in dropped:
            del self.settled[each.order_id]
        self.forget_epoch_entries([each.order_id for each in dropped])
        return len(dropped)

    def generation(self, order_id: str) -> Generation | None:
        return self.settled.get(order_id)

    def late_charge(self, node: str, since_ms: int) -> int:
        late = [each for each in self.settled.values() if (each.account, each.node) == (NETWORK, node)]
        return sum(each.charge for each in late if each.created_at_ms >= since_ms)

    # Orders on their way, and those that ended without a receipt; evidence.

    def order(self, order_id: str) -> SentOrder | None:
        return self.sent.get(order_id)

    def put_order(self, order: SentOrder) -> None:
        self.sent[order.order_id] = order

    def drop_order(self, order_id: str) -> None:
        self.sent.pop(order_id, None)

    def forget_orders(self, before_ms: int, kept_max: int, step: int) -> int:
        oldest = sorted(self.sent.values(), key=lambda each: (each.sent_at_ms, each.order_id))
        over = len(oldest) - kept_max
        dropped = [each for place, each in enumerate(oldest) if place < over or each.sent_at_ms < before_ms][:step]
        for each in dropped:
            del self.sent[each.order_id]
        return len(dropped)

    def add_evidence(self, evidence: KeptEvidence) -> bool:
        return self.wrongs.setdefault(evidence.id, evidence) is evidence

    def evidence_count(self, peer: str, wrong: str) -> int:
        return sum((each.peer, each.wrong) == (peer, wrong) for each in self.wrongs.values())

    def evidence(self, limit: int, offset: int) -> tuple[KeptEvidence, ...]:
        ordered = sorted(self.wrongs.values(), key=lambda each: (each.at_ms, each.id), reverse=True)
        return tuple(ordered[offset : offset + limit])

    def forget_evidence(self, kept_max: int) -> int:
        dropped = self.evidence(len(self.wrongs), kept_max)
        for each in dropped:
            del self.wrongs[each.id]
        return len(dropped)

    # What was used.

    def add_use(self, use: Use) -> None:
        name = (use.account, use.day, use.key, use.service, use.model, use.app)
        known = self.used.get(name)
        self.used[name] = use if known is None else _added(known, use)

    def apps_of(self, account_id: str, day: str, limit: int) -> frozenset[str]:
        found = {use.app for use in self.used.values() if (use.account, use.day) == (account_id, day)}
        return frozenset(sorted(found)[:limit])

    def uses(self, query: UseQuery, limit: int) -> tuple[UseSum, ...]:
        groups: dict[tuple[str, str], list[Use]] = defaultdict(list)
        for use in self.used.values():
            if _is_asked_for(use, query):
                groups[_group(use, query.group_by), use.service].append(use)
        sums = [
            UseSum(
                group=group,
                service=service,
                requests=sum(use.requests for use in uses),
                in_units=sum(use.in_units for use in uses),
                out_units=sum(use.out_units for use in uses),
                charge=sum(use.charge for use in uses),
            )
            for (group, service), uses in sorted(groups.items())
        ]
        return tuple(sums[:limit])

    # All of them, for the audit.

    def all_balances(self) -> tuple[Account, ...]:
        return tuple(self.accounts.values())

    def all_holds(self) -> tuple[Hold, ...]:
        return tuple(self.holds.values())

    def all_transfers(self) -> tuple[Transfer, ...]:
        return tuple(self.transfers.values())


def _added(one: Use, other: Use) -> Use:
    return replace(
        one,
        requests=one.requests + other.requests,
        in_units=one.in_units + other.in_units,
        out_units=one.out_units + other.out_units,
        charge=one.charge + other.charge,
    )


def _is_asked_for(use: Use, query: UseQuery) -> bool:
    asked = query.account in (None, use.account) and query.key in (None, use.key)
    return asked and query.first_day <= use.day <= query.last_day


def _group(use: Use, by: GroupBy) -> str:
    return str(getattr(use, by.value))


def memory_store(wall_ms: Callable[[], int], tables: MemoryTables | None = None) -> Store:
    """A store over `tables`, which a test may look into."""
    kept = tables if tables is not None else MemoryTables()

    async def do(act: Callable[[Tables], T], /) -> T:
        await trio.lowlevel.checkpoint()
        return act(kept)

    return Store(do, wall_ms)
