"""A third of the nodes is three times as slow as the others: how long do users wait for the first piece if the router
measures, asks by chance, or asks in turn?
"""

from __future__ import annotations

from collections.abc import Mapping

from simulations.engines import Speed, make_capability
from simulations.policies import InTurn, by_chance
from simulations.rules import REAL, Rules
from simulations.scenario import Figures, Played, Scenario, Stage, distribution, usual_figures
from simulations.traffic import Traffic, steady

QUICK = Speed(prompt_units_s=1000.0, output_units_s=50.0)
SLOW = Speed(prompt_units_s=330.0, output_units_s=16.5)
DEMANDS_PER_NODE_S = 0.09  # three quarters of what a slow node can do, a quarter of what a quick one can
POLICIES = {
    "router": "the network's own: least estimated wait, from offers and from what it measured",
    "chance": "any node",
    "turns": "every node in turn",
}


def play(stage: Stage) -> Played:
    """Two gateways, the rest nodes."""
    town, peers = stage.town, stage.setting.peers
    rules = {"router": lambda: REAL, "chance": lambda: Rules(rank=by_chance), "turns": lambda: Rules(rank=InTurn())}
    gateways = [town.add_gateway(rules=rules[stage.policy]()) for _ in range(2)]
    for index in range(peers - 2):
        town.add_node(make_capability(), SLOW if index % 3 == 0 else QUICK)
    rate = DEMANDS_PER_NODE_S * (peers - 2)
    Traffic(stage.world, gateways, steady(rate), rate, end=stage.setting.seconds)
    stage.run()
    town.settle()
    firsts = [outcome.first_piece_s for outcome in town.outcomes if outcome.first_piece_s is not None]
    return Played(figures=usual_figures(town.outcomes), curves={"first piece": distribution(firsts)})


def conclude(figures: Mapping[str, Figures]) -> str:
    """Says by how much the router is better at the 99th percentile."""
    own = figures["router"]["first_piece_p99_ms"]
    best = min(("chance", "turns"), key=lambda policy: figures[policy]["first_piece_p99_ms"])
    other = figures[best]["first_piece_p99_ms"]
    return (
        f"With the network's router 99 of 100 users have their first piece within {own / 1000:.1f} s, "
        f"with {best} within {other / 1000:.1f} s."
    )


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=42,
    hours=0.25,
    axes={"first piece": ("seconds to the first piece", "percent of users")},
    log_x=("first piece",),
)
