"""What is asked of the kept orders when a node claims one: what became of it, and to settle it late."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cxp2p import ledger
from cxp2p.ledger import NETWORK, HoldState
from cxp2p_gateway.store import Store, node_account
from cxp2p_gateway.store.rows import Generation, KeptEvidence, SentOrder
from cxp2p_gateway.store.tables import Tables

DAY_MS: Final = 86_400_000
EVIDENCE_MAX: Final = 10_000  # in all, about 2 KB each; the oldest go
EVIDENCE_PER_PEER_MAX: Final = 16  # of each kind: the first ones tell as much as all of them
EVIDENCE_SHOWN_MAX: Final = 1000  # in one answer


@dataclass(frozen=True, slots=True)
class Claimed:
    """What is kept of an order. `is_running`: its hold is open. `request`: what its client was given as the id."""

    generation: Generation | None
    sent: SentOrder | None
    is_running: bool
    request: str


class LateLimit(Exception):
    """A node was paid as much for late settlements as it may be in a day."""


class ClaimBooks:
    """Claims on a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def claimed(self, order_id: str) -> Claimed:
        """What is kept of an order."""

        def look(tables: Tables) -> Claimed:
            hold = tables.hold(order_id)
            is_running = hold is not None and hold.state is HoldState.OPEN
            request = "" if hold is None else hold.request
            return Claimed(tables.generation(order_id), tables.order(order_id), is_running, request)

        return await self._store.read(look)

    async def settle_late(self, generation: Generation, late_max: int) -> Generation:
        """Pays a node out of the network's account for an order whose hold is void, once; returns what stands.

        Raises LateLimit if the node has had `late_max` µcredits that way in a day.
        """
        at_ms = self._store.wall_ms()

        def act(tables: Tables) -> Generation:
            known = tables.generation(generation.order_id)
            if known is not None:
                return known
            if generation.charge:
                if tables.late_charge(generation.node, at_ms - DAY_MS) + generation.charge > late_max:
                    raise LateLimit
                to, name = node_account(generation.node), f"late:{generation.order_id}"
                tables.write(ledger.transfer(tables, name, NETWORK, to, generation.charge), at_ms)
            self._store.keep(tables, generation)
            tables.drop_order(generation.order_id)
            return generation

        return await self._store.do(act)

    async def accuse(self, peer: str, wrong: str, says: str, data: bytes) -> bool:
        """Keeps evidence, unless there is enough of its kind about the peer. True if it was added."""
        kept = KeptEvidence(
            id=sha256(data).hexdigest(), peer=peer, wrong=wrong, says=says, data=data, at_ms=self._store.wall_ms()
        )

        def act(tables: Tables) -> bool:
            if tables.evidence_count(peer, wrong) >= EVIDENCE_PER_PEER_MAX:
                return False
            if not tables.add_evidence(kept):
                return False
            tables.forget_evidence(EVIDENCE_MAX)
            return True

        return await self._store.do(act)

    async def evidence(self, limit: int = EVIDENCE_SHOWN_MAX, offset: int = 0) -> tuple[KeptEvidence, ...]:
        """What is kept, newest first; at most EVIDENCE_SHOWN_MAX."""
        return await self._store.read(lambda tables: tables.evidence(min(limit, EVIDENCE_SHOWN_MAX), offset))

    async def forget_orders(self, age_ms: int, kept_max: int, step: int) -> int:
        """Drops orders that nobody can claim any more, and those beyond a number; at most `step`, says how many."""
        before_ms = self._store.wall_ms() - age_ms
        return await self._store.do(lambda tables: tables.forget_orders(before_ms, kept_max, step))
