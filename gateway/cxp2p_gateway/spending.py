"""How much a key may spend, and until when it counts. Pure. Money is in µcredits, times are wall-clock ms (UTC)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

MICRO: Final = 1_000_000  # µcredits in a credit


class Reset(StrEnum):
    """When a key's spending begins anew: at midnight UTC, on Mondays, on the first of a month, or never."""

    NEVER = "never"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a key has spent since `since_ms`."""

    key: str
    since_ms: int = 0
    spent: int = 0


def period_start_ms(reset: Reset, wall_ms: int) -> int:
    """When the period began that `wall_ms` lies in."""
    if reset is Reset.NEVER:
        return 0
    now = datetime.fromtimestamp(wall_ms / 1000, UTC)
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if reset is Reset.WEEKLY:
        start -= timedelta(days=start.weekday())
    if reset is Reset.MONTHLY:
        start = start.replace(day=1)
    return round(start.timestamp() * 1000)


def current(budget: Budget, reset: Reset, wall_ms: int) -> Budget:
    """The budget as it counts now: empty if its period is over."""
    start_ms = period_start_ms(reset, wall_ms)
    return budget if budget.since_ms >= start_ms else replace(budget, since_ms=start_ms, spent=0)


def charged(budget: Budget, reset: Reset, wall_ms: int, charge: int) -> Budget:
    """The budget after a charge, which counts in the period that it was posted in."""
    now = current(budget, reset, wall_ms)
    return replace(now, spent=now.spent + charge)


def may_spend(limit: int | None, spent: int, held: int) -> bool:
    """Whether one more hold may be taken: as long as something is left beside all that is spent and held.

    So jobs at once go over a limit by at most one hold. The last one is let in whole, because a hold is the most that a
    job may cost, and mostly far more than what it will.
    """
    return limit is None or spent + held < limit


def credits_of(micro: int | None) -> float | None:
    """µcredits as credits, of which JSON tells: never more than six decimals."""
    return None if micro is None else micro / MICRO
