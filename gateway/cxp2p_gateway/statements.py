"""What an account or one of its keys has, has spent, and has used: for its owner to read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Final

from cxp2p.client import Settlement
from cxp2p_gateway.asking import Caller
from cxp2p_gateway.keys import Key, Kind
from cxp2p_gateway.limits import Standing
from cxp2p_gateway.moments import day_of
from cxp2p_gateway.signed import settlement_of
from cxp2p_gateway.spending import Reset, period_start_ms
from cxp2p_gateway.store import USES_MAX, Generation, Store
from cxp2p_gateway.store.rows import GroupBy, UseQuery, UseSum

EVER: Final = UseQuery(first_day="0001-01-01", last_day="9999-12-31", group_by=GroupBy.SERVICE)
GENERATION_LENGTH_MAX: Final = 128  # of an id that a client asks for; ours have 35 characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """What there is to spend, in µcredits: `left` now, and what was `spent` of it."""

    spent: int
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a key has spent, in µcredits: ever, and in the day, week and month (UTC) that it is."""

    ever: int
    day: int
    week: int
    month: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UseReport:
    """Sums of what was used. `is_cut`: there are more."""

    query: UseQuery
    sums: tuple[UseSum, ...]
    is_cut: bool


class Statements:
    """Reads the books for those who may see them. A virtual key sees what is its own."""

    def __init__(self, store: Store, wall_ms: Callable[[], int]) -> None:
        self._store = store
        self._wall_ms = wall_ms

    @property
    def today(self) -> date:
        """The day that it is (UTC)."""
        return datetime.fromtimestamp(self._wall_ms() / 1000, UTC).date()

    async def credit(self, key: Key) -> Credit:
        """What a key can still spend: what its account has left, but no more than its own limit.

        `spent` is of the account for its base key; for others what they spent, in their period if there is a limit.
        """
        left = (await self._store.balance(key.account)).balance
        if key.kind is Kind.BASE:
            return Credit(spent=await self._ever(replace(EVER, account=key.account)), left=left)
        if key.spend_limit is None:
            return Credit(spent=await self._ever(replace(EVER, key=key.id)), left=left)
        spent = (await self._store.standing(key)).spent
        return Credit(spent=spent, left=max(0, min(left, key.spend_limit - spent)))

    async def spent(self, key: Key) -> Spent:
        """What a key has spent."""
        wall_ms = self._wall_ms()
        starts = [day_of(period_start_ms(reset, wall_ms)) for reset in (Reset.DAILY, Reset.WEEKLY, Reset.MONTHLY)]
        ever = await self._ever(replace(EVER, key=key.id))
        days = await self._store.uses(UseQuery(first_day=min(starts), last_day=day_of(wall_ms), key=key.id))
        day, week, month = (sum(each.charge for each in days if each.group >= start) for start in starts)
        return Spent(ever=ever, day=day, week=week, month=month)

    async def standing(self, key: Key) -> Standing:
        """What a key has spent in its period, what is held for it, and where its rates stand."""
        return await self._store.standing(key)

    async def uses(self, query: UseQuery) -> UseReport:
        """What was used."""
        sums = await self._store.uses(query)
        return UseReport(query=query, sums=sums, is_cut=len(sums) >= USES_MAX)

    async def generations(self, caller: Caller, generation: str) -> tuple[Generation, ...]:
        """The orders of one of the caller's answers, oldest first; none for others' and unknown ones."""
        if len(generation) > GENERATION_LENGTH_MAX or not generation.isascii():
            return ()
        kept = await self._store.generations(caller.account, generation)
        return tuple(each for each in kept if caller.kind is Kind.BASE or each.key == caller.key)

    async def receipts(self, caller: Caller, generation: str) -> tuple[Settlement, ...]:
        """What was signed for each of these orders. Raises StoreError if what is kept of one no longer verifies."""
        return tuple(settlement_of(each) for each in await self.generations(caller, generation))

    async def _ever(self, query: UseQuery) -> int:
        return sum(each.charge for each in await self._store.uses(query))
