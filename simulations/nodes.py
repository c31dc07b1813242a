"""A node in a world: the real admission, lanes and receipts in front of an engine that only takes time."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cxp2p import protocols, receipts
from cxp2p.errors import RemoteProtocolError
from cxp2p.identity import Kind
from cxp2p.lanes import NodeLanes
from cxp2p.records import (
    Capability,
    Countersign,
    Finish,
    Offer,
    Order,
    Receipt,
    Refusal,
    RefusalCode,
)
from cxp2p.wire import decode, encode
from cxp2p_node.admission import Desk, measure
from simulations import invariants
from simulations.claiming import Claiming
from simulations.clocks import Clock
from simulations.demands import Demand
from simulations.engines import Speed
from simulations.owing import Owing
from simulations.rules import REAL, Rules
from simulations.signing import Signer

if TYPE_CHECKING:
    from simulations.attempts import Attempt
    from simulations.town import Town

CHANGE_S_MIN = 0.05  # as in cxp2p_node.advertise
EXPOSURE_MAX = 5_000_000  # µcredits, the default of a node's settings
BYTES_PER_TOKEN = 60  # of an answer on the wire: a piece is a frame


@dataclass(slots=True, eq=False)
class Work:
    """One taken job. `genuine`: the answer is what the model would have said."""

    attempt: Attempt
    demand: Demand
    order: Order
    order_envelope: bytes
    t_accept_ms: int
    begun_at: float | None = None
    first_at: float | None = None
    ends_at: float = 0.0
    cached_units: int = 0
    event: int = 0
    running: bool = False
    over: bool = False
    genuine: bool = True
    receipt: Receipt | None = None
    receipt_envelope: bytes = b""

    def units_at(self, now: float) -> int:
        """How many tokens of the answer were made by then."""
        if self.first_at is None or self.ends_at <= self.first_at:
            return 0
        part = min(1.0, (now - self.first_at) / (self.ends_at - self.first_at))
        return int(part * min(self.demand.out_units, self.order.max_out))


class NodeModel:
    """One node. Methods that a liar would do differently are `offered`, `spend`, `account_for` and `answer`."""

    def __init__(
        self,
        town: Town,
        signer: Signer,
        clock: Clock,
        capability: Capability,
        speed: Speed | None = None,
        *,
        rules: Rules = REAL,
        owner: str = "",
        exposure_max: int = EXPOSURE_MAX,
        prefixes_max: int = 8,
    ) -> None:
        self.town, self.world, self.links = town, town.world, town.links
        self.signer, self.peer, self.clock = signer, signer.peer, clock
        self.capability, self.speed, self.rules, self.owner = capability, speed or Speed(), rules, owner
        self.exposure_max, self.prefixes_max = exposure_max, prefixes_max
        self.draining = False
        self.up = False
        self.starts = 0
        self.done = 0
        self.earned = 0
        self.owing = Owing()
        self.lanes = NodeLanes(self.peer, exposure_max)
        self.claiming = Claiming(self)
        self._sequence = 0
        self._signed_at = -1.0
        self._sign_due = False
        self.watchers: dict[str, None] = {}
        self._begin()

    def __repr__(self) -> str:
        return f"<NodeModel {self.peer[-6:]} {self.desk.running} running, {self.desk.queued} queued>"

    def _begin(self) -> None:
        """A process that starts knows of its lanes and of what it is owed, which are on disk, and of nothing else."""
        self.desk = Desk(slots=self.capability.slots, queue_max=self.capability.queue_max)
        self.works: dict[Attempt, Work] = {}
        self._queue: deque[Work] = deque()
        self._prefixes: OrderedDict[tuple[str, bytes], int] = OrderedDict()

    # Coming and going.

    def start(self) -> None:
        """The process starts, and is found sooner or later."""
        self.up = True
        self.starts += 1
        self._begin()
        self._sign()
        self.town.came(self)

    def crash(self, *, silently: bool = False) -> None:
        """The process ends at once. `silently`: so does its machine, and nobody is told that connections broke."""
        self.up = False
        self._sign_due = False
        works, self.works = self.works, {}
        for work in works.values():
            work.over = True
            self.lanes.abandon(work.order)
            self.world.cancel(work.event) if work.event else None
            if not silently:
                self.links.send(self.peer, work.order.gateway, 60, work.attempt.broke, "the connection broke")
        self.desk.running = self.desk.queued = 0
        self.town.went(self, silently=silently)

    def drain(self) -> None:
        """Takes no more jobs, and says so."""
        self.draining = True
        self.changed()

    # What it offers.

    def offered(self) -> Capability:
        """What is offered now, load included."""
        return replace(self.capability, load=self.desk.load())

    def changed(self) -> None:
        """Something in the offer is different: it is signed anew, but not too often."""
        self.world.touch(self)
        if self._sign_due or not self.up:
            return
        if self.world.now >= self._signed_at + CHANGE_S_MIN:
            self._sign()
        else:
            self._sign_due = True
            self.world.at(self._signed_at + CHANGE_S_MIN, self._sign_late)

    def _sign_late(self) -> None:
        if self._sign_due and self.up:
            self._sign()
        self._sign_due = False

    def _sign(self) -> None:
        wall_ms = self.clock.wall_ms()
        self._sequence = max(self._sequence + 1, wall_ms)
        self._signed_at = self.world.now
        self.offer = Offer(
            peer=self.peer,
            sequence=self._sequence,
            issued_at_ms=wall_ms,
            expires_at_ms=wall_ms + protocols.OFFER_LIFE_MS_MAX,
            addresses=(),
            agent="simulated",
            owner=self.owner,
            draining=self.draining,
            capabilities=(self.offered(),),
        )
        self.envelope = self.signer.seal(Kind.OFFER, encode(self.offer))
        for gateway in self.watchers:
            self.town.tell_offer(self, gateway, self.offer, self.envelope)

    # Jobs.

    def hear(self, attempt: Attempt, envelope: bytes, commit: bytes) -> None:
        """An Ask arrives: it is refused, or taken."""
        if not self.up:
            return
        taken = self._admit(attempt, envelope, commit)
        if isinstance(taken, Refusal):
            attempt.back.send(120, attempt.refused, taken)
            return
        self.lanes.take(taken.order)
        self.works[attempt] = taken
        self.desk.queued += 1
        self._queue.append(taken)
        attempt.back.send(30, attempt.accepted, max(0, self.desk.queued - 1))
        self._start_next()
        self.changed()

    def _admit(self, attempt: Attempt, envelope: bytes, commit: bytes) -> Work | Refusal:
        wall_ms = self.clock.wall_ms()
        try:
            opened = self.town.signing.open(Kind.ORDER, envelope)
            order = decode(Order, opened.body)
        except RemoteProtocolError as error:
            return Refusal(code=RefusalCode.ORDER_INVALID, reason=str(error)[:512], retry_after_ms=0)
        refusal = self.lanes.check(opened.peer, attempt.gateway.peer, order, commit, self.capability, wall_ms)
        if refusal is None:
            refusal = self.rules.decide(self.desk, ready=True, draining=self.draining)
        if refusal is not None:
            return refusal
        return Work(attempt, attempt.demand, order, envelope, wall_ms)

    def _start_next(self) -> None:
        while self._queue and self.desk.running < self.desk.slots:
            work = self._queue.popleft()
            if work.over:
                continue
            self.desk.queued -= 1
            self.desk.running += 1
            work.running = True
            work.begun_at = self.world.now
            prompt_s, output_s = self.spend(work)
            work.ends_at = self.world.now + prompt_s + output_s
            work.event = self.world.after(prompt_s, self._first_piece, work)

    def spend(self, work: Work) -> tuple[float, float]:
        """How long the prompt and the answer of a job take that begins now."""
        slower = 1.0 + self.speed.crowding * (self.desk.running - 1)
        demand = work.demand
        work.cached_units = self._cached(work.order.gateway, demand)
        fresh = demand.in_units - work.cached_units
        units = min(demand.out_units, work.order.max_out)
        return slower * fresh / self.speed.prompt_units_s, slower * units / self.speed.output_units_s

    def _cached(self, gateway: str, demand: Demand) -> int:
        """How much of the prompt is still in memory from an earlier job of the same gateway."""
        if not demand.prefix:
            return 0
        key = (gateway, demand.prefix)
        known = self._prefixes.pop(key, 0)
        self._prefixes[key] = demand.prefix_units
        if len(self._prefixes) > self.prefixes_max:
            self._prefixes.popitem(last=False)
        return min(known, demand.in_units)

    def _first_piece(self, work: Work) -> None:
        work.first_at = self.world.now
        work.attempt.back.send(BYTES_PER_TOKEN, work.attempt.first_piece)
        work.event = self.world.at(work.ends_at, self._finish, work)

    def _finish(self, work: Work) -> None:
        demand = work.demand
        finish = Finish.STOP if demand.out_units <= work.order.max_out else Finish.LENGTH
        self._end(work, finish, min(demand.out_units, work.order.max_out))

    def cancel(self, attempt: Attempt) -> None:
        """A Cancel arrives: the engine stops, and what was delivered is receipted."""
        work = self.works.get(attempt)
        if work is None:
            return
        self.world.cancel(work.event) if work.event else None
        self._end(work, Finish.CANCELLED, work.units_at(self.world.now))

    def _end(self, work: Work, finish: Finish, units: int) -> None:
        work.over, work.event = True, 0
        del self.works[work.attempt]
        if work.running:
            self.desk.running -= 1
        else:
            self.desk.queued -= 1
        if finish is not Finish.CANCELLED:
            begun, first = work.begun_at or 0.0, work.first_at or self.world.now
            measure(self.desk, (self.world.now - begun) * 1000, (first - begun) * 1000, units)
            self.done += 1
        self.answer(work, finish, units)
        self._start_next()
        self.changed()

    def made_for(self, attempt: Attempt) -> int:
        """How many tokens an attempt has had so far: what had arrived, if its connection breaks now."""
        work = self.works.get(attempt)
        return work.units_at(self.world.now) if work else 0

    def answer(self, work: Work, finish: Finish, units: int) -> None:
        """Sends what is left of the answer, and the receipt for all of it."""
        commit = output_commit(work.order, units)
        receipt = self.account_for(work, finish, units, commit)
        work.receipt = receipt
        work.receipt_envelope = self.signer.seal(Kind.RECEIPT, encode(receipt))
        self.lanes.finish(work.order, receipt, work.receipt_envelope, self.clock.wall_ms())
        name = receipts.digest(work.receipt_envelope)
        self.owing.owe(work.order.gateway, name, receipt.charge, self.world.now)
        if receipt.charge:
            self.claiming.wait_for(name, work)
        delivered = receipts.Delivered(units=units, commit=commit, cancelled=finish is Finish.CANCELLED)
        work.attempt.back.send(600 + BYTES_PER_TOKEN, work.attempt.receipted, work, delivered)

    def account_for(self, work: Work, finish: Finish, units: int, commit: bytes) -> Receipt:
        """The receipt for what was delivered."""
        order, wall_ms = work.order, self.clock.wall_ms()
        in_units = min(work.demand.in_units, order.max_in) if work.begun_at is not None else 0
        t_first_ms = wall_ms if work.first_at is None else wall_ms - round((self.world.now - work.first_at) * 1000)
        t_first_ms = max(work.t_accept_ms, t_first_ms)
        done = receipts.Done(
            owner=self.owner,
            runtime=self.capability.runtime,
            in_units=in_units,
            cached_units=min(work.cached_units, in_units),
            out_units=units,
            t_accept_ms=work.t_accept_ms,
            t_first_ms=t_first_ms,
            t_end_ms=max(t_first_ms, wall_ms),
            finish=finish,
            output_commit=commit,
        )
        return receipts.make_receipt(order, work.order_envelope, done, self.lanes.cum_charge(order))

    def settle(self, work: Work, envelope: bytes) -> None:
        """A Countersign arrives."""
        assert work.receipt is not None
        name = receipts.digest(work.receipt_envelope)
        if not self.up or not self.claiming.answered(name, work):
            return
        opened = self.town.signing.open(Kind.COUNTERSIGN, envelope)
        countersign = decode(Countersign, opened.body)
        self.lanes.settle(work.order, work.receipt, work.receipt_envelope, opened.peer, countersign)
        self.earned += countersign.charge
        self.owing.pay(work.order.gateway, name)
        self.world.touch(self)

    def faults(self) -> list[str]:
        """What must hold of a node after every event."""
        return invariants.of_node(self)


def output_commit(order: Order, units: int) -> bytes:
    """What stands for the commitment to an answer of so many tokens: both sides make the same from what they have."""
    return receipts.digest(order.order_id + units.to_bytes(8, "big"))
