"""What the scenarios about money and cheating say is so, at a small size."""

from __future__ import annotations

from functools import cache

import pytest

from simulations.scenario import Figures, Setting, run_scenario

SMALL = {
    "cheats": Setting(peers=6, seed=3, hours=24),
    "free_riders": Setting(peers=8, seed=3, hours=0.5),
    "liars": Setting(peers=10, seed=3, hours=0.06),
    "price_war": Setting(peers=10, seed=3, hours=1.3),
    "sybils": Setting(peers=120, seed=3, hours=0.08),
}


@cache
def figures(name: str, *policies: str) -> dict[str, Figures]:
    result = run_scenario(name, SMALL[name], policies)
    return {policy: played.figures for policy, played in result.played.items()}


@pytest.mark.parametrize("name", list(SMALL))
def test_a_handful_of_peers_for_a_minute_is_a_run_too(name: str) -> None:
    """No size is too small: what there is nothing of is not a number."""
    result = run_scenario(name, Setting(peers=4, seed=4, hours=0.02))

    assert result.conclusion
    assert len(result.digests) == len(result.played)


@pytest.mark.slow
def test_who_deals_with_himself_loses_under_the_default_rules() -> None:
    """Without a match to charges he has almost all of the pool, and honest nodes have nothing of it."""
    told = figures("cheats")

    for way in ("deals_cheaply_with_himself_percent", "deals_dearly_with_himself_percent"):
        assert told["default"][way] < 0 < 100 < told["unmatched"][way]
        assert told["listed"][way] < 0.01


def test_cheats_that_the_rules_see_end_poorer_or_no_richer() -> None:
    """Padded output is not paid; double signers, omitters and signers of two roots gain nothing, and are convicted."""
    default = figures("cheats")["default"]

    assert default["pads_output_percent"] < 0
    for cheat in ("signs_twice", "omits_receipts", "two_roots"):
        assert default[f"{cheat}_percent"] == pytest.approx(100, abs=2)
        assert default[f"{cheat}_convictions"] > 0


def test_cheats_that_no_rule_sees_yet_pay_and_are_told() -> None:
    """Padded input, other models, names that are new each time, gateways that do not pay: the table says so."""
    default = figures("cheats")["default"]

    for cheat in ("pads_input", "cheaper_model", "garbage", "always_new", "never_pays"):
        assert default[f"{cheat}_percent"] > 150


def test_a_limit_that_falls_stops_the_silent_and_not_the_always_new() -> None:
    """One name has three receipts of each node; new names have as much as they like, unless newcomers share."""
    told = figures("free_riders")

    assert told["falling"]["silent_took_percent_of_work"] < told["fixed"]["silent_took_percent_of_work"] / 2
    assert told["falling"]["always_new_took_percent_of_work"] > 15
    assert told["shared"]["always_new_took_percent_of_work"] < told["falling"]["always_new_took_percent_of_work"] / 2
    assert told["shared"]["honest_refused_percent"] == 0


def test_being_quick_pays_for_liars_until_somebody_audits() -> None:
    """Disputes starve who pads output; fakes go only when answers are scored again."""
    told = figures("liars")

    assert told["suspends"]["pads_output_paid_percent_of_honest"] < 50
    assert told["suspends"]["garbage_paid_percent_of_honest"] > 200
    assert told["suspends"]["attempts_mean"] <= told["forgets"]["attempts_mean"]
    assert told["audits"]["fake_answers_percent"] < told["suspends"]["fake_answers_percent"]


@pytest.mark.slow
def test_prices_fall_where_they_count_and_rise_where_they_do_not() -> None:
    """With wait times price users pay less than the usual, and have their first piece as soon."""
    told = figures("price_war", "router", "wait")
    paid = "paid_in_the_second_half_percent_of_usual"

    assert told["router"][paid] < 95 < told["wait"][paid]
    assert told["router"]["first_piece_p50_ms"] < 1.5 * told["wait"]["first_piece_p50_ms"]


def test_newcomers_take_all_jobs_unless_they_are_tried_first() -> None:
    """Names are free and garbage is quick; trials that are scored keep the answers good."""
    told = figures("sybils", "router", "trial", "last")

    assert told["router"]["garbage_percent"] > 50
    assert told["trial"]["good_answers_percent"] > 80
    assert told["last"]["good_answers_percent"] > 95
