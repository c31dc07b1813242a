"""Gateways that never countersign, one always under the same name and one under a new name for each job: what do they
cost nodes and honest users, and do honest newcomers still get in?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cxp2p.exposure import Exposures
from cxp2p.lanes import NodeLanes
from cxp2p.records import Refusal, RefusalCode
from simulations.economy import EXPOSURE_MAX, Cast, Economy, Policy, Size
from simulations.economy_peers import GatewayConduct, NodeConduct
from simulations.percents import percent
from simulations.scenario import Curve, Figures, Played, Scenario, Stage, percentile

FORGIVEN_MS = 600_000
NEWCOMERS_MAX = 1_000  # µcredits an hour: ten jobs at their most
HOUR_MS = 3_600_000
RIDER = GatewayConduct.SILENT, GatewayConduct.FRESH
CAPACITY_AN_HOUR = 500.0  # jobs that a node of one slot does, about
LOAD = 0.25  # of all nodes together: what honest users ask for, and riders as much again

POLICIES = {
    "falling": "the network's own: a third of the limit goes with each receipt that is left unanswered",
    "fixed": "the same limit, always; what is owed is forgiven after ten minutes",
    "shared": "the network's own, and all who never agreed to a receipt share ten jobs an hour",
}


class Forgiving(Exposures):
    """The limit stays, and what is owed is forgotten after a while."""

    def limit(self, gateway: str, wall_ms: int) -> int:
        return self.exposure_max

    def exposure(self, gateway: str, wall_ms: int) -> int:
        account = self._accounts.get(gateway)
        owed = account.owed.items() if account else ()
        for key in [key for key, each in owed if each.since_ms + FORGIVEN_MS < wall_ms]:
            self.dropped(gateway, key)
        return super().exposure(gateway, wall_ms)


class Sharing(Exposures):
    """Those who never agreed to anything have one limit together, which grows back in an hour."""

    def __init__(self, exposure_max: int, newcomers_max: int) -> None:
        super().__init__(exposure_max)
        self.newcomers_max = newcomers_max
        self._known: set[str] = set()
        self._room = float(newcomers_max)
        self._room_ms = 0

    def refusal(self, gateway: str, reserve: int, wall_ms: int) -> Refusal | None:
        grown = (wall_ms - self._room_ms) / HOUR_MS * self.newcomers_max
        self._room, self._room_ms = min(self.newcomers_max, self._room + grown), wall_ms
        if gateway not in self._known and reserve > self._room:
            return Refusal(code=RefusalCode.EXPOSURE, reason="too many newcomers lately", retry_after_ms=5_000)
        return super().refusal(gateway, reserve, wall_ms)

    def reserve(self, gateway: str, amount: int) -> None:
        if gateway not in self._known:
            self._room -= amount
        super().reserve(gateway, amount)

    def agreed(self, gateway: str, receipt_hash: bytes) -> bytes | None:
        self._known.add(gateway)
        return super().agreed(gateway, receipt_hash)


def _lanes(exposures: Callable[[], Exposures]) -> Callable[[str], NodeLanes]:
    def make(peer: str) -> NodeLanes:
        lanes = NodeLanes(peer, EXPOSURE_MAX)
        lanes.exposures = exposures()
        return lanes

    return make


DEFENCES = {
    "falling": Policy(lanes=_lanes(lambda: Exposures(EXPOSURE_MAX))),
    "fixed": Policy(lanes=_lanes(lambda: Forgiving(EXPOSURE_MAX)), loss_max=None),
    "shared": Policy(lanes=_lanes(lambda: Sharing(EXPOSURE_MAX, NEWCOMERS_MAX))),
}


def play(stage: Stage) -> Played:
    """Two honest gateways from the beginning, one from the middle on, two that do not pay; the rest are nodes."""
    nodes = max(2, stage.setting.peers - 5)
    rate = LOAD * nodes * CAPACITY_AN_HOUR / 2
    size = Size(nodes=nodes, gateways=2, hours=stage.setting.hours, jobs_an_hour=rate, slots=1, beat_s=10.0)
    cast = Cast(gateways=(*RIDER, GatewayConduct.NEWCOMER))
    economy = Economy(stage.world, size, DEFENCES[stage.policy], cast)
    taken: dict[GatewayConduct, list[float]] = {conduct: [] for conduct in RIDER}
    minutes: list[float] = []

    def look() -> None:
        minutes.append(stage.world.now / 60)
        for gateway in economy.gateways:
            if gateway.conduct in taken:
                taken[gateway.conduct].append(economy.seen[gateway.name].served / 1e6)
        if stage.world.now < stage.setting.seconds:
            stage.world.after(60.0, look)

    economy.begin()
    look()
    stage.run()
    economy.end()
    figures = _figures(economy)
    stage.world.note(str(figures))
    return Played(figures=figures, curves={f"taken by who {each.value}": Curve(minutes, taken[each]) for each in RIDER})


def _figures(economy: Economy) -> dict[str, float]:
    of = {gateway.conduct: economy.seen[gateway.name] for gateway in economy.gateways}
    honest = [economy.seen[each.name] for each in economy.gateways if each.conduct is GatewayConduct.HONEST]
    firsts = [first for seen in honest for first in seen.first_piece_ms]
    done = sum(node.work_done for node in economy.nodes)
    newcomer = of[GatewayConduct.NEWCOMER]
    assert all(node.conduct is NodeConduct.HONEST for node in economy.nodes)
    return {
        "silent_took_percent_of_work": percent(of[GatewayConduct.SILENT].served, done),
        "always_new_took_percent_of_work": percent(of[GatewayConduct.FRESH].served, done),
        "identities": of[GatewayConduct.FRESH].identities,
        "one_identity_took_of_one_node_max_ucredits": max(economy.lost.values(), default=0),
        "honest_first_piece_p50_ms": percentile(firsts, 50),
        "honest_first_piece_p99_ms": percentile(firsts, 99),
        "honest_refused_percent": percent(sum(seen.refused for seen in honest), sum(seen.jobs for seen in honest)),
        "newcomer_refused_percent": percent(newcomer.refused, newcomer.jobs),
    }


def conclude(figures: Mapping[str, Figures]) -> str:
    """What riders take, and what a shared limit for newcomers would do."""
    silent = {policy: each["silent_took_percent_of_work"] for policy, each in figures.items()}
    fresh = {policy: each["always_new_took_percent_of_work"] for policy, each in figures.items()}
    refused = figures["shared"]["newcomer_refused_percent"]
    return (
        f"If the limit falls with silence, who never countersigns has {silent['falling']:.2g} % of all work; if it "
        f"stays, {silent['fixed']:.0f} %. Who is always new has {fresh['falling']:.0f} % all the same; if newcomers "
        f"share a limit, {fresh['shared']:.0f} %, and {refused:.0f} % of an honest newcomer's jobs are refused."
    )


SCENARIO = Scenario(
    policies=POLICIES,
    play=play,
    conclude=conclude,
    peers=13,
    hours=1,
    axes={f"taken by who {each.value}": ("minutes", "credits") for each in RIDER},
)
