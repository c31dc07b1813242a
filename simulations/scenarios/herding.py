"""Many gateways know of each node's load a moment late: do they all run to the same free node, and does it help if they
choose among near equals by chance, or take the better of two?
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cxp2p import routing
from simulations.choosing import by_two_choices, with_spread
from simulations.engines import make_capability
from simulations.policies import by_chance
from simulations.rules import REAL, Rules
from simulations.scenario import Figures, Played, Scenario, Stage, distribution, percentile, usual_figures
from simulations.traffic import Traffic, steady

GATEWAYS_PART = 3  # every third peer is a gateway
DEMANDS_PER_NODE_S = 0.25  # three quarters of what a node of four slots can do
POLICIES = {
    "router": f"the network's own: least wait, with a spread of {routing.TIE_SPREAD:.0%}",
    "best": "always the one with the least wait",
    "narrow": "least wait, with a spread of 15 %",
    "wide": "least wait, with a spread of 300 %",
    "two": "the better of two that are drawn",
    "chance": "any node",
}


def rules_of(policy: str) -> Rules:
    """What a gateway of this policy decides with."""
    ranks = {
        "router": routing.rank,
        "best": with_spread(0.0),
        "narrow": with_spread(0.15),
        "wide": with_spread(3.0),
        "two": by_two_choices,
        "chance": by_chance,
    }
    return replace(REAL, rank=ranks[policy])


def play(stage: Stage) -> Played:
    """A third are gateways, the others equal nodes."""
    town, peers = stage.town, stage.setting.peers
    count = max(1, peers // GATEWAYS_PART)
    gateways = [town.add_gateway(rules=rules_of(stage.policy)) for _ in range(count)]
    nodes = [town.add_node(make_capability()) for _ in range(peers - count)]
    rate = DEMANDS_PER_NODE_S * len(nodes)
    crowds: list[float] = []

    def look() -> None:
        crowds.append(max(node.desk.running + node.desk.queued for node in nodes))
        stage.world.after(1.0, look)

    stage.world.at(60.0, look)
    Traffic(stage.world, gateways, steady(rate), rate, end=stage.setting.seconds)
    stage.run()
    fullest = percentile(crowds, 50)
    town.settle()
    firsts = [outcome.first_piece_s for outcome in town.outcomes if outcome.first_piece_s is not None]
    waited = sum(first > 2.0 for first in firsts)
    figures = {
        **usual_figures(town.outcomes),
        "waited_2_s_percent": 100.0 * waited / max(1, len(firsts)),
        "fullest_node_p50_jobs": fullest,
    }
    return Played(figures=figures, curves={"first piece": distribution(firsts)})


def conclude(figures: Mapping[str, Figures]) -> str:
    """Compares the tails of the router, of narrower and wider ones, and of the others."""
    tail = {policy: f"{each['first_piece_p99_ms'] / 1000:.1f} s" for policy, each in figures.items()}
    return (
        f"99 of 100 users have their first piece within {tail['best']} if gateways always take the best node, "
        f"{tail['narrow']} if chance moves it by 15 %, {tail['router']} by up to {routing.TIE_SPREAD:.0%}, as the "
        f"network does, {tail['wide']} by up to 300 %, {tail['two']} with the better of two and {tail['chance']} by "
        "chance alone."
    )


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=60,
    hours=0.06,
    axes={"first piece": ("seconds to the first piece", "percent of users")},
    log_x=("first piece",),
)
