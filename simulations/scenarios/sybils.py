"""A thousand nodes that nobody knows come at once, under free names: half send random tokens, half take jobs and never
answer. How many jobs do they get, and do honest newcomers among them still get their first ones?
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from random import Random
from statistics import median
from typing import Any

from cxp2p import routing
from cxp2p.directory import Entry
from cxp2p.routing import Candidate
from simulations.attempts import Attempt
from simulations.demands import Demand, End, Outcome
from simulations.engines import make_capability
from simulations.gateways import GatewayModel
from simulations.liars import Garbage, Hangs
from simulations.nodes import Work
from simulations.percents import percent
from simulations.rules import Rank, Rules
from simulations.scenario import Curve, Figures, Played, Scenario, Stage, usual_figures
from simulations.traffic import Traffic, steady, usual_demand

KNOWN = 20  # nodes that were there before
HONEST_NEWCOMERS = 5
COME_AT = 0.25  # of the time
BUSY = 0.4
PATIENCE_S = 30.0
EXPLORED = 0.05  # of jobs
TRIALS, FOUND = 10, 0.9  # answers that are scored again, as BOINC does; how often that finds a fake

POLICIES = {
    "router": "the network's own: who is new is ranked by what it says, like all others",
    "budget": "one job of 20 goes to a node that never did one; else these come after those that did",
    "trial": "the same, and a node is new until ten answers of it were scored again; spot checks are not built yet",
    "last": "nodes that never did a job come after all that did",
}


def proven_first(share: float, is_new: Callable[[Entry], bool]) -> Rank:
    """The network's own order, but a node that is new comes before the others for so many jobs, else after them."""

    def ranked(candidates: Iterable[Candidate], tried: Collection[str], rng: Random, now: float) -> list[Candidate]:
        order = routing.rank(candidates, tried, rng, now)
        room = {id(able) for _, able in routing.with_room(order, now)}
        explores = not tried and rng.random() < share

        def key(each: Candidate) -> int:
            if is_new(each[0]):
                return 0 if explores else 2
            return 1 if id(each[1]) in room else 3

        return sorted(order, key=key)

    return ranked


def never_useful(entry: Entry) -> bool:
    """Whether a node never did a job that was agreed to."""
    return entry.useful_at == -math.inf


class TrialGateway(GatewayModel):
    """Has the first answers of each node that came late scored again, and asks who failed no more."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.passed: Counter[str] = Counter()
        self.rules = Rules(rank=proven_first(EXPLORED, lambda entry: self.passed[entry.offer.peer] < TRIALS))

    def countersign(self, attempt: Attempt, work: Work, envelope: bytes) -> None:
        super().countersign(attempt, work, envelope)
        if self.passed[attempt.node] < TRIALS:
            if work.genuine or self.rng.random() >= FOUND:
                self.passed[attempt.node] += 1
            else:
                attempt.entry.suspended_until, attempt.entry.suspended_model = math.inf, None


RANKS: Mapping[str, Rank] = {
    "router": routing.rank,
    "budget": proven_first(EXPLORED, never_useful),
    "trial": routing.rank,
    "last": proven_first(0.0, never_useful),
}


def play(stage: Stage) -> Played:
    """Two gateways that know twenty nodes; then the others come, honest ones among them."""
    town, world = stage.town, stage.world
    kind = TrialGateway if stage.policy == "trial" else GatewayModel
    gateways = [town.add_gateway(rules=Rules(rank=RANKS[stage.policy]), kind=kind) for _ in range(2)]
    for _ in range(KNOWN):
        town.add_node(make_capability())
    come_at = COME_AT * stage.setting.seconds
    newcomers: set[str] = set()
    world.at(come_at, _come, stage, newcomers)
    rate = BUSY * KNOWN * 0.25
    Traffic(world, gateways, steady(rate), rate, end=stage.setting.seconds, make=_impatient)
    stage.run()
    town.settle(4000.0)
    after = [each for each in town.outcomes if each.came_at > come_at]
    return Played(figures=_figures(stage, after, newcomers, come_at), curves={"good answers": _good(stage)})


def _impatient(number: int, rng: Random) -> Demand:
    demand = usual_demand(number, rng)
    return Demand(
        number=demand.number,
        user=demand.user,
        model=demand.model,
        in_units=demand.in_units,
        out_units=demand.out_units,
        patience_s=PATIENCE_S,
    )


def _come(stage: Stage, newcomers: set[str]) -> None:
    sybils = max(2, stage.setting.peers - KNOWN - HONEST_NEWCOMERS - 2)
    every = max(1, sybils // HONEST_NEWCOMERS)
    for number in range(sybils):
        stage.town.add_node(make_capability(), kind=(Garbage, Hangs)[number % 2])
        if number % every == 0 and len(newcomers) < HONEST_NEWCOMERS:
            newcomers.add(stage.town.add_node(make_capability()).peer)


def _figures(stage: Stage, after: list[Outcome], newcomers: set[str], come_at: float) -> dict[str, float]:
    done = [each for each in after if each.end is End.DONE]
    first: dict[str, float] = {}
    for each in done:
        first.setdefault(each.node, each.came_at - come_at)
    begun = [first.get(peer, stage.setting.seconds - come_at) / 60 for peer in sorted(newcomers)]
    return {
        **usual_figures(after),
        "good_answers_percent": percent(sum(each.genuine for each in done), len(after)),
        "garbage_percent": percent(sum(not each.genuine for each in done), len(after)),
        "left_waiting_percent": percent(sum(each.end is End.LEFT for each in after), len(after)),
        "paid_to_sybils_percent": percent(
            sum(each.charge for each in done if not each.genuine), sum(each.charge for each in done)
        ),
        "honest_newcomers_with_a_job": sum(peer in first for peer in newcomers),
        "minutes_to_the_first_job_median": median(begun),
        "jobs_of_an_honest_newcomer_percent_of_equal_share": percent(
            sum(each.node in newcomers for each in done) / len(newcomers), len(after) / (KNOWN + len(newcomers))
        ),
    }


def _good(stage: Stage) -> Curve:
    """Percent of jobs with a good answer, by twentieths of the time."""
    parts = 20
    width = stage.setting.seconds / parts
    jobs, good = [0] * parts, [0] * parts
    for each in stage.town.outcomes:
        part = min(parts - 1, int(each.came_at / width))
        jobs[part] += 1
        good[part] += each.end is End.DONE and each.genuine
    seen = [part for part in range(parts) if jobs[part]]
    return Curve([(part + 0.5) * width / 60 for part in seen], [percent(good[part], jobs[part]) for part in seen])


def conclude(figures: Mapping[str, Figures]) -> str:
    """Good answers under each, and what it costs honest newcomers."""
    good = {policy: each["good_answers_percent"] for policy, each in figures.items()}
    share = {policy: each["jobs_of_an_honest_newcomer_percent_of_equal_share"] for policy, each in figures.items()}
    return (
        f"After they came {good['router']:.0f} % of jobs have a good answer with the network's router, "
        f"{good['budget']:.0f} % if one job of 20 tries a newcomer, {good['trial']:.0f} % if the first ten answers of "
        f"each are scored again, {good['last']:.0f} % if newcomers come last. Among so many an honest newcomer has "
        f"hardly a job: {share['router']:.1f}, {share['budget']:.1f}, {share['trial']:.1f}, {share['last']:.1f} % of "
        "its share."
    )


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=1027,
    hours=0.25,
    axes={"good answers": ("minutes", "percent of jobs with a good answer")},
)
