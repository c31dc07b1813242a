"""A small network in churn: what is claimed of a large one holds there too, and two runs of a seed are the same."""

from __future__ import annotations

import math

import pytest

from simulations.churning import Day, Policy
from simulations.scenario import Setting, run_scenario
from simulations.world import BrokenInvariant, World

pytestmark = pytest.mark.slow


def test_who_waits_for_the_dead_finds_less() -> None:
    """Our look-ups find nearly every offer and take less time; with kad-dht's walk many are lost. Jobs are done."""
    result = run_scenario("churn", Setting(peers=400, seed=1, hours=1.0), ["network", "waits"])
    ours, waits = result.played["network"].figures, result.played["waits"].figures
    assert ours["offers_found_percent"] > 95.0 > 80.0 > waits["offers_found_percent"]
    assert ours["done_percent"] > 99.0
    assert 1.0 < ours["hops_mean"] < 5.0
    assert ours["hints_good_percent"] >= waits["hints_good_percent"]


def test_a_few_peers_have_a_few_minutes() -> None:
    """Where there is nothing to count, figures are no numbers."""
    result = run_scenario("churn", Setting(peers=3, seed=1, hours=0.05), ["network"])
    assert math.isnan(result.played["network"].figures["offers_found_percent"])


def test_a_seed_has_one_day() -> None:
    """The same seed gives the same events, another one others."""
    setting = Setting(peers=100, seed=5, hours=0.2)
    one, again = (run_scenario("churn", setting, ["network"]) for _ in range(2))
    assert one.digests == again.digests
    assert one.played == again.played
    other = run_scenario("churn", Setting(peers=100, seed=6, hours=0.2), ["network"])
    assert other.digests != one.digests


def test_a_planted_fault_in_a_table_ends_the_run() -> None:
    """A peer that is in its own table breaks an invariant at the next upkeep."""
    world = World(1)
    day = Day(world, 100, 3600.0, Policy())
    day.begin()
    world.run(700.0)
    peer = int(day.sessions.online(700.0)[0])
    day.overlay.table[peer, 0, 0] = peer
    with pytest.raises(BrokenInvariant, match=f"peer {peer} has"):
        world.run(3600.0)


def test_a_planted_fault_in_the_records_ends_the_run() -> None:
    """A holder that keeps more announcements than it may breaks an invariant."""
    world = World(1)
    day = Day(world, 200, 3600.0, Policy())
    day.begin()
    world.run(700.0)
    key = next(iter(day.records.providers))
    holder, held = next(iter(day.records.providers[key].items()))
    held.providers.update(dict.fromkeys(range(21), 700.0))
    world.at(world.now, world.touch, day)
    with pytest.raises(BrokenInvariant, match=f"peer {holder} holds"):
        world.run(3600.0)
