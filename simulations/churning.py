"""A day of ten thousand peers that come and go: their tables, their look-ups, and the nodes and gateways among them.

All peers are servers of the DHT. One model's nodes and the gateways that use it are simulated whole, on the real rules;
of all others only what they do to the DHT. What is sampled, and what is aggregated, is in docs/simulations.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cxp2p import protocols
from cxp2p.directory import Via
from cxp2p.net.discover import hint_key, hint_keys, shard_key
from cxp2p.net.rhythm import Rhythm
from cxp2p.records import Offer, Service
from simulations.engines import make_capability
from simulations.gateways import GatewayModel
from simulations.kademlia import OURS, Rules, key_of
from simulations.links import CITIES, LINES, ROUND_TRIP_MS, Access, Place
from simulations.nodes import NodeModel
from simulations.overlay import Overlay
from simulations.overlay_records import Records
from simulations.overlay_walks import Finds, TripS, Walks
from simulations.sessions import Floats, Ints, Sessions
from simulations.town import Town
from simulations.world import World

MODEL = "m"
RHYTHM = Rhythm()
STEP_S = 60.0
KEEP_UP_S = 600.0
GATEWAYS = 2  # one that is there all day, and one that is replaced by a newcomer every two hours
NEWCOMER_S = 7200.0
NODES = 120  # of the model, on the average, at once
LOOK_UP_S = 120.0  # of a gateway; in truth every 10 s, which finds newcomers sooner
OFFERS_MAX = 48  # offers that a look-up fetches, sampled of all that it names
PROBES = 10  # look-ups in each step that only measure
JOIN_S = 5.0  # from coming to the first announcement
ACCESS = (Access.FIBRE, Access.CABLE, Access.DATA_CENTRE)
ACCESS_PART = (0.5, 0.33, 0.17)
SILENT_PART = 0.5  # of those that leave: their machine is off; the others' says that nobody listens


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What may be different. `put_s`: how often a node puts its offer and announces itself anew."""

    rules: Rules = OURS
    put_s: float = protocols.OFFER_PUT_INTERVAL_S
    provider_life_s: float = OURS.provider_life_s
    exchange: bool = True
    shards: bool = True


@dataclass(slots=True)
class Measured:
    """What look-ups came to. Of each: when, whether it found what it wanted, rounds, questions, seconds."""

    at: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)

    def add(self, at: float, right: bool, finds: Finds, row: int, ended_at: float) -> None:
        """One more."""
        self.at.append(at)
        self.right.append(right)
        self.rounds.append(int(finds.rounds[row]))
        self.asked.append(int(finds.asked[row]))
        self.took_s.append(ended_at - at)


class Quiet(Town):
    """A town in which nobody hears of a node by itself."""

    def found(self, node: NodeModel) -> None:
        """Nobody."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """One look-up of a step: who wants it, where, when, and what for."""

    asker: int
    key: str
    at: float
    kind: str
    about: int = 0


class Day:
    """Everything that happens. Call `begin` once, then run the world."""

    def __init__(self, world: World, peers: int, seconds: float, policy: Policy) -> None:
        self.world, self.policy, self.seconds = world, policy, seconds
        self.town = Quiet(world)
        self.rng = np.random.Generator(np.random.PCG64(world.rng("overlay").getrandbits(64)))
        self.sessions = Sessions(peers, seconds, 1 + int(seconds // NEWCOMER_S) + 1, self.rng)
        count = self.sessions.count
        keys = [key_of(b"peer %d" % number) >> 192 for number in range(count)]
        self.overlay = Overlay(np.array(keys, np.uint64), self.sessions, self.rng)
        self.city = self.rng.integers(0, len(CITIES), count)
        self.access = self.rng.choice(len(ACCESS), count, p=ACCESS_PART)
        self.walks = Walks(self.overlay, self._trips_s(), self.rng.random(count) < SILENT_PART, policy.rules)
        self.records = Records(self.sessions, policy.provider_life_s, protocols.PROVIDERS_PER_KEY_MAX)
        self.serves = self.rng.random(count) < min(NODES, peers // 4) / peers
        self.gateways: list[tuple[int, GatewayModel]] = []
        self.nodes: dict[int, NodeModel] = {}
        self.next_put: dict[int, float] = {}
        self.began_at: dict[str, float] = {}
        self.first_node_s: list[float] = []
        self.offers, self.hints = Measured(), Measured()
        self.hints_there: list[float] = []
        self.dead_part: list[tuple[float, float]] = []
        self.questions = 0
        self._peer_of: dict[str, int] = {}
        self._table_faults: list[str] = []

    def _trips_s(self) -> TripS:
        way = np.array([[ROUND_TRIP_MS[one, other] for other in CITIES] for one in CITIES]) / 1000
        line = np.array([LINES[access].round_trip_ms for access in ACCESS]) / 1000

        def trip_s(one: Ints, other: Ints) -> Floats:
            base = way[self.city[one], self.city[other]] + line[self.access[one]] + line[self.access[other]]
            trips: Floats = base * (1.0 + self.rng.exponential(0.1, len(one)))
            return trips

        return trip_s

    def begin(self) -> None:
        """The network as it is when the day begins, and the first step."""
        self.overlay.meet(0.0)
        online = self.sessions.online(0.0)
        self.overlay.join(online, 0.0)
        self.overlay.keep_up(0.0, KEEP_UP_S, self._look_ups_s(), self.policy.rules.refresh_s)
        for peer in online[self.serves[online]]:
            self._serve(int(peer), float(self.rng.random() * self.policy.put_s))
        self._new_gateway()
        self._new_gateway()
        self.world.at(0.0, self._step)

    def _look_ups_s(self) -> float:
        """Of each peer: the refresh of a dozen buckets, and of a node the offer and four announcements."""
        return 11 / self.policy.rules.refresh_s + 5 / self.policy.put_s

    # Peers.

    def _new_gateway(self) -> None:
        number = len(self.gateways)
        gateway = self.town.add_gateway(self._place(number))
        self.gateways.append((number, gateway))
        self.began_at[gateway.peer] = self.world.now
        if number:
            self.world.after(NEWCOMER_S, self._new_gateway)

    def asking(self) -> tuple[tuple[int, GatewayModel], ...]:
        """The gateways that work now: the old one, and the newest."""
        return (self.gateways[0], self.gateways[-1])

    def _place(self, peer: int) -> Place:
        return Place(CITIES[self.city[peer]], ACCESS[self.access[peer]])

    def _serve(self, peer: int, wait_s: float) -> None:
        """A node of the model comes: it starts, puts its offer, and leaves when its session ends."""
        node = self.nodes.get(peer)
        if node is None:
            node = self.town.add_node(make_capability(MODEL), place=self._place(peer), start=False)
            self.nodes[peer] = node
            self._peer_of[node.peer] = peer
        came_at = max(self.world.now, float(self.sessions.came_at[peer]))
        self.world.at(came_at, node.start)
        self.next_put[peer] = came_at + wait_s
        if self.sessions.leaves_at[peer] < self.seconds:
            silently = bool(self.walks.silent[peer])
            self.world.at(max(came_at, float(self.sessions.leaves_at[peer])), self._leave, node, silently)

    def _leave(self, node: NodeModel, silently: bool) -> None:
        node.crash(silently=silently)
        self.next_put.pop(self._peer_of[node.peer], None)

    # One minute.

    def _step(self) -> None:
        now = self.world.now
        if now + STEP_S < self.seconds:
            self.world.after(STEP_S, self._step)
        moves = self.sessions.step(now, now + STEP_S)
        self.overlay.meet(now)
        self.overlay.join(moves.came, now)
        for peer in moves.came[self.serves[moves.came]]:
            self._serve(int(peer), JOIN_S)
        if now and now % KEEP_UP_S == 0:
            self.overlay.keep_up(now, KEEP_UP_S, self._look_ups_s(), self.policy.rules.refresh_s)
            part, self._table_faults = self.overlay.dead_part(), self.overlay.table_faults()
            self.dead_part.append((now, part))
        self._look_up(self._puts(now) + self._gateway_look_ups(now) + self._probes(now))
        if self.policy.exchange:
            self._exchange()
        self.world.touch(self)
        self.world.note(f"{now} {self.questions} {len(self.offers.at)} {sum(self.offers.right)}")

    def _puts(self, now: float) -> list[_Wish]:
        wishes = []
        for peer, at in list(self.next_put.items()):
            node = self.nodes[peer]
            if at >= now + STEP_S or not node.up:
                continue
            self.next_put[peer] = at + self.policy.put_s
            at = max(at, now)
            wishes.append(_Wish(peer, f"/cxp2p/{node.peer}", at, "put", peer))
            plain, shard = hint_keys(Service.CHAT, MODEL, node.peer)
            wishes += [_Wish(peer, key, at + 8.0, "announce", peer) for key in (plain, shard)]
        return wishes

    def _gateway_look_ups(self, now: float) -> list[_Wish]:
        if now % LOOK_UP_S:
            return []
        return [
            _Wish(number, hint_key(Service.CHAT, MODEL), now + 1.0, "hints", index)
            for index, (number, _) in enumerate(self.asking())
        ]

    def _probes(self, now: float) -> list[_Wish]:
        """Anybody looks for the offer of some node that is there for ten minutes at least."""
        settled = [peer for peer, node in self.nodes.items() if node.up and self.sessions.came_at[peer] < now - 600.0]
        if not settled:
            return []
        askers = self.rng.choice(self.sessions.online(now), PROBES)
        about = self.rng.choice(settled, PROBES)
        return [
            _Wish(int(asker), f"/cxp2p/{self.nodes[int(peer)].peer}", now, "probe", int(peer))
            for asker, peer in zip(askers, about, strict=True)
        ]

    def _look_up(self, wishes: Sequence[_Wish]) -> None:
        """Makes look-ups, and those that follow from them."""
        if not wishes:
            return
        askers = np.array([wish.asker for wish in wishes], np.int64)
        targets = np.array([key_of(wish.key.encode()) >> 192 for wish in wishes], np.uint64)
        begin = np.array([wish.at for wish in wishes])
        finds = self.walks.find(askers, targets, begin)
        heard, ended = self.walks.tell(finds, begin)
        self.questions += int(finds.asked.sum())
        named: dict[int, dict[int, None]] = {}
        named_at: dict[int, float] = {}
        more: list[_Wish] = []
        for row, wish in enumerate(wishes):
            end = float(ended[row])
            if wish.kind == "put":
                node = self.nodes[wish.about]
                node.changed()
                copies = self.records.put(wish.about, (node.offer, node.envelope), finds, heard, row, end)
                if not copies and wish.about in self.next_put:
                    self.next_put[wish.about] = end + 30.0
            elif wish.kind == "announce":
                self.records.announce(wish.key, wish.about, finds, heard, row, end)
            elif wish.kind == "probe":
                found = self.records.get(wish.about, finds, heard, row)
                fresh = found is not None and found[0].expires_at_ms > self.nodes[wish.about].clock.wall_ms()
                self.offers.add(wish.at, fresh, finds, row, end)
            elif wish.kind == "offer":
                found = self.records.get(wish.about >> 8, finds, heard, row)
                if found is not None:
                    self.world.at(end, self._learn, self.asking()[wish.about & 255][1], *found, Via.DHT)
            else:
                providers = self.records.providers_of(wish.key, finds, heard, row, end)
                if wish.kind == "hints":
                    there = [self.nodes[each].up for each in providers]
                    self.hints.add(wish.at, any(there), finds, row, end)
                    self.hints_there.append(float(np.mean(there)) if there else 0.0)
                    if self.policy.shards and len(providers) >= protocols.PROVIDERS_PER_KEY_MAX:
                        more += [
                            _Wish(wish.asker, shard_key(wish.key, shard), end, "shard", wish.about)
                            for shard in range(protocols.PROVIDER_SHARDS)
                        ]
                limited = dict.fromkeys(list(providers)[: protocols.PROVIDERS_PER_KEY_MAX])
                named.setdefault(wish.about, {}).update(limited)
                named_at[wish.about] = max(end, named_at.get(wish.about, 0.0))
        for index, peers in named.items():
            more += self._fetches(index, list(peers), named_at[index])
        self._look_up(more)

    def _fetches(self, index: int, named: list[int], at: float) -> list[_Wish]:
        """The offers that a gateway looks up after it heard names: of those that it does not hear already."""
        number, gateway = self.asking()[index]
        unheard = [
            peer
            for peer in named
            if (entry := gateway.directory.get(self.nodes[peer].peer)) is None or entry.alive_until <= at
        ]
        if len(unheard) > OFFERS_MAX:
            unheard = [int(peer) for peer in self.rng.choice(unheard, OFFERS_MAX, replace=False)]
        return [_Wish(number, f"/cxp2p/{self.nodes[peer].peer}", at, "offer", peer << 8 | index) for peer in unheard]

    # The exchange.

    def _exchange(self) -> None:
        """Each gateway hears offers of any peers, drawn from all that are not over; the others know them by now."""
        nodes = list(self.nodes.values())
        online = max(1, self.sessions.online(self.world.now).size)
        for _, gateway in self.asking():
            wall_ms = gateway.clock.wall_ms()
            fresh = [node for node in nodes if node.starts and node.offer.expires_at_ms > wall_ms]
            answers = RHYTHM.peers_asked * STEP_S / RHYTHM.exchange_s
            count = self.rng.poisson(answers * protocols.OFFERS_PER_ANSWER_MAX * len(fresh) / online)
            for place in self.rng.choice(len(fresh), min(count, len(fresh)), replace=False) if fresh else ():
                node = fresh[place]
                self.world.after(
                    float(self.rng.random() * STEP_S), self._learn, gateway, node.offer, node.envelope, Via.EXCHANGE
                )

    def _learn(self, gateway: GatewayModel, offer: Offer, envelope: bytes, via: Via) -> None:
        gateway.watching.learn(offer, envelope, via)
        began_at = self.began_at.get(gateway.peer)
        if began_at is not None and gateway.directory.candidates(
            Service.CHAT, MODEL, gateway.clock.wall_ms(), gateway.clock.now()
        ):
            self.first_node_s.append(self.world.now - began_at)
            del self.began_at[gateway.peer]

    def faults(self) -> list[str]:
        """What must hold after every step."""
        return self.records.faults() + self._table_faults
