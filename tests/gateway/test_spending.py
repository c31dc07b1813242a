"""What a key may spend, and when it counts anew."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p_gateway.spending import Budget, Reset, charged, credits_of, current, may_spend, period_start_ms

MOMENTS = st.integers(0, 4_102_444_800_000)  # until 2100


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("reset", "moment", "start"),
    [
        (Reset.NEVER, "2026-11-27T12:00", "1970-01-01"),
        (Reset.DAILY, "2026-11-27T00:00", "2026-11-27"),
        (Reset.DAILY, "2026-11-26T23:59:59.999", "2026-11-26"),
        (Reset.WEEKLY, "2026-11-29T23:59:59.999", "2026-11-23"),
        (Reset.WEEKLY, "2026-11-30T00:00", "2026-11-30"),
        (Reset.WEEKLY, "2026-01-01T00:00", "2025-12-29"),
        (Reset.MONTHLY, "2026-11-30T23:59:59.999", "2026-11-01"),
        (Reset.MONTHLY, "2026-12-01T00:00", "2026-12-01"),
        (Reset.MONTHLY, "2028-02-29T12:00", "2028-02-01"),
    ],
)
def test_periods_begin_at_midnight(reset: Reset, moment: str, start: str) -> None:
    """Each day, each Monday, each first of a month, in UTC."""
    assert period_start_ms(reset, ms(moment)) == ms(start)


@given(reset=st.sampled_from(Reset), at_ms=MOMENTS)
def test_a_period_begins_where_it_begins(reset: Reset, at_ms: int) -> None:
    """Its start is in it, and the millisecond before is not."""
    start_ms = period_start_ms(reset, at_ms)
    assert start_ms <= at_ms
    assert period_start_ms(reset, start_ms) == start_ms
    if start_ms > 0:
        assert period_start_ms(reset, start_ms - 1) < start_ms


@given(reset=st.sampled_from(Reset), charges=st.lists(st.tuples(MOMENTS, st.integers(0, 10**9)), max_size=30))
def test_what_counts_is_what_was_posted_in_this_period(reset: Reset, charges: list[tuple[int, int]]) -> None:
    """However many periods went by in between."""
    budget = Budget(key="k")
    charges.sort()
    for at_ms, charge in charges:
        budget = charged(budget, reset, at_ms, charge)
    now_ms = charges[-1][0] if charges else 0
    start_ms = period_start_ms(reset, now_ms)
    assert current(budget, reset, now_ms).spent == sum(charge for at_ms, charge in charges if at_ms >= start_ms)


def test_a_limit_counts_anew_in_the_millisecond_that_a_period_begins() -> None:
    budget = charged(Budget(key="k"), Reset.DAILY, ms("2026-11-27T12:00"), 7)
    assert current(budget, Reset.DAILY, ms("2026-11-27T23:59:59.999")).spent == 7
    assert current(budget, Reset.DAILY, ms("2026-11-28T00:00")).spent == 0
    assert current(budget, Reset.MONTHLY, ms("2026-11-28T00:00")).spent == 7  # its owner has changed the period


@given(
    limit=st.integers(0, 1000),
    steps=st.lists(st.tuples(st.integers(1, 400), st.integers(0, 400), st.booleans()), max_size=60),
)
def test_holds_at_once_go_over_a_limit_by_less_than_one(limit: int, steps: list[tuple[int, int, bool]]) -> None:
    """Whatever is held, posted and given back in between; and nothing at all is let in at or over it."""
    spent, holds = 0, list[int]()
    largest = 0
    for amount, charge, ends in steps:
        if ends and holds:
            hold = holds.pop(charge % len(holds))
            spent += min(charge, hold)
        elif may_spend(limit, spent, sum(holds)):
            assert spent + sum(holds) < limit
            holds.append(amount)
            largest = max(largest, amount)
        assert spent + sum(holds) < limit + max(largest, 1)


@given(spent=st.integers(0, 10**15), held=st.integers(0, 10**15))
def test_without_a_limit_all_may_be_spent(spent: int, held: int) -> None:
    assert may_spend(None, spent, held)


def test_credits_have_six_decimals() -> None:
    assert [credits_of(each) for each in (None, 0, 1, 1_500_000)] == [None, 0.0, 0.000001, 1.5]
