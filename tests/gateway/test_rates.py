"""Rates by GCRA: never more than is allowed, and the time to come again is exact."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p_gateway.rate_headers import duration, rate_headers
from cxp2p_gateway.rates import MINUTE_US, ROUNDING_US, Counted, Rate, corrected, state, take

NOW_US = 1_700_000_000_000_000
LIMITS = st.integers(1, 1_000_000)
STANDINGS = st.integers(-2 * MINUTE_US, 10 * MINUTE_US)  # when it is empty again, from now on


@given(limit=st.integers(1, 100), steps=st.lists(st.integers(0, 20_000_000), min_size=1, max_size=300))
def test_no_window_has_more_than_the_limit_and_what_came_back(limit: int, steps: list[int]) -> None:
    """In any time, as many as the limit, and one more for each share of a minute in it; so 2 limits in a minute."""
    let_in: list[int] = []
    empty_at_us = 0
    for now_us in accumulate(steps, initial=NOW_US):
        decision = take(limit, empty_at_us, now_us)
        empty_at_us = decision.empty_at_us
        if decision.allowed:
            let_in.append(now_us)
    for first in range(len(let_in)):
        for last in range(first, len(let_in)):
            taken = last - first + 1
            assert taken * MINUTE_US <= limit * (let_in[last] - let_in[first] + MINUTE_US + ROUNDING_US)


@given(limit=st.integers(1, 1000))
def test_all_of_a_limit_may_come_at_once(limit: int) -> None:
    """And then one for each share of a minute."""
    empty_at_us = 0
    for left in reversed(range(limit)):
        decision = take(limit, empty_at_us, NOW_US)
        assert (decision.allowed, decision.rate.remaining) == (True, left)
        empty_at_us = decision.empty_at_us
    refused = take(limit, empty_at_us, NOW_US)
    assert not refused.allowed
    assert refused.empty_at_us == empty_at_us
    assert MINUTE_US / limit - ROUNDING_US <= refused.wait_us <= MINUTE_US / limit


@given(limit=LIMITS, standing_us=STANDINGS, cost=st.integers(1, 2_000_000))
def test_who_comes_when_told_is_let_in_and_not_a_microsecond_before(limit: int, standing_us: int, cost: int) -> None:
    empty_at_us = NOW_US + standing_us
    decision = take(limit, empty_at_us, NOW_US, cost)
    if decision.allowed:
        assert decision.wait_us == 0
        return
    assert decision.wait_us > 0
    assert take(limit, empty_at_us, NOW_US + decision.wait_us, cost).allowed
    assert not take(limit, empty_at_us, NOW_US + decision.wait_us - 1, cost).allowed


@given(limit=LIMITS, standing_us=STANDINGS, cost=st.integers(1, 2_000_000))
def test_what_remains_is_what_is_let_in(limit: int, standing_us: int, cost: int) -> None:
    """No more and no less; only what is more than all of a limit has to wait until nothing else is there."""
    rate = state(limit, NOW_US + standing_us, NOW_US)
    assert 0 <= rate.remaining <= limit
    assert take(limit, NOW_US + standing_us, NOW_US, cost).allowed == (cost <= rate.remaining or rate.reset_us == 0)
    later = state(limit, NOW_US + standing_us, NOW_US + rate.reset_us)
    assert (later.remaining, later.reset_us) == (limit, 0)


@given(limit=LIMITS, standing_us=STANDINGS, cost=st.integers(1, 100_000), more=st.integers(-100_000, 100_000))
def test_a_correction_is_as_if_it_had_been_known(limit: int, standing_us: int, cost: int, more: int) -> None:
    """But for what rounding up takes: at most a microsecond each time."""
    if cost + more < 1:
        return
    empty_at_us = NOW_US + standing_us
    taken, known = take(limit, empty_at_us, NOW_US, cost), take(limit, empty_at_us, NOW_US, cost + more)
    if taken.allowed and known.allowed:
        assert abs(corrected(limit, taken.empty_at_us, NOW_US, more) - known.empty_at_us) <= 1


@pytest.mark.parametrize(
    ("us", "told"),
    [
        (0, "0s"),
        (1, "1s"),
        (1_000_000, "1s"),
        (1_000_001, "2s"),
        (59_000_000, "59s"),
        (59_000_001, "1m0s"),
        (360_000_000, "6m0s"),
        (3_605_000_000, "1h0m5s"),
        (90_000_000_000, "25h0m0s"),
    ],
)
def test_times_are_told_as_clients_read_them(us: int, told: str) -> None:
    assert duration(us) == told


def test_each_rate_has_three_headers() -> None:
    rates = {
        Counted.REQUESTS: Rate(limit=60, remaining=59, reset_us=1_000_000),
        Counted.TOKENS: Rate(limit=1000, remaining=0, reset_us=61_000_000),
    }
    assert dict(rate_headers(rates)) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m1s",
    }
    assert rate_headers({}) == []
