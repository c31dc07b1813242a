"""Orders, receipts and countersigns: what each side must say, and what it must refuse to believe. Pure.

An order belongs to a lane: a chain of jobs of one gateway on one node, one at a time, in which `seq` rises by one and
each order names the receipt before it. What each side remembers of its lanes is in `cxp2p.lanes`. Money is in
µcredits, as integers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from hashlib import sha256
from typing import Final

from cxp2p import protocols
from cxp2p.errors import ReceiptInvalid
from cxp2p.records import Capability, Countersign, Finish, Order, Prices, Receipt, Verdict


def digest(data: bytes) -> bytes:
    """SHA-256: how orders, receipts and requests are named."""
    return sha256(data).digest()


@dataclass(frozen=True, slots=True)
class Calendar:
    """How long an epoch is, which must be the same for all peers of a network. Shorter ones are for trying out.

    What follows from it keeps its proportion: ten minutes of grace and a day to be late, in a network of hours.
    """

    epoch_ms: int = protocols.EPOCH_MS

    @property
    def grace_ms(self) -> int:
        """How long after its epoch a receipt still counts for it."""
        return self.epoch_ms * protocols.EPOCH_GRACE_MS // protocols.EPOCH_MS

    @property
    def late_ms(self) -> int:
        """How long after its epoch a receipt still counts at all."""
        return self.epoch_ms * protocols.EPOCHS_LATE_MAX

    def epoch_of(self, wall_ms: int) -> int:
        """The number of the epoch since 1970."""
        return wall_ms // self.epoch_ms

    def begins_at_ms(self, epoch: int) -> int:
        """The first moment of an epoch."""
        return epoch * self.epoch_ms

    def closes_at_ms(self, epoch: int) -> int:
        """From when on nothing more counts for an epoch."""
        return self.begins_at_ms(epoch + 1) + self.grace_ms

    def counts_for(self, epoch: int, at_ms: int) -> int | None:
        """The epoch for which a receipt of `epoch` counts that was countersigned at `at_ms`; None: it came too late.

        Its own until the end of the grace, then the first one that is still open, for as long as it may be late.
        """
        if at_ms >= self.begins_at_ms(epoch + 1) + self.late_ms:
            return None
        return max(epoch, self.epoch_of(max(0, at_ms - self.grace_ms)))


HOURS: Final = Calendar()


def request_commit(salt: bytes, request: bytes) -> bytes:
    """Commits to the request without telling it to whoever reads the receipt later."""
    return digest(salt + request)


def charge_of(prices: Prices, in_units: int, out_units: int) -> int:
    """µcredits for the units, rounded up once."""
    return -(-(in_units * prices.input + out_units * prices.output) // 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Where an asker stands in one lane: the next seq, the last receipt's digest, and the sum so far."""

    lane: bytes
    seq: int = 0
    head: bytes | None = None
    cum_charge: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an asker wants from one capability of one node, before it becomes an order."""

    gateway: str
    node: str
    capability: Capability
    request_commit: bytes
    max_in: int
    max_out: int
    seed: int


def make_order(terms: Terms, lane: Lane, order_id: bytes, wall_ms: int, calendar: Calendar = HOURS) -> Order:
    """The next order of `lane`, at the node's own prices."""
    capability = terms.capability
    max_charge = charge_of(capability.prices, terms.max_in, terms.max_out)
    return Order(
        order_id=order_id,
        gateway=terms.gateway,
        node=terms.node,
        lane=lane.lane,
        seq=lane.seq,
        epoch=calendar.epoch_of(wall_ms),
        service=capability.service,
        model=capability.model,
        model_digest=capability.model_digest,
        request_commit=terms.request_commit,
        max_in=terms.max_in,
        max_out=terms.max_out,
        prices=capability.prices,
        max_charge=max_charge,
        expires_at_ms=wall_ms + protocols.ORDER_LIFE_MS,
        seed=terms.seed,
        prev_receipt=lane.head,
        cum_authorised=lane.cum_charge + max_charge,
        resume_of=None,
        offset=None,
    )


def advance(lane: Lane, receipt_envelope: bytes, charge: int) -> Lane:
    """The lane after a countersigned receipt."""
    return replace(lane, seq=lane.seq + 1, head=digest(receipt_envelope), cum_charge=lane.cum_charge + charge)


REPEATED: Final = (
    "gateway",
    "node",
    "lane",
    "seq",
    "epoch",
    "service",
    "model_digest",
    "request_commit",
    "seed",
    "prev_receipt",
    "resume_of",
    "offset",
)
"""What a receipt repeats of its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a node did for an order: all that its receipt says beside the order and the price."""

    owner: str
    runtime: str
    in_units: int
    cached_units: int
    out_units: int
    t_accept_ms: int
    t_first_ms: int
    t_end_ms: int
    finish: Finish
    output_commit: bytes


def make_receipt(order: Order, order_envelope: bytes, done: Done, cum_charge: int) -> Receipt:
    """The receipt over what was done. `cum_charge`: what the lane of the order had cost before it."""
    charge = charge_owed(order.prices, done.finish, done.in_units, done.out_units)
    return Receipt(
        order_hash=digest(order_envelope),
        charge=charge,
        cum_charge=cum_charge + charge,
        **{name: getattr(order, name) for name in REPEATED},
        **{each.name: getattr(done, each.name) for each in fields(done)},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What the asker itself knows: what arrived, see `cxp2p.units.Output`, and whether it cancelled.

    `fault`: what is wrong with the answer itself, if the job demanded a form and the asker looked.
    """

    units: int
    commit: bytes
    cancelled: bool = False
    fault: str = ""


def check_about(order: Order, order_envelope: bytes, signer: str, receipt: Receipt, evidence: bytes) -> None:
    """Raises ReceiptInvalid, with the signed bytes as evidence, for a receipt that is not about this order at all.

    That is one of another signer, job, lane, request or model.
    """
    if signer != order.node:
        raise ReceiptInvalid("the receipt is not signed by the node that took the order", evidence)
    if receipt.order_hash != digest(order_envelope):
        raise ReceiptInvalid("the receipt's order_hash is not the order's", evidence)
    if name := other_field(order, receipt):
        raise ReceiptInvalid(f"the receipt's {name} is not the order's", evidence)


def other_field(order: Order, receipt: Receipt) -> str:
    """The first field that a receipt should repeat of its order, and does not; "" if there is none."""
    return next((name for name in REPEATED if getattr(receipt, name) != getattr(order, name)), "")


def contradiction(order: Order, receipt: Receipt) -> str:
    """How a receipt contradicts the order that it names by its hash, in words; "" if it does not.

    No node that reads its orders signs such a receipt, whatever it was sent: the two together convict it.
    """
    if name := other_field(order, receipt):
        return f"{name} is not the order's"
    owed = charge_owed(order.prices, receipt.finish, receipt.in_units, receipt.out_units)
    if receipt.charge != owed:
        return f"charge is {receipt.charge}, by the order's prices {owed}"
    if receipt.charge > order.max_charge:
        return f"charge is {receipt.charge}, the order allowed {order.max_charge}"
    if receipt.cum_charge > order.cum_authorised:
        return f"cum_charge is {receipt.cum_charge}, the order allowed {order.cum_authorised}"
    return _out_of_bounds(order, receipt)


def _out_of_bounds(order: Order, receipt: Receipt) -> str:
    if receipt.in_units > order.max_in:
        return f"in_units is {receipt.in_units}, the order allowed {order.max_in}"
    if receipt.out_units > order.max_out:
        return f"out_units is {receipt.out_units}, the order allowed {order.max_out}"
    if receipt.cached_units > receipt.in_units:
        return "cached_units is over in_units"
    if not receipt.t_accept_ms <= receipt.t_first_ms <= receipt.t_end_ms:
        return "times are not in order"
    return ""


def check_receipt(
    order: Order, order_envelope: bytes, lane: Lane, signer: str, receipt: Receipt, evidence: bytes, got: Delivered
) -> Countersign:
    """The asker's answer to a receipt: accepted, or disputed with its own count.

    Raises ReceiptInvalid, with the signed bytes as evidence, for a receipt that is not about this order at all.
    """
    check_about(order, order_envelope, signer, receipt, evidence)
    out_units = got.units
    in_units = min(receipt.in_units, order.max_in)
    owed = charge_owed(order.prices, receipt.finish, in_units, out_units)
    fault = _miscount(order, lane, receipt, got, owed)
    return Countersign(
        receipt_hash=digest(evidence),
        verdict=Verdict.DISPUTED if fault else Verdict.ACCEPTED,
        reason=fault,
        in_units=in_units,
        out_units=out_units,
        charge=0 if fault else owed,
    )


def charge_owed(prices: Prices, finish: Finish, in_units: int, out_units: int) -> int:
    """An error or a timeout costs nothing; everything else costs what was delivered."""
    return 0 if finish in (Finish.ERROR, Finish.TIMEOUT) else charge_of(prices, in_units, out_units)


def _miscount(order: Order, lane: Lane, receipt: Receipt, got: Delivered, owed: int) -> str:
    if receipt.out_units != got.units:
        return f"out_units is {receipt.out_units}, {got.units} arrived"
    if receipt.output_commit != got.commit:
        return "output_commit is not of what arrived"
    if fault := _out_of_bounds(order, receipt):
        return fault
    if receipt.charge != owed:
        return f"charge is {receipt.charge}, {owed} is owed"
    if receipt.cum_charge != lane.cum_charge + owed:
        return f"cum_charge is {receipt.cum_charge}, {lane.cum_charge + owed} is owed"
    if receipt.finish is Finish.CANCELLED and not got.cancelled:
        return "nobody cancelled"
    return got.fault
