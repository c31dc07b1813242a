"""A week in which liars, double signers, silent gateways, free-riders and self-dealers act among honest peers: what
does each earn against an honest one, under which rules?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from cxp2p.rewards import DEFAULT_RULES
from simulations.economy import Cast, Economy, Policy, Size
from simulations.economy_books import Payout, RuleSet
from simulations.economy_peers import Gateway, GatewayConduct, Node, NodeConduct
from simulations.economy_rings import SelfDealers
from simulations.percents import percent
from simulations.scenario import Curve, Figures, Played, Scenario, Stage
from simulations.world import World

COST_PPM = 600_000  # what work costs an honest node, of what it charges: an assumption
COSTS_PPM = {NodeConduct.CHEAP_MODEL: 150_000, NodeConduct.GARBAGE: 10_000}
BUSY = 8.0  # times as many jobs as an honest gateway has: what cheats do to a few jobs a day is not the question
MARGIN_PPM = 200_000  # what a gateway's users pay it above what nodes charge: an assumption
UNMATCHED = 2**62
AUDIT_PPM = 10_000
DEPOSIT_JOBS = 100
CHEAP_UNITS, CHEAP_PRICE = 2**31 - 1, 1  # an hour: a lot of units, for 0.002 credits
DEAR_UNITS, DEAR_PRICE = 20_000, 60_000  # at the usual price: about ten times what an honest node has to do

POLICIES = {
    "default": "the network's own rules; nobody audits",
    "unmatched": "the pool is shared by weight alone, by all",
    "listed": "the same, by receipts of the honest gateways alone",
    "audited": "the network's own rules; 1 % of receipts are audited, 9 of 10 fakes are found",
    "deposit": "the same, and a node that is caught loses the pay of its last 100 jobs",
}
NODES = {
    NodeConduct.PADS_OUTPUT: "pads_output",
    NodeConduct.PADS_INPUT: "pads_input",
    NodeConduct.CHEAP_MODEL: "cheaper_model",
    NodeConduct.GARBAGE: "garbage",
    NodeConduct.SIGNS_TWICE: "signs_twice",
}
GATEWAYS = {
    GatewayConduct.SILENT: "silent",
    GatewayConduct.FRESH: "always_new",
    GatewayConduct.OMITS: "omits_receipts",
    GatewayConduct.TWO_ROOTS: "two_roots",
    GatewayConduct.NEVER_PAYS: "never_pays",
    GatewayConduct.DISPUTES_DEAR: "disputes_dear",
}
RINGS = {
    "deals_cheaply_with_himself": (CHEAP_UNITS, CHEAP_PRICE),
    "deals_dearly_with_himself": (DEAR_UNITS, DEAR_PRICE),
}
CHEATS = (*NODES.values(), *GATEWAYS.values(), *RINGS)
DRAWN = ("garbage", "deals_dearly_with_himself")
DRAWN_PERCENT_MAX = 2_000.0
REFERRED, ALIAS = "user 0.0", "user 0.0 under another name"


def play(stage: Stage) -> Played:
    """A week for each cheat, who is alone among honest peers, a third of whom are gateways; all policies pay it."""
    week = _week(stage.setting.peers, stage.setting.seed, max(1, round(stage.setting.hours)))
    stage.world.events = week.events
    stage.world.note(" ".join(week.digests))
    return Played(figures=week.figures[stage.policy], curves=week.curves[stage.policy])


@dataclass(frozen=True, slots=True)
class _Week:
    """What came of all cheats, by policy."""

    figures: Mapping[str, dict[str, float]]
    curves: Mapping[str, dict[str, Curve]]
    events: int
    digests: tuple[str, ...]


@lru_cache(maxsize=1)
def _week(peers: int, seed: int, hours: int) -> _Week:
    gateways = max(2, peers // 3)
    size = Size(nodes=max(2, peers - gateways), gateways=gateways, hours=hours, busy=BUSY)
    told = [_Told(size, seed, cheat) for cheat in ("", *CHEATS)]
    for each in told:
        each.run()
    return _Week(
        figures={
            policy: {key: value for each in told for key, value in each.figures(policy).items()} for policy in POLICIES
        },
        curves={
            policy: {key: curve for each in told for key, curve in each.curves(policy).items()} for policy in POLICIES
        },
        events=sum(each.world.events for each in told),
        digests=tuple(each.world.digest() for each in told),
    )


def rule_sets(listed: Sequence[Gateway]) -> tuple[RuleSet, ...]:
    """The rules of all policies. `listed`: the gateways that are vouched for, where any are."""
    unmatched = replace(DEFAULT_RULES, name="unmatched", match_ppm=UNMATCHED)
    peers = tuple(sorted(gateway.peer for gateway in listed))
    return (
        RuleSet(name="default", rules=DEFAULT_RULES),
        RuleSet(name="unmatched", rules=unmatched),
        RuleSet(name="listed", rules=replace(unmatched, name="listed", gateways=peers)),
        RuleSet(name="audited", rules=DEFAULT_RULES, audit_ppm=AUDIT_PPM),
        RuleSet(name="deposit", rules=DEFAULT_RULES, audit_ppm=AUDIT_PPM, forfeit_jobs=DEPOSIT_JOBS),
    )


class _Told:
    """One cheat's week, and what there is to tell of it. Without a cheat: of the honest."""

    def __init__(self, size: Size, seed: int, cheat: str) -> None:
        self.cheat, self.world = cheat, World(seed)
        nodes = tuple(conduct for conduct, name in NODES.items() if name == cheat)
        gateways = tuple(conduct for conduct, name in GATEWAYS.items() if name == cheat)
        cast = Cast(nodes=nodes, gateways=gateways, referrers={REFERRED: ALIAS})
        self.economy = economy = Economy(self.world, size, Policy(), cast)
        self.ring = SelfDealers(cheat, economy.signing, *RINGS[cheat]) if cheat in RINGS else None
        economy.hours.rings += [self.ring] if self.ring else []
        self.payouts = {each.name: economy.pays_by(each) for each in rule_sets(economy.gateways[: size.gateways])}
        self.honest = economy.nodes[: size.nodes]
        self.days: list[float] = []
        self.gains: dict[str, list[float]] = {policy: [] for policy in POLICIES}

    def run(self) -> None:
        """Plays it. Raises BrokenInvariant."""
        self.economy.begin()
        self.world.after(6 * 3600.0, self._look)
        self.economy.end()

    def _look(self) -> None:
        self.days.append(self.world.now / 86_400)
        for policy, gains in self.gains.items():
            gains.append(self.percent(policy) if self.cheat else 100.0)
        self.world.after(6 * 3600.0, self._look)

    def percent(self, policy: str) -> float:
        """What the cheat has, in percent: a node of what honest ones have for as much work, a gateway of what it would
        have if it were honest, self-dealers of what an honest node has.
        """
        payout, economy = self.payouts[policy], self.economy
        honest = sum(_gain(node, payout) for node in self.honest)
        if self.ring is not None:
            return percent((payout.has(self.ring.owner) - self.ring.charged) * len(self.honest), honest)
        if self.cheat in NODES.values():
            node = economy.nodes[-1]
            due = honest / sum(each.work_done for each in self.honest) * node.work_done
            return percent(_gain(node, payout), due)
        seen, paid = economy.seen[economy.gateways[-1].name], economy.hours.paid[economy.gateways[-1].name]
        return percent(seen.served * (1 + MARGIN_PPM / 1e6) - paid, seen.wanted * MARGIN_PPM / 1e6)

    def curves(self, policy: str) -> dict[str, Curve]:
        """Gains over the week, of those cheats for which the policies differ most."""
        gains = [max(0.0, min(DRAWN_PERCENT_MAX, gain)) for gain in self.gains[policy]]
        return {self.cheat.replace("_", " "): Curve(self.days, gains)} if self.cheat in DRAWN else {}

    def figures(self, policy: str) -> dict[str, float]:
        """What there is to say of this cheat, or of the honest."""
        economy, payout = self.economy, self.payouts[policy]
        if not self.cheat:
            return {
                "honest_node_ucredits": sum(_gain(node, payout) for node in self.honest) / len(self.honest),
                "refers_himself_percent_of_charges": percent(payout.has(ALIAS), economy.charged[REFERRED]),
            }
        figures = {_figure(self.cheat): self.percent(policy)}
        done = sum(node.work_done for node in economy.nodes)
        lost = {place: amount for place, amount in economy.lost.items() if place[0] in {n.peer for n in self.honest}}
        if lost:
            figures[f"{self.cheat}_took_of_one_node_ucredits"] = max(lost.values())
            figures[f"{self.cheat}_took_of_all_percent_of_work"] = percent(sum(lost.values()), done)
        if economy.hours.unpaid:
            figures[f"{self.cheat}_took_of_all_percent_of_work"] = percent(sum(economy.hours.unpaid.values()), done)
        if economy.hours.convicted:
            figures[f"{self.cheat}_convictions"] = sum(economy.hours.convicted.values())
        return figures


def _gain(node: Node, payout: Payout) -> float:
    cost = node.work_done * COSTS_PPM.get(node.conduct, COST_PPM) / 1e6
    return payout.has(node.peer) - payout.forfeited[node.peer] - cost


def _figure(cheat: str) -> str:
    return f"{cheat}_percent"


def conclude(figures: Mapping[str, Figures]) -> str:
    """Which cheats pay under the default rules, and what self-dealing is under each."""
    default = figures["default"]
    pays = [cheat.replace("_", " ") for cheat in CHEATS if default[_figure(cheat)] > 105]
    dealt = {policy: each["deals_cheaply_with_himself_percent"] / 100 for policy, each in figures.items()}
    return (
        f"Under the default rules these cheats pay: {', '.join(pays) or 'none'}. Who deals with himself has "
        f"{dealt['unmatched']:,.0f} times what an honest node has if weight alone shares the pool; if charges must "
        f"match it, {'he loses' if dealt['default'] < 0 else 'he gains'}."
    )


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=12,
    hours=168,
    axes={cheat.replace("_", " "): ("days", "percent of honest gains, 0 to 2,000") for cheat in DRAWN},
)
