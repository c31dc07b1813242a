"""For a minute ten times as many users come as usual: who gets an answer and how soon, when is all as it was, and is it
better if nodes let few wait, or if any node is asked?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from simulations.demands import Demand, End, Outcome
from simulations.engines import make_capability
from simulations.percents import percent
from simulations.policies import by_chance
from simulations.rules import REAL
from simulations.scenario import Curve, Figures, Played, Scenario, Stage, percentile, usual_figures
from simulations.traffic import RateAt, Traffic, usual_demand

GATEWAYS = 4
DEMANDS_PER_NODE_S = 0.08  # a quarter of what a node of four slots can do
CROWD = 10.0
CROWD_S = 60.0
PATIENCE_S = 30.0
WINDOW_S = 10.0
CALM_WINDOWS = 3
POLICIES = {
    "router": "the network's own, and nodes let 32 wait, as they do",
    "short": "nodes let 4 wait",
    "none": "nodes let nobody wait",
    "chance": "any node is asked, and 32 may wait",
}
QUEUES = {"short": 4, "none": 0}


def impatient(number: int, rng: Random) -> Demand:
    """One turn of a chat by somebody who leaves after half a minute without a word."""
    return replace(usual_demand(number, rng), patience_s=PATIENCE_S)


def crowd_at(usual: float, begin: float) -> RateAt:
    """Ten times as many within a minute."""
    return lambda time: usual * (CROWD if begin <= time < begin + CROWD_S else 1.0)


def play(stage: Stage) -> Played:
    """The crowd comes after a third of the time."""
    town, peers, begin = stage.town, stage.setting.peers, stage.setting.seconds / 3
    rules = replace(REAL, rank=by_chance) if stage.policy == "chance" else REAL
    gateways = [town.add_gateway(rules=rules) for _ in range(GATEWAYS)]
    for _ in range(peers - GATEWAYS):
        town.add_node(make_capability(queue_max=QUEUES.get(stage.policy, 32)))
    usual = DEMANDS_PER_NODE_S * (peers - GATEWAYS)
    rate_at = crowd_at(usual, begin)
    Traffic(stage.world, gateways, rate_at, CROWD * usual, end=stage.setting.seconds, make=impatient)
    stage.run()
    town.settle()
    crowd = [each for each in town.outcomes if begin <= each.came_at < begin + CROWD_S]
    return Played(
        figures={
            **usual_figures(town.outcomes),
            "crowd_done_percent": _percent(crowd, End.DONE),
            "crowd_refused_percent": _percent(crowd, End.REFUSED),
            "crowd_left_percent": _percent(crowd, End.LEFT),
            "crowd_first_piece_p50_ms": usual_figures(crowd)["first_piece_p50_ms"],
            "crowd_told_p99_s": percentile([_told_s(each) for each in crowd], 99),
            "recovered_s": _recovered_s(town.outcomes, begin, stage.setting.seconds),
        },
        curves={"waiting": _waiting(town.outcomes, stage.setting.seconds)},
    )


def _percent(outcomes: Sequence[Outcome], end: End) -> float:
    return percent(sum(each.end is end for each in outcomes), len(outcomes))


def _told_s(outcome: Outcome) -> float:
    """When a user who gets no answer knows it, or has the first piece."""
    return PATIENCE_S if outcome.first_piece_s is None and outcome.end is End.LEFT else outcome.first_piece_s or 0.0


def _windows(outcomes: Sequence[Outcome], until: float) -> list[tuple[float, float]]:
    """The slowest twentieth of what came within each ten seconds."""
    came: dict[int, list[float]] = {}
    for each in outcomes:
        came.setdefault(int(each.came_at / WINDOW_S), []).append(_told_s(each))
    return [(index * WINDOW_S, percentile(came[index], 95)) for index in sorted(came) if index * WINDOW_S < until]


def _recovered_s(outcomes: Sequence[Outcome], begin: float, until: float) -> float:
    """From the end of the crowd until users wait no longer than twice as long as before it, for half a minute."""
    windows = _windows(outcomes, until)
    usual = percentile([wait for at, wait in windows if at + WINDOW_S <= begin], 90)
    calm = 0
    for at, wait in windows:
        calm = calm + 1 if at >= begin + CROWD_S and wait <= 2 * usual else 0
        if calm == CALM_WINDOWS:
            return at - (CALM_WINDOWS - 1) * WINDOW_S - begin - CROWD_S
    return math.nan


def _waiting(outcomes: Sequence[Outcome], until: float) -> Curve:
    windows = _windows(outcomes, until)
    return Curve([at for at, _ in windows], [wait for _, wait in windows])


def conclude(figures: Mapping[str, Figures]) -> str:
    """Says who of the crowd is answered, and what shorter queues change."""
    done = {policy: f"{each['crowd_done_percent']:.0f} %" for policy, each in figures.items()}
    after = {policy: f"{each['recovered_s']:.0f} s" for policy, each in figures.items()}
    left = figures["router"]["crowd_left_percent"]
    return (
        f"Of a crowd of ten times the usual {done['router']} are answered if 32 may wait at a node, {left:.0f} % "
        f"leave after {PATIENCE_S:.0f} s, and users wait as before {after['router']} after it; if 4 may wait "
        f"{done['short']} are answered and it takes {after['short']}, if nobody may {done['none']} and "
        f"{after['none']}."
    )


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=34,
    hours=0.15,
    axes={"waiting": ("seconds since the beginning", "seconds that 19 of 20 wait at most")},
)
