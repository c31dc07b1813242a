"""One order on its way, as its gateway sees it: what comes back from the node calls one of these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxp2p.directory import Entry
from cxp2p.errors import CxError, PeerUnreachable
from cxp2p.net.attempt import refused_with
from cxp2p.receipts import Delivered, Lane
from cxp2p.records import Capability, Order, Refusal
from cxp2p.routing import Fault
from simulations.demands import Demand, End
from simulations.links import Way

if TYPE_CHECKING:
    from simulations.gateways import GatewayModel
    from simulations.nodes import Work


@dataclass(slots=True, eq=False)
class Run:
    """One demand on its way through the nodes. `live`: the attempts that may still bring an answer."""

    demand: Demand
    came_at: float
    tried: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    live: list[Attempt] = field(default_factory=list)
    first_at: float | None = None
    patience: int = 0
    hedge: int = 0
    ends: int = 0
    end: End = End.FAILED


@dataclass(slots=True, eq=False)
class Attempt:
    """One order. `way` leads to the node and `back` from it; `over`: nothing that comes is heeded any more.

    `arrived_units`: what was there when it ended without a receipt; `countersign`: what was answered to the receipt.
    """

    number: int
    gateway: GatewayModel
    run: Run
    demand: Demand
    node: str
    entry: Entry
    capability: Capability
    lane: Lane
    order: Order
    envelope: bytes
    commit: bytes
    way: Way
    back: Way
    sent_at: float
    hold_id: str = ""
    first_at: float | None = None
    cancelled: bool = False
    over: bool = False
    settled: bool = False
    voided: bool = False
    charge: int = 0
    genuine: bool = True
    timer: int = 0
    arrived_units: int = 0
    countersign: bytes = b""

    def accepted(self, queued: int) -> None:
        """The node took the job; `queued` are ahead of it."""

    def refused(self, refusal: Refusal) -> None:
        """The node said no."""
        if not self.over:
            self.gateway.attempt_refused(self, refused_with(refusal))

    def first_piece(self) -> None:
        """The answer begins."""
        if not self.over and not self.cancelled:
            self.gateway.attempt_began(self)

    def receipted(self, work: Work, delivered: Delivered) -> None:
        """The answer is whole, and here is the receipt."""
        if not self.over:
            self.gateway.attempt_receipted(self, work, delivered)

    def failed(self, error: CxError) -> None:
        """The node took the job and says that it cannot finish it."""
        if not self.over:
            self.gateway.attempt_failed(self, error)

    def broke(self, why: str) -> None:
        """The connection to the node is gone."""
        if not self.over:
            self.gateway.attempt_failed(self, PeerUnreachable(why))
