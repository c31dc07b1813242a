"""For three minutes Europe cannot reach the rest of the world: who waits how long for the other side, and how soon
after the wall falls is the network one again, if the router asks by what it knows or by chance?
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from random import Random

from simulations.demands import Demand, End, Outcome
from simulations.engines import make_capability
from simulations.links import CITIES, drawn_place
from simulations.percents import percent
from simulations.policies import by_chance
from simulations.rules import REAL
from simulations.scenario import Curve, Figures, Played, Scenario, Stage, percentile, usual_figures
from simulations.traffic import Traffic, steady, usual_demand

EUROPE = ("Frankfurt", "London", "Madrid")
ELSEWHERE = tuple(city for city in CITIES if city not in EUROPE)
SIDES = {"europe": EUROPE, "elsewhere": ELSEWHERE}
GATEWAYS = 4  # on each side
EUROPEAN_NODES = 3  # one in so many: the smaller side is busy when it is alone
DEMANDS_PER_NODE_S = 0.12
WALL_S = 180.0
NOTICED_S = 10.0
WINDOW_S = 10.0
ONE_AGAIN = 0.8  # of the usual part of jobs that cross
POLICIES = {
    "router": "the network's own: what failed is not asked for a while, and what does not beat is not asked",
    "chance": "any node that beats",
}


class Users:
    """Those of one side of the wall to be."""

    def __init__(self, side: str, index: int) -> None:
        self.side, self.index = side, index

    def __call__(self, number: int, rng: Random) -> Demand:
        demand = usual_demand(2 * number + self.index, rng)
        return replace(demand, user=f"{self.side} {demand.user}")


def play(stage: Stage) -> Played:
    """The wall stands in the middle third of the time, at most three minutes."""
    town, world, peers, seconds = stage.town, stage.world, stage.setting.peers, stage.setting.seconds
    rules = replace(REAL, rank=by_chance) if stage.policy == "chance" else REAL
    rng = world.rng("places")
    for index in range(peers - 2 * GATEWAYS):
        cities = EUROPE if index % EUROPEAN_NODES == 0 else ELSEWHERE
        town.add_node(make_capability(), place=drawn_place(rng, cities))
    rate = DEMANDS_PER_NODE_S * len(town.nodes) / 2
    for index, (side, cities) in enumerate(SIDES.items()):
        gateways = [town.add_gateway(drawn_place(rng, cities), rules=rules) for _ in range(GATEWAYS)]
        Traffic(world, gateways, steady(rate), rate, end=seconds, make=Users(side, index), name=f"traffic {side}")
    european = {peer for peer, place in town.links.places.items() if place.city in EUROPE}
    others = set(town.links.places) - european
    begin, end = seconds / 3, seconds / 3 + min(WALL_S, seconds / 3)
    world.at(begin, town.links.split, sorted(european), sorted(others))
    world.at(end, town.links.join, sorted(european), sorted(others))
    stage.run()
    town.settle()
    crossing = _crossing(town.outcomes, european, seconds)
    return Played(figures=_figures(town.outcomes, crossing, begin, end), curves={"crossing": crossing})


def _crossing(outcomes: Sequence[Outcome], european: Collection[str], until: float) -> Curve:
    """How many percent of the jobs of each ten seconds were done on the other side."""
    windows: dict[int, list[bool]] = {}
    for each in outcomes:
        if each.node and each.came_at < until:
            crossed = (each.node in european) != (each.demand.user.startswith(next(iter(SIDES))))
            windows.setdefault(int(each.came_at / WINDOW_S), []).append(crossed)
    return Curve(
        [WINDOW_S * index for index in sorted(windows)],
        [percent(sum(windows[index]), len(windows[index])) for index in sorted(windows)],
    )


def _figures(outcomes: Sequence[Outcome], crossing: Curve, begin: float, end: float) -> dict[str, float]:
    at_first = [each for each in outcomes if begin - NOTICED_S <= each.came_at < begin + NOTICED_S]
    behind = [each for each in outcomes if begin + NOTICED_S <= each.came_at < end]
    usual = percentile([part for at, part in zip(crossing.x, crossing.y, strict=True) if at + WINDOW_S <= begin], 50)
    again = [at for at, part in zip(crossing.x, crossing.y, strict=True) if at >= end and part >= ONE_AGAIN * usual]
    cut = sum(each.end in (End.CUT, End.FAILED) for each in outcomes)
    return {
        **usual_figures(outcomes),
        "cut_off_jobs": float(cut),
        "noticing_first_piece_p99_ms": usual_figures(at_first)["first_piece_p99_ms"],
        "behind_done_percent": usual_figures(behind)["done_percent"],
        "behind_first_piece_p99_ms": usual_figures(behind)["first_piece_p99_ms"],
        "usually_crossing_percent": usual,
        "one_again_s": again[0] + WINDOW_S - end if again else math.nan,
    }


def conclude(figures: Mapping[str, Figures]) -> str:
    """What users lose, and for how long."""
    own, chance = figures["router"], figures["chance"]
    tails = [f"{each['behind_first_piece_p99_ms'] / 1000:.1f} s" for each in (own, chance)]
    return (
        f"The wall cuts off {own['cut_off_jobs']:.0f} of {own['jobs']:.0f} jobs ({chance['cut_off_jobs']:.0f} by "
        f"chance); behind it {own['behind_done_percent']:.1f} % are answered, 99 of 100 within {tails[0]} ({tails[1]} "
        f"by chance), and {own['one_again_s']:.0f} s after it falls jobs cross as before ({chance['one_again_s']:.0f} "
        "s)."
    )


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=38,
    hours=0.15,
    axes={"crossing": ("seconds since the beginning", "percent of jobs that are done on the other side")},
)
