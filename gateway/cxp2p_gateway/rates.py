"""How often a key may ask: the generic cell rate algorithm (ITU-T I.371, annex A), one number for each limit. Pure.

A limit of so many a minute lets so many in at once, and then one more each time its share of the minute has passed.
What is kept is the time at which the bucket is empty again. Times are wall-clock µs, so that processes can share them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MINUTE_US: Final = 60_000_000
ROUNDING_US: Final = 1_000  # shares are rounded up: without it a limit of 7 would let in 6 at once


class Counted(StrEnum):
    """What a rate counts, each minute."""

    REQUESTS = "requests"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Where a limit stands: so many of `limit` a minute are left now, and all of them again in `reset_us`."""

    limit: int
    remaining: int
    reset_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether it may be now. If so, `empty_at_us` is what to keep; if not, `wait_us` is when it may be."""

    allowed: bool
    empty_at_us: int
    wait_us: int
    rate: Rate


def take(limit: int, empty_at_us: int, now_us: int, cost: int = 1) -> Decision:
    """Whether `cost` fits in `limit` a minute now. More than the whole limit fits once all else has gone."""
    begun_us = max(empty_at_us, now_us)
    after_us = begun_us + _share_us(limit, cost)
    over_us = after_us - now_us - MINUTE_US - ROUNDING_US
    if over_us > 0 and begun_us > now_us:
        wait_us = min(over_us, begun_us - now_us)
        return Decision(allowed=False, empty_at_us=empty_at_us, wait_us=wait_us, rate=state(limit, empty_at_us, now_us))
    return Decision(allowed=True, empty_at_us=after_us, wait_us=0, rate=state(limit, after_us, now_us))


def corrected(limit: int, empty_at_us: int, now_us: int, difference: int) -> int:
    """What to keep when something took `difference` more than was thought, or less: then it is below zero."""
    return max(empty_at_us, now_us) + _share_us(limit, difference)


def state(limit: int, empty_at_us: int, now_us: int) -> Rate:
    """What is left at this moment."""
    reset_us = max(0, empty_at_us - now_us)
    used = -(-max(0, reset_us - ROUNDING_US) * limit // MINUTE_US)
    return Rate(limit=limit, remaining=max(0, limit - used), reset_us=reset_us)


def _share_us(limit: int, cost: int) -> int:
    """How much of a minute `cost` takes, rounded up."""
    return -(-cost * MINUTE_US // limit)
