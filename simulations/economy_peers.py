"""Nodes and gateways of an economy, and what each of them does when it is not honest.

What a peer says is made here; whether it is believed is decided by the real rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from heapq import heappush, heapreplace
from random import Random

from cxp2p import receipts
from cxp2p.directory import Directory, Via
from cxp2p.epochs import Entry, open_entry
from cxp2p.identity import Kind
from cxp2p.lanes import FreeLanes, NodeLanes
from cxp2p.receipts import Lane, Terms
from cxp2p.records import Capability, Countersign, Finish, Load, Offer, Order, Prices, Receipt, Service
from cxp2p.units import TEMPLATE_UNITS_MAX
from cxp2p.wire import encode
from simulations.signing import RealSigning, Signer, Signing

MODEL = "llama3.1:8b"
WEIGHTS = sha256(MODEL.encode()).digest()
CONTEXT_UNITS = 8_192
OUTPUT_UNITS_MAX = 1_024
OFFER_LIFE_MS = 15 * 60_000
BYTES_PER_UNIT = 4  # of a prompt, about
PREFILL_UNITS_PER_S = 1_500.0
ALWAYS = 1e12  # a node of an economy is there all the time; churn is another simulation's
PADDED_OUTPUT = 1.5


class NodeConduct(StrEnum):
    """What a node does."""

    HONEST = "honest"
    PADS_OUTPUT = "counts half as much output again"
    PADS_INPUT = "counts all the input that the order allows"
    CHEAP_MODEL = "runs a cheaper model than it says"
    GARBAGE = "answers with random tokens"
    SIGNS_TWICE = "signs two receipts for one seq"


class GatewayConduct(StrEnum):
    """What a gateway does."""

    HONEST = "honest"
    NEWCOMER = "honest, and comes when the others are known"
    SILENT = "never countersigns"
    FRESH = "never countersigns, and is new each time"
    OMITS = "leaves receipts out of its roots"
    TWO_ROOTS = "signs two roots for each hour"
    NEVER_PAYS = "countersigns, publishes, and does not pay"
    DISPUTES_DEAR = "disputes dear receipts, and agrees to twenty cheap ones for each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One job as a user wants it: what it really takes. `form`: the answer's form is checked before it is paid.

    `wanted`: by a user, who pays the gateway for it.
    """

    number: int
    in_units: int
    out_units: int
    form: bool = False
    wanted: bool = True

    @property
    def bytes(self) -> int:
        return self.in_units * BYTES_PER_UNIT


@dataclass(slots=True)
class Node:
    """A node: what it offers, what it remembers of its gateways, and what it has done.

    `work_done`: µcredits that its units were worth at its prices, paid or not. `ends`: when each running job ends.
    """

    signer: Signer
    lanes: NodeLanes
    prices: Prices
    slots: int
    units_per_s: float
    conduct: NodeConduct = NodeConduct.HONEST
    owner: str = ""
    work_done: int = 0
    sequence: int = 0
    ends: list[float] = field(default_factory=list)

    @property
    def peer(self) -> str:
        return self.signer.peer

    def capability(self, now: float) -> Capability:
        """What it offers now."""
        busy = sum(end > now for end in self.ends)
        load = Load(
            running=min(busy, self.slots),
            queued=0,
            first_piece_ms=400,
            units_per_s=round(self.units_per_s),
            loading_ms=0,
        )
        return Capability(
            service=Service.CHAT,
            model=MODEL,
            model_digest=WEIGHTS,
            runtime="simulated",
            context_units=CONTEXT_UNITS,
            output_units_max=OUTPUT_UNITS_MAX,
            prices=self.prices,
            slots=self.slots,
            queue_max=32,
            load=load,
        )

    def offer(self, now: float, wall_ms: int) -> tuple[Offer, bytes]:
        """Its newest offer, and the envelope."""
        self.sequence += 1
        offer = Offer(
            peer=self.peer,
            sequence=self.sequence,
            issued_at_ms=wall_ms,
            expires_at_ms=wall_ms + OFFER_LIFE_MS,
            addresses=(),
            agent="simulated",
            owner=self.owner,
            draining=False,
            capabilities=(self.capability(now),),
        )
        return offer, self.signer.seal(Kind.OFFER, encode(offer))

    def begin(self, request: Request, now: float) -> tuple[float, float]:
        """When the first piece and the end of a job come that begins now, behind those that are there already."""
        start = now
        if len(self.ends) >= self.slots:
            start = max(now, self.ends[0])
        first = start + request.in_units / PREFILL_UNITS_PER_S
        end = first + request.out_units / self.units_per_s
        if len(self.ends) >= self.slots:
            heapreplace(self.ends, end)
        else:
            heappush(self.ends, end)
        return first, end

    def receipt(self, work: Work, wall_ms: int, *, again: bool = False) -> tuple[Receipt, bytes]:
        """What it signs for a job that it took. `again`: a second one for the same seq, for more."""
        order, request = work.order, work.request
        in_units, out_units = request.in_units, request.out_units
        if self.conduct is NodeConduct.PADS_INPUT:
            in_units = order.max_in
        if self.conduct is NodeConduct.PADS_OUTPUT or again:
            out_units = min(order.max_out, round(out_units * PADDED_OUTPUT) + 1)
        t_first_ms = work.t_accept_ms + round(work.first_s * 1000)
        done = receipts.Done(
            owner=self.owner,
            runtime="simulated",
            in_units=in_units,
            cached_units=0,
            out_units=out_units,
            t_accept_ms=work.t_accept_ms,
            t_first_ms=t_first_ms,
            t_end_ms=max(wall_ms, t_first_ms),
            finish=Finish.STOP,
            output_commit=work.commit,
        )
        receipt = receipts.make_receipt(order, work.order_envelope, done, self.lanes.cum_charge(order))
        return receipt, self.signer.seal(Kind.RECEIPT, encode(receipt))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An order that a node took. `commit`: of the output, which both sides have seen."""

    user: str
    request: Request
    order: Order
    order_envelope: bytes
    lane: Lane
    t_accept_ms: int
    first_s: float

    @property
    def commit(self) -> bytes:
        return sha256(b"output" + self.order.order_id).digest()


@dataclass(slots=True)
class Gateway:
    """A gateway: which nodes it knows, and its lanes to them. `users`: whose jobs it asks for."""

    name: str
    signer: Signer
    directory: Directory
    lanes: FreeLanes
    users: tuple[str, ...]
    conduct: GatewayConduct = GatewayConduct.HONEST

    @property
    def peer(self) -> str:
        return self.signer.peer

    def learn(self, offer: Offer, envelope: bytes, wall_ms: int) -> None:
        """A node's own beat."""
        self.directory.learn(offer, offer.peer, envelope, Via.WATCH, wall_ms, told_by=offer.peer)
        self.directory.beat(offer.peer, ALWAYS)

    def order(
        self, node: str, capability: Capability, lane: Lane, request: Request, rng: Random, wall_ms: int
    ) -> tuple[Order, bytes]:
        """The next order of a lane, and its envelope."""
        terms = Terms(
            gateway=self.peer,
            node=node,
            capability=capability,
            request_commit=sha256(b"request" + request.number.to_bytes(8, "big")).digest(),
            max_in=min(request.bytes + TEMPLATE_UNITS_MAX, capability.context_units),
            max_out=min(capability.output_units_max, OUTPUT_UNITS_MAX),
            seed=rng.getrandbits(63),
        )
        order = receipts.make_order(terms, lane, rng.randbytes(16), wall_ms)
        return order, self.signer.seal(Kind.ORDER, encode(order))


def new_gateway(name: str, signer: Signer, users: tuple[str, ...], rng: Random, conduct: GatewayConduct) -> Gateway:
    """One that knows nobody yet."""
    return Gateway(name, signer, Directory(), FreeLanes(lambda: rng.randbytes(16)), users, conduct)


def entry_of(
    signing: Signing, receipt: Receipt, receipt_envelope: bytes, countersign: Countersign, countersign_envelope: bytes
) -> Entry:
    """A receipt and its countersign as an epoch holds them; real signatures are checked as a stranger would."""
    if isinstance(signing, RealSigning):
        return open_entry(receipt_envelope, countersign_envelope)
    return Entry(
        receipt=receipt,
        countersign=countersign,
        receipt_envelope=receipt_envelope,
        countersign_envelope=countersign_envelope,
    )
