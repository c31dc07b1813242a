"""What the scenarios of traffic claim holds at a small size already, and no invariant breaks on the way."""

from __future__ import annotations

import math

import pytest

from simulations.scenario import Result, Setting, all_scenarios, run_scenario
from simulations.scenarios import city_day

QUESTIONS = ("city_day", "flash_crowd", "hedging", "herding", "partition_and_heal", "prefix_affinity")


def asked(name: str, peers: int, hours: float, *policies: str) -> Result:
    return run_scenario(name, Setting(peers=peers, seed=1, hours=hours), policies)


@pytest.mark.slow
def test_a_spread_keeps_gateways_apart() -> None:
    """With the network's own fewer users wait than if all gateways take the best node that they know."""
    played = asked("herding", 45, 0.05, "router", "best").played
    own, best = (played[policy].figures for policy in ("router", "best"))

    assert own["waited_2_s_percent"] < best["waited_2_s_percent"]
    assert own["first_piece_p99_ms"] < best["first_piece_p99_ms"]


def test_conversations_meet_their_beginnings_again() -> None:
    """Ten times as often as without a home, and their first piece comes much sooner."""
    played = asked("prefix_affinity", 14, 0.08, "router", "off", "always").played
    own, off, always = (played[policy].figures for policy in ("router", "off", "always"))

    assert own["in_memory_percent"] > 60
    assert off["in_memory_percent"] < 25
    assert own["first_piece_p50_ms"] < 0.5 * off["first_piece_p50_ms"]
    assert own["first_piece_p99_ms"] < always["first_piece_p99_ms"]


def test_a_second_order_shortens_the_tail() -> None:
    """And is a small part of all work; a budget keeps the number of them."""
    played = asked("hedging", 14, 0.06, "none", "after 1 s", "budget").played
    none, soon, budget = (played[policy].figures for policy in ("none", "after 1 s", "budget"))

    assert none["wasted_work_percent"] == 0
    assert soon["first_piece_p99_ms"] < 0.5 * none["first_piece_p99_ms"]
    assert 0 < soon["wasted_work_percent"] < 5
    assert budget["second_orders_percent"] < soon["second_orders_percent"]


def test_who_lets_fewer_wait_refuses_at_once() -> None:
    """Nobody waits for long then, and more are sent away."""
    played = asked("flash_crowd", 12, 0.06, "router", "none").played
    own, none = (played[policy].figures for policy in ("router", "none"))

    assert own["crowd_refused_percent"] == 0
    assert none["crowd_refused_percent"] > 20
    assert none["crowd_told_p99_s"] < own["crowd_told_p99_s"]


def test_a_wall_is_noticed_and_its_fall_too() -> None:
    """Behind it all are answered, and jobs cross again within half a minute."""
    figures = asked("partition_and_heal", 26, 0.08, "router").played["router"].figures

    assert figures["behind_done_percent"] == 100
    assert figures["cut_off_jobs"] < 0.1 * figures["jobs"]
    assert figures["one_again_s"] <= 30


def test_a_city_is_busiest_in_the_afternoon() -> None:
    """The curve's highest hour is five o'clock, and the slots in use follow it."""
    result = asked("city_day", 14, 0.1, "router")
    curve = result.played["router"].curves["slots in use"]
    by_hour = dict(zip(curve.x, curve.y, strict=True))

    assert max(range(24), key=lambda hour: city_day.WEB_BY_HOUR[hour]) == 17
    assert sum(city_day.SHARES.values()) == pytest.approx(1)
    assert sum(city_day.PARTS.values()) == pytest.approx(1)
    afternoon = max(part for hour, part in by_hour.items() if 14 < hour < 19)
    assert afternoon > 2 * max(part for hour, part in by_hour.items() if 2 < hour < 5)


@pytest.mark.parametrize("name", QUESTIONS)
def test_its_sentence_has_all_its_figures(name: str) -> None:
    """Also when nothing came of a policy, no figure is left out."""
    scenario, question = all_scenarios()[name]
    empty = {policy: dict.fromkeys(_figures_of(name), math.nan) for policy in scenario.policies}

    assert question.endswith("?") or "?" in question
    assert scenario.conclude(empty).count("nan") >= 3


def _figures_of(name: str) -> tuple[str, ...]:
    policy = next(iter(all_scenarios()[name][0].policies))
    return tuple(asked(name, 10, 0.02, policy).played[policy].figures)
