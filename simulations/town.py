"""Everything that lives in one world: its links, its nodes, its gateways, and who hears of whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cxp2p.protocols import OFFER_PUT_INTERVAL_S
from cxp2p.records import Capability, Offer
from simulations import invariants
from simulations.clocks import Clock, drawn_clock
from simulations.demands import Outcome
from simulations.engines import Speed
from simulations.gateways import USER_CREDIT, GatewayModel
from simulations.links import Links, Place, drawn_place
from simulations.nodes import EXPOSURE_MAX, NodeModel
from simulations.rules import REAL, Rules
from simulations.signing import QuickSigning, Signing
from simulations.world import BrokenInvariant, World

FOUND_S_MIN, FOUND_S_MAX = 1.0, 10.0  # a look-up that finds a new node: DHT rounds of 1 to 10 s, see cxp2p.net.discover


class Town:
    """One world's peers. `outcomes` is what became of all demands, in the order in which they ended.

    `found` decides who hears of a node that came: here every gateway does, within ten seconds.
    """

    def __init__(self, world: World, signing: Signing | None = None) -> None:
        self.world = world
        self.links = Links(world)
        self.links.on_change = self._links_changed
        self.signing = signing or QuickSigning()
        self.nodes: dict[str, NodeModel] = {}
        self.gateways: dict[str, GatewayModel] = {}
        self.outcomes: list[Outcome] = []
        self.on_outcome: list[Callable[[Outcome], None]] = [self.outcomes.append]
        self._rng = world.rng("town")

    # Settling.

    def add_gateway(
        self,
        place: Place | None = None,
        *,
        rules: Rules = REAL,
        clock: Clock | None = None,
        user_credit: int = USER_CREDIT,
        kind: type[GatewayModel] = GatewayModel,
    ) -> GatewayModel:
        """A gateway, running from now on; where it stands and how its clocks are is drawn, if it is not said."""
        signer = self.signing.signer(self._rng.randbytes(32))
        clock = clock or drawn_clock(self.world, self._rng)
        self.links.place(signer.peer, place or drawn_place(self._rng))
        gateway = kind(self, signer, clock, rules=rules, user_credit=user_credit)
        self.gateways[signer.peer] = gateway
        for node in self.nodes.values():
            if node.up:
                self._tell(node, gateway)
        return gateway

    def add_node(
        self,
        capability: Capability,
        speed: Speed | None = None,
        place: Place | None = None,
        *,
        rules: Rules = REAL,
        clock: Clock | None = None,
        owner: str = "",
        exposure_max: int = EXPOSURE_MAX,
        kind: type[NodeModel] = NodeModel,
        start: bool = True,
    ) -> NodeModel:
        """A node, running from now on unless `start` is False."""
        signer = self.signing.signer(self._rng.randbytes(32))
        clock = clock or drawn_clock(self.world, self._rng)
        self.links.place(signer.peer, place or drawn_place(self._rng))
        node = kind(self, signer, clock, capability, speed, rules=rules, owner=owner, exposure_max=exposure_max)
        self.nodes[signer.peer] = node
        if start:
            node.start()
        return node

    # Who hears what.

    def answers(self, one: str, other: str) -> bool:
        """Whether two peers can talk now: the way is open in both directions, and a node is running."""
        node = self.nodes.get(other)
        return (node is None or node.up) and self.links.reaches(one, other) and self.links.reaches(other, one)

    def came(self, node: NodeModel) -> None:
        """A node started: those who watch it hear it again, the others find it."""
        self.links.bring_up(node.peer)
        self.found(node)
        self.world.after(OFFER_PUT_INTERVAL_S, self._put_again, node, node.starts)

    def found(self, node: NodeModel) -> None:
        """Who hears of a node that came, and when. A scenario with a DHT puts its own in here."""
        for gateway in self.gateways.values():
            self._tell(node, gateway)

    def _tell(self, node: NodeModel, gateway: GatewayModel) -> None:
        delay_s = self._rng.uniform(FOUND_S_MIN, FOUND_S_MAX)
        self.world.after(delay_s, self._find, node, gateway)

    def _find(self, node: NodeModel, gateway: GatewayModel) -> None:
        if node.up:
            gateway.watching.learn(node.offer, node.envelope)

    def _put_again(self, node: NodeModel, starts: int) -> None:
        """A running node signs its offer anew before the old one ends."""
        if node.up and node.starts == starts:
            node.changed()
            self.world.after(OFFER_PUT_INTERVAL_S, self._put_again, node, starts)

    def went(self, node: NodeModel, *, silently: bool) -> None:
        """A node stopped. `silently`: its watchers notice only that it says nothing more."""
        for peer in tuple(node.watchers):
            gateway = self.gateways[peer]
            if silently:
                gateway.watching.changed(node.peer)
            else:
                self.links.send(node.peer, peer, 60, gateway.watching.broke, node.peer)

    def tell_offer(self, node: NodeModel, gateway: str, offer: Offer, envelope: bytes) -> None:
        """Sends a node's offer to a gateway that watches it."""
        self.links.send(node.peer, gateway, len(envelope), self.gateways[gateway].watching.beat, offer, envelope)

    def _links_changed(self, peers: Iterable[str] | None) -> None:
        for gateway in self.gateways.values():
            for peer in tuple(gateway.watching.watched) if peers is None else peers:
                gateway.watching.changed(peer)

    # Ending.

    def ended(self, outcome: Outcome) -> None:
        """A demand ended."""
        self.world.note(f"{outcome.demand.number} {outcome.end.name} {outcome.node} {outcome.charge}")
        for call in self.on_outcome:
            call(outcome)

    def settle(self, seconds: float = 1200.0) -> None:
        """Lets everything that runs come to its end, and looks at the whole. Raises BrokenInvariant."""
        self.world.run(self.world.now + seconds)
        faults = invariants.at_the_end(self)
        if faults:
            raise BrokenInvariant("; ".join(faults))
