"""What both sides remember of their lanes: chains of jobs of one gateway on one node, one job at a time. Pure.

A gateway keeps as many lanes open as it has jobs at once; a job that ends without a receipt ends its lane.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from cxp2p import protocols
from cxp2p.errors import ReceiptInvalid
from cxp2p.receipts import HOURS, Calendar, Lane, charge_of, digest
from cxp2p.records import Capability, Countersign, Order, Receipt, Refusal, RefusalCode, Verdict

GATEWAYS_MAX = 4096
CLOSED_LANES_MAX = 65_536  # all that may still be replayed, at 400 broken jobs a second
UNSETTLED_MAX = 1024  # receipts of one gateway: in the ten minutes until they are forgiven
UNSETTLED_FORGIVEN_MS = 600_000  # an asker that vanished may come back; its unpaid work stops counting after this
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
class _NodeLane:
    seq: int = -1
    head: bytes | None = None
    cum_charge: int = 0
    open: bool = False
    replayable_until_ms: int = 0


@dataclass(slots=True)
class _Account:
    lanes: OrderedDict[bytes, _NodeLane] = field(default_factory=OrderedDict)
    running_charge: int = 0
    unsettled: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # receipt hash -> charge, wall_ms


class NodeLanes:
    """What a node remembers of its gateways: their lanes, and how much work they have not countersigned.

    `exposure_max` is in µcredits for each gateway. Bounded: the longest idle lane and gateway are forgotten first. A
    lane that is forgotten or broken is remembered as closed for as long as its last order could be sent once more:
    nobody gets a second answer, or a second receipt, for one order.
    """

    def __init__(self, node: str, exposure_max: int, calendar: Calendar = HOURS) -> None:
        self.node = node
        self.calendar = calendar
        self.exposure_max = exposure_max
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._closed: OrderedDict[tuple[str, bytes], int] = OrderedDict()  # -> until when, wall_ms

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
        return self._lane_refusal(order, wall_ms) or self._exposure_refusal(order, wall_ms)

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
        account = self._accounts.get(order.gateway)
        lane = account.lanes.get(order.lane) if account else None
        if lane is None:
            if order.seq != 0 or order.prev_receipt is not None:
                return _refusal(RefusalCode.LANE_UNKNOWN, "this lane is not known here: open a new one")
            lane = _NodeLane()
        if lane.open or order.seq != lane.seq + 1:
            return _refusal(RefusalCode.ORDER_INVALID, f"seq {order.seq} is not the next in its lane: a replay")
        if order.prev_receipt != lane.head:
            return _refusal(RefusalCode.ORDER_INVALID, "prev_receipt is not the last receipt of the lane")
        if order.cum_authorised < lane.cum_charge + order.max_charge:
            return _refusal(RefusalCode.ORDER_INVALID, "cum_authorised does not cover this order")
        return None

    def _exposure_refusal(self, order: Order, wall_ms: int) -> Refusal | None:
        exposed = self.exposure(order.gateway, wall_ms)
        account = self._accounts.get(order.gateway)
        if account is not None and len(account.unsettled) >= UNSETTLED_MAX:
            why = f"{UNSETTLED_MAX} receipts are not countersigned yet"
            return _refusal(RefusalCode.EXPOSURE, why, retry_after_ms=5_000)
        if exposed + order.max_charge > self.exposure_max:
            why = f"{exposed} µcredits are not countersigned yet, the limit is {self.exposure_max}"
            return _refusal(RefusalCode.EXPOSURE, why, retry_after_ms=5_000)
        return None

    def exposure(self, gateway: str, wall_ms: int) -> int:
        """µcredits that `gateway` may owe: running jobs at their most, and receipts without a countersign."""
        account = self._accounts.get(gateway)
        if account is None:
            return 0
        for key, (_, since_ms) in list(account.unsettled.items()):
            if wall_ms - since_ms > UNSETTLED_FORGIVEN_MS:
                del account.unsettled[key]
        return account.running_charge + sum(charge for charge, _ in account.unsettled.values())

    def take(self, order: Order) -> None:
        """Opens the lane for an order that `check` let through: its seq can never be used again."""
        account = self._accounts.setdefault(order.gateway, _Account())
        self._accounts.move_to_end(order.gateway)
        lane = account.lanes.setdefault(order.lane, _NodeLane())
        account.lanes.move_to_end(order.lane)
        lane.seq, lane.open = order.seq, True
        lane.replayable_until_ms = order.expires_at_ms + protocols.CLOCK_SKEW_MS_MAX
        account.running_charge += order.max_charge
        self._forget_lanes(order.gateway, account, protocols.LANES_PER_GATEWAY_MAX)
        if len(self._accounts) > GATEWAYS_MAX:
            self._forget_gateway()

    def _forget_lanes(self, gateway: str, account: _Account, count_max: int) -> None:
        """The longest idle lane goes, if there are more than `count_max`; those with a running job stay."""
        idle = [key for key, lane in account.lanes.items() if not lane.open]
        for key in idle[: max(0, len(account.lanes) - count_max)]:
            self._close(gateway, key, account.lanes.pop(key))

    def _forget_gateway(self) -> None:
        for gateway, account in self._accounts.items():
            if not any(lane.open for lane in account.lanes.values()):
                self._forget_lanes(gateway, account, 0)
                del self._accounts[gateway]
                return

    def _close(self, gateway: str, key: bytes, lane: _NodeLane) -> None:
        self._closed[gateway, key] = lane.replayable_until_ms

    def _forget_closed(self, wall_ms: int) -> None:
        """Orders live about equally long, so the first that was closed is about the first that may go."""
        while self._closed and next(iter(self._closed.values())) < wall_ms:
            self._closed.popitem(last=False)

    def cum_charge(self, order: Order) -> int:
        """What the lane of a taken order has cost before it."""
        return self._accounts[order.gateway].lanes[order.lane].cum_charge

    def finish(self, order: Order, receipt: Receipt, receipt_envelope: bytes, wall_ms: int) -> None:
        """Records the receipt of a taken order; its charge counts as exposure until it is countersigned."""
        account = self._accounts[order.gateway]
        lane = account.lanes[order.lane]
        lane.open, lane.head, lane.cum_charge = False, digest(receipt_envelope), receipt.cum_charge
        account.running_charge -= order.max_charge
        if receipt.charge:
            account.unsettled[digest(receipt_envelope)] = (receipt.charge, wall_ms)

    def abandon(self, order: Order) -> None:
        """A taken order ended without a receipt, by this node's fault: its lane is closed for good."""
        account = self._accounts[order.gateway]
        account.running_charge -= order.max_charge
        self._close(order.gateway, order.lane, account.lanes.pop(order.lane))

    def settle(
        self, order: Order, receipt: Receipt, receipt_envelope: bytes, signer: str, countersign: Countersign
    ) -> None:
        """Ends the exposure of a receipt, if it is agreed to.

        Raises ReceiptInvalid for a countersign of another gateway or receipt, or one that agrees to other numbers.
        """
        if signer != order.gateway or countersign.receipt_hash != digest(receipt_envelope):
            raise ReceiptInvalid("the countersign is not the gateway's word on this receipt", receipt_envelope)
        if countersign.verdict is not Verdict.ACCEPTED:
            return
        said = (countersign.in_units, countersign.out_units, countersign.charge)
        if said != (receipt.in_units, receipt.out_units, receipt.charge):
            raise ReceiptInvalid(f"the countersign accepts other numbers than the receipt's: {said}", receipt_envelope)
        account = self._accounts.get(order.gateway)
        if account is not None:
            account.unsettled.pop(countersign.receipt_hash, None)


def _refusal(code: RefusalCode, reason: str, retry_after_ms: int = 0) -> Refusal:
    return Refusal(code=code, reason=reason, retry_after_ms=retry_after_ms)
