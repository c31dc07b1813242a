"""Ten thousand peers come and go for a day as those of IPFS do: are nodes found, in how many hops, are jobs done?

What if announcements live for two days, if late look-ups are lost, if nodes put their offers every ten minutes only, if
gateways do not exchange offers?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from simulations.churning import MODEL, Day, Policy
from simulations.kademlia import OURS, Late
from simulations.scenario import Curve, Figures, Played, Scenario, Stage, percentile, usual_figures
from simulations.traffic import usual_demand

DEMANDS_S = 0.1
POLICIES = {
    "network": "as it is",
    "waits": "a look-up waits for peers that say nothing, and is lost when it is not over in 8 s, as kad-dht has it",
    "half hour": "announcements live for half an hour",
    "ten minutes": "nodes put their offers half as often",
    "no exchange": "gateways look up and watch, and do not exchange offers",
}
CHOICES = {
    "network": Policy(),
    "waits": Policy(rules=replace(OURS, round_s=math.inf, late=Late.NOBODY)),
    "half hour": Policy(provider_life_s=1800.0),
    "ten minutes": Policy(put_s=600.0),
    "no exchange": Policy(exchange=False),
}


def play(stage: Stage) -> Played:
    """One day of one policy."""
    day = Day(stage.world, stage.setting.peers, stage.setting.seconds, CHOICES[stage.policy])
    stage.town = day.town
    day.begin()
    stage.world.at(30.0, _come, stage, day, 1)
    stage.run()
    day.town.settle()
    outcomes = day.town.outcomes
    found, hints = day.offers, day.hints
    firsts = [outcome for outcome in outcomes if outcome.first_piece_s is not None]
    figures = {
        "offers_found_percent": 100.0 * mean(found.right),
        "hops_mean": mean(found.rounds),
        "questions_mean": mean(found.asked),
        "look_up_p50_s": percentile(found.took_s, 50),
        "look_up_p99_s": percentile(found.took_s, 99),
        "hints_good_percent": 100.0 * mean(hints.right),
        "hints_there_percent": 100.0 * mean(day.hints_there),
        "first_node_p50_s": percentile(day.first_node_s, 50),
        "first_node_max_s": max(day.first_node_s, default=float("nan")),
        "table_dead_percent": 100.0 * mean([part for _, part in day.dead_part]),
        **usual_figures(outcomes),
    }
    curves = {
        "offers found": hourly(found.at, [100.0 * right for right in found.right]),
        "hops": hourly(found.at, found.rounds),
        "seconds of a look-up": hourly(found.at, found.took_s),
        "first piece": hourly(
            [outcome.came_at for outcome in firsts], [outcome.first_piece_s or 0.0 for outcome in firsts]
        ),
    }
    return Played(figures=figures, curves=curves)


def _come(stage: Stage, day: Day, number: int) -> None:
    """A user comes to one of the gateways that work."""
    rng = stage.world.rng("demands")
    day.asking()[rng.randrange(2)][1].submit(usual_demand(number, rng, MODEL))
    gap_s = rng.expovariate(DEMANDS_S)
    if stage.world.now + gap_s < stage.setting.seconds:
        stage.world.after(gap_s, _come, stage, day, number + 1)


def mean(values: Sequence[float]) -> float:
    """NaN of none."""
    return sum(values) / len(values) if values else math.nan


def hourly(at: list[float], values: list[float] | list[int]) -> Curve:
    """The mean of each half hour."""
    if not at:
        return Curve([], [])
    slots = (np.array(at) // 1800.0).astype(int)
    sums, counts = np.bincount(slots, values), np.bincount(slots)
    there = np.flatnonzero(counts)
    return Curve([(float(slot) + 0.5) / 2 for slot in there], [float(sums[slot] / counts[slot]) for slot in there])


def conclude(figures: Mapping[str, Figures]) -> str:
    """Says what is found, and what each other way costs."""
    own = figures["network"]
    return (
        f"Of {own['jobs']:.0f} jobs {own['done_percent']:.2f} % are done; a look-up finds an offer in "
        f"{own['offers_found_percent']:.1f} of 100 cases, after {own['hops_mean']:.1f} rounds; "
        + "; ".join(
            f"{name}: {figures[name]['offers_found_percent']:.1f} and {figures[name]['done_percent']:.2f} %"
            for name in list(figures)[1:]
        )
        + "."
    )


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=1000,
    hours=3.0,
    axes={
        "offers found": ("hour", "percent of look-ups"),
        "hops": ("hour", "rounds of a look-up, mean"),
        "seconds of a look-up": ("hour", "seconds, mean"),
        "first piece": ("hour", "seconds to the first piece, mean"),
    },
)
