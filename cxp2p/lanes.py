"""What both sides remember of their lanes: chains of jobs of one gateway on one node, one job at a time. Pure.

A gateway keeps as many lanes open as it has jobs at once; a job that ends without a receipt ends its lane, and so does
a receipt that is not accepted as it is. What a gateway may owe is in `cxp2p.exposure`, what it agrees to while a job
runs in `cxp2p.vouchers`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cxp2p import protocols, vouchers
from cxp2p.errors import ReceiptInvalid
from cxp2p.exposure import Exposures, Owed
from cxp2p.receipts import HOURS, Calendar, Lane, charge_of, digest
from cxp2p.records import Capability, Countersign, Order, Receipt, Refusal, RefusalCode, Verdict, Voucher

GATEWAYS_MAX = 4096
CLOSED_LANES_MAX = 65_536  # all that may still be replayed, at 400 broken jobs a second
LANES_FREE_MAX = 64  # of one node: as many jobs as one asker has there at once, mostly
NODES_WITH_LANES_MAX = 1024


# The asker's side.


class FreeLanes:
    """Free lanes by node: one is out for each running job, and comes back with its receipt. Bounded."""

    def __init__(self, new_id: Callable[[], bytes]) -> None:
        self._new_id = new_id
        self._free: OrderedDict[str, list[Lane]] = OrderedDict()

    def take(self, node: str) -> Lane:
        """A lane to `node` that no job is using."""
        free = self._free.get(node)
        return free.pop() if free else self.open()

    def open(self) -> Lane:
        """A lane that its node has not seen yet."""
        return Lane(lane=self._new_id())

    def give_back(self, node: str, lane: Lane) -> None:
        """The lane's job is over, and both sides agree where it stands."""
        free = self._free.setdefault(node, [])
        self._free.move_to_end(node)
        if len(free) < LANES_FREE_MAX:
            free.append(lane)
        if len(self._free) > NODES_WITH_LANES_MAX:
            self._free.popitem(last=False)


# The node's side.


@dataclass(slots=True)
class NodeLane:
    """One lane as its node knows it. `open`: a job runs in it. `ended`: it takes no more, as a receipt is in dispute.

    `vouched`: what its last voucher says beyond `cum_charge`; `reserved`: what is set aside for the running job.
    """

    seq: int = -1
    head: bytes | None = None
    cum_charge: int = 0
    open: bool = False
    ended: bool = False
    reserved: int = 0
    vouched: int = 0
    replayable_until_ms: int = 0


class NodeLanes:
    """What a node remembers of its gateways: their lanes, and how much work they have not countersigned.

    `exposure_max` is in µcredits for each gateway. Bounded: the longest idle lane and gateway are forgotten first. A
    lane that is forgotten or broken is remembered as closed for as long as its last order could be sent once more:
    nobody gets a second answer, or a second receipt, for one order.
    """

    def __init__(self, node: str, exposure_max: int, calendar: Calendar = HOURS) -> None:
        self.node = node
        self.calendar = calendar
        self.exposures = Exposures(exposure_max)
        self._lanes: OrderedDict[str, OrderedDict[bytes, NodeLane]] = OrderedDict()
        self._closed: OrderedDict[tuple[str, bytes], int] = OrderedDict()  # -> until when, wall_ms

    @property
    def exposure_max(self) -> int:
        """µcredits that one gateway may owe."""
        return self.exposures.exposure_max

    def restore(self, gateway: str, key: bytes, lane: NodeLane) -> None:
        """A lane as it was before this node was started again. One in which a job ran is closed."""
        if lane.open:
            self._close(gateway, key, lane)
            return
        lanes = self._lanes.setdefault(gateway, OrderedDict())
        lanes[key] = lane
        self._forget_lanes(gateway, protocols.LANES_PER_GATEWAY_MAX)
        if len(self._lanes) > GATEWAYS_MAX:
            self._forget_gateway()

    def check(
        self, signer: str, asker: str, order: Order, commit: bytes, capability: Capability | None, wall_ms: int
    ) -> Refusal | None:
        """Why this order must be refused, or None. `signer` signed it, `asker` is at the other end of the stream."""
        fault = self._order_fault(signer, asker, order, commit, wall_ms)
        if fault:
            return _refusal(RefusalCode.ORDER_INVALID, fault)
        if capability is None or (capability.service, capability.model_digest) != (order.service, order.model_digest):
            why = f"{order.service} with model {order.model!r} of that digest is not served here"
            return _refusal(RefusalCode.MODEL_UNKNOWN, why)
        prices = capability.prices
        if order.prices.input < prices.input or order.prices.output < prices.output:
            return _refusal(
                RefusalCode.PRICE_TOO_LOW, f"the price is {prices.input} in, {prices.output} out per million"
            )
        if order.max_charge < charge_of(order.prices, order.max_in, order.max_out):
            return _refusal(RefusalCode.PRICE_TOO_LOW, "max_charge does not cover max_in and max_out")
        refused = self._lane_refusal(order, wall_ms)
        return refused or self.exposures.refusal(order.gateway, vouchers.reserve(order), wall_ms)

    def _order_fault(self, signer: str, asker: str, order: Order, commit: bytes, wall_ms: int) -> str:
        skew = protocols.CLOCK_SKEW_MS_MAX
        if order.node != self.node:
            return "the order is for another node"
        if not signer == asker == order.gateway:
            return "the order is not signed by the gateway that sent it"
        if order.request_commit != commit:
            return "the order is not about this request"
        if wall_ms > order.expires_at_ms + skew:
            return f"the order expired {wall_ms - order.expires_at_ms} ms ago; check both clocks"
        if order.expires_at_ms > wall_ms + protocols.ORDER_LIFE_MS + skew:
            return "the order expires too far in the future; check both clocks"
        if abs(order.epoch - self.calendar.epoch_of(wall_ms)) > 1:
            return f"the order's epoch is {order.epoch}, here it is {self.calendar.epoch_of(wall_ms)}"
        if order.max_out < 1:
            return "max_out must be at least 1"
        if order.resume_of is not None or order.offset is not None:
            return "this node does not resume other nodes' jobs"
        return ""

    def _lane_refusal(self, order: Order, wall_ms: int) -> Refusal | None:
        self._forget_closed(wall_ms)
        if (order.gateway, order.lane) in self._closed:
            return _refusal(RefusalCode.LANE_UNKNOWN, "this lane is closed: open a new one")
        if len(self._closed) >= CLOSED_LANES_MAX:
            return _refusal(RefusalCode.EXPOSURE, "too many lanes broke off here lately", retry_after_ms=30_000)
        lane = self._find(order)
        if lane is not None and lane.ended:
            return _refusal(RefusalCode.LANE_UNKNOWN, "a receipt of this lane is in dispute: open a new one")
        if lane is None:
            if order.seq != 0 or order.prev_receipt is not None:
                return _refusal(RefusalCode.LANE_UNKNOWN, "this lane is not known here: open a new one")
            lane = NodeLane()
        if lane.open or order.seq != lane.seq + 1:
            return _refusal(RefusalCode.ORDER_INVALID, f"seq {order.seq} is not the next in its lane: a replay")
        if order.prev_receipt != lane.head:
            return _refusal(RefusalCode.ORDER_INVALID, "prev_receipt is not the last receipt of the lane")
        if order.cum_authorised < lane.cum_charge + order.max_charge:
            return _refusal(RefusalCode.ORDER_INVALID, "cum_authorised does not cover this order")
        return None

    def exposure(self, gateway: str, wall_ms: int) -> int:
        """µcredits that `gateway` may owe: for running jobs, and for receipts that are not countersigned."""
        return self.exposures.exposure(gateway, wall_ms)

    def take(self, order: Order) -> None:
        """Opens the lane for an order that `check` let through: its seq can never be used again."""
        lanes = self._lanes.setdefault(order.gateway, OrderedDict())
        self._lanes.move_to_end(order.gateway)
        lane = lanes.setdefault(order.lane, NodeLane())
        lanes.move_to_end(order.lane)
        lane.seq, lane.open, lane.vouched = order.seq, True, 0
        lane.replayable_until_ms = replayable_until_ms(order)
        lane.reserved = vouchers.reserve(order)
        self.exposures.reserve(order.gateway, lane.reserved)
        self._forget_lanes(order.gateway, protocols.LANES_PER_GATEWAY_MAX)
        if len(self._lanes) > GATEWAYS_MAX:
            self._forget_gateway()

    def _forget_lanes(self, gateway: str, count_max: int) -> None:
        """The longest idle lane goes, if there are more than `count_max`; those with a running job stay."""
        lanes = self._lanes[gateway]
        idle = [key for key, lane in lanes.items() if not lane.open]
        for key in idle[: max(0, len(lanes) - count_max)]:
            self._close(gateway, key, lanes.pop(key))

    def _forget_gateway(self) -> None:
        for gateway, lanes in self._lanes.items():
            if not any(lane.open for lane in lanes.values()):
                self._forget_lanes(gateway, 0)
                del self._lanes[gateway]
                return

    def _close(self, gateway: str, key: bytes, lane: NodeLane) -> None:
        self._closed[gateway, key] = lane.replayable_until_ms

    def _forget_closed(self, wall_ms: int) -> None:
        """Orders live about equally long, so the first that was closed is about the first that may go."""
        while self._closed and next(iter(self._closed.values())) < wall_ms:
            self._closed.popitem(last=False)

    def cum_charge(self, order: Order) -> int:
        """What the lane of a taken order has cost before it."""
        return self._lane(order).cum_charge

    def vouched(self, order: Order) -> int:
        """What vouchers cover of a taken order."""
        return self._lane(order).vouched

    def check_voucher(self, order: Order, signer: str, voucher: Voucher) -> None:
        """Raises RemoteProtocolError, see `cxp2p.vouchers.check_voucher`."""
        lane = self._lane(order)
        vouchers.check_voucher(order, signer, voucher, lane.cum_charge + lane.vouched)

    def vouch(self, order: Order, voucher: Voucher) -> None:
        """A voucher that `check_voucher` let through covers a part of a taken order."""
        lane = self._find(order)
        if lane is not None and lane.open and lane.seq == order.seq:  # the job may have ended meanwhile
            lane.vouched = voucher.cum_amount - lane.cum_charge

    def may_hand_on(self, order: Order, in_units: int, before: int, after: int) -> bool:
        """Whether a running job may go from `before` units of output to `after` with the vouchers that came so far.

        A piece that is larger than the room for what is on its way still goes if no voucher is due.
        """
        lane = self._lane(order)
        if charge_of(order.prices, in_units, after) - lane.vouched <= lane.reserved:
            return True
        return lane.vouched >= vouchers.amount_due(order, before)

    def finish(self, order: Order, receipt: Receipt, receipt_envelope: bytes, wall_ms: int) -> None:
        """Records the receipt of a taken order: what vouchers do not cover is owed until it is countersigned."""
        lane = self._lane(order)
        lane.open, lane.head, lane.cum_charge = False, digest(receipt_envelope), receipt.cum_charge
        self.exposures.release(order.gateway, lane.reserved)
        if receipt.charge:
            owed = Owed(max(0, receipt.charge - lane.vouched), wall_ms)
            self.exposures.owe(order.gateway, digest(receipt_envelope), owed)

    def abandon(self, order: Order) -> None:
        """A taken order ended without a receipt, by this node's fault: its lane is closed for good."""
        lane = self._lanes[order.gateway].pop(order.lane)
        self.exposures.release(order.gateway, lane.reserved)
        self._close(order.gateway, order.lane, lane)

    def settle(
        self, order: Order, receipt: Receipt, receipt_envelope: bytes, signer: str, countersign: Countersign
    ) -> bytes | None:
        """Ends what is owed for a receipt that is agreed to; one that is not ends its lane.

        Returns the receipt whose dispute this makes up for, if it does. Raises ReceiptInvalid, see `check_countersign`.
        """
        check_countersign(receipt, receipt_envelope, signer, countersign)
        if countersign.verdict is not Verdict.ACCEPTED:
            lane = self._find(order)
            if lane is not None:
                lane.ended = True
        if countersign.verdict is Verdict.DISPUTED:
            self.exposures.disputed(order.gateway, countersign.receipt_hash)
            return None
        return self.exposures.agreed(order.gateway, countersign.receipt_hash)

    def _find(self, order: Order) -> NodeLane | None:
        lanes = self._lanes.get(order.gateway)
        return lanes.get(order.lane) if lanes else None

    def _lane(self, order: Order) -> NodeLane:
        return self._lanes[order.gateway][order.lane]


def replayable_until_ms(order: Order) -> int:
    """Until when somebody may send an order once more."""
    return order.expires_at_ms + protocols.CLOCK_SKEW_MS_MAX


def check_countersign(
    receipt: Receipt, receipt_envelope: bytes, signer: str, countersign: Countersign, vouched: int = 0
) -> None:
    """Raises ReceiptInvalid for a countersign of another gateway or receipt, or one that agrees to other numbers.

    `accepted` repeats the receipt's numbers. `adjusted` agrees to no more than they are, and to no less than `vouched`,
    the part of the charge that vouchers covered.
    """
    if signer != receipt.gateway or countersign.receipt_hash != digest(receipt_envelope):
        raise ReceiptInvalid("the countersign is not the gateway's word on this receipt", receipt_envelope)
    said = (countersign.in_units, countersign.out_units, countersign.charge)
    claimed = (receipt.in_units, receipt.out_units, receipt.charge)
    match countersign.verdict:
        case Verdict.ACCEPTED:
            if said != claimed:
                raise ReceiptInvalid(
                    f"the countersign accepts other numbers than the receipt's: {said}", receipt_envelope
                )
        case Verdict.ADJUSTED:
            if any(less > most for less, most in zip(said, claimed, strict=True)):
                raise ReceiptInvalid(f"the countersign agrees to more than was claimed: {said}", receipt_envelope)
            if countersign.charge < vouched:
                why = f"the countersign agrees to {countersign.charge}, vouchers to {vouched} before it"
                raise ReceiptInvalid(why, receipt_envelope)
        case Verdict.DISPUTED:
            if countersign.charge:
                raise ReceiptInvalid(f"the countersign disputes and charges {countersign.charge}", receipt_envelope)


def _refusal(code: RefusalCode, reason: str, retry_after_ms: int = 0) -> Refusal:
    return Refusal(code=code, reason=reason, retry_after_ms=retry_after_ms)
