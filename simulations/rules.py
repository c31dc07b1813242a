"""What simulated peers decide with: the library's own functions, by name, so that a world can be given another one.

A policy to compare is such another function, and so is a planted bug.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from cxp2p import ledger, receipts, routing
from cxp2p.records import Countersign, Order, Refusal
from cxp2p.routing import Candidate
from cxp2p_node import admission

Rank: TypeAlias = Callable[[Iterable[Candidate], Collection[str], Random, float], list[Candidate]]
Attract: TypeAlias = Callable[[Sequence[Candidate], bytes, float, int], list[Candidate]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Each field is a function of the library, with its signature; `hedge_s` is None: no gateway hedges today.

    `hedge_s`: how long a gateway waits for a first piece before it asks one more node for the same job.
    """

    rank: Rank = routing.rank
    attract: Attract = routing.attracted
    reserve: Callable[..., ledger.Change] = ledger.reserve
    post: Callable[..., ledger.Change] = ledger.post
    void: Callable[..., ledger.Change] = ledger.void
    make_order: Callable[..., Order] = receipts.make_order
    check_receipt: Callable[..., Countersign] = receipts.check_receipt
    decide: Callable[..., Refusal | None] = admission.decide
    hedge_s: float | None = None


REAL = Rules()
