"""What users want, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from cxp2p.protocols import VOUCHER_DISTANCE_MAX, VOUCHER_ROOM, VOUCHER_TOKENS
from cxp2p.records import Service

UNVOUCHED_UNITS_MAX = VOUCHER_TOKENS * (VOUCHER_DISTANCE_MAX + VOUCHER_ROOM)  # longer answers need vouchers, see below


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A job that a user wants done: about its tokens, not its words.

    `out_units` is what the answer will have, `max_out` what the user allows. `prefix`: how the prompt begins, if
    others begin alike, and `prefix_units` how long that part is. `patience_s`: after so long without a first piece the
    user leaves. Raises ValueError for an answer that would need vouchers: there are none in this world.
    """

    number: int
    user: str
    model: str
    in_units: int
    out_units: int
    max_out: int = 1024
    prefix: bytes = b""
    prefix_units: int = 0
    patience_s: float = 120.0
    service: Service = Service.CHAT

    def __post_init__(self) -> None:
        if min(self.out_units, self.max_out) > UNVOUCHED_UNITS_MAX:
            raise ValueError(f"max_out: {self.max_out} is over {UNVOUCHED_UNITS_MAX}, the most without vouchers")

    @property
    def request_bytes(self) -> int:
        """About: a token is four letters."""
        return 4 * self.in_units + 200


class End(Enum):
    """How a demand ended. NOBODY: no node was known. LEFT: the user gave up. CUT: after the first piece."""

    DONE = auto()
    NOBODY = auto()
    REFUSED = auto()
    FAILED = auto()
    CUT = auto()
    LEFT = auto()
    BROKE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a demand, at its gateway. Times are seconds since the demand came; None: never."""

    demand: Demand
    end: End
    came_at: float
    node: str = ""
    attempts: int = 0
    first_piece_s: float | None = None
    whole_s: float | None = None
    charge: int = 0
    genuine: bool = True
