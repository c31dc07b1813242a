"""What a node keeps of each order: the order, its last voucher, the receipt and the countersign, as they were signed.

Two things implement `Papers`: `papers.sqlite` (on disk) and `papers.memory` (its twin). Both pass the same contract
tests. What a call says is on disk when it returns; a call that is cancelled has been done all the same, or has not
begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from cxp2p.errors import CxError
from cxp2p.lanes import replayable_until_ms
from cxp2p.receipts import digest
from cxp2p.records import Order, Receipt, Verdict

OMITTED: Final = -1  # instead of an epoch
ASKED: Final = -2  # its gateway was asked in time, and no root counted it then
NEVER_MS: Final = 2**63 - 1
LANES_MAX: Final = 65_536  # that are remembered at a start: the newest
OWED_MAX: Final = 65_536  # receipts without a countersign that weigh at a start: the newest


class PapersError(CxError):
    """The node's papers cannot be kept, or not like that. What was asked is not done."""


class State(StrEnum):
    """What became of an order. Only `claimed` is owed and asked for; `disputed` and `refused` are held back."""

    OPEN = "open"  # its job runs
    LOST = "lost"  # it ended without a receipt, and costs nothing
    CLAIMED = "claimed"  # it has a receipt, and no countersign yet
    REFUSED = "refused"  # its gateway refused the claim for good
    SETTLED = "settled"
    ADJUSTED = "adjusted"  # settled, for less than the receipt says
    DISPUTED = "disputed"


STATE_OF_VERDICT: Final = {
    Verdict.ACCEPTED: State.SETTLED,
    Verdict.ADJUSTED: State.ADJUSTED,
    Verdict.DISPUTED: State.DISPUTED,
}
OVER: Final = frozenset({State.LOST, State.SETTLED, State.ADJUSTED, State.DISPUTED})
ANY: Final = frozenset(State)
HELD: Final = frozenset({State.CLAIMED, State.REFUSED, State.DISPUTED})
UNANSWERED: Final = frozenset({State.CLAIMED, State.REFUSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """One order and what was signed about it. `vouched`: what vouchers cover of `charge`; `agreed`: what is paid of it.

    `claim_at_ms`: not claimed before. `note`: why it was disputed or refused, in the gateway's words. `forgiven`: its
    dispute weighs no more. `counted_in`: the epoch whose root counts it; ASKED; or
    OMITTED: that is over, and none did.
    """

    gateway: str
    lane: bytes
    seq: int
    state: State
    service: str
    model: str
    taken_at_ms: int
    replayable_until_ms: int
    order_envelope: bytes
    voucher_envelope: bytes | None = None
    vouched: int = 0
    receipt_envelope: bytes | None = None
    receipt_hash: bytes | None = None
    ended_at_ms: int = 0
    finish: str = ""
    in_units: int = 0
    out_units: int = 0
    charge: int = 0
    cum_charge: int = 0
    countersign_envelope: bytes | None = None
    agreed: int = 0
    claim_at_ms: int = 0
    note: str = ""
    forgiven: bool = False
    counted_in: int | None = None


def taken(order: Order, envelope: bytes, wall_ms: int) -> Paper:
    """What is kept of an order before its job begins."""
    return Paper(
        gateway=order.gateway,
        lane=order.lane,
        seq=order.seq,
        state=State.OPEN,
        service=order.service.value,
        model=order.model,
        taken_at_ms=wall_ms,
        replayable_until_ms=replayable_until_ms(order),
        order_envelope=envelope,
    )


def receipted(receipt: Receipt, envelope: bytes, wall_ms: int) -> dict[str, object]:
    """What a receipt adds to the paper of its order. One that charges nothing needs no countersign."""
    return {
        "state": State.CLAIMED if receipt.charge else State.SETTLED,
        "receipt_envelope": envelope,
        "receipt_hash": digest(envelope),
        "ended_at_ms": wall_ms,
        "finish": receipt.finish.value,
        "in_units": receipt.in_units,
        "out_units": receipt.out_units,
        "charge": receipt.charge,
        "cum_charge": receipt.cum_charge,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a gateway said of a receipt: the countersign, and what it comes to."""

    state: State
    agreed: int
    note: str
    envelope: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneKept:
    """Where a lane stands by its last paper. `head`: the hash of its receipt, if it has one."""

    gateway: str
    lane: bytes
    seq: int
    state: State
    head: bytes | None
    cum_charge: int
    replayable_until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedKept:
    """A receipt that weighs. `amount`: what no voucher covers of it."""

    gateway: str
    receipt_hash: bytes
    amount: int
    since_ms: int
    disputed: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """What a node knows when it starts, the oldest first."""

    lanes: Sequence[LaneKept]
    owed: Sequence[OwedKept]


@dataclass(frozen=True, slots=True)
class Dropped:
    """What is kept no longer: how many papers, and which of them were still owed, as gateway and receipt hash."""

    count: int = 0
    owed: Sequence[tuple[str, bytes]] = ()


WRONGS_MAX: Final = 256
ROOTS_MAX: Final = 65_536  # of all gateways, half a KB each: seven years of one


@dataclass(frozen=True, slots=True)
class Sums:
    """Papers of one state: how many, what they charge, and what of it is paid."""

    count: int
    charge: int
    agreed: int


class Counted(StrEnum):
    """Where what was countersigned stands in the epochs of its gateways."""

    WAITING = "waiting"  # no root counts it yet
    OMITTED = "omitted"  # none did, and none may any more
    HELD = "held"  # counted, and audits may still come
    RELEASED = "released"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWrong:
    """What a gateway signed that it should not have. `data`: an `Evidence`, encoded."""

    id: str
    peer: str
    wrong: str
    says: str
    data: bytes
    at_ms: int


class EpochPapers(Protocol):
    """What a node keeps of the epochs of its gateways. Every call raises PapersError."""

    async def uncounted(self, gateway: str, before_ms: int, limit: int, offset: int = 0) -> Sequence[Paper]:
        """What a gateway countersigned of jobs that ended before, and no root counts yet; the oldest first."""

    async def count(self, paper: Paper, counted_in: int) -> None:
        """An epoch's root counts it; or ASKED, or OMITTED."""

    async def keep_root(self, gateway: str, epoch: int, envelope: bytes) -> bytes:
        """Keeps a root, and returns the one that is kept: the first. Only the newest ROOTS_MAX are."""

    async def root(self, gateway: str, epoch: int | None) -> bytes | None:
        """A kept root: of an epoch, or the newest."""

    async def accuse(self, wrong: KeptWrong) -> None:
        """Keeps evidence, once for each id; only the newest WRONGS_MAX."""

    async def wrongs(self) -> Sequence[KeptWrong]:
        """All evidence, the newest first."""

    async def counted(self, released_before: int) -> dict[Counted, Sums]:
        """What all that was countersigned comes to, by where it stands; epochs below a number are released."""


class Papers(EpochPapers, Protocol):
    """Where a node keeps its papers. Every call raises PapersError."""

    async def start(self, wall_ms: int) -> Kept:
        """Once, before the first order: jobs that ran when this program died are lost. Returns what is known."""

    async def take(self, paper: Paper) -> None:
        """A new order. Its seq is used from here on; a second paper for one is refused."""

    async def vouch(self, paper: Paper, envelope: bytes, vouched: int) -> None:
        """A newer voucher of a running job."""

    async def finish(self, paper: Paper, receipt: Receipt, envelope: bytes, wall_ms: int) -> None:
        """The receipt of a running job. There is never a second one."""

    async def lose(self, paper: Paper) -> None:
        """A running job ends without a receipt."""

    async def settle(self, paper: Paper, answer: Answer) -> bool:
        """The countersign of a receipt. False, and nothing is changed, if it has one already."""

    async def put_off(self, paper: Paper, claim_at_ms: int, note: str) -> None:
        """A claim was not answered now; at NEVER_MS: it is refused for good."""

    async def forgive(self, gateway: str, receipt_hash: bytes) -> None:
        """A dispute weighs no more."""

    async def claims(self, gateways: Sequence[str], wall_ms: int, limit: int) -> Sequence[Paper]:
        """What is claimed of these gateways now, the oldest first: receipts that are older than a countersign takes."""

    async def drop(self, before_ms: int, kept_max: int, step: int) -> Dropped:
        """Drops at most `step` papers that are older, or over `kept_max`: the oldest first, and what is owed last."""

    async def newest(self, limit: int, offset: int = 0, states: frozenset[State] = ANY) -> Sequence[Paper]:
        """The newest papers first, of those in `states`."""

    async def sums(self) -> dict[State, Sums]:
        """What all papers come to, by state."""
