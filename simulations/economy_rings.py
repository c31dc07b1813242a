"""A gateway and a node of one owner, who order from each other what nobody needs, and sign for all of it."""

from __future__ import annotations

from hashlib import sha256

from cxp2p import receipts
from cxp2p.epochs import Entry
from cxp2p.identity import Kind
from cxp2p.lanes import NodeLanes
from cxp2p.receipts import HOURS, Delivered, Lane, Terms, advance, check_receipt
from cxp2p.records import Capability, Finish, Load, Order, Prices, Receipt, Service, Verdict
from cxp2p.rewards import Asker
from cxp2p.wire import encode
from simulations.economy_peers import MODEL, WEIGHTS, entry_of
from simulations.signing import Signing

EXPOSURE_MAX = 2**62  # they trust each other


class SelfDealers:
    """One order an hour of `out_units` at `price`; nothing is computed for it. The user is brought by the owner too.

    `charged`: what they paid themselves so far, and what comes back of it is in the payouts, under `owner`.
    """

    def __init__(self, name: str, signing: Signing, out_units: int, price: int) -> None:
        self.owner = name
        self.charged = 0
        self._signing, self._out_units, self._price = signing, out_units, price
        self._gateway = signing.signer(f"{name} gateway".encode().ljust(32, b".")[:32])
        self._node = signing.signer(f"{name} node".encode().ljust(32, b".")[:32])
        self._lanes = NodeLanes(self._node.peer, EXPOSURE_MAX)
        self._lane = Lane(lane=sha256(name.encode()).digest()[:16])

    @property
    def gateway(self) -> str:
        """Their gateway's id."""
        return self._gateway.peer

    def hour(self, epoch: int) -> tuple[list[Entry], dict[bytes, Asker]]:
        """The receipts of an hour, and who asked: all of them hold by every rule."""
        wall_ms = HOURS.begins_at_ms(epoch)
        order = self._order(wall_ms)
        order_envelope = self._gateway.seal(Kind.ORDER, encode(order))
        refusal = self._lanes.check(
            self._gateway.peer, self._gateway.peer, order, order.request_commit, self._capability(), wall_ms
        )
        assert refusal is None, refusal
        self._lanes.take(order)
        receipt = self._receipt(order, order_envelope, wall_ms)
        envelope = self._node.seal(Kind.RECEIPT, encode(receipt))
        self._lanes.finish(order, receipt, envelope, wall_ms)
        got = Delivered(units=self._out_units, commit=receipt.output_commit)
        agreed = check_receipt(order, order_envelope, self._lane, self._node.peer, receipt, envelope, got)
        assert agreed.verdict is Verdict.ACCEPTED, agreed.reason
        self._lanes.settle(order, receipt, envelope, self._gateway.peer, agreed)
        self._lane = advance(self._lane, envelope, agreed.charge)
        self.charged += agreed.charge
        sealed = self._gateway.seal(Kind.COUNTERSIGN, encode(agreed))
        entry = entry_of(self._signing, receipt, envelope, agreed, sealed)
        return [entry], {agreed.receipt_hash: Asker(f"{self.owner}'s other name", self.owner)}

    def _capability(self) -> Capability:
        return Capability(
            service=Service.CHAT,
            model=MODEL,
            model_digest=WEIGHTS,
            runtime="none",
            context_units=2**31 - 1,
            output_units_max=2**31 - 1,
            prices=Prices(input=0, output=self._price),
            slots=1,
            queue_max=0,
            load=Load(running=0, queued=0, first_piece_ms=1, units_per_s=1, loading_ms=0),
        )

    def _order(self, wall_ms: int) -> Order:
        terms = Terms(
            gateway=self._gateway.peer,
            node=self._node.peer,
            capability=self._capability(),
            request_commit=sha256(b"nothing").digest(),
            max_in=1,
            max_out=self._out_units,
            seed=0,
        )
        order_id = sha256(f"{self.owner} {wall_ms}".encode()).digest()[:16]
        return receipts.make_order(terms, self._lane, order_id, wall_ms)

    def _receipt(self, order: Order, order_envelope: bytes, wall_ms: int) -> Receipt:
        done = receipts.Done(
            owner=self.owner,
            runtime="none",
            in_units=1,
            cached_units=0,
            out_units=self._out_units,
            t_accept_ms=wall_ms,
            t_first_ms=wall_ms,
            t_end_ms=wall_ms,
            finish=Finish.STOP,
            output_commit=sha256(b"nothing either").digest(),
        )
        return receipts.make_receipt(order, order_envelope, done, self._lanes.cum_charge(order))
