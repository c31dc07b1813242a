"""What a gateway may owe a node, and what makes that less."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p import exposure
from cxp2p.exposure import AGREED_PER_DISPUTE, DISPUTE_MS, SILENCE_MS, UNANSWERED_MAX, Exposures, Owed
from cxp2p.records import RefusalCode

MAX = 3_000


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def owing(*amounts: int) -> Exposures:
    """A gateway that got a receipt for each amount at time 0."""
    exposures = Exposures(MAX)
    for number, amount in enumerate(amounts):
        exposures.owe("g", key(number), Owed(amount, 0))
    return exposures


@pytest.mark.parametrize(("silent", "limit"), [(0, 3000), (1, 2000), (2, 1000), (3, 0), (9, 0)])
def test_each_receipt_that_stays_unanswered_takes_a_third_off_the_limit(silent: int, limit: int) -> None:
    """From 30 s on, and not before; after three nothing is left."""
    exposures = owing(*[1] * silent)

    assert exposures.limit("g", SILENCE_MS - 1) == MAX
    assert exposures.limit("g", SILENCE_MS) == limit
    assert exposures.limit("another", SILENCE_MS) == MAX


def test_a_late_answer_gives_the_third_back() -> None:
    """Days later, through a claim."""
    exposures = owing(1, 1, 1)
    week = 7 * 24 * 3_600_000
    refused = exposures.refusal("g", 1, week)
    for number in range(3):
        exposures.agreed("g", key(number))

    assert refused is not None
    assert (refused.code, refused.retry_after_ms) == (RefusalCode.EXPOSURE, exposure.RETRY_MS_MAX)
    assert exposures.limit("g", week) == MAX
    assert exposures.exposure("g", week) == 0


def test_a_dispute_weighs_at_once_and_for_a_day() -> None:
    """What is in dispute counts as owed while it weighs."""
    exposures = owing(700)
    exposures.disputed("g", key(0))

    assert exposures.limit("g", 1) == 2000
    assert exposures.exposure("g", DISPUTE_MS - 1) == 700
    assert exposures.limit("g", DISPUTE_MS) == MAX
    assert exposures.exposure("g", DISPUTE_MS) == 0


def test_twenty_agreed_receipts_make_up_for_a_dispute() -> None:
    """Who disputes now and then goes on; who disputes more than one in twenty ends without work."""
    exposures = owing(1, 1)
    for number in range(2):
        exposures.disputed("g", key(number))
    made_up = []
    for number in range(2, 2 + 2 * AGREED_PER_DISPUTE):
        exposures.owe("g", key(number), Owed(1, 0))
        if (forgiven := exposures.agreed("g", key(number))) is not None:
            made_up.append(forgiven)

    assert made_up == [key(0), key(1)]
    assert exposures.limit("g", 1) == MAX


def test_tiny_receipts_do_not_make_up_for_a_large_one() -> None:
    """Twenty times the money, in however many receipts."""
    exposures = owing(100)
    exposures.disputed("g", key(0))
    made_up = []
    for number in range(1, 2002):
        exposures.owe("g", key(number), Owed(1, 0))
        made_up.append(exposures.agreed("g", key(number)))

    assert made_up.index(key(0)) == 100 * AGREED_PER_DISPUTE - 1
    assert exposures.limit("g", 1) == MAX


def test_three_disputes_in_a_row_end_the_work() -> None:
    """As three silences do."""
    exposures = owing(1, 1, 1)
    for number in range(UNANSWERED_MAX):
        exposures.disputed("g", key(number))

    assert exposures.limit("g", 1) == 0
    assert exposures.refusal("g", 0, 1) is not None


@given(
    st.lists(st.tuples(st.sampled_from(["job", "end", "agree", "dispute", "wait"]), st.integers(0, 4000)), max_size=60)
)
def test_nobody_owes_more_than_the_limit(steps: list[tuple[str, int]]) -> None:
    """Whatever a gateway does, what it owes and what is reserved for it stay within the limit."""
    exposures, now, number = Exposures(MAX), 0, 0
    running: list[int] = []
    owed: list[bytes] = []
    for what, amount in steps:
        if what == "job" and exposures.refusal("g", amount, now) is None:
            exposures.reserve("g", amount)
            running.append(amount)
        elif what == "end" and running:
            reserved = running.pop()
            exposures.release("g", reserved)
            exposures.owe("g", key(number), Owed(min(reserved, amount), now))
            owed.append(key(number))
            number += 1
        elif what == "agree" and owed:
            exposures.agreed("g", owed.pop(0))
        elif what == "dispute" and owed:
            exposures.disputed("g", owed[amount % len(owed)])
        elif what == "wait":
            now += 10 * amount
        assert 0 <= exposures.exposure("g", now) <= MAX
        assert 0 <= exposures.limit("g", now) <= MAX


def test_gateways_that_owe_are_remembered_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many gateways come, a fixed number is kept, and who owes nothing is forgotten first."""
    monkeypatch.setattr(exposure, "GATEWAYS_MAX", 10)
    exposures = owing(5)
    for number in range(50):
        exposures.reserve(f"free {number}", 1)
        exposures.release(f"free {number}", 1)

    assert len(exposures._accounts) == 10
    assert exposures.exposure("g", 0) == 5
    for number in range(50):
        exposures.owe(f"debtor {number}", key(number), Owed(1, 0))
    assert len(exposures._accounts) == 10
