"""One job in fifty hangs for ten times as long as it should: what does a second order for what has not begun yet bring
users, what does it cost in work for nothing, and does a budget keep that in bounds when the network is full?

No gateway hedges today. The idea is that of Dean and Barroso, "The Tail at Scale" (2013).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cxp2p.records import Finish
from simulations.attempts import Run
from simulations.demands import Demand
from simulations.engines import make_capability
from simulations.gateways import GatewayModel
from simulations.nodes import NodeModel, Work
from simulations.rules import REAL
from simulations.scenario import Figures, Played, Scenario, Stage, distribution, usual_figures
from simulations.traffic import Traffic

GATEWAYS = 4
HICCUP_PART = 0.02
HICCUP = 10.0
DEMANDS_PER_NODE_S = 0.2  # 60 % of what a node of four slots can do
FULL = 1.8  # times as many in the last third: a tenth more than the nodes can do
BUDGET = 0.05  # second orders for each demand
SAVED_MAX = 5.0  # second orders that a gateway may have left over
POLICIES = {
    "none": "no second order, as today",
    "after 1 s": "a second order after 1 s without a word",
    "after 3 s": "a second order after 3 s",
    "budget": "after 1 s, but at most one for twenty demands",
}
AFTER_S = {"after 1 s": 1.0, "after 3 s": 3.0, "budget": 1.0}


class Hiccuping(NodeModel):
    """A node whose engine is held up now and then: a long prompt of somebody else, a hot machine, a swap."""

    worked_s = 0.0
    wasted_s = 0.0

    def answer(self, work: Work, finish: Finish, units: int) -> None:
        """What a slot was taken for, and what of it for nothing."""
        if work.begun_at is not None:
            took_s = self.world.now - work.begun_at
            self.worked_s += took_s
            self.wasted_s += took_s if finish is Finish.CANCELLED else 0.0
        super().answer(work, finish, units)

    def spend(self, work: Work) -> tuple[float, float]:
        prompt_s, output_s = super().spend(work)
        if self.world.rng("hiccups").random() < HICCUP_PART:
            return HICCUP * (prompt_s + 1.0), output_s
        return prompt_s, output_s


class Budgeted(GatewayModel):
    """A gateway that hedges only as often as its budget allows."""

    saved = SAVED_MAX

    def submit(self, demand: Demand) -> None:
        self.saved = min(SAVED_MAX, self.saved + BUDGET)
        super().submit(demand)

    def _hedge(self, run: Run) -> None:
        if self.saved >= 1.0:
            before = len(run.attempts)
            super()._hedge(run)
            self.saved -= len(run.attempts) > before


def play(stage: Stage) -> Played:
    """Two thirds of the time the nodes are busy, then they are full."""
    town, peers, seconds = stage.town, stage.setting.peers, stage.setting.seconds
    rules = replace(REAL, hedge_s=AFTER_S.get(stage.policy))
    kind = Budgeted if stage.policy == "budget" else GatewayModel
    gateways = [town.add_gateway(rules=rules, kind=kind) for _ in range(GATEWAYS)]
    nodes = [town.add_node(make_capability(), kind=Hiccuping) for _ in range(peers - GATEWAYS)]
    usual, full_at = DEMANDS_PER_NODE_S * len(nodes), 2 * seconds / 3
    Traffic(stage.world, gateways, lambda time: usual * (FULL if time >= full_at else 1), FULL * usual, end=seconds)
    stage.run()
    town.settle()
    busy = [each for each in town.outcomes if each.came_at < full_at]
    full = [each for each in town.outcomes if each.came_at >= full_at]
    orders = sum(each.attempts for each in town.outcomes)
    told = [node for node in nodes if isinstance(node, Hiccuping)]
    second = 100.0 * (orders / max(1, len(town.outcomes)) - 1)
    firsts = [each.first_piece_s for each in busy if each.first_piece_s is not None]
    return Played(
        figures={
            **usual_figures(busy),
            "second_orders_percent": second,
            "wasted_work_percent": 100.0 * sum(each.wasted_s for each in told) / sum(each.worked_s for each in told),
            "full_done_percent": usual_figures(full)["done_percent"],
            "full_first_piece_p50_ms": usual_figures(full)["first_piece_p50_ms"],
            "full_first_piece_p99_ms": usual_figures(full)["first_piece_p99_ms"],
        },
        curves={"first piece": distribution(firsts)},
    )


def conclude(figures: Mapping[str, Figures]) -> str:
    """Compares the tails, and what they cost."""
    busy = {policy: f"{each['first_piece_p99_ms'] / 1000:.1f} s" for policy, each in figures.items()}
    full = {policy: f"{each['full_first_piece_p99_ms'] / 1000:.0f} s" for policy, each in figures.items()}
    cost = {policy: f"{each['wasted_work_percent']:.1f} %" for policy, each in figures.items()}
    return (
        f"99 of 100 first pieces come within {busy['none']} today, within {busy['after 1 s']} with a second order "
        f"after 1 s ({cost['after 1 s']} of all work is for nothing), {busy['after 3 s']} after 3 s "
        f"({cost['after 3 s']}) and {busy['budget']} within a budget of {BUDGET:.0%} ({cost['budget']}); when the "
        f"network is full {full['none']}, {full['after 1 s']}, {full['after 3 s']} and {full['budget']}."
    )


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=44,
    hours=0.15,
    axes={"first piece": ("seconds to the first piece", "percent of users")},
    log_x=("first piece",),
)
