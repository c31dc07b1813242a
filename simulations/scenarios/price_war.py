"""Every node tries every three minutes whether another price earns more. What becomes of prices, of incomes and of the
time to the first piece, if the router looks at wait and price, at the wait, at the price, or at nothing?
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from statistics import fmean

from cxp2p import routing
from cxp2p.records import Prices
from cxp2p.routing import Candidate
from simulations.demands import End, Outcome
from simulations.engines import Speed, make_capability
from simulations.nodes import NodeModel
from simulations.percents import percent
from simulations.policies import by_chance
from simulations.rules import Rank, Rules
from simulations.scenario import Curve, Figures, Played, Scenario, Stage, usual_figures
from simulations.traffic import Traffic, steady

PERIOD_S = 180.0
STEP = 0.15
USUAL = Prices(input=20_000, output=60_000)
QUICK, SLOW = Speed(prompt_units_s=1000.0, output_units_s=50.0), Speed(prompt_units_s=400.0, output_units_s=20.0)
COST = 0.4  # what work costs a node, of the usual price
HIGHEST = 1000.0  # times the usual price: where the simulation stops it
BUSY = 0.4

POLICIES = {
    "router": "the network's own: least wait times price, which counts down to half of the usual",
    "wait": "least wait; only nodes of over four times the usual price come last",
    "cheapest": "the lowest price; the wait decides between equals",
    "chance": "any node",
}


def cheapest(candidates: Iterable[Candidate], tried: Collection[str], rng: Random, now: float) -> list[Candidate]:
    """The network's own order, then by price; those that are full come last all the same."""
    ranked = routing.rank(candidates, tried, rng, now)
    return sorted(ranked, key=lambda each: (each[0].busy_until > now, routing.unit_price(each[1])))


def least_wait(candidates: Iterable[Candidate], tried: Collection[str], rng: Random, now: float) -> list[Candidate]:
    """As the network's own, but a price counts only if it is over four times the usual."""
    live = list(candidates)
    usual = routing.usual_price(live)

    def key(each: Candidate) -> tuple[bool, bool, bool, float]:
        entry, able = each
        wait = routing.wait_ms(entry, able, now) * (1 + rng.uniform(0, routing.TIE_SPREAD))
        shy, dear = entry.refusals >= routing.REFUSALS_SHY, routing.unit_price(able) > routing.DEAR * usual
        return entry.busy_until > now, shy, dear, wait

    return sorted((each for each in live if each[0].offer.peer not in tried), key=key)


RANKS: Mapping[str, Rank] = {
    "router": routing.rank,
    "cheapest": cheapest,
    "wait": least_wait,
    "chance": by_chance,
}


class Trader:
    """Sets one node's price: goes on in the direction that earned more than before, and turns if it did not."""

    def __init__(self, node: NodeModel, rng: Random) -> None:
        self.node, self._rng = node, rng
        self.level = rng.uniform(0.8, 1.2)
        self.gain = 0.0  # since the last change
        self.total = 0.0
        self._before = 0.0
        self._way = rng.choice((-1, 1))
        self._set()

    def paid(self, charge: int, worth: float) -> None:
        """A job was paid. `worth`: what it costs at the usual price."""
        self.gain += charge - COST * worth
        self.total += charge - COST * worth

    def think(self) -> None:
        """The next price. A node without any work goes down."""
        if self.gain <= 0:
            self._way = -1 if self.level > 1.1 * COST else 1
        elif self.gain < self._before:
            self._way = -self._way
        self._before, self.gain = self.gain, 0.0
        step = 1 + STEP * self._rng.random()
        self.level = min(HIGHEST, max(COST, self.level * (step if self._way > 0 else 1 / step)))
        self._set()

    def _set(self) -> None:
        prices = Prices(input=round(USUAL.input * self.level), output=round(USUAL.output * self.level))
        self.node.capability = replace(self.node.capability, prices=prices)
        if self.node.up:
            self.node.changed()


def play(stage: Stage) -> Played:
    """Two gateways; half of the nodes is quick, half is slow."""
    town, nodes = stage.town, stage.setting.peers - 2
    gateways = [town.add_gateway(rules=Rules(rank=RANKS[stage.policy])) for _ in range(2)]
    rng = stage.world.rng("traders")
    traders: dict[str, Trader] = {}
    for number in range(nodes):
        node = town.add_node(make_capability(prices=USUAL), (QUICK, SLOW)[number % 2])
        traders[node.peer] = Trader(node, rng)
        stage.world.after(PERIOD_S * (1 + rng.random()), _think, stage, traders[node.peer])

    def pay(outcome: Outcome) -> None:
        if outcome.charge:
            traders[outcome.node].paid(outcome.charge, _worth(outcome))

    town.on_outcome.append(pay)
    rate = BUSY * nodes * 0.2
    Traffic(stage.world, gateways, steady(rate), rate, end=stage.setting.seconds)
    stage.run()
    town.settle()
    return Played(figures=_figures(stage, list(traders.values())), curves={"price": _paid(stage)})


def _think(stage: Stage, trader: Trader) -> None:
    trader.think()
    if stage.world.now < stage.setting.seconds:
        stage.world.after(PERIOD_S, _think, stage, trader)


def _worth(outcome: Outcome) -> float:
    """What a job costs at the usual price."""
    demand = outcome.demand
    return (demand.in_units * USUAL.input + min(demand.out_units, demand.max_out) * USUAL.output) / 1e6


def _paid(stage: Stage) -> Curve:
    """What users paid, times the usual price, by tenths of the time."""
    parts = 15
    width = stage.setting.seconds / parts
    paid, worth = [0.0] * parts, [0.0] * parts
    for each in stage.town.outcomes:
        if each.end is End.DONE:
            part = min(parts - 1, int(each.came_at / width))
            paid[part] += each.charge
            worth[part] += _worth(each)
    seen = [part for part in range(parts) if worth[part]]
    return Curve([(part + 0.5) * width / 60 for part in seen], [paid[part] / worth[part] for part in seen])


def _figures(stage: Stage, traders: Sequence[Trader]) -> dict[str, float]:
    outcomes = stage.town.outcomes
    late = [each for each in outcomes if each.end is End.DONE and each.came_at > stage.setting.seconds / 2]
    worth = sum(map(_worth, late))
    gains = sorted(trader.total for trader in traders)
    return {
        **usual_figures(outcomes),
        "median_price_at_the_end_percent_of_usual": 100 * sorted(trader.level for trader in traders)[len(traders) // 2],
        "paid_in_the_second_half_percent_of_usual": percent(sum(each.charge for each in late), worth),
        "income_of_a_node_mean_ucredits": fmean(gains),
        "income_of_the_poorest_third_percent_of_all": percent(sum(gains[: len(gains) // 3]), sum(gains)),
    }


def conclude(figures: Mapping[str, Figures]) -> str:
    """What prices do under each router, and what it costs in time."""
    paid: Callable[[str], float] = lambda policy: figures[policy]["paid_in_the_second_half_percent_of_usual"]  # noqa: E731
    first: Callable[[str], float] = lambda policy: figures[policy]["first_piece_p50_ms"]  # noqa: E731
    return (
        f"In the second half users pay {paid('router'):.0f} % of the usual price with the network's router, "
        f"{paid('wait'):.0f} % if the wait alone counts, {paid('cheapest'):.0f} % if the price alone does, "
        f"{paid('chance'):.0f} % by chance; half of them have their first piece within {first('router'):.0f}, "
        f"{first('wait'):.0f}, {first('cheapest'):.0f} and {first('chance'):.0f} ms."
    )


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=22,
    hours=1.5,
    axes={"price": ("minutes", "what users pay, times the usual price")},
)
