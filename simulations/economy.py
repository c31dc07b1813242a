"""An economy: hours of jobs between gateways and nodes through the real rules, and what everybody has in the end.

Orders, lanes, receipts, countersigns, holds, epochs and rewards are the library's. What is simulated: who asks what and
when, how long a node takes, and what those do that are not honest. Peers always reach each other, and stay: what
happens when they do not is another simulation's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, TypeAlias

from cxp2p.errors import JobRefused
from cxp2p.exposure import AGREED_PER_DISPUTE
from cxp2p.identity import Kind
from cxp2p.lanes import NodeLanes
from cxp2p.receipts import HOURS, Delivered, advance, charge_owed, check_receipt
from cxp2p.records import Countersign, Finish, Prices, Receipt, RefusalCode, Service, Verdict
from cxp2p.rewards import Asker
from cxp2p.routing import Blame, Candidate, Fault, blame, rank
from cxp2p.wire import encode
from simulations.clocks import Clock
from simulations.economy_books import Credit, Payout, RuleSet
from simulations.economy_hours import Hours
from simulations.economy_peers import (
    CONTEXT_UNITS,
    MODEL,
    Gateway,
    GatewayConduct,
    Node,
    NodeConduct,
    Request,
    Work,
    entry_of,
    new_gateway,
)
from simulations.signing import QuickSigning, Signing
from simulations.world import World

ATTEMPTS_MAX: Final = 3
EXPOSURE_MAX: Final = 5_000_000  # a node's default
PRICES: Final = Prices(input=20_000, output=60_000)  # a node's default
IN_UNITS, OUT_UNITS = 600, 220  # medians of lognormal draws
DEAR: Final = 2 * AGREED_PER_DISPUTE  # µcredits: what a dispute must be worth, as each tiny job costs one
TINY: Final = Request(number=0, in_units=1, out_units=1, wanted=False)
UNITS_PER_S: Final = 40.0
FORM_SHARE: Final = 0.1  # of jobs: the answer must be of a form, and is checked

Router: TypeAlias = Callable[[Sequence[Candidate], Collection[str], Random, float], list[Candidate]]
"""Which nodes are asked, best first: as `cxp2p.routing.rank`."""

Lanes: TypeAlias = Callable[[str], NodeLanes]
"""What a node remembers its gateways with."""


def usual_lanes(peer: str) -> NodeLanes:
    """With a node's default limit."""
    return NodeLanes(peer, EXPOSURE_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many honest peers there are. `users`: of each gateway; `jobs_an_hour`: of each honest one, and `busy` times
    as many of one that is not.
    """

    nodes: int = 8
    gateways: int = 4
    users: int = 4
    jobs_an_hour: float = 2.0
    busy: float = 1.0
    hours: float = 168
    slots: int = 4
    beat_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How honest peers defend themselves.

    `suspends`: a gateway does not ask a node for a while whose receipt it disputed. `watches`: nodes look for their
    receipts under each root, and publish those that it leaves out. `found_ppm`: of audits of wrong answers that find
    them. `lanes`: how a node limits its exposure. `loss_max`: what
    an honest node can lose to one identity, if that is promised; it is checked after every event.
    """

    router: Router = rank
    suspends: bool = True
    watches: bool = True
    found_ppm: int = 900_000
    lanes: Lanes = usual_lanes
    loss_max: int | None = EXPOSURE_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Who is there besides the honest peers, and who brought which user."""

    nodes: Sequence[NodeConduct] = ()
    gateways: Sequence[GatewayConduct] = ()
    referrers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Seen:
    """What there was to see of one gateway's jobs. Money in µcredits at honest counts.

    `wanted`: what its users asked for, `served`: what was delivered to them. `refused`: jobs that no node took.
    """

    jobs: int = 0
    wanted: int = 0
    served: int = 0
    refused: int = 0
    disputed: int = 0
    identities: int = 1
    first_piece_ms: list[float] = field(default_factory=list)


class Economy:
    """Plays `size.hours` of jobs: `begin`, run the world, `end`; then the books tell."""

    def __init__(
        self,
        world: World,
        size: Size,
        policy: Policy,
        cast: Cast,
        signing: Signing | None = None,
    ) -> None:
        self.world, self.size, self.policy, self._cast = world, size, policy, cast
        self.clock = Clock(world)
        self.signing = signing or QuickSigning()
        nodes = [NodeConduct.HONEST] * size.nodes + list(cast.nodes)
        gateways = [GatewayConduct.HONEST] * size.gateways + list(cast.gateways)
        self.nodes = [self._node(number, conduct) for number, conduct in enumerate(nodes)]
        self.gateways = [self._gateway(number, conduct) for number, conduct in enumerate(gateways)]
        self.by_peer = {node.peer: node for node in self.nodes}
        self.seen = {gateway.name: Seen() for gateway in self.gateways}
        self.lost: Counter[tuple[str, str]] = Counter()  # by node, and identity of a gateway
        self.jobs_of: Counter[str] = Counter()  # by node
        self.charged: Counter[str] = Counter()  # by user, at honest gateways
        self.credit = Credit([user for gateway in self.gateways for user in gateway.users])
        self.hours = Hours(self)

    def __repr__(self) -> str:
        return f"<Economy of {len(self.nodes)} nodes and {len(self.gateways)} gateways at {self.world.now:.0f} s>"

    def _node(self, number: int, conduct: NodeConduct) -> Node:
        signer = self.signing.signer(f"node {number:04d}".encode().ljust(32, b"."))
        return Node(
            signer=signer,
            lanes=self.policy.lanes(signer.peer),
            prices=PRICES,
            slots=self.size.slots,
            units_per_s=UNITS_PER_S,
            conduct=conduct,
        )

    def _gateway(self, number: int, conduct: GatewayConduct) -> Gateway:
        users = tuple(f"user {number}.{each}" for each in range(self.size.users))
        signer = self.signing.signer(f"gateway {number:04d}".encode().ljust(32, b"."))
        return new_gateway(f"gateway {number}", signer, users, self.world.rng(f"lanes {number}"), conduct)

    # Time.

    def pays_by(self, rule_set: RuleSet) -> Payout:
        """The hours are paid by these rules too, into books of their own."""
        payout = Payout(rule_set)
        self.hours.payouts.append(payout)
        return payout

    def begin(self) -> None:
        """Everything that happens is in the world's heap from now on."""
        self._beat()
        for number, gateway in enumerate(self.gateways):
            late_s = self.size.hours * 1800.0 if gateway.conduct is GatewayConduct.NEWCOMER else 0.0
            self.world.after(late_s + self._pause_s(gateway), self._arrive, number)
        self.hours.begin()

    def end(self) -> None:
        """What closes the last hour. Raises BrokenInvariant, LedgerError, EpochInvalid."""
        self.world.run(math.ceil(self.size.hours) * 3600.0 + HOURS.grace_ms / 1000 + 1.0)

    def _beat(self) -> None:
        wall_ms = self.clock.wall_ms()
        for node in self.nodes:
            offer, envelope = node.offer(self.world.now, wall_ms)
            for gateway in self.gateways:
                gateway.learn(offer, envelope, wall_ms)
        if self.world.now < self.size.hours * 3600.0:
            self.world.after(self.size.beat_s, self._beat)

    def _pause_s(self, gateway: Gateway) -> float:
        busy = 1.0 if gateway.conduct in (GatewayConduct.HONEST, GatewayConduct.NEWCOMER) else self.size.busy
        return self.world.rng("arrivals").expovariate(busy * self.size.jobs_an_hour / 3600.0)

    def _arrive(self, number: int) -> None:
        gateway, rng = self.gateways[number], self.world.rng("jobs")
        if self.world.now < self.size.hours * 3600.0 - 60.0:
            self.world.after(self._pause_s(gateway), self._arrive, number)
            seen = self.seen[gateway.name]
            seen.jobs += 1
            request = Request(
                number=number << 32 | seen.jobs,
                in_units=max(1, min(6_000, round(rng.lognormvariate(0, 0.8) * IN_UNITS))),
                out_units=max(1, min(1_000, round(rng.lognormvariate(0, 0.8) * OUT_UNITS))),
                form=rng.random() < FORM_SHARE,
            )
            seen.wanted += charge_owed(PRICES, Finish.STOP, request.in_units, request.out_units)
            self._ask(gateway, rng.choice(gateway.users), request)

    # A job.

    def _ask(self, gateway: Gateway, user: str, request: Request) -> None:
        tried: list[str] = []
        while len(tried) < ATTEMPTS_MAX:
            now, wall_ms = self.world.now, self.clock.wall_ms()
            candidates = gateway.directory.candidates(Service.CHAT, MODEL, wall_ms, now)
            ranked = self.policy.router(candidates, tried, self.world.rng("router"), now)
            if not ranked:
                break
            known, _ = ranked[0]
            tried.append(known.offer.peer)
            if self._order(gateway, user, request, self.by_peer[known.offer.peer]):
                return
        self.seen[gateway.name].refused += 1

    def _order(self, gateway: Gateway, user: str, request: Request, node: Node) -> bool:
        """Whether the node took it."""
        if gateway.conduct is GatewayConduct.FRESH:
            self._renew(gateway)
        rng, wall_ms = self.world.rng("orders"), self.clock.wall_ms()
        capability = node.capability(self.world.now)
        lane = gateway.lanes.take(node.peer)
        order, envelope = gateway.order(node.peer, capability, lane, request, rng, wall_ms)
        self.credit.hold(user, order, wall_ms)
        signer = self.signing.open(Kind.ORDER, envelope).peer
        refusal = node.lanes.check(signer, gateway.peer, order, order.request_commit, capability, wall_ms)
        if refusal is not None:
            self.credit.void(order)
            error = JobRefused(refusal.code, refusal.reason, refusal.retry_after_ms)
            self._blamed(gateway, Fault(node.peer, CONTEXT_UNITS, request.bytes, error))
            if refusal.code not in (RefusalCode.LANE_UNKNOWN, RefusalCode.ORDER_INVALID):
                gateway.lanes.give_back(node.peer, lane)
            return False
        node.lanes.take(order)
        known = gateway.directory.get(node.peer)
        if known is not None:
            known.jobs += 1
        first, end = node.begin(request, self.world.now)
        work = Work(
            user=user,
            request=request,
            order=order,
            order_envelope=envelope,
            lane=lane,
            t_accept_ms=wall_ms,
            first_s=first - self.world.now,
        )
        self.world.at(end, self._end, gateway, node, work)
        return True

    def _renew(self, gateway: Gateway) -> None:
        seen = self.seen[gateway.name]
        seen.identities += 1
        gateway.signer = self.signing.signer(f"{gateway.name} {seen.identities}".encode().ljust(32, b"."))

    def _blamed(self, gateway: Gateway, fault: Fault) -> None:
        match blame(fault):
            case Blame.FULL:
                gateway.directory.full(fault.node, self.world.now, 0)
            case Blame.FAILED:
                gateway.directory.suspend(fault.node, self.world.now)

    def _end(self, gateway: Gateway, node: Node, work: Work) -> None:
        wall_ms, order, request = self.clock.wall_ms(), work.order, work.request
        known = gateway.directory.get(node.peer)
        if known is not None:
            known.jobs -= 1
            gateway.directory.measure(node.peer, max(1.0, work.first_s * 1000), request.bytes, self.world.now)
        receipt, envelope = node.receipt(work, wall_ms)
        node.lanes.finish(order, receipt, envelope, wall_ms)
        value = charge_owed(order.prices, Finish.STOP, request.in_units, request.out_units)
        node.work_done += value
        if request.wanted:
            self.seen[gateway.name].served += value
            self.seen[gateway.name].first_piece_ms.append(work.first_s * 1000)
        self.jobs_of[node.peer] += 1
        self.world.touch(Exposure(self, node, order.gateway))
        if gateway.conduct in (GatewayConduct.SILENT, GatewayConduct.FRESH):
            self.credit.post(order, receipt.charge, gateway.name)
            self.lost[node.peer, order.gateway] += receipt.charge
            return
        self._countersign(gateway, node, work, receipt, envelope)

    def _countersign(self, gateway: Gateway, node: Node, work: Work, receipt: Receipt, envelope: bytes) -> None:
        order = work.order
        bad_form = node.conduct is NodeConduct.GARBAGE and work.request.form
        fault = "the answer is not of the form that was asked for" if bad_form else ""
        got = Delivered(units=work.request.out_units, commit=work.commit, fault=fault)
        signer = self.signing.open(Kind.RECEIPT, envelope).peer
        countersign = check_receipt(order, work.order_envelope, work.lane, signer, receipt, envelope, got)
        if gateway.conduct is GatewayConduct.DISPUTES_DEAR and work.request.wanted and countersign.charge > DEAR:
            countersign = replace(countersign, verdict=Verdict.DISPUTED, reason="no", charge=0)
            self.lost[node.peer, order.gateway] += receipt.charge
            for each in range(AGREED_PER_DISPUTE):
                self._order(gateway, work.user, replace(TINY, number=work.request.number << 8 | each), node)
        sealed = gateway.signer.seal(Kind.COUNTERSIGN, encode(countersign))
        self.credit.post(order, countersign.charge, gateway.name)
        node.lanes.settle(order, receipt, envelope, self.signing.open(Kind.COUNTERSIGN, sealed).peer, countersign)
        entry = entry_of(self.signing, receipt, envelope, countersign, sealed)
        self.charged[work.user] += countersign.charge
        self.hours.add(gateway, entry, Asker(work.user, self._cast.referrers.get(work.user, "")))
        self._remember(gateway, node, work, envelope, countersign)

    def _remember(self, gateway: Gateway, node: Node, work: Work, envelope: bytes, countersign: Countersign) -> None:
        now = self.world.now
        if countersign.verdict is not Verdict.ACCEPTED:
            self.seen[gateway.name].disputed += 1
            if self.policy.suspends and gateway.conduct is not GatewayConduct.DISPUTES_DEAR:
                gateway.directory.suspend(node.peer, now)
            return
        gateway.lanes.give_back(node.peer, advance(work.lane, envelope, countersign.charge))
        gateway.directory.welcome(node.peer, now, MODEL)
        if node.conduct is NodeConduct.SIGNS_TWICE:
            second, second_envelope = node.receipt(work, self.clock.wall_ms(), again=True)
            self.hours.twice(envelope, second_envelope, second)
            if self.policy.suspends:
                gateway.directory.suspend(node.peer, now)


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one identity may owe a node: looked at after every event that changes it."""

    economy: Economy
    node: Node
    gateway: str

    def faults(self) -> list[str]:
        economy, node = self.economy, self.node
        exposed, limit = node.lanes.exposure(self.gateway, economy.clock.wall_ms()), node.lanes.exposure_max
        faults = []
        if exposed > limit:
            faults.append(f"{node.peer} is exposed to {self.gateway} by {exposed} µcredits, the limit is {limit}")
        loss_max, lost = economy.policy.loss_max, economy.lost[node.peer, self.gateway]
        if loss_max is not None and lost > loss_max and node.conduct is NodeConduct.HONEST:
            faults.append(f"{node.peer} lost {lost} µcredits to {self.gateway}, the limit is {loss_max}")
        return faults
