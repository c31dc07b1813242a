"""Users talk in conversations whose beginnings nodes still have in memory: how far out of its way should a turn go to
meet its own beginning again, when the nodes are busy?
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random

from cxp2p import routing
from simulations.choosing import always_home, attracted_within, never_attracted
from simulations.demands import Demand
from simulations.engines import make_capability
from simulations.nodes import NodeModel, Work
from simulations.rules import REAL, Attract
from simulations.scenario import Figures, Played, Scenario, Stage, distribution, usual_figures
from simulations.traffic import ANSWER_UNITS_MAX, ANSWER_UNITS_MEAN, Traffic, drawn_units, steady

GATEWAYS = 4
DEMANDS_PER_NODE_S = 0.15  # six tenths of what a node of four slots can do without what it has in memory
CONVERSATIONS_PER_NODE = 4  # at once: a node remembers the beginnings of eight
HISTORY_UNITS = (1000, 4000)
TURN_UNITS_MEAN = 60.0
POLICIES = {
    "router": "the network's own: home, if it has room and is at most 500 ms slower for each 2 kB of the prompt",
    "off": "as if no prompts began alike",
    "500 ms": "home, if it has room and is at most 500 ms slower",
    "3 s": "home, if it has room and is at most 3 s slower",
    "always": "home, however full it is",
}


def attract_of(policy: str) -> Attract:
    """The rule of this policy."""
    rules: dict[str, Attract] = {
        "router": routing.attracted,
        "off": never_attracted,
        "500 ms": attracted_within(500.0),
        "3 s": attracted_within(3000.0),
        "always": always_home,
    }
    return rules[policy]


class Remembering(NodeModel):
    """A node that tells how much of its prompts it had in memory."""

    in_units = 0
    had_units = 0

    def spend(self, work: Work) -> tuple[float, float]:
        spent = super().spend(work)
        self.in_units += work.demand.in_units
        self.had_units += work.cached_units
        return spent


class Talks:
    """The conversations of one gateway's users: each turn has all that was said before, and a few new words."""

    def __init__(self, gateway: int, count: int) -> None:
        self.gateway, self.count = gateway, count

    def __call__(self, number: int, rng: Random) -> Demand:
        which = rng.randrange(self.count)
        history = HISTORY_UNITS[0] + which * 7919 % (HISTORY_UNITS[1] - HISTORY_UNITS[0])
        return Demand(
            number=GATEWAYS * number + self.gateway,
            user=f"user {self.gateway} {which}",
            model="m",
            in_units=history + drawn_units(rng, TURN_UNITS_MEAN, 500),
            out_units=drawn_units(rng, ANSWER_UNITS_MEAN, ANSWER_UNITS_MAX),
            prefix=which.to_bytes(4, "big"),
            prefix_units=history,
        )


def play(stage: Stage) -> Played:
    """Four gateways, the rest nodes."""
    town, peers = stage.town, stage.setting.peers
    rules = replace(REAL, attract=attract_of(stage.policy))
    gateways = [town.add_gateway(rules=rules) for _ in range(GATEWAYS)]
    nodes = [town.add_node(make_capability(), kind=Remembering) for _ in range(peers - GATEWAYS)]
    rate, count = DEMANDS_PER_NODE_S * len(nodes) / GATEWAYS, CONVERSATIONS_PER_NODE * len(nodes) // GATEWAYS
    for index, gateway in enumerate(gateways):
        talks, name = Talks(index, count), f"traffic {index}"
        Traffic(stage.world, [gateway], steady(rate), rate, end=stage.setting.seconds, make=talks, name=name)
    stage.run()
    town.settle()
    told = [node for node in nodes if isinstance(node, Remembering)]
    firsts = [each.first_piece_s for each in town.outcomes if each.first_piece_s is not None]
    in_units, had_units = sum(node.in_units for node in told), sum(node.had_units for node in told)
    return Played(
        figures={**usual_figures(town.outcomes), "in_memory_percent": 100.0 * had_units / max(1, in_units)},
        curves={"first piece": distribution(firsts)},
    )


def conclude(figures: Mapping[str, Figures]) -> str:
    """Says what is found in memory, and what users wait."""
    said = [
        f"{each['in_memory_percent']:.0f} % of prompts in memory and {each['first_piece_p50_ms'] / 1000:.1f} s "
        f"(p99 {each['first_piece_p99_ms'] / 1000:.1f} s) to the first piece {how}"
        for how, each in (
            ("with the network's rule", figures["router"]),
            ("without it", figures["off"]),
            ("if turns go 3 s out of their way", figures["3 s"]),
            ("if they always go home", figures["always"]),
        )
    ]
    return "; ".join(said) + "."


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=34,
    hours=0.2,
    axes={"first piece": ("seconds to the first piece", "percent of users")},
    log_x=("first piece",),
)
