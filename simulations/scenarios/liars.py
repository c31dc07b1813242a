"""An eighth of the nodes lies in each of four ways: counts output that did not arrive, counts input that was not sent,
runs a smaller model than it says, or answers with random tokens. Who still gets their jobs, and what do they earn?
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from cxp2p.directory import Directory
from simulations.attempts import Attempt
from simulations.demands import End
from simulations.engines import make_capability
from simulations.gateways import GatewayModel
from simulations.liars import CheapModel, Garbage, PadsInput, PadsOutput
from simulations.nodes import NodeModel, Work
from simulations.percents import percent
from simulations.scenario import Curve, Figures, Played, Scenario, Stage, usual_figures
from simulations.traffic import Traffic, steady

LIARS: Mapping[type[NodeModel], str] = {
    PadsOutput: "pads_output",
    PadsInput: "pads_input",
    CheapModel: "cheaper_model",
    Garbage: "garbage",
}
BUSY = 0.4  # of what all nodes together can do
AUDITED, FOUND = 0.02, 0.9  # of answers that are scored again, and of fakes that this finds: spot checks are not built
FOUND_OUT_UNITS = 1.2  # an auditor with the tokenizer sees input that is over so many times the truth

POLICIES = {
    "suspends": "the network's own: a node whose receipt is disputed is not asked for 2 to 60 s",
    "forgets": "no gateway remembers who failed or lied",
    "audits": "the network's own, and 2 % of answers are scored again; who is found out is not asked again",
}


class Forgetful(Directory):
    """Holds nothing against anybody."""

    def suspend(self, peer: str, now: float, model: str | None = None) -> None:
        return


class ForgetfulGateway(GatewayModel):
    """Asks a liar again at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.watching.directory = self.directory = Forgetful()


class AuditingGateway(GatewayModel):
    """Has some of its answers scored again by somebody who has the same weights."""

    def countersign(self, attempt: Attempt, work: Work, envelope: bytes) -> None:
        super().countersign(attempt, work, envelope)
        assert work.receipt is not None
        padded = work.receipt.in_units > FOUND_OUT_UNITS * work.demand.in_units
        if self.rng.random() < AUDITED and (padded or not work.genuine) and self.rng.random() < FOUND:
            attempt.entry.suspended_until, attempt.entry.suspended_model = math.inf, None


KINDS: Mapping[str, type[GatewayModel]] = {
    "suspends": GatewayModel,
    "forgets": ForgetfulGateway,
    "audits": AuditingGateway,
}


def play(stage: Stage) -> Played:
    """Two gateways; half of the nodes is honest."""
    town, nodes = stage.town, stage.setting.peers - 2
    gateways = [town.add_gateway(kind=KINDS[stage.policy]) for _ in range(2)]
    kinds = (*LIARS, NodeModel, NodeModel, NodeModel, NodeModel)
    for number in range(nodes):
        town.add_node(make_capability(), kind=kinds[number % len(kinds)])
    rate = BUSY * nodes * 0.25
    Traffic(stage.world, gateways, steady(rate), rate, end=stage.setting.seconds)
    stage.run()
    town.settle()
    return Played(figures=_figures(stage), curves={"jobs of liars": _share(stage)})


def _figures(stage: Stage) -> dict[str, float]:
    town = stage.town
    done = [each for each in town.outcomes if each.end is End.DONE]
    count = Counter(type(node) for node in town.nodes.values())
    paid: Counter[type[NodeModel]] = Counter()
    jobs: Counter[type[NodeModel]] = Counter()
    for each in done:
        kind = type(town.nodes[each.node])
        paid[kind] += each.charge
        jobs[kind] += 1
    honest = paid[NodeModel] / max(1, count[NodeModel])
    figures = usual_figures(town.outcomes)
    for kind, name in LIARS.items():
        figures[f"{name}_paid_percent_of_honest"] = percent(paid[kind] / max(1, count[kind]), honest)
        figures[f"{name}_jobs_percent"] = percent(jobs[kind], len(done))
    figures["fake_answers_percent"] = percent(sum(not each.genuine for each in done), len(done))
    figures["paid_to_liars_percent"] = percent(sum(paid.values()) - paid[NodeModel], sum(paid.values()))
    return figures


def _share(stage: Stage) -> Curve:
    """Percent of jobs that liars did, by fifths of the time."""
    parts = 20
    width = stage.setting.seconds / parts
    all_jobs, of_liars = Counter[int](), Counter[int]()
    for each in stage.town.outcomes:
        if each.end is End.DONE:
            part = min(parts - 1, int(each.came_at / width))
            all_jobs[part] += 1
            of_liars[part] += type(stage.town.nodes[each.node]) is not NodeModel
    seen = sorted(all_jobs)
    return Curve(
        [(part + 0.5) * width / 60 for part in seen], [percent(of_liars[part], all_jobs[part]) for part in seen]
    )


def conclude(figures: Mapping[str, Figures]) -> str:
    """What each defence does."""
    suspends, audits = figures["suspends"], figures["audits"]
    return (
        f"Disputes leave who pads output {suspends['pads_output_paid_percent_of_honest']:.0f} % of honest pay, but who "
        f"pads input has {suspends['pads_input_paid_percent_of_honest']:.0f} %, who runs a cheaper model "
        f"{suspends['cheaper_model_paid_percent_of_honest']:.0f} %, who sends garbage "
        f"{suspends['garbage_paid_percent_of_honest']:.0f} %: being quick draws jobs. Audits of 2 % bring fake answers "
        f"from {suspends['fake_answers_percent']:.0f} to {audits['fake_answers_percent']:.0f} %."
    )


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=26,
    hours=0.3,
    axes={"jobs of liars": ("minutes", "percent of jobs that liars did")},
)
